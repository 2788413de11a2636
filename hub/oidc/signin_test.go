package oidc

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

// signIn goes through a whole sign-in with a hostile issuer.
func signInWith(h *testHub, is *hostile, b *browser, provider string) page {
	h.t.Helper()
	asked := h.begin(b, provider, "")
	return h.finish(b, provider, url.Values{"code": {is.code(asked)}, "state": {asked.Get("state")}})
}

func TestSignIn(t *testing.T) {
	is := newHostile(t)
	pc := is.config()
	pc.Admins.Groups = []string{"staff"}
	h := newHub(t, nil, pc)
	b := newBrowser(t)
	asked := h.begin(b, "main", "/hub/spawn/alice?x=1")
	for name, want := range map[string]string{
		"response_type": "code", "client_id": testClient, "code_challenge_method": "S256", "redirect_uri": h.url + "/hub/oidc/main/callback", "scope": "openid profile email",
	} {
		if asked.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, asked.Get(name), want)
		}
	}
	if n := h.store.writes.Load(); n != 0 {
		t.Errorf("beginning wrote %d times", n)
	}
	p := h.finish(b, "main", url.Values{"code": {is.code(asked)}, "state": {asked.Get("state")}})
	if p.status != http.StatusFound || p.header.Get("Location") != "/hub/spawn/alice?x=1" {
		t.Fatalf("callback: %d to %q: %s", p.status, p.header.Get("Location"), p.body)
	}
	sum := sha256.Sum256([]byte(is.verifier))
	if is.verifier == "" || base64.RawURLEncoding.EncodeToString(sum[:]) != asked.Get("code_challenge") {
		t.Errorf("verifier %q does not answer the challenge", is.verifier)
	}
	s, ok := h.session(b)
	if !ok {
		t.Fatal("no session")
	}
	if s.User.String() != "alice" || !s.Admin || !slices.Equal(s.Groups, []string{"staff"}) || s.SID != "sid-1" || s.Identity != (hub.Identity{Issuer: is.url, Subject: "subject-1"}) {
		t.Errorf("session %+v", s)
	}
	if strings.Contains(string(s.Tokens), "refresh") {
		t.Error("the tokens are not sealed")
	}
	if got, ok := h.auth.openTokens(s); !ok || got.Refresh != "refresh" || got.ID == "" {
		t.Error("the tokens can't be opened")
	}
	cookie := strings.Join(p.header.Values("Set-Cookie"), "\n")
	for _, want := range []string{hub.CookieSession + "=", "HttpOnly", "SameSite=Lax", "Path=/;"} {
		if !strings.Contains(cookie, want) {
			t.Errorf("the cookie lacks %s: %s", want, cookie)
		}
	}
	if len(b.cookies(h.url+"/hub/oidc/main/callback")) != 1 {
		t.Errorf("the sign-in's cookie is still there: %v", b.cookies(h.url+"/hub/oidc/main/callback"))
	}
}

// TestEmail is attack 45.
func TestEmail(t *testing.T) {
	for _, c := range []struct {
		name     string
		email    any
		verified any
		domains  bool // allowed by domain, else named by address
		in       bool
	}{
		{"verified", "alice@example.org", true, false, true},
		{"verified as a string", "alice@example.org", "true", false, true},
		{"not verified", "alice@example.org", false, false, false},
		{"not verified as a string", "alice@example.org", "false", false, false},
		{"not said", "alice@example.org", missing, false, false},
		{"domain, verified", "alice@Example.org", true, true, true},
		{"domain, not verified", "alice@example.org", false, true, false},
		{"domain, not said", "alice@example.org", missing, true, false},
		{"another domain", "alice@example.org.evil.net", true, true, false},
		{"a sub-domain", "alice@a.example.org", true, true, false},
		{"two at signs", "alice@example.org@evil.net", true, true, false},
		{"two at signs, turned", "alice@evil.net@example.org", true, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			is := newHostile(t)
			is.claims = func(m map[string]any) {
				m["email"], m["email_verified"] = c.email, c.verified
				if c.verified == missing {
					delete(m, "email_verified")
				}
			}
			pc := is.config()
			if c.domains {
				pc.Allowed = Allowed{EmailDomains: []string{"example.org"}}
			} else {
				pc.UsernameClaim = "email"
			}
			h := newHub(t, nil, pc)
			b := newBrowser(t)
			p := signInWith(h, is, b, "main")
			if !c.in {
				h.refused(b, p, http.StatusForbidden)
				return
			}
			if _, ok := h.session(b); !ok {
				t.Errorf("not let in: %d %s", p.status, p.body)
			}
		})
	}
}

