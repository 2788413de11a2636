package web

import (
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"carrel/hub"
	"carrel/internal/httpx"
)

// Visits is the part of hub.Visitors that the pages use.
type Visits interface {
	Policy() hub.VisitPolicy
	Come(ctx context.Context, from netip.Addr, path, agent string) (hub.Visit, hub.Secret, error)
	Visit(ctx context.Context, name hub.UserName) (hub.Visit, hub.LinePlace, error)
	Leave(ctx context.Context, name hub.UserName, why string) error
	Away(ctx context.Context, name hub.UserName) error
	Back(ctx context.Context, name hub.UserName) (hub.Visit, error)
	Extend(ctx context.Context, name hub.UserName) (hub.Visit, error)
	Stats(ctx context.Context) (hub.VisitStats, error)
	All(ctx context.Context) ([]hub.Visit, error)
	Expel(ctx context.Context, name hub.UserName) error
	Challenge(from netip.Addr) (hub.Challenge, error)
	Prove(ctx context.Context, from netip.Addr, proof hub.Proof) error
}

// Siblings are deployments elsewhere that may have room where this one has none.
type Siblings interface {
	// Room gives the public address of one that has, with a slash at the end, and counts one place there as
	// taken if it is.
	Room(ctx context.Context, take bool) (base string, ok bool)
}

type tmpView struct {
	Title, Image, Fault, Path, Ended   string
	Text, Terms                        []string
	ComeURL, WaitURL, LeaveURL, Button string
	DownloadURL, ChallengeURL          string
	Widget                             *hub.CaptchaWidget // nil: none
	Age                                string
	Open                               bool // this browser has a notebook
	Hop                                bool // this browser was sent here by a sibling, and is not sent on
}

// guest finds the visit that this browser has a session for; Unauthenticated without one.
func (w *Web) guest(r *http.Request) (visitor, hub.Visit, hub.LinePlace, error) {
	nobody := func(err error) (visitor, hub.Visit, hub.LinePlace, error) {
		if err == nil || hub.KindOf(err) == hub.NotFound {
			err = errNobody
		}
		return visitor{}, hub.Visit{}, hub.LinePlace{}, err
	}
	c, err := r.Cookie(w.cfg.Origins.Cookie(hub.CookieVisitor))
	if err != nil || c.Value == "" {
		return nobody(nil)
	}
	s, err := w.cfg.Sessions.Session(r.Context(), hub.NewSecret(c.Value).Hash())
	if err != nil || !s.User.IsVisitor() || s.Host != "" || s.Parent != "" || !s.Live(time.Now()) {
		return nobody(err)
	}
	visit, place, err := w.cfg.Visits.Visit(r.Context(), s.User)
	if err != nil || visit.Phase == hub.VisitEnding {
		return nobody(err)
	}
	return visitor{s.Principal(), s, hub.VisitorUser(s.User)}, visit, place, nil
}

// guested finds the visit before h runs; who has none is led to where one begins.
func (w *Web) guested(h func(http.ResponseWriter, *http.Request, visitor, hub.Visit, hub.LinePlace) error) httpx.HandlerFunc {
	return w.open(func(rw http.ResponseWriter, r *http.Request) error {
		v, visit, place, err := w.guest(r)
		if err != nil {
			if hub.KindOf(err) == hub.Unauthenticated && httpx.WantsPage(r) {
				redirect(rw, r, w.path("tmp?ended=1"), http.StatusSeeOther)
				return nil
			}
			return err
		}
		return h(rw, r, v, visit, place)
	})
}

var errNoVisits = &hub.Error{Kind: hub.NotFound, Op: "visit", Message: "there are no notebooks for visitors here", Remedy: "sign in"}

// visits tells whether there are notebooks for visitors.
func (w *Web) visits() bool { return w.cfg.Visits != nil && w.cfg.Visits.Policy().Enabled }

// open lets h run where there are notebooks for visitors.
func (w *Web) open(h httpx.HandlerFunc) httpx.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) error {
		if !w.visits() {
			return errNoVisits
		}
		if err := httpx.ReadForm(rw, r, maxForm); err != nil {
			return err
		}
		return h(rw, r)
	}
}

