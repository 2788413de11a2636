package web

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"carrel/hub"
)

// serverCard is one server on the home page.
type serverCard struct {
	ID, Title, Version, Say string
	phase
	Profile, Uptime, Reason                         string
	OpenURL, PendingURL, StopURL, SpawnURL, KeepURL string
	Running, Pending, Stopping, Startable, Failed   bool
	Log                                             []string
	Cull                                            *cullView
	Usage                                           *usageView
	Choices                                         []profileView // to choose from in the card
	Last                                            *profileView  // or what is started again
	More                                            bool          // there are others on the start page
}

type homeView struct {
	Servers      []serverCard
	MayAdd       bool
	AddURL       string
	Added, Fault string // what was typed as a name, and what is wrong with it
}

// card tells of one of the visitor's own servers.
func (w *Web) card(s hub.Server, v visitor) serverCard {
	p := keyPath(s.Key)
	coming := s.Coming()
	if coming && s.Phase == hub.Stopping {
		s.Phase = hub.Starting // it ends an earlier server first, which is nothing to its owner
	}
	c := serverCard{
		ID: "server-" + s.Key.Label(), Title: name(s.Key, v), phase: phases[s.Phase], Profile: profileTitle(w.profile(s.Profile)),
		OpenURL: w.destination(v, s, ""), PendingURL: w.path("spawn-pending/" + p), StopURL: w.path("stop/" + p), SpawnURL: w.path("spawn/" + p), KeepURL: w.path("keep/" + p),
		Running: s.Phase == hub.Ready || s.Phase == hub.Paused, Pending: coming,
		Stopping: s.Phase == hub.Stopping, Failed: s.Phase == hub.Failed, Startable: !s.Phase.Active(),
	}
	if s.Key.Server.String() == "" {
		c.Title = "My server"
	}
	c.Say = c.Title + " is " + c.Word
	if c.Running {
		c.Uptime, c.Cull, c.Usage = ago(s.Started), w.cullOf(s, v.Groups), w.usageOf(s)
	}
	if c.Startable {
		c.Reason, c.Log = sentence(s.Reason), logTail(s.LogTail)
		c.offer(w.profilesOf(v.user, s.Profile), s)
	}
	c.Version = fmt.Sprintf("%s %d %t %t", s.Phase, s.Generation, c.Cull != nil, c.Usage != nil)
	return c
}

// offer says how the card starts its server: the default one by a choice of profiles, the others
// as they were.
func (c *serverCard) offer(profiles []profileView, s hub.Server) {
	if s.Key.Server.String() == "" && s.Phase == hub.Absent && len(profiles) > 1 {
		c.Choices = profiles
		return
	}
	for _, p := range profiles {
		if p.Chosen {
			c.Last = &p
		}
	}
	c.More = len(profiles) > 1
}

// own lists a person's servers, the default one first, whether it ever ran or not.
func (w *Web) own(r *http.Request, v visitor) ([]hub.Server, error) {
	servers := []hub.Server{{Key: hub.ServerKey{User: v.User}, Phase: hub.Absent}}
	for s, err := range w.cfg.Servers.Servers(r.Context()) {
		switch {
		case err != nil:
			return nil, err
		case s.Key.User != v.User:
		case s.Key.Server.String() == "":
			servers[0] = s
		default:
			servers = append(servers, s)
		}
	}
	slices.SortFunc(servers[1:], func(a, b hub.Server) int { return strings.Compare(a.Key.Server.String(), b.Key.Server.String()) })
	return servers, nil
}

func (w *Web) home(rw http.ResponseWriter, r *http.Request, v visitor) error {
	return w.showHome(rw, r, v, http.StatusOK, homeView{})
}

func (w *Web) showHome(rw http.ResponseWriter, r *http.Request, v visitor, status int, view homeView) error {
	servers, err := w.own(r, v)
	if err != nil {
		return err
	}
	view.MayAdd, view.AddURL = w.cfg.Servers.Policy().MaxPerUser != 1, w.path("servers")
	f := v.frame("My servers", "home")
	f.Script = "home.js"
	for _, s := range servers {
		view.Servers = append(view.Servers, w.card(s, v))
		if s.Phase.Pending() {
			f.Refresh = "3"
		}
	}
	return w.render(rw, status, "home", f, view)
}

// addServer leads to the start page of a new server, or says what is wrong with its name.
func (w *Web) addServer(rw http.ResponseWriter, r *http.Request, v visitor) error {
	typed := r.PostFormValue("server")
	server, err := hub.ParseServerName(strings.TrimSpace(typed))
	if err == nil && server.String() == "" {
		err = &hub.Error{Kind: hub.Invalid, Op: "add server", Field: "server", Message: "this server needs a name", Remedy: "type one, such as gpu"}
	}
	if err != nil {
		message, remedy := hub.Public(err)
		return w.showHome(rw, r, v, http.StatusUnprocessableEntity, homeView{Added: plain(typed), Fault: sentence(message) + " " + sentence(remedy)})
	}
	redirect(rw, r, w.path("spawn/"+keyPath(hub.ServerKey{User: v.User, Server: server})), http.StatusSeeOther)
	return nil
}

func (w *Web) stop(rw http.ResponseWriter, r *http.Request, v visitor) error {
	key, err := w.target(r, v)
	if err != nil {
		return err
	}
	why := "you stopped it"
	if key.User != v.User {
		why = "an administrator stopped it"
	}
	if _, err := w.cfg.Servers.Stop(r.Context(), key, why); err != nil {
		return err
	}
	w.settle(r, key)
	redirect(rw, r, hub.LocalPath(r.PostFormValue("back"), w.path("admin"), w.path("home")), http.StatusSeeOther)
	return nil
}

// settle gives a stop a moment, so that the page that follows can show its end.
func (w *Web) settle(r *http.Request, key hub.ServerKey) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 30 {
		s, err := w.cfg.Servers.Server(r.Context(), key)
		if err != nil || !s.Phase.Active() {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// keep puts a coming stop off.
func (w *Web) keep(rw http.ResponseWriter, r *http.Request, v visitor) error {
	key, err := w.target(r, v)
	if err != nil {
		return err
	}
	if _, err := w.cfg.Servers.Extend(r.Context(), key); err != nil {
		return err
	}
	redirect(rw, r, w.path("home"), http.StatusSeeOther)
	return nil
}