// TestState is attacks 40 and 42.
func TestState(t *testing.T) {
	is, second := newHostile(t), newHostile(t)
	good := func(is *hostile, asked url.Values) url.Values {
		return url.Values{"code": {is.code(asked)}, "state": {asked.Get("state")}}
	}
	setup := func(t *testing.T) (*testHub, *browser) {
		pc2 := second.config()
		pc2.Name = "second"
		return newHub(t, nil, is.config(), pc2), newBrowser(t)
	}
	for name, attack := range map[string]func(*testHub, *browser) page{
		"missing": func(h *testHub, b *browser) page {
			return h.finish(b, "main", url.Values{"code": {is.code(h.begin(b, "main", ""))}})
		},
		"empty": func(h *testHub, b *browser) page {
			return h.finish(b, "main", url.Values{"code": {is.code(h.begin(b, "main", ""))}, "state": {""}})
		},
		"foreign": func(h *testHub, b *browser) page { // login CSRF: the attacker's answer in the victim's browser
			return h.finish(b, "main", good(is, h.begin(newBrowser(h.t), "main", "")))
		},
		"twice in the query": func(h *testHub, b *browser) page {
			asked := h.begin(b, "main", "")
			v := good(is, asked)
			v.Add("state", asked.Get("state"))
			return h.finish(b, "main", v)
		},
		"too old": func(h *testHub, b *browser) page {
			v := good(is, h.begin(b, "main", ""))
			h.clock.advance(signInLifetime + time.Second)
			return h.finish(b, "main", v)
		},
		"another provider's": func(h *testHub, b *browser) page { // mix-up
			return h.finish(b, "second", good(second, h.begin(b, "main", "")))
		},
		"changed cookie": func(h *testHub, b *browser) page {
			v := good(is, h.begin(b, "main", ""))
			u, err := url.Parse(h.url + "/hub/oidc/main/callback")
			if err != nil {
				h.t.Fatal(err)
			}
			for name, value := range b.cookies(u.String()) {
				b.client.Jar.SetCookies(u, []*http.Cookie{{Name: name, Value: value[:len(value)-2] + "AA", Path: "/hub/oidc/"}})
			}
			return h.finish(b, "main", v)
		},
		"no code": func(h *testHub, b *browser) page {
			return h.finish(b, "main", url.Values{"state": {h.begin(b, "main", "").Get("state")}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, b := setup(t)
			h.refused(b, attack(h, b), http.StatusUnprocessableEntity)
		})
	}
	t.Run("code of another sign-in", func(t *testing.T) {
		h, b := setup(t)
		stolen := is.code(h.begin(newBrowser(t), "main", ""))
		asked := h.begin(b, "main", "")
		h.refused(b, h.finish(b, "main", url.Values{"code": {stolen}, "state": {asked.Get("state")}}), http.StatusForbidden)
	})
	t.Run("unknown code", func(t *testing.T) {
		h, b := setup(t)
		asked := h.begin(b, "main", "")
		h.refused(b, h.finish(b, "main", url.Values{"code": {"guessed"}, "state": {asked.Get("state")}}), http.StatusForbidden)
	})
	t.Run("reused with its cookie and code", func(t *testing.T) { // the issuer would take the code again
		h, b := setup(t)
		asked := h.begin(b, "main", "")
		u, err := url.Parse(h.url + "/hub/oidc/main/callback")
		if err != nil {
			t.Fatal(err)
		}
		kept := b.client.Jar.Cookies(u)
		v := good(is, asked)
		if p := h.finish(b, "main", v); p.status != http.StatusFound {
			t.Fatalf("first use: %d", p.status)
		}
		thief := newBrowser(t)
		thief.client.Jar.SetCookies(u, kept)
		if p := h.finish(thief, "main", v); p.status != http.StatusUnprocessableEntity {
			t.Errorf("second use: %d", p.status)
		}
		if n := len(h.store.sessions(t)); n != 1 {
			t.Errorf("%d sessions", n)
		}
	})
}

// TestIssuerParameter is the mix-up defence of RFC 9207.
func TestIssuerParameter(t *testing.T) {
	for _, c := range []struct {
		name       string
		advertised bool
		iss        string
		in         bool
	}{
		{"not advertised, not sent", false, "", true},
		{"not advertised, sent wrongly", false, "https://evil.example.org", false},
		{"advertised, not sent", true, "", false},
		{"advertised, sent wrongly", true, "https://evil.example.org", false},
		{"advertised, sent", true, "self", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			is := newHostile(t)
			is.document = func(d map[string]any) { d["authorization_response_iss_parameter_supported"] = c.advertised }
			h := newHub(t, nil, is.config())
			b := newBrowser(t)
			asked := h.begin(b, "main", "")
			v := url.Values{"code": {is.code(asked)}, "state": {asked.Get("state")}}
			if c.iss != "" {
				v.Set("iss", strings.Replace(c.iss, "self", is.url, 1))
			}
			p := h.finish(b, "main", v)
			if !c.in {
				h.refused(b, p, http.StatusForbidden)
				if is.asked.Load() != 0 {
					t.Error("the code was sent to the wrong issuer")
				}
			} else if _, ok := h.session(b); !ok {
				t.Errorf("not let in: %d %s", p.status, p.body)
			}
		})
	}
}

