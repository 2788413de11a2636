package web

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"carrel/hub"
	"carrel/internal/httpx"
)

type spawnView struct {
	Name, Owner, StartURL, HomeURL string
	Next, NextPage                 string // where to go on to, and how that reads
	Fault, Reason, Remedy          string
	Failed                         bool
	Log                            []string
	Profiles                       []profileView
}

func (w *Web) ownSpawn(rw http.ResponseWriter, r *http.Request, v visitor) error {
	redirect(rw, r, w.path("spawn/"+v.User.String()), http.StatusFound)
	return nil
}

// spawnPage offers a start, with what went wrong the last time; what runs already is opened.
func (w *Web) spawnPage(rw http.ResponseWriter, r *http.Request, v visitor) error {
	key, err := w.target(r, v)
	if err != nil {
		return err
	}
	s, err := w.cfg.Servers.Server(r.Context(), key)
	if err != nil {
		return err
	}
	next := r.URL.Query().Get("next")
	switch {
	case s.Phase == hub.Ready || s.Phase == hub.Paused:
		redirect(rw, r, w.destination(v, s, next), http.StatusFound)
		return nil
	case s.Coming():
		redirect(rw, r, w.pendingURL(key, next), http.StatusFound)
		return nil
	}
	return w.showSpawn(rw, r, v, s, http.StatusOK, spawnView{Next: next})
}

func (w *Web) showSpawn(rw http.ResponseWriter, r *http.Request, v visitor, s hub.Server, status int, view spawnView) error {
	owner, err := w.cfg.Users.User(r.Context(), s.Key.User)
	if err != nil && hub.KindOf(err) == hub.NotFound {
		return &hub.Error{Kind: hub.NotFound, Op: "show start page", Message: "nobody of this name has signed in here yet", Remedy: "check the address, or go to your servers"}
	}
	if err != nil {
		return err
	}
	prefix := w.cfg.Origins.ServerPath(s.Key)
	view.Next = hub.LocalPath(view.Next, prefix, "")
	if page, err := url.PathUnescape(strings.TrimPrefix(view.Next, prefix)); err == nil {
		view.NextPage = plain(page)
	}
	view.Name, view.StartURL, view.HomeURL = name(s.Key, v), w.path("spawn/"+keyPath(s.Key)), w.path("home")
	if s.Key.User != v.User {
		view.Owner = s.Key.User.String()
	}
	view.Profiles, view.Failed, view.Reason, view.Log = w.profilesOf(owner, s.Profile), s.Phase == hub.Failed, sentence(s.Reason), logTail(s.LogTail)
	if view.Failed {
		view.Remedy = sentence(w.told(r.Context(), s.Key).Remedy)
	}
	return w.render(rw, status, "spawn", v.frame("Start "+view.Name, "home"), view)
}

// told is the newest step of a server's last start that is known here without waiting.
func (w *Web) told(ctx context.Context, key hub.ServerKey) hub.Progress {
	ctx, cancel := context.WithCancel(ctx)
	cancel() // what is there is yielded first, and no more is waited for
	var last hub.Progress
	for p := range w.cfg.Servers.Progress(ctx, key) {
		last = p
	}
	return last
}

// destination is where a browser goes once the server is ready: the page that was asked for, or
// the profile's first. An administrator who may not open it goes back to the administration.
func (w *Web) destination(v visitor, s hub.Server, next string) string {
	o := w.cfg.Origins
	if s.Key.User != v.User && !o.AdminAccess(w.cfg.Servers.Policy().AdminAccess) {
		return w.path("admin")
	}
	base := o.ServerPath(s.Key)
	first := hub.LocalPath(base+strings.TrimPrefix(w.profile(s.Profile).DefaultURL, "/"), base, base)
	return o.ServerOrigin(s.Key.User) + hub.LocalPath(next, base, first)
}

// withNext adds the page to go on to, if it is one of the server's.
func (w *Web) withNext(page string, key hub.ServerKey, next string) string {
	page = w.path(page + "/" + keyPath(key))
	if next = hub.LocalPath(next, w.cfg.Origins.ServerPath(key), ""); next != "" {
		page += "?next=" + url.QueryEscape(next)
	}
	return page
}

func (w *Web) pendingURL(key hub.ServerKey, next string) string {
	return w.withNext("spawn-pending", key, next)
}

// spawn starts a server; what is wrong with the request is told beside the form.
func (w *Web) spawn(rw http.ResponseWriter, r *http.Request, v visitor) error {
	key, err := w.target(r, v)
	if err != nil {
		return err
	}
	next := r.PostFormValue("next")
	_, err = w.cfg.Servers.Start(r.Context(), hub.StartRequest{Key: key, By: v.Principal, Profile: r.PostFormValue("profile"), SafeStart: r.PostFormValue("safe") == "1"})
	if err == nil {
		redirect(rw, r, w.pendingURL(key, next), http.StatusSeeOther)
		return nil
	}
	switch hub.KindOf(err) {
	case hub.Invalid, hub.Forbidden, hub.TooMany, hub.Conflict:
		s, lost := w.cfg.Servers.Server(r.Context(), key)
		if lost != nil {
			return err
		}
		message, remedy := hub.Public(err)
		return w.showSpawn(rw, r, v, s, httpx.StatusOf(err), spawnView{Next: next, Fault: sentence(message) + " " + sentence(remedy)})
	default:
		return err
	}
}
