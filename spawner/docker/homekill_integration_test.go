//go:build integration

package docker

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"carrel/hub"
)

// settling is cut off at each of its steps, begun again, and has the same end.
const settling = `
import os, shutil, subprocess, sys
program = sys.argv[1].replace('b"/carrel-home"', 'b"/tmp/place"')
cut = """
import os, subprocess
left = int(os.environ["LEFT"])
def cutting(call):
    def cut(*a, **k):
        global left
        left -= 1
        if left == 0: os._exit(9)
        return call(*a, **k)
    return cut
os.rename, os.mkdir, os.unlink, os.chmod = map(cutting, (os.rename, os.mkdir, os.unlink, os.chmod))
run, cut = subprocess.run, cutting(lambda: None)
def running(command, **k):
    if command[0] == "rm": # in the worst order
        run(["rm", "-rf", command[-1] + b"/moved"], **k)
        cut()
    return run(command, **k)
subprocess.run = running
"""
def write(name, text):
    os.makedirs(os.path.dirname(name), exist_ok=True)
    open(name, "w").write(text)
def build():
    subprocess.run(["chmod", "-Rf", "u+rwX", "/tmp/place"]); shutil.rmtree("/tmp/place", ignore_errors=True)
    for n in ("a", "b", "dir/a", "dir/sub/x", "file/x", "locked/x"): write("/tmp/place/" + n, "old")
    for n in ("b", "c", "dir/b", "dir/sub/y", "file", "locked/y"): write("/tmp/place/.carrel-import/new/" + n, "new")
    os.symlink("/tmp/elsewhere", "/tmp/place/link"); write("/tmp/place/.carrel-import/new/link/x", "new")
    os.chmod("/tmp/place/locked", 0o500); os.chmod("/tmp/place/.carrel-import/new/locked", 0o500)
def tree():
    return sorted((os.path.relpath(b + "/" + n, "/tmp/place"), open(b + "/" + n).read()) for b, _, ns in os.walk("/tmp/place") for n in ns)
def settle(how, left):
    return subprocess.run([sys.executable, "-c", cut + program, "settle", how], env={**os.environ, "LEFT": str(left)}).returncode
write("/tmp/elsewhere/mine", "kept")
new = [("b", "new"), ("c", "new"), ("dir/b", "new"), ("dir/sub/y", "new"), ("file", "new"), ("link/x", "new"), ("locked/y", "new")]
merged = sorted(new + [("a", "old"), ("dir/a", "old"), ("dir/sub/x", "old"), ("locked/x", "old")])
for how, want in (("replace", new), ("merge", merged)):
    cuts = 0
    while True:
        build()
        code = settle(how, cuts + 1)
        if code == 0: break
        assert code == 9, code
        cuts += 1
        assert settle(how, 0) == 0
        assert tree() == want, (how, cuts, tree())
        assert oct(os.stat("/tmp/place/locked").st_mode)[-3:] in ("500", "700")
    assert tree() == want and cuts >= 8, (how, cuts, tree())
    assert os.listdir("/tmp/elsewhere") == ["mine"]
print("settled")
`

func TestSettlingIsCutOff(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	h, _ := start(t, d, spec)
	if out := python(t, d, h, settling, homeworkProgram); out != "settled" {
		t.Error(out)
	}
}

// importSteps are where a process that imports is killed, and whether the archive is in the home then.
var importSteps = []struct {
	kind, how, step string
	whole           bool
}{
	{homeLoop, ImportReplace, "mounted", false}, {homeLoop, ImportReplace, "unpacked", false}, {homeLoop, ImportReplace, "checked", false},
	{homeLoop, ImportMerge, "unpacked", false}, {homeLoop, ImportMerge, "settling", true},
	{homeVolume, ImportReplace, "unpacked", false}, {homeVolume, ImportReplace, "settling", true},
}

const (
	killKind = "CARREL_TEST_KILL_KIND"
	killHow  = "CARREL_TEST_KILL_HOW"
)

