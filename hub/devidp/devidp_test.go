package devidp

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"carrel/hub"
)

func TestSignIn(t *testing.T) {
	s := start(t, nil)
	v := newVisitor(t)
	tokens := s.signIn(v)
	c := claimsOf(t, tokens["id_token"])
	for name, want := range map[string]string{"iss": s.url, "sub": "alice", "preferred_username": "alice", "name": "Alice", "email": "alice@example.org", "nonce": "no"} {
		if c[name] != want {
			t.Errorf("%s is %v, want %s", name, c[name], want)
		}
	}
	if groups, _ := c["groups"].([]any); len(groups) != 2 || c["sid"] == "" || c["email_verified"] != true {
		t.Errorf("claims %v", c)
	}
	// A second sign-in of the same browser asks for no password, unless the client wants it to.
	resp, _ := v.do(http.MethodGet, s.url+"/login?id="+s.begin(v), nil)
	if s.code(v, resp) == "" {
		t.Error("the browser is not remembered")
	}
	resp, _ = v.do(http.MethodGet, s.authorize(map[string]string{"prompt": "login"}), nil)
	if resp, body := v.do(http.MethodGet, resp.Header.Get("Location"), nil); resp.StatusCode != http.StatusOK || !strings.Contains(body, `name="password"`) {
		t.Errorf("prompt=login: %d", resp.StatusCode)
	}
}

func TestPKCEAndRedirects(t *testing.T) {
	s := start(t, nil)
	for name, change := range map[string]map[string]string{
		"no challenge":     {"code_challenge": "", "code_challenge_method": ""},
		"plain":            {"code_challenge_method": "plain", "code_challenge": verifier},
		"no method":        {"code_challenge_method": ""},
		"prompt none":      {"prompt": "none"},
		"implicit":         {"response_type": "id_token"},
		"suffixed":         {"redirect_uri": redirect + ".evil.example.org"},
		"path added":       {"redirect_uri": redirect + "/../../evil"},
		"query added":      {"redirect_uri": redirect + "?x=1"},
		"prefixed":         {"redirect_uri": "http://localhost:9@evil.example.org/hub/oidc/demo/callback"},
		"another host":     {"redirect_uri": "https://evil.example.org/hub/oidc/demo/callback"},
		"another port":     {"redirect_uri": strings.Replace(redirect, ":9/", ":10/", 1)},
		"in capitals":      {"redirect_uri": strings.ToUpper(redirect)},
		"no redirect":      {"redirect_uri": ""},
		"unknown client":   {"client_id": "another"},
		"script":           {"redirect_uri": "javascript:alert(1)"},
		"redirect to here": {"redirect_uri": s.url + "/login"},
	} {
		resp, body := newVisitor(t).do(http.MethodGet, s.authorize(change), nil)
		to := resp.Header.Get("Location")
		if strings.Contains(to, "/login?id=") || to != "" && !strings.HasPrefix(to, redirect+"?error=") && !strings.HasPrefix(to, redirect+"#error=") {
			t.Errorf("%s: %d to %q: %s", name, resp.StatusCode, to, body)
		}
	}
	v := newVisitor(t)
	for name, change := range map[string]map[string]string{"no verifier": {"code_verifier": ""}, "another verifier": {"code_verifier": verifier + "x"}, "another redirect": {"redirect_uri": redirect + "x"}} {
		code, _, _ := s.login(v, s.begin(v), "alice", password)
		form := exchange(code)
		for k, val := range change {
			form.Set(k, val)
		}
		if status, m := s.token(form); status == http.StatusOK || m["id_token"] != nil {
			t.Errorf("%s: %d", name, status)
		}
	}
	code, _, _ := s.login(v, s.begin(v), "alice", password)
	if status, _ := s.token(exchange(code)); status != http.StatusOK {
		t.Fatalf("token: %d", status)
	}
	if status, _ := s.token(exchange(code)); status == http.StatusOK {
		t.Error("the code counted twice")
	}
}

// TestAnotherBrowser: who sends a link to a person must not get the code of their sign-in.
func TestAnotherBrowser(t *testing.T) {
	s := start(t, nil)
	attacker, victim := newVisitor(t), newVisitor(t)
	id := s.begin(attacker)
	if resp, _ := victim.do(http.MethodGet, s.url+"/login?id="+id, nil); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("another browser's login page: %d", resp.StatusCode)
	}
	if code, resp, _ := s.login(victim, id, "alice", password); code != "" || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("another browser's login: %d", resp.StatusCode)
	}
	id = s.begin(victim)
	if resp, _ := victim.do(http.MethodPost, s.url+"/login", url.Values{"id": {id}, "username": {"alice"}, "password": {password}}); resp.StatusCode != http.StatusSeeOther {
		t.Fatalf("login: %d", resp.StatusCode)
	}
	if resp, _ := attacker.do(http.MethodGet, s.url+"/authorize/callback?id="+id, nil); resp.StatusCode != http.StatusBadRequest || resp.Header.Get("Location") != "" {
		t.Errorf("the attacker is sent to %q", resp.Header.Get("Location"))
	}
	if resp, _ := victim.do(http.MethodPost, s.url+"/login", url.Values{"id": {s.begin(victim)}}, "Sec-Fetch-Site", "cross-site"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a form of another site: %d", resp.StatusCode)
	}
}

