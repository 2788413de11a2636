package oidc

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"carrel/hub"
	"carrel/hub/devidp"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the demo provider's library logs refusals there
	os.Exit(m.Run())
}

const demoPassword = "bofu-kame-rilo-dazu"

// demo is the demo provider, listening.
type demo struct {
	p    *devidp.Provider
	url  string
	down atomic.Bool
}

func demoPeople(groups ...string) []devidp.Person {
	return []devidp.Person{{Name: "alice", DisplayName: "Alice", Email: "alice@example.org", Groups: groups, Password: hub.NewSecret(demoPassword)}}
}

// listen takes an address before the hub's is known.
func (d *demo) listen(t testing.TB) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	t.Cleanup(srv.Close)
	d.url = "http://" + srv.Listener.Addr().String() + "/idp"
	return srv
}

// start runs the provider for a hub whose configuration names it so.
func (d *demo) start(t testing.TB, srv *httptest.Server, h *testHub, name, secret string) {
	t.Helper()
	at := h.url + "/hub/oidc/" + name + "/"
	var err error
	d.p, err = devidp.New(devidp.Config{
		Issuer: d.url, Dir: t.TempDir(), People: demoPeople("staff"),
		Clients: []devidp.Client{{
			ID: testClient, Secret: hub.NewSecret(secret), RedirectURIs: []string{at + "callback"},
			PostLogoutRedirectURIs: []string{at + "logged-out"}, BackChannelLogoutURI: at + "backchannel-logout",
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if d.down.Load() {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		d.p.ServeHTTP(w, r)
	})
	srv.Start()
}

// newDemoHub is a hub that signs in with the demo provider.
func newDemoHub(t testing.TB) (*testHub, *demo) {
	t.Helper()
	d := &demo{}
	srv := d.listen(t)
	h := newHub(t, nil, ProviderConfig{
		Name: "demo", Issuer: d.url, ClientID: testClient, ClientSecret: hub.NewSecret(testSecret),
		Allowed: Allowed{Groups: []string{"staff"}}, RefreshEvery: 10 * time.Minute,
	})
	d.start(t, srv, h, "demo", testSecret)
	return h, d
}

func (h *testHub) demoSignIn(b *browser) page {
	h.t.Helper()
	at := b.get(h.url + "/hub/oidc/demo/login?next=/hub/home")
	if at.url.Hostname() == "localhost" {
		return at
	}
	return b.submit(at, map[string]string{"username": "alice", "password": demoPassword})
}

func TestKeyRotation(t *testing.T) {
	h, d := newDemoHub(t)
	for i, forget := range []bool{false, true, true} {
		b := newBrowser(t)
		if at := h.demoSignIn(b); at.body != "home" {
			t.Fatalf("sign-in %d: %s (%d) %s", i, at.url, at.status, at.body)
		}
		if err := d.p.RotateKey(t.Context(), forget); err != nil {
			t.Fatal(err)
		}
		// A logout token by the new key ends it.
		h.clock.advance(time.Minute)
		if err := d.p.SignOut(t.Context(), "alice"); err != nil {
			t.Fatal(err)
		}
		if _, ok := h.session(b); ok {
			t.Errorf("rotation %d: the back channel did not end the session", i)
		}
		h.clock.advance(-time.Minute)
		time.Sleep(2 * time.Millisecond) // the store's tombstone has milliseconds, and is of the real clock
	}
}

func TestDemoOutage(t *testing.T) {
	h, d := newDemoHub(t)
	d.down.Store(true)
	if at := h.demoSignIn(newBrowser(t)); at.status != http.StatusServiceUnavailable {
		t.Fatalf("while it is down: %d", at.status)
	}
	d.down.Store(false)
	h.clock.advance(retryDiscovery)
	b := newBrowser(t)
	if at := h.demoSignIn(b); at.body != "home" {
		t.Fatalf("once it is up: %s %d %s", at.url, at.status, at.body)
	}
	d.down.Store(true)
	h.clock.advance(11 * time.Minute)
	h.round()
	if _, ok := h.session(b); !ok {
		t.Error("the outage ended a session")
	}
	d.down.Store(false)
	if err := d.p.SetPeople(demoPeople("staff", "physics")); err != nil {
		t.Fatal(err)
	}
	h.round()
	if s, ok := h.session(b); !ok || !slices.Equal(s.Groups, []string{"physics", "staff"}) {
		t.Errorf("groups after the outage: %v %v", ok, s.Groups)
	}
	if err := d.p.SetPeople(nil); err != nil {
		t.Fatal(err)
	}
	h.clock.advance(11 * time.Minute)
	h.round()
	if _, ok := h.session(b); ok {
		t.Error("somebody whom the provider dropped is still signed in")
	}
}

// TestBackChannelIsFast: issue and attack 47: within a second.
func TestBackChannelIsFast(t *testing.T) {
	h, d := newDemoHub(t)
	var browsers []*browser
	for range 3 {
		b := newBrowser(t)
		h.demoSignIn(b)
		if _, ok := h.session(b); !ok {
			t.Fatal("not signed in")
		}
		browsers = append(browsers, b)
	}
	began := time.Now()
	if err := d.p.SignOut(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
	for _, b := range browsers {
		if _, ok := h.session(b); ok {
			t.Error("a session goes on")
		}
	}
}
