package h1

import (
	"bytes"
	"net/http"
	"net/textproto"
	"strings"
)

// maxLines is how many header lines the plain reader takes; more are net/http's to read.
const maxLines = 64

var endOfHead = []byte("\r\n\r\n")

// Headers reads header lines, each ended by CRLF, that are written in the plainest way: a token, a
// colon, a value without control bytes. Everything else, such as folded lines, bare LF or blanks
// around a name, is not ok: two parsers may differ about it. It keeps parts of text.
// The header has room for so many more.
func Headers(text string, room int) (h http.Header, ok bool) {
	lines := strings.Count(text, "\n")
	if lines > maxLines {
		return nil, false
	}
	h = make(http.Header, lines+room)
	values := make([]string, lines) // one allocation for all
	for len(text) > 0 {
		end := strings.IndexByte(text, '\n')
		if end < 1 || text[end-1] != '\r' {
			return nil, false
		}
		line := text[:end-1]
		text = text[end+1:]
		colon := strings.IndexByte(line, ':')
		if colon < 1 || !isToken(line[:colon]) {
			return nil, false
		}
		value := strings.Trim(line[colon+1:], " \t")
		if !isText(value) {
			return nil, false
		}
		name, known := names[line[:colon]]
		if !known {
			name = textproto.CanonicalMIMEHeaderKey(line[:colon])
		}
		if had := h[name]; had != nil {
			h[name] = append(had, value)
			continue
		}
		values[0] = value
		h[name] = values[:1:1]
		values = values[1:]
	}
	return h, true
}

// names are those that are met again and again, and are not made anew each time, as browsers and
// servers write them.
var names = func() map[string]string {
	m := map[string]string{}
	for _, name := range []string{
		"Host", "Connection", "Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Cache-Control", "Content-Encoding", "Content-Length",
		"Content-Security-Policy", "Content-Type", "Cookie", "Date", "Etag", "If-Modified-Since", "If-None-Match", "Last-Modified", "Origin", "Pragma", "Priority",
		"Referer", "Sec-Ch-Ua", "Sec-Ch-Ua-Mobile", "Sec-Ch-Ua-Platform", "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-Fetch-User", "Server",
		"Set-Cookie", "Upgrade-Insecure-Requests", "User-Agent", "Vary", "X-Content-Type-Options", "X-Jupyterhub-Version", "X-Requested-With", "X-Xsrftoken",
	} {
		m[name], m[strings.ToLower(name)] = name, name
	}
	m["ETag"], m["X-XSRFToken"], m["DNT"], m["dnt"] = "Etag", "X-Xsrftoken", "Dnt", "Dnt"
	m["X-JupyterHub-Version"] = "X-Jupyterhub-Version"
	return m
}()

// isToken tells whether s is a token (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		if !tokens[s[i]] {
			return false
		}
	}
	return s != ""
}

var tokens = func() (t [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		t[c] = true
	}
	return t
}()

// isText tells whether a value holds no control byte but the tab.
func isText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// length reads a Content-Length of digits only; -1 is none or another.
func length(s string) int64 {
	if s == "" || len(s) > 18 {
		return -1
	}
	n := int64(0)
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return -1
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n
}

// plainAnswer reads the head of an answer that is all in b, up to and with the empty line, if it is
// HTTP/1.1, keeps the connection, and its body has a length. Others are net/http's to read.
func plainAnswer(b []byte, r *http.Request) (res *http.Response, size int) {
	end := bytes.Index(b, endOfHead)
	if end < 0 || r.Method == http.MethodHead {
		return nil, 0
	}
	size = end + len(endOfHead)
	text := string(b[:end+2])
	const proto = "HTTP/1.1 "
	line, rest, _ := strings.Cut(text, "\r\n")
	if len(line) < len(proto)+4 || line[:len(proto)] != proto || line[len(proto)+3] != ' ' || !isText(line) {
		return nil, 0
	}
	status := int(length(line[len(proto) : len(proto)+3]))
	if status < 200 || status == http.StatusNoContent || status == http.StatusNotModified {
		return nil, 0
	}
	h, ok := Headers(rest, 0)
	if !ok || len(h["Transfer-Encoding"]) > 0 || len(h["Trailer"]) > 0 || len(h["Pragma"]) > 0 || len(h["Content-Length"]) != 1 {
		return nil, 0
	}
	n := length(h["Content-Length"][0])
	if n < 0 || !keeps(h) {
		return nil, 0
	}
	return &http.Response{
		Status: line[len(proto):], StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, ContentLength: n, Request: r,
	}, size
}

// keeps tells whether nothing but keep-alive is said of the connection.
func keeps(h http.Header) bool {
	for _, v := range h["Connection"] {
		if !strings.EqualFold(v, "keep-alive") {
			return false
		}
	}
	return true
}
