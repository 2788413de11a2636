//go:build integration

package oidc

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	jose "github.com/go-jose/go-jose/v4"
)

const (
	glewlwydSchema = "/usr/share/doc/glewlwyd/database/init.sqlite3.sql.gz"
	glewlwydAdmin  = "password" // as its schema has it; the server is this test's alone
	alicePassword  = "alice has a password"
)

// realGlewlwyd is Debian's glewlwyd with a database of its own, set up by its API. Its sign-in page
// is JavaScript; the test makes the requests that the page makes.
func realGlewlwyd(t *testing.T) real {
	for _, tool := range []string{"glewlwyd", "sqlite3"} {
		if _, err := exec.LookPath(tool); err != nil {
			if out, err := exec.CommandContext(t.Context(), "apt-get", "install", "-y", "--no-install-recommends", "glewlwyd", "sqlite3").CombinedOutput(); err != nil {
				t.Fatalf("%s is missing: apt-get install glewlwyd sqlite3: %v\n%s", tool, err, out)
			}
		}
	}
	address := freeAddress()
	g := &glewlwyd{api: "http://" + address + "/api"}
	return real{
		config: ProviderConfig{Issuer: g.api + "/oidc", Scopes: []string{"openid"}},
		start: func(t *testing.T, h *testHub) {
			g.run(t, address)
			g.setUp(t, h)
		},
		login:   g.login,
		logout:  g.logout,
		refresh: true,
	}
}

type glewlwyd struct{ api string }

