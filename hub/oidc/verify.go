package oidc

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"

	"carrel/hub"
)

// clockSkew is how far a provider's clock may be ahead of ours.
const clockSkew = 5 * time.Minute

// unverified is the error for an answer that is not what the provider's specification says. The
// cause is for the log: it tells an attacker nothing.
func unverified(p *provider, cause error) error {
	return &hub.Error{
		Kind: hub.Forbidden, Op: "verify sign-in", Message: "what " + p.cfg.Title + " said of you could not be verified",
		Remedy: "begin again at the sign-in page; if it happens again, tell your administrator", Err: cause,
	}
}

func sameText(a, b string) bool {
	return a != "" && subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

// verify checks an ID token: signature, algorithm, issuer, audience and times by go-oidc; then what
// it leaves to us (OpenID Connect Core 1.0, section 3.1.3.7). The nonce is the caller's.
func (p *provider) verify(ctx context.Context, d *discovered, raw, access string) (*gooidc.IDToken, map[string]any, error) {
	if raw == "" {
		return nil, nil, unverified(p, errors.New("there is no ID token"))
	}
	if typ := tokenType(raw); typ != "" && typ != "jwt" {
		return nil, nil, unverified(p, errors.New("a token of type "+plain(typ)+" is no ID token"))
	}
	var fetch error
	id, err := d.signIn.Verify(context.WithValue(ctx, fetchKey{}, &fetch), raw)
	if fetch != nil {
		return nil, nil, p.away(fetch)
	}
	if err != nil {
		return nil, nil, unverified(p, err)
	}
	var claims map[string]any
	if err := id.Claims(&claims); err != nil {
		return nil, nil, unverified(p, errors.New("the claims are malformed"))
	}
	if id.Issuer != p.cfg.Issuer { // go-oidc takes Google's older spelling for its own
		return nil, nil, unverified(p, errors.New("the issuer is another"))
	}
	azp, named := claims["azp"]
	if len(id.Audience) > 1 && !named || named && azp != p.cfg.ClientID {
		return nil, nil, unverified(p, errors.New("the token is for another party"))
	}
	if id.Subject == "" || len(id.Subject) > 255 {
		return nil, nil, unverified(p, errors.New("the subject is empty or too long"))
	}
	if id.IssuedAt.After(p.now().Add(clockSkew)) {
		return nil, nil, unverified(p, errors.New("the token is from the future"))
	}
	if id.AccessTokenHash != "" {
		if err := id.VerifyAccessToken(access); err != nil {
			return nil, nil, unverified(p, errors.New("at_hash is not the access token's"))
		}
	}
	return id, claims, nil
}

// tokenType is the typ of a token's header, in small letters; a malformed header has "?".
func tokenType(raw string) string {
	head, _, _ := strings.Cut(raw, ".")
	b, err := base64.RawURLEncoding.DecodeString(head)
	var h struct {
		Typ string `json:"typ"`
	}
	if err != nil || json.Unmarshal(b, &h) != nil {
		return "?"
	}
	return strings.TrimPrefix(strings.ToLower(h.Typ), "application/")
}

// logoutToken is a verified one.
type logoutToken struct {
	subject string
	sid     string
	id      string
	issued  time.Time
	expires time.Time
}

// verifyLogout checks a logout token (OpenID Connect Back-Channel Logout 1.0, section 2.6). That its
// id was not used before is the caller's to check.
func (p *provider) verifyLogout(ctx context.Context, d *discovered, raw string) (logoutToken, error) {
	bad := func(cause string) (logoutToken, error) {
		return logoutToken{}, &hub.Error{Kind: hub.Invalid, Op: "verify logout token", Message: "the logout token is not valid", Err: errors.New(cause)}
	}
	if typ := tokenType(raw); !slices.Contains([]string{"", "jwt", "logout+jwt"}, typ) {
		return bad("a token of type " + plain(typ) + " is no logout token")
	}
	var fetch error
	ctx = context.WithValue(ctx, fetchKey{}, &fetch)
	t, claims, err := d.readLogout(ctx, raw)
	if fetch != nil {
		return logoutToken{}, p.away(fetch)
	}
	if err != nil {
		return bad(err.Error())
	}
	// go-oidc asks for the event and refuses a nonce, but reads names in any case and takes any value.
	var events map[string]map[string]any
	if json.Unmarshal(claims["events"], &events) != nil || events["http://schemas.openid.net/event/backchannel-logout"] == nil {
		return bad("the event is missing or no object")
	}
	now := p.now()
	switch {
	case t.issued.Unix() <= 0 || t.issued.After(now.Add(clockSkew)):
		return bad("iat is missing or in the future")
	case t.expires.Before(now):
		return bad("the token is over")
	case t.expires.Sub(t.issued) > 24*time.Hour:
		return bad("the token lives too long for its use to be remembered")
	case len(t.subject) > 255 || len(t.sid) > 255 || len(t.id) > 1024:
		return bad("a claim is too long")
	}
	return t, nil
}

// undatedLifetime is how long a logout token without exp counts from its iat. The drafts before the
// final specification had none, and providers such as Glewlwyd still send them so.
const undatedLifetime = 2 * time.Minute

// readLogout verifies a logout token's signature, issuer, audience and form.
func (d *discovered) readLogout(ctx context.Context, raw string) (logoutToken, map[string]json.RawMessage, error) {
	var claims map[string]json.RawMessage
	t, err := d.backch.VerifyLogout(ctx, raw)
	if err == nil {
		err = t.Claims(&claims)
		return logoutToken{t.Subject, t.SessionID, t.TokenID, t.IssuedAt, t.Expiry}, claims, err
	}
	undated, undatedErr := d.undated.Verify(ctx, raw)
	if undatedErr != nil || undated.Claims(&claims) != nil {
		return logoutToken{}, nil, err
	}
	var rest struct {
		ID  string `json:"jti"`
		SID string `json:"sid"`
	}
	_, dated := claims["exp"]
	_, nonce := claims["nonce"]
	if undated.Claims(&rest) != nil || dated || nonce || rest.ID == "" || undated.Subject == "" && rest.SID == "" {
		return logoutToken{}, nil, err
	}
	return logoutToken{undated.Subject, rest.SID, rest.ID, undated.IssuedAt, undated.IssuedAt.Add(undatedLifetime)}, claims, nil
}
