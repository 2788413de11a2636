//go:build integration

package e2e

import (
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A paused server is frozen, and whatever comes for it wakes it: a page, a call, a cell by a kernel's
// websocket that was open all the time. Its variables are there.
func TestPauseAndWake(t *testing.T) {
	d := deploy(t, options{extra: "spawner:\n  kernel_check: false\n"})
	alice := d.person("alice")
	alice.signIn()
	alice.start("")
	k := alice.newKernel()
	if out := k.run("x = 41"); out != "" {
		t.Fatalf("said %q", out)
	}
	for name, use := range map[string]func(){
		"a cell": func() {
			if out := k.run("x += 1; print(x - 41)"); strings.TrimSpace(out) == "" {
				t.Errorf("the cell said %q", out)
			}
		},
		"a page": func() {
			if at := alice.visit(alice.notebook("lab")); at.status != http.StatusOK {
				t.Errorf("the page: status %d", at.status)
			}
		},
		"a call": func() {
			if status, body := alice.jupyter(http.MethodGet, "api/kernels/"+k.id, ""); status != http.StatusOK {
				t.Errorf("the call: status %d, %s", status, body)
			}
		},
		"another websocket": func() { alice.openKernel(k.id).conn.Close() },
		"the REST interface": func() {
			if status, out := alice.api(http.MethodPost, "/users/alice/server/wake", ""); status != http.StatusOK || out["paused"] != nil {
				t.Errorf("the wake: status %d, %v", status, out)
			}
		},
	} {
		alice.pause()
		if state := d.containerState(); state != "paused" {
			t.Fatalf("before %s: the container is %s", name, state)
		}
		began := time.Now()
		use()
		t.Logf("%s: %v", name, time.Since(began))
		if state := d.containerState(); state != "running" {
			t.Errorf("after %s: the container is %s", name, state)
		}
	}
	if out := k.run("print(x)"); strings.TrimSpace(out) != "42" {
		t.Errorf("the variable is %q", out)
	}
	alice.pause()
	alice.stop()
}

// pause has the default server paused.
func (p *person) pause() {
	p.t.Helper()
	eventually(p.t, time.Minute, "the server is paused", func() bool { // what was at work may just end
		status, out := p.api(http.MethodPost, "/users/"+p.name+"/server/pause", "")
		if status != http.StatusOK {
			p.t.Fatalf("pause: status %d, %v", status, out)
		}
		return out["paused"] == true
	})
}

// containerState is how Docker calls the state of the deployment's one server.
func (d *deployment) containerState() string {
	d.t.Helper()
	out, err := exec.Command("docker", append([]string{"inspect", "--format", "{{.State.Status}}"}, d.containers()...)...).Output()
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
