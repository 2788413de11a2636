package oidc

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"carrel/hub"
)

// login sends the browser to the provider. It writes nothing but the browser's cookie.
func (a *Auth) login(w http.ResponseWriter, r *http.Request, p *provider) error {
	d, err := p.discover(r.Context())
	if err != nil {
		return err
	}
	s := signIn{
		Provider: p.cfg.Name, State: hub.RandomSecret().Reveal(), Nonce: hub.RandomSecret().Reveal(),
		Verifier: oauth2.GenerateVerifier(), Next: a.localNext(r.FormValue("next")), Begun: a.cfg.Now(),
	}
	options := []oauth2.AuthCodeOption{gooidc.Nonce(s.Nonce), oauth2.S256ChallengeOption(s.Verifier)}
	for key, value := range p.cfg.AuthParams {
		options = append(options, oauth2.SetAuthURLParam(key, value))
	}
	// A person may ask to be someone else than the one whom the provider remembers.
	if prompt := r.FormValue("prompt"); prompt == "login" || prompt == "select_account" {
		options = append(options, oauth2.SetAuthURLParam("prompt", prompt))
	}
	a.makeRoom(w, r)
	a.setCookie(w, a.cookieName(s.State), a.sealSignIn(s), int(signInLifetime/time.Second))
	http.Redirect(w, r, d.oauth.AuthCodeURL(s.State, options...), http.StatusFound) //nolint:gosec // the address is the provider's; the request gives a prompt of two words
	return nil
}

// callback is where the provider sends the browser back to.
func (a *Auth) callback(w http.ResponseWriter, r *http.Request, p *provider) error {
	// Set before anything is asked of the provider: a logout that it tells of from now on counts
	// for the session that is about to be made.
	begun := a.cfg.Now()
	reply, err := single(r.URL.RawQuery)
	if err != nil {
		return err
	}
	s, err := a.takeSignIn(w, r, p, reply["state"])
	if err != nil {
		return err
	}
	d, err := p.discover(r.Context())
	if err != nil {
		return err
	}
	if err := checkIssuer(p, d, reply); err != nil {
		return err
	}
	if code := reply["error"]; code != "" {
		return refusal(p, code, reply["error_description"])
	}
	if reply["code"] == "" {
		return &hub.Error{Kind: hub.Invalid, Op: opSignIn, Message: p.cfg.Title + " sent no code", Remedy: "begin again at the sign-in page"}
	}
	ctx, cancel := context.WithTimeout(r.Context(), 3*callTimeout)
	defer cancel()
	who, tokens, err := a.vouched(ctx, p, d, s, reply["code"])
	if err != nil {
		return err
	}
	secret, session, err := a.establish(ctx, r, p, who, tokens, begun)
	if err != nil {
		return err
	}
	a.endPrevious(ctx, r, session)
	a.setSessionCookie(w, secret)
	a.cfg.Logger.InfoContext(ctx, "signed in", "user", session.User.String(), "provider", p.cfg.Name, "session", session.Hash, "from", session.From)
	http.Redirect(w, r, s.Next, http.StatusFound)
	return nil
}

// single reads a query in which no name may come twice: who checks the first must not be the one
// who uses the second.
func single(query string) (map[string]string, error) {
	malformed := &hub.Error{Kind: hub.Invalid, Op: opSignIn, Message: "the address that the sign-in service sent you to is malformed", Remedy: "begin again at the sign-in page"}
	values, err := url.ParseQuery(query)
	if err != nil || len(query) > 16<<10 {
		return nil, malformed
	}
	reply := make(map[string]string, len(values))
	for name, v := range values {
		if len(v) != 1 {
			return nil, malformed
		}
		reply[name] = v[0]
	}
	return reply, nil
}

// checkIssuer refuses an answer that another provider sent the browser with (RFC 9207).
func checkIssuer(p *provider, d *discovered, reply map[string]string) error {
	iss, given := reply["iss"]
	if given && iss != p.cfg.Issuer || !given && d.doc.IssuerInReply {
		return unverified(p, errors.New("the answer names the issuer "+plain(iss)))
	}
	return nil
}

// refusal is the error for what a provider answered in place of a code.
func refusal(p *provider, code, description string) error {
	e := &hub.Error{Kind: hub.Forbidden, Op: opSignIn, Remedy: "begin again at the sign-in page"}
	switch code {
	case "access_denied":
		e.Message = p.cfg.Title + " did not let you in, or you declined"
	case "server_error", "temporarily_unavailable":
		e.Kind, e.Message, e.Remedy = hub.Unavailable, p.cfg.Title+" can't sign anybody in at the moment", "try again in a minute"
	default:
		e.Message = p.cfg.Title + " ended the sign-in (" + plain(code) + ")"
	}
	if text := plain(description); text != "" {
		e.Message += "; it says: “" + text + "”"
	}
	return e
}

// vouched turns a code into a verified person.
func (a *Auth) vouched(ctx context.Context, p *provider, d *discovered, s signIn, code string) (person, tokenSet, error) {
	token, err := p.exchange(ctx, d, code, s.Verifier)
	if err != nil {
		return person{}, tokenSet{}, err
	}
	raw, _ := token.Extra("id_token").(string)
	id, claims, err := p.verify(ctx, d, raw, token.AccessToken)
	if err != nil {
		return person{}, tokenSet{}, err
	}
	if !sameText(id.Nonce, s.Nonce) {
		return person{}, tokenSet{}, unverified(p, errors.New("the nonce is missing or another's"))
	}
	// Recorded once somebody is vouched for, so that a flood of answers writes nothing.
	first, err := a.cfg.Tickets.Once(ctx, "oidc-state:"+string(hub.NewSecret(s.State).Hash()), 2*signInLifetime)
	if err != nil {
		return person{}, tokenSet{}, err
	}
	if !first {
		return person{}, tokenSet{}, &hub.Error{Kind: hub.Invalid, Op: opSignIn, Message: "this sign-in is done already", Remedy: "begin again at the sign-in page"}
	}
	who, err := p.describe(ctx, d, id.Subject, claims, token)
	return who, tokenSet{ID: raw, Refresh: token.RefreshToken, Refreshed: a.cfg.Now()}, err
}

// endPrevious ends the session that the browser had before: its cookie is replaced.
func (a *Auth) endPrevious(ctx context.Context, r *http.Request, now hub.Session) {
	c, err := r.Cookie(a.cfg.Origins.Cookie(hub.CookieSession))
	if err != nil || c.Value == "" {
		return
	}
	if _, err := a.cfg.Sessions.EndSessions(ctx, hub.SessionQuery{Hash: hub.NewSecret(c.Value).Hash()}); err != nil {
		a.cfg.Logger.WarnContext(ctx, "the browser's previous session was not ended", "user", now.User.String(), "error", err)
	}
}

func (a *Auth) setSessionCookie(w http.ResponseWriter, secret hub.Secret) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure where there is HTTPS
		Name: a.cfg.Origins.Cookie(hub.CookieSession), Value: secret.Reveal(), Path: "/", MaxAge: int(a.cfg.Lifetime / time.Second),
		HttpOnly: true, Secure: a.cfg.Origins.Secure(), SameSite: http.SameSiteLaxMode,
	})
}
