//go:build integration

package oidc

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"carrel/hub"
	"carrel/internal/program"
)

// real is a provider that somebody else wrote, or that we did for the demo, running.
type real struct {
	config  ProviderConfig
	start   func(*testing.T, *testHub)            // once the hub's address is known
	login   func(*testing.T, *browser, page) page // from its first page to the hub's home
	logout  func(*testing.T, *browser, page) page // from its end-session page to ours
	refresh bool                                  // it gives refresh tokens
}

// TestRealProviders signs somebody in at three independent providers, refreshes, and signs them out
// there, of which the provider tells by its back channel.
func TestRealProviders(t *testing.T) {
	for name, make := range map[string]func(*testing.T) real{"devidp": realDevIDP, "oidc-provider": realNode, "glewlwyd": realGlewlwyd} {
		t.Run(name, func(t *testing.T) { signInAndOut(t, make(t)) })
	}
}

func signInAndOut(t *testing.T, p real) {
	t.Helper()
	p.config.Name, p.config.ClientID, p.config.ClientSecret = "real", testClient, hub.NewSecret("0123456789abcdef0123456789abcdef")
	p.config.Allowed, p.config.RefreshEvery = Allowed{Groups: []string{"staff"}}, 10*time.Minute
	h := newHub(t, nil, p.config)
	p.start(t, h)
	b := newBrowser(t)
	at := b.get(h.url + "/hub/oidc/real/login?next=/hub/home")
	if strings.HasPrefix(at.url.String(), h.url) {
		t.Fatalf("login led to %s (%d): %.500s", at.url, at.status, at.body)
	}
	at = p.login(t, b, at)
	if at.url.String() != h.url+"/hub/home" || at.body != "home" {
		t.Fatalf("sign-in ended at %s (%d): %.1000s\n%s", at.url, at.status, at.body, strings.Join(b.trail, "\n"))
	}
	s, ok := h.session(b)
	if !ok || s.User.String() != "alice" || !slices.Contains(s.Groups, "staff") || s.Identity.Issuer != p.config.Issuer || s.Identity.Subject == "" || s.SID == "" {
		t.Fatalf("session %v: %+v", ok, s)
	}
	if p.refresh {
		before, _ := h.auth.openTokens(s)
		h.clock.advance(11 * time.Minute)
		h.round()
		if s, ok = h.session(b); !ok || !slices.Contains(s.Groups, "staff") {
			t.Fatal("the refresh ended the session")
		}
		if after, _ := h.auth.openTokens(s); before.Refresh == "" || !after.Refreshed.After(before.Refreshed) {
			t.Errorf("nothing was refreshed: refresh token known: %v", before.Refresh != "")
		}
		h.clock.advance(-11 * time.Minute)
	}
	address, ok := h.auth.EndSessionURL(t.Context(), s)
	if !ok {
		t.Fatal("the provider has no end-session endpoint")
	}
	at = p.logout(t, b, b.get(address))
	if at.url.Path != "/hub/signed-out" {
		t.Errorf("sign-out ended at %s (%d): %.1000s\n%s", at.url, at.status, at.body, strings.Join(b.trail, "\n"))
	}
	until(t, "the back channel did not end the session", func() bool { // glewlwyd tells after it answered
		_, ok := h.session(b)
		return !ok
	})
	// The provider has forgotten the browser: it asks again.
	if at = b.get(h.url + "/hub/oidc/real/login"); strings.HasPrefix(at.url.String(), h.url) {
		t.Errorf("signed in again without being asked: %s", at.url)
	}
}

// freeAddress is one on 127.0.0.1, for a server that is told where to listen.
func freeAddress() string { return fmt.Sprintf("127.0.0.1:%d", program.FreePort()) }

// fillIn submits the provider's forms until the hub is reached.
func fillIn(fill map[string]string) func(*testing.T, *browser, page) page {
	return func(t *testing.T, b *browser, at page) page {
		t.Helper()
		for range 5 {
			if at.url.Hostname() == "localhost" || !strings.Contains(at.body, "<form") {
				break
			}
			at = b.submit(at, fill)
		}
		return at
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 200 {
		if ok() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal(what)
}

func answers(address string) func() bool {
	return func() bool {
		resp, err := http.Get(address)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
}

func (h *testHub) at(page string) string { return fmt.Sprintf("%s/hub/oidc/real/%s", h.url, page) }
