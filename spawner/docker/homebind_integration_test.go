//go:build integration

package docker

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"carrel/hub"
)

// newBindDriver has homes in a directory of the test's own.
func newBindDriver(t *testing.T, rel string) (d *Driver, base string) {
	t.Helper()
	base, err := os.MkdirTemp("/tmp", "crl-homes-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	place, err := hub.ParseHomePath(base + "/" + rel)
	if err != nil {
		t.Fatal(err)
	}
	return newDriver(t, func(c *Config) { c.HomeKind, c.HomePath = homeBind, place }), base
}

// TestBind: a person's directory is made at their first start, is their home, and stays; one that is there is
// taken as it is.
func TestBind(t *testing.T) {
	t.Parallel()
	d, base := newBindDriver(t, "{user}/notebooks")
	spec := idle(t, "alice")
	h, _ := start(t, d, spec)
	if out, code := run(t, d, h, "sh", "-c", "echo kept > ~/note && grep ' /home/jovyan ' /proc/mounts"); code != 0 || !strings.Contains(out, "nosuid,nodev") {
		t.Errorf("%d: %s", code, out)
	}
	dir := filepath.Join(base, "alice/notebooks")
	for path, want := range map[string][3]uint32{filepath.Dir(dir): {0, 0, 0o755}, dir: {1000, 1000, 0o700}} {
		var at unix.Stat_t
		if err := unix.Lstat(path, &at); err != nil || [3]uint32{at.Uid, at.Gid, at.Mode & 0o7777} != want {
			t.Errorf("%s is %d:%d %o, %v", path, at.Uid, at.Gid, at.Mode, err)
		}
	}
	second := spec
	second.Key = key(t, "alice", "second")
	h2, _ := start(t, d, second)
	if out, code := run(t, d, h2, "cat", "/home/jovyan/note"); code != 0 || out != "kept\n" {
		t.Errorf("her second server finds %q", out)
	}
	stop(t, d, h2)
	if list, err := d.Homes(t.Context()); err != nil || len(list) != 1 || list[0].Kind != homeBind || list[0].Place != dir || len(list[0].Servers) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	stop(t, d, h)
	if len(mountsOf(t, d)) != 0 {
		t.Errorf("mounted: %v", mountsOf(t, d))
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "note")); err != nil || string(raw) != "kept\n" {
		t.Errorf("the operator finds %q, %v", raw, err)
	}

	theirs := filepath.Join(base, "bob")
	if err := os.MkdirAll(theirs+"/notebooks", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{theirs, theirs + "/notebooks"} { // as a home on a file server is
		if err := os.Chown(path, 1000, 1000); err != nil {
			t.Fatal(err)
		}
	}
	h, _ = start(t, d, idle(t, "bob"))
	if out, code := run(t, d, h, "sh", "-c", "echo x > ~/x; stat -c %a ~"); code != 0 || out != "755\n" {
		t.Errorf("%d: %s", code, out)
	}
	if err := d.Down(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "note")); err != nil {
		t.Errorf("down took the operator's files: %v", err)
	}
}

