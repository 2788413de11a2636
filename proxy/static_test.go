package proxy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/andybalholm/brotli"

	"carrel/hub"
	"carrel/internal/statics"
)

const (
	oneImage   = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	otherImage = "sha256:2222222222222222222222222222222222222222222222222222222222222222"

	script = "static/lab/main.0123456789abcdef0123.js"
)

// scriptOf is the script's text in an image.
func scriptOf(image string) string { return strings.Repeat("// of "+image[:10]+"\n", 200) }

// keepStatics makes the static files of an image, as the hub does.
func keepStatics(t testing.TB, dir, image string) {
	t.Helper()
	var archive bytes.Buffer
	tw := tar.NewWriter(&archive)
	for name, text := range map[string]string{"main.0123456789abcdef0123.js": scriptOf(image), "0123456789abcdef4567.svg": "<svg/>"} {
		must(t, tw.WriteHeader(&tar.Header{Name: "static/" + name, Typeflag: tar.TypeReg, Size: int64(len(text))}))
		_, err := io.WriteString(tw, text)
		must(t, err)
	}
	must(t, tw.Close())
	b, err := statics.NewBuilder(dir, image)
	must(t, err)
	must(t, b.Add(t.Context(), "static/lab/", &archive))
	_, err = b.Finish()
	must(t, err)
}

// guest is a person's server that answers every request with a text of its own.
type guest struct {
	key   hub.ServerKey
	files string // what it says of its static files
	asked atomic.Int64
}

func (g *guest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, "/lab") {
		g.asked.Add(1)
	}
	w.Header().Set("Content-Type", "text/javascript")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("Etag", `"guest"`)
	if g.files != "" {
		w.Header().Set(filesHeader, g.files)
	}
	io.WriteString(w, "the guest's")
}

// guest starts a server that runs from an image, and has it answer once.
func (w *world) guest(p *person, image, files string) *guest {
	w.t.Helper()
	g := &guest{key: serverKey(w.t, p.user.Name.String(), ""), files: files}
	s := httptest.NewServer(g)
	w.t.Cleanup(s.Close)
	r := hubRoute(g.key, endpoint(w.t, s.URL))
	r.Image = image
	must(w.t, w.store.PutRoute(w.t.Context(), r))
	w.until("the proxy knows the route", func() bool { x := w.proxy.routes.get(g.key); return x != nil && x.Route == r })
	if got := w.get(w.url(p.user.Name.String(), "lab"), w.as(p), navigation); got.status != http.StatusOK {
		w.t.Fatalf("the page: %d %s", got.status, got.body)
	}
	return g
}

// unpacked is a body without its coding.
func unpacked(t *testing.T, got reply) string {
	t.Helper()
	var r io.Reader = strings.NewReader(got.body)
	switch got.header.Get("Content-Encoding") {
	case "gzip":
		zr, err := gzip.NewReader(r)
		must(t, err)
		r = zr
	case "br":
		r = brotli.NewReader(r)
	}
	b, err := io.ReadAll(r)
	must(t, err)
	return string(b)
}

