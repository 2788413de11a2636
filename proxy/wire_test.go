package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestSmuggling: what two parsers could frame differently is refused, or is one request and the
// last of its connection (attack 36).
func TestSmuggling(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	got := &inbox{}
	w.serve("alice", echo(got))
	head := "POST /user/alice/one HTTP/1.1\r\nHost: alice.hub.test\r\nOrigin: https://alice.hub.test\r\nCookie: " + w.cookieName() + "=" + alice.cookie.Reveal() + "\r\n"
	second := strings.Replace(head, "/one", "/smuggled", 1) + "Connection: close\r\nContent-Length: 0\r\n\r\n"
	for _, c := range []struct {
		name, text string
		statuses   []string
		reached    []string // paths, with their bodies
	}{
		{"one and another, as they should be", head + "Content-Length: 1\r\n\r\nx" + strings.Replace(second, "smuggled", "two", 1), []string{"200", "200"}, []string{"/user/alice/one x", "/user/alice/two "}},
		{"CL.TE", head + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + second, []string{"400"}, nil},
		{"TE.CL", head + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n1\r\nx\r\n0\r\n\r\n" + second, []string{"400"}, nil},
		{"chunked alone", head + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n" + strings.Replace(second, "smuggled", "two", 1), []string{"200", "200"}, []string{"/user/alice/one x", "/user/alice/two "}},
		{"TE.TE", head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + second, []string{"400"}, nil},
		{"TE twice", head + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + second, []string{"400"}, nil},
		{"TE obfuscated", head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + second, []string{"400"}, nil},
		{"TE with a tab", head + "Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n" + strings.Replace(second, "smuggled", "two", 1), []string{"200", "200"}, []string{"/user/alice/one ", "/user/alice/two "}},
		{"TE in a folded line", head + "Connection: close\r\nX: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\nx", []string{"400"}, nil},
		{"a space before the colon", head + "Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n" + second, []string{"400"}, nil},
		{"lengths that differ", head + "Content-Length: 0\r\nContent-Length: 1\r\n\r\nx", []string{"400"}, nil},
		{"a list of lengths", head + "Content-Length: 1, 1\r\n\r\nx", []string{"400"}, nil},
		{"a signed length", head + "Content-Length: +1\r\n\r\nx", []string{"400"}, nil},
		{"a negative length", head + "Content-Length: -1\r\n\r\nx", []string{"400"}, nil},
		{"two hosts", head + "Host: bob.hub.test\r\nContent-Length: 0\r\n\r\n", []string{"400"}, nil},
		{"NUL in a value", head + "X: a\x00b\r\nContent-Length: 0\r\n\r\n", []string{"400"}, nil},
		{"a bare CR in a value", head + "X: a\rX-Forwarded-For: 6.6.6.6\r\nContent-Length: 0\r\n\r\n", []string{"400"}, nil},
		{"HTTP/1.0 chunked", strings.Replace(head, "1.1", "1.0", 1) + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + second, []string{"400"}, nil},
		{"a length twice", head + "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", []string{"400"}, nil},
		{"a bare LF in the header", head + "X: a\nContent-Length: 0\r\n\r\n" + second, []string{"400"}, nil},
		{"a bare LF ends the header", head + "Content-Length: 0\r\n\n" + second, []string{"400"}, nil},
		{"an upgrade that is refused", head + "Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n" + second, []string{"400"}, nil},
		{"a fault behind a good one", head + "Content-Length: 1\r\n\r\nxGET / HTTP/1.1\n\r\n", []string{"200", "400"}, []string{"/user/alice/one x"}},
		{"CONNECT", "CONNECT alice.hub.test:443 HTTP/1.1\r\nHost: alice.hub.test\r\nConnection: close\r\n\r\n", []string{"400"}, nil},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []string{"400"}, nil},
		// The last are refused in the middle, where the server may have heard the beginning.
		{"a bare LF ends a chunk's line", head + "Transfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n" + second, nil, nil},
		{"a chunk's extension with LF", head + "Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\nx\r\n0\r\n\r\n" + second, nil, nil},
		{"a chunk without end", head + "Transfer-Encoding: chunked\r\n\r\n1\r\nxx0\r\n\r\n" + second, nil, nil},
		{"a blank line between requests", head + "Content-Length: 0\r\n\r\n\r\n" + second, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(got.all())
			conn, err := w.dial(t.Context(), "", "")
			must(t, err)
			defer conn.Close()
			must(t, conn.SetDeadline(time.Now().Add(patience)))
			io.WriteString(conn, c.text)
			answer, _ := io.ReadAll(conn)
			var statuses []string
			for _, part := range strings.Split("\r\n"+string(answer), "HTTP/1.1 ")[1:] {
				statuses = append(statuses, part[:3])
			}
			if c.statuses != nil && fmt.Sprint(statuses) != fmt.Sprint(c.statuses) {
				t.Errorf("answers %v, want %v", statuses, c.statuses)
			}
			var reached []string
			got.mu.Lock()
			for i, r := range got.reqs[before:] {
				reached = append(reached, r.URL.Path+" "+got.body[before+i])
			}
			got.mu.Unlock()
			for i, r := range reached {
				if strings.Contains(r, "smuggled") || c.statuses != nil && (i >= len(c.reached) || r != c.reached[i]) {
					t.Errorf("reached the server: %q", r)
				}
			}
			if c.statuses != nil && len(reached) != len(c.reached) {
				t.Errorf("reached the server: %q, want %q", reached, c.reached)
			}
		})
	}
}