// TestBindDoesNotEscape: what people can change on the way leads to no other directory, and nothing is made for them
// elsewhere.
func TestBindDoesNotEscape(t *testing.T) { //nolint:tparallel // its parts come one after another
	t.Parallel()
	d, base := newBindDriver(t, "{user}/notebooks")
	outside := t.TempDir()
	if err := os.Chown(outside, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	own := func(path string, uid int) {
		t.Helper()
		if err := os.Lchown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, at string) {
		t.Helper()
		if err := os.Symlink(to, at); err != nil {
			t.Fatal(err)
		}
		own(at, 1000)
	}
	dir := func(path string, uid int) {
		t.Helper()
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		own(path, uid)
	}
	if err := os.MkdirAll(outside+"/notebooks", 0o755); err != nil {
		t.Fatal(err)
	}
	own(outside+"/notebooks", 1000)
	for name, prepare := range map[string]func(user string){
		"the directory is a link":             func(u string) { dir(base+"/"+u, 1000); link(outside, base+"/"+u+"/notebooks") },
		"it is a link within":                 func(u string) { dir(base+"/"+u+"/real", 1000); link("real", base+"/"+u+"/notebooks") },
		"a link is on the way":                func(u string) { link(outside, base+"/"+u) },
		"a link up is on the way":             func(u string) { link("../"+filepath.Base(outside), base+"/"+u) },
		"a link that leads nowhere":           func(u string) { dir(base+"/"+u, 1000); link(outside+"/new", base+"/"+u+"/notebooks") },
		"it is a file":                        func(u string) { dir(base+"/"+u, 1000); _ = os.WriteFile(base+"/"+u+"/notebooks", nil, 0o600) },
		"where they can write it is not made": func(u string) { dir(base+"/"+u, 1000) },
	} {
		t.Run(name, func(t *testing.T) {
			user := "u" + strings.ToLower(strings.ReplaceAll(name, " ", ""))
			prepare(user)
			h, err := d.Start(t.Context(), idle(t, user))
			if hub.KindOf(err) != hub.Unavailable || hub.FieldOf(err) != "spawner.docker.home_path" {
				t.Errorf("%s: %v", h.Data, err)
			} else {
				t.Attr("seen-0", name+": refused")
			}
			if message, remedy := hub.Public(err); strings.Contains(message+remedy, base) {
				t.Errorf("the person reads %q, %q", message, remedy)
			}
			if _, err := os.Lstat(outside + "/new"); err == nil {
				t.Error("something was made outside")
			}
		})
	}
	if at, err := os.ReadDir(outside); err != nil || len(at) != 1 {
		t.Errorf("outside are %v, %v", at, err)
	}
	if len(mountsOf(t, d)) != 0 {
		t.Errorf("mounted: %v", mountsOf(t, d))
	}
}

// TestBindIsOnePersons: a directory is the home of the account that had it first, whatever its name is given to,
// and of the user id that owns it.
func TestBindIsOnePersons(t *testing.T) {
	t.Parallel()
	d, base := newBindDriver(t, "{user}")
	spec := idle(t, "alice")
	h, _ := start(t, d, spec)
	stop(t, d, h)
	other := idle(t, "alice")
	other.UserID, other.Generation = "uother", 2
	if _, err := d.Start(t.Context(), other); hub.KindOf(err) != hub.Conflict || hub.FieldOf(err) != "spawner.docker.home_path" {
		t.Errorf("another account of the name: %v", err)
	}
	if err := os.Mkdir(base+"/bob", 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Start(t.Context(), idle(t, "bob")); hub.KindOf(err) != hub.Invalid || hub.FieldOf(err) != "profiles.small.uid" {
		t.Errorf("a directory of root's: %v", err)
	}
	files, err := filepath.Glob(d.homes.directoriesDir() + "/*.json")
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	raw, err := os.ReadFile(d.homes.directoryFile(d.homes.directoryOf(spec.Key.User, spec.UserID)))
	if err != nil {
		t.Fatal(err)
	}
	forged := strings.Replace(string(raw), `"ualice"`, `"uother"`, 1)
	if err := os.WriteFile(d.homes.directoryFile(d.homes.directoryOf(spec.Key.User, spec.UserID)), []byte(forged), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Start(t.Context(), other); err == nil {
		t.Error("a forged record was believed")
	}
}

// TestBindWarm: a server that waits becomes a person's, with their directory in it.
func TestBindWarm(t *testing.T) {
	t.Parallel()
	d, base := newBindDriver(t, "{user}")
	spec := testSpec(t, "alice")
	keep(t, d, spec, 1)
	h, err := d.ClaimSlot(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if out, code := run(t, d, h, "sh", "-c", "echo kept > ~/note"); code != 0 {
		t.Error(out)
	}
	keep(t, d, spec, 0)
	stop(t, d, h)
	if raw, err := os.ReadFile(base + "/alice/note"); err != nil || string(raw) != "kept\n" {
		t.Errorf("the directory has %q, %v", raw, err)
	}
	if len(mountsOf(t, d)) != 0 {
		t.Errorf("mounted: %v", mountsOf(t, d))
	}
}

// TestBindIsNotReplaced: files that the operator has where a home is to be are nobody's to replace without a word, a
// home whose file system is not mounted is not made anew but for an import, and what can't be removed keeps nobody from it.
func TestBindIsNotReplaced(t *testing.T) {
	t.Parallel()
	d, base := newBindDriver(t, "{user}")
	spec := idle(t, "alice")
	dir := base + "/alice"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/note", []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	imported := func(how string) error {
		return d.ImportHome(t.Context(), spec, bytes.NewReader(archiveOf(t, file("new", "new"))), how)
	}
	if err := imported(ImportNew); hub.KindOf(err) != hub.Conflict {
		t.Errorf("an import to where files are: %v", err)
	}
	if raw, err := os.ReadFile(dir + "/note"); err != nil || string(raw) != "kept" {
		t.Errorf("the note has %q, %v", raw, err)
	}
	checkSettled(t, d, spec)
	h, _ := start(t, d, spec)
	stop(t, d, h)
	spec.Generation++

	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Start(t.Context(), spec); hub.KindOf(err) != hub.Unavailable {
		t.Errorf("a start without the directory: %v", err)
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("it was made anew")
	}
	if err := imported(ImportNew); err != nil {
		t.Error(err)
	}

	if err := os.MkdirAll(dir+"/.carrel-import/new/theirs/x", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir+"/.carrel-import", 1000, 1000); err != nil {
		t.Fatal(err)
	}
	if err := d.homes.writeNote(spec.UserID, homeNote{Doing: "imported", Step: stepUnpack, Image: spec.Image, UID: 1000, GID: 1000}); err != nil {
		t.Fatal(err)
	}
	h, _ = start(t, d, spec)
	if out, _ := run(t, d, h, "cat", "/home/jovyan/new"); out != "new" {
		t.Errorf("the home has %q", out)
	}
	stop(t, d, h)
	if err := imported(ImportMerge); err == nil {
		t.Error("an import over what can't be removed")
	}
	checkSettled(t, d, spec)
}
