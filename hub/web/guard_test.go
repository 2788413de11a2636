package web

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

var errSecret = errors.New("dial tcp 10.0.0.7:6379: hunter2")

// unsafeRequests are all that change something.
var unsafeRequests = map[string]url.Values{
	"/hub/logout": nil, "/hub/servers": {"server": {"x"}}, "/hub/spawn/alice": nil, "/hub/spawn/alice/gpu": nil, "/hub/stop/alice": nil,
	"/hub/stop/alice/gpu": nil, "/hub/keep/alice": nil, "/hub/admin/stop-all": nil, "/hub/admin/sign-out/alice": nil,
	"/hub/tmp": nil, "/hub/tmp/leave": nil,
}

// TestForeignOrigins: a notebook's page is same-site with the hub, so that its cookie comes along.
func TestForeignOrigins(t *testing.T) {
	s := plainSite(t)
	furnish(s)
	s.secrets["alice"] = s.secrets["root"]
	for path, form := range unsafeRequests {
		for name, h := range map[string]http.Header{
			"a notebook's page":          {"Origin": {"http://alice.localhost:8000"}, "Sec-Fetch-Site": {"same-site"}},
			"another port of the host":   {"Origin": {"http://localhost:8001"}, "Sec-Fetch-Site": {"same-site"}},
			"another scheme":             {"Origin": {"https://localhost:8000"}, "Sec-Fetch-Site": {"cross-site"}},
			"another site":               {"Origin": {"http://evil.example"}, "Sec-Fetch-Site": {"cross-site"}},
			"an opaque origin":           {"Origin": {"null"}, "Sec-Fetch-Site": {"cross-site"}},
			"an old browser, elsewhere":  {"Origin": {"http://evil.example"}, "Sec-Fetch-Site": nil},
			"a prefix of ours":           {"Origin": {"http://localhost:8000.evil.example"}, "Sec-Fetch-Site": nil},
			"no word of where from":      {"Origin": nil, "Sec-Fetch-Site": nil},
			"the address bar":            {"Origin": nil, "Sec-Fetch-Site": {"none"}},
			"a lie about the fetch site": {"Origin": {"http://evil.example"}, "Sec-Fetch-Site": {"same-origin"}},
		} {
			if p := s.ask("alice", "POST", path, form, h); p.Code != http.StatusForbidden || !strings.Contains(p.text(), "another site's page") {
				t.Errorf("%s from %s: status %d", path, name, p.Code)
			}
		}
	}
	if len(s.servers.starts)+len(s.servers.stops) > 0 {
		t.Errorf("starts %v, stops %v", s.servers.starts, s.servers.stops)
	}
	// What other pages load, rather than lead to, is refused too; links from anywhere work.
	for _, c := range []struct {
		mode, site string
		status     int
	}{{"no-cors", "same-site", 403}, {"cors", "cross-site", 403}, {"no-cors", "same-origin", 200}, {"navigate", "cross-site", 200}, {"navigate", "same-site", 200}} {
		h := http.Header{"Sec-Fetch-Mode": {c.mode}, "Sec-Fetch-Site": {c.site}}
		if p := s.ask("alice", "GET", "/hub/home", nil, h); p.Code != c.status {
			t.Errorf("GET %s from %s: status %d, want %d", c.mode, c.site, p.Code, c.status)
		}
	}
}

// TestOthersThings: attack 46.
func TestOthersThings(t *testing.T) {
	s := plainSite(t)
	furnish(s)
	for _, path := range []string{"/hub/spawn/alice", "/hub/spawn/alice/gpu", "/hub/spawn-pending/alice/begun", "/hub/spawn-progress/alice/begun", "/hub/admin", "/hub/admin/people", "/hub/admin/stop-all"} {
		if p := s.get("bob", path); p.Code != http.StatusForbidden {
			t.Errorf("bob gets %s: status %d", path, p.Code)
		}
		if p := s.get("", path); p.Code != http.StatusFound || p.location() != "/hub/login?next="+url.QueryEscape(path) {
			t.Errorf("nobody gets %s: %d to %s", path, p.Code, p.location())
		}
		if p := s.ask("", "GET", path, nil, http.Header{"Sec-Fetch-Mode": {"cors"}, "Accept": {"application/json"}}); p.Code != http.StatusUnauthorized || !json.Valid(p.Body.Bytes()) {
			t.Errorf("nobody's script gets %s: %d %s", path, p.Code, p.Body)
		}
	}
	for path, form := range unsafeRequests {
		if path == "/hub/logout" || path == "/hub/servers" || strings.HasPrefix(path, "/hub/tmp") {
			continue
		}
		if p := s.post("bob", path, form); p.Code != http.StatusForbidden {
			t.Errorf("bob posts %s: status %d", path, p.Code)
		}
	}
	if len(s.servers.starts)+len(s.servers.stops) > 0 {
		t.Errorf("starts %v, stops %v", s.servers.starts, s.servers.stops)
	}
}

