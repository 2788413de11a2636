package proxy

import (
	"crypto/sha256"
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
// seen, and writes its layout down, as it mostly is already. Of a paused server none of that changes: it
// is answered from the last answer, and the server sleeps on. What one person was answered is never
// shown to another.

const (
	maxCopies = 64 << 10 // bytes kept of a server for each person
	maxOwners = 4        // people whose copies are kept of a server
	// freshness is how long before the pause a copy may be made. Who comes back to a tab that was not
	// seen for longer is a person, and the server wakes for them.
	freshness = time.Minute

	layouts = "lab/api/workspaces" // below a server's path
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
	sum    [sha256.Size]byte // of what was written
	status int
	header http.Header
	body   []byte
	at     time.Time
}

// tabPoll is a request that an open tab makes by itself; the zero one is any other request.
type tabPoll struct {
	name   string            // alike for each of its kind
	layout []byte            // that it writes; nil: none
	sum    [sha256.Size]byte // of that
	began  time.Time
}

// readPoll tells what poll a request is. Of a layout the body is read.
func readPoll(r *http.Request, rest string) (tabPoll, error) {
	q := tabPoll{began: time.Now()}
	switch {
	case r.Header.Get("Range") != "" || isUpgrade(r):
		return tabPoll{}, nil
	case r.Method == http.MethodPut && strings.HasPrefix(rest, layouts+"/") && r.ContentLength > 0 && r.ContentLength <= maxCopies:
		var err error
		if q.layout, err = io.ReadAll(r.Body); err != nil {
			return tabPoll{}, err
		}
		q.sum = sha256.Sum256(q.layout)
	case r.Method != http.MethodGet:
		return tabPoll{}, nil
	case !polls[rest] && rest != "api/kernelspecs" && rest != layouts && rest != "api/contents" && !strings.HasPrefix(rest, "api/contents/"):
		return tabPoll{}, nil
	}
	asked := strings.Split(r.URL.RawQuery, "&")
	asked = slices.DeleteFunc(asked, func(part string) bool { return strings.Trim(part, "0123456789") == "" }) // the time, against caches
	q.name = r.Method + " " + r.URL.EscapedPath() + "?" + strings.Join(asked, "&") + " " + encoding(r)
	return q, nil
}

// answer serves a person's poll of a paused server from the last answer; false: there is none that counts.
func (c *copies) answer(w http.ResponseWriter, who caller, q tabPoll, used time.Time, share func(http.Header)) bool {
	page, ok := c.find(copyOwner{who.User, who.UserID}, q.name)
	if !ok || page.sum != q.sum || page.at.Before(used) || page.at.Before(time.Unix(0, c.since.Load()).Add(-freshness)) {
		return false
	}
	maps.Copy(w.Header(), page.header)
	share(w.Header())
	w.WriteHeader(page.status)
	if len(page.body) > 0 {
		_, _ = w.Write(page.body) // the reader may be gone
	}
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

// keep has the answer to a person's poll kept once it was read whole.
func (c *copies) keep(res *http.Response, who caller, q tabPoll) {
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusNoContent || res.ContentLength > maxCopies {
		return
	}
	page := keptPage{sum: q.sum, status: res.StatusCode, at: q.began}
	header := res.Header.Clone()
	for _, own := range []string{"Set-Cookie", "Date", "Content-Length", "Trailer"} {
		header.Del(own)
	}
	page.header = header
	owner := copyOwner{who.User, who.UserID}
	res.Body = &overheard{ReadCloser: res.Body, whole: func(body []byte) {
		page.body = body
		c.put(owner, q.name, page)
	}}
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
