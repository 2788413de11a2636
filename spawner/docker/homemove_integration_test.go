//go:build integration

package docker

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carrel/hub"
)

// as is the same deployment with homes of another kind configured.
func as(t *testing.T, d *Driver, kind, base string) *Driver {
	t.Helper()
	cfg := d.cfg
	cfg.HomeKind, cfg.HomePath = kind, hub.HomePath{}
	if kind == homeBind {
		var err error
		if cfg.HomePath, err = hub.ParseHomePath(base + "/{user}"); err != nil {
			t.Fatal(err)
		}
	}
	return reopen(t, cfg)
}

// TestMove: a home goes through all kinds; another kind configured changes nothing until it is moved.
func TestMove(t *testing.T) {
	t.Parallel()
	d, base := newBindDriver(t, "{user}")
	d = as(t, d, homeLoop, base)
	spec := idle(t, "alice")
	if _, err := d.MoveHome(t.Context(), spec, false); hub.KindOf(err) != hub.NotFound {
		t.Errorf("move of no home: %v", err)
	}
	h, _ := start(t, d, spec)
	python(t, d, h, oddFiles)
	before := python(t, d, h, listing)
	if moved, err := d.MoveHome(t.Context(), spec, false); moved || err != nil {
		t.Errorf("a move to the kind that it has: %v, %v", moved, err)
	}
	if _, err := as(t, d, homeVolume, base).MoveHome(t.Context(), spec, false); hub.KindOf(err) != hub.Conflict {
		t.Errorf("a move under a running server: %v", err)
	}
	stop(t, d, h)
	for _, kind := range []string{homeVolume, homeBind, homeLoop, homeBind, homeVolume, homeLoop} {
		was := d.cfg.HomeKind
		d = as(t, d, kind, base)
		spec.Generation++
		h, _ = start(t, d, spec)
		if after := python(t, d, h, listing); after != before {
			t.Errorf("%s, configured as %s: the home has changed:\n%s\n\nwas\n\n%s", was, kind, after, before)
		}
		stop(t, d, h)
		if kind == homeBind {
			if err := os.RemoveAll(base + "/alice"); err != nil { // of the round before
				t.Fatal(err)
			}
		}
		if moved, err := d.MoveHome(t.Context(), spec, false); !moved || err != nil {
			t.Fatalf("%s to %s: %v, %v", was, kind, moved, err)
		}
		list, err := d.Homes(t.Context())
		if err != nil || len(list) == 0 {
			t.Fatalf("%+v, %v", list, err)
		}
		for _, home := range list {
			if home.Former != (home.Kind != kind) || home.Former && home.Kind != homeBind {
				t.Errorf("%s to %s: there is %+v", was, kind, home)
			}
		}
		spec.Generation++
		h, _ = start(t, d, spec)
		if after := python(t, d, h, listing); after != before {
			t.Errorf("%s to %s: the home has changed:\n%s\n\nwas\n\n%s", was, kind, after, before)
		}
		stop(t, d, h)
		checkSettled(t, d, spec)
	}
}

