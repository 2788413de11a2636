package devidp

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"carrel/hub"
)

const (
	accessLifetime  = 5 * time.Minute
	idTokenLifetime = 15 * time.Minute
)

// Purposes of sealed tokens.
const (
	accessToken  = "access"
	refreshToken = "refresh"
)

// storage is the provider as op sees it.
type storage struct{ p *Provider }

var (
	_ op.Storage                        = (*storage)(nil)
	_ op.CanSetUserinfoFromRequest      = (*storage)(nil)
	_ op.CanTerminateSessionFromRequest = (*storage)(nil)
)

// CreateAuthRequest begins a sign-in. PKCE with S256 is required of everybody.
func (s *storage) CreateAuthRequest(ctx context.Context, r *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	if r.CodeChallenge == "" || r.CodeChallengeMethod != oidc.CodeChallengeMethodS256 {
		return nil, oidc.ErrInvalidRequest().WithDescription("PKCE with the method S256 is required")
	}
	if slices.Contains(r.Prompt, oidc.PromptNone) {
		return nil, oidc.ErrLoginRequired()
	}
	browser, ok := ctx.Value(browserKey{}).(hub.SecretHash)
	if !ok {
		return nil, oidc.ErrServerError()
	}
	a := &authRequest{id: rand.Text(), browser: browser, created: time.Now(), AuthRequest: *r}
	a.fresh = r.MaxAge != nil && *r.MaxAge == 0 || slices.Contains(r.Prompt, oidc.PromptLogin) || slices.Contains(r.Prompt, oidc.PromptSelectAccount)
	s.p.pending.add(a)
	return a, nil
}

// AuthRequestByID finds a sign-in under way.
func (s *storage) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	a, err := s.p.pending.get(id)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// AuthRequestByCode takes the code: it counts once.
func (s *storage) AuthRequestByCode(_ context.Context, code string) (op.AuthRequest, error) {
	a, err := s.p.pending.takeCode(code)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// SaveAuthCode keeps a code's hash.
func (s *storage) SaveAuthCode(_ context.Context, id, code string) error {
	s.p.pending.saveCode(id, code)
	return nil
}

// DeleteAuthRequest forgets a sign-in that is over.
func (s *storage) DeleteAuthRequest(_ context.Context, id string) error {
	s.p.pending.drop(id)
	return nil
}

// grantOf reads what tokens are asked for.
func (s *storage) grantOf(request op.TokenRequest) (grant, error) {
	var g grant
	switch r := request.(type) {
	case *authRequest:
		g = grant{Person: r.person, Client: r.ClientID, SID: r.sid, AuthTime: r.authTime}
	case *refreshRequest:
		g = r.grant
	default:
		return grant{}, oidc.ErrUnsupportedGrantType()
	}
	g.Scopes = request.GetScopes()
	if !s.p.state.live(g.SID, g.Person) {
		return grant{}, oidc.ErrInvalidGrant().WithDescription("the session is over")
	}
	return g, s.p.state.tokensFor(g.SID, g.Client)
}

// CreateAccessToken makes one.
func (s *storage) CreateAccessToken(_ context.Context, request op.TokenRequest) (string, time.Time, error) {
	g, err := s.grantOf(request)
	if err != nil {
		return "", time.Time{}, err
	}
	g.Expires = time.Now().Add(accessLifetime)
	id, err := s.p.state.seal(accessToken, g)
	return id, g.Expires, err
}

// CreateAccessAndRefreshTokens makes both. The refresh token counts as long as the session.
func (s *storage) CreateAccessAndRefreshTokens(ctx context.Context, request op.TokenRequest, current string) (string, string, time.Time, error) {
	id, expires, err := s.CreateAccessToken(ctx, request)
	if err != nil || current != "" {
		return id, current, expires, err
	}
	g, err := s.grantOf(request)
	if err != nil {
		return "", "", time.Time{}, err
	}
	g.Expires = time.Now().Add(sessionLifetime)
	refresh, err := s.p.state.seal(refreshToken, g)
	return id, refresh, expires, err
}

// open reads a token that still counts.
func (s *storage) open(purpose, token string) (grant, error) {
	var g grant
	if err := s.p.state.open(purpose, token, &g); err != nil {
		return grant{}, err
	}
	if _, known := s.p.person(g.Person); !known || time.Now().After(g.Expires) || !s.p.state.live(g.SID, g.Person) {
		return grant{}, errors.New("the session is over")
	}
	return g, nil
}

// TokenRequestByRefreshToken reads a refresh token.
func (s *storage) TokenRequestByRefreshToken(_ context.Context, token string) (op.RefreshTokenRequest, error) {
	g, err := s.open(refreshToken, token)
	if err != nil {
		return nil, err
	}
	return &refreshRequest{g}, nil
}

// TerminateSession is op's older form of [storage.TerminateSessionFromRequest], which it prefers.
func (s *storage) TerminateSession(ctx context.Context, person, client string) error {
	return s.p.endSessions(ctx, func(o loginSession) bool { return o.Person == person && slices.Contains(o.Clients, client) })
}

// TerminateSessionFromRequest ends the session that the ID token of the request was issued in.
func (s *storage) TerminateSessionFromRequest(ctx context.Context, r *op.EndSessionRequest) (string, error) {
	if c := r.IDTokenHintClaims; c != nil {
		sid := c.SessionID
		if sid == "" {
			sid, _ = c.Claims["sid"].(string)
		}
		if err := s.p.endSessions(ctx, func(o loginSession) bool { return sid != "" && o.SID == sid && o.Person == r.UserID }); err != nil {
			return "", err
		}
	}
	return r.RedirectURI, nil
}

// RevokeToken ends the session of a refresh token.
func (s *storage) RevokeToken(ctx context.Context, token, _, client string) *oidc.Error {
	g, err := s.open(refreshToken, token)
	if err != nil {
		return nil // unknown tokens are revoked already (RFC 7009, section 2.2)
	}
	if g.Client != client {
		return oidc.ErrInvalidClient()
	}
	if err := s.p.endSessions(ctx, func(o loginSession) bool { return o.SID == g.SID }); err != nil {
		return oidc.ErrServerError()
	}
	return nil
}

// GetRefreshTokenInfo reads a refresh token.
func (s *storage) GetRefreshTokenInfo(_ context.Context, _, token string) (string, string, error) {
	g, err := s.open(refreshToken, token)
	if err != nil {
		return "", "", op.ErrInvalidRefreshToken
	}
	return g.Person, token, nil
}

// SigningKey is the newest key.
func (s *storage) SigningKey(context.Context) (op.SigningKey, error) {
	keys := s.p.state.signingKeys()
	return keys[len(keys)-1], nil
}

// SignatureAlgorithms is RS256.
func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

// KeySet is every key whose signatures count.
func (s *storage) KeySet(context.Context) ([]op.Key, error) {
	var keys []op.Key
	for _, k := range s.p.state.signingKeys() {
		keys = append(keys, publicKey{k})
	}
	return keys, nil
}

// GetClientByClientID finds a client.
func (s *storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	c, ok := s.p.client(id)
	if !ok {
		return nil, errors.New("unknown client")
	}
	return client{c, s.p.cfg.Issuer}, nil
}

// AuthorizeClientIDSecret checks a client's secret.
func (s *storage) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	return s.p.checkSecret(id, secret)
}

