package proxy

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2 is a client of HTTP/2 alone.
func (w *world) h2() *http.Transport {
	w.t.Helper()
	protocols := &http.Protocols{}
	protocols.SetHTTP2(true)
	t := &http.Transport{DialContext: w.dialPlain, TLSClientConfig: w.tls.Clone(), Protocols: protocols, DisableCompression: true}
	w.t.Cleanup(t.CloseIdleConnections)
	return t
}

// TestHTTP2: requests come by h2 where the browser can, with everything checked as in HTTP/1; bodies
// stream both ways; websockets come by HTTP/1.1 beside it.
func TestHTTP2(t *testing.T) {
	w := newWorld(t, setup{tls: true})
	alice, bob := w.person("alice"), w.person("bob")
	got := &inbox{}
	sent := make(chan string)
	w.serve("bob", echo(nil))
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/both"):
			must(t, http.NewResponseController(rw).EnableFullDuplex())
			for buf := make([]byte, 1); ; {
				if _, err := io.ReadFull(r.Body, buf); err != nil {
					return
				}
				rw.Write(buf)
				http.NewResponseController(rw).Flush()
			}
		case strings.HasSuffix(r.URL.Path, "/upload"):
			n, err := io.Copy(io.Discard, r.Body)
			sent <- fmt.Sprint(n, err)
		default:
			echo(got).ServeHTTP(rw, r)
		}
	}))
	tr := w.h2()
	do := func(method, page string, body io.Reader, opts ...option) *http.Response {
		t.Helper()
		r := w.request(method, w.url("alice", page), "", opts...)
		r.Body, r.ContentLength = nil, 0
		if body != nil {
			r.Body, r.ContentLength = io.NopCloser(body), -1
		}
		res, err := tr.RoundTrip(r)
		must(t, err)
		t.Cleanup(func() { res.Body.Close() })
		return res
	}
	if res := do("GET", "x", nil, w.as(alice), header("X-Forwarded-For", "6.6.6.6"), header("X_Forwarded_For", "6.6.6.6")); res.StatusCode != http.StatusOK || res.ProtoMajor != 2 {
		t.Errorf("%d by %s", res.StatusCode, res.Proto)
	}
	if r := got.last(t); r.Header.Get("X-Forwarded-For") != "127.0.0.1" || r.Host != "alice.hub.test" || r.Header.Get("X_Forwarded_For") != "" {
		t.Errorf("the server hears %s of %q", r.Host, r.Header)
	}
	for name, c := range map[string]struct {
		opts []option
		want int
	}{"nobody": {nil, 401}, "another": {[]option{w.as(bob)}, 401}, "a foreign page": {[]option{w.as(alice), header("Origin", "https://bob.hub.test")}, 403}} {
		if res := do("POST", "x", nil, c.opts...); res.StatusCode != c.want {
			t.Errorf("%s: %d, want %d", name, res.StatusCode, c.want)
		}
	}

	in, out := io.Pipe()
	res := do("POST", "both", io.MultiReader(strings.NewReader("p"), in), w.as(alice), ownOrigin(w, "alice"))
	for i, b := range []byte("ping") {
		if i > 0 {
			out.Write([]byte{b})
		}
		back := make([]byte, 1)
		if _, err := io.ReadFull(res.Body, back); err != nil || back[0] != b {
			t.Fatalf("%q came back: %v", back, err)
		}
	}
	out.Close()

	const size = 32 << 20
	go func() {
		r := w.request("PUT", w.url("alice", "upload"), "", w.as(alice), ownOrigin(w, "alice"))
		r.Body, r.ContentLength = io.NopCloser(io.LimitReader(&counter{}, size)), -1
		if res, err := tr.RoundTrip(r); err == nil {
			res.Body.Close()
		}
	}()
	select {
	case n := <-sent:
		if n != fmt.Sprint(size, nil) {
			t.Errorf("of %d bytes %s came", size, n)
		}
	case <-time.After(patience):
		t.Fatal("the upload does not end")
	}

	c := w.mustSocket(alice, "ws")
	must(t, c.WriteMessage(1, []byte("hello")))
	if _, b, err := c.ReadMessage(); err != nil || string(b) != "hello" {
		t.Errorf("websocket: %q %v", b, err)
	}
}

