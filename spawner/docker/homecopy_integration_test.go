//go:build integration

package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	"carrel/hub"
)

// oddFiles fills a home with what archives get wrong.
const oddFiles = `
import os, sys
os.chdir("/home/jovyan")
os.umask(0)
def write(name, text=b"text of it", mode=0o644):
    with open(name, "wb") as f: f.write(text)
    os.chmod(name, mode)
write(b"plain"); write(b"line\nbreak"); write(b"bytes \xff\xfe\x80"); write(b"\xc3\xa9 \xe6\x97\xa5"); write(b"-rf"); write(b" blank "); write(b"back\\slash"); write(b"tab\t")
write(b"x" * 255)
write(b"nobody reads this", mode=0o000); write(b"program", b"#!/bin/sh\n", 0o755); write(b"all", mode=0o666)
os.makedirs(b"empty/deeper"); os.mkdir(b"closed"); write(b"closed/inside"); os.chmod(b"closed", 0o555)
os.mkdir(b"shut"); write(b"shut/inside"); os.chmod(b"shut", 0o000)
os.mkdir(b"shared"); os.chmod(b"shared", 0o2775); os.mkdir(b"sticky"); os.chmod(b"sticky", 0o1777)
deep = b"/".join([b"d" * 60] * 20); os.makedirs(deep); write(deep + b"/leaf")
sys.setrecursionlimit(5000); os.makedirs(b"/".join([b"n"] * 500))
os.symlink("plain", "link"); os.symlink("/etc/passwd", "absolute"); os.symlink("../../..", "out"); os.symlink("nowhere", "dangling"); os.symlink(b"\xff\n", "odd target")
os.link("plain", "empty/hard link"); os.link("dangling", "hard link to a link")
os.mkfifo("pipe", 0o600)
with open("sparse", "wb") as f:
    f.seek(5 << 30); f.write(b"far out"); f.truncate(6 << 30)
write(b"zeros", bytes(300000))
os.setxattr("plain", b"user.note", b"kept\xff")
for i, name in enumerate([b"plain", b"closed/inside", b"empty", b"link", b"closed"]):
    os.utime(name, ns=(1, 1234567890123456789 + i), follow_symlinks=False)
os.utime("all", ns=(1, -86400 * 10**9))
os.chmod(".", 0o750)
os.utime(".", ns=(1, 987654321987654321))
`

// listing tells everything about a home that its owner can find out.
const listing = `
import hashlib, json, os, stat, sys
sys.setrecursionlimit(5000)
os.chdir("/home/jovyan")
seen, rows = {}, []
def look(name):
    s = os.lstat(name)
    row = [name.decode("latin1"), oct(s.st_mode), s.st_uid, s.st_gid, s.st_mtime_ns, s.st_nlink if not stat.S_ISDIR(s.st_mode) else 0]
    row.append(seen.setdefault(s.st_ino, name.decode("latin1")))
    if stat.S_ISLNK(s.st_mode): row.append(os.readlink(name).decode("latin1"))
    else: row.append({k: os.getxattr(name, k).decode("latin1") for k in os.listxattr(name)} if s.st_mode & 0o400 else {})
    was = s.st_mode & 0o7777
    if stat.S_ISREG(s.st_mode):
        os.chmod(name, 0o600)
        if s.st_size < 1 << 30: row.append(hashlib.sha256(open(name, "rb").read()).hexdigest())
        else:
            with open(name, "rb") as f: f.seek(5 << 30); row += [s.st_size, f.read(10).decode("latin1"), s.st_blocks < 1000]
        os.chmod(name, was)
    rows.append(row)
    if stat.S_ISDIR(s.st_mode):
        os.chmod(name, 0o700)
        for entry in sorted(os.listdir(name)):
            if entry != b"lost+found": look(name + b"/" + entry)
        os.chmod(name, was)
look(b".")
print(json.dumps(rows, indent=0))
`

// driverOf is a driver with homes of a kind.
func driverOf(t *testing.T, kind string) *Driver {
	t.Helper()
	if kind == homeBind {
		d, _ := newBindDriver(t, "{user}")
		return d
	}
	return newDriver(t, func(c *Config) { c.HomeKind = kind })
}

func export(t *testing.T, d *Driver, spec hub.Spec, pause bool) []byte {
	t.Helper()
	var archive bytes.Buffer
	if err := d.ExportHome(t.Context(), spec.UserID, spec.Image, &archive, pause); err != nil {
		t.Fatalf("export: %v", err)
	}
	return archive.Bytes()
}

