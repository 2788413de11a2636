package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carrel/hub"
)

// An archive comes back as it went out, by whatever its name tells, and is told by its bytes then.
func TestArchivesArePacked(t *testing.T) {
	content := bytes.Repeat([]byte("an archive's content "), 100000)
	for name, magic := range map[string]string{"a.tar": "an a", "a.tar.gz": "\x1f\x8b", "a.tgz": "\x1f\x8b", "a.tar.zst": "\x28\xb5\x2f\xfd", "a.tzst": "\x28\xb5\x2f\xfd"} {
		path := filepath.Join(t.TempDir(), name)
		packing, err := packingOf("", path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := writeArchive(path, packing, nil, func(w io.Writer) error { _, err := w.Write(content); return err }); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		raw, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(raw, []byte(magic)) {
			t.Errorf("%s begins with %x, %v", name, raw[:min(len(raw), 4)], err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		other := filepath.Join(filepath.Dir(path), "unnamed")
		if err := os.Rename(path, other); err != nil {
			t.Fatal(err)
		}
		r, done, err := openArchive(other, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		done()
	}
}

// An archive that did not become whole leaves the one from before, and nothing else.
func TestArchivesAreWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.tar.gz")
	if err := os.WriteFile(path, []byte("yesterday's"), 0o600); err != nil {
		t.Fatal(err)
	}
	broke := errors.New("it broke")
	err := writeArchive(path, "gzip", nil, func(w io.Writer) error {
		_, _ = io.WriteString(w, strings.Repeat("half", 1<<20))
		return broke
	})
	if !errors.Is(err, broke) {
		t.Errorf("%v", err)
	}
	if raw, err := os.ReadFile(path); err != nil || string(raw) != "yesterday's" {
		t.Errorf("it reads %q, %v", raw, err)
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
		t.Errorf("the directory has %v, %v", all, err)
	}
}

func TestWrongArchives(t *testing.T) {
	for _, c := range []struct{ asked, path string }{{"", "a.rar"}, {"", "tar"}, {"", "a.tar.bz2"}, {"lzma", "a.tar"}, {"lzma", "-"}} {
		if _, err := packingOf(c.asked, c.path); hub.KindOf(err) != hub.Invalid {
			t.Errorf("%q to %s: %v", c.asked, c.path, err)
		}
	}
	for _, c := range []struct{ asked, path, want string }{{"", "-", ""}, {"zstd", "-", "zstd"}, {"none", "a.rar", "none"}} {
		if got, err := packingOf(c.asked, c.path); got != c.want || err != nil {
			t.Errorf("%q to %s: %q, %v", c.asked, c.path, got, err)
		}
	}
	for name, text := range map[string]string{"nothing": "", "the beginning of gzip": "\x1f\x8b\x08", "no gzip": "\x1f\x8brubbish rubbish rubbish"} {
		if _, _, err := openArchive("-", strings.NewReader(text)); hub.KindOf(err) != hub.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := openArchive(filepath.Join(t.TempDir(), "none"), nil); hub.KindOf(err) != hub.Invalid || !strings.Contains(err.Error(), "there is no file") {
		t.Errorf("no file: %v", err)
	}
}

func TestSizesAreReadable(t *testing.T) {
	for n, want := range map[int64]string{-1: "-", 0: "0", 1023: "1023", 1024: "1.0KiB", 1536: "1.5KiB", 2 << 30: "2.0GiB", 5000 << 40: "5000.0TiB"} {
		if got := size(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}
