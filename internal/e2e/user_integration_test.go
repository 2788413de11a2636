//go:build integration

package e2e

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A name is given to another account and back: whoever has it not is refused, and the home stays.
func TestRebind(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: "spawner:\n  kernel_check: false\n"})
	alice := d.person("alice")
	alice.signIn()
	run := func(args ...string) (string, int) {
		return carrel(t, time.Minute, append(args, "--config", d.config)...)
	}
	list, code := run("user", "list")
	row := regexp.MustCompile(`(?m)^alice +(\S+) +"([^"]+)" +"([^"]+)"`).FindStringSubmatch(list)
	if code != 0 || row == nil {
		t.Fatalf("user list: exit code %d\n%s", code, list)
	}
	home, issuer, subject := row[1], row[2], row[3]

	alice.start("")
	alice.newKernel().run("open('kept.txt','w').write('mine')")
	if out, code := run("user", "rebind", "alice", "--issuer", issuer, "--subject", "somebody"); code == 0 || !strings.Contains(out, "runs a server") {
		t.Errorf("rebinding under a running server: exit code %d\n%s", code, out)
	}
	if out, code := run("down"); code == 0 || !strings.Contains(out, "stop it first") {
		t.Errorf("taking down under a running carrel: exit code %d\n%s", code, out)
	}
	alice.stop()

	if out, code := run("user", "rebind", "alice", "--issuer", issuer, "--subject", "somebody"); code != 0 || !strings.Contains(out, home) {
		t.Fatalf("rebind: exit code %d\n%s", code, out)
	}
	eventually(t, 5*time.Second, "alice is signed out", func() bool {
		status, _ := alice.api(http.MethodGet, "/user", "")
		return status == http.StatusForbidden
	})
	if at := alice.tryToSignIn(); !strings.Contains(at.body, "belongs to another account") {
		t.Errorf("the old account is at %s with status %d:\n%.1000s", at.url, at.status, at.body)
	}
	if out, code := run("user", "rebind", "alice", "--issuer", issuer, "--subject", subject); code != 0 {
		t.Fatalf("rebind back: exit code %d\n%s", code, out)
	}
	again := d.person("alice")
	again.signIn()
	again.start("")
	if out := again.newKernel().run("print(open('kept.txt').read())"); out != "mine" {
		t.Errorf("the file reads %q", out)
	}
	if out, code := run("user", "rebind", "nobody", "--issuer", issuer, "--subject", "x"); code == 0 || !strings.Contains(out, "nobody has this name") {
		t.Errorf("rebinding a name that nobody has: exit code %d\n%s", code, out)
	}
}
