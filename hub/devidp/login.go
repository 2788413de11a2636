package devidp

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"carrel/hub"
)

const (
	browserCookie = "carrel-demo-browser" // binds a sign-in to the browser that began it
	sessionCookie = "carrel-demo-session" // who is signed in here
)

type browserKey struct{}

// cookieName is a cookie's full name. Its path is the issuer's, so the prefix is not __Host-.
func (p *Provider) cookieName(name string) string {
	if p.issuer.Scheme == "https" {
		return "__Secure-" + name
	}
	return name
}

func (p *Provider) setCookie(w http.ResponseWriter, name, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure where there is HTTPS
		Name: p.cookieName(name), Value: value, Path: p.prefix + "/", MaxAge: maxAge, HttpOnly: true,
		Secure: p.issuer.Scheme == "https", SameSite: http.SameSiteLaxMode,
	})
}

// bindBrowser gives the browser a cookie, without which the sign-in that it begins cannot go on:
// or somebody else's link could have a person sign in on their behalf.
func (p *Provider) bindBrowser(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var value string
		if c, err := r.Cookie(p.cookieName(browserCookie)); err == nil && len(c.Value) == 43 {
			value = c.Value
		} else {
			value = hub.RandomSecret().Reveal()
		}
		p.setCookie(w, browserCookie, value, int(requestLifetime/time.Second))
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), browserKey{}, hub.NewSecret(value).Hash())))
	})
}

// mine finds a sign-in that this browser began.
func (p *Provider) mine(r *http.Request) (*authRequest, bool) {
	a, err := p.pending.get(r.FormValue("id"))
	c, noCookie := r.Cookie(p.cookieName(browserCookie))
	if err != nil || noCookie != nil || hub.NewSecret(c.Value).Hash() != a.browser {
		return nil, false
	}
	return a, true
}

// sameBrowser lets only the browser that began a sign-in have its code.
func (p *Provider) sameBrowser(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := p.mine(r); !ok {
			p.lost(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (p *Provider) lost(w http.ResponseWriter) {
	p.pages.show(w, http.StatusBadRequest, view{Page: "message", Title: "This sign-in is over", Text: "It took too long, was used already, or was begun in another browser. Go back to the application and begin again."})
}

func (p *Provider) signedIn(r *http.Request) (loginSession, bool) {
	c, err := r.Cookie(p.cookieName(sessionCookie))
	if err != nil {
		return loginSession{}, false
	}
	s, ok := p.state.session(c.Value)
	if !ok {
		return loginSession{}, false
	}
	_, ok = p.person(s.Person)
	return s, ok
}

// showLogin asks for name and password, unless the browser is signed in already.
func (p *Provider) showLogin(w http.ResponseWriter, r *http.Request) {
	a, ok := p.mine(r)
	if !ok {
		p.lost(w)
		return
	}
	if s, ok := p.signedIn(r); ok && !a.fresh {
		p.finish(w, r, a, s)
		return
	}
	p.pages.show(w, http.StatusOK, p.form(a, a.LoginHint, ""))
}

func (p *Provider) form(a *authRequest, name, failure string) view {
	v := view{Page: "login", Title: "Sign in", ID: a.id, Name: name, Failure: failure}
	if u, err := url.Parse(a.RedirectURI); err == nil {
		v.Target = u.Scheme + "://" + u.Host
		if _, isAddress := netip.ParseAddr(u.Hostname()); isAddress != nil {
			v.Target += " " + u.Scheme + "://*." + u.Host // people's notebooks, to which the client may send the browser on
		}
	}
	return v
}

// login checks name and password. The answer to an unknown name is that to a wrong password.
func (p *Provider) login(w http.ResponseWriter, r *http.Request) {
	a, ok := p.mine(r)
	if !ok {
		p.lost(w)
		return
	}
	name := r.PostFormValue("username")
	if parsed, err := hub.ParseUserName(name); err == nil {
		name = parsed.String()
	}
	key := name[:min(len(name), hub.MaxUserName+1)]
	if rest := p.guesses.wait(key, time.Now()); rest > 0 {
		seconds := int(rest/time.Second) + 1
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
		p.pages.show(w, http.StatusTooManyRequests, p.form(a, name, fmt.Sprintf("Too many attempts for this name. Try again in %d s.", seconds)))
		return
	}
	one, right := p.checkPassword(name, r.PostFormValue("password"))
	if !right {
		p.cfg.Logger.InfoContext(r.Context(), "demo provider: wrong name or password")
		p.pages.show(w, http.StatusUnauthorized, p.form(a, name, "The name or the password is wrong."))
		return
	}
	p.guesses.forget(key)
	if c, err := r.Cookie(p.cookieName(sessionCookie)); err == nil {
		if old, ok := p.state.session(c.Value); ok && old.Person != one.Name {
			if err := p.endSessions(r.Context(), func(o loginSession) bool { return o.SID == old.SID }); err != nil {
				p.fail(w, r, err)
				return
			}
		}
	}
	cookie, s, err := p.state.begin(one.Name)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	p.setCookie(w, sessionCookie, cookie, int(sessionLifetime/time.Second))
	p.finish(w, r, a, s)
}

func (p *Provider) fail(w http.ResponseWriter, r *http.Request, err error) {
	p.cfg.Logger.ErrorContext(r.Context(), "demo provider", "error", err)
	p.pages.show(w, http.StatusInternalServerError, view{Page: "message", Title: "The demo provider failed", Text: "Its log says why."})
}

// finish sends the browser back to the client, by way of op.
func (p *Provider) finish(w http.ResponseWriter, r *http.Request, a *authRequest, s loginSession) {
	if err := p.pending.done(a.id, s.Person, s.SID, s.Created); err != nil {
		p.lost(w)
		return
	}
	http.Redirect(w, r, p.cfg.Issuer+"/authorize/callback?id="+url.QueryEscape(a.id), http.StatusSeeOther)
}
