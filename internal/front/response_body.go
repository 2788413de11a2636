package front

import (
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// Write implements [http.ResponseWriter].
func (w *response) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	switch {
	case len(p) == 0:
		return 0, nil
	case !allowsBody(w.status):
		return 0, http.ErrBodyNotAllowed
	}
	if w.written += int64(len(p)); w.length >= 0 && w.written > w.length {
		return 0, http.ErrContentLength // and the connection ends
	}
	hold := w.chunked || !w.committed && (w.length < 0 || !w.is.typed && !w.is.coded)
	if hold && len(w.held)+len(p) <= undecided {
		w.held = append(w.held, p...)
		return len(p), nil
	}
	if !w.committed {
		w.commit(w.sample(p), false)
	}
	w.pass()
	w.part(p)
	if w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

// sample is the body's beginning, of what is held and what comes next.
func (w *response) sample(next []byte) []byte {
	switch {
	case len(w.held) >= sniffSize:
		return w.held
	case len(w.held) == 0:
		return next
	}
	return append(w.held[:len(w.held):len(w.held)], next[:min(len(next), sniffSize)]...)
}

// pass has what is held leave, its framing being known.
func (w *response) pass() {
	if len(w.held) > 0 {
		w.part(w.held)
		w.held = w.held[:0]
	}
}

// part writes some of the body.
func (w *response) part(p []byte) {
	switch {
	case w.r.Method == http.MethodHead:
	case w.chunked:
		w.sent = strconv.AppendInt(w.sent, int64(len(p)), 16)
		w.sent = append(w.sent, "\r\n"...)
		w.put(p)
		w.sent = append(w.sent, "\r\n"...)
	default:
		w.put(p)
	}
}

// put gathers what is small, and writes what is not together with that.
func (w *response) put(p []byte) {
	switch {
	case w.err != nil:
	case len(w.sent)+len(p) <= outSize:
		w.sent = append(w.sent, p...)
	case w.visit.raw != nil:
		w.both = [2][]byte{w.sent, p}
		w.vec = w.both[:]
		_, w.err = w.vec.WriteTo(w.visit.raw)
		w.both, w.sent = [2][]byte{}, w.sent[:0]
	default:
		if w.send() == nil {
			_, w.err = w.visit.c.Write(p)
		}
	}
}

// send writes what was gathered.
func (w *response) send() error {
	if len(w.sent) > 0 && w.err == nil {
		_, w.err = w.visit.c.Write(w.sent)
	}
	w.sent = w.sent[:0]
	return w.err
}

// FlushError is what [http.ResponseController] calls to flush.
func (w *response) FlushError() error {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	if !w.committed {
		w.commit(w.held, false)
	}
	w.pass()
	return w.send()
}

// Flush implements [http.Flusher].
func (w *response) Flush() { _ = w.FlushError() } // the error stays

// ReadFrom implements [io.ReaderFrom]: a part of known size of a body of known length is moved by the
// kernel, if it can. The beginning is not, so that a source that gives nothing is seen before the head
// has left.
func (w *response) ReadFrom(src io.Reader) (n int64, err error) {
	if !w.committed {
		n, err = io.Copy(onlyWriter{w}, io.LimitReader(src, sniffSize))
		if err != nil || n < sniffSize {
			return n, err
		}
		if !w.committed {
			w.commit(w.held, false)
		}
	}
	of, bounded := src.(*io.LimitedReader)
	if w.visit.move == nil || !bounded || w.length < 0 || of.N > w.length-w.written || w.bodiless() {
		more, err := io.Copy(onlyWriter{w}, src)
		return n + more, err
	}
	w.pass()
	if err := w.send(); err != nil {
		return n, err
	}
	more, err := w.visit.move.ReadFrom(src)
	w.written += more
	if err != nil {
		w.err = err // some of it may have been taken from src, or written
	}
	return n + more, err
}

// onlyWriter hides that there is a ReadFrom.
type onlyWriter struct{ io.Writer }

// SetReadDeadline is what [http.ResponseController] calls.
func (w *response) SetReadDeadline(t time.Time) error {
	w.visit.timed.Store(true)
	return w.visit.c.SetReadDeadline(t)
}

// SetWriteDeadline is what [http.ResponseController] calls. It takes effect up to lookEvery late, for
// which it costs nothing.
func (w *response) SetWriteDeadline(t time.Time) error {
	until := int64(0)
	if !t.IsZero() {
		until = max(int64(t.Sub(w.visit.server.began)), 1)
	}
	w.visit.until.Store(until)
	return nil
}

// finish ends an answer whose handler has returned.
func (w *response) finish() {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	if !w.committed {
		w.commit(w.held, true)
	}
	w.pass()
	if w.chunked {
		w.sent = append(w.sent, "0\r\n"...)
		w.trailers()
		w.sent = append(w.sent, "\r\n"...)
	}
	_ = w.send() // the error stays
}

// trailers writes those that were announced, and those that were not.
func (w *response) trailers() {
	for name, values := range w.header {
		if name, ok := cutTrailerPrefix(name); ok {
			for _, v := range values {
				w.line(name, v)
			}
		}
	}
	for _, name := range w.trailer {
		for _, v := range w.header[name] {
			w.line(name, v)
		}
	}
}

func cutTrailerPrefix(name string) (string, bool) {
	const n = len(http.TrailerPrefix)
	if len(name) <= n || name[:n] != http.TrailerPrefix || isFraming(http.CanonicalHeaderKey(name[n:])) {
		return "", false
	}
	return name[n:], true
}

// reusable tells whether the client knows where the answer ended, and that the connection goes on.
func (w *response) reusable() bool {
	return !w.closes && w.err == nil && (w.length < 0 || w.written == w.length || w.bodiless())
}

// dated is a date as it is written, for a second.
type dated struct {
	second int64
	text   string
}

var lastDate atomic.Pointer[dated]

func date(now time.Time) string {
	second := now.Unix()
	if d := lastDate.Load(); d != nil && d.second == second {
		return d.text
	}
	d := &dated{second, now.UTC().Format(http.TimeFormat)}
	lastDate.Store(d)
	return d.text
}
