package proxy

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"carrel/internal/frametest"
)

// TestCutOfASlowReader: a browser that stopped to read in the middle of a large frame is cut. If it reads
// on it gets the frame's rest and then the close frame; if it doesn't, the tunnel ends all the same.
func TestCutOfASlowReader(t *testing.T) {
	const size = 16<<20 + 1234
	for _, form := range forms {
		for name, reads := range map[string]bool{"reads on": true, "never does": false} {
			t.Run(form+", "+name, func(t *testing.T) {
				x := newSpan(t, form, "tcp", running(t))
				payload := make([]byte, size)
				rand.Read(payload)
				go func() { // ends with the connection
					x.server.Write(append(binaryFrame(payload), "\x82\x04more"...))
					for {
						if _, err := io.WriteString(x.server, "\x82\x04more"); err != nil {
							return
						}
					}
				}()
				x.begin("")
				x.sticks(t, &x.down)
				began := time.Now()
				x.cut(closePolicy, "you were signed out")
				if took := time.Since(began); took > 200*time.Millisecond {
					t.Errorf("the cut takes %v", took)
				}
				if !reads {
					x.ends(t, 8*time.Second)
					return
				}
				got, err := io.ReadAll(x.browser)
				must(t, err)
				x.browser.Close()
				if want := append(binaryFrame(payload), closeFrame(closePolicy, "you were signed out")...); !bytes.Equal(got, want) {
					t.Errorf("%d bytes that end in %q, want %d", len(got), got[max(0, len(got)-40):], len(want))
				}
				x.ends(t, patience)
			})
		}
	}
}

// sticks waits until a write goes on no more.
func (x *span) sticks(t *testing.T, w *way) {
	t.Helper()
	var last uint64
	at := time.Now()
	within(t, patience, "it is stuck", func() bool {
		stats := x.route.stats
		if now := stats.sent.Load() + stats.received.Load() + uint64(w.since.Load()); now != last {
			last, at = now, time.Now()
		}
		return w.since.Load() != 0 && time.Since(at) > 50*time.Millisecond
	})
}

// TestNoPongInTheMiddle: what is half written to the server is not torn apart, also where a frame ends
// with the chunk and there is room again before its rest is written.
func TestNoPongInTheMiddle(t *testing.T) {
	l, err := newLoop() // which does not run
	must(t, err)
	defer l.end()
	x := newSpan(t, "loop", "tcp", &loops{list: []*loop{l}})
	chunk := bytes.Repeat([]byte("\x82\x82maskab"), chunkSize/8)
	written := 0
	var h handed
	for h.stage != begun {
		written += len(chunk)
		h = x.passUp(chunk, 1)
	}
	_, err = io.CopyN(io.Discard, x.server, int64(written-len(h.chunk)))
	must(t, err)
	if n := x.pongAtOnce(); n != 0 {
		t.Errorf("%d bytes come between", n)
	}
	must(t, x.onward(h.chunk, begun))
	if n := x.pongAtOnce(); n != len(lonePong) {
		t.Errorf("%d bytes of a pong are written behind it, want %d", n, len(lonePong))
	}
	got := make([]byte, len(h.chunk)+len(lonePong))
	if _, err := io.ReadFull(x.server, got); err != nil || !bytes.Equal(got, append(h.chunk, lonePong...)) {
		t.Errorf("what comes is not what was sent (%v)", err)
	}
	x.pair[0].release()
	x.pair[1].release()
}

