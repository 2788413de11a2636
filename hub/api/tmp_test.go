package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

const journal = "https://journal.example"

// letVisitorsIn opens the site for two visitors at once.
func (s *site) letVisitorsIn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.policy.Profiles = append(s.policy.Profiles, hub.Profile{Name: "visitor", Image: "i:2", Visitors: true})
	s.policy.Visits = hub.VisitPolicy{Enabled: true, Profile: "visitor", Max: 2, Line: 2, Age: time.Hour, Extend: time.Hour, Extensions: 1, ArrivalsIn: time.Hour}
}

func TestVisitOfAProgram(t *testing.T) {
	s := newSite(t)
	for _, call := range []string{"POST /tmp", "DELETE /tmp", "GET /tmp/stats", "POST /tmpnb/spawn", "GET /tmpnb/stats", "OPTIONS /tmp"} {
		method, path, _ := strings.Cut(call, " ")
		if r := s.do(method, path, ""); r.status != http.StatusNotFound {
			t.Errorf("switched off, %s: status %d", call, r.status)
		}
	}
	s.letVisitorsIn()
	r := s.do("POST", "/tmp", "")
	address, _ := r.json["url"].(string)
	token, _ := r.json["token"].(string)
	expires, err := time.Parse(time.RFC3339, r.json["expires_at"].(string))
	if r.status != http.StatusCreated || len(token) != 43 || err != nil || time.Until(expires) < 59*time.Minute || time.Until(expires) > time.Hour {
		t.Fatalf("status %d, %s", r.status, r.body)
	}
	known, err := s.store.Token(t.Context(), hub.NewSecret(token).Hash())
	if err != nil || address != s.origins.ServerURL(hub.ServerKey{User: known.User}, "") || !known.User.IsVisitor() {
		t.Fatalf("the token is %+v, %v; the address %s", known, err, address)
	}
	who := known.Principal(hub.VisitorUser(known.User))
	if err := hub.Access(who, hub.ServerKey{User: known.User}, hub.VisitorUser(known.User).ID, false); err != nil {
		t.Errorf("the token does not open its server: %v", err)
	}
	if who.Can(hub.ScopeServers, known.User) || who.Can(hub.ScopeAccessServers, parse(t, "alice")) {
		t.Errorf("the token can do more: %v", known.Scopes)
	}
	for _, call := range []string{"GET /user", "GET /users", "POST /users/" + known.User.String() + "/server", "GET /users/" + known.User.String() + "/tokens", "GET /top"} {
		method, path, _ := strings.Cut(call, " ")
		if r := s.do(method, path, "", as(token)); r.status != http.StatusForbidden {
			t.Errorf("%s with a visitor's token: status %d", call, r.status)
		}
	}
	if r := s.do("GET", "/tmp/stats", ""); r.status != 200 || r.json["available"] != 1.0 || r.json["capacity"] != 2.0 || r.json["waiting"] != 0.0 || r.json["image"] != "i:2" || r.json["version"] == "" {
		t.Errorf("stats: %s", r.body)
	}
	if r := s.do("DELETE", "/tmp", "", as(s.token("alice"))); r.status != http.StatusForbidden {
		t.Errorf("alice ends a visit: status %d", r.status)
	}
	if r := s.do("DELETE", "/tmp", "", as(token)); r.status != http.StatusNoContent {
		t.Errorf("the end: status %d, %s", r.status, r.body)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := s.store.Token(t.Context(), hub.NewSecret(token).Hash())
		if hub.KindOf(err) == hub.NotFound && err != nil && len(s.spawner.Containers()) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it does not end: %v", err)
		}
	}
}

// TestTmpnb is what its clients know: https://github.com/jupyter/tmpnb, orchestrate.py.
func TestTmpnb(t *testing.T) {
	s := newSite(t)
	s.letVisitorsIn()
	if r := s.do("GET", "/tmpnb/stats", ""); r.status != 200 || len(r.json) != 4 || r.json["available"] != 2.0 || r.json["capacity"] != 2.0 || r.json["container_image"] != "i:2" || r.json["version"] == "" {
		t.Errorf("stats: %s", r.body)
	}
	for range 2 {
		r := s.do("POST", "/tmpnb/spawn", "")
		if at, _ := r.json["url"].(string); r.status != 200 || len(r.json) != 1 || !strings.HasPrefix(at, "/carrel/user/visitor-") || !strings.Contains(at, "/?token=") {
			t.Errorf("spawn: status %d, %s", r.status, r.body)
		}
	}
	if r := s.do("POST", "/tmpnb/spawn", ""); r.status != http.StatusTooManyRequests || r.json["status"] != "full" {
		t.Errorf("when all are taken: status %d, %s", r.status, r.body)
	}
	for call, to := range map[string]string{"/tmp": "https://two.example/hub/api/tmp?hop=1", "/tmpnb/spawn": "https://two.example/api/spawn?hop=1", "/tmp?hop=1": "", "/tmpnb/spawn?hop=1": ""} {
		r := s.do("POST", call, "", with("Origin", journal))
		if want := map[bool]int{true: http.StatusTooManyRequests, false: http.StatusServiceUnavailable}[strings.HasPrefix(call, "/tmpnb")]; r.status != want || r.header.Get("Location") != to || !strings.Contains(r.header.Get("Access-Control-Expose-Headers"), "Location") {
			t.Errorf("%s when all are taken: status %d, %v", call, r.status, r.header)
		}
	}
	if r := s.do("POST", "/tmp", ""); r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
		t.Errorf("when all are taken: status %d, %s", r.status, r.body)
	}
	if r := s.do("GET", "/tmpnb/stats", ""); r.json["available"] != 0.0 {
		t.Errorf("stats when all are taken: %s", r.body)
	}
	if r := s.do("GET", "/tmp/stats", ""); r.json["waiting"] != 0.0 {
		t.Errorf("a program waits in line: %s", r.body)
	}
}