// TestNext is attack 41.
func TestNext(t *testing.T) {
	is := newHostile(t)
	h := newHub(t, nil, is.config())
	for _, next := range []string{
		"//evil.example.org", `/\evil.example.org`, `\\evil.example.org`, "https://evil.example.org/", "javascript:alert(1)", "/%0d%0aSet-Cookie:x", "/\r\nLocation: https://evil.example.org",
		"///evil.example.org", "/hub/../..//evil.example.org", "evil.example.org", "", "/hub/logout", "/hub/oidc/main/login", "/" + strings.Repeat("a", 2000), "/\t/evil.example.org", "//user@evil.example.org/hub/",
	} {
		b := newBrowser(t)
		asked := h.begin(b, "main", next)
		p := h.finish(b, "main", url.Values{"code": {is.code(asked)}, "state": {asked.Get("state")}})
		got := p.header.Get("Location")
		if p.status != http.StatusFound || !strings.HasPrefix(got, "/") || strings.HasPrefix(got, "//") || strings.Contains(got, "evil") && !strings.HasPrefix(got, "/%0d") || strings.ContainsAny(got, "\\\r\n") {
			t.Errorf("next %q led to %q (%d)", next, got, p.status)
		}
		if next == "/hub/logout" && got != "/hub/home" {
			t.Errorf("next %q led to %q", next, got)
		}
	}
}

