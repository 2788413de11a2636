package h1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"
)

// patience is how long anything that must come is waited for; machines of CI are loaded.
const patience = 20 * time.Second

// server is a raw one: each connection, by its number from 0, is given to a function, and closed after it.
type server struct {
	client Client
	opened atomic.Int64
}

func serve(t testing.TB, serve func(n int, c net.Conn, br *bufio.Reader)) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{client: Client{
		Dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		},
		MaxIdle: 4, IdleTime: time.Minute, MaxHead: 64 << 10, AnswerTime: patience, ContinueTime: patience,
	}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := int(s.opened.Add(1)) - 1
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				serve(n, c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() { s.client.Retire(); l.Close(); wg.Wait() })
	return s
}

// read reads a request whole; nil at the connection's end.
func read(br *bufio.Reader) (*http.Request, string) {
	r, err := http.ReadRequest(br)
	if err != nil {
		return nil, ""
	}
	b, _ := io.ReadAll(r.Body)
	return r, string(b)
}

func request(t testing.TB, method, path string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://server"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ask makes a whole round trip.
func (s *server) ask(r *http.Request) (*http.Response, string, error) {
	res, err := s.client.RoundTrip(r)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res, string(b), err
}

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"

// TestReuse: after which answers a connection serves the next request.
func TestReuse(t *testing.T) {
	for _, c := range []struct {
		name, method, answer string
		body                 string
		status               int
		reused               bool
	}{
		{"a length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", "body", 200, true},
		{"no bytes", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", 200, true},
		{"chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n", "body", 200, true},
		{"chunks and trailers", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n4\r\nbody\r\n0\r\nX: y\r\n\r\n", "body", 200, true},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", "", 200, true},
		{"HEAD, chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "", 200, true},
		{"204", "DELETE", "HTTP/1.1 204 No Content\r\n\r\n", "", 204, true},
		{"304 with a length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", "", 304, true},
		{"informed before", "GET", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + fine, "fine", 200, true},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody", "body", 200, false},
		{"Connection: close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody", "body", 200, false},
		{"close among others", "GET", "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 4\r\n\r\nbody", "body", 200, false},
		{"more than was announced", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodymore", "body", 200, false},
		{"a second answer", "GET", fine + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", "fine", 200, false},
		{"a body behind 204", "GET", "HTTP/1.1 204 No Content\r\n\r\nbody", "", 204, false},
		{"a body behind HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", "", 200, false},
		{"a length and chunks", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", "body", 200, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, func(n int, conn net.Conn, br *bufio.Reader) {
				for {
					r, _ := read(br)
					switch {
					case r == nil:
						return
					case r.URL.Path == "/second":
						fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", n)
					default:
						io.WriteString(conn, c.answer)
					}
				}
			})
			res, body, err := s.ask(request(t, c.method, "/", nil))
			if err != nil || res.StatusCode != c.status || body != c.body {
				t.Fatalf("%v %q %v", res, body, err)
			}
			want := "1"
			if c.reused {
				want = "0"
			}
			if _, body, err = s.ask(request(t, "GET", "/second", nil)); err != nil || body != want {
				t.Errorf("the next request went over connection %s (%v), want %s", body, err, want)
			}
		})
	}
}

// TestNonsense: what is no answer is an error, and not asked for again.
func TestNonsense(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing":              "",
		"no HTTP":              "hello\r\n\r\n",
		"half a head":          "HTTP/1.1 200 OK\r\nContent-Le",
		"half a status":        "HTTP/1.1 20",
		"status 099":           "HTTP/1.1 099 X\r\n\r\n",
		"a switch":             "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
		"endless informations": strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100),
		"two lengths":          "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody",
		"a signed length":      "HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nbody",
		"a giant head":         "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 1<<20) + "\r\n\r\n",
		"endless headers":      "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 1<<16),
		"two encodings":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			s := serve(t, func(_ int, c net.Conn, br *bufio.Reader) {
				if r, _ := read(br); r != nil {
					asked.Add(1)
					io.WriteString(c, answer)
				}
			})
			if res, body, err := s.ask(request(t, "GET", "/", nil)); err == nil {
				t.Errorf("%v %q", res, body)
			}
			if asked.Load() != 1 {
				t.Errorf("asked %d times", asked.Load())
			}
		})
	}
}

