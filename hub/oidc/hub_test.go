package oidc

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"carrel/hub"
)

// clock is a clock that tests set.
type clock struct {
	mu sync.Mutex
	by time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.by)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.by += d
}

// testHub is a hub's sign-in, listening, with a home page that shows nothing.
type testHub struct {
	t     testing.TB
	auth  *Auth
	url   string // without a trailing slash
	store *counted
	notes notes
	clock *clock
}

// newHub serves sign-in on localhost. The providers' addresses are on 127.0.0.1, so that the cookies of
// the two do not mix.
func newHub(t testing.TB, change func(*Config), providers ...ProviderConfig) *testHub {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	t.Cleanup(srv.Close)
	h := &testHub{t: t, url: hubAddress(srv), store: newStores(t), notes: notes{}, clock: &clock{}}
	cfg := h.config(providers...)
	if change != nil {
		change(&cfg)
	}
	var err error
	if h.auth, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	h.auth.Mount(mux)
	mux.HandleFunc("GET /hub/home", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "home") })
	mux.HandleFunc("GET /hub/signed-out", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "signed out") })
	srv.Config.Handler = http.NewCrossOriginProtection().Handler(mux)
	srv.Start()
	return h
}

func hubAddress(srv *httptest.Server) string {
	return fmt.Sprintf("http://localhost:%d", srv.Listener.Addr().(*net.TCPAddr).Port)
}

func (h *testHub) config(providers ...ProviderConfig) Config {
	h.t.Helper()
	origins, err := hub.NewOrigins(hub.OneOrigin, h.url, "")
	if err != nil {
		h.t.Fatal(err)
	}
	keyring, err := hub.NewKeyring("test", []byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		h.t.Fatal(err)
	}
	return Config{
		Providers: providers, Origins: origins, Keyring: keyring, Sessions: h.store, Tickets: h.store, Users: h.store,
		Leases: h.store, Bindings: h.notes, Now: h.clock.now, Idle: 24 * time.Hour,
		RenderError: func(w http.ResponseWriter, _ *http.Request, err error) {
			message, remedy := hub.Public(err)
			status := map[hub.Kind]int{hub.Invalid: 422, hub.Forbidden: 403, hub.NotFound: 404, hub.Unavailable: 503, hub.TooMany: 429}[hub.KindOf(err)]
			if status == 0 {
				status = 500
			}
			http.Error(w, message+" | "+remedy, status)
		},
	}
}

// begin starts a sign-in and gives the provider's address with all that we send there.
func (h *testHub) begin(b *browser, provider, next string) url.Values {
	h.t.Helper()
	p := b.step(h.url + "/hub/oidc/" + provider + "/login?next=" + url.QueryEscape(next))
	if p.status != http.StatusFound {
		h.t.Fatalf("login answered %d: %s", p.status, p.body)
	}
	u, err := url.Parse(p.header.Get("Location"))
	if err != nil {
		h.t.Fatal(err)
	}
	return u.Query()
}

// finish brings the provider's answer to the callback.
func (h *testHub) finish(b *browser, provider string, answer url.Values) page {
	h.t.Helper()
	return b.step(h.url + "/hub/oidc/" + provider + "/callback?" + answer.Encode())
}

// session is the one that the browser's cookie names.
func (h *testHub) session(b *browser) (hub.Session, bool) {
	h.t.Helper()
	value := b.cookies(h.url + "/")[hub.CookieSession]
	if value == "" {
		return hub.Session{}, false
	}
	s, err := h.store.Session(h.t.Context(), hub.NewSecret(value).Hash())
	return s, err == nil
}

// refused asserts that an answer signed nobody in.
func (h *testHub) refused(b *browser, p page, status int) {
	h.t.Helper()
	if p.status != status {
		h.t.Errorf("status %d, want %d: %s", p.status, status, p.body)
	}
	for _, c := range p.header.Values("Set-Cookie") {
		if strings.HasPrefix(c, hub.CookieSession+"=") {
			h.t.Error("a session cookie was set")
		}
	}
	if _, ok := h.session(b); ok || len(h.store.sessions(h.t)) > 0 {
		h.t.Error("there is a session")
	}
}