// TestRedirectAddressIsOurs is the redirect trick of attack 44: nothing in a request changes it.
func TestRedirectAddressIsOurs(t *testing.T) {
	is := newHostile(t)
	h := newHub(t, nil, is.config())
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.url+"/hub/oidc/main/login?redirect_uri=https://evil.example.org&code_challenge_method=plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "evil.example.org"
	r.Header.Set("X-Forwarded-Host", "evil.example.org")
	b := newBrowser(t)
	b.client.CheckRedirect = refuseRedirect
	u, err := url.Parse(b.do(r).header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	if q := u.Query(); q.Get("redirect_uri") != h.url+"/hub/oidc/main/callback" || q.Get("code_challenge_method") != "S256" {
		t.Errorf("asked with %v", q)
	}
}

func TestProviderErrorsAreShownSafely(t *testing.T) {
	is := newHostile(t)
	h := newHub(t, nil, is.config())
	for code, status := range map[string]int{"access_denied": 403, "server_error": 503, "temporarily_unavailable": 503, "<script>": 403} {
		b := newBrowser(t)
		asked := h.begin(b, "main", "")
		p := h.finish(b, "main", url.Values{"state": {asked.Get("state")}, "error": {code}, "error_description": {"not\r\ntoday\u202e" + strings.Repeat("x", 1000)}})
		h.refused(b, p, status)
		if strings.ContainsAny(strings.TrimSpace(p.body), "\r\n\u202e") || len(p.body) > 600 || !strings.Contains(p.body, "not today") {
			t.Errorf("%s shows %q", code, p.body)
		}
	}
	b := newBrowser(t)
	h.refused(b, h.finish(b, "main", url.Values{"state": {"x"}, "error": {"access_denied"}, "error_description": {"call this number"}}), 422)
}

// TestFlood: beginning to sign in, and answers to nothing, write nothing; and a browser's cookies
// stay few.
func TestFlood(t *testing.T) {
	is := newHostile(t)
	h := newHub(t, nil, is.config())
	b := newBrowser(t)
	for range 200 {
		h.begin(b, "main", "")
		h.clock.advance(time.Millisecond)
	}
	if n := len(b.cookies(h.url + "/hub/oidc/main/callback")); n > maxSignIns {
		t.Errorf("%d cookies", n)
	}
	for i := range 50 {
		asked := h.begin(b, "main", "")
		h.finish(b, "main", url.Values{"code": {strconv.Itoa(i)}, "state": {asked.Get("state")}})
		h.finish(newBrowser(t), "main", url.Values{"code": {"x"}, "state": {asked.Get("state")}})
	}
	if n := h.store.writes.Load(); n != 0 {
		t.Errorf("a flood wrote %d times", n)
	}
}

func TestSeveralTabs(t *testing.T) {
	is := newHostile(t)
	h := newHub(t, nil, is.config())
	b := newBrowser(t)
	var tabs []url.Values
	for range maxSignIns {
		tabs = append(tabs, h.begin(b, "main", ""))
		h.clock.advance(time.Millisecond)
	}
	slices.Reverse(tabs)
	for i, asked := range tabs {
		if p := h.finish(b, "main", url.Values{"code": {is.code(asked)}, "state": {asked.Get("state")}}); p.status != http.StatusFound {
			t.Errorf("tab %d: %d %s", i, p.status, p.body)
		}
	}
	if n := len(h.store.sessions(t)); n != 1 {
		t.Errorf("%d sessions in one browser", n)
	}
}

// TestNewSession is the fixation of attack 40: each sign-in has an id of its own, and the browser's
// previous session ends.
func TestNewSession(t *testing.T) {
	is := newHostile(t)
	h := newHub(t, nil, is.config())
	b := newBrowser(t)
	u, err := url.Parse(h.url + "/")
	if err != nil {
		t.Fatal(err)
	}
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: hub.CookieSession, Value: "chosen-by-an-attacker", Path: "/"}})
	signInWith(h, is, b, "main")
	first, ok := h.session(b)
	if !ok || b.cookies(h.url + "/")[hub.CookieSession] == "chosen-by-an-attacker" {
		t.Fatal("the session has the attacker's id")
	}
	signInWith(h, is, b, "main")
	if second, ok := h.session(b); !ok || second.Hash == first.Hash {
		t.Error("no new session")
	}
	if _, err := h.store.Session(t.Context(), first.Hash); hub.KindOf(err) != hub.NotFound {
		t.Errorf("the previous session: %v", err)
	}
}

