package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"carrel/hub"
)

// succeeded ends the proxy as a successor has it end, and waits.
func (w *world) succeeded(t *testing.T, l net.Listener) (begin func(), ended <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	over := make(chan error, 1)
	go func() { over <- w.proxy.Run(ctx, l) }()
	w.addr = l.Addr().String()
	w.until("the proxy is ready", func() bool { return w.proxy.ready.Load() })
	w.stop = sync.OnceValue(func() error { cancel(nil); return nil })
	return func() { cancel(ErrSucceeded) }, over
}

// again is another proxy on the same listener, or a first one that is not started yet.
func (w *world) again(t *testing.T, change func(*Config)) {
	t.Helper()
	_ = w.stop()
	cfg := w.proxy.cfg
	change(&cfg)
	var err error
	w.proxy, err = New(cfg)
	must(t, err)
}

// TestSucceeded: with a successor that accepts, a connection that is kept open is answered once more
// and told to close, and a websocket that it opens is told to come back.
func TestSucceeded(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", echo(nil))
	w.again(t, func(*Config) {})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	begin, ended := w.succeeded(t, l)
	kept, upgrading := w.keptOpen(t), w.keptOpen(t)
	for _, c := range []*keptConn{kept, upgrading} {
		if res := c.ask(t, w.request("GET", w.url("alice", "x"), "", w.as(alice))); res.StatusCode != http.StatusOK || res.Close {
			t.Fatalf("before: %d, closes: %v", res.StatusCode, res.Close)
		}
	}
	open := w.mustSocket(alice, "ws")
	roundTrip(t, open, []byte("x"))
	begin()
	wantClose(t, open, websocket.CloseGoingAway)
	if res := kept.ask(t, w.request("GET", w.url("alice", "x"), "", w.as(alice))); res.StatusCode != http.StatusOK || !res.Close {
		t.Errorf("on a connection kept open: %d, closes: %v", res.StatusCode, res.Close)
	}
	if b, err := io.ReadAll(kept.r); len(b) > 0 || err != nil {
		t.Errorf("then it ends with %q, %v", b, err)
	}
	res := upgrading.ask(t, w.request("GET", w.url("alice", "ws"), "", w.as(alice), kinds["websocket"], ownOrigin(w, "alice")))
	frame, err := io.ReadAll(upgrading.r)
	if want := closeFrame(closeGoingAway, goingAway); res.StatusCode != http.StatusSwitchingProtocols || err != nil || !slices.Equal(frame, want) {
		t.Errorf("a websocket on a connection kept open: %d, then %q, %v; want %q", res.StatusCode, frame, err, want)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// keptConn is a connection that is not closed after an answer.
type keptConn struct {
	net.Conn
	r *bufio.Reader
}

func (w *world) keptOpen(t *testing.T) *keptConn {
	t.Helper()
	c, err := w.dial(t.Context(), "", "")
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(patience)))
	return &keptConn{c, bufio.NewReader(c)}
}

func (c *keptConn) ask(t *testing.T, r *http.Request) *http.Response {
	t.Helper()
	must(t, r.Write(c))
	res, err := http.ReadResponse(c.r, r)
	must(t, err)
	if res.StatusCode != http.StatusSwitchingProtocols {
		_, err = io.Copy(io.Discard, res.Body)
		must(t, err)
	}
	return res
}

// TestNotice: a load balancer is told first, and served until the notice is over.
func TestNotice(t *testing.T) {
	w := newWorld(t, setup{})
	w.again(t, func(cfg *Config) { cfg.Drain.Notice = 300 * time.Millisecond })
	w.start(false)
	began := time.Now()
	stopped := make(chan struct{})
	go func() { w.stop(); close(stopped) }()
	w.until("it says that it is not ready", func() bool { return w.get("https://hub.test/carrel-health").status == 503 })
	<-stopped
	if took := time.Since(began); took < w.proxy.cfg.Drain.Notice {
		t.Errorf("it was gone after %v", took)
	}
}

// TestTunnelsAreToldOneAfterAnother, evenly over the time, whatever each of them does then.
func TestTunnelsAreToldOneAfterAnother(t *testing.T) {
	const n, over = 100, 10 * time.Second
	synctest.Test(t, func(t *testing.T) {
		var s tunnels
		for range n {
			front, _ := net.Pipe()
			back, _ := net.Pipe()
			s.add(newLive(front, back, credential{hash: hub.RandomSecret().Hash()}, &route{}))
		}
		told := func() (n int) {
			for t := range s.byServer[hub.ServerKey{}] {
				if t.ending() != nil {
					n++
				}
			}
			return n
		}
		go s.leave(t.Context(), over)
		for part := 1; part <= 10; part++ {
			time.Sleep(over/10 - time.Millisecond)
			synctest.Wait()
			if got := told(); got != part*n/10 {
				t.Errorf("after %d tenths %d of %d are told", part, got, n)
			}
			time.Sleep(time.Millisecond)
		}
	})
}
