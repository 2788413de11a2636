package web

import (
	"bytes"
	"context"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"golang.org/x/net/html"

	"carrel/hub"
	"carrel/hub/redisstore"
)

// scriptedServers is the part of the Manager that the pages use, told by a test what runs.
type scriptedServers struct {
	mu      sync.Mutex
	policy  hub.Policy
	servers map[hub.ServerKey]hub.Server
	steps   map[hub.ServerKey][]hub.Progress
	usage   map[hub.ServerKey]hub.Usage
	changed chan struct{} // closed and replaced when steps are added
	starts  []hub.StartRequest
	stops   []string // "key: why"
	fault   error    // of the next starts
}

func newScripted() *scriptedServers {
	return &scriptedServers{
		servers: map[hub.ServerKey]hub.Server{}, steps: map[hub.ServerKey][]hub.Progress{}, usage: map[hub.ServerKey]hub.Usage{}, changed: make(chan struct{}),
		policy: hub.Policy{KernelCheck: true, Profiles: []hub.Profile{
			{Name: "small", Title: "Small", Description: "For reading and light work.", Default: true, DefaultURL: "/lab", Home: "/home/jovyan", Network: hub.NetworkOpen, Limits: hub.Limits{CPUs: 1, Memory: 1 << 30, Disk: 10 << 30}, Cull: hub.CullRule{Idle: time.Hour, Extend: time.Hour, Warning: 10 * time.Minute, MaxAge: 24 * time.Hour}},
			{Name: "large", Title: "Large", Description: "Fits a model.", DefaultURL: "/lab", Home: "/home/jovyan", Network: hub.NetworkOpen, Limits: hub.Limits{CPUs: 8, Memory: 32 << 30, Disk: 100 << 30}},
			{Name: "exam", Title: "Exam", Description: "Cut off from the world.", Network: hub.NetworkNone, Limits: hub.Limits{CPUs: 0.5, Memory: 512 << 20}},
			{Name: "staff", Title: "Staff only", Groups: []string{"staff"}},
		}},
	}
}

func (m *scriptedServers) Policy() hub.Policy { return m.policy }

func (m *scriptedServers) put(s hub.Server) hub.Server {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.servers[s.Key] = s
	return s
}

func (m *scriptedServers) tell(key hub.ServerKey, steps ...hub.Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.steps[key] = append(m.steps[key], steps...)
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *scriptedServers) Start(_ context.Context, req hub.StartRequest) (hub.Server, error) {
	if m.fault != nil {
		return hub.Server{}, m.fault
	}
	m.mu.Lock()
	m.starts = append(m.starts, req)
	delete(m.steps, req.Key) // a new start's steps are its own
	m.mu.Unlock()
	return m.put(hub.Server{Key: req.Key, Phase: hub.Queued, Profile: req.Profile, Generation: 1, Revision: 1}), nil
}

// Archive writes what a test can tell from a ZIP.
func (m *scriptedServers) Archive(_ context.Context, key hub.ServerKey, w io.Writer) error {
	if m.fault != nil {
		return m.fault
	}
	_, err := io.WriteString(w, "PK of "+key.String())
	return err
}

// PutServer and its neighbours are what is left of a store where servers are told.
func (m *scriptedServers) PutServer(_ context.Context, s hub.Server) (hub.Server, error) {
	return m.put(s), nil
}

func (m *scriptedServers) DeleteServer(_ context.Context, s hub.Server) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.servers, s.Key)
	return nil
}

func (m *scriptedServers) NextGeneration(_ context.Context, _ hub.ServerKey, least hub.Generation) (hub.Generation, error) {
	return least + 1, nil
}

func (m *scriptedServers) Stop(_ context.Context, key hub.ServerKey, why string) (hub.Server, error) {
	m.mu.Lock()
	m.stops = append(m.stops, key.String()+": "+why)
	m.mu.Unlock()
	return m.put(hub.Server{Key: key, Phase: hub.Absent, Reason: why}), nil
}

func (m *scriptedServers) Wake(_ context.Context, key hub.ServerKey) (hub.Server, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.servers[key]
	if !ok || s.Phase != hub.Paused {
		return s, hub.Errorf(hub.Conflict, "wake server", "this server is not running")
	}
	s.Phase = hub.Ready
	m.servers[key] = s
	return s, nil
}