// TestTooMuch: long, many or huge headers, and long addresses (attack 35).
func TestTooMuch(t *testing.T) {
	w := newWorld(t, setup{})
	for name, c := range map[string]struct{ text, status string }{
		"101 headers":           {"GET / HTTP/1.1\r\nHost: hub.test\r\nConnection: close\r\n" + manyHeaders(101, true) + "\r\n", "431"},
		"101 lines of one name": {"GET / HTTP/1.1\r\nHost: hub.test\r\nConnection: close\r\n" + manyHeaders(101, false) + "\r\n", "431"},
		"50 headers":            {"GET / HTTP/1.1\r\nHost: hub.test\r\nConnection: close\r\n" + manyHeaders(50, true) + "\r\n", "302"},
		"a huge header":         {"GET / HTTP/1.1\r\nHost: hub.test\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", "431"},
		"a long address":        {"GET /" + strings.Repeat("x", maxURL) + " HTTP/1.1\r\nHost: hub.test\r\nConnection: close\r\n\r\n", "414"},
		"an address beyond all": {"GET /" + strings.Repeat("x", 64<<10) + " HTTP/1.1\r\nHost: hub.test\r\n\r\n", "431"},
		"a long query":          {"GET /hub/?" + strings.Repeat("x", maxURL) + " HTTP/1.1\r\nHost: hub.test\r\nConnection: close\r\n\r\n", "414"},
		"no host":               {"GET / HTTP/1.0\r\n\r\n", "421"},
		"no host, HTTP/1.1":     {"GET / HTTP/1.1\r\n\r\n", "400"},
		"a host of nonsense":    {"GET / HTTP/1.1\r\nHost: hub.test/../x\r\n\r\n", "400"},
	} {
		t.Run(name, func(t *testing.T) {
			if answer := w.raw(c.text); !strings.HasPrefix(answer, "HTTP/1.1 "+c.status) && !strings.HasPrefix(answer, "HTTP/1.0 "+c.status) {
				t.Errorf("%.100q, want %s", answer, c.status)
			}
		})
	}
}

func manyHeaders(n int, different bool) string {
	var b strings.Builder
	for i := range n {
		if !different {
			i = 0
		}
		fmt.Fprintf(&b, "X-%d: y\r\n", i)
	}
	return b.String()
}

// TestAClientThatHangsUpHalf: whoever stops sending while a server works gets the end of the
// connection, not an empty success.
func TestAClientThatHangsUpHalf(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	conn, err := w.dial(t.Context(), "", "")
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	must(t, w.request("GET", w.url("alice", "x"), "", w.as(alice)).Write(conn))
	must(t, conn.(*net.TCPConn).CloseWrite())
	if answer, _ := io.ReadAll(conn); len(answer) > 0 {
		t.Errorf("%q", answer)
	}
}
