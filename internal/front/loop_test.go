package front

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// run serves by the loop until the test ends, plainly.
func run(t *testing.T, std *http.Server) (*Server, func() net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(std)
	served := make(chan error, 1)
	go func() { served <- s.Serve(New(l, Options{})) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return s, (&site{addr: l.Addr().String()}).dialer(t)
}

func (s *site) dialer(t *testing.T) func() net.Conn { return func() net.Conn { return s.dial(t) } }

// TestTheClientLeaves: a request ends with its client, also after its body, and within TLS.
func TestTheClientLeaves(t *testing.T) {
	for _, secure := range []bool{false, true} {
		for _, head := range []string{"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc"} {
			ended := make(chan error, 2)
			began := make(chan struct{}, 1)
			s := open(t, secure, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				context.AfterFunc(r.Context(), func() { ended <- nil })
				derived, done := context.WithTimeout(r.Context(), patience)
				defer done()
				began <- struct{}{}
				<-derived.Done()
				ended <- derived.Err()
			}))
			c := s.dial(t, "http/1.1")
			io.WriteString(c, head)
			<-began
			c.Close()
			for range 2 {
				if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("tls %v, %q: %v", secure, head, err)
				}
			}
		}
	}
}

// TestWhatComesMeanwhile: a request that comes while one takes long is answered after it, to the byte.
func TestWhatComesMeanwhile(t *testing.T) {
	goOn := make(chan struct{})
	_, dial := run(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-goOn
		}
		b, err := io.ReadAll(r.Body)
		fmt.Fprint(w, r.URL.Path, string(b), err, r.Context().Err())
	})})
	c := dial()
	io.WriteString(c, "GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n")
	time.AfterFunc(2*lookEvery, func() { // it is watched by then
		io.WriteString(c, "POST /second HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nokGET /third HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
		time.AfterFunc(2*lookEvery, func() { close(goOn) })
	})
	br := bufio.NewReader(c)
	for _, want := range []string{"/slow<nil> <nil>", "/secondok<nil> <nil>", "/third<nil> <nil>"} {
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); err != nil || string(b) != want {
			t.Errorf("%q %v, want %q", b, err, want)
		}
	}
}

// TestShutdown: what is idle ends at once, what is served ends well, and is told that it was the last.
func TestShutdown(t *testing.T) {
	for name, more := range map[string]string{"plain": "", "net/http's": "Connection: keep-alive, x\r\n"} {
		t.Run(name, func(t *testing.T) {
			began, goOn := make(chan struct{}, 1), make(chan struct{})
			s, dial := run(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					began <- struct{}{}
					<-goOn
				}
				io.WriteString(w, "whole")
			})})
			idle, busy := dial(), dial()
			ask := func(c net.Conn, path string) {
				io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: a.test\r\n"+more+"\r\n")
			}
			ask(idle, "/")
			res, err := http.ReadResponse(bufio.NewReader(idle), nil)
			if err != nil || res.Close {
				t.Fatalf("%v %v", res, err)
			}
			io.Copy(io.Discard, res.Body)
			ask(busy, "/slow")
			<-began
			over := make(chan error, 1)
			go func() { over <- s.Shutdown(t.Context()) }()
			if name == "plain" { // net/http's side ends after the loop's
				if b, err := io.ReadAll(idle); len(b) > 0 || err != nil {
					t.Errorf("idle: %q %v", b, err)
				}
			}
			select {
			case err := <-over:
				t.Fatalf("it does not wait: %v", err)
			case <-time.After(50 * time.Millisecond):
			}
			close(goOn)
			answer, err := io.ReadAll(busy)
			if !strings.Contains(string(answer), "whole") || !strings.Contains(string(answer), "Connection: close") || err != nil {
				t.Errorf("%q %v", answer, err)
			}
			if err := <-over; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCloseCuts: connections end, and with them requests.
func TestCloseCuts(t *testing.T) {
	began, ended := make(chan struct{}, 1), make(chan struct{})
	s, dial := run(t, &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-r.Context().Done()
		close(ended)
	})})
	fresh, busy := dial(), dial()
	io.WriteString(busy, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	<-began
	s.Close()
	<-ended
	for _, c := range []net.Conn{fresh, busy} {
		if b, _ := io.ReadAll(c); len(b) > 0 {
			t.Errorf("%q", b)
		}
	}
}

// TestAClientThatDoesNotRead: the deadline for writing ends it, a while late at most.
func TestAClientThatDoesNotRead(t *testing.T) {
	failed := make(chan error, 1)
	_, dial := run(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		b := make([]byte, 1<<20)
		for {
			if _, err := w.Write(b); err != nil {
				failed <- err
				return
			}
		}
	})})
	io.WriteString(dial(), "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	if err := <-failed; !strings.Contains(err.Error(), "timeout") {
		t.Error(err)
	}
}

// TestAMoveThatFails: when the kernel could move a part of the body only, what went is counted, and
// nothing goes on as if it were nothing.
func TestAMoveThatFails(t *testing.T) {
	type result struct {
		n     int64
		after error
	}
	got := make(chan result, 1)
	_, dial := run(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		near, far := tcpPair(t)
		io.WriteString(far, strings.Repeat("x", 100_000))
		far.(*net.TCPConn).SetLinger(0)
		time.AfterFunc(50*time.Millisecond, func() { far.Close() }) // a reset
		w.Header().Set("Content-Length", "200000")
		n, err := w.(io.ReaderFrom).ReadFrom(&io.LimitedReader{R: near, N: 200_000})
		if err == nil {
			t.Error("it did not fail")
		}
		_, after := io.WriteString(w, strings.Repeat("y", 100_000))
		got <- result{n, after}
	})})
	c := dial()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	r := <-got
	if err == nil || strings.Contains(string(b), "y") || r.after == nil || int64(len(b)) != r.n {
		t.Errorf("%d bytes came, %v; %d were counted, then %v", len(b), err, r.n, r.after)
	}
}

// tcpPair are two ends of a connection.
func tcpPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// TestEarlyBytesOfAnUpgrade: however many came behind the head, none is lost on the way to who takes
// the connection over.
func TestEarlyBytesOfAnUpgrade(t *testing.T) {
	for _, n := range []int{0, 1, 3000, 4096, 7000, 20_000} {
		early := strings.Repeat("frame ", n/6+1)[:n]
		got := make(chan string, 1)
		_, dial := run(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			taken, buf, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			c, ahead := Release(taken)
			defer c.Close()
			first, _ := buf.Reader.Peek(buf.Reader.Buffered())
			rest, _ := io.ReadAll(c)
			got <- string(first) + string(ahead) + string(rest)
		})})
		c := dial()
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: x\r\nX: "+strings.Repeat("x", 500)+"\r\n\r\n"+early)
		c.(*net.TCPConn).CloseWrite()
		if s := <-got; s != early {
			t.Errorf("of %d bytes %d came", n, len(s))
		}
	}
}

// TestHandedOver: a connection that net/http was given is served by it from then on.
func TestHandedOver(t *testing.T) {
	_, dial := run(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%T", w)
	})})
	c := dial()
	br := bufio.NewReader(c)
	for _, want := range []struct{ more, writer string }{{"", "*front.response"}, {"Connection: keep-alive, x\r\n", "*http.response"}, {"", "*http.response"}} {
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n"+want.more+"\r\n")
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := io.ReadAll(res.Body); string(b) != want.writer {
			t.Errorf("%s wrote", b)
		}
	}
}