// TestHalfABody never passes for a whole one.
func TestHalfABody(t *testing.T) {
	for name, answer := range map[string]string{
		"a length": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
		"chunks":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
		"a chunk":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf",
		"no chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(_ int, c net.Conn, br *bufio.Reader) {
				read(br)
				io.WriteString(c, answer)
			})
			if _, body, err := s.ask(request(t, "GET", "/", nil)); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%q %v", body, err)
			}
		})
	}
}

// TestAKeptConnectionThatEnds: who is asked again, and who is not.
func TestAKeptConnectionThatEnds(t *testing.T) {
	for _, c := range []struct {
		name, method, body string
		says               string // before the end, on the kept connection
		reads              bool   // the second request, before the end
		again              bool
	}{
		{"GET, closed while idle", "GET", "", "", false, true},
		{"POST, closed while idle", "POST", "x", "", false, true}, // seen before it is sent
		{"GET, closed on its arrival", "GET", "", "", true, true},
		{"HEAD, closed on its arrival", "HEAD", "", "", true, true},
		{"POST, closed on its arrival", "POST", "x", "", true, false},
		{"POST without a body, closed on its arrival", "POST", "", "", true, false},
		{"DELETE, closed on its arrival", "DELETE", "", "", true, false},
		{"GET with a body, closed on its arrival", "GET", "x", "", true, false},
		{"GET, half a head", "GET", "", "HTTP/1.1 200", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			closed := make(chan struct{})
			var asked atomic.Int64
			s := serve(t, func(n int, conn net.Conn, br *bufio.Reader) {
				read(br)
				asked.Add(1)
				answer := fine
				if n > 0 {
					answer = strings.Replace(fine, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
				}
				io.WriteString(conn, answer)
				if n > 0 {
					return
				}
				if c.reads {
					read(br)
					asked.Add(1)
				}
				io.WriteString(conn, c.says)
				conn.Close()
				close(closed)
			})
			if _, _, err := s.ask(request(t, "GET", "/", nil)); err != nil {
				t.Fatal(err)
			}
			if !c.reads {
				<-closed
			}
			var body io.Reader
			if c.body != "" {
				body = strings.NewReader(c.body)
			}
			_, _, err := s.ask(request(t, c.method, "/", body))
			want := int64(2)
			if c.reads && c.again {
				want = 3
			}
			if (err == nil) != c.again || asked.Load() != want {
				t.Errorf("%v; asked %d times, want %d", err, asked.Load(), want)
			}
		})
	}
}

// TestNotAskedForBytes: what came on an idle connection is no answer to the next request.
func TestNotAskedForBytes(t *testing.T) {
	say, said := make(chan struct{}), make(chan struct{})
	s := serve(t, func(n int, c net.Conn, br *bufio.Reader) {
		read(br)
		io.WriteString(c, fine)
		if n == 0 {
			<-say
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
			close(said)
		}
		read(br)
	})
	if _, _, err := s.ask(request(t, "GET", "/", nil)); err != nil {
		t.Fatal(err)
	}
	close(say)
	<-said
	if _, body, err := s.ask(request(t, "GET", "/", nil)); err != nil || body != "fine" {
		t.Errorf("%q %v", body, err)
	}
}

