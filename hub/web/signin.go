package web

import (
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
	"time"

	"carrel/hub"
)

func (w *Web) root(rw http.ResponseWriter, r *http.Request) error {
	redirect(rw, r, w.path("home"), http.StatusFound)
	return nil
}

func (w *Web) loginURL(next string) string {
	return w.path("login") + "?next=" + url.QueryEscape(next)
}

// next is where a visitor wants to go, if it is a place of ours.
func (w *Web) next(text string) string {
	return hub.LocalPath(text, w.cfg.Origins.Base(), w.path("home"))
}

// login shows the ways to sign in; where there is one only, it is taken. ?choose shows the page
// all the same, so that someone whom the one provider sends back can stop there.
func (w *Web) login(rw http.ResponseWriter, r *http.Request) error {
	next := w.next(r.URL.Query().Get("next"))
	choose := r.URL.Query().Has("choose")
	if _, err := w.visitor(r); err == nil && !choose {
		redirect(rw, r, next, http.StatusFound)
		return nil
	}
	providers := w.cfg.Auth.Providers()
	if len(providers) == 1 && !choose {
		redirect(rw, r, w.cfg.Auth.LoginPath(providers[0].Name, next), http.StatusFound)
		return nil
	}
	type choice struct{ Title, URL string }
	view := struct{ Providers []choice }{}
	for _, p := range providers {
		view.Providers = append(view.Providers, choice{p.Title, w.cfg.Auth.LoginPath(p.Name, next)})
	}
	return w.render(rw, http.StatusOK, "login", frame{Title: "Sign in"}, view)
}

// logout ends the session here, with the notebooks' and their websockets, then at the provider.
func (w *Web) logout(rw http.ResponseWriter, r *http.Request) error {
	to := w.path("signed-out")
	v, err := w.visitor(r)
	switch {
	case err == nil:
		if _, err := w.cfg.Sessions.EndSessions(r.Context(), hub.SessionQuery{Hash: v.session.Hash}); err != nil {
			return err
		}
		if at, ok := w.cfg.Auth.EndSessionURL(r.Context(), v.session); ok {
			to = at
		}
	case hub.KindOf(err) != hub.Unauthenticated:
		return err
	}
	for _, name := range []string{hub.CookieSession, hub.CookieSignIn} {
		http.SetCookie(rw, &http.Cookie{Name: w.cfg.Origins.Cookie(name), Path: "/", MaxAge: -1, HttpOnly: true, Secure: w.cfg.Origins.Secure(), SameSite: http.SameSiteLaxMode}) //nolint:gosec // G124: Secure wherever the hub is on HTTPS
	}
	redirect(rw, r, to, http.StatusSeeOther)
	return nil
}

func (w *Web) signedOut(rw http.ResponseWriter, _ *http.Request) error {
	return w.render(rw, http.StatusOK, "signedout", frame{Title: "Signed out"}, struct{ Login string }{w.path("login")})
}

const ticketLife = time.Minute

// ticket lets the browser that waits on a notebook's host open a session there (see hub.Ticket).
func (w *Web) ticket(rw http.ResponseWriter, r *http.Request, v visitor) error {
	o, q := w.cfg.Origins, r.URL.Query()
	host, next, browser := strings.ToLower(q.Get("host")), q.Get("next"), q.Get("browser")
	bad := &hub.Error{Kind: hub.Invalid, Op: "make ticket", Field: "next", Message: "this link leads to no notebook", Remedy: "open the notebook from your servers"}
	prefix := o.Base() + "user/"
	if raw, err := hex.DecodeString(browser); err != nil || len(raw) != 32 || !o.Classify(host).Notebooks || hub.LocalPath(next, prefix, "") == "" {
		return bad
	}
	u, err := url.Parse(next)
	if err != nil {
		return bad
	}
	user, _, _ := strings.Cut(strings.TrimPrefix(u.Path, prefix), "/")
	key, err := hub.ParseServerKey(user, "")
	if err != nil || o.Host(key.User) != host {
		return bad
	}
	if err := hub.Access(v.Principal, key, "", o.AdminAccess(w.cfg.Servers.Policy().AdminAccess)); err != nil {
		return err
	}
	secret := hub.RandomSecret()
	t := hub.Ticket{Parent: v.session.Hash, Host: host, Browser: hub.SecretHash(browser), Next: next}
	if err := w.cfg.Tickets.PutTicket(r.Context(), secret.Hash(), t, ticketLife); err != nil {
		return err
	}
	rw.Header().Set("Referrer-Policy", "no-referrer")
	redirect(rw, r, o.ServerOrigin(key.User)+o.Base()+"carrel-enter?ticket="+url.QueryEscape(secret.Reveal()), http.StatusFound)
	return nil
}

// userRedirect leads to the same page of whoever is signed in, as JupyterHub's does.
func (w *Web) userRedirect(rw http.ResponseWriter, r *http.Request, v visitor) error {
	rest := strings.TrimPrefix(r.URL.EscapedPath(), "/user-redirect/")
	if r.URL.RawQuery != "" {
		rest += "?" + r.URL.RawQuery
	}
	base := w.cfg.Origins.ServerPath(hub.ServerKey{User: v.User})
	target := hub.LocalPath(base+rest, base, "")
	if target == "" {
		return &hub.Error{Kind: hub.Invalid, Op: "redirect", Message: "this link leads to no page of a server", Remedy: "check the address, or open the server from your servers"}
	}
	redirect(rw, r, w.cfg.Origins.ServerOrigin(v.User)+target, http.StatusFound)
	return nil
}
