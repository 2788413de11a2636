// Package statics keeps the static files of container images on disk, for a proxy to serve in place
// of the servers that run from those images.
//
// It owns the form on disk, what of an image's archive is taken, and how a file is compressed, typed
// and found again. It refuses to know where archives come from and what a request is. Images are of
// anybody's making: their archives are taken for hostile.
//
// A directory holds one directory for each image, named by the image's id. It appears by a rename,
// whole, and is never changed: who reads it, under whatever user id, needs no lock.
package statics

import (
	"path"
	"strings"
)

// format is the number of this form; a directory of another is not read.
const format = 1

const indexName = "index.json"

// File is one static file. Its bytes are in a file named by their hash.
type File struct {
	Hash   string `json:"hash"` // SHA-256 of the file as it is in the image, in hex
	Type   string `json:"type"` // media type
	Size   int64  `json:"size"`
	Gzip   int64  `json:"gzip,omitempty"`   // size compressed so; 0 where that would save nothing
	Brotli int64  `json:"brotli,omitempty"` // likewise
}

// index is what an image's directory holds: files by their path below a server's base URL.
type index struct {
	Format int             `json:"format"`
	Image  string          `json:"image"`
	Files  map[string]File `json:"files"`
}

// The codings that files are kept in, by their names in HTTP (RFC 9110, section 8.4.1; RFC 7932).
const (
	Identity = ""
	Gzip     = "gzip"
	Brotli   = "br"
)

// size is that of a coding; 0 where the file is not kept in it.
func (f File) size(coding string) int64 {
	switch coding {
	case Gzip:
		return f.Gzip
	case Brotli:
		return f.Brotli
	}
	return f.Size
}

// Has tells whether the file is kept in a coding.
func (f File) Has(coding string) bool { return f.size(coding) > 0 }

// blob is the name of the bytes in a coding.
func blob(hash, coding string) string {
	if coding == Identity {
		return hash
	}
	return hash + "." + coding
}

const hashDigits = 64

func isHash(s string) bool {
	return len(s) == hashDigits && strings.Trim(s, "0123456789abcdef") == ""
}

// dirOf is the name of an image's directory; only ids by content have one.
func dirOf(image string) (string, bool) {
	hash, ok := strings.CutPrefix(image, "sha256:")
	return hash, ok && isHash(hash)
}

const fewestDigits, mostDigits = 16, 64

// namedByContent tells whether a path's last part holds a hash of the content, as in
// "main.5cbb9d2323598fbda535.js" or "4c1d8f0e0d3c4b5a6978.woff2". Such names are webpack's, which
// JupyterLab and its extensions are built with: other content has another name, in whatever version,
// home or image it is. Of a file with a plain name nobody can say that.
func namedByContent(name string) bool {
	parts := strings.Split(path.Base(name), ".")
	for _, part := range parts[:len(parts)-1] {
		if len(part) >= fewestDigits && len(part) <= mostDigits && strings.Trim(part, "0123456789abcdef") == "" {
			return true
		}
	}
	return false
}

// kind is what a file's extension says.
type kind struct {
	media string
	dense bool // it is compressed already
}

// kinds are what JupyterLab loads; no page is among them, since pages are for servers to make.
var kinds = map[string]kind{
	".js": {media: "text/javascript; charset=utf-8"}, ".mjs": {media: "text/javascript; charset=utf-8"},
	".css": {media: "text/css; charset=utf-8"}, ".json": {media: "application/json"}, ".map": {media: "application/json"},
	".txt": {media: "text/plain; charset=utf-8"}, ".wasm": {media: "application/wasm"}, ".svg": {media: "image/svg+xml"},
	".ttf": {media: "font/ttf"}, ".otf": {media: "font/otf"}, ".eot": {media: "application/vnd.ms-fontobject"},
	".woff": {media: "font/woff", dense: true}, ".woff2": {media: "font/woff2", dense: true},
	".png": {media: "image/png", dense: true}, ".gif": {media: "image/gif", dense: true}, ".jpg": {media: "image/jpeg", dense: true},
	".jpeg": {media: "image/jpeg", dense: true}, ".webp": {media: "image/webp", dense: true}, ".ico": {media: "image/x-icon"},
}
