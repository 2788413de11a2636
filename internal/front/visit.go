package front

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// visit is a connection that the loop serves. One goroutine owns it; beside it stand the server's
// looking after, and while a request takes long one that waits for its client's leaving.
type visit struct {
	server *Server
	c      net.Conn
	in     *conn         // the scanner within c
	raw    net.Conn      // the socket itself, where the client speaks plainly; else nil
	move   io.ReaderFrom // by which the kernel sends; nil: it can't
	tls    *tls.ConnectionState
	remote string
	at     int // in server.visits, whose mu guards it

	phase atomic.Int64 // see phase
	until atomic.Int64 // when what is written must have been taken; 0: there is no such time

	buf  []byte // what was read: buf[r:w] is not used yet
	r, w int

	unread atomic.Bool   // of the request's body something is to come
	cancel func(error)   // of the request that is served
	gone   chan struct{} // gets one when the watch for the client's leaving has ended
	abort  atomic.Bool   // the watch is not wanted any more
	ahead  [1]byte       // what the watch read
	early  int           // of ahead
	timed  atomic.Bool   // the handler has set a deadline for reading
}

// A phase is what a visit does, and since when, in nanoseconds of the server's time.
const (
	phaseFresh   = iota // nothing came yet
	phaseHead           // a part of a head is there
	phaseIdle           // a request was answered
	phaseActive         // a request is served
	phaseWatched        // likewise, and its client is watched
	phaseHanded         // net/http gets it

	phaseBits = 3
	phaseMask = 1<<phaseBits - 1
	phaseOver = phaseMask // it ends
)

// bufferSize bounds the head of a plain request.
const bufferSize = 8 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// newVisit is nil for a connection that is not the loop's to serve.
func newVisit(s *Server, c net.Conn) *visit {
	in, secure := scanned(c)
	if in == nil {
		return nil
	}
	v := &visit{server: s, c: c, in: in, remote: c.RemoteAddr().String(), gone: make(chan struct{}, 1)}
	if secure != nil {
		state := secure.ConnectionState()
		v.tls = &state
	} else {
		v.move, _ = c.(io.ReaderFrom)
		if b, ok := in.Conn.(*base); ok {
			v.raw = b.Conn
		}
	}
	v.enter(phaseFresh)
	return v
}

// values are what requests on a connection know of it, by net/http's names.
func (s *Server) values(c net.Conn) context.Context {
	ctx := context.WithValue(context.WithValue(context.Background(), http.ServerContextKey, s.std), http.LocalAddrContextKey, c.LocalAddr())
	if s.std.ConnContext != nil {
		ctx = s.std.ConnContext(ctx, c)
	}
	return ctx
}

func (s *Server) now() int64 { return int64(time.Since(s.began)) }

// enter begins a phase, and gives the one before.
func (v *visit) enter(phase int64) (before int64) {
	return v.phase.Swap(v.server.now()<<phaseBits|phase) & phaseMask
}

// serve is the loop. A connection that net/http gets is not the visit's any more.
func (v *visit) serve() {
	values := v.server.values(v.c)
	buf, _ := buffers.Get().(*[]byte)
	v.buf = *buf
	handed := false
	defer func() {
		v.server.left(v)
		v.buf = nil
		buffers.Put(buf)
		if !handed {
			_ = v.c.Close()
		}
	}()
	for {
		ctx := &requestContext{values: values}
		r, unusual := v.next(ctx)
		switch {
		case unusual:
			if handed = v.enter(phaseHanded) != phaseOver; handed {
				v.in.back = append([]byte(nil), v.buf[v.r:v.w]...)
				v.server.others.give(v.c) // before it is forgotten here: Shutdown must find it somewhere
			}
			return
		case r == nil || !v.handle(ctx, r):
			return
		}
	}
}

// next reads until a request's head is there. It gives none at the end, and with unusual one that is
// net/http's to read, which is true of what is cut short or refused, too.
func (v *visit) next(ctx context.Context) (r *http.Request, unusual bool) {
	if v.r == v.w {
		v.r, v.w = 0, 0
	}
	for began := false; ; {
		if size := headSize(v.buf[v.r:v.w]); size > 0 {
			if r = plainRequest(ctx, v.buf[v.r:v.r+size]); r == nil {
				return nil, true
			}
			v.r += size
			return r, false
		}
		if v.r > 0 && v.w == len(v.buf) {
			v.w = copy(v.buf, v.buf[v.r:v.w])
			v.r = 0
		}
		if v.w == len(v.buf) {
			return nil, true
		}
		if v.w > v.r && !began {
			began = true
			if v.enter(phaseHead) == phaseOver {
				return nil, false
			}
		}
		n, err := v.c.Read(v.buf[v.w:])
		v.w += n
		if n == 0 && err != nil {
			_, refused := errors.AsType[refusal](err)
			return nil, refused || v.w > v.r
		}
	}
}

// handle serves a request, and tells whether another may follow.
func (v *visit) handle(ctx *requestContext, r *http.Request) (again bool) {
	r.RemoteAddr, r.TLS = v.remote, v.tls
	var b *body
	if r.ContentLength > 0 {
		b = &body{visit: v, left: r.ContentLength}
		r.Body = b
	}
	v.cancel = ctx.cancel
	v.unread.Store(b != nil)
	v.until.Store(0)
	if v.enter(phaseActive) == phaseOver {
		return false
	}
	w := newResponse(v, r, b)
	defer w.release()
	returned := v.call(w, r)
	ctx.cancel(context.Canceled)
	switch {
	case returned:
		w.finish()
	case w.committed:
		_ = w.send() // a part of an answer, which is seen to be one
	}
	whole := b.close()
	if v.timed.Swap(false) {
		_ = v.c.SetReadDeadline(time.Time{}) // of a closed one none
	}
	if v.enter(phaseIdle) == phaseWatched {
		v.unwatch()
	}
	switch {
	case returned && whole && w.reusable() && !v.server.leaving.Load():
		return v.phase.Load()&phaseMask != phaseOver
	case returned && !whole:
		v.in.linger()
	}
	return false
}

// call runs the handler, and tells whether it returned.
func (v *visit) call(w http.ResponseWriter, r *http.Request) (returned bool) {
	defer func() {
		if returned {
			return
		}
		if cause := recover(); cause != nil && cause != http.ErrAbortHandler { //nolint:errorlint // as net/http
			stack := make([]byte, 64<<10)
			v.server.logf("http: panic serving %v: %v\n%s", v.remote, cause, stack[:runtime.Stack(stack, false)])
		}
	}()
	v.server.std.Handler.ServeHTTP(w, r)
	return true
}