// TestNext: attack 41.
func TestNext(t *testing.T) {
	s := plainSite(t)
	s.person("alice", nil)
	for _, next := range []string{
		"//evil.example", `/\evil.example`, `\\evil.example`, "https://evil.example/", "javascript:alert(1)", "/\t/evil.example", "///evil.example",
		"/%5cevil.example", "/%2f%2fevil.example", "/../..//evil.example", "http:evil.example", "data:text/html,x", "%2f%2fevil.example", "/\nLocation: //evil.example", "/.//evil.example", "",
	} {
		q := "?next=" + url.QueryEscape(next)
		if p := s.get("alice", "/hub/login"+q); p.location() != "/hub/home" {
			t.Errorf("%q: signed in already, one goes to %q", next, p.location())
		}
		s.auth.providers = []Provider{{"one", "One"}}
		if p := s.get("", "/hub/login"+q); p.location() != "/hub/oidc/one/login?next=%2Fhub%2Fhome" {
			t.Errorf("%q: sign-in begins at %q", next, p.location())
		}
	}
	if p := s.get("", "/hub/login?next=/hub/admin?q=a%2526b"); p.location() != "/hub/oidc/one/login?next=%2Fhub%2Fadmin%3Fq%3Da%2526b" {
		t.Errorf("a next of ours is lost: %q", p.location())
	}
	s.auth.providers = []Provider{{"one", "One"}, {"two", `<script>"Two"`}}
	p := s.get("", "/hub/login?next=/hub/admin")
	var links []string
	for _, a := range p.all("a") {
		links = append(links, attr(a, "href"))
	}
	if !slices.Contains(links, "/hub/oidc/two/login?next=%2Fhub%2Fadmin") || !strings.Contains(p.text(), `<script>"Two"`) {
		t.Errorf("the choice leads to %v", links)
	}
}

func TestSessions(t *testing.T) {
	s := plainSite(t)
	furnish(s)
	// A session of a notebook's host, which its page can't read but its proxy holds, is none here.
	child := hub.RandomSecret()
	parent, err := s.store.Session(t.Context(), s.secrets["alice"].Hash())
	if err != nil {
		t.Fatal(err)
	}
	sub := parent
	sub.Hash, sub.Parent, sub.Host = child.Hash(), parent.Hash, "alice.localhost:8000"
	if err := s.store.CreateSession(t.Context(), sub); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"a notebook host's session": child.Reveal(), "garbage": "x", "empty": "", "a hash": string(parent.Hash), "long": strings.Repeat("A", 4000)} {
		h := http.Header{"Cookie": {hub.CookieSession + "=" + value}}
		if p := s.ask("", "GET", "/hub/home", nil, h); p.Code != http.StatusFound || !strings.HasPrefix(p.location(), "/hub/login?") {
			t.Errorf("%s: %d to %s", name, p.Code, p.location())
		}
	}
	// A script's poll keeps nobody signed in; a page does.
	old := parent
	old.LastSeen = time.Now().Add(-10 * time.Minute)
	if err := s.store.CreateSession(t.Context(), old); err != nil { // in the other's place
		t.Fatal(err)
	}
	for _, c := range []struct {
		header http.Header
		fresh  bool
	}{{http.Header{"X-Carrel-Poll": {"1"}}, false}, {nil, true}} {
		s.ask("alice", "GET", "/hub/home", nil, c.header)
		now, err := s.store.Session(t.Context(), parent.Hash)
		if err != nil || time.Since(now.LastSeen) < time.Minute != c.fresh {
			t.Errorf("with %v: last seen %v ago, %v", c.header, time.Since(now.LastSeen), err)
		}
	}
	// Signing out ends it and what was made from it, and goes on to the provider.
	s.auth.end = "https://idp.example/end?hint=1"
	p := s.post("alice", "/hub/logout", nil)
	if p.Code != http.StatusSeeOther || p.location() != s.auth.end || !strings.Contains(strings.Join(p.Header().Values("Set-Cookie"), "\n"), "carrel-session=; Path=/; Max-Age=0; HttpOnly") {
		t.Errorf("sign-out: %d to %s, %v", p.Code, p.location(), p.Header().Values("Set-Cookie"))
	}
	for _, h := range []hub.SecretHash{parent.Hash, child.Hash()} {
		if _, err := s.store.Session(t.Context(), h); hub.KindOf(err) != hub.NotFound {
			t.Errorf("the session lives: %v", err)
		}
	}
	if p := s.post("alice", "/hub/logout", nil); p.location() != "/hub/signed-out" {
		t.Errorf("signing out twice leads to %s", p.location())
	}
}

