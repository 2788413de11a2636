package proxy

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"carrel/hub"
)

// JupyterLab asks every ten seconds for kernels, sessions, terminals and files, as long as its tab is
// seen. Of a paused server none of that changes: it is answered from the last answer, and the server
// sleeps on. What one person was answered is never shown to another.

const (
	maxCopies = 64 << 10 // bytes kept of a server for each person
	maxOwners = 4        // people whose copies are kept of a server
	// freshness is how long before the pause a copy may be made. Who comes back to a tab that was not
	// seen for longer is a person, and the server wakes for them.
	freshness = time.Minute
)

// copies are a server's answers to polls.
type copies struct {
	since atomic.Int64 // when the present pause was told, in unix nanoseconds
	mu    sync.Mutex
	of    map[copyOwner]*shelf
}

type copyOwner struct {
	user hub.UserName
	id   hub.UserID
}

type shelf struct {
	size  int
	pages map[string]keptPage
}

type keptPage struct {
	header http.Header
	body   []byte
	at     time.Time
}

// pollName names what a request asks for, alike for each poll of its kind; it is empty for what is no poll.
func pollName(r *http.Request, rest string) string {
	if r.Method != http.MethodGet || isUpgrade(r) || r.Header.Get("Range") != "" {
		return ""
	}
	if !polls[rest] && rest != "api/kernelspecs" && rest != "api/contents" && !strings.HasPrefix(rest, "api/contents/") {
		return ""
	}
	asked := strings.Split(r.URL.RawQuery, "&")
	asked = slices.DeleteFunc(asked, func(part string) bool { return strings.Trim(part, "0123456789") == "" }) // the time, against caches
	return r.URL.EscapedPath() + "?" + strings.Join(asked, "&") + " " + encoding(r)
}

// answer serves a person's poll of a paused server from the last answer; false: there is none that counts.
func (c *copies) answer(w http.ResponseWriter, who caller, name string, used time.Time) bool {
	page, ok := c.find(copyOwner{who.User, who.UserID}, name)
	if !ok || page.at.Before(used) || page.at.Before(time.Unix(0, c.since.Load()).Add(-freshness)) {
		return false
	}
	maps.Copy(w.Header(), page.header)
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(page.body) // the reader may be gone
	return true
}

func (c *copies) find(owner copyOwner, name string) (keptPage, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.of[owner]; s != nil {
		page, ok := s.pages[name]
		return page, ok
	}
	return keptPage{}, false
}

// forget drops everything: something is about to change.
func (c *copies) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of = nil
}

// keep has an answer to a person's poll, asked at a time, kept once it was read whole.
func (c *copies) keep(res *http.Response, who caller, name string, asked time.Time) {
	if res.StatusCode != http.StatusOK || res.ContentLength > maxCopies {
		return
	}
	header := res.Header.Clone()
	for _, own := range []string{"Set-Cookie", "Date", "Content-Length", "Trailer"} {
		header.Del(own)
	}
	owner := copyOwner{who.User, who.UserID}
	res.Body = &overheard{ReadCloser: res.Body, whole: func(body []byte) { c.put(owner, name, keptPage{header, body, asked}) }}
}

func (c *copies) put(owner copyOwner, name string, page keptPage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.of[owner]
	if s == nil {
		if c.of == nil || len(c.of) >= maxOwners {
			c.of = map[copyOwner]*shelf{}
		}
		s = &shelf{pages: map[string]keptPage{}}
		c.of[owner] = s
	}
	weight := func(p keptPage) int { return len(p.body) + len(name) }
	if old, ok := s.pages[name]; ok {
		s.size -= weight(old)
		delete(s.pages, name)
	}
	if s.size+weight(page) > maxCopies {
		s.size = 0
		clear(s.pages)
	}
	if weight(page) <= maxCopies {
		s.size += weight(page)
		s.pages[name] = page
	}
}

// overheard is a body that is kept as it is read, and given to whole at its end.
type overheard struct {
	io.ReadCloser

	got   []byte
	over  bool
	whole func([]byte)
}

// Read implements [io.Reader].
func (o *overheard) Read(b []byte) (int, error) {
	n, err := o.ReadCloser.Read(b)
	switch {
	case o.over:
	case len(o.got)+n > maxCopies:
		o.got, o.over = nil, true
	default:
		o.got = append(o.got, b[:n]...)
		if errors.Is(err, io.EOF) {
			o.over = true
			o.whole(o.got)
		}
	}
	return n, err
}
