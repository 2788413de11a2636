package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"

	"carrel/hub"
	"carrel/static"
)

// asset is a static file under an address that carries the hash of all of them: scripts import
// each other by relative addresses, so that they must change together.
type asset struct {
	url    string
	kind   string
	body   []byte
	zipped []byte
}

var assetKinds = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

// loadAssets reads the files and gives them addresses below prefix.
func loadAssets(prefix string) (map[string]asset, error) {
	names, err := fs.Glob(static.Files, "*.*")
	if err != nil {
		return nil, hub.Wrap(hub.Internal, "list static files", err)
	}
	sum, assets := sha256.New(), map[string]asset{}
	for _, name := range names {
		body, err := static.Files.ReadFile(name)
		if err != nil {
			return nil, hub.Wrap(hub.Internal, "read static file", err)
		}
		var zipped bytes.Buffer
		z := gzip.NewWriter(&zipped)
		_, err = z.Write(body)
		if err == nil {
			err = z.Close()
		}
		if err != nil {
			return nil, hub.Wrap(hub.Internal, "compress static file", err)
		}
		sum.Write([]byte(name + "\x00" + strconv.Itoa(len(body)) + "\x00"))
		sum.Write(body)
		assets[name] = asset{kind: assetKinds[path.Ext(name)], body: body, zipped: zipped.Bytes()}
	}
	hash := hex.EncodeToString(sum.Sum(nil)[:8])
	for name, a := range assets {
		a.url = prefix + hash + "/" + name
		assets[name] = a
	}
	return assets, nil
}

// static serves a file for good: its address changes with it. An address of another version is
// none of ours, so that a cache never keeps one file under the other's name.
func (w *Web) static(rw http.ResponseWriter, r *http.Request) error {
	a, ok := w.assets[r.PathValue("name")]
	if !ok || !strings.HasSuffix(a.url, "/"+r.PathValue("hash")+"/"+r.PathValue("name")) {
		return &hub.Error{Kind: hub.NotFound, Op: "find static file", Message: "there is no such file", Remedy: "load the page again"}
	}
	h := rw.Header()
	h.Set("Content-Type", a.kind)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Vary", "Accept-Encoding")
	body := a.body
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		body = a.zipped
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, err := rw.Write(body)
	return hub.Wrap(hub.Canceled, "send file", err)
}