// TestContinue: a body that waits is sent when the server asks for it, and not when it does not.
func TestContinue(t *testing.T) {
	for _, c := range []struct {
		name, first string
		late        time.Duration
		sent        bool
	}{
		{"asked for", "HTTP/1.1 100 Continue\r\n\r\n", patience, true},
		{"refused", "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", patience, false},
		{"nothing said", "", time.Millisecond, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := make(chan string, 1)
			s := serve(t, func(_ int, conn net.Conn, br *bufio.Reader) {
				r, err := http.ReadRequest(br)
				if err != nil || r.Header.Get("Expect") == "" {
					t.Error(err, r)
					return
				}
				io.WriteString(conn, c.first)
				b, _ := io.ReadAll(r.Body)
				got <- string(b)
				if c.sent {
					io.WriteString(conn, fine)
				}
			})
			s.client.ContinueTime = c.late
			r := request(t, "PUT", "/", strings.NewReader("body"))
			r.Header.Set("Expect", "100-continue")
			res, _, err := s.ask(r)
			want := map[bool]string{true: "body", false: ""}[c.sent]
			if b := <-got; err != nil || (res.StatusCode == http.StatusOK) != c.sent || b != want {
				t.Errorf("%v %v %q", res, err, b)
			}
			if !c.sent && len(s.client.idle) > 0 {
				t.Error("a connection without the body that was announced is kept")
			}
		})
	}
}

// endless is a body that comes until it is closed.
type endless struct {
	closed chan struct{}
	once   sync.Once
}

func (e *endless) Read(b []byte) (int, error) {
	select {
	case <-e.closed:
		return 0, errors.New("closed")
	case <-time.After(time.Millisecond):
		return copy(b, "more"), nil
	}
}

func (e *endless) Close() error { e.once.Do(func() { close(e.closed) }); return nil }

// TestAnEarlyAnswer comes while the body is still on its way, which then ends.
func TestAnEarlyAnswer(t *testing.T) {
	for _, length := range []int64{-1, 1 << 40} {
		s := serve(t, func(_ int, c net.Conn, br *bufio.Reader) {
			if _, err := http.ReadRequest(br); err == nil {
				io.WriteString(c, fine)
			}
			io.Copy(io.Discard, br)
		})
		b := &endless{closed: make(chan struct{})}
		r := request(t, "POST", "/", nil)
		r.Body, r.ContentLength = b, length
		res, body, err := s.ask(r)
		if err != nil || res.StatusCode != http.StatusOK || body != "fine" {
			t.Fatalf("%v %q %v", res, body, err)
		}
		select {
		case <-b.closed:
		default:
			t.Error("the request's body is still open")
		}
		if len(s.client.idle) > 0 {
			t.Error("the connection is kept in the middle of a request")
		}
	}
}

// TestBodies arrive as they are, in every framing, and trailers behind them; the connection is kept.
func TestBodies(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 40<<10)
	for _, text := range []string{"x", long, ""} {
		for _, length := range []int64{-1, int64(len(text))} {
			s := serve(t, func(_ int, c net.Conn, br *bufio.Reader) {
				for {
					r, body := read(br)
					if r == nil {
						return
					}
					fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Sum: %s\r\nX-Length: %d\r\n\r\n%s", len(body), r.Trailer.Get("X-Sum"), r.ContentLength, body)
				}
			})
			for range 3 {
				r := request(t, "POST", "/", nil)
				r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), length
				if length < 0 {
					r.Trailer = http.Header{"X-Sum": {"1"}}
				}
				res, body, err := s.ask(r)
				if err != nil || body != text || (res.Header.Get("X-Sum") == "1") != (length < 0) || res.Header.Get("X-Length") != strconv.FormatInt(length, 10) {
					t.Errorf("length %d: %d bytes, %v %v", length, len(body), res, err)
				}
			}
			if n := s.opened.Load(); n != 1 {
				t.Errorf("%d connections", n)
			}
		}
	}
}

// TestAShortBody is not made longer, and its connection serves nobody else.
func TestAShortBody(t *testing.T) {
	s := serve(t, func(_ int, c net.Conn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err == nil {
			io.WriteString(c, fine)
		}
		io.Copy(io.Discard, br)
	})
	r := request(t, "POST", "/", nil)
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader("short")), 10
	_, _, _ = s.ask(r) // an answer may come all the same
	if len(s.client.idle) > 0 {
		t.Error("the connection is kept")
	}
}

