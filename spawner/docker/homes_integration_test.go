//go:build integration

package docker

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/volume"

	"carrel/hub"
)

// fill is attacks 8 and 9: it writes until it can't, and then tidies up after itself, or does not.
const fill = `
import errno, os, sys
where, what, keep = sys.argv[1:]
n = 0
try:
    if what == "bytes":
        with open(where + "/big", "wb", buffering=0) as f:
            while n < 1 << 31:
                n += f.write(b"x" * 65536)
    else:
        os.makedirs(where + "/many", exist_ok=True)
        while n < 200000:
            open(f"{where}/many/{n}", "w").close()
            n += 1
    print("no end", n)
except OSError as e:
    print(errno.errorcode[e.errno], n)
if keep == "no":
    if what == "bytes":
        os.remove(where + "/big")
    else:
        for name in os.listdir(where + "/many"):
            os.remove(where + "/many/" + name)
`

// TestHomeIsCapped: a home takes so many bytes and so many files. Its owner can start a server on a
// full one, and delete.
func TestHomeIsCapped(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	spec.Limits.Disk, spec.Limits.Inodes = 24<<20, 500
	for _, what := range []string{"bytes", "files"} {
		h, _ := start(t, d, spec)
		word, n, _ := strings.Cut(python(t, d, h, fill, "/home/jovyan", what, "yes"), " ")
		if word != "ENOSPC" {
			t.Fatalf("%s: %s at %s", what, word, n)
		}
		if what == "files" && (len(n) != 3 || n > "500") || what == "bytes" && (len(n) != 8 || n > "25165824") {
			t.Errorf("%s %s were written", n, what)
		}
		nr := map[string]string{"bytes": "8", "files": "9"}[what]
		t.Attr("seen-"+nr, fmt.Sprintf("a home: %s after %s %s; its owner starts again and deletes", word, n, what))
		stop(t, d, h)
		spec.Generation++
		h, _ = start(t, d, spec)
		if out, code := run(t, d, h, "rm", "-rf", "/home/jovyan/big", "/home/jovyan/many"); code != 0 {
			t.Errorf("the owner of a full home can't delete: %s", out)
		}
		if out, code := run(t, d, h, "sh", "-c", "echo kept > /home/jovyan/note"); code != 0 {
			t.Errorf("after deleting nothing can be written: %s", out)
		}
		stop(t, d, h)
		spec.Generation++
	}
}

// TestHomeInMemory is the same for a home that is gone with its server; of it nothing is on the disk.
func TestHomeInMemory(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	spec.HomeKind, spec.Limits.Disk, spec.Limits.Inodes = hub.HomeTmpfs, 16<<20, 300
	h, _ := start(t, d, spec)
	if out, code := run(t, d, h, "python3", "-c", fill, "/home/jovyan", "bytes", "no"); code != 0 || !strings.HasPrefix(out, "ENOSPC 167") {
		t.Errorf("bytes: %d, %s", code, out)
	}
	out, _ := run(t, d, h, "python3", "-c", fill, "/home/jovyan", "files", "yes")
	if n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(out, "ENOSPC"))); err != nil || n < 290 || n > 300 {
		t.Errorf("files: %s", out)
	}
	mounts, _ := run(t, d, h, "cat", "/proc/mounts")
	_, options, found := strings.Cut(mounts, " /home/jovyan tmpfs ")
	if options, _, _ = strings.Cut(options, "\n"); !found || !strings.HasPrefix(options, "rw,nosuid,nodev") || strings.Contains(options, "noexec") {
		t.Errorf("mounted with %q", options)
	}
	for _, path := range []string{d.homes.image(spec.UserID), d.homes.mountPoint(spec.UserID)} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is on the disk", path)
		}
	}
	stop(t, d, h)
	spec.Generation++
	h, _ = start(t, d, spec)
	if out, code := run(t, d, h, "ls", "-A", "/home/jovyan"); code != 0 || out != "" {
		t.Errorf("the next start finds %q (%d)", out, code)
	}
}

