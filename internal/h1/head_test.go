package h1

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// heads are answers that the plain reader and net/http are compared by.
var answers = []string{
	fine,
	"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Type: application/json\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\n{}",
	"HTTP/1.1 404 Not Found\r\ncontent-length:0\r\nX:\t a b \t\r\n\r\n",
	"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
	"HTTP/1.1 200 OK\r\nX: a\nContent-Length: 1\r\n\r\n",
	"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
	"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nPragma: no-cache\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
	"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
	"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\n\r\n",
	"HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nX: \x7f\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nX: \xff\xfe\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nX:\r\nx: a\r\nX: b\r\nContent-Length: 0\r\n\r\n",
}

// same fails where the plain reader takes an answer that net/http refuses, or reads otherwise.
func same(t *testing.T, b []byte, method string) (plain bool) {
	t.Helper()
	r := &http.Request{Method: method}
	got, size := plainAnswer(b, r)
	if got == nil {
		return false
	}
	br := bufio.NewReaderSize(bytes.NewReader(b), len(b)+16)
	want, err := http.ReadResponse(br, r)
	if err != nil {
		t.Fatalf("%q: taken, and net/http says %v", b, err)
	}
	if rest := len(b) - size; br.Buffered() != rest {
		t.Fatalf("%q: %d bytes behind the head, net/http has %d", b, rest, br.Buffered())
	}
	if got.Status != want.Status || got.StatusCode != want.StatusCode || got.ContentLength != want.ContentLength || got.Close != want.Close ||
		got.Proto != want.Proto || want.ProtoMajor != 1 || want.ProtoMinor != 1 || len(want.TransferEncoding) > 0 || len(want.Trailer) > 0 ||
		!maps.EqualFunc(got.Header, want.Header, slices.Equal) {
		t.Fatalf("%q:\n%+v\n%+v", b, got, want)
	}
	return true
}

func TestPlainAnswers(t *testing.T) {
	plain := 0
	for _, h := range answers {
		if same(t, []byte(h), "GET") {
			plain++
		}
		same(t, []byte(h), "HEAD")
		for i := range h { // one that is not there yet is not taken
			if head := strings.Index(h, "\r\n\r\n"); i < head+4 && same(t, []byte(h[:i]), "GET") {
				t.Errorf("%q is taken", h[:i])
			}
		}
	}
	if plain != 6 {
		t.Errorf("%d of the answers are plain", plain)
	}
}

// FuzzPlainAnswer: whatever the plain reader takes, net/http reads the same way.
func FuzzPlainAnswer(f *testing.F) {
	for _, h := range answers {
		f.Add([]byte(h), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		same(t, b, method)
	})
}

// FuzzAppendHead: what is written is one request, as it was given, or an error.
func FuzzAppendHead(f *testing.F) {
	f.Add("GET", "/a?b", "host", "X-A", "b", int64(0))
	f.Add("POST", "/a b", "host:80", "Content-Length", "7", int64(3))
	f.Add("G T", "/", "h\r\nX: y", "X\r\nY", "b\r\nZ: c", int64(-1))
	f.Fuzz(func(t *testing.T, method, target, host, name, value string, length int64) {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://h/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Method, r.Host, r.ContentLength = method, host, length
		if r.URL, err = r.URL.Parse(target); err != nil {
			return
		}
		r.Header[name] = []string{value}
		b, err := appendHead(nil, r, length != 0)
		if err != nil {
			return
		}
		text := string(b)
		head, rest, _ := strings.Cut(text, "\r\n\r\n")
		lines := strings.Split(head, "\r\n")
		if rest != "" || strings.ContainsAny(strings.Join(lines, ""), "\r\n\x00") || !strings.HasSuffix(lines[0], " HTTP/1.1") || strings.Count(lines[0], " ") != 2 || len(lines) > 5 {
			t.Fatalf("%q", text)
		}
		framing := 0
		for _, l := range lines {
			if l := strings.ToLower(l); strings.HasPrefix(l, "content-length:") || strings.HasPrefix(l, "transfer-encoding:") {
				framing++
			}
		}
		if framing > 1 && http.CanonicalHeaderKey(name) == name {
			t.Fatalf("%q is framed twice", text)
		}
	})
}

// TestLikeTheTransport: through this client and through net/http's the same comes back, and the same
// arrives.
func TestLikeTheTransport(t *testing.T) {
	var got []string
	s := serve(t, func(_ int, c net.Conn, br *bufio.Reader) {
		for {
			r, body := read(br)
			if r == nil {
				return
			}
			r.Header.Del("User-Agent") // net/http's own is added to a request without one
			r.Header.Del("Accept-Encoding")
			var text bytes.Buffer
			r.Header.Write(&text)
			got = append(got, r.Method+" "+r.RequestURI+" "+r.Host+"\n"+text.String()+body)
			answer := fine
			if r.Method == "HEAD" {
				answer = strings.TrimSuffix(fine, "fine")
			}
			io.WriteString(c, answer)
		}
	})
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.client.Dial(ctx) }, DisableCompression: true}
	defer tr.CloseIdleConnections()
	for _, c := range []struct{ method, target, body string }{
		{"GET", "/", ""}, {"GET", "/a%20b/%2F?q=1&r=%zz", ""}, {"HEAD", "/?", ""}, {"POST", "/x", ""}, {"PUT", "/x", "body"}, {"PATCH", "/x", "body"}, {"DELETE", "/x", ""}, {"MKCOL", "/", "x"}, {"OPTIONS", "/ü", ""},
	} {
		got = nil
		for _, rt := range []http.RoundTripper{&s.client, tr} {
			var body io.Reader
			if c.body != "" {
				body = strings.NewReader(c.body)
			}
			r := request(t, c.method, c.target, body)
			r.Header.Set("X-A", "b")
			r.Header.Add("X-A", "c")
			res, err := rt.RoundTrip(r)
			if err != nil {
				t.Fatalf("%v: %v", c, err)
			}
			if b, err := io.ReadAll(res.Body); err != nil || c.method != "HEAD" && string(b) != "fine" {
				t.Errorf("%v: %q %v", c, b, err)
			}
			res.Body.Close()
		}
		if len(got) != 2 || got[0] != got[1] {
			t.Errorf("%v: the server gets\n%q", c, got)
		}
	}
}
