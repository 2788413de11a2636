package web

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

func TestNewChecks(t *testing.T) {
	s := plainSite(t)
	whole := s.web.cfg
	for name, drop := range map[string]func(*Config){
		"sessions": func(c *Config) { c.Sessions = nil }, "tickets": func(c *Config) { c.Tickets = nil }, "users": func(c *Config) { c.Users = nil },
		"activities": func(c *Config) { c.Activities = nil }, "servers": func(c *Config) { c.Servers = nil }, "auth": func(c *Config) { c.Auth = nil },
		"logger": func(c *Config) { c.Logger = nil }, "origins": func(c *Config) { c.Origins = hub.Origins{} },
	} {
		c := whole
		drop(&c)
		if _, err := New(c); err == nil {
			t.Errorf("without %s there is no error", name)
		}
	}
}

// TestBelowAPath: behind TLS and a base path every link, redirect, cookie and origin is right.
func TestBelowAPath(t *testing.T) {
	s := newSite(t, hub.Paths, "https://example.org/carrel/", "example.org:8443")
	furnish(s)
	for path, want := range map[string]string{
		"/carrel/hub/":                             "/carrel/hub/home",
		"/carrel/hub/spawn":                        "/carrel/hub/spawn/alice",
		"/carrel/hub/spawn/alice":                  "https://example.org:8443/carrel/user/alice/lab",
		"/carrel/hub/user-redirect/lab?a=b":        "https://example.org:8443/carrel/user/alice/lab?a=b",
		"/carrel/hub/login?next=/hub/home":         "/carrel/hub/home",
		"/carrel/hub/login?next=/carrel/hub/admin": "/carrel/hub/admin",
	} {
		if p := s.get("alice", path); p.Code != http.StatusFound || p.location() != want {
			t.Errorf("%s: %d to %s, want %s", path, p.Code, p.location(), want)
		}
	}
	if p := s.get("", "/carrel/hub/admin?q=a%26b"); p.location() != "/carrel/hub/login?next=%2Fcarrel%2Fhub%2Fadmin%3Fq%3Da%2526b" {
		t.Errorf("nobody is led to %s", p.location())
	}
	for _, path := range []string{"/carrel/hub/home", "/carrel/hub/admin", "/carrel/hub/admin/people"} {
		p := s.get("root", path)
		for _, tag := range []string{"a", "form", "link", "script", "img"} {
			for _, n := range p.all(tag) {
				for _, key := range []string{"href", "src", "action"} {
					if at := attr(n, key); strings.HasPrefix(at, "/") && !strings.HasPrefix(at, "/carrel/hub/") {
						t.Errorf("%s: <%s %s=%q> leads outside", path, tag, key, at)
					}
				}
			}
		}
	}
	p := s.post("alice", "/carrel/hub/logout", nil)
	if c := p.Header().Get("Set-Cookie"); !strings.HasPrefix(c, "__Host-carrel-session=;") || !strings.Contains(c, "Secure") {
		t.Errorf("the cookie is cleared by %q", c)
	}
	if p := s.ask("bob", "POST", "/carrel/hub/stop/bob", nil, http.Header{"Origin": {"https://example.org:8443"}, "Sec-Fetch-Site": {"same-site"}}); p.Code != http.StatusForbidden {
		t.Errorf("the notebooks' port may post to the hub: status %d", p.Code)
	}
}

func TestStatic(t *testing.T) {
	s := plainSite(t)
	home := s.get("", "/hub/login?choose")
	css := attr(home.all("link")[1], "href")
	for _, encoding := range []string{"", "gzip, br"} {
		p := s.ask("", "GET", css, nil, http.Header{"Accept-Encoding": {encoding}, "Sec-Fetch-Mode": {"no-cors"}})
		body := io.Reader(p.Body)
		if encoding != "" {
			var err error
			if body, err = gzip.NewReader(bytes.NewReader(p.Body.Bytes())); err != nil {
				t.Fatal(err)
			}
		}
		text, err := io.ReadAll(body)
		if err != nil || !strings.Contains(string(text), "--paper") || p.Header().Get("Content-Type") != "text/css; charset=utf-8" || p.Header().Get("Cache-Control") != "public, max-age=31536000, immutable" {
			t.Errorf("%q: %v, %v", encoding, p.Header(), err)
		}
	}
	for name, a := range s.web.assets {
		p := s.get("", a.url)
		if p.Code != http.StatusOK || p.Header().Get("Content-Type") == "" {
			t.Errorf("%s: %d %v", name, p.Code, p.Header())
		}
		for _, bad := range []string{"innerHTML", "eval(", "document.write", "insertAdjacentHTML"} {
			if strings.Contains(p.Body.String(), bad) {
				t.Errorf("%s holds %s", name, bad)
			}
		}
	}
	if p := s.get("", strings.Replace(css, "carrel.css", "../templates/home.html", 1)); p.Code == http.StatusOK {
		t.Error("a file elsewhere is served")
	}
}

