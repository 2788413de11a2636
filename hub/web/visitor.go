package web

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"carrel/hub"
	"carrel/internal/httpx"
)

// visitor is who looks at a page.
type visitor struct {
	hub.Principal
	session hub.Session
	user    hub.User
}

// seen remembers, for the error page, whom a handler found.
type seen struct{ visitor *visitor }

type seenKey struct{}

// person finds the visitor before h runs; nobody is led to sign in, and back.
func (w *Web) person(h func(http.ResponseWriter, *http.Request, visitor) error) httpx.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) error {
		v, err := w.visitor(r)
		if err != nil && hub.KindOf(err) == hub.Unauthenticated && httpx.WantsPage(r) && r.Method == http.MethodGet {
			redirect(rw, r, w.loginURL(w.path("")+r.URL.RequestURI()[1:]), http.StatusFound)
			return nil
		}
		if err != nil {
			return err
		}
		httpx.Note(r.Context(), slog.String("user", v.User.String()))
		if err := httpx.ReadForm(rw, r, maxForm); err != nil {
			return err
		}
		return h(rw, r, v)
	}
}

// admin is person for administrators.
func (w *Web) admin(h func(http.ResponseWriter, *http.Request, visitor) error) httpx.HandlerFunc {
	return w.person(func(rw http.ResponseWriter, r *http.Request, v visitor) error {
		if !v.Admin {
			return &hub.Error{Kind: hub.Forbidden, Op: "administer", Message: "this page is for administrators", Remedy: "go to your own servers"}
		}
		return h(rw, r, v)
	})
}

var errNobody = &hub.Error{Kind: hub.Unauthenticated, Op: "authenticate", Message: "you are not signed in", Remedy: "sign in and try again"}

// visitor reads the session cookie. A session of a notebook's host is none here.
func (w *Web) visitor(r *http.Request) (visitor, error) {
	c, err := r.Cookie(w.cfg.Origins.Cookie(hub.CookieSession))
	if err != nil || c.Value == "" {
		return visitor{}, errNobody
	}
	s, err := w.cfg.Sessions.Session(r.Context(), hub.NewSecret(c.Value).Hash())
	switch {
	case err != nil && hub.KindOf(err) != hub.NotFound:
		return visitor{}, err
	case err != nil || s.Host != "" || s.Parent != "" || !s.Live(time.Now()):
		return visitor{}, errNobody
	}
	u, err := w.cfg.Users.User(r.Context(), s.User)
	switch {
	case err != nil && hub.KindOf(err) != hub.NotFound:
		return visitor{}, err
	case err != nil || u.ID != s.UserID:
		return visitor{}, errNobody
	}
	if r.Header.Get(pollHeader) == "" {
		w.touch(r.Context(), s)
	}
	v := visitor{s.Principal(), s, u}
	if found, ok := r.Context().Value(seenKey{}).(*seen); ok {
		found.visitor = &v
	}
	return v, nil
}

// pollHeader is sent by our scripts with requests that no person made: an open tab alone keeps
// nobody signed in.
const pollHeader = "X-Carrel-Poll"

// touch records, at most once a minute, that the session is in use.
func (w *Web) touch(ctx context.Context, s hub.Session) {
	if now := time.Now(); now.Sub(s.LastSeen) > time.Minute {
		_ = w.cfg.Sessions.TouchSession(ctx, s.Hash, now) // the next page's comes again
	}
}

// target parses the path's server, and checks that the visitor may start and stop it.
func (w *Web) target(r *http.Request, v visitor) (hub.ServerKey, error) {
	key, err := hub.ParseServerKey(r.PathValue("user"), r.PathValue("server"))
	if err != nil {
		return hub.ServerKey{}, err
	}
	if !v.Can(hub.ScopeServers, key.User) {
		return hub.ServerKey{}, &hub.Error{Kind: hub.Forbidden, Op: "authorise", Message: "this server is someone else's", Remedy: "go to your own servers"}
	}
	httpx.Note(r.Context(), slog.String("server", key.String()))
	return key, nil
}
