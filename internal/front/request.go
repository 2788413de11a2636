package front

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"strings"

	"carrel/internal/h1"
)

var endOfHead = []byte("\r\n\r\n")

// headSize is the length of the head that b begins with, up to and with the empty line; 0: its end is
// not there.
func headSize(b []byte) int {
	if end := bytes.Index(b, endOfHead); end >= 0 {
		return end + len(endOfHead)
	}
	return 0
}

// nothing is what requests are made of: so one is made for each, and none is copied.
var nothing http.Request

// roomInHeader is for what a proxy adds, so that neither the map nor a copy of it grows.
const roomInHeader = 6

// plainRequest reads a head as net/http does, or leaves it to it: then the request is nil. See [Server].
func plainRequest(ctx context.Context, head []byte) *http.Request {
	line, rest, _ := strings.Cut(string(head[:len(head)-2]), "\r\n")
	method, line, _ := strings.Cut(line, " ")
	target, ok := strings.CutSuffix(line, " HTTP/1.1")
	if !ok || !plainMethod(method) || !strings.HasPrefix(target, "/") || strings.Contains(target, " ") {
		return nil
	}
	u := plainURL(target)
	h, ok := h1.Headers(rest, roomInHeader)
	if u == nil || !ok {
		return nil
	}
	hosts := h["Host"]
	length, ok := plainLength(h)
	if len(hosts) != 1 || !plainHost(hosts[0]) || !ok {
		return nil
	}
	closes, ok := plainConnection(h["Connection"])
	if !ok {
		return nil
	}
	delete(h, "Host")
	if len(h["Pragma"]) > 0 && h["Pragma"][0] == "no-cache" && h["Cache-Control"] == nil {
		h["Cache-Control"] = []string{"no-cache"} // as net/http does (RFC 9111, section 5.4)
	}
	r := nothing.WithContext(ctx)
	r.Method, r.URL, r.RequestURI, r.Proto, r.ProtoMajor, r.ProtoMinor = method, u, target, "HTTP/1.1", 1, 1
	r.Header, r.Host, r.Body, r.ContentLength, r.Close = h, hosts[0], http.NoBody, length, closes
	return r
}

func plainMethod(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return true
	}
	return false
}

// plainURL reads a target of visible ASCII.
func plainURL(target string) *url.URL {
	path, query, asked := strings.Cut(target, "?")
	for i := range len(query) {
		if query[i] <= ' ' || query[i] >= 0x7f {
			return nil
		}
	}
	for i := range len(path) {
		if !inPath[path[i]] {
			return parsedURL(target)
		}
	}
	if asked && query == "" {
		return parsedURL(target)
	}
	return &url.URL{Path: path, RawQuery: query}
}

// parsedURL is for what is written in one of several ways.
func parsedURL(target string) *url.URL {
	u, err := url.ParseRequestURI(target)
	if err != nil || u.Host != "" {
		return nil
	}
	return u
}

// inPath are the bytes that mean themselves in a path, and that package url would not escape.
var inPath = func() (t [256]bool) {
	for _, c := range []byte("-_.~$&+,/:;=@0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		t[c] = true
	}
	return t
}()

// plainLength is the length of the body, if its framing is the plainest.
func plainLength(h http.Header) (n int64, ok bool) {
	for _, name := range []string{"Transfer-Encoding", "Trailer", "Expect", "Upgrade", "Http2-Settings"} {
		if len(h[name]) > 0 {
			return 0, false
		}
	}
	told := h["Content-Length"]
	switch len(told) {
	case 0:
		return 0, true
	case 1:
		size, err := length([]byte(told[0]))
		return int64(size), err == nil
	}
	return 0, false
}

// plainHost tells whether a host is written in letters, digits, and what stands between them.
func plainHost(host string) bool {
	for i := range len(host) {
		if c := host[i]; !isToken[c] && c != ':' && c != '[' && c != ']' || strings.IndexByte("!#$%&'*+^`|~", c) >= 0 {
			return false
		}
	}
	return host != ""
}

// plainConnection tells whether nothing is asked of the connection but that it be kept or closed.
func plainConnection(values []string) (closes, ok bool) {
	for _, v := range values {
		switch {
		case strings.EqualFold(v, "close"):
			closes = true
		case !strings.EqualFold(v, "keep-alive"):
			return false, false
		}
	}
	return closes, true
}
