package proxy

import (
	"bytes"
	"compress/gzip"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// encoding is what a server may encode its answer with: for a page nothing, otherwise gzip if the
// client takes it. Others are not asked for, as the token could not be looked for in them.
func encoding(r *http.Request) string {
	if isNavigation(r) {
		return "identity"
	}
	if takes(r, "gzip") {
		return "gzip"
	}
	return "identity"
}

// takes tells whether the client names a coding as one that it takes (RFC 9110, section 12.5.3).
func takes(r *http.Request, coding string) bool {
	for _, line := range r.Header.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(part, ";")
			_, q, _ := strings.Cut(params, "q=")
			if weight, err := strconv.ParseFloat(strings.TrimSpace(q), 64); err == nil && weight == 0 {
				continue
			}
			if strings.EqualFold(strings.TrimSpace(name), coding) {
				return true
			}
		}
	}
	return false
}

// scrub takes the server's token out of its headers and pages: JupyterLab writes it into each page
// for its own scripts, which need none here. Everything else is files of the person, who knows the
// token anyway.
func scrub(res *http.Response, token string) {
	for _, values := range res.Header {
		for i, v := range values {
			if strings.Contains(v, token) {
				values[i] = strings.ReplaceAll(v, token, "")
			}
		}
	}
	if !isPage(res.Header) || res.Body == nil || res.Body == http.NoBody || res.Request.Method == http.MethodHead ||
		res.StatusCode == http.StatusPartialContent { // of a file
		return
	}
	var src io.Reader = res.Body
	switch strings.ToLower(res.Header.Get("Content-Encoding")) {
	case "", "identity":
	case "gzip":
		src = &gunzip{src: res.Body}
		res.Header.Del("Content-Encoding")
	default:
		return // one that nobody asked for
	}
	res.Body = &scrubbed{src: src, close: res.Body, token: []byte(token)}
	res.ContentLength = -1
	res.Header.Del("Content-Length")
	res.Header.Del("Accept-Ranges")
}

func isPage(h http.Header) bool {
	if v := h["Content-Type"]; len(v) == 1 && strings.HasPrefix(v[0], "application/json") {
		return false // what is asked for most
	}
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		kind, _, _ = strings.Cut(h.Get("Content-Type"), ";")
		kind = strings.ToLower(strings.TrimSpace(kind))
	}
	return kind == "text/html" || kind == "application/xhtml+xml"
}

// scrubbed is a stream without the token. It holds back only what may be the token's beginning, so
// that a page that comes bit by bit goes out so.
type scrubbed struct {
	src   io.Reader
	close io.Closer
	token []byte
	room  []byte
	buf   []byte // of room: read and not given yet
	clean int    // how much of buf may be given
	err   error
}

// Read implements [io.Reader].
func (s *scrubbed) Read(p []byte) (int, error) {
	for s.clean == 0 && s.err == nil {
		s.fill()
	}
	if s.clean == 0 {
		return 0, s.err
	}
	n := copy(p, s.buf[:s.clean])
	s.buf = s.buf[n:]
	s.clean -= n
	return n, nil
}

// fill reads on and finds how much is clean.
func (s *scrubbed) fill() {
	if s.room == nil {
		s.room = make([]byte, 8<<10)
	}
	have := copy(s.room, s.buf) // what was held back: less than a token
	n, err := s.src.Read(s.room[have:])
	s.buf, s.err = s.room[:have+n], err
	if bytes.Contains(s.buf, s.token) {
		s.buf = bytes.ReplaceAll(s.buf, s.token, nil)
	}
	s.clean = len(s.buf)
	if err == nil {
		s.clean -= beginning(s.buf, s.token)
	}
}

// beginning is the length of the longest end of b with which token begins.
func beginning(b, token []byte) int {
	for n := min(len(b), len(token)-1); n > 0; n-- {
		if bytes.HasSuffix(b, token[:n]) {
			return n
		}
	}
	return 0
}

// Close implements [io.Closer].
func (s *scrubbed) Close() error { return s.close.Close() }

// gunzip opens its source when it is first read: not before there is something.
type gunzip struct {
	src io.Reader
	zr  *gzip.Reader
}

// Read implements [io.Reader].
func (g *gunzip) Read(p []byte) (int, error) {
	if g.zr == nil {
		zr, err := gzip.NewReader(g.src)
		if err != nil {
			return 0, err
		}
		g.zr = zr
	}
	return g.zr.Read(p)
}