// TestMoveKeeps the old home where it is told to, and refuses where files are in the way.
func TestMoveKeeps(t *testing.T) {
	t.Parallel()
	d, base := newBindDriver(t, "{user}")
	d = as(t, d, homeVolume, base)
	spec := idle(t, "alice")
	spec.Limits.Disk = 24 << 20
	big := strings.Repeat("0123456789abcdef", 40<<16) // more than the profile's home holds
	if err := d.ImportHome(t.Context(), spec, bytes.NewReader(archiveOf(t, file("big", big))), ImportNew); err != nil {
		t.Fatal(err)
	}
	d = as(t, d, homeBind, base)
	if err := os.MkdirAll(base+"/alice/theirs", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(base+"/alice", 1000, 1000); err != nil {
		t.Fatal(err)
	}
	if _, err := d.MoveHome(t.Context(), spec, true); hub.KindOf(err) != hub.Conflict {
		t.Errorf("a move to where files are: %v", err)
	}
	if err := os.Remove(base + "/alice/theirs"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(base+"/alice", 4321, 4321); err != nil {
		t.Fatal(err)
	}
	if moved, err := d.MoveHome(t.Context(), spec, true); moved || hub.KindOf(err) != hub.Invalid {
		t.Errorf("a move into somebody else's directory: %v, %v", moved, err)
	}
	h, _ := start(t, d, spec) // which is as it was
	stop(t, d, h)
	spec.Generation++
	if err := os.Chown(base+"/alice", 1000, 1000); err != nil {
		t.Fatal(err)
	}
	if moved, err := d.MoveHome(t.Context(), spec, true); !moved || err != nil {
		t.Fatalf("to an empty directory: %v, %v", moved, err)
	}
	if raw, err := os.ReadFile(base + "/alice/big"); err != nil || string(raw) != big {
		t.Errorf("the directory's file has %d bytes, %v", len(raw), err)
	}
	kinds := func() (now, former []string) {
		t.Helper()
		list, err := d.Homes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, home := range list {
			if home.Former {
				former = append(former, home.Kind)
			} else {
				now = append(now, home.Kind)
			}
		}
		return now, former
	}
	if now, former := kinds(); len(now) != 1 || now[0] != homeBind || len(former) != 1 || former[0] != homeVolume {
		t.Errorf("there are %v and %v", now, former)
	}
	d = as(t, d, homeVolume, base)
	if _, err := d.MoveHome(t.Context(), spec, false); hub.KindOf(err) != hub.Conflict {
		t.Errorf("a move onto the home that was kept: %v", err)
	}
	d = as(t, d, homeLoop, base)
	if moved, err := d.MoveHome(t.Context(), spec, false); !moved || err != nil {
		t.Fatalf("into an image: %v, %v", moved, err)
	}
	h, _ = start(t, d, spec)
	if out := python(t, d, h, `print(len(open("/home/jovyan/big").read()))`); out != "41943040" {
		t.Errorf("the image's file has %s bytes", out)
	}
	stop(t, d, h)
}

// TestMoveIsCheckedFirst: a copy that is not like the home never counts.
func TestMoveIsCheckedFirst(t *testing.T) {
	t.Parallel()
	d, base := newBindDriver(t, "{user}")
	spec := idle(t, "alice")
	loop := as(t, d, homeLoop, base)
	if err := loop.ImportHome(t.Context(), spec, bytes.NewReader(archiveOf(t, file("old", "old"))), ImportNew); err != nil {
		t.Fatal(err)
	}
	systems := base + "/alice/lost+found" // as at the top of a file system
	if err := os.MkdirAll(systems, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(base+"/alice", 1000, 1000); err != nil {
		t.Fatal(err)
	}
	d.homes.crash = func(step string) {
		if step == "made" { // and was looked at before
			if err := os.WriteFile(base+"/alice/theirs", []byte("kept"), 0o600); err != nil {
				t.Error(err)
			}
		}
	}
	if moved, err := d.MoveHome(t.Context(), spec, false); moved || hub.KindOf(err) != hub.Conflict {
		t.Errorf("a move to where a file came meanwhile: %v, %v", moved, err)
	}
	if raw, err := os.ReadFile(base + "/alice/theirs"); err != nil || string(raw) != "kept" {
		t.Errorf("that file has %q, %v", raw, err)
	}
	if err := os.Remove(base + "/alice/theirs"); err != nil {
		t.Fatal(err)
	}
	d.homes.crash = func(step string) {
		if step == "copied" { // somebody who has the directory too
			if err := os.WriteFile(base+"/alice/old", []byte("odd"), 0o600); err != nil {
				t.Error(err)
			}
		}
	}
	if moved, err := d.MoveHome(t.Context(), spec, false); moved || err == nil || !strings.Contains(err.Error(), "not like the home") {
		t.Errorf("%v, %v", moved, err)
	}
	if left, err := os.ReadDir(base + "/alice"); err != nil || len(left) != 1 || left[0].Name() != "lost+found" {
		t.Errorf("the directory has %v, %v", left, err)
	}
	h, _ := start(t, d, spec)
	if out, _ := run(t, d, h, "cat", "/home/jovyan/old"); out != "old" {
		t.Errorf("the home has %q", out)
	}
	stop(t, d, h)
	checkSettled(t, d, spec)
}

const killBase = "CARREL_TEST_KILL_BASE"

// moveSteps are where a process that moves is killed, and whether the new home counts then.
var moveSteps = []struct {
	step string
	new  bool
}{{"made", false}, {"copied", false}, {"compared", false}, {"in place", false}, {"moved", true}}

// TestKillDuringMove: the home is the old one or the new one, whole, and the other one is gone.
func TestKillDuringMove(t *testing.T) {
	t.Parallel()
	if step := os.Getenv(killAt); step != "" {
		d := as(t, killed(t, step), os.Getenv(killHow), os.Getenv(killBase))
		d.homes.crash = killed(t, step).homes.crash
		moved, err := d.MoveHome(t.Context(), idle(t, "alice"), false)
		t.Fatalf("the move ended: %v, %v", moved, err)
	}
	for _, way := range [][2]string{{homeLoop, homeVolume}, {homeVolume, homeBind}, {homeBind, homeLoop}} {
		for _, c := range moveSteps {
			t.Run(way[0]+" to "+way[1]+" "+c.step, func(t *testing.T) {
				t.Parallel()
				d, base := newBindDriver(t, "{user}")
				d = as(t, d, way[0], base)
				spec := idle(t, "alice")
				if err := d.ImportHome(t.Context(), spec, bytes.NewReader(archiveOf(t, file("old", "old"))), ImportNew); err != nil {
					t.Fatal(err)
				}
				killProcess(t, "TestKillDuringMove", d.cfg, spec, killAt+"="+c.step, killKind+"="+homeLoop, killHow+"="+way[1], killBase+"="+base)
				d = as(t, d, way[1], base)
				h, _ := start(t, d, spec)
				if out, _ := run(t, d, h, "sh", "-c", "ls -A ~ | grep -v lost+found; cat ~/old"); out != "old\nold" {
					t.Errorf("the home has %q", out)
				}
				stop(t, d, h)
				want := map[bool]string{false: way[0], true: way[1]}[c.new]
				if kind, err := d.homes.kindOf(t.Context(), spec.UserID); err != nil || kind != want {
					t.Errorf("it is of the kind %s, %v", kind, err)
				}
				for _, kind := range homeKinds {
					is, err := d.homes.existsAs(t.Context(), spec.UserID, kind)
					if err != nil || is != (kind == want) && kind != homeBind {
						t.Errorf("as %s there is one: %v, %v", kind, is, err)
					}
				}
				if left, _ := filepath.Glob(base + "/alice/*"); want != homeBind && way[0] != homeBind && len(left) > 0 {
					t.Errorf("the directory has %v", left)
				}
				checkSettled(t, d, spec)
			})
		}
	}
}
