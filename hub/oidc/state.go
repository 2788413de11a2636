package oidc

import (
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"carrel/hub"
)

const (
	signInLifetime = 10 * time.Minute
	maxSignIns     = 5    // begun in one browser, in as many tabs
	maxNext        = 1024 // bytes of the address to come back to
	opSignIn       = "sign in"
)

// signIn is a sign-in under way. It exists only in the browser's cookie, sealed.
type signIn struct {
	Provider string    `json:"p"`
	State    string    `json:"s"`
	Nonce    string    `json:"n"`
	Verifier string    `json:"v"`
	Next     string    `json:"x"`
	Begun    time.Time `json:"t"`
}

// cookieName is that of the sign-in with a state: each tab has its own.
func (a *Auth) cookieName(state string) string {
	return a.cfg.Origins.Cookie(hub.CookieSignIn) + "-" + string(hub.NewSecret(state).Hash())[:16]
}

func (a *Auth) sealSignIn(s signIn) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings and a time always marshal
	}
	return a.cfg.Keyring.Seal(b, opSignIn)
}

func (a *Auth) openSignIn(sealed string) (signIn, bool) {
	b, err := a.cfg.Keyring.Open(sealed, opSignIn)
	if err != nil {
		return signIn{}, false
	}
	var s signIn
	if json.Unmarshal(b, &s) != nil {
		return signIn{}, false
	}
	age := a.cfg.Now().Sub(s.Begun)
	return s, age >= -time.Minute && age < signInLifetime
}

// setCookie writes a sign-in's cookie. The __Host- prefix, which no sibling host can set, wants the
// path /; without HTTPS the cookie stays with us.
func (a *Auth) setCookie(w http.ResponseWriter, name, value string, maxAge int) {
	path := a.cfg.Origins.HubPath("oidc/")
	if a.cfg.Origins.Secure() {
		path = "/"
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure where there is HTTPS
		Name: name, Value: value, Path: path, MaxAge: maxAge, HttpOnly: true, Secure: a.cfg.Origins.Secure(), SameSite: http.SameSiteLaxMode,
	})
}

// makeRoom drops what is over or strange, and the oldest sign-ins beyond the limit.
func (a *Auth) makeRoom(w http.ResponseWriter, r *http.Request) {
	type begun struct {
		name string
		at   time.Time
	}
	var live []begun
	prefix := a.cfg.Origins.Cookie(hub.CookieSignIn) + "-"
	for _, c := range r.Cookies() {
		if !strings.HasPrefix(c.Name, prefix) {
			continue
		}
		if s, ok := a.openSignIn(c.Value); ok {
			live = append(live, begun{c.Name, s.Begun})
		} else {
			a.setCookie(w, c.Name, "", -1)
		}
	}
	slices.SortFunc(live, func(x, y begun) int { return y.at.Compare(x.at) })
	for i, c := range live {
		if i >= maxSignIns-1 {
			a.setCookie(w, c.name, "", -1)
		}
	}
}

// takeSignIn finds the sign-in that this browser began with the provider under the state, and
// takes its cookie away.
func (a *Auth) takeSignIn(w http.ResponseWriter, r *http.Request, p *provider, state string) (signIn, error) {
	lost := &hub.Error{
		Kind: hub.Invalid, Op: opSignIn, Message: "this sign-in was not begun in this browser, took longer than ten minutes, or is done already",
		Remedy: "begin again at the sign-in page",
	}
	if state == "" || len(state) > 128 {
		return signIn{}, lost
	}
	name := a.cookieName(state)
	c, err := r.Cookie(name)
	if err != nil {
		return signIn{}, lost
	}
	a.setCookie(w, name, "", -1)
	s, ok := a.openSignIn(c.Value)
	if !ok || s.Provider != p.cfg.Name || subtle.ConstantTimeCompare([]byte(s.State), []byte(state)) != 1 {
		return signIn{}, lost
	}
	return s, nil
}

// localNext cleans the address to come back to; pages of sign-in and sign-out are none.
func (a *Auth) localNext(next string) string {
	home := a.cfg.Origins.HubPath("home")
	if len(next) > maxNext {
		return home
	}
	next = hub.LocalPath(next, a.cfg.Origins.Base(), home)
	path, _, _ := strings.Cut(next, "?")
	if path == a.cfg.Origins.HubPath("login") || path == a.cfg.Origins.HubPath("logout") || strings.HasPrefix(path, a.cfg.Origins.HubPath("oidc/")) {
		return home
	}
	return next
}
