package proxy

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

const (
	bodyPatience = 30 * time.Second // waited for in all, for each
	bodyStep     = 4 << 10          // bytes
)

// body ends a request whose body comes too slowly: the time spent waiting for each few KiB of it is
// bounded. Time in which the server does not take it is nobody's fault, and does not count.
type body struct {
	io.ReadCloser
	conn    *http.ResponseController
	trailer http.Header // filled when the body ends

	mu     sync.Mutex // the transport reads it in a goroutine of its own
	left   time.Duration
	came   int
	total  uint64      // bytes
	stats  *routeStats // they count there too; nil: nowhere
	ended  bool        // read to its end: the connection's deadline is net/http's again
	closed bool
	err    error
}

// guardBody puts the guard in front of a request's body, if there is one. The deadline that it
// begins with also bounds what net/http reads of a body that no handler wanted. The request is
// another then: net/http looks at its own one's body to see whether "100 Continue" was said.
func guardBody(w *recorder, r *http.Request) *http.Request {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return r
	}
	_ = w.conn.SetReadDeadline(time.Now().Add(bodyPatience)) // not every writer has one
	guarded := *r
	guarded.Body = &body{ReadCloser: r.Body, conn: &w.conn, trailer: r.Trailer, left: bodyPatience}
	return &guarded
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	began := time.Now()
	if !b.await(began) {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left -= time.Since(began)
	b.total += uint64(max(n, 0))
	if b.stats != nil {
		b.stats.received.Add(uint64(max(n, 0)))
	}
	if b.came += n; b.came >= bodyStep {
		b.came, b.left = 0, bodyPatience
	}
	switch {
	case err == nil, b.closed && b.left > 0: // it is not for the time that it took
	case errors.Is(err, io.EOF):
		b.ended = true
		cleanRequestTrailers(b.trailer)
		_ = b.conn.SetReadDeadline(time.Time{}) // the wait for the answer has no deadline
	default:
		b.err = err // the deadline stays: net/http would wait for the rest
	}
	return n, err
}

func (b *body) await(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	_ = b.conn.SetReadDeadline(now.Add(max(b.left, time.Millisecond))) // not every writer has one
	return true
}

// Close implements [io.Closer]. What was not read has little time to come: net/http reads some of
// it, to use the connection again.
func (b *body) Close() error {
	b.mu.Lock()
	if !b.closed && !b.ended {
		_ = b.conn.SetReadDeadline(time.Now().Add(time.Second))
	}
	b.closed = true
	b.mu.Unlock()
	return b.ReadCloser.Close()
}

// read tells how many bytes came.
func (b *body) read() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total
}

func (b *body) failed() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err != nil
}

func (b *body) tooSlow() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return errors.Is(b.err, os.ErrDeadlineExceeded)
}