// notebookPath cleans the path of a notebook that a link names: below the server's files, "" for none.
func notebookPath(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	clean := hub.LocalPath("/"+(&url.URL{Path: text}).EscapedPath(), "/", "")
	if clean == "" || len(text) > 512 || strings.HasSuffix(text, "/") || slices.Contains(strings.Split(text, "/"), "") {
		return "", &hub.Error{Kind: hub.Invalid, Op: "read link", Field: "path", Message: "this link names no notebook", Remedy: "ask whoever made it for another, or begin without"}
	}
	return text, nil
}

func (w *Web) tmp(rw http.ResponseWriter, r *http.Request) error {
	path, err := notebookPath(r.URL.Query().Get("path"))
	if err != nil {
		return err
	}
	view := tmpView{Path: path, Hop: r.URL.Query().Has("hop")}
	if r.URL.Query().Has("ended") {
		view.Ended = "Your notebook has ended, and nothing of it is left."
	} else if to, err := w.elsewhere(r, path, view.Hop); err != nil || to != "" {
		if err == nil {
			redirect(rw, r, to, http.StatusFound)
		}
		return err
	}
	return w.showTmp(rw, r, http.StatusOK, view)
}

// elsewhere is the landing page of a sibling with room, where all notebooks here are taken and this browser
// has none of them; "" where it stays. Who was sent here is not sent on, so that two that are full do not
// bounce anybody.
func (w *Web) elsewhere(r *http.Request, path string, hop bool) (string, error) {
	if w.cfg.Siblings == nil || hop {
		return "", nil
	}
	if _, _, _, err := w.guest(r); err == nil || hub.KindOf(err) != hub.Unauthenticated {
		return "", err
	}
	s, err := w.cfg.Visits.Stats(r.Context())
	if err != nil || s.Available() > 0 {
		return "", err
	}
	base, ok := w.cfg.Siblings.Room(r.Context(), r.Method == http.MethodPost)
	if !ok {
		return "", nil
	}
	q := url.Values{"hop": {"1"}}
	if path != "" {
		q.Set("path", path)
	}
	return base + "hub/tmp?" + q.Encode(), nil
}

func (w *Web) showTmp(rw http.ResponseWriter, r *http.Request, status int, view tmpView) error {
	p := w.cfg.Visits.Policy()
	_, _, _, err := w.guest(r)
	if err != nil && hub.KindOf(err) != hub.Unauthenticated {
		return err
	}
	view.Open = err == nil
	view.Title, view.Text, view.Terms, view.Age = p.Page.Title, paragraphs(p.Page.Text), paragraphs(p.Page.Terms), span(p.Age)
	view.ComeURL, view.WaitURL, view.LeaveURL = w.path("tmp"), w.waitURL(view.Path), w.path("tmp/leave")
	view.DownloadURL = w.path("tmp/download")
	if p.Page.Image != "" {
		view.Image = w.path("tmp/image")
	}
	view.Button = "Open a notebook"
	if view.Path != "" {
		view.Button = "Open the notebook"
	}
	f := frame{Title: view.Title}
	kind := p.Captcha.Kind
	if view.Open {
		kind = hub.CaptchaNone // there is no form
	}
	switch kind {
	case hub.CaptchaNone:
	case hub.CaptchaWork:
		view.ChallengeURL, f.Script = w.path("tmp/challenge"), "tmp-work.js"
	case hub.CaptchaSite:
		view.Widget = &p.Captcha.Widget
		httpx.AllowWidget(rw.Header(), w.cfg.FormAction, p.Captcha.Widget.Origins)
	}
	return w.render(rw, status, "tmp", f, view)
}

// challenge gives the landing page's script its work.
func (w *Web) challenge(rw http.ResponseWriter, r *http.Request) error {
	c, err := w.cfg.Visits.Challenge(w.client(r))
	if err != nil {
		return err
	}
	rw.Header().Set("Content-Type", "application/json")
	return hub.Wrap(hub.Canceled, "send challenge", json.NewEncoder(rw).Encode(c))
}

// paragraphs of a text, which an empty line parts.
func paragraphs(text string) (list []string) {
	for p := range strings.SplitSeq(strings.ReplaceAll(text, "\r\n", "\n"), "\n\n") {
		if p = strings.TrimSpace(p); p != "" {
			list = append(list, p)
		}
	}
	return list
}

