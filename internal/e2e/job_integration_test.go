//go:build integration

package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// The main job over HTTP: sign in, start, run a cell, leave, come back to one's files; and all that
// must be refused on the way.
func TestMainJob(t *testing.T) { //nolint:tparallel // each goes on from the one before
	t.Parallel()
	d := deploy(t, options{})
	alice, bob := d.person("alice"), d.person("bob")

	t.Run("nobody gets in without signing in", func(t *testing.T) {
		eve := d.person("alice")
		if at := eve.visit("/hub/home"); !strings.Contains(at.url.Path, "demo-provider") && !strings.Contains(at.url.Path, "/hub/login") {
			t.Errorf("the home page of nobody is at %s with status %d", at.url, at.status)
		}
		if status, _ := eve.jupyter(http.MethodGet, "api/contents", ""); status != http.StatusUnauthorized {
			t.Errorf("nobody's call got status %d, want 401", status)
		}
		if status, _ := eve.api(http.MethodGet, "/user", ""); status != http.StatusForbidden {
			t.Errorf("nobody's API call got status %d, want 403", status)
		}
	})

	alice.signIn()
	bob.signIn()
	if at := alice.visit(alice.notebook("lab")); !strings.Contains(at.url.Path, "/hub/spawn/alice") {
		t.Errorf("a notebook that does not run leads to %s, want the start page", at.url)
	}
	alice.start("")

	t.Run("JupyterLab opens and no page shows the server's token", func(t *testing.T) {
		lab := alice.visit(alice.notebook("lab"))
		if lab.status != http.StatusOK || !strings.Contains(lab.body, "jupyter-config-data") {
			t.Fatalf("%s: status %d\n%.500s", lab.url, lab.status, lab.body)
		}
		k := alice.newKernel()
		token := k.run("import os; print(os.environ.get('CARREL_TOKEN') or os.environ.get('JUPYTER_TOKEN') or '')")
		if len(token) >= 16 && strings.Contains(lab.body, token) {
			t.Error("the page shows the server's token")
		}
		if out := k.run("print(6*7)"); out != "42" {
			t.Errorf("print(6*7) gave %q", out)
		}
	})

	t.Run("another person is refused, over HTTP and websocket", func(t *testing.T) { testOtherPerson(t, alice, bob) })
	t.Run("a websocket of a foreign or missing origin is refused", func(t *testing.T) {
		k := alice.newKernel()
		for _, origin := range []string{"", "https://evil.example", d.url, bob.origin(), "null"} {
			conn, res, err := alice.dialWS("api/kernels/"+k.id+"/channels", origin)
			if err == nil {
				conn.Close()
				t.Errorf("origin %q was let in", origin)
			} else if res == nil || res.StatusCode != http.StatusForbidden {
				t.Errorf("origin %q: %v, want 403", origin, err)
			}
		}
	})

	t.Run("files stay when the server goes", func(t *testing.T) {
		alice.newKernel().run("open('kept.txt','w').write('yesterday')")
		alice.stop()
		if status, _ := alice.jupyter(http.MethodGet, "api/contents", ""); status != http.StatusFailedDependency {
			t.Errorf("a call to a stopped server got status %d, want 424", status)
		}
		alice.start("")
		if out := alice.newKernel().run("print(open('kept.txt').read())"); out != "yesterday" {
			t.Errorf("the file reads %q", out)
		}
	})

	t.Run("signing out cuts open websockets within a second", func(t *testing.T) { testSignOutCuts(t, alice) })
}

func testOtherPerson(t *testing.T, alice, bob *person) {
	t.Helper()
	k := alice.newKernel()
	if at := bob.visit(alice.notebook("lab")); at.status != http.StatusForbidden {
		t.Errorf("bob at %s: status %d, want 403", at.url, at.status)
	}
	u := alice.notebook("api/kernels/" + k.id + "/channels")
	h := http.Header{"Origin": {alice.origin()}}
	for _, jar := range []string{bob.notebook(""), alice.d.url + "/"} { // bob's cookies, carried over by hand
		at, _ := url.Parse(jar)
		for _, c := range bob.http.Jar.Cookies(at) {
			h.Add("Cookie", c.String())
		}
	}
	conn, res, err := (&websocket.Dialer{NetDialContext: dialLoopback}).Dial("ws"+strings.TrimPrefix(u, "http"), h)
	if err == nil {
		conn.Close()
		t.Fatal("bob opened alice's kernel")
	}
	if res == nil || res.StatusCode != http.StatusForbidden {
		t.Errorf("bob's websocket: %v, %v; want 403", res, err)
	}
	if status, _ := bob.api(http.MethodDelete, "/users/alice/server", ""); status != http.StatusForbidden {
		t.Errorf("bob stopping alice's server: status %d, want 403", status)
	}
}

