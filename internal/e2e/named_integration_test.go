//go:build integration

package e2e

import (
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startNamed starts a named server of the person's and waits until it is ready.
func (p *person) startNamed(name string) {
	p.t.Helper()
	if status, out := p.api(http.MethodPost, "/users/"+p.name+"/servers/"+name, ""); status != http.StatusAccepted && status != http.StatusCreated {
		p.t.Fatalf("start %s: status %d, %v", name, status, out)
	}
	eventually(p.t, 2*time.Minute, name+" is ready", func() bool { return p.serverIs(name, "ready") })
}

// stopNamed stops it and waits until it is gone.
func (p *person) stopNamed(name string) {
	p.t.Helper()
	if status, out := p.api(http.MethodDelete, "/users/"+p.name+"/servers/"+name, ""); status != http.StatusAccepted && status != http.StatusNoContent {
		p.t.Fatalf("stop %s: status %d, %v", name, status, out)
	}
	eventually(p.t, time.Minute, name+" is gone", func() bool { return p.serverIs(name, "gone") })
}

func (p *person) serverIs(name, state string) bool {
	_, user := p.api(http.MethodGet, "/users/"+p.name, "")
	servers, ok := user["servers"].(map[string]any)
	server, there := servers[name].(map[string]any)
	if state == "gone" {
		return ok && !there
	}
	return there && server[state] == true
}

// A named server that is stopped keeps its address: whoever comes to it is led to start that one, and
// never to the default server, which runs all the while; across restarts of the proxy too.
func TestNamedServers(t *testing.T) { //nolint:tparallel // each goes on from the one before
	t.Parallel()
	d := deploy(t, options{})
	alice := d.person("alice")
	alice.signIn()
	alice.start("")
	alice.startNamed("gpu")
	if at := alice.visit(alice.notebook("gpu/lab")); at.status != http.StatusOK || !strings.Contains(at.body, "/user/alice/gpu/") {
		t.Fatalf("%s: status %d\n%.300s", at.url, at.status, at.body)
	}
	alice.stopNamed("gpu")
	stoppedServer(t, alice, "gpu")
	d.signal(syscall.SIGTERM)
	d.wait(time.Minute)
	d.start()
	d.waitReady()
	eventually(t, time.Minute, "the default server is there again", func() bool {
		status, _ := alice.jupyter(http.MethodGet, "api", "")
		return status == http.StatusOK
	})
	stoppedServer(t, alice, "gpu")
	alice.stop()
	stoppedServer(t, alice, "gpu")
	alice.startNamed("gpu")
	if at := alice.visit(alice.notebook("gpu/lab")); at.status != http.StatusOK || !strings.Contains(at.body, "/user/alice/gpu/") {
		t.Errorf("started again, %s: status %d", at.url, at.status)
	}

	t.Run("no name takes a part of the default server away", func(t *testing.T) {
		alice := alice.in(t)
		status, out := alice.api(http.MethodPost, "/users/alice/servers/lab", "")
		if message, _ := out["message"].(string); status != http.StatusUnprocessableEntity || !strings.Contains(message, "lab") {
			t.Errorf("a server called lab: status %d, %v", status, out)
		}
	})
}

// stoppedServer is all that someone can meet at a stopped server's address.
func stoppedServer(t *testing.T, p *person, name string) {
	t.Helper()
	bookmark := p.notebook(name + "/lab/tree/here.txt")
	u, err := url.Parse(bookmark)
	if err != nil {
		t.Fatal(err)
	}
	at := p.visit(bookmark)
	if want := p.d.base() + "hub/spawn/" + p.name + "/" + name; at.status != http.StatusOK || at.url.Path != want || at.url.Query().Get("next") != u.Path {
		t.Errorf("a bookmark leads to %s, status %d; want %s and back to %s", at.url, at.status, want, u.Path)
	}
	if status, body := p.jupyter(http.MethodGet, name+"/api/kernels", ""); status != http.StatusFailedDependency {
		t.Errorf("an open tab's call: status %d, want 424: %.300s", status, body)
	}
	conn, res, err := p.dialWS(name+"/api/kernels/x/channels", p.origin())
	if err == nil {
		conn.Close()
		t.Error("an open tab's websocket was let in")
	} else if res == nil || res.StatusCode != http.StatusFailedDependency {
		t.Errorf("an open tab's websocket: %v, %v; want 424", res, err)
	}
}