func (w *Web) waitURL(path string) string {
	if path == "" {
		return w.path("tmp/wait")
	}
	return w.path("tmp/wait?path=" + url.QueryEscape(path))
}

// come takes a visitor in. A browser that has a notebook is led to it.
func (w *Web) come(rw http.ResponseWriter, r *http.Request) error {
	path, err := notebookPath(r.PostFormValue("path"))
	if err != nil {
		return err
	}
	_, _, _, err = w.guest(r)
	if err == nil {
		redirect(rw, r, w.waitURL(path), http.StatusSeeOther)
		return nil
	}
	if hub.KindOf(err) != hub.Unauthenticated {
		return err
	}
	hop := r.PostFormValue("hop") != ""
	if to, err := w.elsewhere(r, path, hop); err != nil || to != "" {
		if err == nil {
			redirect(rw, r, to, http.StatusSeeOther)
		}
		return err
	}
	proof := hub.Proof{Challenge: r.PostFormValue("challenge"), Answer: r.PostFormValue("answer")}
	if field := w.cfg.Visits.Policy().Captcha.Widget.Field; field != "" {
		proof.Response = r.PostFormValue(field)
	}
	var secret hub.Secret
	if err = w.cfg.Visits.Prove(r.Context(), w.client(r), proof); err == nil {
		_, secret, err = w.cfg.Visits.Come(r.Context(), w.client(r), path, agent(r))
	}
	switch {
	case err == nil:
		http.SetCookie(rw, w.visitorCookie(secret.Reveal(), 0))
		redirect(rw, r, w.waitURL(path), http.StatusSeeOther)
		return nil
	case hub.KindOf(err) == hub.TooMany || hub.KindOf(err) == hub.Forbidden || hub.KindOf(err) == hub.Unavailable:
		message, remedy := hub.Public(err)
		if hub.KindOf(err) != hub.Forbidden {
			rw.Header().Set("Retry-After", "60")
		}
		return w.showTmp(rw, r, httpx.StatusOf(err), tmpView{Path: path, Hop: hop, Fault: sentence(message) + " " + sentence(remedy)})
	}
	return err
}

func (w *Web) visitorCookie(value string, maxAge int) *http.Cookie {
	return &http.Cookie{Name: w.cfg.Origins.Cookie(hub.CookieVisitor), Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, Secure: w.cfg.Origins.Secure(), SameSite: http.SameSiteLaxMode} //nolint:gosec // G124: Secure wherever the hub is on HTTPS
}

// client is the address that a request came from, as our proxy says; the zero one if it can't be read.
func (w *Web) client(r *http.Request) netip.Addr {
	a, err := netip.ParseAddr(w.cfg.ClientAddr(r))
	if err != nil {
		return netip.Addr{}
	}
	return a
}

func agent(r *http.Request) string {
	a := plain(r.UserAgent())
	return a[:min(len(a), 200)]
}

// leave ends a visit, and forgets it in this browser.
func (w *Web) leave(rw http.ResponseWriter, r *http.Request) error {
	if v, _, _, err := w.guest(r); err == nil {
		if err := w.cfg.Visits.Leave(r.Context(), v.User, "you said that you are done"); err != nil {
			return err
		}
	} else if hub.KindOf(err) != hub.Unauthenticated {
		return err
	}
	http.SetCookie(rw, w.visitorCookie("", -1))
	redirect(rw, r, w.path("tmp?ended=1"), http.StatusSeeOther)
	return nil
}

const maxImage = 2 << 20

// download gives all files of the visit, as they are now.
func (w *Web) download(rw http.ResponseWriter, r *http.Request, _ visitor, visit hub.Visit, _ hub.LinePlace) error {
	s, err := w.cfg.Servers.Server(r.Context(), visit.Key())
	if err != nil {
		return err
	}
	if s.Phase != hub.Ready && s.Phase != hub.Paused {
		return &hub.Error{Kind: hub.Conflict, Op: "download", Message: "your notebook is not running", Remedy: "open it, then try again"}
	}
	rw.Header().Set("Content-Type", "application/zip")
	rw.Header().Set("Content-Disposition", `attachment; filename="my-work.zip"`)
	out := &begun{w: rw}
	err = w.cfg.Servers.Archive(r.Context(), visit.Key(), out)
	if err != nil && out.yes {
		panic(http.ErrAbortHandler) // half an archive must not pass for a whole one
	}
	if err != nil {
		rw.Header().Del("Content-Disposition")
	}
	return err
}