func testSignOutCuts(t *testing.T, alice *person) {
	t.Helper()
	k := alice.newKernel()
	alice.post("/hub/logout", url.Values{})
	cut := make(chan error, 1)
	go func() {
		for {
			if _, _, err := k.conn.ReadMessage(); err != nil {
				cut <- err
				return
			}
		}
	}()
	select {
	case err := <-cut:
		if !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
			t.Errorf("the websocket ended with %v, want close code 1008", err)
		}
	case <-time.After(time.Second):
		t.Error("the websocket is open a second after signing out")
	}
	if status, _ := alice.jupyter(http.MethodGet, "api/contents", ""); status != http.StatusUnauthorized {
		t.Errorf("the old cookie still opens the server: status %d", status)
	}
}

// What an administrator sees and may do.
func TestAdministrator(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{})
	admin, alice := d.person("admin"), d.person("alice")
	admin.signIn()
	alice.signIn()
	alice.start("")
	if at := alice.visit("/hub/admin"); at.status != http.StatusForbidden {
		t.Errorf("alice at the admin page: status %d, want 403", at.status)
	}
	if at := admin.visit("/hub/admin"); at.status != http.StatusOK || !strings.Contains(at.body, "alice") {
		t.Errorf("the admin page: status %d, names alice: %v", at.status, strings.Contains(at.body, "alice"))
	}
	if at := admin.visit(alice.notebook("lab")); at.status != http.StatusForbidden {
		t.Errorf("the administrator opened alice's server without admin_access: status %d", at.status)
	}
	if status, _ := admin.api(http.MethodDelete, "/users/alice/server", ""); status != http.StatusAccepted && status != http.StatusNoContent {
		t.Fatalf("the administrator stopping alice's server: status %d", status)
	}
	eventually(t, time.Minute, "alice's server is gone", func() bool {
		_, user := alice.api(http.MethodGet, "/users/alice", "")
		servers, _ := user["servers"].(map[string]any)
		return user["name"] == "alice" && len(servers) == 0
	})
}

// A token does what its scopes say, by path on the hub's host, and nothing when revoked.
func TestTokens(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{})
	alice := d.person("alice")
	alice.signIn()
	status, made := alice.api(http.MethodPost, "/users/alice/tokens", `{"note":"script","scopes":["servers","access:servers","read:users"]}`)
	if status != http.StatusCreated {
		t.Fatalf("create token: status %d, %v", status, made)
	}
	secret, _ := made["token"].(string)
	id, _ := made["id"].(string)
	script := d.person("alice") // no cookies
	call := func(method, path string) page {
		return script.do(method, d.url+path, nil, http.Header{"Authorization": {"token " + secret}})
	}
	if pg := call(http.MethodPost, "/hub/api/users/alice/server"); pg.status != http.StatusAccepted && pg.status != http.StatusCreated {
		t.Fatalf("start by token: status %d, %s", pg.status, pg.body)
	}
	alice.waitReady(2 * time.Minute)
	pg := call(http.MethodGet, "/user/alice/api/contents")
	var contents struct{ Type string }
	if err := json.Unmarshal([]byte(pg.body), &contents); err != nil || pg.status != http.StatusOK || contents.Type != "directory" {
		t.Errorf("contents by token: status %d, %v, %.300s", pg.status, err, pg.body)
	}
	if pg := call(http.MethodPost, "/hub/api/users/alice/tokens"); pg.status != http.StatusForbidden {
		t.Errorf("a token without the scope self made another: status %d", pg.status)
	}
	if status, _ := alice.api(http.MethodDelete, "/users/alice/tokens/"+id, ""); status != http.StatusNoContent {
		t.Fatalf("revoke: status %d", status)
	}
	eventually(t, time.Second, "the revoked token is refused", func() bool {
		return call(http.MethodGet, "/user/alice/api/contents").status == http.StatusUnauthorized
	})
}
