package front

import (
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	outSize   = 4 << 10 // bytes that are gathered for one write
	sniffSize = 512     // bytes by which a body's type is guessed
	// undecided is how much of a body is held back in case that it is all: its length can be told then.
	undecided = 2 << 10
)

var outs = sync.Pool{New: func() any { return &out{sent: make([]byte, 0, outSize), held: make([]byte, 0, undecided)} }}

// out holds what of an answer has not left.
type out struct {
	sent []byte // as it leaves
	held []byte // of the body, before its framing is known, or for a chunk that is worth it

	both [2][]byte   // what one write takes
	vec  net.Buffers // likewise
}

// response writes one answer of a visit's.
type response struct {
	visit *visit
	r     *http.Request
	body  *body // the request's; nil: it has none
	*out

	header  http.Header
	trailer []string // announced
	is      answered

	status    int
	wrote     bool // WriteHeader was called
	committed bool // the head's end has been decided
	chunked   bool
	closes    bool  // the connection ends with this answer
	length    int64 // of the body as told; -1: it was not
	written   int64 // of it
	err       error // sticks
}

// answered is what a header says of its answer, where it decides on the framing.
type answered struct {
	typed, coded, dated, trailed bool

	connection []string
}

func newResponse(v *visit, r *http.Request, b *body) *response {
	o, _ := outs.Get().(*out)
	return &response{visit: v, r: r, body: b, out: o, header: http.Header{}, length: -1, closes: r.Close}
}

// release gives back what the answer was gathered in; nothing can be written any more.
func (w *response) release() {
	o := w.out
	w.out = nil
	if cap(o.sent) <= 4*outSize {
		o.sent, o.held = o.sent[:0], o.held[:0]
		outs.Put(o)
	}
}

// Header implements [http.ResponseWriter].
func (w *response) Header() http.Header { return w.header }

// WriteHeader implements [http.ResponseWriter]. What Header says of the framing counts only for the
// length.
func (w *response) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic("front: invalid status " + strconv.Itoa(status))
	}
	if w.wrote {
		return
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		w.statusLine(status)
		w.lines(status)
		w.sent = append(w.sent, "\r\n"...)
		w.is = answered{}
		_ = w.send() // the error stays
		return
	}
	w.wrote, w.status = true, status
	if told := w.header["Content-Length"]; len(told) > 0 {
		if n, err := length([]byte(told[0])); err == nil {
			w.length = int64(n)
		}
	}
	for _, v := range w.header["Trailer"] {
		w.announce(v)
	}
	w.is.trailed = len(w.trailer) > 0
	w.statusLine(status)
	w.lines(status)
}

// announce notes the trailers that a line names.
func (w *response) announce(line string) {
	for name := range strings.SplitSeq(line, ",") {
		if name = http.CanonicalHeaderKey(strings.TrimSpace(name)); name != "" && !isFraming(name) {
			w.trailer = append(w.trailer, name)
		}
	}
}

// isFraming tells whether a header is about where a message ends, or the connection.
func isFraming(name string) bool {
	switch name {
	case "Content-Length", "Transfer-Encoding", "Trailer", "Connection":
		return true
	}
	return false
}

func (w *response) statusLine(status int) {
	w.sent = append(w.sent, "HTTP/1.1 "...)
	w.sent = strconv.AppendInt(w.sent, int64(status), 10)
	w.sent = append(w.sent, ' ')
	if text := http.StatusText(status); text != "" {
		w.sent = append(w.sent, text...)
	} else {
		w.sent = strconv.AppendInt(append(w.sent, "status code "...), int64(status), 10)
	}
	w.sent = append(w.sent, "\r\n"...)
}

// lines writes the header but for what says how the answer ends.
func (w *response) lines(status int) {
	for name, values := range w.header {
		switch name {
		case "Content-Length", "Transfer-Encoding":
			continue
		case "Connection":
			w.is.connection = values
			for _, v := range values {
				w.closes = w.closes || strings.EqualFold(v, "close")
			}
			continue
		case "Date":
			w.is.dated = true
		case "Content-Type":
			if w.is.typed = true; status == http.StatusNotModified {
				continue
			}
		case "Content-Encoding":
			w.is.coded = len(values) > 0 && values[0] != ""
		}
		if strings.HasPrefix(name, http.TrailerPrefix) {
			w.is.trailed = true
			continue
		}
		for _, v := range values {
			w.line(name, v)
		}
	}
}

// line writes one. What would be two, or is no name, must not be.
func (w *response) line(name, value string) {
	for i := range len(name) {
		if !isToken[name[i]] {
			return
		}
	}
	if name == "" {
		return
	}
	if strings.ContainsAny(value, "\r\n") {
		value = strings.NewReplacer("\r", " ", "\n", " ").Replace(value)
	}
	w.sent = append(w.sent, name...)
	w.sent = append(w.sent, ": "...)
	w.sent = append(w.sent, strings.Trim(value, " \t")...)
	w.sent = append(w.sent, "\r\n"...)
}

// bodiless tells whether there is no body whatever the handler writes.
func (w *response) bodiless() bool { return w.r.Method == http.MethodHead || !allowsBody(w.status) }

// allowsBody is RFC 9110, section 6.4.1.
func allowsBody(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// commit decides on the framing and ends the head. What is known of the body is first; with done it is
// all.
func (w *response) commit(first []byte, done bool) {
	w.committed = true
	allowed, isHead := allowsBody(w.status), w.r.Method == http.MethodHead
	if done && w.length < 0 && !w.is.trailed && allowed && (!isHead || len(first) > 0) {
		w.length = int64(len(first))
	}
	if w.visit.server.leaving.Load() || !w.closes && !w.body.drain() {
		w.closes = true
	}
	if allowed && !w.is.typed && !w.is.coded && len(first) > 0 {
		w.line("Content-Type", http.DetectContentType(first))
	}
	if !w.is.dated {
		w.sent = append(w.sent, "Date: "...)
		w.sent = append(w.sent, date(time.Now())...)
		w.sent = append(w.sent, "\r\n"...)
	}
	switch {
	case !allowed:
	case w.length >= 0:
		w.sent = append(w.sent, "Content-Length: "...)
		w.sent = strconv.AppendInt(w.sent, w.length, 10)
		w.sent = append(w.sent, "\r\n"...)
	case !isHead:
		w.chunked = true
		w.sent = append(w.sent, "Transfer-Encoding: chunked\r\n"...)
	}
	if w.closes {
		w.sent = append(w.sent, "Connection: close\r\n"...)
	} else {
		for _, v := range w.is.connection {
			w.line("Connection", v)
		}
	}
	w.sent = append(w.sent, "\r\n"...)
}
