package front

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// patience is how long anything that must come is waited for; machines of CI are loaded.
const patience = 20 * time.Second

// site is an HTTP server behind a Listener.
type site struct {
	addr   string
	client *tls.Config // nil: plain
	count  atomic.Int64
}

// open serves until the test ends.
func open(t *testing.T, secure bool, h http.Handler) *site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{addr: l.Addr().String()}
	opt := Options{}
	if secure {
		opt.TLS = certificate(t)
		opt.TLS.NextProtos = []string{"h2", "http/1.1"}
		s.client = &tls.Config{InsecureSkipVerify: true}
	}
	f := New(l, opt)
	f.Admit(func(net.Addr) (func(), bool) {
		s.count.Add(1)
		return func() { s.count.Add(-1) }, true
	})
	server := NewServer(&http.Server{Handler: h, ReadHeaderTimeout: patience})
	served := make(chan error, 1)
	go func() { served <- server.Serve(f) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

func certificate(t *testing.T) *tls.Config {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	t.Cleanup(s.Close)
	return &tls.Config{Certificates: s.TLS.Certificates}
}

func (s *site) dial(t *testing.T, protocols ...string) net.Conn {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	if s.client != nil {
		config := s.client.Clone()
		config.NextProtos = protocols
		c = tls.Client(c, config)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not so: %s", what)
		}
	}
}

// TestRefused: a fault is answered with 400 and the end, plainly and within TLS, also where the
// client goes on sending.
func TestRefused(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprint("tls ", secure), func(t *testing.T) {
			var served atomic.Int64
			s := open(t, secure, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				served.Add(1)
				io.Copy(io.Discard, r.Body)
			}))
			for name, text := range map[string]string{
				"bare LF": "GET / HTTP/1.1\r\nHost: a.test\n\r\n",
				"both":    "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
				"a flood": "GET / HTTP/1.1\nHost: a.test\n\n" + strings.Repeat("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", 4000),
			} {
				for _, size := range []int{len(text), 1 + len(text)/7} {
					c := s.dial(t, "http/1.1")
					for rest := text; rest != ""; {
						n := min(size, len(rest))
						if _, err := io.WriteString(c, rest[:n]); err != nil {
							break // it may close early
						}
						rest = rest[n:]
					}
					answer, _ := io.ReadAll(c)
					if !bytes.HasPrefix(answer, []byte("HTTP/1.1 400 ")) || bytes.Count(answer, []byte("HTTP/1.1")) != 1 {
						t.Errorf("%s: %q", name, answer)
					}
				}
			}
			if n := served.Load(); n != 0 {
				t.Errorf("%d requests were served", n)
			}
			within(t, "nobody is counted", func() bool { return s.count.Load() == 0 })
		})
	}
}

// TestAFaultBehindARequest: the request before is answered in full, the one at fault with 400; a faulty
// chunk ends the body.
func TestAFaultBehindARequest(t *testing.T) {
	began, goOn := make(chan struct{}), make(chan struct{})
	var bodyErr atomic.Value
	s := open(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			bodyErr.Store(err.Error())
			return
		}
		began <- struct{}{}
		select {
		case <-goOn:
		case <-r.Context().Done():
		}
		fmt.Fprint(w, r.Context().Err())
	}))
	c := s.dial(t)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\nGET / HTTP/1.1\n")
	<-began
	time.AfterFunc(50*time.Millisecond, func() { close(goOn) }) // time for a wrong end to be seen
	if answer, _ := io.ReadAll(c); !bytes.Contains(answer, []byte("<nil>HTTP/1.1 400 ")) {
		t.Errorf("%q", answer)
	}
	c = s.dial(t)
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxx")
	within(t, "the body ends with an error", func() bool { return bodyErr.Load() != nil })
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("the connection does not end: %v", err)
	}
}

// TestRelease: a handler that takes a connection over gets the socket itself, after which nothing is
// looked at; what the client sent early is there.
func TestRelease(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprint("tls ", secure), func(t *testing.T) {
			got := make(chan net.Conn, 1)
			s := open(t, secure, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if (r.TLS != nil) != secure {
					t.Errorf("TLS: %v", r.TLS)
				}
				c, buf, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				c, ahead := Release(c)
				got <- c
				defer c.Close()
				early, _ := buf.Reader.Peek(buf.Reader.Buffered())
				c.Write(append(early, ahead...))
				io.Copy(c, c)
			}))
			c := s.dial(t, "http/1.1")
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nno\nHTTP\r\r\n")
			inner := <-got
			if _, ok := inner.(*net.TCPConn); ok == secure {
				t.Errorf("it is a %T", inner)
			}
			if _, ok := inner.(*tls.Conn); ok != secure {
				t.Errorf("it is a %T", inner)
			}
			within(t, "it is counted no more", func() bool { return s.count.Load() == 0 })
			io.WriteString(c, "\n: and more\n")
			want := "no\nHTTP\r\r\n\n: and more\n"
			answer := make([]byte, len(want))
			if _, err := io.ReadFull(c, answer); err != nil || string(answer) != want {
				t.Errorf("%q %v", answer, err)
			}
		})
	}
	c, _ := net.Pipe()
	if inner, _ := Release(c); inner != c {
		t.Error("what is not ours is given back as it is")
	}
}

