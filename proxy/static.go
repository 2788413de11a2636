package proxy

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"carrel/internal/statics"
)

// JupyterLab's own files are most of what a page loads, and the same for everybody who runs the same
// image. They are served from the image's copy, which the hub made, by the id of the image that the
// route tells of; never from anything that a server answered. Of a server that says that its files
// are not the image's, nothing is served here.

// staticSets are the images' files, opened when first asked for.
type staticSets struct {
	dir string // "": there are none
	now atomic.Pointer[map[string]staticSet]
	mu  sync.Mutex // who looks at the disk

	requests atomic.Int64 // served from here
	bytes    atomic.Int64 // of their bodies
}

// staticSet is one image's, or that it has none at a time.
type staticSet struct {
	*statics.Set
	missed time.Time
}

// lookAgain is how long an image whose files are not there yet is taken to have none.
const lookAgain = 2 * time.Second

func (s *staticSets) all() map[string]staticSet {
	if m := s.now.Load(); m != nil {
		return *m
	}
	return nil
}

// of gives an image's files, or nil. Nobody waits for a disk that another looks at.
func (s *staticSets) of(image string, wanted func() map[string]bool) *statics.Set {
	if s.dir == "" || image == "" {
		return nil
	}
	known, seen := s.all()[image]
	if seen && (known.Set != nil || time.Since(known.missed) < lookAgain) || !s.mu.TryLock() {
		return known.Set
	}
	defer s.mu.Unlock()
	set, err := statics.Open(s.dir, image)
	if err != nil {
		set = nil
	}
	s.put(image, set, wanted())
	return set
}

// put notes an image's files, and lets go of those of images that nobody runs; s.mu is held.
func (s *staticSets) put(image string, set *statics.Set, wanted map[string]bool) {
	next := map[string]staticSet{image: {set, time.Now()}}
	for other, known := range s.all() {
		switch {
		case other == image:
		case wanted[other]:
			next[other] = known
		case known.Set != nil:
			known.Close() // who opens a file of it just now gets an error, and asks the server
		}
	}
	s.now.Store(&next)
}

// forget has an image's files looked for again: what was opened is not there any more.
func (s *staticSets) forget(image string, set *statics.Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.all()[image]; known.Set != set {
		return
	}
	next := map[string]staticSet{image: {nil, time.Now()}}
	for other, known := range s.all() {
		if other != image {
			next[other] = known
		}
	}
	s.now.Store(&next)
	set.Close() // likewise
}

// Whether a server's static files are those of its image.
const (
	filesUnheard = iota // it has not answered yet
	filesOfImage
	filesOwn
)

// filesHeader is by which a server says in every answer that its files are not all the image's, with
// "own". It is the server's word on its own pages: all that it can bring about is to be asked itself.
const filesHeader = "X-Carrel-Static"

// hear notes what a server's answer says of its files; once they are its own they stay so.
func (r *route) hear(h http.Header) {
	was := r.files.Load()
	is := int32(filesOfImage)
	if h.Get(filesHeader) == "own" {
		is = filesOwn
	}
	if was != filesOwn && was != is {
		r.files.CompareAndSwap(was, is)
	}
}

// serveStatic answers a request for one of the image's static files; false leaves it to the server,
// and nothing was answered. Whoever comes here was let through to the server.
func (p *Proxy) serveStatic(w http.ResponseWriter, r *http.Request, rt *route, rest string) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || r.URL.RawPath != "" || rt.files.Load() != filesOfImage {
		return false
	}
	if !strings.HasPrefix(rest, "static/") && !strings.HasPrefix(rest, "lab/extensions/") {
		return false
	}
	set := p.statics.of(rt.Image, p.imagesInUse)
	if set == nil {
		return false
	}
	f, found := set.Find(rest)
	if !found {
		return false
	}
	coding := codingFor(r, f)
	file, size, err := set.Open(f, coding)
	if err != nil {
		p.statics.forget(rt.Image, set)
		return false
	}
	defer file.Close() // only read
	staticHeader(w.Header(), f, coding, size)
	rec, recorded := w.(*recorder)
	before := int64(0)
	if recorded {
		before, rec.fromImage = rec.bytes, true
	}
	http.ServeContent(w, r, "", time.Time{}, file)
	p.statics.requests.Add(1)
	if recorded {
		p.statics.bytes.Add(rec.bytes - before)
	}
	return true
}

// codingFor chooses what the file is sent in (RFC 9110, section 12.5.3): the smallest that the client takes.
func codingFor(r *http.Request, f statics.File) string {
	if r.Header.Get("If-Match") != "" || r.Header.Get("If-Unmodified-Since") != "" {
		return statics.Identity // net/http answers 412 with the length that was set for the coding
	}
	for _, coding := range []string{statics.Brotli, statics.Gzip} {
		if f.Has(coding) && takes(r, coding) {
			return coding
		}
	}
	return statics.Identity
}

// etagDigits of the hash make 128 bits.
const etagDigits = 32

// staticHeader says what the file is. Names hold a hash of the content, so that no browser need ask
// again; shared caches, which know nothing of who may see a server, keep nothing.
func staticHeader(h http.Header, f statics.File, coding string, size int64) {
	etag := f.Hash[:etagDigits]
	if coding != statics.Identity {
		etag += "-" + coding // each coding is a representation of its own (RFC 9110, section 8.8.3.3)
		h.Set("Content-Encoding", coding)
		h.Set("Content-Length", strconv.FormatInt(size, 10))
	}
	h.Set("ETag", `"`+etag+`"`)
	h.Set("Vary", "Accept-Encoding")
	h.Set("Cache-Control", "private, max-age=31536000, immutable")
	h.Set("Content-Type", f.Type)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if f.Type == "image/svg+xml" { // opened by itself it is a page
		h.Set("Content-Security-Policy", "sandbox; default-src 'none'; style-src 'unsafe-inline'")
	}
}

// imagesInUse are those that servers run from.
func (p *Proxy) imagesInUse() map[string]bool {
	images := map[string]bool{}
	for _, rt := range p.routes.all() {
		images[rt.Image] = true
	}
	return images
}