func TestVisitsOfOtherSitesPages(t *testing.T) {
	s := newSite(t)
	s.letVisitorsIn()
	for origin, ok := range map[string]bool{
		journal: true, "": true, s.origins.HubOrigin(): true, "https://evil.example": false, "null": false, "https://journal.example.evil.example": false,
		"http://journal.example": false, "http://alice.localhost:8000": false,
	} {
		for _, call := range []string{"GET /tmp/stats", "OPTIONS /tmp", "OPTIONS /tmpnb/spawn"} {
			method, path, _ := strings.Cut(call, " ")
			edit := with("Origin", origin)
			if origin == "" {
				edit = func(*http.Request) {}
			}
			r := s.do(method, path, "", edit)
			if (r.status < 300) != ok {
				t.Errorf("%s from %q: status %d", call, origin, r.status)
			}
			want := ""
			if origin == journal {
				want = journal
			}
			if r.header.Get("Access-Control-Allow-Origin") != want || r.header.Get("Access-Control-Allow-Credentials") != "" || r.header.Get("Vary") != "Origin" {
				t.Errorf("%s from %q: %v", call, origin, r.header)
			}
		}
	}
	if r := s.do("POST", "/tmp", "", with("Origin", "https://evil.example")); r.status != http.StatusForbidden || len(s.spawner.Containers()) > 0 {
		t.Errorf("from a site that nobody named: status %d", r.status)
	}
}

// TestWorkOfPrograms: they show work as browsers do, unless they have the token of an account.
func TestWorkOfPrograms(t *testing.T) {
	s := newSite(t)
	s.letVisitorsIn()
	set := func(exempt bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.policy.Visits.Max, s.policy.Visits.Captcha = 9, hub.CaptchaPolicy{Kind: hub.CaptchaWork, Bits: 8, Exempt: exempt}
	}
	set(true)
	r := s.do("GET", "/tmp/challenge", "")
	text, _ := r.json["challenge"].(string)
	if r.status != http.StatusOK || r.json["bits"] != 8.0 || text == "" {
		t.Fatalf("the work: status %d, %s", r.status, r.body)
	}
	answer, err := hub.Work(t.Context(), hub.Challenge{Text: text, Bits: 8})
	if err != nil {
		t.Fatal(err)
	}
	shown := `{"challenge":"` + text + `","answer":"` + answer + `"}`
	alice := as(s.token("alice"))
	for _, c := range []struct {
		what, call, body string
		edit             func(*http.Request)
		status           int
	}{
		{"nothing", "/tmp", "", nil, http.StatusForbidden},
		{"a made-up token", "/tmp", "", as("nobodys"), http.StatusForbidden},
		{"an old client", "/tmpnb/spawn", "", nil, http.StatusForbidden},
		{"work", "/tmp", shown, nil, http.StatusCreated},
		{"the same work", "/tmp", shown, nil, http.StatusForbidden},
		{"an account's token", "/tmp", "", alice, http.StatusCreated},
		{"an old client with an account's token", "/tmpnb/spawn", "", alice, http.StatusOK},
	} {
		edit := c.edit
		if edit == nil {
			edit = func(*http.Request) {}
		}
		if r := s.do("POST", c.call, c.body, edit); r.status != c.status {
			t.Errorf("with %s: status %d, %s", c.what, r.status, r.body)
		} else if token, _ := r.json["token"].(string); token != "" && c.what == "work" {
			if r := s.do("POST", "/tmp", "", as(token)); r.status != http.StatusForbidden {
				t.Errorf("with a visitor's token: status %d", r.status)
			}
		}
	}
	set(false)
	if r := s.do("POST", "/tmp", "", alice); r.status != http.StatusForbidden {
		t.Errorf("with an account's token, where it does not help: status %d", r.status)
	}
}