func TestHomeIsMountedSafely(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	h, _ := start(t, d, spec)
	mounts, _ := run(t, d, h, "cat", "/proc/mounts")
	host, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]string{" /home/jovyan ext4 ": mounts, " " + d.homes.mountPoint(spec.UserID) + " ext4 ": string(host)} {
		_, options, found := strings.Cut(text, where)
		options, _, _ = strings.Cut(options, "\n")
		if !found || !strings.Contains(options, "nosuid,nodev") || !strings.HasPrefix(options, "rw,") {
			t.Errorf("%s is mounted with %q", where, options)
		}
	}
	// The directory beneath is nobody's: what is written there would know no cap.
	stop(t, d, h)
	if info, err := os.Stat(d.homes.mountPoint(spec.UserID)); err != nil || info.Mode().Perm() != 0o555 {
		t.Errorf("the directory under the home: %v, %v", info, err)
	}
	if info, err := os.Stat(d.homes.image(spec.UserID)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the image: %v, %v", info, err)
	}
}

const size = `import os; s = os.statvfs("/home/jovyan"); print(s.f_blocks * s.f_frsize >> 20)`

// TestHomeGrows with the profile, at the next start; it never shrinks; and a growth that was cut off
// half-way is finished.
func TestHomeGrows(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	for _, c := range []struct {
		name     string
		disk     int64
		from, to string
		before   func(image string)
	}{
		{name: "as made", disk: 32 << 20, from: "24", to: "32"},
		{name: "grown", disk: 64 << 20, from: "50", to: "64"},
		{name: "a smaller quota", disk: 16 << 20, from: "50", to: "64"},
		{name: "cut off after the file grew", disk: 128 << 20, from: "100", to: "128", before: func(image string) {
			if err := os.Truncate(image, 128<<20); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(image+growing, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		if c.before != nil {
			c.before(d.homes.image(spec.UserID))
		}
		spec.Limits.Disk = c.disk
		h, _ := start(t, d, spec)
		if mib := python(t, d, h, size); len(mib) < len(c.from) || len(mib) == len(c.from) && mib < c.from || len(mib) > len(c.to) || len(mib) == len(c.to) && mib > c.to {
			t.Errorf("%s: the home has %s MiB, want %s to %s", c.name, mib, c.from, c.to)
		}
		if out, code := run(t, d, h, "sh", "-c", "test -e ~/first || test $0 = 1 && echo x >> /home/jovyan/first && cat /home/jovyan/first", map[bool]string{true: "1", false: "0"}[spec.Generation == 1]); code != 0 {
			t.Errorf("%s: the files are gone: %s", c.name, out)
		}
		stop(t, d, h)
		spec.Generation++
	}
	if _, err := os.Stat(d.homes.image(spec.UserID) + growing); err == nil {
		t.Error("the mark of a growth is left")
	}
}

// TestUncleanHome: what a crash of the machine leaves is mended before the next start.
func TestUncleanHome(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	h, _ := start(t, d, spec)
	if out, code := run(t, d, h, "sh", "-c", "echo kept > /home/jovyan/note; sync /home/jovyan/note"); code != 0 {
		t.Fatal(out)
	}
	// The image as it would be found after a loss of power: in the middle, with its journal.
	image := d.homes.image(spec.UserID)
	torn := image + ".torn"
	copyFile(t, image, torn)
	stop(t, d, h)
	if err := os.Rename(torn, image); err != nil {
		t.Fatal(err)
	}
	if s := superblock(t, image); !strings.Contains(s, "needs_recovery") {
		t.Fatalf("this image is clean, and tests nothing: %s", s)
	}
	if out, err := exec.Command("debugfs", "-w", "-R", "ssv state 2", image).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	spec.Generation++
	h, _ = start(t, d, spec)
	if note, _ := run(t, d, h, "cat", "/home/jovyan/note"); note != "kept\n" {
		t.Errorf("the note reads %q", note)
	}
	stop(t, d, h)
	eventually(t, "the loop device has gone", func() bool { return loopOf(image) == "" }) // the last to leave writes that
	if s := superblock(t, image); strings.Contains(s, "needs_recovery") || strings.Contains(s, "with errors") {
		t.Errorf("the home was not checked: %s", s)
	}
	checkImage(t, image)
}

func superblock(t *testing.T, image string) string {
	t.Helper()
	out, err := exec.Command("dumpe2fs", "-h", image).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// checkImage looks through a home that nobody has.
func checkImage(t *testing.T, image string) {
	t.Helper()
	eventually(t, "the loop device has gone", func() bool { return loopOf(image) == "" })
	if out, err := exec.Command("e2fsck", "-f", "-n", image).CombinedOutput(); err != nil {
		t.Errorf("the home is damaged: %v: %s", err, out)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
}

// TestHomeIsHeld: between the mount of a home and the container that binds it, nobody unmounts it,
// whichever process's stop it is.
func TestHomeIsHeld(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	other := reopen(t, d.cfg)
	spec := idle(t, "alice")
	m, release, err := d.homes.open(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, closer := range []*Driver{d, other} {
		ctx, done := context.WithTimeout(t.Context(), 100*time.Millisecond)
		closer.homes.close(ctx, spec.UserID)
		done()
		if !mounted(m.Source) {
			t.Fatal("a home was unmounted under a container that was just being made")
		}
	}
	release()
	other.homes.close(t.Context(), spec.UserID)
	if mounted(m.Source) {
		t.Error("a home that nobody has stays mounted")
	}
}

// TestStopRacingStart has one of a person's servers stop while another starts, by two hubs.
func TestStopRacingStart(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	other := reopen(t, d.cfg)
	one, two := idle(t, "alice"), idle(t, "alice")
	two.Key = key(t, "alice", "gpu")
	h, _ := start(t, d, one)
	if out, code := run(t, d, h, "sh", "-c", "echo kept > /home/jovyan/note"); code != 0 {
		t.Fatal(out)
	}
	for round := range 8 {
		stopped := make(chan error, 1)
		go func() { stopped <- other.Stop(t.Context(), h, 0) }()
		time.Sleep(time.Duration(round) * 15 * time.Millisecond) // another moment each time
		next, err := d.Start(t.Context(), two)
		if err != nil {
			t.Fatal(err)
		}
		if err := <-stopped; err != nil {
			t.Fatal(err)
		}
		if note, _ := run(t, d, next, "cat", "/home/jovyan/note"); note != "kept\n" {
			t.Fatalf("round %d: the other server's home holds %q", round, note)
		}
		h = next
		one, two = two, one
		two.Generation += 2
		one.Generation++
	}
	stop(t, d, h)
	checkImage(t, d.homes.image("ualice"))
	t.Attr("seen-49", "eight starts beside a stop: the home is the same, and sound")
}

// TestTwoServersShareAHome, and it stays until the last has gone.
func TestTwoServersShareAHome(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	one, two := idle(t, "alice"), idle(t, "alice")
	two.Key = key(t, "alice", "gpu")
	a, _ := start(t, d, one)
	b, _ := start(t, d, two)
	if out, code := run(t, d, a, "sh", "-c", "echo from-a > /home/jovyan/note"); code != 0 {
		t.Fatal(out)
	}
	if note, _ := run(t, d, b, "cat", "/home/jovyan/note"); note != "from-a\n" {
		t.Errorf("the other server sees %q", note)
	}
	stop(t, d, a)
	if out, code := run(t, d, b, "sh", "-c", "echo more >> /home/jovyan/note"); code != 0 || !mounted(d.homes.mountPoint("ualice")) {
		t.Errorf("after the first's stop: %s", out)
	}
	stop(t, d, b)
	if mounted(d.homes.mountPoint("ualice")) {
		t.Error("after the last's stop the home is mounted")
	}
}

// TestHomeStillAttached: a mount that some process inherited keeps the loop device; the home is then
// the same file system again, never a second one on the same file.
func TestHomeStillAttached(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	h, _ := start(t, d, spec)
	if out, code := run(t, d, h, "sh", "-c", "echo kept > /home/jovyan/note"); code != 0 {
		t.Fatal(out)
	}
	pin := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 1000")
	said, err := pin.StdoutPipe()
	if err == nil {
		err = pin.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	end := func() { _ = pin.Process.Kill(); _ = pin.Wait() }
	defer end()
	if _, err := said.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	stop(t, d, h)
	image := d.homes.image(spec.UserID)
	loop := loopOf(image)
	if loop == "" {
		t.Fatal("nothing keeps the loop device: this tests nothing")
	}
	spec.Generation++
	spec.Limits.Disk *= 2 // which must wait
	h, _ = start(t, d, spec)
	if now := loopOf(image); now != loop {
		t.Errorf("the home was on %s, and is on %s", loop, now)
	}
	if note, _ := run(t, d, h, "cat", "/home/jovyan/note"); note != "kept\n" {
		t.Errorf("the note reads %q", note)
	}
	if out, code := run(t, d, h, "sh", "-c", "echo more >> /home/jovyan/note; sync"); code != 0 {
		t.Errorf("nothing can be written: %s", out)
	}
	stop(t, d, h)
	end()
	checkImage(t, image)
	spec.Generation++
	h, _ = start(t, d, spec)
	if note, _ := run(t, d, h, "cat", "/home/jovyan/note"); note != "kept\nmore\n" {
		t.Errorf("the note reads %q", note)
	}
}

// TestForgottenHomeIsClosed: somebody removes a container behind the driver's back.
func TestForgottenHomeIsClosed(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	h, _ := start(t, d, spec)
	name, err := d.open(h)
	if err != nil {
		t.Fatal(err)
	}
	d.homes.tidy(t.Context())
	if !mounted(d.homes.mountPoint(spec.UserID)) {
		t.Error("a home in use was closed")
	}
	if out, err := exec.Command("docker", "rm", "-f", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	background(t, d)
	eventually(t, "the home is closed", func() bool { return !mounted(d.homes.mountPoint(spec.UserID)) })
}

// TestHomeInAVolume, where there is no root or no loop device.
func TestHomeInAVolume(t *testing.T) {
	t.Parallel()
	d := newDriver(t, func(c *Config) { c.HomeKind = homeVolume })
	spec := idle(t, "alice")
	h, _ := start(t, d, spec)
	if out, code := run(t, d, h, "sh", "-c", "echo kept > /home/jovyan/note"); code != 0 {
		t.Fatal(out)
	}
	stop(t, d, h)
	spec.Generation++
	h, _ = start(t, d, spec)
	if note, _ := run(t, d, h, "cat", "/home/jovyan/note"); note != "kept\n" {
		t.Errorf("the note reads %q", note)
	}
	volumes := func() int {
		got, err := d.api.on(t.Context()).VolumeList(t.Context(), volume.ListOptions{Filters: filters.NewArgs(filters.Arg("label", labelDeployment+"="+d.cfg.Deployment))})
		if err != nil {
			t.Fatal(err)
		}
		return len(got.Volumes)
	}
	if err := d.Down(t.Context(), false); err != nil || volumes() != 1 {
		t.Errorf("down without homes: %v, and %d are left", err, volumes())
	}
	if err := d.Down(t.Context(), true); err != nil || volumes() != 0 {
		t.Errorf("down with homes: %v, and %d are left", err, volumes())
	}
}

// TestHomeOfAnotherUID: a profile whose user id changed is refused, by name of the field; the home
// is as it was, and closed. A changed group is no hindrance.
func TestHomeOfAnotherUID(t *testing.T) { //nolint:tparallel // its parts come one after another
	t.Parallel()
	for _, kind := range []string{homeLoop, homeVolume} {
		t.Run(kind, func(t *testing.T) {
			d := newDriver(t, func(c *Config) { c.HomeKind = kind })
			spec := idle(t, "alice")
			h, _ := start(t, d, spec)
			if out, code := run(t, d, h, "sh", "-c", "echo kept > /home/jovyan/note"); code != 0 {
				t.Fatal(out)
			}
			other := idle(t, "alice")
			other.Key, other.UID, other.Profile = key(t, "alice", "r"), 1234, "r-4"
			refused := func() {
				t.Helper()
				_, err := d.Start(t.Context(), other)
				if hub.KindOf(err) != hub.Invalid || hub.FieldOf(err) != "profiles.r-4.uid" {
					t.Errorf("for another user: %v", err)
				}
			}
			refused()
			if out, code := run(t, d, h, "sh", "-c", "cd && echo more >> note && cat note"); code != 0 || out != "kept\nmore\n" {
				t.Errorf("the running server's home, after the refusal: %s", out)
			}
			stop(t, d, h)
			refused()
			if kind == homeLoop && mounted(d.homes.mountPoint(spec.UserID)) {
				t.Error("a home that was refused stays mounted")
			}
			spec.Generation++
			spec.GID = 100
			h, _ = start(t, d, spec)
			if out, code := run(t, d, h, "sh", "-c", "cd && id -u && id -g && echo again >> note && cat note && echo x > new"); code != 0 || out != "1000\n100\nkept\nmore\nagain\n" {
				t.Errorf("of another group: %s", out)
			}
		})
	}
}

// TestVolumeIsItsOwners, whatever the image has at the place of the home: nothing, a directory of
// root's, or another user's files, none of which get into it; and one that an earlier version, or a
// process that ended half-way, left root's is given to the person, its content left alone.
func TestVolumeIsItsOwners(t *testing.T) {
	t.Parallel()
	d := newDriver(t, func(c *Config) { c.HomeKind = homeVolume })
	image := buildImage(t, d, "USER 0", "RUN mkdir -p /home/root/etc /home/other && echo x > /home/other/file && chown -R 4321:4321 /home/other && ln -s /etc /home/link", "VOLUME /carrel-home")
	for _, home := range []string{"/home/nowhere/deep", "/home/root", "/home/other", "/home/jovyan"} {
		spec := idle(t, "alice")
		spec.UserID = hub.UserID("u" + strings.ReplaceAll(home, "/", ""))
		spec.Image, spec.Home, spec.UID, spec.GID = image, home, 1234, 567
		h, _ := start(t, d, spec)
		if out, code := run(t, d, h, "sh", "-c", "ls -A ~ && stat -c '%u:%g %a' ~ && echo kept > ~/note"); code != 0 || out != "1234:567 755\n" {
			t.Errorf("%s: %s", home, out)
		}
		stop(t, d, h)
	}

	spec := idle(t, "bob")
	_, err := d.api.on(t.Context()).VolumeCreate(t.Context(), volume.CreateOptions{Name: d.homes.volume(spec.UserID), Labels: map[string]string{
		labelDeployment: d.cfg.Deployment, labelUserID: string(spec.UserID), labelMAC: d.cfg.Keyring.LabelMAC("volume", string(spec.UserID)),
	}})
	if err != nil {
		t.Fatal(err)
	}
	keeper := func(args ...string) {
		t.Helper()
		args = append([]string{"create", "--name", d.homes.volume(spec.UserID), "--label", labelDeployment + "=" + d.cfg.Deployment}, args...)
		if out, err := exec.Command("docker", append(args, "-v", d.homes.volume(spec.UserID)+":/carrel-home", spec.Image, "x")...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	keeper()
	if _, err := d.Start(t.Context(), spec); hub.KindOf(err) != hub.Conflict {
		t.Errorf("with a keeper that is not ours: %v", err)
	}
	if out, err := exec.Command("docker", "rm", d.homes.volume(spec.UserID)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	keeper("--label", labelMAC+"="+d.cfg.Keyring.LabelMAC("keeper", d.homes.volume(spec.UserID)))
	// What is in it already stays as it is, a link that leads out included.
	if out, err := exec.Command("docker", "run", "--rm", "--user", "0", "--entrypoint", "sh", "-v", d.homes.volume(spec.UserID)+":/v:nocopy", spec.Image, "-c", "chown 0:0 /v; cd /v; echo old > old; ln -s /etc/passwd link").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h, _ := start(t, d, spec)
	if out, code := run(t, d, h, "sh", "-c", "cd; stat -c '%n %u' . old link; stat -Lc %u link; echo x > new"); code != 0 || out != ". 1000\nold 0\nlink 0\n0\n" {
		t.Errorf("a home that was root's: %s", out)
	}
	if out, err := exec.Command("docker", "ps", "-aq", "--filter", "name=^"+d.homes.volume(spec.UserID)+"$").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("a keeper is left: %v: %s", err, out)
	}
}

// TestDownKeepsHomes unless it is told not to.
func TestDownKeepsHomes(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	h, _ := start(t, d, spec)
	if out, code := run(t, d, h, "sh", "-c", "echo kept > /home/jovyan/note"); code != 0 {
		t.Fatal(out)
	}
	for range 2 {
		if err := d.Down(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		checkNothingLeft(t, d)
	}
	spec.Generation++
	h, _ = start(t, d, spec)
	if note, _ := run(t, d, h, "cat", "/home/jovyan/note"); note != "kept\n" {
		t.Errorf("after down, the note reads %q", note)
	}
	if err := d.Down(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, d)
	if _, err := os.Stat(d.homes.image(spec.UserID)); !os.IsNotExist(err) {
		t.Errorf("the home is left: %v", err)
	}
}

func TestMalformedHomes(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	for _, id := range []hub.UserID{"", "../x", "a/b", "A", "u\x00", "u.img"} {
		spec := idle(t, "alice")
		spec.UserID = id
		if h, err := d.Start(t.Context(), spec); err == nil {
			t.Errorf("a server of %q started: %s", id, h.Data)
		}
	}
}