// TestCutWhileIdle is quick, and clean, in each form.
func TestCutWhileIdle(t *testing.T) {
	for _, form := range forms {
		t.Run(form, func(t *testing.T) {
			x := newSpan(t, form, "unix", running(t))
			x.begin("")
			if form == "loop" {
				within(t, patience, "the loop carries both ways", x.looped)
			}
			x.cut(closePolicy, "over")
			began := time.Now()
			got, err := io.ReadAll(x.browser)
			if err != nil || !bytes.Equal(got, closeFrame(closePolicy, "over")) {
				t.Errorf("%q %v", got, err)
			}
			if took := time.Since(began); took > 200*time.Millisecond {
				t.Errorf("it takes %v", took)
			}
			io.WriteString(x.browser, "\x88\x80aaaa") // is not passed on
			x.browser.Close()
			if got, err := io.ReadAll(x.server); err != nil || len(got) > 0 {
				t.Errorf("the server hears %q %v", got, err)
			}
			x.ends(t, 5*time.Second)
		})
	}
}

// A tunnel that a loop carries says farewell before cut returns: no goroutine has to come first. It says so
// once, and nothing of the server's comes behind it.
func TestFarewellAtOnce(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // so that nobody else comes first
	x := newSpan(t, "loop", "unix", running(t))
	x.begin("")
	hello, got := binaryFrame([]byte("hello")), make([]byte, 1<<10)
	_, err := x.server.Write(hello)
	must(t, err)
	must(t, x.browser.SetDeadline(time.Now().Add(10*time.Second)))
	n, err := x.browser.Read(got)
	if err != nil || !bytes.Equal(got[:n], hello) {
		t.Fatalf("% x, %v", got[:n], err)
	}
	within(t, patience, "the loop carries both ways", x.looped)
	x.cut(closePolicy, "you were signed out")
	want := closeFrame(closePolicy, "you were signed out")
	raw, err := x.browser.(*net.TCPConn).SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { n, err = receive(int(fd), got) }))
	if err != nil || !bytes.Equal(got[:n], want) {
		t.Errorf("at once the browser has % x, %v", got[:max(n, 0)], err)
	}
	_, _ = x.server.Write(binaryFrame([]byte("too late"))) // it may be gone
	rest, err := io.ReadAll(x.browser)
	if err != nil || len(rest) > 0 {
		t.Errorf("behind the close frame comes % x, %v", rest, err)
	}
	x.browser.Close()
	x.ends(t, 5*time.Second)
}

// tearing is a browser's end that takes half of the first write, by which time the tunnel is cut.
type tearing struct {
	net.Conn

	tunnel *live
	writes int
}

func (c *tearing) Write(b []byte) (int, error) {
	if len(b) == 0 { // there is no head
		return 0, nil
	}
	if c.writes++; c.writes == 1 {
		c.tunnel.cut(closePolicy, "over")
		return len(b) / 2, os.ErrDeadlineExceeded
	}
	return len(b), nil
}

// Behind a part of a frame comes nothing, and no close frame: the browser would take it for the rest.
func TestNothingBehindAPart(t *testing.T) {
	front, browser := net.Pipe()
	back, server := net.Pipe()
	defer browser.Close()
	defer server.Close()
	c := &tearing{Conn: front}
	x := newLive(c, back, credential{}, &route{stats: &routeStats{}, rest: &rest{}})
	c.tunnel = x
	over := make(chan struct{})
	x.start(nil, nil, nil, func(*live) { close(over) })
	_, err := server.Write(binaryFrame([]byte("hello")))
	must(t, err)
	go server.Write(binaryFrame([]byte("more"))) // the tunnel's end ends it
	select {
	case <-over:
	case <-time.After(10 * time.Second):
		t.Fatal("the tunnel does not end")
	}
	if c.writes != 1 {
		t.Errorf("%d writes to the browser", c.writes)
	}
}

