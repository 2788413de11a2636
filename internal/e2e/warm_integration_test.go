//go:build integration

package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// slotsReady waits until the hub has told of so many servers that wait, ready for somebody.
func (d *deployment) slotsReady(n int) {
	d.t.Helper()
	eventually(d.t, time.Minute, "servers wait", func() bool { return strings.Count(d.output(), "slot ready") >= n })
}

// A person's server is there in a moment, because one waited: with their home, on a network or none;
// the next waits for the next person. A hub that starts anew goes on with those that wait.
func TestWarmStart(t *testing.T) {
	d := deploy(t, options{extra: `
profiles:
  - {name: walled, default: true, title: Walled, cpu: 1, memory: 512MiB, disk: 64MiB, network: none, spare: 1}
  - {name: open, title: Open, cpu: 1, memory: 512MiB, disk: 64MiB, network: open, spare: 1}
`})
	alice := d.person("alice")
	alice.signIn()
	for i, profile := range []string{"walled", "open", "walled"} {
		d.slotsReady(2 + i)
		began := time.Now()
		alice.start(profile)
		t.Logf("%s: from the click to JupyterLab's page in %v", profile, time.Since(began))
		if n := strings.Count(d.output(), "slot claimed"); n != i+1 {
			t.Errorf("%d slots were claimed by the start %d", n, i+1)
		}
		out := alice.newKernel().run("import os, pathlib; p = pathlib.Path('kept.txt'); print(p.exists(), os.getcwd()); p.write_text('mine')")
		if want := map[bool]string{true: "False", false: "True"}[i == 0] + " /home/jovyan"; !strings.HasPrefix(out, want) {
			t.Errorf("%s: the kernel says %q, want %q", profile, out, want)
		}
		alice.stop()
	}
	d.signal(syscall.SIGKILL)
	d.wait(10 * time.Second)
	before := strings.Count(d.output(), "slot ready")
	d.start()
	d.waitReady()
	d.slotsReady(before + 2)
	alice.start("walled")
	if out := alice.newKernel().run("print(open('kept.txt').read())"); out != "mine" {
		t.Errorf("after the hub's restart the file reads %q", out)
	}
}
