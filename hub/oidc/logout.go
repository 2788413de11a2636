package oidc

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"carrel/hub"
)

// A browser's address line holds at least this much; a longer ID token is left out of it.
const maxHint = 6000

// EndSessionURL is where the browser goes after its session was ended here, so that it is signed
// out at the provider too (OpenID Connect RP-Initiated Logout 1.0). False: the provider has no such
// address, or can't be reached.
func (a *Auth) EndSessionURL(ctx context.Context, s hub.Session) (string, bool) {
	p, ok := a.provider(s.Provider)
	if !ok {
		return "", false
	}
	d, err := p.discover(ctx)
	if err != nil || d.doc.EndSession == "" {
		return "", false
	}
	u, err := url.Parse(d.doc.EndSession)
	if err != nil {
		return "", false
	}
	q := u.Query()
	q.Set("client_id", p.cfg.ClientID)
	if t, ok := a.openTokens(s); ok && t.ID != "" && len(t.ID) <= maxHint {
		q.Set("id_token_hint", t.ID)
	}
	q.Set("post_logout_redirect_uri", a.cfg.Origins.HubURL("oidc/"+p.cfg.Name+"/logged-out"))
	q.Set("state", a.cfg.Keyring.Seal([]byte(p.cfg.Name), "signed out"))
	u.RawQuery = q.Encode()
	return u.String(), true
}

// loggedOut is where the provider sends the browser back to after it signed out there.
func (a *Auth) loggedOut(w http.ResponseWriter, r *http.Request, p *provider) error {
	next := p.cfg.LogoutRedirect
	if next == "" {
		next = a.cfg.SignedOut
	}
	http.Redirect(w, r, next, http.StatusSeeOther)
	return nil
}

const maxLogoutBody = 64 << 10

// backChannel takes a logout token from a provider. The answers are for machines (OpenID Connect
// Back-Channel Logout 1.0, section 2.8).
func (a *Auth) backChannel(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	err := a.takeLogout(w, r)
	if err == nil {
		w.WriteHeader(http.StatusOK)
		return
	}
	status, code := http.StatusBadRequest, "invalid_request"
	switch hub.KindOf(err) {
	case hub.NotFound:
		status = http.StatusNotFound
	case hub.Unavailable, hub.Internal, hub.Canceled:
		status, code = http.StatusServiceUnavailable, "temporarily_unavailable"
	case hub.Invalid, hub.Unauthenticated, hub.Forbidden, hub.Conflict, hub.TooMany: // the token is at fault
	}
	a.cfg.Logger.WarnContext(r.Context(), "logout token refused", "provider", plain(r.PathValue("provider")), "from", a.cfg.ClientAddr(r), "error", err)
	message, _ := hub.Public(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": message}) //nolint:errcheck,errchkjson // the provider may have left
}

func (a *Auth) takeLogout(w http.ResponseWriter, r *http.Request) error {
	const op = "back-channel logout"
	p, ok := a.provider(r.PathValue("provider"))
	if !ok {
		return &hub.Error{Kind: hub.NotFound, Op: op, Message: "there is no such provider"}
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxLogoutBody)
	if err := r.ParseForm(); err != nil || len(r.PostForm["logout_token"]) != 1 {
		return &hub.Error{Kind: hub.Invalid, Op: op, Message: "the body is no form with one logout_token", Err: err}
	}
	ctx := r.Context()
	d, err := p.discover(ctx)
	if err != nil {
		return err
	}
	t, err := p.verifyLogout(ctx, d, r.PostForm.Get("logout_token"))
	if err != nil {
		return err
	}
	key := "oidc-logout:" + string(hub.NewSecret(p.cfg.Issuer+"\x00"+t.id).Hash())
	first, err := a.cfg.Tickets.Once(ctx, key, t.expires.Sub(a.cfg.Now())+2*clockSkew)
	if err != nil {
		return err
	}
	if !first {
		return &hub.Error{Kind: hub.Invalid, Op: op, Message: "this logout token was used before"}
	}
	ended, err := a.endAt(ctx, p, t.subject, t.sid)
	if err != nil {
		return err
	}
	a.cfg.Logger.InfoContext(ctx, "signed out by the provider", "provider", p.cfg.Name, "sessions", ended)
	return nil
}

// endAt ends the sessions of a subject or of a provider session, those under way too. A provider that
// names the session at sign-out but not at sign-in means all that we can't tell apart, which is for
// the store to find (see hub.SessionQuery).
func (a *Auth) endAt(ctx context.Context, p *provider, subject, sid string) (int, error) {
	// The logout token counts once, so a store that stumbles is asked again here, not by the provider.
	var hashes []hub.SecretHash
	err := retry(ctx, func() (err error) {
		hashes, err = a.cfg.Sessions.EndSessions(ctx, hub.SessionQuery{Identity: hub.Identity{Issuer: p.cfg.Issuer, Subject: subject}, SID: sid})
		return err
	})
	return len(hashes), err
}

func retry(ctx context.Context, do func() error) error {
	for pause := 50 * time.Millisecond; ; pause *= 4 {
		err := do()
		if err == nil || hub.KindOf(err) != hub.Unavailable || pause > 2*time.Second {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// frontChannel ends the session that a provider's page names in a frame (OpenID Connect
// Front-Channel Logout 1.0). It is not authenticated, so it wants a session id, which cannot be
// guessed, and is slowed; and it is there only where the operator asked for it.
func (a *Auth) frontChannel(w http.ResponseWriter, r *http.Request, p *provider) error {
	const op = "front-channel logout"
	if !p.cfg.FrontChannel {
		return &hub.Error{Kind: hub.NotFound, Op: op, Message: "front-channel logout is switched off", Remedy: "use back-channel logout, or set front_channel: true"}
	}
	reply, err := single(r.URL.RawQuery)
	if err != nil {
		return err
	}
	sid := reply["sid"]
	if reply["iss"] != p.cfg.Issuer || sid == "" || len(sid) > 255 {
		return &hub.Error{Kind: hub.Invalid, Op: op, Message: "iss and sid must name the provider and one of its sessions"}
	}
	if !a.front.Allow() {
		return &hub.Error{Kind: hub.TooMany, Op: op, Message: "too many sign-outs at once", Remedy: "try again in a few seconds"}
	}
	if _, err := a.endAt(r.Context(), p, "", sid); err != nil {
		return err
	}
	if u, err := url.Parse(p.cfg.Issuer); err == nil {
		w.Header().Set("Content-Security-Policy", "default-src 'none'; frame-ancestors "+u.Scheme+"://"+u.Host)
	}
	w.Header().Del("X-Frame-Options")
	w.WriteHeader(http.StatusOK)
	return nil
}
