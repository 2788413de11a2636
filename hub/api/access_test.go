package api

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

func TestOnlyOurCredentialsCount(t *testing.T) {
	s := newSite(t)
	live, over := s.token("alice"), s.tokenUntil("alice", time.Now().Add(50*time.Millisecond))
	gone := s.token("alice")
	s.do("DELETE", "/users/alice/tokens/"+string(hub.NewSecret(gone).Hash()[:16]), "", as(live))
	rebound := s.token("bob") // whose name then goes to another person
	if err := s.store.Rebind(t.Context(), hub.User{ID: "another", Name: parse(t, "bob"), Identity: hub.Identity{Issuer: "https://idp", Subject: "x"}}); err != nil {
		t.Fatal(err)
	}
	s.person("carl", false)
	deleted := s.token("carl")
	if err := s.store.DeleteUser(t.Context(), parse(t, "carl")); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := s.store.Token(t.Context(), hub.NewSecret(over).Hash()); hub.KindOf(err) == hub.NotFound {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("the token does not end")
		}
	}
	session := s.session("alice", "")
	ended := s.session("alice", "")
	if _, err := s.store.EndSessions(t.Context(), hub.SessionQuery{Hash: hub.NewSecret(ended.Value).Hash()}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		edit   func(*http.Request)
		status int
	}{
		{"token", as(live), 200},
		{"bearer", with("Authorization", "Bearer "+live), 200},
		{"any case", with("Authorization", "TOKEN  "+live), 200},
		{"session", cookie(session), 200},
		{"nothing", with(), 403},
		{"token that is over", as(over), 403},
		{"revoked token", as(gone), 403},
		{"token of a name that is another's now", as(rebound), 403},
		{"token of somebody who was removed", as(deleted), 403},
		{"no such token", as("x" + live), 403},
		{"the hash of a token", as(string(hub.NewSecret(live).Hash())), 403},
		{"empty token", with("Authorization", "token "), 403},
		{"no scheme", with("Authorization", live), 403},
		{"basic", with("Authorization", "Basic "+live), 403},
		{"a bad token beside a good session", func(r *http.Request) { r.AddCookie(session); as("bad")(r) }, 403},
		{"another scheme beside a good session", func(r *http.Request) { r.AddCookie(session); r.Header.Set("Authorization", "Basic eA==") }, 403},
		{"token as a cookie", cookie(&http.Cookie{Name: session.Name, Value: live}), 403},
		{"session as a token", as(session.Value), 403},
		{"ended session", cookie(ended), 403},
		{"session of a notebook's host", cookie(s.session("alice", "alice.localhost:8000")), 403},
		{"garbage cookie", cookie(&http.Cookie{Name: session.Name, Value: strings.Repeat("A", 4000)}), 403},
		{"token in the query", func(r *http.Request) { r.URL.RawQuery = "token=" + live + "&_xsrf=1&access_token=" + live }, 403},
		{"token in another header", with("X-Token", live, "Private-Token", live), 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := s.do("GET", "/user", "", c.edit)
			if c.status == 200 {
				if r.status != 200 || r.json["name"] != "alice" {
					t.Errorf("%d %s", r.status, r.body)
				}
				return
			}
			r.problem(t, c.name, 403, "") // never 401: JupyterHub's clients take it for a fault of the hub
			if r.json["message"] != "missing or invalid credentials" {
				t.Errorf("it tells which credentials there are: %s", r.body)
			}
		})
	}
}

