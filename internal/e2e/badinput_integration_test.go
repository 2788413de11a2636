//go:build integration

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// carrel runs the binary to its end, within a time.
func carrel(t *testing.T, within time.Duration, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(binary, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(within):
		cmd.Process.Kill()
		<-ended
		t.Fatalf("carrel %v did not end within %v:\n%s", args, within, out.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "crl-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil { // the proxy passes through
		t.Fatal(err)
	}
	path := filepath.Join(dir, "carrel.yaml")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Faults of the configuration are told all at once, with their place and a remedy, before anything starts.
func TestConfigFaults(t *testing.T) {
	path := writeConfig(t, "state_dir: DIR\npublic_url: ftp://x/\nlistn: [\"127.0.0.1:1\"]\nprofiles:\n  - name: a\n    memory: lots\n")
	for _, command := range [][]string{{"serve"}, {"config", "check"}} {
		out, code := carrel(t, 20*time.Second, append(command, "--config", path)...)
		if code == 0 {
			t.Errorf("%v accepted it:\n%s", command, out)
		}
		for _, want := range []string{path + ":3", "listn", "listen", path + ":2", "public_url", path + ":6", "memory"} {
			if !strings.Contains(out, want) {
				t.Errorf("%v does not say %q:\n%s", command, want, out)
			}
		}
	}
}

// A port in use is said in a line with the field.
func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	path := writeConfig(t, fmt.Sprintf("deployment: e2eport\nstate_dir: DIR/state\npublic_url: http://localhost:%d/\nlisten: [\"%s\"]\n", l.Addr().(*net.TCPAddr).Port, l.Addr()))
	out, code := carrel(t, 30*time.Second, "serve", "--config", path)
	if code == 0 || !strings.Contains(out, "listen") || !strings.Contains(out, "in use") {
		t.Errorf("a port in use: exit code %d,\n%s", code, out)
	}
}

// Parts that do not answer at the start are waited for with a clear line, and doctor says the same.
func TestWaitsForParts(t *testing.T) { //nolint:tparallel // one part after the other
	t.Parallel()
	for part, c := range map[string]struct{ extra, bad, good string }{
		"Docker": {"spawner:\n  docker:\n    host: unix:///nonexistent/docker.sock\n", "unix:///nonexistent/docker.sock", "unix:///var/run/docker.sock"},
		"Redis":  {"redis:\n  url: redis://127.0.0.1:1/0\n", "redis://127.0.0.1:1/0", `""`},
	} {
		t.Run(part, func(t *testing.T) {
			d := deploy(t, options{notReady: true, extra: c.extra})
			eventually(t, 20*time.Second, "carrel says that it waits", func() bool {
				return strings.Contains(d.output(), "waiting for "+part)
			})
			doctor, code := carrel(t, 30*time.Second, "doctor", "--config", d.config)
			if code == 0 || !regexp.MustCompile(`(?m)^fail +`+part+` .*not answer`).MatchString(doctor) || !strings.Contains(doctor, "what to do") {
				t.Errorf("doctor: exit code %d,\n%s", code, doctor)
			}
			// Taken down with the real thing.
			text, err := os.ReadFile(d.config)
			if err != nil {
				t.Fatal(err)
			}
			os.WriteFile(d.config, []byte(strings.ReplaceAll(string(text), c.bad, c.good)), 0o600)
		})
	}
}

// A provider that is away keeps nobody from starting the hub: whoever signs in is told, with a way on.
func TestProviderAway(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: `
oidc:
  providers:
    - {name: uni, title: University, issuer: "http://127.0.0.1:1", client_id: carrel, client_secret: not-a-secret, everyone: true}
`})
	p := d.person("alice")
	at := p.visit("/hub/login")
	if at.status != http.StatusServiceUnavailable && at.status != http.StatusBadGateway || !strings.Contains(at.body, "University") && !strings.Contains(at.body, "provider") {
		t.Errorf("signing in gives status %d at %s:\n%.2500s", at.status, at.url, at.body)
	}
	doctor, code := carrel(t, 30*time.Second, "doctor", "--config", d.config)
	if code == 0 || !regexp.MustCompile(`(?m)^fail +sign-in uni `).MatchString(doctor) {
		t.Errorf("doctor: exit code %d,\n%s", code, doctor)
	}
}

