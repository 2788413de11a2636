package statics

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxIndex caps an index, in bytes: of 20,000 files with long names.
const maxIndex = 32 << 20

// Set is the static files of one image, open for reading. Its methods are safe for concurrent use.
type Set struct {
	root  *os.Root
	files map[string]File
}

// Open opens an image's files in dir; the error is [fs.ErrNotExist] where there are none.
func Open(dir, image string) (*Set, error) {
	name, ok := dirOf(image)
	if !ok {
		return nil, fmt.Errorf("%q is no image's id: %w", image, fs.ErrNotExist)
	}
	root, err := os.OpenRoot(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	files, err := readIndex(root, image)
	if err != nil {
		_ = root.Close() // unused
		return nil, err
	}
	return &Set{root, files}, nil
}

func readIndex(root *os.Root, image string) (map[string]File, error) {
	f, err := root.Open(indexName)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	text, err := io.ReadAll(io.LimitReader(f, maxIndex))
	if err != nil {
		return nil, err
	}
	var x index
	if err := json.Unmarshal(text, &x); err != nil {
		return nil, fmt.Errorf("read index of static files: %w", err)
	}
	if x.Format != format || x.Image != image {
		return nil, fmt.Errorf("the index of static files is of form %d and image %q: %w", x.Format, x.Image, fs.ErrNotExist)
	}
	for path, file := range x.Files {
		if !isHash(file.Hash) || file.Type == "" {
			return nil, fmt.Errorf("the index of static files is damaged at %q", path)
		}
	}
	return x.Files, nil
}

// Find looks a path below a server's base URL up, as "static/lab/main.5cbb9d2323598fbda535.js".
func (s *Set) Find(path string) (File, bool) {
	f, ok := s.files[path]
	return f, ok
}

// Open opens a file that Find gave, in a coding that it is kept in, and tells its size. What is not
// as it was written is an error.
func (s *Set) Open(f File, coding string) (*os.File, int64, error) {
	file, err := s.root.Open(blob(f.Hash, coding))
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() != f.size(coding)) {
		err = errors.New("a static file is not as it was written")
	}
	if err != nil {
		file.Close() // unused
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// Close lets go of the directory; files that are open stay so.
func (s *Set) Close() { _ = s.root.Close() } // only read

// Images lists the images whose files are in dir.
func Images(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var images []string
	for _, e := range entries {
		if e.IsDir() && isHash(e.Name()) {
			images = append(images, "sha256:"+e.Name())
		}
	}
	return images, err
}

// Remove removes an image's files; whoever serves them finds them gone.
func Remove(dir, image string) error {
	name, ok := dirOf(image)
	if !ok {
		return fmt.Errorf("%q is no image's id", image)
	}
	return os.RemoveAll(filepath.Join(dir, name))
}
