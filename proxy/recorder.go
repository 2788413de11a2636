package proxy

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// takeWithin is how long a client may take nothing of an answer. Browsers let a paused download
// wait, so that it is long; what waits is one buffer and one connection.
const takeWithin = 2 * time.Minute

// recorder knows what was answered, and gives up on a client that does not take it.
type recorder struct {
	http.ResponseWriter
	conn    http.ResponseController
	close   bool // the connection ends with this answer
	status  int
	leaving *atomic.Bool // so do all
	bytes   int64

	extended  time.Time
	fromImage bool   // it is one of an image's static files, served here
	class     class  // what the request is for
	route     *route // that it is forwarded by, if it is
	upstream  bool   // the server behind failed
}

func newRecorder(w http.ResponseWriter, r *http.Request) *recorder {
	return &recorder{
		ResponseWriter: w, conn: *http.NewResponseController(w),
		// What follows a request for another protocol was looked at by nobody: where it is not switched
		// to, no request may be read from there.
		close: isUpgrade(r),
	}
}

// WriteHeader implements [http.ResponseWriter]. A server's informational answers end here: they
// have not been cleaned, and "100 Continue" is net/http's own to give.
func (w *recorder) WriteHeader(status int) {
	if status < 200 {
		return
	}
	if w.status == 0 {
		w.status = status
	}
	if w.close || w.leaving != nil && w.leaving.Load() {
		w.Header().Set("Connection", "close")
	}
	w.extend()
	w.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.extend()
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	if w.route != nil {
		w.route.stats.sent.Add(uint64(n))
	}
	return n, err
}

// ReadFrom implements [io.ReaderFrom]: net/http has the kernel move bodies.
func (w *recorder) ReadFrom(src io.Reader) (int64, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.extended = time.Time{} // each piece has its time
	w.extend()
	n, err := io.Copy(w.ResponseWriter, src)
	w.bytes += n
	if w.route != nil {
		w.route.stats.sent.Add(uint64(n))
	}
	return n, err
}

// about notes what a request is for, and the route that it goes by.
func about(w http.ResponseWriter, c class, rt *route) {
	if rec, ok := w.(*recorder); ok {
		rec.class, rec.route = c, rt
	}
}

// finish leaves time for what net/http still has to flush.
func (w *recorder) finish() {
	if w.status != http.StatusSwitchingProtocols {
		w.extend()
	}
}

// extend gives the client time to take what comes next; a second more or less is no matter.
func (w *recorder) extend() {
	now := time.Now()
	if now.Sub(w.extended) < time.Second {
		return
	}
	w.extended = now
	_ = w.conn.SetWriteDeadline(now.Add(takeWithin)) // not every writer has one
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