// TestTheKernelMovesBodies: net/http finds the socket's own ReadFrom.
func TestTheKernelMovesBodies(t *testing.T) {
	var c net.Conn = plainConn{&conn{Conn: &base{Conn: &net.TCPConn{}}}}
	if _, ok := c.(io.ReaderFrom); !ok {
		t.Error("a plain connection has no ReadFrom")
	}
	if _, ok := c.(interface{ CloseWrite() error }); !ok {
		t.Error("a plain connection has no CloseWrite")
	}
}

// TestHTTP2: clients that can get it, with the same handler.
func TestHTTP2(t *testing.T) {
	s := open(t, true, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) }))
	for _, c := range []struct {
		protocols []string
		want      string
	}{{[]string{"h2", "http/1.1"}, "HTTP/2.0"}, {[]string{"http/1.1"}, "HTTP/1.1"}, {nil, "HTTP/1.1"}} {
		protocols := &http.Protocols{}
		protocols.SetHTTP1(c.want == "HTTP/1.1")
		protocols.SetHTTP2(c.want == "HTTP/2.0")
		config := s.client.Clone()
		config.NextProtos = c.protocols
		tr := &http.Transport{TLSClientConfig: config, Protocols: protocols}
		res, err := (&http.Client{Transport: tr}).Get("https://" + s.addr + "/")
		if err != nil {
			t.Fatalf("%v: %v", c.protocols, err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		tr.CloseIdleConnections()
		if string(body) != c.want {
			t.Errorf("%v: %s", c.protocols, body)
		}
	}
	within(t, "nobody is counted", func() bool { return s.count.Load() == 0 })
}

// TestSlowBeginnings: whoever does not finish a handshake holds up nobody, is counted, and goes with
// the listener.
func TestSlowBeginnings(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	in := 0
	f := New(l, Options{TLS: certificate(t)})
	f.Admit(func(net.Addr) (func(), bool) {
		mu.Lock()
		defer mu.Unlock()
		if in == 3 {
			return nil, false
		}
		in++
		return func() { mu.Lock(); in--; mu.Unlock() }, true
	})
	accepted := make(chan net.Conn, 1)
	go func() {
		for {
			c, err := f.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(patience))
		return c
	}
	slow := []net.Conn{dial(), dial()}
	ctx, done := context.WithTimeout(t.Context(), patience)
	defer done()
	quick := tls.Client(dial(), &tls.Config{InsecureSkipVerify: true})
	if err := quick.HandshakeContext(ctx); err != nil {
		t.Fatal(err)
	}
	c := <-accepted
	defer c.Close()
	within(t, "three are counted", func() bool { mu.Lock(); defer mu.Unlock(); return in == 3 })
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("the fourth is let in")
	}
	began := time.Now()
	f.Close()
	if took := time.Since(began); took > beginTime/2 {
		t.Errorf("closing took %v", took)
	}
	for _, s := range slow {
		if _, err := s.Read(make([]byte, 1)); err == nil {
			t.Error("a slow one is still there")
		}
	}
	if _, open := <-accepted; open {
		t.Error("more was accepted")
	}
}

// TestStop: whoever was there when a listener stopped is still brought through.
func TestStop(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := New(l, Options{TLS: certificate(t)})
	t.Cleanup(func() { f.Close() })
	came := make(chan struct{}, 1)
	f.Admit(func(net.Addr) (func(), bool) { came <- struct{}{}; return nil, true })
	type accepted struct {
		c   net.Conn
		err error
	}
	got := make(chan accepted, 2)
	go func() {
		for range 2 {
			c, err := f.Accept()
			got <- accepted{c, err}
		}
	}()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-came
	f.Stop()
	c.SetDeadline(time.Now().Add(patience))
	if err := tls.Client(c, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context()); err != nil {
		t.Fatalf("after the stop: %v", err)
	}
	first := <-got
	if first.err != nil {
		t.Fatal(first.err)
	}
	first.c.Close()
	if second := <-got; !errors.Is(second.err, net.ErrClosed) {
		t.Errorf("then: %v", second.err)
	}
}