// TestGuessing is attack 48.
func TestGuessing(t *testing.T) {
	s := start(t, nil)
	v := newVisitor(t)
	page := func(name string) (int, string) {
		id := s.begin(v)
		_, resp, body := s.login(v, id, name, "guess")
		return resp.StatusCode, strings.NewReplacer(id, "ID", name, "NAME").Replace(body)
	}
	same := func(want int) {
		t.Helper()
		known, knownBody := page("alice")
		unknown, unknownBody := page("zelda")
		if known != want || unknown != want || knownBody != unknownBody {
			t.Errorf("%d and %d, want %d; the same page: %v", known, unknown, want, knownBody == unknownBody)
		}
	}
	same(http.StatusUnauthorized)
	same(http.StatusUnauthorized)
	for _, name := range []string{"alice", "zelda"} { // as after many more guesses
		s.p.guesses.names[name] = guess{failures: freeGuesses + 10, last: time.Now()}
	}
	same(http.StatusTooManyRequests)
	if code, resp, _ := s.login(v, s.begin(v), "alice", password); code != "" || resp.Header.Get("Retry-After") == "" {
		t.Error("the right password is taken during the pause")
	}
	if code, _, _ := s.login(v, s.begin(v), "bob", "another password"); code == "" {
		t.Error("bob must wait for alice's guesses")
	}
	for _, name := range []string{"", "../alice", strings.Repeat("a", 10_000), "а", "alice\x00"} {
		if code, resp, _ := s.login(v, s.begin(v), name, password); code != "" || resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("name %.20q: %d", name, resp.StatusCode)
		}
	}
}

// TestUnknownNamesTakeAsLong: the same work is done for them.
func TestUnknownNamesTakeAsLong(t *testing.T) {
	people, err := GeneratePeople([]string{"alice"})
	if err != nil {
		t.Fatal(err)
	}
	known, err := bcrypt.Cost([]byte(people[0].PasswordHash))
	if err != nil {
		t.Fatal(err)
	}
	if unknown, err := bcrypt.Cost(nobodysHash()); err != nil || known != unknown {
		t.Errorf("cost %d and %d: %v", known, unknown, err)
	}
}

func TestGuessesPause(t *testing.T) {
	g := newGuesses()
	now := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	var pauses []time.Duration
	for range 14 {
		rest := g.wait("alice", now)
		pauses = append(pauses, rest)
		if now = now.Add(rest); rest > 0 && g.wait("alice", now) != 0 {
			t.Fatal("after the pause the name must still wait")
		}
	}
	if pauses[0] != 0 || pauses[freeGuesses-1] != 0 || pauses[freeGuesses] != time.Second || pauses[13] != longestPause {
		t.Errorf("pauses %v", pauses)
	}
	if g.wait("alice", now.Add(forgetAfter+time.Second)) != 0 {
		t.Error("never forgotten")
	}
	for range maxNames + 10 {
		g.wait(rand.Text(), now)
	}
	if len(g.names) > maxNames {
		t.Errorf("%d names are kept", len(g.names))
	}
}