// What a browser or program may send, and a person may choose, that is wrong: each gets a clear
// answer, and the hub goes on.
func TestBadInput(t *testing.T) { //nolint:tparallel // each goes on from the one before
	t.Parallel()
	d := deploy(t, options{extra: `
spawner:
  start_timeout: 20s
profiles:
  - {name: small, default: true, title: Small, cpu: 1, memory: 512MiB, disk: 64MiB, network: none}
  - {name: wrong-image, title: Wrong image, image: "carrel.invalid/no-such-image:1", cpu: 1, memory: 256MiB}
  - {name: deaf, title: Never listens, command: ["sleep", "1000"], cpu: 1, memory: 256MiB, disk: 64MiB}
  - {name: dies, title: Dies at once, command: ["python3", "-c", "import sys; print('the reason is here'); sys.exit(3)"], cpu: 1, memory: 256MiB, disk: 64MiB}
`})
	alice := d.person("alice")
	alice.signIn()

	t.Run("cookie garbage is nobody", func(t *testing.T) {
		for _, value := range []string{"x", strings.Repeat("A", 4000), "%00", "../../etc"} {
			pg := d.person("alice").do("GET", d.url+"/hub/api/user", nil, http.Header{"Cookie": {"carrel-session=" + value + "; carrel-notebook=" + value}})
			if pg.status != http.StatusForbidden {
				t.Errorf("cookie %.20q: status %d, want 403", value, pg.status)
			}
		}
	})

	t.Run("unknown host", func(t *testing.T) {
		req, _ := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/hub/home", d.port), nil)
		req.Host = "evil.example"
		if pg := alice.send(req); pg.status != http.StatusMisdirectedRequest && pg.status != http.StatusBadRequest {
			t.Errorf("status %d, want 421 or 400", pg.status)
		}
	})

	t.Run("no such profile", func(t *testing.T) {
		status, out := alice.api("POST", "/users/alice/server", `{"profile":"nonsense"}`)
		if status != http.StatusUnprocessableEntity || out["field"] != "profile" {
			t.Errorf("status %d, %v; want 422 naming the field", status, out)
		}
	})

	for _, c := range []struct{ profile, want string }{{"wrong-image", "fetched"}, {"deaf", "did not answer"}, {"dies", "exit code 3"}} {
		profile, want := c.profile, c.want
		t.Run("a start that can't succeed: "+profile, func(t *testing.T) {
			if status, out := alice.api("POST", "/users/alice/server", fmt.Sprintf(`{"profile":%q}`, profile)); status != http.StatusAccepted {
				t.Fatalf("start: status %d, %v", status, out)
			}
			var at page
			eventually(t, 60*time.Second, "the failure is told", func() bool {
				at = alice.visit("/hub/spawn/alice")
				return strings.Contains(at.body, want)
			})
			if profile == "dies" && !strings.Contains(at.body, "the reason is here") {
				t.Error("the page does not show the container's last lines")
			}
		})
	}

	t.Run("two starts at once and a start racing a stop make one container", func(t *testing.T) { testRacingStarts(t, d, alice) })
	t.Run("a full home can be emptied", func(t *testing.T) { testFullHome(t, alice) })
}

func testRacingStarts(t *testing.T, d *deployment, alice *person) {
	t.Helper()
	alice = alice.in(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { alice.api("POST", "/users/alice/server", `{"profile":"small"}`) })
	}
	wg.Wait()
	alice.waitReady(time.Minute)
	if n := len(d.containers()); n != 1 {
		t.Fatalf("%d containers after eight starts at once", n)
	}
	for i := range 12 {
		wg.Go(func() {
			if i%2 == 0 {
				alice.api("DELETE", "/users/alice/server", "")
			} else {
				alice.api("POST", "/users/alice/server", `{"profile":"small"}`)
			}
		})
	}
	wg.Wait()
	eventually(t, 90*time.Second, "the server settles", func() bool {
		_, user := alice.api("GET", "/users/alice", "")
		return user["pending"] == nil && user["name"] == "alice"
	})
	alice.start("small")
	if n := len(d.containers()); n != 1 {
		t.Fatalf("%d containers after starts racing stops", n)
	}
}

func testFullHome(t *testing.T, alice *person) {
	t.Helper()
	alice = alice.in(t)
	k := alice.newKernel()
	out := k.run(`
try:
    with open('big', 'wb') as f:
        for _ in range(200):
            f.write(b'x' * (1 << 20)); f.flush()
    print('no limit')
except OSError as e:
    print(e.strerror)
`)
	if !strings.Contains(out, "No space left") && !strings.Contains(out, "quota") {
		t.Fatalf("filling the home gave %q", out)
	}
	alice.stop()
	alice.start("small")
	if out := alice.newKernel().run("import os; os.remove('big'); open('small','w').write('ok'); print(open('small').read())"); out != "ok" {
		t.Errorf("after emptying the home: %q", out)
	}
}
