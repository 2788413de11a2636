//go:build integration

package docker

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestArgumentsAreLiteral is attack 27: no shell sees what a server is started with.
func TestArgumentsAreLiteral(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	hostile := []string{"$(touch /tmp/pwned)", "`touch /tmp/pwned`", "; touch /tmp/pwned", "a\ntouch /tmp/pwned\n", "&& touch /tmp/pwned", "'\"\\", "*", "~", "${HOME}", "-c", "--help", "\xf0\x9f\x93\x93", ""}
	spec.Command = append([]string{"python3", "-c", "import json, sys, time\nprint(json.dumps(sys.argv[1:]), flush=True)\ntime.sleep(1000)"}, hostile...)
	spec.Env = map[string]string{"HOSTILE": strings.Join(hostile, "\n")}
	h, _ := start(t, d, spec)
	var lines []string
	eventually(t, "it told its arguments", func() bool {
		var err error
		if lines, err = d.Logs(t.Context(), h, 1); err != nil {
			t.Fatal(err)
		}
		return len(lines) == 1
	})
	var got []string
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil || strings.Join(got, "\x00") != strings.Join(hostile, "\x00") {
		t.Errorf("it was given %q, %v", got, err)
	}
	if out := python(t, d, h, `import os, sys; print(os.environ["HOSTILE"] == sys.argv[1], os.path.exists("/tmp/pwned"))`, spec.Env["HOSTILE"]); out != "True False" {
		t.Errorf("inside: %s", out)
	}
	t.Attr("seen-27", fmt.Sprintf("%d of %d arguments arrive as they are, and run nothing", len(got), len(hostile)))
}

// TestCrashes is attack 13: memory of a process that dies is written nowhere, whatever it asks for.
func TestCrashes(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	h, _ := start(t, d, idle(t, "alice"))
	out := python(t, d, h, `
import ctypes, glob, os, resource, signal, subprocess, sys
try:
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
    print("the limit worked")
except (ValueError, OSError):
    print("the limit is refused")
before = {d: set(os.listdir(d)) for d in ("/tmp", "/run", "/home/jovyan", "/dev/shm")}
ends = set()
for d in before:
    for how in ("import os; os.abort()", "import ctypes; ctypes.string_at(0)", "import os, signal; os.kill(os.getpid(), signal.SIGQUIT)"):
        ends.add(subprocess.run([sys.executable, "-c", how], cwd=d, stderr=subprocess.DEVNULL).returncode)
print("crashes", *sorted(ends))
print("files", sum(len(set(os.listdir(d)) - b) for d, b in before.items()))`)
	if out != "the limit is refused\ncrashes -11 -6 -3\nfiles 0" {
		t.Errorf("%s", out)
	}
	t.Attr("seen-13", strings.ReplaceAll(out, "\n", "; "))
}

// TestTokensEndWithTheirServer is attack 21: what a server's environment tells opens that server, no neighbour's,
// and not the same person's next.
func TestTokensEndWithTheirServer(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec, other := testSpec(t, "alice"), testSpec(t, "bob")
	h, st := start(t, d, spec)
	bobs, bobsSt := start(t, d, other)
	stolen := python(t, d, h, `
import glob
for path in glob.glob("/proc/*/environ"):
    try:
        for v in open(path).read().split("\0"):
            if v.startswith("CARREL_TOKEN="): print(v.removeprefix("CARREL_TOKEN=")); raise SystemExit
    except OSError:
        pass`)
	if stolen != spec.Token.Reveal() {
		t.Fatalf("inside is %q: this tests nothing", stolen)
	}
	get(t, d, h, st.Endpoint.String()+spec.BasePath+"api/contents", stolen, http.StatusOK)
	get(t, d, bobs, bobsSt.Endpoint.String()+other.BasePath+"api", "", http.StatusOK) // it is up
	get(t, d, bobs, bobsSt.Endpoint.String()+other.BasePath+"api/contents", stolen, http.StatusForbidden)
	stop(t, d, h)
	spec.Generation++
	keys := d.cfg.Keyring
	if spec.Token = keys.ServerToken(spec.Key, spec.Generation); spec.Token.Reveal() == keys.ServerToken(spec.Key, spec.Generation-1).Reveal() {
		t.Error("the next server's token is the same")
	}
	h, st = start(t, d, spec)
	get(t, d, h, st.Endpoint.String()+spec.BasePath+"api/contents", spec.Token.Reveal(), http.StatusOK)
	get(t, d, h, st.Endpoint.String()+spec.BasePath+"api/contents", stolen, http.StatusForbidden)
	t.Attr("seen-21", "the own token: 403 at a neighbour's server, and at the next of one's own")
}

// What is no claim ends the slot with a line in its log; a host that goes away does not.
func TestSlotRefusesGarbage(t *testing.T) { //nolint:tparallel // its parts come one after another
	t.Parallel()
	d := newDriver(t)
	spec := testSpec(t, "alice")
	for name, message := range map[string]string{
		"no JSON":         "hello\n",
		"no claim":        `{"type":"ready","protocol":1}` + "\n",
		"other protocol":  `{"type":"claim","protocol":2,"environment":{}}` + "\n",
		"no descriptor":   `{"type":"claim","protocol":1,"environment":{}}` + "\n",
		"no environment":  `{"type":"claim","protocol":1}` + "\n",
		"half a message":  `{"type":"cl`,
		"without an end":  strings.Repeat("a", 300<<10),
		"a bad variable":  `{"type":"claim","protocol":1,"environment":{"A=B":"x"}}` + "\n",
		"a number in one": `{"type":"claim","protocol":1,"environment":{"A":1}}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			keep(t, d, spec, 1)
			id := slotContainers(t, d)[0]
			d.slots.mu.Lock()
			for _, w := range d.slots.waiting {
				_, _ = io.WriteString(w.conn, message)
				w.conn.Close()
			}
			d.slots.mu.Unlock()
			eventually(t, "the slot ends", func() bool {
				c, err := d.api.on(t.Context()).ContainerInspect(t.Context(), id)
				return err == nil && !c.State.Running && c.State.ExitCode == 1
			})
			lines := logsOf(t, d, id)
			if !strings.Contains(lines, "carrel-slot: ") {
				t.Errorf("its log says %q", lines)
			}
			t.Attr("seen-22", name+": the slot ends")
		})
	}
}
