package devidp

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"carrel/hub"
)

const (
	requestLifetime = 10 * time.Minute
	codeLifetime    = time.Minute
	maxPending      = 1000
)

// authRequest is a sign-in under way; it implements op.AuthRequest.
type authRequest struct {
	id       string
	browser  hub.SecretHash // the browser that began it
	created  time.Time
	person   string
	sid      string
	authTime time.Time
	fresh    bool // the client wants the password asked for again
	oidc.AuthRequest
}

// GetID is the request's id.
func (a *authRequest) GetID() string { return a.id }

// GetACR is empty: there is one way to sign in.
func (a *authRequest) GetACR() string { return "" }

// GetAMR names the way.
func (a *authRequest) GetAMR() []string { return []string{"pwd"} }

// GetAudience is the client.
func (a *authRequest) GetAudience() []string { return []string{a.ClientID} }

// GetAuthTime is when the password was given.
func (a *authRequest) GetAuthTime() time.Time { return a.authTime }

// GetClientID is the client.
func (a *authRequest) GetClientID() string { return a.ClientID }

// GetCodeChallenge is the challenge that the token request must answer.
func (a *authRequest) GetCodeChallenge() *oidc.CodeChallenge {
	return &oidc.CodeChallenge{Challenge: a.CodeChallenge, Method: a.CodeChallengeMethod}
}

// GetNonce is the client's.
func (a *authRequest) GetNonce() string { return a.Nonce }

// GetScopes are those asked for.
func (a *authRequest) GetScopes() []string { return a.Scopes }

// GetSubject is the person.
func (a *authRequest) GetSubject() string { return a.person }

// Done tells whether somebody signed in.
func (a *authRequest) Done() bool { return a.person != "" }

// SessionID is the provider session's.
func (a *authRequest) SessionID() string { return a.sid }

// refreshRequest implements op.RefreshTokenRequest.
type refreshRequest struct{ grant }

// grant is what an access or refresh token stands for; the token is the sealed grant, so that it
// outlives a restart. It counts as long as its session.
type grant struct {
	Person   string    `json:"p"`
	Client   string    `json:"c"`
	SID      string    `json:"s"`
	Scopes   []string  `json:"o"`
	AuthTime time.Time `json:"t"`
	Expires  time.Time `json:"e"`
}

// GetAMR names the way of signing in.
func (g *refreshRequest) GetAMR() []string { return []string{"pwd"} }

// GetAudience is the client.
func (g *refreshRequest) GetAudience() []string { return []string{g.Client} }

// GetAuthTime is when the password was given.
func (g *refreshRequest) GetAuthTime() time.Time { return g.AuthTime }

// GetClientID is the client.
func (g *refreshRequest) GetClientID() string { return g.Client }

// GetScopes are those granted.
func (g *refreshRequest) GetScopes() []string { return g.Scopes }

// GetSubject is the person.
func (g *refreshRequest) GetSubject() string { return g.Person }

// SetCurrentScopes narrows the scopes.
func (g *refreshRequest) SetCurrentScopes(scopes []string) { g.Scopes = scopes }

// SessionID is the provider session's.
func (g *refreshRequest) SessionID() string { return g.SID }

var (
	_ op.AuthRequest         = (*authRequest)(nil)
	_ op.RefreshTokenRequest = (*refreshRequest)(nil)
)

// pending keeps the sign-ins under way and their codes, in memory: after a restart people begin again.
type pending struct {
	mu    sync.Mutex
	byID  map[string]*authRequest
	codes map[hub.SecretHash]issuedCode
}

type issuedCode struct {
	id string
	at time.Time
}

func newPending() *pending {
	return &pending{byID: map[string]*authRequest{}, codes: map[hub.SecretHash]issuedCode{}}
}

var errGone = errors.New("this sign-in is unknown, used or over")

func (p *pending) add(a *authRequest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var oldest *authRequest
	for id, o := range p.byID {
		if time.Since(o.created) > requestLifetime {
			delete(p.byID, id)
		} else if oldest == nil || o.created.Before(oldest.created) {
			oldest = o
		}
	}
	if len(p.byID) >= maxPending {
		delete(p.byID, oldest.id)
	}
	p.byID[a.id] = a
}

// get gives a copy.
func (p *pending) get(id string) (*authRequest, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.byID[id]
	if !ok || time.Since(a.created) > requestLifetime {
		return nil, errGone
	}
	c := *a
	c.Scopes = slices.Clone(a.Scopes)
	return &c, nil
}

// done marks that somebody signed in.
func (p *pending) done(id, person, sid string, at time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.byID[id]
	if !ok {
		return errGone
	}
	a.person, a.sid, a.authTime = person, sid, at
	return nil
}

func (p *pending) saveCode(id, code string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for h, c := range p.codes {
		if time.Since(c.at) > codeLifetime {
			delete(p.codes, h)
		}
	}
	p.codes[hub.NewSecret(code).Hash()] = issuedCode{id, time.Now()}
}

// takeCode finds the request of a code, which no other call will.
func (p *pending) takeCode(code string) (*authRequest, error) {
	h := hub.NewSecret(code).Hash()
	p.mu.Lock()
	c, ok := p.codes[h]
	delete(p.codes, h)
	p.mu.Unlock()
	if !ok || time.Since(c.at) > codeLifetime {
		return nil, errGone
	}
	return p.get(c.id)
}

func (p *pending) drop(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byID, id)
}
