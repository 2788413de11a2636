package chp

import (
	"fmt"
	"net"
	"net/url"
	"strings"
	"unicode/utf8"
)

// origin is a request's target without scheme and host, should it have any.
func origin(uri string) string {
	if strings.HasPrefix(uri, "/") {
		return uri
	}
	if _, rest, ok := strings.Cut(uri, "://"); ok {
		if i := strings.IndexAny(rest, "/?#"); i >= 0 {
			return rooted(rest[i:])
		}
	}
	return "/"
}

func rooted(s string) string {
	if strings.HasPrefix(s, "/") {
		return s
	}
	return "/" + s
}

func withoutQuery(uri string) string {
	uri, _, _ = strings.Cut(uri, "?")
	return uri
}

// location is a path as it is sent on, still encoded, and the query.
type location struct{ path, query string }

func (l location) String() string {
	if l.query == "" {
		return l.path
	}
	return l.path + "?" + l.query
}

// normalise reads a request's target as browsers read URLs (and so the original does): a backslash
// is a slash, dot segments are followed also when encoded, a fragment is none of ours, and what
// may not stand in a path is encoded.
func normalise(uri string) location {
	uri, _, _ = strings.Cut(uri, "#")
	path, query, _ := strings.Cut(uri, "?")
	parts := strings.Split(strings.ReplaceAll(path, `\`, "/"), "/")
	parts = parts[1:] // before the first slash is nothing
	var kept []string
	for i, s := range parts {
		last := i == len(parts)-1
		switch strings.ReplaceAll(strings.ToLower(s), "%2e", ".") {
		case "..":
			kept = kept[:max(0, len(kept)-1)]
		case ".":
		default:
			kept = append(kept, s)
			continue
		}
		if last {
			kept = append(kept, "")
		}
	}
	return location{escape("/" + strings.Join(kept, "/")), query}
}

const hexDigits = "0123456789ABCDEF"

func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"<>`{}", c) >= 0 {
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// decode gives the path that is matched.
func decode(path string) (string, error) {
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return "", err
	}
	if !utf8.ValidString(decoded) {
		return "", fmt.Errorf("%q is not UTF-8", path)
	}
	return decoded, nil
}

// afterPrefix takes the first segments off an encoded path. A slash may be encoded too.
func afterPrefix(path string, depth int) string {
	i := leadingSlashes(path)
	for ; depth > 0; depth-- {
		for i < len(path) && slashAt(path, i) == 0 {
			i++
		}
		if depth > 1 {
			i += slashAt(path, i)
		}
	}
	return path[i:]
}

// leadingSlashes is the length of those in front, which aren't matched.
func leadingSlashes(path string) int {
	i := 0
	for i < len(path) && slashAt(path, i) > 0 {
		i += slashAt(path, i)
	}
	return i
}

// slashAt is the length of the slash at i, or 0.
func slashAt(path string, i int) int {
	switch {
	case i >= len(path):
		return 0
	case path[i] == '/':
		return 1
	case i+2 < len(path) && path[i] == '%' && path[i+1] == '2' && (path[i+2] == 'F' || path[i+2] == 'f'):
		return 3
	}
	return 0
}

// hostname is a Host header without the port.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return host
}

// target is where a route leads.
type target struct {
	raw    string
	scheme string // http or https
	host   string // and port, as in a Host header
	socket string // of http+unix
	base   location
}

// parseTarget reads http://, https:// and http+unix://, whose host is a socket's path, encoded.
func parseTarget(raw string) (target, error) {
	for _, scheme := range []string{"http+unix://", "unix+http://"} {
		rest, ok := strings.CutPrefix(raw, scheme)
		if !ok {
			continue
		}
		i := strings.IndexAny(rest, "/?#")
		if i < 0 {
			i = len(rest)
		}
		socket, err := url.PathUnescape(rest[:i])
		if err != nil || socket == "" {
			return target{raw: raw}, fmt.Errorf("%q names no socket", raw)
		}
		return target{raw: raw, scheme: "http", host: "localhost", socket: socket, base: normalise(rooted(rest[i:]))}, nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return target{raw: raw}, err
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return target{raw: raw}, fmt.Errorf("unexpected protocol in %q", raw)
	}
	if u.Hostname() == "" {
		return target{raw: raw}, fmt.Errorf("%q has no host", raw)
	}
	return target{raw: raw, scheme: u.Scheme, host: u.Host, base: normalise(rooted(u.EscapedPath() + "?" + u.RawQuery))}, nil
}

// join puts the target's path before a request's, and both queries together.
func (t target) join(l location, prepend bool) location {
	if !prepend {
		return location{rooted(l.path), l.query}
	}
	path := t.base.path
	switch {
	case l.path == "":
	case strings.HasSuffix(path, "/"):
		path += strings.TrimPrefix(l.path, "/")
	default:
		path += rooted(l.path)
	}
	query := strings.Trim(t.base.query+"&"+l.query, "&")
	if t.base.query == "" || l.query == "" {
		query = t.base.query + l.query
	}
	return location{path, query}
}