// TestResetWhileFlooding: one side is gone while the other floods. It hears of it, and the tunnel ends.
func TestResetWhileFlooding(t *testing.T) {
	for _, form := range forms {
		for _, fromServer := range []bool{true, false} {
			t.Run(form+map[bool]string{true: " from the server", false: " from the browser"}[fromServer], func(t *testing.T) {
				x := newSpan(t, form, "tcp", running(t))
				x.begin("")
				source, sink := x.server, x.browser
				if !fromServer {
					source, sink = sink, source
				}
				failed := make(chan error, 1)
				go func() {
					frame := binaryFrame(make([]byte, 1<<20))
					for {
						if _, err := source.Write(frame); err != nil {
							failed <- err
							return
						}
					}
				}()
				if _, err := io.CopyN(io.Discard, sink, 8<<20); err != nil {
					t.Fatal(err)
				}
				if s, ok := sink.(*tls.Conn); ok {
					sink = s.NetConn()
				}
				if c, ok := sink.(*net.TCPConn); ok {
					must(t, c.SetLinger(0)) // what follows is a reset
				}
				sink.Close()
				x.ends(t, patience)
				select {
				case <-failed:
				case <-time.After(patience):
					t.Error("who floods was told nothing")
				}
			})
		}
	}
}

// TestStoppedAndGoing: large and small messages both ways, of sides that stop to read now and then, get
// there as they were, however often a goroutine takes over from the loop and gives back.
func TestStoppedAndGoing(t *testing.T) {
	const total = 24 << 20
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			x := newSpan(t, "loop", network, running(t))
			x.begin("")
			var sums [4][sha256.Size]byte
			write := func(at int, c net.Conn) {
				sum := sha256.New()
				r := mathrand.NewChaCha8([32]byte{byte(at)})
				for left := total; left > 0; {
					n := min(left, 1+mathrand.IntN(map[bool]int{true: 200, false: 300_000}[mathrand.IntN(2) == 0]))
					b := make([]byte, n)
					r.Read(b)
					sum.Write(b)
					if _, err := c.Write(b); err != nil {
						t.Error(err)
						return
					}
					left -= n
				}
				sum.Sum(sums[at][:0])
			}
			read := func(at int, c net.Conn) {
				sum := sha256.New()
				for left := int64(total); left > 0; {
					n, err := io.CopyN(sum, c, min(left, int64(1+mathrand.IntN(6<<20))))
					if left -= n; err != nil {
						t.Error(err)
						return
					}
					time.Sleep(time.Duration(mathrand.IntN(20)) * time.Millisecond) // what comes meanwhile fills the buffers
				}
				sum.Sum(sums[at][:0])
			}
			var all sync.WaitGroup
			all.Go(func() { write(0, x.browser) })
			all.Go(func() { read(1, x.server) })
			all.Go(func() { write(2, x.server) })
			all.Go(func() { read(3, x.browser) })
			all.Wait()
			if sums[0] != sums[1] || sums[2] != sums[3] {
				t.Error("what came is not what was sent")
			}
			within(t, patience, "the loop carries both ways again", x.looped)
		})
	}
}

// TestGiveUpOnASlowReader: its write ends when it has not gone on for too long.
func TestGiveUpOnASlowReader(t *testing.T) {
	x := newSpan(t, "loop", "tcp", running(t))
	x.begin("")
	go x.server.Write(binaryFrame(make([]byte, 32<<20)))
	within(t, patience, "it is stuck", func() bool { return x.down.since.Load() != 0 })
	x.giveUp(time.Now())
	select {
	case <-x.over:
		t.Fatal("it was given up at once")
	case <-time.After(50 * time.Millisecond):
	}
	within(t, patience, "it is given up", func() bool {
		if x.down.since.Load() != 0 {
			x.down.since.Store(time.Now().Add(-2 * writeTimeout).UnixNano())
			x.giveUp(time.Now())
		}
		return x.going.Load() < 2
	})
	x.browser.Close()
	x.ends(t, patience)
}

// TestClosedFromOutside: at a proxy's end the tunnels that are left are closed, whatever they wait for.
func TestClosedFromOutside(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		x := newSpan(t, "loop", "tcp", running(t))
		x.begin("")
		within(t, patience, "the loop carries both ways", x.looped)
		if stuck {
			go x.server.Write(binaryFrame(make([]byte, 32<<20)))
			within(t, patience, "it is stuck", func() bool { return x.down.since.Load() != 0 })
		}
		x.close()
		x.ends(t, patience)
		x.close() // once more does nothing
		x.cut(closePolicy, "over")
		x.pong()
	}
}

