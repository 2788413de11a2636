//go:build integration

package e2e

import (
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A paused server is frozen, and whatever comes for it wakes it: a page, a call, a cell by a kernel's
// websocket that was open all the time. Its variables are there.
func TestPauseAndWake(t *testing.T) {
	t.Parallel()
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

// Jupyter's server pings each websocket every 30 seconds by its clock, and closes one that it heard no
// answer of for 90. Going on after a longer pause it sends the ping that is overdue; if the next is due
// a moment later, it closes the websocket of a browser that could not answer so fast, of whom it heard
// last before the pause. Here it wakes in just that moment, and the websocket stays all the same.
// Meanwhile the proxy pings the browser.
func TestALongPause(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: "proxy: {pause_ping: 5s}\nspawner: {kernel_check: false}\n"})
	alice := d.person("alice")
	alice.signIn()
	alice.start("")
	k := alice.newKernel()
	k.run("x = 7")
	silent := alice.openKernel(k.id)
	asked, over := make(chan struct{}, 1), make(chan error, 1)
	var ours, theirs atomic.Int32
	answer := silent.conn.PingHandler()
	silent.conn.SetPingHandler(func(payload string) error {
		if payload == "carrel" {
			ours.Add(1)
			return answer(payload)
		}
		if theirs.Add(1) == 1 {
			asked <- struct{}{}
			return nil // its answer gets lost
		}
		time.AfterFunc(5*time.Second, func() { _ = answer(payload) }) // it is slow
		return nil
	})
	go func() {
		for {
			if _, _, err := silent.conn.ReadMessage(); err != nil {
				over <- err
				return
			}
		}
	}()
	select {
	case <-asked:
	case <-time.After(time.Minute):
		t.Fatal("the server does not ping")
	}
	began := time.Now()
	alice.pause()
	for left := 118 * time.Second; left > 0; left = 118*time.Second - time.Since(began) { // two before its fourth next ping
		select {
		case err := <-over:
			t.Fatalf("after %v: %v", time.Since(began), err)
		case <-time.After(min(time.Second, left)):
		}
		if state := d.containerState(); state != "paused" {
			t.Fatalf("after %v: the container is %s", time.Since(began), state)
		}
	}
	if n := ours.Load(); n < 15 {
		t.Errorf("the browser was pinged %d times", n)
	}
	if out := k.run("print(x)"); strings.TrimSpace(out) != "7" {
		t.Errorf("the variable is %q", out)
	}
	select {
	case err := <-over:
		t.Fatalf("at the end of the pause: %v", err)
	case <-time.After(5 * time.Second):
	}
	if theirs.Load() < 2 {
		t.Error("the server did not look whether its client is there")
	}
	if out := k.run("print(x + 1)"); strings.TrimSpace(out) != "8" {
		t.Errorf("the variable is %q", out)
	}
}

// JupyterLab in a browser goes on asking; the server that it asks sleeps on, and is there for the first cell.
func TestAnOpenTabLetsAServerSleep(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: peopleNamed(1) + "log: {access: all}\nproxy: {pause_ping: 5s}\nspawner: {kernel_check: false}\n"})
	p := d.person("person0")
	p.signIn()
	p.start("")
	k := p.newKernel()
	k.run("x = 7")
	b := d.browser()
	b.start()
	b.signIn(d, "person0")
	b.open(p.notebook("lab"), pythonCard)
	time.Sleep(15 * time.Second) // each of its polls was made
	p.pause()
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(time.Second) {
		if state := d.containerState(); state != "paused" {
			t.Fatalf("after %v: the container is %s", time.Since(began), state)
		}
	}
	if out := k.run("print(x)"); strings.TrimSpace(out) != "7" {
		t.Errorf("the variable is %q", out)
	}
}

// The rule pauses who is idle, again and again, and nobody whose kernel computes.
func TestIdleServersArePaused(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: peopleNamed(2) + `
spawner: {kernel_check: false}
profiles:
  - {name: short, default: true, title: Short, cpu: 1, memory: 512MiB, disk: 64MiB, network: none, cull: {pause_after: 20s, idle: 1h, warning: 1m}}
`})
	idle, busy := d.person("person0"), d.person("person1")
	for _, p := range []*person{idle, busy} {
		p.signIn()
		p.start("")
	}
	k, computes := idle.newKernel(), busy.newKernel()
	k.run("x = 7")
	computes.send(computing)
	for range 2 {
		eventually(t, 2*time.Minute, "the idle one is paused", func() bool { return idle.isPaused() })
		if out := k.run("print(x)"); strings.TrimSpace(out) != "7" {
			t.Errorf("the variable is %q", out)
		}
	}
	if busy.isPaused() {
		t.Error("the busy one is paused")
	}
}

// isPaused tells what the hub says of the default server.
func (p *person) isPaused() bool {
	p.t.Helper()
	_, user := p.api(http.MethodGet, "/users/"+p.name, "")
	servers, _ := user["servers"].(map[string]any)
	server, _ := servers[""].(map[string]any)
	return server["paused"] == true
}