func TestHealthNeedsNothing(t *testing.T) {
	s := plainSite(t)
	p := s.ask("", "GET", "/hub/health", nil, http.Header{"Sec-Fetch-Mode": nil, "Sec-Fetch-Site": nil})
	if p.Code != http.StatusOK || strings.TrimSpace(p.Body.String()) != `{"status":"ok"}` {
		t.Errorf("%d %s", p.Code, p.Body)
	}
}

func TestStoreAway(t *testing.T) {
	s := plainSite(t)
	furnish(s)
	s.store.Close()
	p := s.get("alice", "/hub/home")
	if p.Code != http.StatusServiceUnavailable || p.Header().Get("Retry-After") == "" || !strings.Contains(p.text(), "Try again") {
		t.Errorf("%d\n%s", p.Code, p.text())
	}
	if p := s.get("alice", "/hub/login?choose"); p.Code != http.StatusOK {
		t.Errorf("the choice of providers: status %d", p.Code)
	}
}

func TestAnnouncementAndTitle(t *testing.T) {
	s := plainSite(t)
	s.person("alice", nil)
	c := s.web.cfg
	c.Title, c.Announcement, c.Logger = "Reading <Room>", "Down on <b>Friday</b>", slog.New(slog.DiscardHandler)
	w, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s.handler = http.StripPrefix("/hub", w.Handler())
	if text := s.get("alice", "/hub/home").text(); !strings.Contains(text, "Down on <b>Friday</b>") || !strings.Contains(text, "My servers · Reading <Room>") {
		t.Errorf("home says\n%s", text)
	}
	if text := s.get("", "/hub/signed-out").text(); strings.Contains(text, "Friday") {
		t.Error("the announcement is for people who are signed in")
	}
}

// TestEdge: what the proxy asks about one server.
func TestEdge(t *testing.T) {
	s := plainSite(t)
	furnish(s)
	long := strings.Repeat("l-", 30) + "x"
	s.servers.put(hub.Server{Key: mustKey(t, long), Phase: hub.Ready, Profile: "small", CullAt: time.Now().Add(time.Minute), CullWhy: "idle", Started: time.Now()})
	edge := s.web.Edge()
	ask := func(method, label string) (int, notice) {
		w := httptest.NewRecorder()
		edge.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/notice/"+label, nil))
		var n notice
		if err := json.Unmarshal(w.Body.Bytes(), &n); err != nil {
			t.Fatalf("%v in %s", err, w.Body)
		}
		return w.Code, n
	}
	if code, n := ask("GET", "alice"); code != 200 || n.CullAt == nil || !n.CanExtend || n.ExtendSeconds != 3600 || n.WarningSeconds != 600 || n.Why == "" {
		t.Errorf("%d %+v", code, n)
	}
	if code, n := ask("POST", "alice"); code != 200 || n.CullAt != nil {
		t.Errorf("after keeping it: %d %+v", code, n)
	}
	if code, n := ask("GET", mustKey(t, long).Label()); code != 200 || n.CullAt == nil {
		t.Errorf("a long name: %d %+v", code, n)
	}
	if code, _ := ask("GET", "no--such-zz"); code != 404 {
		t.Errorf("no such label: %d", code)
	}
	if code, _ := ask("DELETE", "alice"); code != 404 {
		t.Errorf("no such call: %d", code)
	}
	s.servers.put(hub.Server{Key: mustKey(t, long), Phase: hub.Paused})
	for label, want := range map[string]int{mustKey(t, long).Label(): http.StatusNoContent, "alice": http.StatusConflict, "no--such-zz": http.StatusNotFound} {
		w := httptest.NewRecorder()
		edge.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/wake/"+label, nil))
		if w.Code != want {
			t.Errorf("wake %s: %d, want %d", label, w.Code, want)
		}
	}
	if is, err := s.servers.Server(t.Context(), mustKey(t, long)); err != nil || is.Phase != hub.Ready {
		t.Errorf("woken: %s, %v", is.Phase, err)
	}
}
