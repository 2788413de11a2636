//go:build integration

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rewrite replaces the configuration's text from the marker on.
func (d *deployment) rewrite(marker, text string) {
	d.t.Helper()
	raw, err := os.ReadFile(d.config)
	if err != nil {
		d.t.Fatal(err)
	}
	head, _, found := strings.Cut(string(raw), marker)
	if !found {
		d.t.Fatalf("%q is not in the configuration", marker)
	}
	if err := os.WriteFile(d.config, []byte(head+marker+text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// A changed configuration counts without a restart, on SIGHUP and by itself; a bad one is told of
// and changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	const profile = "  - {name: small, default: true, title: Small, cpu: 1, memory: 512MiB, disk: 64MiB}\n"
	d := deploy(t, options{extra: "spawner:\n  kernel_check: false\nprofiles:\n" + profile})
	alice := d.person("alice")
	alice.signIn()
	offers := func(title string) bool { return strings.Contains(alice.visit("/hub/spawn/alice").body, title) }
	if !offers("Small") {
		t.Fatal("the profile is not offered")
	}

	d.rewrite("profiles:\n", profile+"  - {name: lab, title: Laboratory, cpu: 1, memory: 256MiB, disk: 64MiB}\n")
	d.signal(syscall.SIGHUP)
	eventually(t, 10*time.Second, "a new profile is offered after SIGHUP", func() bool { return offers("Laboratory") })

	d.rewrite("profiles:\n", profile+"  - {name: lab, title: Broken, memory: lots}\n")
	d.signal(syscall.SIGHUP)
	eventually(t, 10*time.Second, "the fault is told with its field", func() bool {
		return strings.Contains(d.output(), "not reloaded") && strings.Contains(d.output(), "memory")
	})
	if offers("Broken") || !offers("Laboratory") {
		t.Error("a bad configuration took the place of the last good one")
	}
	alice.start("lab")

	d.rewrite("profiles:\n", profile+"  - {name: later, title: Later, cpu: 1, memory: 256MiB, disk: 64MiB}\n")
	bob := d.person("bob")
	bob.signIn()
	eventually(t, 15*time.Second, "a changed file is read by itself", func() bool {
		return strings.Contains(bob.visit("/hub/spawn/bob").body, "Later")
	})
	if out := alice.newKernel().run("print(6*7)"); out != "42" {
		t.Errorf("a server of a profile that is gone gives %q", out)
	}
}

// Hub and proxy as services of their own: either may be stopped, or killed, while a notebook runs.
func TestHubAndProxyApart(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{notReady: true, command: "hub", extra: "spawner:\n  kernel_check: false\n"})
	proxy := startProxy(t, d)
	d.waitReady()
	d.readPeople()
	alice := d.person("alice")
	alice.signIn()
	alice.start("")
	k := alice.newKernel()
	k.run("x = 41")

	proxy.Process.Kill()
	proxy.Wait()
	// Its child answers on the connections that it has, and goes; what accepts after that is the new one.
	accepts := func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", d.port))
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	eventually(t, 20*time.Second, "nobody accepts any more", func() bool { return !accepts() })
	startProxy(t, d)
	eventually(t, 20*time.Second, "the new proxy accepts", accepts)
	d.waitReady()
	k = alice.openKernel(k.id)
	if out := k.run("print(x + 1)"); out != "42" {
		t.Errorf("after a new proxy the variable gives %q", out)
	}

	d.signal(syscall.SIGTERM)
	d.wait(30 * time.Second)
	if out := k.run("print(x + 2)"); out != "43" {
		t.Errorf("without a hub the open websocket gives %q", out)
	}
	if status, _ := alice.jupyter(http.MethodGet, "api/contents", ""); status != http.StatusOK {
		t.Errorf("without a hub a call gives status %d", status)
	}
	if at := alice.visit("/hub/home"); at.status != http.StatusServiceUnavailable {
		t.Errorf("without a hub its pages give status %d", at.status)
	}
	d.start()
	d.waitReady()
	if at := alice.visit("/hub/home"); at.status != http.StatusOK || !strings.Contains(at.body, "alice") {
		t.Errorf("with the hub again its page gives status %d", at.status)
	}
}

// startProxy runs `carrel proxy` beside the deployment's hub until the test ends.
func startProxy(t *testing.T, d *deployment, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(binary, "proxy", "--config", d.config)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	return cmd
}