func TestGuard(t *testing.T) {
	trusted := false
	s := start(t, func(c *Config) { c.Trusted = func(*http.Request) bool { return trusted } })
	discovery := s.url + "/.well-known/openid-configuration"
	v := newVisitor(t)
	check := func(want int, header ...string) {
		t.Helper()
		if resp, _ := v.do(http.MethodGet, discovery, nil, header...); resp.StatusCode != want {
			t.Errorf("trusted %v, %q: %d, want %d", trusted, header, resp.StatusCode, want)
		}
	}
	check(200)
	check(200, "Host", "localhost:8000")
	check(200, "Host", "[::1]:8000")
	for _, host := range []string{"hub.example.org", "localhost.evil.example.org", "127.0.0.1.nip.io", "192.0.2.1:8000", "alice.localhost", "[::ffff:192.0.2.1]", "0.0.0.0"} {
		check(403, "Host", host)
	}
	for _, name := range forwarding {
		check(403, name, "127.0.0.1")
	}
	trusted = true
	check(403) // the proxy always says for whom it asks
	check(200, "X-Forwarded-For", "127.0.0.1", "X-Forwarded-Proto", "http", "X-Forwarded-Host", "localhost:8000")
	check(200, "X-Forwarded-For", "::1")
	check(403, "X-Forwarded-For", "192.0.2.1")
	check(403, "X-Forwarded-For", "192.0.2.1, 127.0.0.1")
	check(403, "X-Forwarded-For", "127.0.0.1", "X-Forwarded-For", "192.0.2.1")
	check(403, "X-Forwarded-For", "127.0.0.1", "X-Forwarded-Host", "hub.example.org")
	check(403, "X-Forwarded-For", "127.0.0.1", "Forwarded", "for=127.0.0.1")
	check(403, "X-Forwarded-For", "127.0.0.1", "X-Real-Ip", "127.0.0.1")
	check(403, "X-Forwarded-For", "127.0.0.1", "Host", "hub.example.org")
}

func TestTransport(t *testing.T) {
	s := start(t, nil)
	client := &http.Client{Transport: s.p.Transport()}
	resp, err := client.Get(s.url + "/keys")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `"kid"`) {
		t.Errorf("%d %s %v", resp.StatusCode, body, err)
	}
	if _, err := client.Get("http://127.0.0.1:1/keys"); err == nil { // there is none
		t.Error("another address is reached")
	}
}

// listener is a client's end for logout tokens.
func listener(t testing.TB) (string, chan string) {
	t.Helper()
	tokens := make(chan string, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { tokens <- r.PostFormValue("logout_token") }))
	t.Cleanup(srv.Close)
	return srv.URL, tokens
}

func TestSignOut(t *testing.T) {
	address, told := listener(t)
	s := start(t, func(c *Config) { c.Clients[0].BackChannelLogoutURI = address })
	v := newVisitor(t)
	tokens := s.signIn(v)
	hint, _ := tokens["id_token"].(string)
	sid := claimsOf(t, hint)["sid"]
	// Without a hint the person is asked: any site could have sent the browser here.
	resp, body := v.do(http.MethodGet, s.url+"/end_session?post_logout_redirect_uri=http://localhost:9/out", nil)
	if resp.StatusCode != http.StatusOK || !strings.Contains(body, "signed in as <strong>alice") {
		t.Errorf("end_session without a hint: %d %s", resp.StatusCode, body)
	}
	out := func(uri string) *http.Response {
		resp, _ := v.do(http.MethodGet, s.url+"/end_session?"+url.Values{"id_token_hint": {hint}, "client_id": {"carrel"}, "post_logout_redirect_uri": {uri}, "state": {"st"}}.Encode(), nil)
		return resp
	}
	if resp := out("http://localhost:9/out/../evil"); resp.StatusCode != http.StatusBadRequest || len(told) != 0 {
		t.Errorf("a foreign redirect: %d", resp.StatusCode)
	}
	if resp := out("http://localhost:9/out"); resp.Header.Get("Location") != "http://localhost:9/out?state=st" {
		t.Errorf("end_session: %d to %q", resp.StatusCode, resp.Header.Get("Location"))
	}
	c := claimsOf(t, <-told)
	events, _ := c["events"].(map[string]any)
	if c["sub"] != "alice" || c["sid"] != sid || c["iss"] != s.url || c["jti"] == "" || c["nonce"] != nil || events["http://schemas.openid.net/event/backchannel-logout"] == nil {
		t.Errorf("logout token %v", c)
	}
	if status, _ := s.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens["refresh_token"].(string)}}); status == http.StatusOK {
		t.Error("the refresh token outlives its session")
	}
	if resp, _ := v.do(http.MethodGet, s.url+"/userinfo", nil, "Authorization", "Bearer "+tokens["access_token"].(string)); resp.StatusCode == http.StatusOK {
		t.Error("the access token outlives its session")
	}
	if resp, _ := v.do(http.MethodGet, s.url+"/login?id="+s.begin(v), nil); resp.StatusCode != http.StatusOK {
		t.Errorf("the browser is still signed in: %d", resp.StatusCode)
	}
	// By the button of the account page, and by the operator.
	s.signIn(v)
	if resp, _ := v.do(http.MethodPost, s.url+"/logout", url.Values{}); resp.StatusCode != http.StatusSeeOther || claimsOf(t, <-told)["sub"] != "alice" {
		t.Errorf("button: %d", resp.StatusCode)
	}
	s.signIn(v)
	if err := s.p.SignOut(t.Context(), "alice"); err != nil || claimsOf(t, <-told)["sub"] != "alice" {
		t.Error(err)
	}
}