func TestOneNameTwoPeople(t *testing.T) {
	is, second := newHostile(t), newHostile(t)
	pc2 := second.config()
	pc2.Name = "second"
	h := newHub(t, nil, is.config(), pc2)
	alice := newBrowser(t)
	signInWith(h, is, alice, "main")
	s, ok := h.session(alice)
	if !ok {
		t.Fatal("alice is not in")
	}
	impostor := newBrowser(t)
	if p := signInWith(h, second, impostor, "second"); p.status != http.StatusForbidden || !strings.Contains(p.body, "belongs to another account") {
		t.Errorf("the same name at another provider: %d %s", p.status, p.body)
	}
	is.lie(func() {
		is.claims = func(c map[string]any) { c["sub"], c["preferred_username"] = "subject-9", "ALICE" }
	})
	if p := signInWith(h, is, impostor, "main"); p.status != http.StatusForbidden {
		t.Errorf("the same name, another subject: %d %s", p.status, p.body)
	}
	// The store is wiped; the note beside the home still knows, and gives the same id.
	if err := h.store.DeleteUser(t.Context(), s.User); err != nil {
		t.Fatal(err)
	}
	if p := signInWith(h, is, impostor, "main"); p.status != http.StatusForbidden {
		t.Errorf("after a wipe the impostor gets %d", p.status)
	}
	h.notes[s.User] = hub.Binding{Name: s.User, UserID: "umigrated", Identity: s.Identity}
	is.lie(func() { is.claims = nil })
	signInWith(h, is, alice, "main")
	if again, ok := h.session(alice); !ok || again.UserID != "umigrated" {
		t.Errorf("after a wipe alice's id is %q", again.UserID)
	}
}

func TestAllowed(t *testing.T) {
	for name, c := range map[string]struct {
		allowed Allowed
		admins  Admins
		in      bool
		admin   bool
	}{
		"everyone":         {Allowed{Everyone: true}, Admins{}, true, false},
		"by name":          {Allowed{Users: []string{"Alice"}}, Admins{}, true, false},
		"another name":     {Allowed{Users: []string{"bob"}}, Admins{}, false, false},
		"by group":         {Allowed{Groups: []string{"x", "staff"}}, Admins{}, true, false},
		"another group":    {Allowed{Groups: []string{"Staff"}}, Admins{}, false, false},
		"administrator":    {Allowed{}, Admins{Users: []string{"alice"}}, true, true},
		"admin by group":   {Allowed{}, Admins{Groups: []string{"staff"}}, true, true},
		"admin by another": {Allowed{Everyone: true}, Admins{Groups: []string{"admins"}}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			is := newHostile(t)
			pc := is.config()
			pc.Allowed, pc.Admins = c.allowed, c.admins
			h := newHub(t, nil, pc)
			b := newBrowser(t)
			p := signInWith(h, is, b, "main")
			s, ok := h.session(b)
			if ok != c.in || s.Admin != c.admin {
				t.Errorf("in %v, admin %v: %s", ok, s.Admin, p.body)
			}
			if _, err := h.store.User(t.Context(), mustName(t, "alice")); !c.in && hub.KindOf(err) != hub.NotFound {
				t.Error("somebody who may not in was written down")
			}
		})
	}
}

func mustName(t testing.TB, s string) hub.UserName {
	t.Helper()
	n, err := hub.ParseUserName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestMissingGroupsAreUnknown(t *testing.T) {
	is := newHostile(t)
	pc := is.config()
	pc.Allowed = Allowed{Groups: []string{"staff"}}
	pc.KeepGroups = time.Hour
	h := newHub(t, nil, pc)
	is.now = h.clock.now
	b := newBrowser(t)
	in := func() bool {
		signInWith(h, is, b, "main")
		s, ok := h.session(b)
		if ok {
			if _, err := h.store.EndSessions(t.Context(), hub.SessionQuery{Hash: s.Hash}); err != nil {
				t.Fatal(err)
			}
		}
		return ok && slices.Equal(s.Groups, []string{"staff"})
	}
	if !in() {
		t.Fatal("not let in with the group")
	}
	is.lie(func() { is.claims = func(c map[string]any) { delete(c, "groups") } })
	is.lie(func() { is.userinfo = map[string]any{"sub": "subject-1", "groups": []string{"staff"}} })
	if !in() {
		t.Error("userinfo was not asked")
	}
	is.lie(func() { is.userinfo = nil })
	h.clock.advance(59 * time.Minute)
	if !in() {
		t.Error("the last groups were not kept")
	}
	h.clock.advance(2 * time.Minute)
	if in() {
		t.Error("unknown groups count for ever")
	}
	is.lie(func() { is.claims = func(c map[string]any) { c["groups"] = []string{} } })
	h.clock.advance(-time.Hour)
	if in() {
		t.Error("an empty list is not unknown")
	}
}
