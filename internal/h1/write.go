package h1

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

var errHeader = errors.New("a header can not be written")

// appendHead writes a request's head. A body of unknown length is announced as chunked, with the
// trailers that the request names. Framing headers in r.Header are not looked at: the body's length
// is r.ContentLength, and nothing else.
func appendHead(b []byte, r *http.Request, hasBody bool) ([]byte, error) {
	target := r.URL.RequestURI()
	if !isToken(r.Method) || !isText(target) || strings.ContainsAny(target, " \t") {
		return b, errHeader
	}
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\n"...)
	b, err := appendLine(b, "Host", r.Host)
	if err != nil {
		return b, err
	}
	switch {
	case hasBody && r.ContentLength > 0:
		b = appendLength(b, r.ContentLength)
	case hasBody:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		for name := range r.Trailer {
			if isToken(name) {
				b = append(append(append(b, "Trailer: "...), name...), "\r\n"...)
			}
		}
	case r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch:
		b = appendLength(b, 0)
	}
	for name, values := range r.Header {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer", "Connection":
			continue
		}
		for _, v := range values {
			if b, err = appendLine(b, name, v); err != nil {
				return b, err
			}
		}
	}
	return append(b, "\r\n"...), nil
}

func appendLength(b []byte, n int64) []byte {
	b = append(b, "Content-Length: "...)
	return append(strconv.AppendInt(b, n, 10), "\r\n"...)
}

// appendLine writes a header line; a name or value that would be two is refused.
func appendLine(b []byte, name, value string) ([]byte, error) {
	if !isToken(name) || !isText(value) {
		return b, errHeader
	}
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...), nil
}

const copySize = 128 << 10

var copies = sync.Pool{New: func() any { b := make([]byte, copySize); return &b }}

// source is a request's body, and remembers a fault of its own.
type source struct {
	io.Reader

	err error
}

// Read implements [io.Reader].
func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// writeBody writes a request's body as its head announced it. Broken tells whether it is the body that failed.
func writeBody(w io.Writer, r *http.Request) (broken bool, err error) {
	src := &source{Reader: r.Body}
	err = writeFrom(w, r, src)
	return src.err != nil || errors.Is(err, io.ErrUnexpectedEOF), err
}

func writeFrom(w io.Writer, r *http.Request, body io.Reader) error {
	buf, _ := copies.Get().(*[]byte)
	defer copies.Put(buf)
	if r.ContentLength > 0 {
		n, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(body, r.ContentLength), *buf)
		if err == nil && n < r.ContentLength {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return writeChunks(w, r, body, *buf)
}

// chunkRoom is what the size of a chunk takes: up to eight digits, CRLF.
const chunkRoom = 10

// writeChunks writes each read as a chunk, in one write with its size.
func writeChunks(w io.Writer, r *http.Request, body io.Reader, buf []byte) error {
	for {
		n, err := body.Read(buf[chunkRoom : len(buf)-2])
		if n > 0 {
			size := strconv.AppendInt(buf[:0:8], int64(n), 16)
			start := chunkRoom - 2 - len(size)
			copy(buf[start:], size)
			copy(buf[chunkRoom-2:], "\r\n")
			copy(buf[chunkRoom+n:], "\r\n")
			if _, err := w.Write(buf[start : chunkRoom+n+2]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	end := append(buf[:0], "0\r\n"...)
	for name, values := range r.Trailer {
		for _, v := range values {
			var err error
			if end, err = appendLine(end, name, v); err != nil {
				return err
			}
		}
	}
	_, err := w.Write(append(end, "\r\n"...))
	return err
}