// destroy takes a home away as a disk that fails would.
func destroy(t *testing.T, d *Driver, spec hub.Spec) {
	t.Helper()
	var err error
	switch d.cfg.HomeKind {
	case homeVolume:
		err = d.api.on(t.Context()).VolumeRemove(t.Context(), d.homes.volume(spec.UserID), false)
	case homeBind:
		err = os.RemoveAll(d.homes.directoryOf(spec.Key.User, spec.UserID).path())
	default:
		err = os.Remove(d.homes.image(spec.UserID))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRestoreDrill: a home with odd files goes out, is destroyed, comes back, and everything is as it was.
func TestRestoreDrill(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{homeLoop, homeVolume, homeBind} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d := driverOf(t, kind)
			spec := idle(t, "alice")
			if err := d.ExportHome(t.Context(), spec.UserID, spec.Image, io.Discard, false); hub.KindOf(err) != hub.NotFound {
				t.Errorf("export of no home: %v", err)
			}
			h, _ := start(t, d, spec)
			python(t, d, h, oddFiles)
			before := python(t, d, h, listing)
			if err := d.ExportHome(t.Context(), spec.UserID, spec.Image, io.Discard, false); hub.KindOf(err) != hub.Conflict {
				t.Errorf("export under a running server: %v", err)
			}
			if err := d.ImportHome(t.Context(), spec, strings.NewReader("x"), ImportReplace); hub.KindOf(err) != hub.Conflict {
				t.Errorf("import under a running server: %v", err)
			}
			paused := export(t, d, spec, true)
			if st, err := d.Inspect(t.Context(), h); err != nil || st.Phase != hub.Ready {
				t.Errorf("after an export with pause: %+v, %v", st, err)
			}
			stop(t, d, h)
			archive := export(t, d, spec, false)
			if len(archive) > 4<<20 {
				t.Errorf("the archive has %d bytes: holes are in it", len(archive))
			}
			for _, a := range [][]byte{archive, paused} {
				destroy(t, d, spec)
				if err := d.ImportHome(t.Context(), spec, bytes.NewReader(a), ImportNew); err != nil {
					t.Fatalf("import: %v", err)
				}
				spec.Generation++
				h, _ = start(t, d, spec)
				if after := python(t, d, h, listing); after != before {
					t.Errorf("the home has changed:\n%s\n\nwas\n\n%s", after, before)
				}
				stop(t, d, h)
			}
			checkSettled(t, d, spec)
		})
	}
}

// checkSettled looks for what work on a home could leave.
func checkSettled(t *testing.T, d *Driver, spec hub.Spec) {
	t.Helper()
	left, _ := filepath.Glob(d.homes.image(spec.UserID) + ".*")
	for _, path := range append(left, d.homes.notePath(spec.UserID), d.homes.freshPoint(spec.UserID)) {
		if _, err := os.Lstat(path); err == nil && !strings.HasSuffix(path, ".lock") {
			t.Errorf("%s is left", path)
		}
	}
	if len(mountsOf(t, d)) > 0 {
		t.Errorf("mounted: %v", mountsOf(t, d))
	}
	if _, err := d.api.on(t.Context()).ContainerInspect(t.Context(), d.homes.workerName(spec.UserID, false)); !isNotFound(err) {
		t.Errorf("the home's worker is left: %v", err)
	}
}

// TestImportWays: a replaced home has what is in the archive, a merged one what was there too.
func TestImportWays(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{homeLoop, homeVolume} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d := newDriver(t, func(c *Config) { c.HomeKind = kind })
			spec := idle(t, "alice")
			first := archiveOf(t, file("both", "old"), file("dir/old", "old"), file("dir/both", "old"), file("was a file", "old"), file("was a dir/x", "old"), file("own", "old"))
			second := archiveOf(t, file("both", "new"), file("dir/new", "new"), file("dir/both", "new"), file("was a file/x", "new"), file("was a dir", "new"), oddity(tar.TypeSymlink, "own", "both"))
			for how, want := range map[string]string{
				ImportReplace: "both:new dir/both:new dir/new:new own:new was a dir:new was a file/x:new",
				ImportMerge:   "both:new dir/both:new dir/new:new dir/old:old own:new was a dir:new was a file/x:new",
			} {
				for i, a := range [][]byte{first, second} {
					if err := d.ImportHome(t.Context(), spec, bytes.NewReader(a), []string{ImportReplace, how}[i]); err != nil {
						t.Fatalf("%s: %v", how, err)
					}
				}
				h, _ := start(t, d, spec)
				got := python(t, d, h, `
import os
os.chdir("/home/jovyan")
print(*sorted(os.path.relpath(b + "/" + n) + ":" + open(b + "/" + n).read() for b, _, ns in os.walk(".") if "lost+found" not in b for n in ns))`)
				if got != want {
					t.Errorf("%s: the home has %s\nwant %s", how, got, want)
				}
				stop(t, d, h)
				spec.Generation++
			}
			checkSettled(t, d, spec)
		})
	}
}