// TestComingAndGoing: thousands of tunnels that end in every way at any time. Whoever is cut sees whole
// frames and the close frame, nobody sees a broken one, and neither descriptors nor goroutines are left.
func TestComingAndGoing(t *testing.T) {
	const people, each = 16, 150
	s := running(t)
	comeAndGo(t, s) // what is made once is made
	descriptors, goroutines := openFiles(t), runtime.NumGoroutine()
	var all sync.WaitGroup
	for range people {
		all.Go(func() {
			for range each {
				comeAndGo(t, s)
			}
		})
	}
	all.Wait()
	within(t, patience, "no descriptor is left", func() bool { return openFiles(t) <= descriptors })
	within(t, patience, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= goroutines })
	for _, l := range s.list {
		l.mu.Lock()
		if len(l.free) != len(l.slots) {
			t.Errorf("%d of %d places are free", len(l.free), len(l.slots))
		}
		l.mu.Unlock()
	}
}

// frames as frametest sends them.
var someFrames = "\x82\x64" + strings.Repeat("s", 100) + "\x82\x7e\x0b\xb8" + strings.Repeat("l", 3000)

// comeAndGo has one tunnel come and go.
func comeAndGo(t *testing.T, s *loops) {
	x := quickSpan(t, s)
	if x == nil {
		return
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for {
			for left := someFrames; left != ""; {
				n := min(len(left), 1+mathrand.IntN(2000))
				if _, err := io.WriteString(x.server, left[:n]); err != nil {
					return
				}
				left = left[n:]
			}
			if mathrand.IntN(20) == 0 {
				time.Sleep(time.Millisecond) // the loop has it again
			}
		}
	}()
	go io.Copy(io.Discard, x.server) // ends with it
	x.begin("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	w, err := frametest.Watch(x.browser, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if err != nil {
		t.Error(err)
		return
	}
	time.Sleep(time.Duration(mathrand.IntN(3000)) * time.Microsecond)
	x.endSomehow(t, w)
	x.ends(t, patience)
	x.server.Close()
	w.Close()
	<-sent
}

// endSomehow ends a tunnel from one of its sides, or from within, and looks at how its client sees it.
func (x *span) endSomehow(t *testing.T, w *frametest.Watcher) {
	switch mathrand.IntN(5) {
	case 0, 1:
		x.cut(closePolicy, "over")
		<-w.Done
		if w.Code != closePolicy || w.Err != nil {
			t.Errorf("cut: code %d, %v", w.Code, w.Err)
		}
	case 2:
		w.Close()
	case 3:
		if c, ok := x.server.(*net.TCPConn); ok {
			_ = c.SetLinger(0)
		}
		x.server.Close()
		<-w.Done
		if w.Code != 0 || !errors.Is(w.Err, io.EOF) && !errors.Is(w.Err, io.ErrUnexpectedEOF) {
			t.Errorf("the server is gone: code %d, %v", w.Code, w.Err)
		}
	case 4:
		x.close()
		<-w.Done
	}
}

// quickSpan makes a tunnel whose ends are closed by who asks for it.
func quickSpan(t *testing.T, s *loops) *span {
	front, browser, err := connected("tcp", "127.0.0.1:0")
	if err != nil {
		t.Error(err)
		return nil
	}
	back, server, err := connected("tcp", "127.0.0.1:0")
	if err != nil {
		t.Error(err)
		return nil
	}
	x := &span{newLive(front, back, credential{}, &route{stats: &routeStats{}, rest: &rest{}}), browser, server, make(chan struct{})}
	s.take(x.live)
	return x
}

func openFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}