func (g *glewlwyd) run(t *testing.T, address string) {
	t.Helper()
	dir := t.TempDir()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	zipped, err := os.Open(glewlwydSchema)
	if err != nil {
		t.Fatal(err)
	}
	defer zipped.Close()
	schema, err := gzip.NewReader(zipped)
	if err != nil {
		t.Fatal(err)
	}
	database := filepath.Join(dir, "glewlwyd.db")
	fill := exec.CommandContext(t.Context(), "sqlite3", database)
	fill.Stdin = schema
	if out, err := fill.CombinedOutput(); err != nil {
		t.Fatalf("sqlite3: %v\n%s", err, out)
	}
	config := filepath.Join(dir, "glewlwyd.conf")
	text := fmt.Sprintf(`port=%s
bind_address="127.0.0.1"
external_url="http://%s"
login_url="login.html"
api_prefix="api"
log_mode="console"
log_level="INFO"
cookie_secure=0
cookie_same_site="lax"
session_expiration=3600
session_key="GLEWLWYD2_SESSION_ID"
admin_session_authentication="cookie"
profile_session_authentication="cookie"
login_api_enabled=true
max_post_size=1048576
admin_scope="g_admin"
profile_scope="g_profile"
user_module_path="/usr/lib/glewlwyd/user"
client_module_path="/usr/lib/glewlwyd/client"
user_auth_scheme_module_path="/usr/lib/glewlwyd/scheme"
plugin_module_path="/usr/lib/glewlwyd/plugin"
hash_algorithm="SHA512"
database={type="sqlite3"; path=%q;};
`, port, address, database)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("glewlwyd", "-c", config)
	run(t, c)
	t.Cleanup(func() { c.Process.Signal(syscall.SIGTERM) }) // it may have ended
	until(t, "glewlwyd did not come up", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// call makes one request of the API.
func (g *glewlwyd) call(t *testing.T, b *browser, method, path string, body any) page {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, g.api+path, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	p := b.do(r)
	if p.status != http.StatusOK {
		t.Fatalf("%s %s: %d %s", method, path, p.status, p.body)
	}
	return p
}

func (g *glewlwyd) setUp(t *testing.T, h *testHub) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key, KeyID: "key-1", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	type object = map[string]any
	shown := object{"multiple": false, "read": true, "write": true}
	list := object{"multiple": true, "read": true, "write": true}
	admin := newBrowser(t)
	g.call(t, admin, "POST", "/auth/", object{"username": "admin", "password": glewlwydAdmin})
	g.call(t, admin, "PUT", "/mod/user/database", object{
		"module": "database", "name": "database", "display_name": "Database", "order_rank": 0, "readonly": false,
		"parameters": object{"use-glewlwyd-connection": true, "data-format": object{"groups": list}},
	})
	g.call(t, admin, "PUT", "/mod/user/database/reset", nil)
	g.call(t, admin, "PUT", "/mod/client/database", object{
		"module": "database", "name": "database", "display_name": "Database", "order_rank": 0, "readonly": false,
		"parameters": object{"use-glewlwyd-connection": true, "data-format": object{
			"redirect_uri": list, "authorization_type": list, "token_endpoint_auth_method": list, "client_secret": shown,
			"post_logout_redirect_uris": list, "backchannel_logout_uri": shown, "backchannel_logout_session_required": shown,
		}},
	})
	g.call(t, admin, "PUT", "/mod/client/database/reset", nil)
	claim := func(name, property string) object {
		return object{"name": name, "user-property": property, "type": "string", "mandatory": true, "on-demand": false, "scope": []string{}}
	}
	g.call(t, admin, "POST", "/mod/plugin/", object{"module": "oidc", "name": "oidc", "display_name": "OpenID Connect", "enabled": true, "parameters": object{
		"iss": g.api + "/oidc", "jwks-private": string(keys), "default-kid": "key-1", "jwt-type": "ecdsa", "jwt-key-size": "256", "jwks-show": true,
		"access-token-duration": 3600, "refresh-token-duration": 86400, "code-duration": 600, "refresh-token-rolling": true, "refresh-token-one-use": "always",
		"allow-non-oidc": false, "auth-type-code-enabled": true, "auth-type-code-revoke-replayed": true, "auth-type-refresh-enabled": true,
		"auth-type-token-enabled": false, "auth-type-implicit-enabled": false, "auth-type-password-enabled": false, "auth-type-client-enabled": false, "auth-type-device-enabled": false,
		"pkce-allowed": true, "pkce-required": true, "pkce-method-plain-allowed": false, "oauth-as-iss-id": true, "subject-type": "public",
		"session-management-allowed": true, "session-cookie-name": "GLEWLWYD2_OIDC_SID", "session-cookie-expiration": 3600, "back-channel-logout-allowed": true, "front-channel-logout-allowed": false,
		"name-claim": "mandatory", "email-claim": "on-demand", "scope-claim": "no", "allowed-scope": []string{"openid"}, "request-parameter-allow": false,
		"claims": []object{claim("preferred_username", "username"), claim("groups", "groups")},
	}})
	g.call(t, admin, "POST", "/client/", object{
		"client_id": testClient, "name": "Carrel", "enabled": true, "confidential": true, "client_secret": h.auth.providers[0].cfg.ClientSecret.Reveal(), "scope": []string{"openid"},
		"redirect_uri": []string{h.at("callback")}, "authorization_type": []string{"code", "refresh_token"}, "token_endpoint_auth_method": []string{"client_secret_basic"},
		"post_logout_redirect_uris": []string{h.at("logged-out")}, "backchannel_logout_uri": h.at("backchannel-logout"), "backchannel_logout_session_required": "true",
	})
	g.call(t, admin, "POST", "/user/", object{
		"username": "alice", "name": "Alice", "email": "alice@example.org", "password": alicePassword, "enabled": true,
		"scope": []string{"openid", "g_profile"}, "groups": []string{"staff", "physics"},
	})
}

// login does what the sign-in page does: password, consent, and back to where the page was asked from.
func (g *glewlwyd) login(t *testing.T, b *browser, at page) page {
	t.Helper()
	back := at.url.Query().Get("callback_url")
	if back == "" {
		t.Fatalf("no sign-in page: %s %s", at.url, at.body)
	}
	g.call(t, b, "POST", "/auth/", map[string]any{"username": "alice", "password": alicePassword})
	g.call(t, b, "PUT", "/auth/grant/"+testClient+"/", map[string]any{"scope": "openid"})
	return b.get(back + "&g_continue")
}

// logout does what the page's "end session" does.
func (g *glewlwyd) logout(t *testing.T, b *browser, at page) page {
	t.Helper()
	q := at.url.Query()
	if q.Get("prompt") != "end_session" || q.Get("sid") == "" {
		t.Fatalf("no sign-out page: %s", at.url)
	}
	g.call(t, b, "DELETE", "/oidc/session/"+url.PathEscape(q.Get("sid"))+"/", nil)
	g.call(t, b, "DELETE", "/auth/", nil)
	back := q.Get("callback_url")
	if back == "" {
		t.Fatalf("nowhere to go back to: %s", at.url)
	}
	return b.get(back)
}