// TestABodyThatBreaks ends its request at once, though the server waits for the rest.
func TestABodyThatBreaks(t *testing.T) {
	broke := errors.New("the client left")
	for name, c := range map[string]struct {
		body   io.Reader
		length int64
		want   error
	}{
		"of known length":         {io.MultiReader(strings.NewReader("short"), iotest.ErrReader(broke)), 10, broke},
		"in chunks":               {io.MultiReader(strings.NewReader("short"), iotest.ErrReader(broke)), -1, broke},
		"shorter than it is told": {strings.NewReader("short"), 10, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(_ int, _ net.Conn, br *bufio.Reader) { io.Copy(io.Discard, br) })
			r := request(t, "POST", "/", nil)
			r.Body, r.ContentLength = io.NopCloser(c.body), c.length
			if _, _, err := s.ask(r); !errors.Is(err, ErrSend) || !errors.Is(err, c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestGivenUp: the end of the request's context ends a round trip wherever it is.
func TestGivenUp(t *testing.T) {
	for name, first := range map[string]string{"before the head": "", "within the head": "HTTP/1.1 200 OK\r\nX:", "within the body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody"} {
		t.Run(name, func(t *testing.T) {
			said, ended := make(chan struct{}), make(chan struct{})
			s := serve(t, func(_ int, c net.Conn, br *bufio.Reader) {
				read(br)
				io.WriteString(c, first)
				close(said)
				io.Copy(io.Discard, br)
				close(ended)
			})
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-said; cancel() }()
			if _, _, err := s.ask(request(t, "GET", "/", nil).WithContext(ctx)); err == nil {
				t.Error("it succeeds")
			}
			<-ended
			if len(s.client.idle) > 0 {
				t.Error("the connection is kept")
			}
		})
	}
}

// TestASlowHead is waited for within bounds, and a slow body without.
func TestASlowHead(t *testing.T) {
	goOn := make(chan struct{})
	s := serve(t, func(_ int, c net.Conn, br *bufio.Reader) {
		if r, _ := read(br); r != nil && r.URL.Path == "/body" {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbo")
			time.Sleep(400 * time.Millisecond) // longer than a head may take
			io.WriteString(c, "dy")
		}
		<-goOn
	})
	defer close(goOn)
	s.client.AnswerTime = 100 * time.Millisecond
	if _, body, err := s.ask(request(t, "GET", "/body", nil)); err != nil || body != "body" {
		t.Errorf("%q %v", body, err)
	}
	var timeout net.Error
	if _, _, err := s.ask(request(t, "GET", "/head", nil)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%v", err)
	}
}

// TestIdle: connections are kept for a time, so many of them, and not past the end.
func TestIdle(t *testing.T) {
	s := serve(t, func(_ int, c net.Conn, br *bufio.Reader) {
		for {
			r, _ := read(br)
			if r == nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n")
		}
	})
	var open []*http.Response
	for range 6 {
		res, err := s.client.RoundTrip(request(t, "GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, res)
	}
	for _, res := range open {
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	if n := len(s.client.idle); n != s.client.MaxIdle {
		t.Errorf("%d are kept", n)
	}
	if s.client.Sweep(time.Now()) || len(s.client.idle) == 0 {
		t.Error("swept too early")
	}
	if !s.client.Sweep(time.Now().Add(2*time.Minute)) || len(s.client.idle) > 0 {
		t.Error("not swept")
	}
	res, err := s.client.RoundTrip(request(t, "GET", "/", nil))
	if err != nil {
		t.Fatal(err)
	}
	s.client.Retire()
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	if len(s.client.idle) > 0 {
		t.Error("kept although nobody comes any more")
	}
}
