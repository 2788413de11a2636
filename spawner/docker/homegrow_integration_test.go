//go:build integration

package docker

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"carrel/hub"
)

// TestGrow: a home grows under a running server and without one, keeps its files and its size, and what can't
// grow says so.
func TestGrow(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	if _, err := d.GrowHome(t.Context(), spec.UserID, 1<<30); hub.KindOf(err) != hub.NotFound {
		t.Errorf("no home: %v", err)
	}
	h, _ := start(t, d, spec)
	holds := func(mib int) {
		t.Helper()
		if n, err := strconv.Atoi(python(t, d, h, size)); err != nil || n > mib || n < mib*8/10 {
			t.Errorf("the home has %d MiB of %d (%v)", n, mib, err)
		}
		if out, code := run(t, d, h, "sh", "-c", "cd && echo x >> lines && sha256sum -c --quiet sum && wc -l < lines"); code != 0 {
			t.Errorf("the files have changed: %s", out)
		}
	}
	if out, code := run(t, d, h, "sh", "-c", "cd && head -c 3000000 /dev/urandom > data && sha256sum data > sum"); code != 0 {
		t.Fatal(out)
	}
	holds(32)
	now, err := d.GrowHome(t.Context(), spec.UserID, 128<<20)
	if err != nil || now != hasCapability(t, unix.CAP_SYS_RESOURCE) {
		t.Fatalf("under a server: %v, %v", now, err)
	}
	if !now {
		holds(32)
		stop(t, d, h)
		spec.Generation++
		h, _ = start(t, d, spec)
	}
	holds(128)
	if out := python(t, d, h, `import os; f = open("/home/jovyan/big", "wb"); f.write(b"x" * (80 << 20)); f.flush(); os.fsync(f); os.remove("/home/jovyan/big"); print("ok")`); out != "ok" {
		t.Errorf("the new room can't be used: %s", out)
	}
	stop(t, d, h)
	if now, err := d.GrowHome(t.Context(), spec.UserID, 200<<20); err != nil || !now {
		t.Fatalf("without a server: %v, %v", now, err)
	}
	for _, c := range []struct {
		size int64
		says string
	}{{100 << 20, "larger already: 200MiB"}, {0, "larger already"}, {-1, "larger already"}, {17 << 40, "16TiB"}} {
		if _, err := d.GrowHome(t.Context(), spec.UserID, c.size); hub.KindOf(err) != hub.Invalid || hub.FieldOf(err) != "size" || !strings.Contains(err.Error(), c.says) {
			t.Errorf("to %d: %v", c.size, err)
		}
	}
	spec.Generation++
	h, _ = start(t, d, spec)
	holds(200)
	stop(t, d, h)
	if out, err := exec.Command("e2fsck", "-fn", d.homes.image(spec.UserID)).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Stat(d.homes.image(spec.UserID) + growing); err == nil {
		t.Error("the mark of a growth is left")
	}
	d = newDriver(t, func(c *Config) { c.HomeKind = homeVolume })
	if _, err := d.GrowHome(t.Context(), spec.UserID, 1<<30); hub.KindOf(err) != hub.Invalid || !strings.Contains(err.Error(), "kind volume") || !remedyNames(err, "the kind loop") {
		t.Errorf("a volume: %v", err)
	}
}

func remedyNames(err error, what string) bool {
	_, remedy := hub.Public(err)
	return strings.Contains(remedy, what)
}

// hasCapability tells whether this process may use a capability: proc_pid_status(5).
func hasCapability(t *testing.T, capability uint) bool {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "CapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	set, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return set>>capability&1 == 1
}