// TestKillDuringImport: what is left is the home from before, or the whole archive, and nothing beside it;
// and so with an export, whose server goes on.
func TestKillDuringImport(t *testing.T) {
	t.Parallel()
	if step := os.Getenv(killAt); step != "" {
		importUntilKilled(t, step)
		return
	}
	for _, c := range importSteps {
		t.Run(c.kind+" "+c.how+" "+c.step, func(t *testing.T) {
			t.Parallel()
			d := newDriver(t, func(cfg *Config) { cfg.HomeKind = c.kind })
			spec := idle(t, "alice")
			if err := d.ImportHome(t.Context(), spec, bytes.NewReader(archiveOf(t, file("old", "old"))), ImportNew); err != nil {
				t.Fatal(err)
			}
			killProcess(t, "TestKillDuringImport", d.cfg, spec, killAt+"="+c.step, killKind+"="+c.kind, killHow+"="+c.how)
			d = reopen(t, d.cfg)
			if list, err := d.Homes(t.Context()); err != nil || len(list) != 1 || list[0].Work != "imported" {
				t.Errorf("the list tells %+v, %v", list, err)
			}
			h, _ := start(t, d, spec)
			want := "old"
			if c.whole {
				want = map[string]string{ImportReplace: "new", ImportMerge: "new\nold"}[c.how]
			}
			if out, _ := run(t, d, h, "sh", "-c", "ls -A ~ | grep -v lost+found"); strings.TrimSpace(out) != want {
				t.Errorf("the home has %q, want %q", out, want)
			}
			stop(t, d, h)
			checkSettled(t, d, spec)
		})
	}
}

func importUntilKilled(t *testing.T, step string) {
	d := killed(t, step)
	spec := idle(t, "alice")
	t.Fatalf("the import ended: %v", d.ImportHome(t.Context(), spec, bytes.NewReader(archiveOf(t, file("new", "new"))), os.Getenv(killHow)))
}

// TestKillDuringExport: the server that was frozen for it goes on.
func TestKillDuringExport(t *testing.T) {
	t.Parallel()
	if step := os.Getenv(killAt); step != "" {
		d := killed(t, step)
		spec := idle(t, "alice")
		out := &onFirstWrite{do: func() { d.homes.at("writing") }}
		t.Fatalf("the export ended: %v", d.ExportHome(t.Context(), spec.UserID, spec.Image, out, true))
	}
	d := newDriver(t)
	spec := idle(t, "alice")
	h, _ := start(t, d, spec)
	killProcess(t, "TestKillDuringExport", d.cfg, spec, killAt+"=writing", killKind+"="+homeLoop)
	if st, err := d.Inspect(t.Context(), h); err != nil || st.Phase != hub.Paused {
		t.Errorf("right after: %+v, %v", st, err)
	}
	d.homes.tidy(t.Context())
	if st, err := d.Inspect(t.Context(), h); err != nil || st.Phase != hub.Ready {
		t.Errorf("after the hub's round: %+v, %v", st, err)
	}
	stop(t, d, h)
	checkSettled(t, d, spec)
}

// TestMendInAnotherImage: what was cut off is brought to an end although the image that it was begun in is gone,
// as after an upgrade.
func TestMendInAnotherImage(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	if err := d.ImportHome(t.Context(), spec, bytes.NewReader(archiveOf(t, file("old", "old"))), ImportNew); err != nil {
		t.Fatal(err)
	}
	if err := d.homes.writeNote(spec.UserID, homeNote{Doing: "imported", Step: stepUnpack, Image: "carrel/gone:1", UID: 1000, GID: 1000}); err != nil {
		t.Fatal(err)
	}
	h, _ := start(t, d, spec)
	if out, _ := run(t, d, h, "cat", "/home/jovyan/old"); out != "old" {
		t.Errorf("the home has %q", out)
	}
	stop(t, d, h)
	checkSettled(t, d, spec)
}