func TestRestart(t *testing.T) {
	s := start(t, nil)
	v := newVisitor(t)
	tokens := s.signIn(v)
	info, err := os.Stat(filepath.Join(s.cfg.Dir, stateFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("state file: %v %v", info, err)
	}
	again, err := New(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.p = again
	s.at.Store(again)
	refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens["refresh_token"].(string)}}
	status, m := s.token(refresh)
	if status != http.StatusOK || claimsOf(t, m["id_token"])["sid"] != claimsOf(t, tokens["id_token"])["sid"] {
		t.Fatalf("refresh after a restart: %d %v", status, m)
	}
	if _, keys := v.do(http.MethodGet, s.url+"/keys", nil); strings.Count(keys, `"kid"`) != 1 {
		t.Errorf("keys %s", keys)
	}
	if err := s.p.RotateKey(context.Background(), false); err != nil {
		t.Fatal(err)
	}
	if _, keys := v.do(http.MethodGet, s.url+"/keys", nil); strings.Count(keys, `"kid"`) != 2 {
		t.Errorf("keys after a rotation %s", keys)
	}
	if err := s.p.SetPeople([]Person{cheap(t, "bob", "another password")}); err != nil {
		t.Fatal(err)
	}
	if status, _ := s.token(refresh); status == http.StatusOK {
		t.Error("somebody who is gone can refresh")
	}
	if err := os.WriteFile(filepath.Join(s.cfg.Dir, stateFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(s.cfg); hub.KindOf(err) != hub.Invalid {
		t.Errorf("a malformed state file: %v", err)
	}
}

func TestLoadPeople(t *testing.T) {
	path := filepath.Join(t.TempDir(), "demo-users.json")
	first, made, err := LoadPeople(path, []string{"alice", "bob"})
	if err != nil || !made || len(first) != 2 || !first[0].Admin || first[1].Admin || first[0].Password == first[1].Password {
		t.Fatalf("%v %v %v", first, made, err)
	}
	second, made, err := LoadPeople(path, []string{"Alice", "bob"})
	if err != nil || made || second[0].Password != first[0].Password || second[1].PasswordHash != first[1].PasswordHash {
		t.Errorf("%v %v %v", second, made, err)
	}
	third, made, err := LoadPeople(path, []string{"bob", "eve"})
	if err != nil || !made || third[0].Password != first[1].Password {
		t.Errorf("%v %v %v", third, made, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	var file []struct{ Name, Password string }
	raw, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(raw, &file) != nil || len(file) != 2 || file[0].Password != third[0].Password.Reveal() {
		t.Errorf("file %s %v", raw, err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadPeople(path, []string{"bob"}); hub.KindOf(err) != hub.Invalid {
		t.Errorf("a malformed file: %v", err)
	}
	if _, err := GeneratePeople([]string{"../x"}); hub.KindOf(err) != hub.Invalid {
		t.Errorf("a bad name: %v", err)
	}
}

func TestConfigFaults(t *testing.T) {
	good := start(t, nil).cfg
	for field, change := range map[string]func(*Config){
		"issuer":  func(c *Config) { c.Issuer = "https://hub.example.org/hub/demo-provider" },
		"dir":     func(c *Config) { c.Dir = "" },
		"clients": func(c *Config) { c.Clients = nil },
		"people":  func(c *Config) { c.People = append(c.People, Person{Name: "ALICE", Password: hub.NewSecret("x")}) },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); hub.KindOf(err) != hub.Invalid || hub.FieldOf(err) != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if !loopbackHost(net.JoinHostPort("::1", "80")) || loopbackHost("") || loopbackHost("fe80::1%lo") {
		t.Error("loopbackHost")
	}
}

func TestPagesAreStrict(t *testing.T) {
	s := start(t, nil)
	v := newVisitor(t)
	resp, body := v.do(http.MethodGet, s.url+"/login?id="+s.begin(v), nil)
	csp := resp.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self' http://localhost:9 http://*.localhost:9"} {
		if !strings.Contains(csp, want) {
			t.Errorf("the policy lacks %q: %s", want, csp)
		}
	}
	if strings.Contains(body, "<script") || strings.Contains(body, "style=") || resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("headers %v", resp.Header)
	}
	for _, want := range []string{`<label for="username">`, `<label for="password">`, `lang="en"`, `autocomplete="current-password"`, "width=device-width"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	_, _, body = s.login(v, s.begin(v), `"><script>x</script>`, "x")
	if strings.Contains(body, "<script") || !strings.Contains(body, `role="alert"`) {
		t.Errorf("a name is not escaped: %s", body)
	}
}