func TestTicket(t *testing.T) {
	s := plainSite(t)
	furnish(s)
	browser := string(hub.RandomSecret().Hash())
	at := func(host, browser, next string) string {
		return "/hub/ticket?" + url.Values{"host": {host}, "browser": {browser}, "next": {next}}.Encode()
	}
	p := s.get("alice", at("alice.localhost:8000", browser, "/user/alice/lab?x=1"))
	u, err := url.Parse(p.location())
	if err != nil || p.Code != http.StatusFound || u.Host != "alice.localhost:8000" || u.Path != "/carrel-enter" || p.Header().Get("Referrer-Policy") != "no-referrer" {
		t.Fatalf("%d to %s", p.Code, p.location())
	}
	got, err := s.store.TakeTicket(t.Context(), hub.NewSecret(u.Query().Get("ticket")).Hash())
	want := hub.Ticket{Parent: s.secrets["alice"].Hash(), Host: "alice.localhost:8000", Browser: hub.SecretHash(browser), Next: "/user/alice/lab?x=1"}
	if err != nil || got != want {
		t.Errorf("ticket %+v, %v; want %+v", got, err, want)
	}
	for name, c := range map[string]struct {
		who, path string
		status    int
	}{
		"another's notebook":               {"bob", at("alice.localhost:8000", browser, "/user/alice/lab"), 403},
		"an administrator, not allowed":    {"root", at("alice.localhost:8000", browser, "/user/alice/lab"), 403},
		"a foreign host":                   {"alice", at("evil.example", browser, "/user/alice/lab"), 422},
		"the hub's own host":               {"alice", at("localhost:8000", browser, "/user/alice/lab"), 422},
		"the host of another":              {"alice", at("bob.localhost:8000", browser, "/user/alice/lab"), 422},
		"a host that begins alike":         {"alice", at("alice.localhost:8000.evil.example", browser, "/user/alice/lab"), 422},
		"another's page on one's own host": {"alice", at("alice.localhost:8000", browser, "/user/bob/lab"), 422},
		"a foreign next":                   {"alice", at("alice.localhost:8000", browser, "//evil.example/user/alice/"), 422},
		"a climbing next":                  {"alice", at("alice.localhost:8000", browser, "/user/alice/../bob/"), 422},
		"a next that is no notebook":       {"alice", at("alice.localhost:8000", browser, "/hub/home"), 422},
		"no browser":                       {"alice", at("alice.localhost:8000", "", "/user/alice/lab"), 422},
		"no hash of a browser":             {"alice", at("alice.localhost:8000", strings.Repeat("z", 64), "/user/alice/lab"), 422},
	} {
		if p := s.get(c.who, c.path); p.Code != c.status || p.location() != "" {
			t.Errorf("%s: %d to %q, want %d", name, p.Code, p.location(), c.status)
		}
	}
	s.servers.policy.AdminAccess = true
	if p := s.get("root", at("alice.localhost:8000", browser, "/user/alice/lab")); p.Code != http.StatusFound {
		t.Errorf("an administrator who may: %d", p.Code)
	}
}

func TestUserRedirect(t *testing.T) {
	s := plainSite(t)
	s.person("alice", nil)
	for path, want := range map[string]string{
		"/hub/user-redirect/lab/tree/a%20b.ipynb?x=1": "http://alice.localhost:8000/user/alice/lab/tree/a%20b.ipynb?x=1",
		"/hub/user-redirect/":                         "http://alice.localhost:8000/user/alice/",
		"/hub/user-redirect/%2e%2e/bob":               "",
		"/hub/user-redirect/a%5c..%5cb":               "",
	} {
		if p := s.get("alice", path); p.location() != want {
			t.Errorf("%s: %d to %q, want %q", path, p.Code, p.location(), want)
		}
	}
}

func TestBodiesAreCapped(t *testing.T) {
	s := plainSite(t)
	s.person("alice", nil)
	if p := s.post("alice", "/hub/spawn/alice", url.Values{"profile": {strings.Repeat("x", maxForm)}}); p.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d, want 413", p.Code)
	}
}
