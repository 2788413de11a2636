package devidp

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
)

// account says who is signed in, and lets them sign out.
func (p *Provider) account(w http.ResponseWriter, r *http.Request) {
	v := view{Page: "message", Title: "Carrel's demo provider", Text: "Nobody is signed in here in this browser."}
	if s, ok := p.signedIn(r); ok {
		v = view{Page: "account", Title: "Carrel's demo provider", Name: s.Person}
	}
	p.pages.show(w, http.StatusOK, v)
}

// logout is the button of the account page; the mux refuses it to other origins.
func (p *Provider) logout(w http.ResponseWriter, r *http.Request) {
	if s, ok := p.signedIn(r); ok {
		if err := p.endSessions(r.Context(), func(o loginSession) bool { return o.SID == s.SID }); err != nil {
			p.fail(w, r, err)
			return
		}
	}
	p.setCookie(w, sessionCookie, "", -1)
	http.Redirect(w, r, p.cfg.Issuer+"/signed-out", http.StatusSeeOther)
}

func (p *Provider) signedOut(w http.ResponseWriter, _ *http.Request) {
	p.pages.show(w, http.StatusOK, view{Page: "message", Title: "You are signed out", Text: "The applications that you used have been told."})
}

// endSession lets op verify an ID token hint; without one the person is asked, since any site could
// have sent the browser here (RP-Initiated Logout 1.0, section 2).
func (p *Provider) endSession(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("id_token_hint") == "" {
			p.account(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// SignOut ends all sessions of a person and tells the clients.
func (p *Provider) SignOut(ctx context.Context, name string) error {
	return p.endSessions(ctx, func(o loginSession) bool { return o.Person == name })
}

// endSessions ends what matches and tells every client that got tokens, before it returns.
func (p *Provider) endSessions(ctx context.Context, match func(loginSession) bool) error {
	ended, err := p.state.end(match)
	if err != nil {
		return err
	}
	// The person's browser may leave; the clients are told all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, s := range ended {
		for _, id := range s.Clients {
			c, known := p.client(id)
			if !known || c.BackChannelLogoutURI == "" {
				continue
			}
			wg.Go(func() {
				if err := p.tell(ctx, c, s); err != nil {
					p.cfg.Logger.WarnContext(ctx, "demo provider: a client was not told of a sign-out", "client", c.ID, "error", err)
				}
			})
		}
	}
	wg.Wait()
	return nil
}

// tell sends one logout token (OpenID Connect Back-Channel Logout 1.0, section 2.5).
func (p *Provider) tell(ctx context.Context, c Client, s loginSession) error {
	token, err := p.logoutToken(c, s)
	if err != nil {
		return err
	}
	form := url.Values{"logout_token": {token}}.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.BackChannelLogoutURI, strings.NewReader(form))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := p.cfg.HTTPClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close() // only read
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("%s: %.200q", resp.Status, body)
	}
	return nil
}

func (p *Provider) logoutToken(c Client, s loginSession) (string, error) {
	keys := p.state.signingKeys()
	key := keys[len(keys)-1]
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: &jose.JSONWebKey{Key: key.key, KeyID: key.id}},
		(&jose.SignerOptions{}).WithType("logout+jwt"))
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(oidc.NewLogoutTokenClaims(p.cfg.Issuer, s.Person, oidc.Audience{c.ID}, time.Now().Add(2*time.Minute), rand.Text(), s.SID, 0))
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}
