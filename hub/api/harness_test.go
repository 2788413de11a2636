package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"carrel/hub"
	"carrel/hub/hubtest"
	"carrel/internal/httpx"
)

// site is the API before a real Manager, with a driver, a notebook and a store that can be told to
// fail, and three people: alice, bob and the administrator ada.
type site struct {
	t        *testing.T
	store    *hubtest.Store
	spawner  *hubtest.FakeSpawner
	notebook *hubtest.FakeNotebook
	mu       sync.Mutex
	policy   *hub.Policy
	origins  hub.Origins
	url      string // of <base>hub/api
	api      *API
	traffic  *proxies
	runner   *hubtest.FakeRunner
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, store: hubtest.NewStore(), spawner: hubtest.NewSpawner(), policy: &hub.Policy{
		Profiles:   []hub.Profile{{Name: "small", Image: "i:1", Default: true, Limits: hub.Limits{Memory: 1 << 30}}, {Name: "staff", Image: "i:1", Groups: []string{"staff"}}, {Name: "huge", Image: "i:1", Limits: hub.Limits{Memory: 1 << 50}}},
		MaxPerUser: 2, ConcurrentMax: 4, StartTimeout: 30 * time.Second, MachineMemory: 8 << 30, ReconcileEvery: time.Hour, SweepMaxShare: 1,
		Runs: testRuns(),
	}}
	s.notebook = hubtest.NewNotebook(s.spawner)
	var err error
	if s.origins, err = hub.NewOrigins(hub.Subdomains, "http://hub.localhost:8000/carrel/", "localhost:8000"); err != nil {
		t.Fatal(err)
	}
	keys, err := hub.NewKeyring("test", []byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	manager, err := hub.NewManager(hub.ManagerConfig{
		Spawner: s.spawner, Servers: s.store, Routes: s.store, Users: s.store, Leases: s.store, Events: s.store, Notebook: s.notebook,
		Keyring: keys, Origins: s.origins, Policy: func() hub.Policy { s.mu.Lock(); defer s.mu.Unlock(); return *s.policy }, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.traffic = &proxies{}
	visits, err := hub.NewVisitors(hub.VisitorsConfig{Manager: manager, Visits: s.store, Servers: s.store, Sessions: s.store, Tokens: s.store, Leases: s.store, Keyring: keys, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	s.runner = hubtest.NewRunner()
	runs, err := hub.NewRuns(hub.RunsConfig{Runner: s.runner, Store: s.store, Leases: s.store, Policy: manager.Policy, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Config{
		Runs:   runs,
		Visits: visits, VisitOrigins: []string{journal}, Siblings: room("https://two.example/"), ClientAddr: func(*http.Request) string { return "192.0.2.1" },
		Origins: s.origins, Servers: manager, Sessions: s.store, Tokens: s.store, Users: s.store, Routes: s.store, Meters: meters{manager, s.traffic}, Logger: logger,
		Wrap: func(h func(http.ResponseWriter, *http.Request) error) http.Handler {
			return httpx.Kit{Logger: logger}.Handle(h)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.api = a
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 3)
	go func() { ended <- manager.Run(ctx) }()
	go func() { ended <- visits.Run(ctx) }()
	go func() { ended <- runs.Run(ctx) }()
	server := httptest.NewServer(http.StripPrefix("/carrel/hub/api", a))
	t.Cleanup(func() {
		server.Close()
		cancel()
		for range 3 {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("what runs ended with %v", err)
			}
		}
	})
	s.url = server.URL + "/carrel/hub/api"
	for name, admin := range map[string]bool{"alice": false, "bob": false, "ada": true} {
		s.person(name, admin)
	}
	return s
}

// person signs somebody in for the first time.
func (s *site) person(name string, admin bool) hub.User {
	s.t.Helper()
	u, err := s.store.BindUser(s.t.Context(), hub.User{ID: hub.UserID("id" + name), Name: parse(s.t, name), Identity: hub.Identity{Issuer: "https://idp", Subject: name}, Admin: admin, Groups: []string{"everyone"}, Created: time.Now()})
	if err != nil {
		s.t.Fatal(err)
	}
	return u
}

func parse(t testing.TB, name string) hub.UserName {
	t.Helper()
	u, err := hub.ParseUserName(name)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func serverKey(t testing.TB, user, server string) hub.ServerKey {
	t.Helper()
	k, err := hub.ParseServerKey(user, server)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// token makes a person's token and gives its secret.
func (s *site) token(name string, scopes ...hub.Scope) string {
	s.t.Helper()
	return s.tokenUntil(name, time.Now().Add(time.Hour), scopes...)
}

func (s *site) tokenUntil(name string, expires time.Time, scopes ...hub.Scope) string {
	s.t.Helper()
	secret := hub.RandomSecret()
	u := parse(s.t, name)
	if len(scopes) == 0 {
		scopes = []hub.Scope{hub.ScopeSelf}
	}
	err := s.store.CreateToken(s.t.Context(), hub.Token{ID: string(secret.Hash()[:16]), Hash: secret.Hash(), User: u, UserID: hub.UserID("id" + name), Scopes: scopes, Created: time.Now(), Expires: expires})
	if err != nil {
		s.t.Fatal(err)
	}
	return secret.Reveal()
}

// session signs somebody in in a browser and gives its cookie.
func (s *site) session(name, host string) *http.Cookie {
	s.t.Helper()
	u, err := s.store.User(s.t.Context(), parse(s.t, name))
	if err != nil {
		s.t.Fatal(err)
	}
	secret := hub.RandomSecret()
	err = s.store.CreateSession(s.t.Context(), hub.Session{Hash: secret.Hash(), User: u.Name, UserID: u.ID, Admin: u.Admin, Host: host, Created: time.Now(), LastSeen: time.Now(), Expires: time.Now().Add(time.Hour)})
	if err != nil {
		s.t.Fatal(err)
	}
	return &http.Cookie{Name: s.origins.Cookie(hub.CookieSession), Value: secret.Reveal()}
}

// answer is one, with its body read.
type answer struct {
	status int
	header http.Header
	body   string
	json   map[string]any // of an object
	list   []any          // of an array
}

// do makes a call; edits change the request before it is sent.
func (s *site) do(method, path, body string, edits ...func(*http.Request)) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, edit := range edits {
		edit(req)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	r := answer{status: res.StatusCode, header: res.Header, body: string(raw)}
	if json.Unmarshal(raw, &r.json) != nil {
		json.Unmarshal(raw, &r.list) // an event stream is neither
	}
	return r
}

// as sends a token.
func as(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "token "+token) }
}

// with sets headers, given as name and value in turn.
func with(pairs ...string) func(*http.Request) {
	return func(r *http.Request) {
		for i := 0; i < len(pairs); i += 2 {
			r.Header.Set(pairs[i], pairs[i+1])
		}
	}
}

func cookie(c *http.Cookie) func(*http.Request) { return func(r *http.Request) { r.AddCookie(c) } }

// become waits until a server is in a phase.
func (s *site) become(user, server string, phase hub.Phase) {
	s.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		rec, err := s.store.Server(s.t.Context(), serverKey(s.t, user, server))
		if err == nil && rec.Phase == phase {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s/%s did not become %s: %+v, %v", user, server, phase, rec, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// start starts a server and waits until it is ready.
func (s *site) start(user, server string) {
	s.t.Helper()
	path := "/users/" + user + "/server"
	if server != "" {
		path += "s/" + server
	}
	if r := s.do("POST", path, "", as(s.token(user))); r.status != 202 && r.status != 201 {
		s.t.Fatalf("start: %d %s", r.status, r.body)
	}
	s.become(user, server, hub.Ready)
}

// problem checks an answer's status and the form of what is told.
func (r answer) problem(t *testing.T, what string, status int, field string) {
	t.Helper()
	message, _ := r.json["message"].(string)
	got, _ := r.json["field"].(string)
	if r.status != status || r.json["status"] != float64(status) || message == "" || got != field || r.json["request_id"] == "" {
		t.Errorf("%s: %d %s, want %d with status, message and field %q", what, r.status, r.body, status, field)
	}
	if r.header.Get("Content-Type") != "application/json" || r.header.Get("X-JupyterHub-Version") != Version || r.header.Get("Cache-Control") != "no-store" || r.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%s: headers %v", what, r.header)
	}
}

// room is a sibling that has some.
type room string

// Room implements [Siblings].
func (r room) Room(context.Context, bool) (string, bool) { return string(r), r != "" }
