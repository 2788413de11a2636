package statics

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/andybalholm/brotli"
	"golang.org/x/sys/unix"
)

// What is taken of one image at most. JupyterLab 4 has 300 files of 17 MB, the largest of 5 MB.
const (
	maxFiles   = 20_000
	maxFile    = 32 << 20  // bytes
	maxTotal   = 512 << 20 // bytes of files, uncompressed
	maxArchive = 4 << 30   // bytes of archives read
	maxEntries = 500_000   // of archives
	maxName    = 512       // bytes
)

// brotliQuality is where more time stops paying: 9 takes four times as long as this for 2 % less.
const brotliQuality = 5

// fewestBytes is what is compressed at least: less fits a packet anyway.
const fewestBytes = 512

// ErrTooMuch is of an image with more than is taken of one.
var ErrTooMuch = errors.New("the image holds more static files than are kept")

// Builder makes the directory of one image. It is used by one goroutine, and one at a time in a
// directory.
type Builder struct {
	final, tmp string
	index      index
	entries    int
	total      int64
	left       int64 // bytes of archives
}

// NewBuilder begins anew with an image in dir; what an earlier builder left unfinished goes.
func NewBuilder(dir, image string) (*Builder, error) {
	name, ok := dirOf(image)
	if !ok {
		return nil, fmt.Errorf("%q is no image's id", image)
	}
	b := &Builder{
		final: filepath.Join(dir, name), tmp: filepath.Join(dir, ".new"), left: maxArchive,
		index: index{Format: format, Image: image, Files: map[string]File{}},
	}
	if err := os.RemoveAll(b.tmp); err != nil {
		return nil, err
	}
	if err := os.Mkdir(b.tmp, 0o700); err != nil {
		return nil, err
	}
	return b, os.Chmod(b.tmp, 0o755) //nolint:gosec // read by the proxy's user, whatever the umask; nothing in it is secret
}

// Add takes the files of a directory of the image, whose archive is given as Docker makes it: the
// directory itself is the first part of each name. They become the paths below prefix, as
// "static/lab/". What is there already stays: the first directory wins. Links, devices, names that
// are no plain paths and files that are not named by their content are left out.
func (b *Builder) Add(ctx context.Context, prefix string, archive io.Reader) error {
	tr := tar.NewReader(&bounded{archive, &b.left})
	for {
		head, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if b.entries++; b.entries > maxEntries {
			return ErrTooMuch
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		_, name, _ := strings.Cut(head.Name, "/")
		if head.Typeflag != tar.TypeReg || !plain(name) || !namedByContent(name) || head.Size <= 0 || head.Size > maxFile {
			continue
		}
		kind, known := kinds[path.Ext(name)]
		if _, have := b.index.Files[prefix+name]; have || !known {
			continue
		}
		if b.total += head.Size; b.total > maxTotal || len(b.index.Files) >= maxFiles {
			return ErrTooMuch
		}
		content, err := io.ReadAll(io.LimitReader(tr, maxFile))
		if err != nil {
			return err
		}
		if b.index.Files[prefix+name], err = b.keep(content, kind); err != nil {
			return err
		}
	}
}

// plain tells whether a name is a path that every parser reads alike.
func plain(name string) bool {
	return len(name) <= maxName && fs.ValidPath(name) && name != "." && strings.IndexFunc(name, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`\%?#;"`, r)
	}) < 0
}

// keep writes a file's bytes in each coding that saves something.
func (b *Builder) keep(content []byte, k kind) (File, error) {
	sum := sha256.Sum256(content)
	f := File{Hash: hex.EncodeToString(sum[:]), Type: k.media, Size: int64(len(content))}
	err := b.write(blob(f.Hash, Identity), content)
	if err != nil || k.dense || len(content) < fewestBytes {
		return f, err
	}
	if f.Gzip, err = b.compressed(f.Hash, Gzip, content); err != nil {
		return f, err
	}
	f.Brotli, err = b.compressed(f.Hash, Brotli, content)
	return f, err
}

func (b *Builder) compressed(hash, coding string, content []byte) (int64, error) {
	var out bytes.Buffer
	var w io.WriteCloser
	if coding == Gzip {
		w, _ = gzip.NewWriterLevel(&out, gzip.BestCompression) // a level that there is
	} else {
		w = brotli.NewWriterLevel(&out, brotliQuality)
	}
	_, err := w.Write(content)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err != nil || out.Len() >= len(content) {
		return 0, err
	}
	return int64(out.Len()), b.write(blob(hash, coding), out.Bytes())
}

func (b *Builder) write(name string, content []byte) error {
	at := filepath.Join(b.tmp, name)
	if err := os.WriteFile(at, content, 0o600); err != nil {
		return err
	}
	return os.Chmod(at, 0o644) //nolint:gosec // read by the proxy's user, whatever the umask
}

// Finish makes the directory appear, with however many files were added, and tells how many. What it
// holds is on disk by then: a power cut leaves all of it or nothing.
func (b *Builder) Finish() (int, error) {
	text, err := json.Marshal(b.index)
	if err == nil {
		err = b.write(indexName, text)
	}
	if err == nil {
		err = syncAll(b.tmp)
	}
	if err == nil {
		err = os.RemoveAll(b.final) // of another format
	}
	if err == nil {
		err = os.Rename(b.tmp, b.final)
	}
	return len(b.index.Files), err
}

// syncAll has everything of a file system written to disk.
func syncAll(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(dir.Fd())) // a descriptor
	if cerr := dir.Close(); err == nil {
		err = cerr
	}
	return err
}

// Discard removes what was made, unless it is finished.
func (b *Builder) Discard() error { return os.RemoveAll(b.tmp) }

// bounded ends an archive that does not end.
type bounded struct {
	r    io.Reader
	left *int64
}

// Read implements [io.Reader].
func (c *bounded) Read(p []byte) (int, error) {
	if *c.left <= 0 {
		return 0, ErrTooMuch
	}
	n, err := c.r.Read(p[:min(int64(len(p)), *c.left)])
	*c.left -= int64(n)
	return n, err
}
