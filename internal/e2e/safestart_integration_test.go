//go:build integration

package e2e

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// A home whose configuration breaks the server: the start fails with the server's last lines, and a
// safe start leaves the configuration aside, so that its owner can mend it.
func TestSafeStart(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: "spawner:\n  kernel_check: false\n  start_timeout: 30s\n"})
	alice := d.person("alice")
	alice.signIn()
	alice.start("")
	alice.newKernel().run(`
import pathlib
p = pathlib.Path.home() / '.jupyter'
p.mkdir(exist_ok=True)
(p / 'jupyter_server_config.py').write_text("import sys; sys.exit('my own configuration is broken')")
`)
	alice.stop()
	if status, out := alice.api(http.MethodPost, "/users/alice/server", ""); status != http.StatusAccepted {
		t.Fatalf("start: status %d, %v", status, out)
	}
	var at page
	eventually(t, time.Minute, "the failure is told with the server's last lines", func() bool {
		at = alice.visit("/hub/spawn/alice")
		return strings.Contains(at.body, "my own configuration is broken")
	})
	if !strings.Contains(at.body, `name="safe"`) {
		t.Fatalf("no safe start is offered:\n%.3000s", at.body)
	}
	alice.post("/hub/spawn/alice", url.Values{"safe": {"1"}})
	alice.waitReady(time.Minute)
	alice.enter()
	out := alice.newKernel().run(`
import pathlib
p = pathlib.Path.home() / '.jupyter' / 'jupyter_server_config.py'
print(p.exists()); p.unlink()
`)
	if out != "True" {
		t.Fatalf("in the safe start the home has %q", out)
	}
	alice.stop()
	alice.start("")
	if out := alice.newKernel().run("print(6*7)"); out != "42" {
		t.Errorf("after mending it, print(6*7) gave %q", out)
	}
}