// TestHomeIsKeptMeanwhile: while a home is exported or imported nobody starts a server with it, wakes one or
// imports, and each is told why.
func TestHomeIsKeptMeanwhile(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	h, _ := start(t, d, spec)
	busy := func(what string, err error) {
		t.Helper()
		if message, _ := hub.Public(err); hub.KindOf(err) != hub.Unavailable || !strings.Contains(message, "export") && !strings.Contains(message, "import") {
			t.Errorf("%s meanwhile: %v", what, err)
		}
	}
	second := spec
	second.Key = key(t, "alice", "second")
	out := &onFirstWrite{do: func() {
		_, err := d.Start(t.Context(), second)
		busy("a start", err)
		busy("a wake", d.Resume(t.Context(), h))
		busy("an import", d.ImportHome(t.Context(), spec, strings.NewReader(""), ImportMerge))
		d.homes.tidy(t.Context())
		if st, err := d.Inspect(t.Context(), h); err != nil || st.Phase != hub.Paused {
			t.Errorf("the server meanwhile: %+v, %v", st, err)
		}
		if list, err := d.Homes(t.Context()); err != nil || len(list) != 1 || list[0].Work != "exported" {
			t.Errorf("the list meanwhile: %+v, %v", list, err)
		}
	}}
	if err := d.ExportHome(t.Context(), spec.UserID, spec.Image, out, true); err != nil {
		t.Error(err)
	}
	torn := &onFirstWrite{do: func() {
		name, _ := d.open(h)
		if err := d.api.on(t.Context()).ContainerUnpause(t.Context(), name); err != nil {
			t.Error(err)
		}
	}}
	if err := d.ExportHome(t.Context(), spec.UserID, spec.Image, torn, true); hub.KindOf(err) != hub.Conflict {
		t.Errorf("an export whose server was woken by hand: %v", err)
	}
	if err := d.Pause(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	asleep := &onFirstWrite{do: func() { busy("a wake of one that slept before", d.Resume(t.Context(), h)) }}
	if err := d.ExportHome(t.Context(), spec.UserID, spec.Image, asleep, true); err != nil {
		t.Error(err)
	}
	if st, err := d.Inspect(t.Context(), h); err != nil || st.Phase != hub.Paused {
		t.Errorf("a server that slept before the export: %+v, %v", st, err)
	}
	stop(t, d, h)
	in := &onFirstRead{Reader: bytes.NewReader(archiveOf(t, file("x", "1"))), do: func() {
		_, err := d.Start(t.Context(), second)
		busy("a start", err)
	}}
	if err := d.ImportHome(t.Context(), spec, in, ImportReplace); err != nil {
		t.Error(err)
	}
	checkSettled(t, d, spec)
}

type onFirstWrite struct{ do func() }

func (w *onFirstWrite) Write(p []byte) (int, error) {
	if w.do != nil {
		w.do()
		w.do = nil
	}
	return len(p), nil
}

type onFirstRead struct {
	io.Reader
	do func()
}

func (r *onFirstRead) Read(p []byte) (int, error) {
	if r.do != nil {
		r.do()
		r.do = nil
	}
	return r.Reader.Read(p)
}

// TestHomesAreListed with what is known of them.
func TestHomesAreListed(t *testing.T) { //nolint:tparallel // its parts come one after another
	t.Parallel()
	for _, kind := range []string{homeLoop, homeVolume} {
		t.Run(kind, func(t *testing.T) {
			d := newDriver(t, func(c *Config) { c.HomeKind = kind })
			spec := idle(t, "alice")
			if err := d.Bind(t.Context(), hub.Binding{Name: spec.Key.User, UserID: spec.UserID}); err != nil {
				t.Fatal(err)
			}
			h, _ := start(t, d, spec)
			python(t, d, h, `open("/home/jovyan/big", "wb").write(b"x" * (5 << 20)); __import__("os").sync()`)
			look := func() Home {
				t.Helper()
				list, err := d.Homes(t.Context())
				if err != nil || len(list) != 1 {
					t.Fatalf("%+v, %v", list, err)
				}
				return list[0]
			}
			check := func(home Home) {
				t.Helper()
				if home.ID != spec.UserID || home.User != spec.Key.User || home.Kind != kind || home.Used < 5<<20 || home.Used > 12<<20 {
					t.Errorf("%+v", home)
				}
				if kind == homeLoop && (home.Size != 32<<20 || home.InodesUsed < 11 || home.InodesUsed > 20 || home.Inodes < 1000 || time.Since(home.Written) > time.Minute) {
					t.Errorf("%+v", home)
				}
			}
			running := look()
			check(running)
			if len(running.Servers) != 1 || running.Servers[0] != (HomeServer{"alice", container.StateRunning}) {
				t.Errorf("%+v", running.Servers)
			}
			stop(t, d, h)
			stopped := look()
			check(stopped)
			if len(stopped.Servers) != 0 {
				t.Errorf("%+v", stopped.Servers)
			}
			if kind == homeLoop && (stopped.InodesUsed != running.InodesUsed || stopped.Used-running.Used > 1<<20 || running.Used-stopped.Used > 1<<20) {
				t.Errorf("mounted it is %+v, and not mounted %+v", running, stopped)
			}
		})
	}
}

// TestExportIsCancelled: Ctrl-C leaves nothing, and the server goes on.
func TestExportIsCancelled(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	h, _ := start(t, d, spec)
	ctx, cancel := context.WithCancel(t.Context())
	out := &onFirstWrite{do: cancel}
	if err := d.ExportHome(ctx, spec.UserID, spec.Image, out, true); err == nil {
		t.Error("a cancelled export succeeded")
	}
	if st, err := d.Inspect(t.Context(), h); err != nil || st.Phase != hub.Ready {
		t.Errorf("after it: %+v, %v", st, err)
	}
	stop(t, d, h)
	checkSettled(t, d, spec)
}