// TestAnotherSitesPageHasNoSay: a cookie goes along with what any page of the same site sends, and
// people's notebooks are such pages.
func TestAnotherSitesPageHasNoSay(t *testing.T) {
	s := newSite(t)
	session := cookie(s.session("alice", ""))
	own := s.origins.HubOrigin()
	for _, c := range []struct {
		name, method string
		headers      []string
		status       int
	}{
		{"own page", "POST", []string{"Origin", own, "Sec-Fetch-Site", "same-origin", "Content-Type", "application/json"}, 201},
		{"own page of an old browser", "POST", []string{"Origin", own}, 201},
		{"own page without Origin", "POST", []string{"Sec-Fetch-Site", "same-origin"}, 201},
		{"neither", "POST", nil, 403},
		{"a notebook", "POST", []string{"Origin", "http://bob.localhost:8000", "Sec-Fetch-Site", "same-site"}, 403},
		{"a notebook that hides", "POST", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"another site", "POST", []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}, 403},
		{"another port", "POST", []string{"Origin", "http://hub.localhost:8001"}, 403},
		{"another scheme", "POST", []string{"Origin", "https://hub.localhost:8000"}, 403},
		{"a prefix of ours", "POST", []string{"Origin", own + ".evil.example"}, 403},
		{"sandbox", "POST", []string{"Origin", "null"}, 403},
		{"typed by a person", "POST", []string{"Sec-Fetch-Site", "none"}, 403},
		{"our Origin, and yet from elsewhere", "POST", []string{"Origin", own, "Sec-Fetch-Site", "cross-site"}, 403},
		{"a form", "POST", []string{"Origin", own, "Content-Type", "application/x-www-form-urlencoded"}, 403},
		{"a form with text", "POST", []string{"Origin", own, "Content-Type", "text/plain;charset=UTF-8"}, 403},
		{"a form with files", "POST", []string{"Origin", own, "Content-Type", "multipart/form-data; boundary=x"}, 403},
		{"a simple POST from elsewhere", "POST", []string{"Origin", "https://evil.example", "Content-Type", "text/plain"}, 403},
		{"a garbled type", "POST", []string{"Origin", own, "Content-Type", ";;"}, 403},
		{"deleting from elsewhere", "DELETE", []string{"Origin", "https://evil.example"}, 403},
		{"reading in our page", "GET", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"reading by a person", "GET", []string{"Sec-Fetch-Site", "none"}, 200},
		{"reading by a program", "GET", nil, 200},
		{"reading in a notebook", "GET", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"reading elsewhere", "GET", []string{"Origin", "https://evil.example"}, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, body := "/users/alice/tokens", `{"note": "x"}`
			switch c.method {
			case "GET":
				path, body = "/user", ""
			case "DELETE":
				path, body = "/users/alice/server", ""
			}
			if r := s.do(c.method, path, body, session, with(c.headers...)); r.status != c.status {
				t.Errorf("%d %s, want %d", r.status, r.body, c.status)
			} else if c.status == 403 {
				r.problem(t, c.name, 403, "")
			}
			for name, values := range s.do(c.method, path, body, session, with(c.headers...)).header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s: %s would let others read", name, values)
				}
			}
		})
	}
	// A program with a token is bound to no origin.
	if r := s.do("POST", "/users/alice/tokens", `{}`, as(s.token("alice")), with("Origin", "https://evil.example", "Content-Type", "text/plain")); r.status != 201 {
		t.Errorf("with a token: %d %s", r.status, r.body)
	}
}

// TestWhoMayDoWhat is attack 46: every call, by everyone.
func TestWhoMayDoWhat(t *testing.T) {
	s := newSite(t)
	s.start("alice", "")
	s.start("alice", "gpu")
	id := string(hub.NewSecret(s.token("alice")).Hash()[:16])
	people := map[string]string{
		"own": s.token("alice"), "other": s.token("bob"), "admin": s.token("ada", hub.ScopeAdminServers, hub.ScopeAdminUsers), "admin self": s.token("ada"),
		"read": s.token("alice", hub.ScopeReadUsers), "servers": s.token("alice", hub.ScopeServers), "open": s.token("alice", hub.ScopeAccessServers),
		"activity": s.token("alice", "users:activity"), "filtered": s.token("alice", "servers!user=alice"), "filtered else": s.token("alice", "servers!user=bob"),
		"would-be admin": s.token("bob", hub.ScopeAdminServers, hub.ScopeAdminUsers, hub.ScopeReadUsers, hub.ScopeServers, "servers!user=alice"),
		"admin of bob":   s.token("ada", "admin:servers!user=bob", "admin:users!user=bob"),
	}
	for _, c := range []struct {
		call, body string
		allowed    string // by commas; everyone else gets 403
	}{
		{"GET /users", "", "admin"},
		{"GET /users/alice", "", "own,admin,read"},
		{"GET /users/alice/servers/gpu", "", "own,admin,read,servers,filtered"},
		{"POST /users/alice/server", "", "own,admin,servers,filtered"},
		{"POST /users/alice/servers/gpu", "", "own,admin,servers,filtered"},
		{"GET /users/alice/server/progress", "", "own,admin,read,servers,filtered"},
		{"GET /users/alice/servers/gpu/progress", "", "own,admin,read,servers,filtered"},
		{"POST /users/alice/activity", "{}", "own,admin,activity"},
		{"GET /users/alice/tokens", "", "own"},
		{"GET /users/alice/tokens/" + id, "", "own"},
		{"POST /users/alice/tokens", "{}", "own"},
		{"DELETE /users/alice/tokens/" + id, "", "own"},
		{"DELETE /users/alice/servers/gpu", "", "own,admin,servers,filtered"},
		{"DELETE /users/alice/server", "", "own,admin,servers,filtered"},
	} {
		method, path, _ := strings.Cut(c.call, " ")
		for who, token := range people {
			t.Run(c.call+" by "+who, func(t *testing.T) {
				r := s.do(method, path, c.body, as(token))
				may := strings.Contains(","+c.allowed+",", ","+who+",")
				if may && r.status == 404 && method == "DELETE" && strings.Contains(path, "tokens") {
					return // another was first
				}
				if may != (r.status < 300) {
					t.Errorf("%d %s, want allowed: %v", r.status, r.body, may)
				}
				if !may {
					r.problem(t, who, 403, "")
				}
			})
		}
		if r := s.do(method, path, c.body); r.status != 403 {
			t.Errorf("%s by nobody: %d", c.call, r.status)
		}
	}
}