func TestStaticFiles(t *testing.T) {
	dir := t.TempDir()
	keepStatics(t, dir, oneImage)
	w := newWorld(t, setup{statics: dir})
	alice := w.person("alice")
	g := w.guest(alice, oneImage, "")
	accept := func(codings string) option { return header("Accept-Encoding", codings) }
	etags := map[string]string{} // by coding
	for _, c := range []struct {
		name, coding string
		opts         []option
	}{
		{"a browser on HTTPS", "br", []option{accept("gzip, deflate, br, zstd")}},
		{"a browser on HTTP", "gzip", []option{accept("gzip, deflate")}},
		{"one that refuses brotli", "gzip", []option{accept("br;q=0, gzip;q=0.5")}},
		{"a program", "", nil},
		{"one that takes nothing known", "", []option{accept("zstd, xz")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := w.get(w.url("alice", script)+"?v=0123456789abcdef0123", append(c.opts, w.as(alice))...)
			if got.status != http.StatusOK || got.header.Get("Content-Encoding") != c.coding || unpacked(t, got) != scriptOf(oneImage) {
				t.Fatalf("got %d in %q: %.100q", got.status, got.header.Get("Content-Encoding"), got.body)
			}
			if n := got.header.Get("Content-Length"); n != strconv.Itoa(len(got.body)) {
				t.Errorf("Content-Length %s of %d bytes", n, len(got.body))
			}
			for name, want := range map[string]string{
				"Cache-Control": "private, max-age=31536000, immutable", "Vary": "Accept-Encoding", "Content-Type": "text/javascript; charset=utf-8",
				"X-Content-Type-Options": "nosniff", "Set-Cookie": "", "Last-Modified": "",
			} {
				if got.header.Get(name) != want {
					t.Errorf("%s is %q, want %q", name, got.header.Get(name), want)
				}
			}
			etag := got.header.Get("Etag")
			for coding, seen := range etags {
				if (seen == etag) != (coding == c.coding) {
					t.Errorf("the coding %q has the tag %s, %q has %s", c.coding, etag, coding, seen)
				}
			}
			etags[c.coding] = etag
			got = w.get(w.url("alice", script), append(c.opts, w.as(alice), header("If-None-Match", `"x", `+etag))...)
			if got.status != http.StatusNotModified || got.body != "" || got.header.Get("Etag") != etag || got.header.Get("Vary") == "" {
				t.Errorf("asked again: %d %v %.50q", got.status, got.header, got.body)
			}
		})
	}
	whole := scriptOf(oneImage)
	if got := w.send("HEAD", w.url("alice", script), "", w.as(alice)); got.status != http.StatusOK || got.header.Get("Content-Length") != strconv.Itoa(len(whole)) {
		t.Errorf("HEAD: %d %v", got.status, got.header)
	}
	if got := w.get(w.url("alice", script), w.as(alice), header("Range", "bytes=5-14")); got.status != http.StatusPartialContent || got.body != whole[5:15] {
		t.Errorf("a range: %d %q", got.status, got.body)
	}
	if got := w.get(w.url("alice", script), w.as(alice), header("Range", "bytes=99999999-")); got.status != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("no range: %d %q", got.status, got.body)
	}
	if got := w.get(w.url("alice", script), w.as(alice), accept("gzip"), header("If-Match", `"other"`)); got.status != http.StatusPreconditionFailed {
		t.Errorf("another's tag: %d %q", got.status, got.body)
	}
	if got := w.get(w.url("alice", "static/lab/0123456789abcdef4567.svg"), w.as(alice)); got.body != "<svg/>" || !strings.HasPrefix(got.header.Get("Content-Security-Policy"), "sandbox") {
		t.Errorf("a picture that can hold scripts: %v", got.header)
	}
	if n := g.asked.Load(); n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
	if n := w.proxy.statics.requests.Load(); n < 10 {
		t.Errorf("%d requests are counted", n)
	}
	if !strings.Contains(w.log.String(), `"from_image":true`) {
		t.Error("the log does not tell what was served from the image")
	}
}

// What a server answers is its own person's alone, each image has its own files, and a server that
// says so serves its own.
func TestStaticFilesAreNotPoisoned(t *testing.T) {
	dir := t.TempDir()
	keepStatics(t, dir, oneImage)
	keepStatics(t, dir, otherImage)
	w := newWorld(t, setup{statics: dir})
	mallory, alice, bob, carol := w.person("mallory"), w.person("alice"), w.person("bob"), w.person("carol")
	w.guest(mallory, oneImage, "own")
	w.guest(alice, oneImage, "")
	w.guest(bob, otherImage, "")
	w.guest(carol, "", "")
	for range 2 {
		for p, want := range map[*person]string{mallory: "the guest's", alice: scriptOf(oneImage), bob: scriptOf(otherImage), carol: "the guest's"} {
			name := p.user.Name.String()
			if got := w.get(w.url(name, script), w.as(p)); got.status != http.StatusOK || got.body != want {
				t.Errorf("%s got %d %.40q, want %.40q", name, got.status, got.body, want)
			}
		}
	}
}