// begun knows whether anything was written.
type begun struct {
	w   io.Writer
	yes bool
}

// Write implements [io.Writer].
func (b *begun) Write(p []byte) (int, error) {
	b.yes = true
	return b.w.Write(p)
}

// picture is the operator's. Only pictures are sent, whatever the file is.
func (w *Web) picture(rw http.ResponseWriter, _ *http.Request) error {
	name := w.cfg.Visits.Policy().Page.Image
	none := &hub.Error{Kind: hub.NotFound, Op: "show picture", Message: "there is no picture"}
	if name == "" {
		return none
	}
	f, err := os.Open(name) // the operator's own choice
	if err != nil {
		none.Err = err
		return none
	}
	defer f.Close() // it was read only
	raw, err := io.ReadAll(io.LimitReader(f, maxImage+1))
	if err != nil || len(raw) > maxImage || !strings.HasPrefix(http.DetectContentType(raw), "image/") {
		none.Err = err
		return none
	}
	rw.Header().Set("Content-Type", mime.TypeByExtension(filepath.Ext(name)))
	rw.Header().Set("Cache-Control", "public, max-age=300")
	_, err = rw.Write(raw)
	return hub.Wrap(hub.Canceled, "send picture", err)
}

// anyTicket makes tickets for people and for visitors, each for hosts of their own (see Web.ticket). A
// browser that has no visit takes over one whose token is in the address: tmpnb's links are of this form.
func (w *Web) anyTicket(rw http.ResponseWriter, r *http.Request) error {
	next, err := url.Parse(r.URL.Query().Get("next"))
	if err != nil {
		return w.person(w.ticket)(rw, r)
	}
	text, _, _ := strings.Cut(strings.TrimPrefix(next.Path, w.cfg.Origins.Base()+"user/"), "/")
	name, err := hub.ParseUserName(text)
	if err != nil || !name.IsVisitor() {
		return w.person(w.ticket)(rw, r)
	}
	if token := next.Query().Get("token"); token != "" {
		if err := w.takeOver(rw, r, name, hub.NewSecret(token)); err != nil {
			return err
		}
		q, nq := r.URL.Query(), next.Query()
		nq.Del("token")
		next.RawQuery = nq.Encode()
		q.Set("next", next.String())
		r.URL.RawQuery = q.Encode()
	}
	return w.guested(func(rw http.ResponseWriter, r *http.Request, v visitor, _ hub.Visit, _ hub.LinePlace) error {
		return w.ticket(rw, r, v)
	})(rw, r)
}

// takeOver gives the browser a session of the visit that a token is for, unless it has a visit.
func (w *Web) takeOver(rw http.ResponseWriter, r *http.Request, name hub.UserName, token hub.Secret) error {
	if w.cfg.Visits == nil || w.cfg.Tokens == nil {
		return nil
	}
	if _, _, _, err := w.guest(r); err == nil || hub.KindOf(err) != hub.Unauthenticated {
		return err
	}
	t, err := w.cfg.Tokens.Token(r.Context(), token.Hash())
	switch {
	case err != nil && hub.KindOf(err) != hub.NotFound:
		return err
	case err != nil || t.User != name:
		return nil // it is nobody's then
	}
	secret, now := hub.RandomSecret(), time.Now()
	err = w.cfg.Sessions.CreateSession(r.Context(), hub.Session{Hash: secret.Hash(), User: name, UserID: hub.VisitorUser(name).ID, Created: now, LastSeen: now, Expires: t.Expires, Agent: agent(r)})
	if err != nil {
		return err
	}
	c := w.visitorCookie(secret.Reveal(), 0)
	http.SetCookie(rw, c)
	r.Header.Del("Cookie") // one that is over may stand before it
	r.AddCookie(c)
	return nil
}