// TestUnknownPeopleLookLikeOthers: who may not know of a person learns nothing by asking.
func TestUnknownPeopleLookLikeOthers(t *testing.T) {
	s := newSite(t)
	s.start("bob", "x")
	token := as(s.token("alice"))
	for _, path := range []string{"", "/server", "/server/progress", "/servers/x", "/servers/x/progress", "/tokens", "/tokens/y"} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			there, not := s.do(method, "/users/bob"+path, "", token), s.do(method, "/users/nobody"+path, "", token)
			strip := func(r answer) string {
				delete(r.json, "request_id")
				return fmt.Sprint(r.status, r.json)
			}
			if strip(there) != strip(not) {
				t.Errorf("%s %s: %s and %s", method, path, strip(there), strip(not))
			}
		}
	}
	admin := as(s.token("ada", hub.ScopeAdminServers, hub.ScopeAdminUsers))
	for _, call := range []string{"GET /users/nobody", "GET /users/nobody/servers/x", "GET /users/bob/servers/never", "POST /users/nobody/server", "DELETE /users/nobody/server", "DELETE /users/bob/servers/never", "GET /users/nobody/server/progress"} {
		method, path, _ := strings.Cut(call, " ")
		s.do(method, path, "", admin).problem(t, call, 404, "")
	}
}

// TestHostileNames is attacks 30 and 31.
func TestHostileNames(t *testing.T) {
	s := newSite(t)
	admin := as(s.token("ada", hub.ScopeAdminServers, hub.ScopeAdminUsers))
	for _, name := range []string{
		"%2e%2e%2fbob", "..%2fbob", "bob%2f..%2falice", "bob%2Fserver", "bob%00", "bob%0a", "%20bob", "bob%20", "b%c3%b6b", "%d0%b0lice" /* Cyrillic а */, "alice%e2%80%8b", /* zero width */
		"bob%5c", "*", "%25", "b:b", "%ff%fe", "-bob", "bob.", strings.Repeat("a", 65), strings.Repeat("a", 8000), url.PathEscape(`<script>alert(1)</script>`), "%F0%9D%90%9Blice", "ad%EF%BD%81",
	} {
		for _, path := range []string{"/users/" + name, "/users/" + name + "/tokens"} {
			r := s.do("GET", path, "", admin)
			if r.status != 422 && r.status != 404 {
				t.Errorf("%.60s: %d %.200s", path, r.status, r.body)
			}
			if len(r.body) > 1000 || strings.Contains(r.body, "<script") {
				t.Errorf("%.60s: it is told again: %.200s", path, r.body)
			}
		}
	}
	for _, path := range []string{"/users/../user", "/users/alice/../bob", "//user", "/users//alice", "/./user", "/users/%2e%2e/user", "/users/alice/%2e%2e/bob"} {
		r := s.do("GET", path, "", admin, func(req *http.Request) { req.URL.Opaque = "//" + req.URL.Host + "/carrel/hub/api" + path })
		if r.status != 404 {
			t.Errorf("%s: %d %s %.100s", path, r.status, r.header.Get("Location"), r.body)
		}
	}
	if r := s.do("GET", "/users/"+strings.Repeat("a", 2<<20), "", admin); r.status != 431 {
		t.Errorf("two megabytes: %d", r.status)
	}
	if r := s.do("GET", "/users/Alice", "", admin); r.status != 200 || r.json["name"] != "alice" {
		t.Errorf("capitals are another person's: %d %s", r.status, r.body)
	}
	for _, name := range []string{"a--b", "-a", "a-", "A", "a.b", strings.Repeat("a", 31)} {
		s.do("POST", "/users/alice/servers/"+name, "", as(s.token("alice"))).problem(t, name, 422, "server")
	}
	t.Attr("seen-24", "names of servers: 422 with the field; of people: 422, 404 or 431")
	t.Attr("seen-30", "in a path: 422, 404 or 431, and never told again")
}
