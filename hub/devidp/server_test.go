package devidp

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"carrel/hub"
)

const (
	prefix   = "/hub/demo-provider"
	redirect = "http://localhost:9/hub/oidc/demo/callback"
	verifier = "0123456789-0123456789-0123456789-0123456789"
	password = "bofu-kame-rilo-dazu"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // op logs every refusal there
	os.Exit(m.Run())
}

// server is a provider that listens.
type server struct {
	t   testing.TB
	p   *Provider
	at  atomic.Pointer[Provider] // p, for the listener
	cfg Config
	url string // the issuer
}

// cheap is a person whose password takes little time to check.
func cheap(t testing.TB, name, password string) Person {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return Person{Name: name, DisplayName: strings.ToUpper(name[:1]) + name[1:], Email: name + "@example.org", Groups: []string{"demo"}, Admin: name == "alice", PasswordHash: string(hash)}
}

func start(t testing.TB, change func(*Config)) *server {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	t.Cleanup(srv.Close)
	s := &server{t: t, url: "http://" + srv.Listener.Addr().String() + prefix}
	s.cfg = Config{
		Issuer: s.url, Dir: t.TempDir(),
		People:  []Person{cheap(t, "alice", password), cheap(t, "bob", "another password")},
		Clients: []Client{{ID: "carrel", Secret: hub.NewSecret("s3cret"), RedirectURIs: []string{redirect}, PostLogoutRedirectURIs: []string{"http://localhost:9/out"}}},
	}
	if change != nil {
		change(&s.cfg)
	}
	var err error
	if s.p, err = New(s.cfg); err != nil {
		t.Fatal(err)
	}
	s.at.Store(s.p)
	mux := http.NewServeMux()
	mux.HandleFunc(prefix+"/", func(w http.ResponseWriter, r *http.Request) { s.at.Load().ServeHTTP(w, r) })
	srv.Config.Handler = mux
	srv.Start()
	return s
}

// visitor is a browser that follows no redirect.
type visitor struct {
	t      testing.TB
	client *http.Client
}

func newVisitor(t testing.TB) *visitor {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &visitor{t, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (v *visitor) do(method, address string, form url.Values, header ...string) (*http.Response, string) {
	v.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(v.t.Context(), method, address, body)
	if err != nil {
		v.t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := v.client.Do(r)
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return resp, string(b)
}

func (s *server) authorize(change map[string]string) string {
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{
		"response_type": {"code"}, "client_id": {"carrel"}, "redirect_uri": {redirect}, "scope": {"openid profile email groups offline_access"}, "state": {"st"}, "nonce": {"no"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
	}
	for name, value := range change {
		q.Set(name, value)
		if value == "" {
			q.Del(name)
		}
	}
	return s.url + "/authorize?" + q.Encode()
}

// begin gets as far as the login page and gives the sign-in's id.
func (s *server) begin(v *visitor) string {
	s.t.Helper()
	resp, body := v.do(http.MethodGet, s.authorize(nil), nil)
	to, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || resp.StatusCode != http.StatusFound || to.Query().Get("id") == "" {
		s.t.Fatalf("authorize: %d to %q: %s", resp.StatusCode, to, body)
	}
	return to.Query().Get("id")
}

// login posts the form, and gives the code or "" and the page.
func (s *server) login(v *visitor, id, name, pass string) (string, *http.Response, string) {
	s.t.Helper()
	resp, body := v.do(http.MethodPost, s.url+"/login", url.Values{"id": {id}, "username": {name}, "password": {pass}})
	return s.code(v, resp), resp, body
}

// code follows the redirects of a finished sign-in.
func (s *server) code(v *visitor, resp *http.Response) string {
	s.t.Helper()
	for range 3 {
		to := resp.Header.Get("Location")
		if strings.HasPrefix(to, redirect+"?") {
			u, err := url.Parse(to)
			if err != nil {
				s.t.Fatal(err)
			}
			return u.Query().Get("code")
		}
		if to == "" {
			return ""
		}
		resp, _ = v.do(http.MethodGet, to, nil)
	}
	return ""
}

// token asks the token endpoint.
func (s *server) token(form url.Values) (int, map[string]any) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url+"/oauth/token", strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth("carrel", "s3cret")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var m map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&m); err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, m
}

func exchange(code string) url.Values {
	return url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect}, "code_verifier": {verifier}}
}

// claimsOf reads an ID token without verifying it.
func claimsOf(t testing.TB, token any) map[string]any {
	t.Helper()
	text, _ := token.(string)
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		t.Fatalf("no token: %v", token)
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func (s *server) signIn(v *visitor) map[string]any {
	s.t.Helper()
	code, resp, body := s.login(v, s.begin(v), "alice", password)
	if code == "" {
		s.t.Fatalf("sign-in: %d %s", resp.StatusCode, body)
	}
	status, tokens := s.token(exchange(code))
	if status != http.StatusOK {
		s.t.Fatalf("token: %d %v", status, tokens)
	}
	return tokens
}
