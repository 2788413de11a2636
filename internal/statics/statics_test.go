package statics

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
)

const (
	image = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	other = "sha256:fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
)

// entry is one of a tar; without a kind it is a file.
type entry struct {
	name, content string
	kind          byte
	link          string
}

func archive(t *testing.T, entries ...entry) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		head := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: 0o4777, Size: int64(len(e.content))}
		if e.kind == 0 {
			head.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(head); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// build makes an image's files of one archive.
func build(t *testing.T, dir, image string, entries ...entry) {
	t.Helper()
	b, err := NewBuilder(dir, image)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Add(t.Context(), "static/lab/", archive(t, entries...)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Finish(); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dir, image string) *Set {
	t.Helper()
	s, err := Open(dir, image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// content reads a file in a coding and decodes it.
func content(t *testing.T, s *Set, path, coding string) string {
	t.Helper()
	f, found := s.Find(path)
	if !found || !f.Has(coding) {
		t.Fatalf("%s is not there in the coding %q: %+v", path, coding, f)
	}
	file, size, err := s.Open(f, coding)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	raw, err := io.ReadAll(file)
	if err != nil || int64(len(raw)) != size {
		t.Fatalf("%s: %d bytes of %d, %v", path, len(raw), size, err)
	}
	var r io.Reader = bytes.NewReader(raw)
	switch coding {
	case Gzip:
		if r, err = gzip.NewReader(r); err != nil {
			t.Fatal(err)
		}
	case Brotli:
		r = brotli.NewReader(r)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const hashed = "static/main.0123456789abcdef0123.js"

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	text := strings.Repeat("let x = 1;\n", 1000)
	build(t, dir, image, entry{name: hashed, content: text}, entry{name: "static/0123456789abcdef0123.woff2", content: text})
	s := open(t, dir, image)
	for _, coding := range []string{Identity, Gzip, Brotli} {
		if got := content(t, s, "static/lab/main.0123456789abcdef0123.js", coding); got != text {
			t.Errorf("coding %q gives %d bytes, want %d", coding, len(got), len(text))
		}
	}
	if f, _ := s.Find("static/lab/main.0123456789abcdef0123.js"); f.Type != "text/javascript; charset=utf-8" || f.Gzip >= f.Size/10 || f.Brotli >= f.Size/10 {
		t.Errorf("the script is %+v", f)
	}
	if f, _ := s.Find("static/lab/0123456789abcdef0123.woff2"); f.Has(Gzip) || f.Has(Brotli) || f.Type != "font/woff2" {
		t.Errorf("what is compressed already is %+v", f)
	}
	if list, err := Images(dir); err != nil || !slices.Equal(list, []string{image}) {
		t.Errorf("images %v, %v", list, err)
	}
	if err := Remove(dir, image); err != nil {
		t.Error(err)
	}
	f, _ := s.Find("static/lab/main.0123456789abcdef0123.js")
	if _, _, err := s.Open(f, Identity); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file of an image that was removed: %v", err)
	}
	if _, err := Open(dir, image); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an image that was removed: %v", err)
	}
}

// The proxy reads with another user's rights, whatever the hub's umask is.
func TestReadableByOthers(t *testing.T) {
	dir := t.TempDir()
	build(t, dir, image, entry{name: hashed, content: "x"})
	name, _ := dirOf(image)
	err := filepath.WalkDir(filepath.Join(dir, name), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if want := map[bool]fs.FileMode{true: 0o755, false: 0o644}[e.IsDir()]; err == nil && info.Mode().Perm() != want {
			t.Errorf("%s has the mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Nothing of a hostile archive gets anywhere but into files named by their hash.
func TestHostileArchive(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("d/", 300)
	build(t, dir, image,
		entry{name: "static/", kind: tar.TypeDir},
		entry{name: "static/../../evil.0123456789abcdef0123.js", content: "x"},
		entry{name: "static/a/../evil.0123456789abcdef0123.js", content: "x"},
		entry{name: "static//evil.0123456789abcdef0123.js", content: "x"},
		entry{name: "static/./evil.0123456789abcdef0123.js", content: "x"},
		entry{name: "/etc/evil.0123456789abcdef0123.js", content: "x"}, // "etc" is below the prefix
		entry{name: `static/a\evil.0123456789abcdef0123.js`, content: "x"},
		entry{name: "static/%2e%2e/evil.0123456789abcdef0123.js", content: "x"},
		entry{name: "static/a?b.0123456789abcdef0123.js", content: "x"},
		entry{name: "static/a b.0123456789abcdef0123.js", content: "x"},
		entry{name: "static/é.0123456789abcdef0123.js", content: "x"},
		entry{name: "static/" + long + "a.0123456789abcdef0123.js", content: "x"},
		entry{name: "static/link.0123456789abcdef0123.js", kind: tar.TypeSymlink, link: "/etc/shadow"},
		entry{name: "static/hard.0123456789abcdef0123.js", kind: tar.TypeLink, link: "/etc/shadow"},
		entry{name: "static/pipe.0123456789abcdef0123.js", kind: tar.TypeFifo},
		entry{name: "static/disk.0123456789abcdef0123.js", kind: tar.TypeBlock},
		entry{name: "static/tty.0123456789abcdef0123.js", kind: tar.TypeChar},
		entry{name: "static/empty.0123456789abcdef0123.js"},
		entry{name: "static/page.0123456789abcdef0123.html", content: "x"},
		entry{name: "static/plain.js", content: "x"},
		entry{name: "static/short.0123456789abcde.js", content: "x"},
		entry{name: "static/0123456789abcdef0123.d/plain.js", content: "x"},
		entry{name: hashed, content: "first"},
		entry{name: hashed, content: "second"},
	)
	s := open(t, dir, image)
	var got []string
	for path := range s.files {
		got = append(got, path)
	}
	slices.Sort(got)
	if want := []string{"static/lab/etc/evil.0123456789abcdef0123.js", "static/lab/main.0123456789abcdef0123.js"}; !slices.Equal(got, want) {
		t.Errorf("taken are %q, want %q", got, want)
	}
	if text := content(t, s, "static/lab/main.0123456789abcdef0123.js", Identity); text != "first" {
		t.Errorf("of two files with one name %q was taken", text)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "*evil*"))
	if err != nil || len(left) > 0 {
		t.Errorf("beside the directory there are %v, %v", left, err)
	}
	for _, e := range must(os.ReadDir(filepath.Join(dir, strings.TrimPrefix(image, "sha256:")))) {
		name, _, _ := strings.Cut(e.Name(), ".")
		if !e.Type().IsRegular() || e.Name() != indexName && !isHash(name) {
			t.Errorf("there is %v", e)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// An image can't fill the disk, keep the hub busy for ever, or have it hold much in memory.
func TestTooMuch(t *testing.T) {
	for name, archive := range map[string]io.Reader{
		"entries without end": endless(tar.Header{Name: "static/x", Typeflag: tar.TypeDir}, 0),
		"files without end":   endless(tar.Header{Name: hashed, Typeflag: tar.TypeReg, Size: 1}, 1),
		"a long way to the next entry": func() io.Reader {
			head := tar.Header{Name: "static/huge", Typeflag: tar.TypeReg, Size: 1 << 50}
			return endless(head, 1<<50)
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			b, err := NewBuilder(t.TempDir(), image)
			if err != nil {
				t.Fatal(err)
			}
			b.left = 4 << 20 // as if most had been read
			if err := b.Add(t.Context(), "static/lab/", archive); !errors.Is(err, ErrTooMuch) {
				t.Errorf("the error is %v", err)
			}
		})
	}
	b, err := NewBuilder(t.TempDir(), image)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Add(ctx, "static/lab/", endless(tar.Header{Name: "static/x", Typeflag: tar.TypeDir}, 0)); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context it ends with %v", err)
	}
	b.total = maxTotal
	if err := b.Add(t.Context(), "static/lab/", archive(t, entry{name: hashed, content: "x"})); !errors.Is(err, ErrTooMuch) {
		t.Errorf("one byte more than is kept: %v", err)
	}
	b.total = 0
	for n := range maxFiles {
		b.index.Files[strconv.Itoa(n)] = File{}
	}
	if err := b.Add(t.Context(), "static/lab/", archive(t, entry{name: hashed, content: "x"})); !errors.Is(err, ErrTooMuch) {
		t.Errorf("one file more than are kept: %v", err)
	}
	if err := b.Discard(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(b.tmp); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was discarded is left: %v", err)
	}
}

// endless repeats an entry, whose content is zeros, for ever.
func endless(head tar.Header, size int64) io.Reader {
	r, w := io.Pipe()
	go func() { // ends when the reader is closed, or with the test's process
		tw := tar.NewWriter(w)
		for n := 0; ; n++ {
			h := head
			h.Name = strings.Replace(h.Name, "main", fmt.Sprintf("main%d", n), 1)
			if tw.WriteHeader(&h) != nil {
				return
			}
			if _, err := io.CopyN(tw, zeros{}, size); err != nil {
				return
			}
		}
	}()
	return r
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// What an index says is looked at before it is believed, and images do not mix.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	build(t, dir, image, entry{name: hashed, content: "first"})
	build(t, dir, other, entry{name: hashed, content: "other"})
	for id, want := range map[string]string{image: "first", other: "other"} {
		if got := content(t, open(t, dir, id), "static/lab/main.0123456789abcdef0123.js", Identity); got != want {
			t.Errorf("%s has %q, want %q", id, got, want)
		}
	}
	name, _ := dirOf(image)
	path := filepath.Join(dir, name, indexName)
	good := must(os.ReadFile(path))
	hash := must(filepath.Glob(filepath.Join(dir, name, "[0-9a-f]*")))[0]
	for what, bad := range map[string]string{
		"no JSON":             "{",
		"another form":        strings.Replace(string(good), `"format":1`, `"format":2`, 1),
		"another image":       strings.Replace(string(good), image, other, 1),
		"a way to other file": strings.Replace(string(good), filepath.Base(hash), strings.Repeat("../", 20)+"etc/passwd", 1),
	} {
		if bad == string(good) {
			t.Fatalf("%s: the index is as before", what)
		}
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, image); err == nil {
			t.Errorf("an index with %s was believed", what)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, image)
	if err := os.Truncate(hash, 1); err != nil {
		t.Fatal(err)
	}
	f, _ := s.Find("static/lab/main.0123456789abcdef0123.js")
	if _, _, err := s.Open(f, Identity); err == nil {
		t.Error("a file that was cut was given")
	}
	if err := errors.Join(os.Remove(hash), os.Symlink("/etc/passwd", hash)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Open(f, Identity); err == nil {
		t.Error("a link out of the directory was followed")
	}
	for _, bad := range []string{"", "sha256:", "sha256:../..", "sha256:" + strings.Repeat("A", 64), "carrel/kernel:1", name} {
		if _, err := Open(dir, bad); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open of %q: %v", bad, err)
		}
		if _, err := NewBuilder(dir, bad); err == nil {
			t.Errorf("%q was built", bad)
		}
		if Remove(dir, bad) == nil {
			t.Errorf("%q was removed", bad)
		}
	}
}