func (m *scriptedServers) Server(_ context.Context, key hub.ServerKey) (hub.Server, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.servers[key]; ok {
		return s, nil
	}
	return hub.Server{Key: key, Phase: hub.Absent}, nil
}

func (m *scriptedServers) Servers(context.Context) iter.Seq2[hub.Server, error] {
	m.mu.Lock()
	list := slices.Collect(maps.Values(m.servers))
	m.mu.Unlock()
	return func(yield func(hub.Server, error) bool) {
		for _, s := range list {
			if !yield(s, nil) {
				return
			}
		}
	}
}

func (m *scriptedServers) Progress(ctx context.Context, key hub.ServerKey) iter.Seq[hub.Progress] {
	return func(yield func(hub.Progress) bool) {
		for at := 0; ; {
			m.mu.Lock()
			fresh, changed := m.steps[key][at:], m.changed
			m.mu.Unlock()
			for _, p := range fresh {
				if at++; !yield(p) || p.Done {
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}
}

func (m *scriptedServers) Extend(_ context.Context, key hub.ServerKey) (hub.Server, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.servers[key]
	s.CullAt, s.CullWhy = time.Time{}, ""
	m.servers[key] = s
	return s, nil
}

func (m *scriptedServers) use(key hub.ServerKey, u hub.Usage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.usage[key] = u
}

func (m *scriptedServers) SlotStock() (hub.SlotStock, bool) {
	return hub.SlotStock{Ready: 3, Memory: 305 << 20}, true
}

func (m *scriptedServers) Usage(key hub.ServerKey) (hub.Usage, float64, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	u, ok := m.usage[key]
	return u, u.CPUSeconds, ok // a test gives the cores as seconds
}

// scriptedAuth has providers, and signs out at none or one of them.
type scriptedAuth struct {
	providers []Provider
	end       string
}

func (a *scriptedAuth) Providers() []Provider { return a.providers }

func (a *scriptedAuth) LoginPath(provider, next string) string {
	return "/hub/oidc/" + provider + "/login?next=" + url.QueryEscape(next)
}

func (a *scriptedAuth) EndSessionURL(context.Context, hub.Session) (string, bool) {
	return a.end, a.end != ""
}

// site is a hub's pages on real stores.
type site struct {
	t       testing.TB
	web     *Web
	store   *redisstore.Store
	servers *scriptedServers
	auth    *scriptedAuth
	visits  *hub.Visitors
	origins hub.Origins
	handler http.Handler
	secrets map[string]hub.Secret // sessions by person
	guests  map[string]hub.Secret // and by visitor
	sibling *site                 // nil: there is none
	took    []bool                // whether each call took a place there
}

// Room implements [Siblings]: it is what the sibling's hub counts.
func (s *site) Room(ctx context.Context, take bool) (string, bool) {
	s.took = append(s.took, take)
	if s.sibling == nil {
		return "", false
	}
	stats, err := s.sibling.visits.Stats(ctx)
	return s.sibling.origins.HubOrigin() + "/", err == nil && stats.Available() > 0
}

func newSite(t testing.TB, mode hub.OriginMode, public, notebooks string) *site {
	t.Helper()
	origins, err := hub.NewOrigins(mode, public, notebooks)
	if err != nil {
		t.Fatal(err)
	}
	store, err := redisstore.New(redisstore.Config{URL: "redis://" + miniredis.RunT(t).Addr(), Prefix: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, store: store, servers: newScripted(), auth: &scriptedAuth{providers: []Provider{{"one", "One"}, {"two", "Two"}}}, origins: origins, secrets: map[string]hub.Secret{}, guests: map[string]hub.Secret{}}
	keys, err := hub.NewKeyring("test", bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	s.visits, err = hub.NewVisitors(hub.VisitorsConfig{Manager: s.servers, Visits: store, Servers: s.servers, Sessions: store, Tokens: store, Leases: store, Keyring: keys, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.web, err = New(Config{
		Siblings: s, Visits: s.visits, Tokens: store, ClientAddr: func(r *http.Request) string { return r.Header.Get("X-Forwarded-For") },
		Origins: origins, Sessions: store, Tickets: store, Users: store, Activities: store, Servers: s.servers, Auth: s.auth, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	root := strings.TrimSuffix(origins.HubPath(""), "/")
	mux := http.NewServeMux()
	mux.Handle(root+"/", http.StripPrefix(root, s.web.Handler()))
	s.handler = mux
	return s
}

func plainSite(t testing.TB) *site { return newSite(t, hub.Subdomains, "http://localhost:8000/", "") }

func mustKey(t testing.TB, text string) hub.ServerKey {
	t.Helper()
	user, server, _ := strings.Cut(text, "/")
	key, err := hub.ParseServerKey(user, server)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// person makes someone who is signed in.
func (s *site) person(text string, change func(*hub.User)) hub.User {
	s.t.Helper()
	u := hub.User{Name: mustKey(s.t, text).User, ID: hub.UserID("u-" + text), Identity: hub.Identity{Issuer: "https://idp.example", Subject: text}, Created: time.Now()}
	if change != nil {
		change(&u)
	}
	u, err := s.store.BindUser(s.t.Context(), u)
	if err != nil {
		s.t.Fatal(err)
	}
	secret := hub.RandomSecret()
	err = s.store.CreateSession(s.t.Context(), hub.Session{
		Hash: secret.Hash(), User: u.Name, UserID: u.ID, Admin: u.Admin, Groups: u.Groups, Identity: u.Identity,
		Created: time.Now(), LastSeen: time.Now(), Expires: time.Now().Add(time.Hour), Idle: time.Hour, From: "192.0.2.7",
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.secrets[text] = secret
	return u
}

func admin(u *hub.User) { u.Admin = true }

// answer is a response, parsed where it is HTML.
type answer struct {
	*httptest.ResponseRecorder
	doc *html.Node
}

// ask sends a request as who ("" for nobody), as a browser's navigation unless header says otherwise.
func (s *site) ask(who, method, path string, form url.Values, header http.Header) answer {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), method, s.origins.HubOrigin()+path, strings.NewReader(form.Encode()))
	r.Header = http.Header{"Accept": {"text/html"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Site": {"same-origin"}}
	if method == http.MethodPost {
		r.Header.Set("Origin", s.origins.HubOrigin())
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for k, v := range header {
		r.Header[k] = v
		if v == nil {
			r.Header.Del(k)
		}
	}
	if secret, ok := s.guests[who]; ok {
		r.AddCookie(&http.Cookie{Name: s.origins.Cookie(hub.CookieVisitor), Value: secret.Reveal()})
	}
	if secret, ok := s.secrets[who]; ok {
		r.AddCookie(&http.Cookie{Name: s.origins.Cookie(hub.CookieSession), Value: secret.Reveal()})
	}
	p := answer{ResponseRecorder: httptest.NewRecorder()}
	s.handler.ServeHTTP(p, r)
	if strings.HasPrefix(p.Header().Get("Content-Type"), "text/html") {
		doc, err := html.Parse(strings.NewReader(p.Body.String()))
		if err != nil {
			s.t.Fatal(err)
		}
		p.doc = doc
	}
	return p
}

func (s *site) get(who, path string) answer {
	s.t.Helper()
	return s.ask(who, "GET", path, nil, nil)
}

func (s *site) post(who, path string, form url.Values) answer {
	s.t.Helper()
	return s.ask(who, "POST", path, form, nil)
}

// text is what a reader sees.
func (p answer) text() string {
	var b strings.Builder
	if p.doc == nil {
		return ""
	}
	for n := range p.doc.Descendants() {
		if n.Type == html.TextNode && n.Parent.Data != "script" && n.Parent.Data != "style" {
			b.WriteString(n.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

func (p answer) location() string { return p.Header().Get("Location") }

// all are the elements of a tag.
func (p answer) all(tag string) []*html.Node {
	var list []*html.Node
	if p.doc == nil {
		return nil
	}
	for n := range p.doc.Descendants() {
		if n.Type == html.ElementNode && n.Data == tag {
			list = append(list, n)
		}
	}
	return list
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// forms are the addresses of the page's forms.
func (p answer) forms() []string {
	var list []string
	for _, f := range p.all("form") {
		list = append(list, attr(f, "action"))
	}
	return list
}
