package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"carrel/hub"
)

// packings are the ways to compress an archive, by the ends of files' names.
var packings = map[string][]string{"none": {".tar"}, "gzip": {".tar.gz", ".tgz"}, "zstd": {".tar.zst", ".tzst"}}

// packingOf is the way that was asked for, or that a file's name tells; for standard output none.
func packingOf(asked, path string) (string, error) {
	if _, known := packings[asked]; asked != "" && !known {
		return "", &hub.Error{Kind: hub.Invalid, Op: "write archive", Field: "--compress", Message: "there is no such compression", Remedy: "use none, gzip or zstd"}
	}
	if asked != "" || path == "-" {
		return asked, nil
	}
	for name, ends := range packings {
		for _, end := range ends {
			if strings.HasSuffix(path, end) {
				return name, nil
			}
		}
	}
	return "", &hub.Error{Kind: hub.Invalid, Op: "write archive", Message: filepath.Base(path) + " does not tell how it is to be compressed", Remedy: "end the name in .tar, .tar.gz or .tar.zst, or use --compress"}
}

// packTo compresses what is written; close ends that, not w.
func packTo(w io.Writer, packing string) (io.WriteCloser, error) {
	switch packing {
	case "gzip":
		return gzip.NewWriter(w), nil
	case "zstd":
		return zstd.NewWriter(w)
	}
	return plainWriter{w}, nil
}

type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }

// unpackFrom finds out by the first bytes how an archive is compressed.
func unpackFrom(r io.Reader) (unpacked io.Reader, done func(), err error) {
	buffered := bufio.NewReader(r)
	first, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, hub.Wrap(hub.Invalid, "read archive", err)
	}
	switch {
	case bytes.HasPrefix(first, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(buffered)
		return z, func() {}, hub.Wrap(hub.Invalid, "read archive", err)
	case bytes.HasPrefix(first, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(buffered, zstd.WithDecoderMaxMemory(512<<20), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, nil, hub.Wrap(hub.Invalid, "read archive", err)
		}
		return z, z.Close, nil
	case len(first) == 0:
		return nil, nil, &hub.Error{Kind: hub.Invalid, Op: "read archive", Message: "the archive is empty", Remedy: "give one that carrel home export or tar has written"}
	}
	return buffered, func() {}, nil
}

// writeArchive has write fill a file that is at its place whole or not at all, for its owner alone; "-" is
// standard output.
func writeArchive(path, packing string, stdout io.Writer, write func(io.Writer) error) error {
	if path == "-" {
		return packInto(stdout, packing, write)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".carrel-export-*")
	if err != nil {
		return &hub.Error{Kind: hub.Invalid, Op: "write archive", Message: "no file can be made in " + filepath.Dir(path), Remedy: "choose another directory", Err: err}
	}
	defer os.Remove(tmp.Name()) // gone once renamed
	err = packInto(tmp, packing, write)
	if err == nil {
		err = hub.Wrap(hub.Unavailable, "write archive", tmp.Sync())
	}
	if cerr := tmp.Close(); err == nil {
		err = hub.Wrap(hub.Unavailable, "write archive", cerr)
	}
	if err == nil {
		err = hub.Wrap(hub.Unavailable, "write archive", os.Rename(tmp.Name(), path))
	}
	return err
}

func packInto(w io.Writer, packing string, write func(io.Writer) error) error {
	buffered := bufio.NewWriterSize(w, 1<<20)
	packed, err := packTo(buffered, packing)
	if err != nil {
		return hub.Wrap(hub.Internal, "write archive", err)
	}
	err = write(packed)
	if cerr := packed.Close(); err == nil {
		err = hub.Wrap(hub.Unavailable, "write archive", cerr)
	}
	if ferr := buffered.Flush(); err == nil {
		err = hub.Wrap(hub.Unavailable, "write archive", ferr)
	}
	return err
}

// openArchive opens a file, or standard input for "-", and takes it out of what it is packed in.
func openArchive(path string, stdin io.Reader) (r io.Reader, done func(), err error) {
	if path == "-" {
		return unpackFrom(stdin)
	}
	f, err := os.Open(path)
	if err != nil {
		message := "the archive can't be read"
		if errors.Is(err, fs.ErrNotExist) {
			message = "there is no file " + path
		}
		return nil, nil, &hub.Error{Kind: hub.Invalid, Op: "read archive", Message: message, Remedy: "check the path", Err: err}
	}
	r, unpacked, err := unpackFrom(f)
	if err != nil {
		f.Close() // unused
		return nil, nil, err
	}
	return r, func() { unpacked(); f.Close() }, nil
}