// SetUserinfoFromScopes is empty, as op asks.
func (s *storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

// SetUserinfoFromRequest fills an ID token.
func (s *storage) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, r op.IDTokenRequest, scopes []string) error {
	if with, ok := r.(interface{ SessionID() string }); ok {
		info.AppendClaims("sid", with.SessionID())
	}
	return s.claims(info, r.GetSubject(), scopes)
}

// SetUserinfoFromToken answers at the userinfo endpoint.
func (s *storage) SetUserinfoFromToken(_ context.Context, info *oidc.UserInfo, token, subject, _ string) error {
	g, err := s.open(accessToken, token)
	if err != nil || g.Person != subject {
		return oidc.ErrAccessDenied()
	}
	return s.claims(info, g.Person, g.Scopes)
}

func (s *storage) claims(info *oidc.UserInfo, name string, scopes []string) error {
	one, ok := s.p.person(name)
	if !ok {
		return oidc.ErrAccessDenied().WithDescription("this person is gone")
	}
	info.Subject = one.Name
	for _, scope := range scopes {
		switch scope {
		case oidc.ScopeProfile:
			info.PreferredUsername, info.Name = one.Name, one.DisplayName
		case oidc.ScopeEmail:
			if one.Email != "" {
				info.Email, info.EmailVerified = one.Email, true
			}
		case "groups":
			info.AppendClaims("groups", append([]string{}, one.Groups...))
		}
	}
	return nil
}

// SetIntrospectionFromToken is not offered: nobody introspects demo tokens.
func (s *storage) SetIntrospectionFromToken(context.Context, *oidc.IntrospectionResponse, string, string, string) error {
	return errors.New("introspection is not offered")
}

// GetPrivateClaimsFromScopes is empty: access tokens are opaque.
func (s *storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil
}

// GetKeyByIDAndClientID fails: clients have secrets, not keys.
func (s *storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errors.New("clients have no keys")
}

// ValidateJWTProfileScopes grants nothing.
func (s *storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, errors.New("the JWT profile is not offered")
}

// Health is good.
func (s *storage) Health(context.Context) error { return nil }

// client implements op.Client.
type client struct {
	Client
	issuer string
}

func (c client) GetID() string                       { return c.ID }
func (c client) RedirectURIs() []string              { return c.Client.RedirectURIs }
func (c client) PostLogoutRedirectURIs() []string    { return c.Client.PostLogoutRedirectURIs }
func (c client) ApplicationType() op.ApplicationType { return op.ApplicationTypeWeb }
func (c client) AuthMethod() oidc.AuthMethod         { return oidc.AuthMethodBasic }
func (c client) ResponseTypes() []oidc.ResponseType {
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}
func (c client) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken}
}
func (c client) LoginURL(id string) string                                    { return c.issuer + "/login?id=" + id }
func (c client) AccessTokenType() op.AccessTokenType                          { return op.AccessTokenTypeBearer }
func (c client) IDTokenLifetime() time.Duration                               { return idTokenLifetime }
func (c client) DevMode() bool                                                { return false }
func (c client) RestrictAdditionalIdTokenScopes() func([]string) []string     { return all }
func (c client) RestrictAdditionalAccessTokenScopes() func([]string) []string { return all }
func (c client) IsScopeAllowed(scope string) bool                             { return scope == "groups" }
func (c client) IDTokenUserinfoClaimsAssertion() bool                         { return true }
func (c client) ClockSkew() time.Duration                                     { return 0 }

func all(scopes []string) []string { return scopes }
