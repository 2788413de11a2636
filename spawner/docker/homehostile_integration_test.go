//go:build integration

package docker

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/volume"

	"carrel/hub"
)

// entry is one of a tar archive.
type entry struct {
	tar.Header
	text string
}

func archiveOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.text))
		if e.Mode == 0 {
			e.Mode = 0o644
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, text string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name}, text}
}

func oddity(kind byte, name, target string) entry {
	return entry{tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o777, Devmajor: 1, Devminor: 3}, ""}
}

// bomb is an archive of zeros without end, which takes a moment of one core only.
type bomb struct{ head io.Reader }

func (b bomb) Read(p []byte) (int, error) {
	if n, err := b.head.Read(p); n > 0 || !errors.Is(err, io.EOF) {
		return n, err
	}
	for i := range p {
		p[i] = 1
	}
	return len(p), nil
}

func newBomb(t *testing.T) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "bomb", Mode: 0o644, Size: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	return bomb{&b}
}

// hostile are archives that mean harm, each to be refused; and what its refusal says.
func hostile(t *testing.T) map[string]struct {
	archive io.Reader
	says    string
} {
	link := oddity(tar.TypeSymlink, "x", "/tmp")
	list := map[string]struct {
		archive io.Reader
		says    string
	}{
		"a name that leads out":          {bytes.NewReader(archiveOf(t, file("ok", "1"), file("../../../../../../tmp/evil", "1"))), ".."},
		"through a symlink":              {bytes.NewReader(archiveOf(t, link, file("x/evil", "1"))), "x/evil"},
		"through a symlink up":           {bytes.NewReader(archiveOf(t, oddity(tar.TypeSymlink, "x", "../../../tmp"), file("x/evil", "1"))), "x/evil"},
		"a hard link out":                {bytes.NewReader(archiveOf(t, oddity(tar.TypeLink, "x", "/etc/passwd"))), "x"},
		"a hard link up":                 {bytes.NewReader(archiveOf(t, oddity(tar.TypeLink, "x", "../../../../etc/passwd"))), "'etc/passwd'"},
		"a hard link through a symlink":  {bytes.NewReader(archiveOf(t, oddity(tar.TypeSymlink, "x", "/etc"), oddity(tar.TypeLink, "y", "x/passwd"))), "y"},
		"a character device":             {bytes.NewReader(archiveOf(t, oddity(tar.TypeChar, "null", ""))), "null"},
		"a block device":                 {bytes.NewReader(archiveOf(t, oddity(tar.TypeBlock, "disk", ""))), "disk"},
		"more than there is room":        {newBomb(t), "No space left"},
		"cut off":                        {bytes.NewReader(archiveOf(t, file("ok", strings.Repeat("1", 5000)))[:3000]), "EOF"},
		"no archive":                     {strings.NewReader(strings.Repeat("rubbish ", 1000)), "tar"},
		"a name with escapes":            {bytes.NewReader(archiveOf(t, file("../\x1b[31m\a\nred", "1"))), "red"},
		"a source that fails half-way":   {io.MultiReader(bytes.NewReader(archiveOf(t, file("ok", "1"))), failing{}), "gave up"},
		"directories without end":        {bytes.NewReader(archiveOf(t, file(strings.Repeat("d/", 1100)+"f", "1"))), "nested"},
		"through an own file for a link": {bytes.NewReader(archiveOf(t, file("x", "1"), file("x/evil", "1"))), "x/evil"},
	}
	many := &bytes.Buffer{}
	w := tar.NewWriter(many)
	for i := range 5000 {
		if err := w.WriteHeader(&tar.Header{Name: "f" + strings.Repeat("0", i%7) + string(rune('a'+i%26)) + time.Duration(i).String(), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	list["more files than there is room for"] = struct {
		archive io.Reader
		says    string
	}{many, "No space left"}
	return list
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the source gave up") }

// TestHostileArchives are refused, whatever is there already, and change nothing.
func TestHostileArchives(t *testing.T) {
	t.Parallel()
	for _, how := range []string{ImportReplace, ImportMerge} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			d := newDriver(t)
			spec := idle(t, "alice")
			h, _ := start(t, d, spec)
			python(t, d, h, oddFiles)
			before := python(t, d, h, listing)
			stop(t, d, h)
			refusals := 0
			for name, c := range hostile(t) {
				err := d.ImportHome(t.Context(), spec, c.archive, how)
				if hub.KindOf(err) != hub.Invalid || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%s: %v", name, err)
				}
				if message, _ := hub.Public(err); strings.ContainsAny(message, "\x1b\a\n") {
					t.Errorf("%s: the message is %q", name, message)
				}
				checkSettled(t, d, spec)
				if err != nil {
					refusals++
				}
			}
			for _, nr := range []string{"23", "24", "25"} {
				t.Attr("seen-"+nr, fmt.Sprintf("import by %s: %d hostile archives refused, each with the entry", how, refusals))
			}
			spec.Generation++
			h, _ = start(t, d, spec)
			if after := python(t, d, h, listing); after != before {
				t.Errorf("the home has changed:\n%s\n\nwas\n\n%s", after, before)
			}
		})
	}
}