// Nobody gets static files of a server who may not open it, and only plain requests for files that
// the index names are answered here.
func TestStaticFilesAreGuarded(t *testing.T) {
	dir := t.TempDir()
	keepStatics(t, dir, oneImage)
	w := newWorld(t, setup{statics: dir})
	alice, bob := w.person("alice"), w.personOn("bob", "alice")
	g := w.guest(alice, oneImage, "")
	for name, c := range map[string]struct {
		opts []option
		want int
	}{
		"nobody":              {nil, http.StatusUnauthorized},
		"nobody, a person":    {[]option{navigation}, http.StatusFound},
		"another":             {[]option{w.as(bob)}, http.StatusForbidden},
		"a page of another's": {[]option{w.as(alice), header("Sec-Fetch-Site", "same-site")}, http.StatusForbidden},
	} {
		if got := w.get(w.url("alice", script), c.opts...); got.status != c.want || strings.Contains(got.body, "// of") {
			t.Errorf("%s: %d %.60q, want %d", name, got.status, got.body, c.want)
		}
	}
	if n := g.asked.Load(); n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
	host := strings.TrimPrefix(w.origins.ServerOrigin(g.key.User), "https://")
	for _, c := range []struct{ method, target, want string }{
		{"GET", "/user/alice/" + script, "// of"},
		{"GET", "/user/alice/static/lab/../lab/main.0123456789abcdef0123.js", "400"},
		{"GET", "/user/alice/static/lab/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "400"},
		{"GET", "/user/alice/static/lab/..%2f..%2f..%2fetc%2fpasswd", "400"},
		{"GET", "/user/alice/static/lab/....//....//etc/passwd", "the guest's"},
		{"GET", "/user/alice/static/lab//etc/passwd", "the guest's"},
		{"GET", "/user/alice/static/lab/index.json", "the guest's"},
		{"GET", "/user/alice/static/lab/", "the guest's"},
		{"GET", "/user/alice/static/lab%2fmain.0123456789abcdef0123.js", "the guest's"},
		{"GET", "/user/alice/static/lab/main%2e0123456789abcdef0123.js", "the guest's"},
		{"GET", "/user/alice/static//lab/main.0123456789abcdef0123.js", "the guest's"},
		{"GET", "/user/alice/files/static/lab/main.0123456789abcdef0123.js", "the guest's"},
		{"POST", "/user/alice/" + script, "the guest's"},
		{"OPTIONS", "/user/alice/" + script, "the guest's"},
	} {
		got := w.raw(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nCookie: %s=%s\r\nOrigin: https://%s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
			c.method, c.target, host, w.cookieName(), alice.cookie.Reveal(), host))
		if !strings.Contains(got, c.want) || c.want != "// of" && strings.Contains(got, "// of") {
			t.Errorf("%s %s: %.300q, want %q", c.method, c.target, got, c.want)
		}
	}
}

// Files that come later are found, those that go are asked of the server, and until a server has said
// whose its files are they are its own.
func TestStaticFilesComeAndGo(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, setup{statics: dir})
	alice := w.person("alice")
	g := w.guest(alice, oneImage, "")
	from := func() string {
		t.Helper()
		got := w.get(w.url("alice", script), w.as(alice))
		if got.status != http.StatusOK {
			t.Fatalf("got %d %.60q", got.status, got.body)
		}
		return got.body
	}
	if got := from(); got != "the guest's" {
		t.Errorf("with no files kept: %.40q", got)
	}
	keepStatics(t, dir, oneImage)
	w.until("the files are found", func() bool { return from() == scriptOf(oneImage) })
	must(t, statics.Remove(dir, oneImage))
	if got := from(); got != "the guest's" {
		t.Errorf("with the files gone: %.40q", got)
	}
	keepStatics(t, dir, oneImage)
	w.until("the files are found again", func() bool { return from() == scriptOf(oneImage) })

	rt := w.proxy.routes.get(g.key)
	rt.files.Store(filesUnheard) // as after the proxy's own start
	if got := from(); got != "the guest's" {
		t.Errorf("before the server was heard: %.40q", got)
	}
	if got := from(); got != scriptOf(oneImage) {
		t.Errorf("after it was heard: %.40q", got)
	}
	g.files = "own"
	if got := w.get(w.url("alice", "api/status"), w.as(alice)); got.header.Get(filesHeader) != "" {
		t.Error("the header left the proxy")
	}
	g.files = ""
	w.get(w.url("alice", "api/status"), w.as(alice))
	if got := from(); got != "the guest's" {
		t.Errorf("after it said that they are its own: %.40q", got)
	}
}

// The directories of images that nobody runs any more are let go of.
func TestStaticSetsAreClosed(t *testing.T) {
	dir := t.TempDir()
	keepStatics(t, dir, oneImage)
	keepStatics(t, dir, otherImage)
	s := staticSets{dir: dir}
	first := s.of(oneImage, func() map[string]bool { return map[string]bool{oneImage: true} })
	if first == nil || s.of(oneImage, nil) != first {
		t.Fatal("the image was opened twice, or not")
	}
	second := s.of(otherImage, func() map[string]bool { return map[string]bool{otherImage: true} })
	f, _ := first.Find(script)
	if _, _, err := first.Open(f, statics.Identity); second == nil || err == nil {
		t.Errorf("the first is still open: %v", err)
	}
	s.forget(otherImage, first) // an old one: another looked already
	if s.of(otherImage, nil) != second {
		t.Error("a set in use was forgotten")
	}
}

func BenchmarkStaticFile(b *testing.B) {
	dir := b.TempDir()
	keepStatics(b, dir, oneImage)
	w := newWorld(b, setup{statics: dir})
	alice := w.person("alice")
	w.guest(alice, oneImage, "")
	tr := w.transport()
	for b.Loop() {
		res, err := tr.RoundTrip(w.request("GET", w.url("alice", script), "", w.as(alice), header("Accept-Encoding", "gzip")).WithContext(context.Background()))
		must(b, err)
		_, err = io.Copy(io.Discard, res.Body)
		must(b, err)
		res.Body.Close()
	}
}