// TestSmugglingByHTTP2: what would become something else in the HTTP/1 behind us never gets there
// (attack 36).
func TestSmugglingByHTTP2(t *testing.T) {
	w := newWorld(t, setup{tls: true})
	alice := w.person("alice")
	got := &inbox{}
	w.serve("alice", echo(got))
	for _, c := range []struct {
		name   string
		fields [][2]string // beside the usual
		body   string
		passes bool
	}{
		{"as it should be", [][2]string{{"content-length", "4"}}, "body", true},
		{"no length", nil, "body", true},
		{"a longer body than told", [][2]string{{"content-length", "1"}}, "xGET /user/alice/smuggled HTTP/1.1\r\n\r\n", false},
		{"a shorter body than told", [][2]string{{"content-length", "100"}}, "body", false},
		{"lengths that differ", [][2]string{{"content-length", "4"}, {"content-length", "0"}}, "body", false},
		{"Transfer-Encoding", [][2]string{{"transfer-encoding", "chunked"}}, "0\r\n\r\nGET /user/alice/smuggled HTTP/1.1\r\n\r\n", false},
		{"Connection", [][2]string{{"connection", "authorization"}}, "", false},
		{"Upgrade", [][2]string{{"upgrade", "websocket"}}, "", false},
		{"CR LF in a value", [][2]string{{"x", "a\r\nx-smuggled: b"}}, "", false},
		{"CR LF in a name", [][2]string{{"x: a\r\nx-smuggled", "b"}}, "", false},
		{"a colon in a name", [][2]string{{"x:y", "b"}}, "", false},
		{"capitals", [][2]string{{"X-Smuggled", "b"}}, "", false},
		{"CR LF in the path", [][2]string{{":path", "/user/alice/ HTTP/1.1\r\nx-smuggled: b"}}, "", false},
		{"a space in the path", [][2]string{{":path", "/user/alice/ HTTP/1.1"}}, "", false},
		{"CR LF in the method", [][2]string{{":method", "GET / HTTP/1.1\r\nx-smuggled: b"}}, "", false},
		{"a pseudo-header twice", [][2]string{{":path", "/user/alice/a"}, {":path", "/user/alice/b"}}, "", false},
		{"an unknown pseudo-header", [][2]string{{":protocol", "websocket"}}, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(got.all())
			fields := [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "alice.hub.test"}, {":path", "/user/alice/one"}}
			var more [][2]string
			for _, f := range c.fields {
				if i := pseudo(fields, f[0]); i >= 0 {
					fields[i] = f
				} else if strings.HasPrefix(f[0], ":") {
					fields = append(fields, f)
				} else {
					more = append(more, f)
				}
			}
			if c.name == "a pseudo-header twice" {
				fields = append(fields, c.fields[0])
			}
			fields = append(fields, more...)
			fields = append(fields, [2]string{"origin", "https://alice.hub.test"}, [2]string{"cookie", w.cookieName() + "=" + alice.cookie.Reveal()})
			status := w.h2Raw(fields, c.body)
			if c.passes != (status == "200") {
				t.Errorf("status %q", status)
			}
			got.mu.Lock()
			defer got.mu.Unlock()
			for i, r := range got.reqs[before:] {
				body := got.body[before+i]
				if r.Header.Get("X-Smuggled") != "" || r.URL.Path != "/user/alice/one" || c.passes && body != c.body || len(body) > 4 {
					t.Errorf("the server got %s %q %q", r.URL.Path, r.Header, body)
				}
			}
		})
	}
}

func pseudo(fields [][2]string, name string) int {
	for i, f := range fields {
		if f[0] == name {
			return i
		}
	}
	return -1
}

// h2Raw sends one request in frames of its own making and gives the status of the answer, or "".
func (w *world) h2Raw(fields [][2]string, body string) (status string) {
	w.t.Helper()
	plain, err := w.dialPlain(w.t.Context(), "", "")
	must(w.t, err)
	config := w.tls.Clone()
	config.NextProtos = []string{"h2"}
	c := tls.Client(plain, config)
	defer c.Close()
	must(w.t, c.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(c, http2.ClientPreface)
	must(w.t, err)
	fr := http2.NewFramer(c, c)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	must(w.t, fr.WriteSettings())
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range fields {
		must(w.t, enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	must(w.t, fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: body == ""}))
	if body != "" {
		_ = fr.WriteData(1, true, []byte(body)) // the stream may be reset by now
	}
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return status
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			status = f.PseudoValue("status")
			if f.StreamEnded() {
				return status
			}
		case *http2.DataFrame:
			if f.StreamEnded() {
				return status
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return status
		}
	}
}

// TestTooMuchByHTTP2: long addresses, many and huge headers, and streams beyond the limit (attack 35).
func TestTooMuchByHTTP2(t *testing.T) {
	w := newWorld(t, setup{tls: true})
	tr := w.h2()
	for name, c := range map[string]struct {
		path string
		opts []option
		want int
	}{
		"50 headers":     {"", numbered(50), 302},
		"101 headers":    {"", numbered(101), 431},
		"a long address": {strings.Repeat("x", maxURL), nil, 414},
		"a huge header":  {"", []option{header("X", strings.Repeat("x", 64<<10))}, 0},
	} {
		res, err := tr.RoundTrip(w.request("GET", "https://hub.test/"+c.path, "", c.opts...))
		if err != nil && c.want != 0 {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			res.Body.Close()
			if res.StatusCode != c.want && c.want != 0 || c.want == 0 && res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("%s: %d", name, res.StatusCode)
			}
		}
	}
	plain, err := w.dialPlain(t.Context(), "", "")
	must(t, err)
	config := w.tls.Clone()
	config.NextProtos = []string{"h2"}
	c := tls.Client(plain, config)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	io.WriteString(c, http2.ClientPreface)
	fr := http2.NewFramer(c, c)
	must(t, fr.WriteSettings())
	for {
		f, err := fr.ReadFrame()
		must(t, err)
		s, ok := f.(*http2.SettingsFrame)
		if !ok || s.IsAck() {
			continue
		}
		if n, ok := s.Value(http2.SettingMaxConcurrentStreams); !ok || n != maxStreams {
			t.Errorf("%d streams are offered", n)
		}
		if n, ok := s.Value(http2.SettingMaxHeaderListSize); !ok || n > maxHeaderBytes+1<<10 {
			t.Errorf("headers of %d bytes are offered", n)
		}
		return
	}
}

func numbered(n int) (list []option) {
	for i := range n {
		list = append(list, header(fmt.Sprintf("X-%d", i), "y"))
	}
	return list
}