// TestHarmlessParts of an archive come in without what makes them harmful.
func TestHarmlessParts(t *testing.T) { //nolint:tparallel // its parts come one after another
	t.Parallel()
	for _, kind := range []string{homeLoop, homeVolume} {
		t.Run(kind, func(t *testing.T) {
			d := newDriver(t, func(c *Config) { c.HomeKind = kind })
			spec := idle(t, "alice")
			suid := file("suid", "1")
			suid.Mode, suid.Uid, suid.Gid, suid.Uname = 0o6755, 0, 0, "root"
			mine := file("theirs", "1")
			mine.Uid, mine.Gid = 4321, 4321
			archive := archiveOf(t, suid, mine, file("/etc/passwd", "harmless"), oddity(tar.TypeSymlink, "link", "/etc/shadow"), file(".carrel-import/new/x", "1"), file("./.carrel-import/moved/x", "1"),
				file("././.carrel-import/a", "1"), file("/.carrel-import/b", "1"), file(".//.carrel-import/c", "1"), file("/./.carrel-import/d", "1"))
			if err := d.ImportHome(t.Context(), spec, bytes.NewReader(archive), ImportNew); err != nil {
				t.Fatal(err)
			}
			h, _ := start(t, d, spec)
			out := python(t, d, h, `
import os
os.chdir("/home/jovyan")
if os.path.lexists(".carrel-import"): print("the corner is left")
for base, dirs, names in os.walk("."):
    for n in sorted(dirs + names):
        s = os.lstat(base + "/" + n)
        if n != "lost+found": print(base + "/" + n, oct(s.st_mode & 0o7777), s.st_uid, s.st_gid)`)
			want := "./etc 0o700 1000 1000\n./link 0o777 1000 1000\n./suid 0o755 1000 1000\n./theirs 0o644 1000 1000\n./etc/passwd 0o644 1000 1000"
			if out != want {
				t.Errorf("the home has\n%s\nwant\n%s", out, want)
			}
			if err := d.ImportHome(t.Context(), spec, bytes.NewReader(archive), ImportNew); hub.KindOf(err) != hub.Conflict {
				t.Errorf("import into a home in use: %v", err)
			}
			stop(t, d, h)
			if err := d.ImportHome(t.Context(), spec, bytes.NewReader(archive), ImportNew); hub.KindOf(err) != hub.Conflict {
				t.Errorf("import over a home without a word: %v", err)
			}
			t.Attr("seen-24", kind+": /etc/passwd lands in the home, setuid bits and foreign owners do not")
		})
	}
}

// TestWorkerIsWalled: what unpacks has no network, no capability and no file of the host but the home.
func TestWorkerIsWalled(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	h, _ := start(t, d, spec)
	stop(t, d, h)
	in := &onFirstRead{Reader: bytes.NewReader(archiveOf(t, file("x", "1"))), do: func() {
		c, err := d.api.on(t.Context()).ContainerInspect(t.Context(), d.homes.workerName(spec.UserID, false))
		if err != nil {
			t.Error(err)
			return
		}
		if c.Config.User != "1000:1000" || len(c.HostConfig.CapAdd) > 0 || c.HostConfig.NetworkMode != "none" || !c.HostConfig.ReadonlyRootfs || c.HostConfig.Privileged || len(c.Mounts) != 1 || c.HostConfig.Memory == 0 {
			t.Errorf("%+v %+v", c.Config, c.HostConfig)
		}
		out, err := exec.Command("docker", "exec", c.ID, "sh", "-c", "grep CapEff /proc/self/status; ls /sys/class/net; touch /x 2>&1; grep -c carrel-home /proc/mounts").CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "CapEff:\t0000000000000000\nlo\n") || !strings.HasSuffix(string(out), "Read-only file system\n1\n") {
			t.Errorf("%v: %s", err, out)
		}
	}}
	if err := d.ImportHome(t.Context(), spec, in, ImportReplace); err != nil {
		t.Error(err)
	}
	t.Attr("seen-0", "no capability, no interface but lo, nothing to write but the one home")
}

// TestVolumeLeavesRoom: an archive without end stops before a disk that has no caps is full.
func TestVolumeLeavesRoom(t *testing.T) {
	t.Parallel()
	d := newDriver(t, func(c *Config) { c.HomeKind = homeVolume })
	spec := idle(t, "alice")
	// A volume on a small disk of its own stands for the machine's.
	_, err := d.api.on(t.Context()).VolumeCreate(t.Context(), volume.CreateOptions{Name: d.homes.volume(spec.UserID), Driver: "local",
		DriverOpts: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=600m,uid=1000,gid=1000"},
		Labels:     map[string]string{labelDeployment: d.cfg.Deployment, labelUserID: string(spec.UserID), labelMAC: d.cfg.Keyring.LabelMAC("volume", string(spec.UserID))}})
	if err != nil {
		t.Fatal(err)
	}
	err = d.ImportHome(t.Context(), spec, newBomb(t), ImportMerge)
	if message, _ := hub.Public(err); hub.KindOf(err) != hub.Invalid || !strings.Contains(message, "what others need") {
		t.Errorf("%v", err)
	}
	t.Attr("seen-25", "on a disk without caps: stopped before others' room is taken")
}
