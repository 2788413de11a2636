package proxy

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// forms are the ways to carry a tunnel: by a loop, by goroutines, by goroutines with TLS in front.
var forms = []string{"loop", "goroutines", "TLS"}

// span is a tunnel between a browser and a server of the test's own.
type span struct {
	*live

	browser, server net.Conn
	over            chan struct{}
}

// running is loops that end with the test.
func running(t testing.TB) *loops {
	t.Helper()
	s, err := newLoops(2)
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- s.run() }()
	t.Cleanup(func() {
		s.end()
		must(t, <-ended)
	})
	return s
}

// joined gives both ends of a connection.
func joined(t testing.TB, network string) (near, far net.Conn) {
	t.Helper()
	at := "127.0.0.1:0"
	if network == "unix" {
		at = socketDir(t) + "/s"
	}
	near, far, err := connected(network, at)
	must(t, err)
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

func connected(network, at string) (near, far net.Conn, err error) {
	l, err := net.Listen(network, at)
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if far, err = net.Dial(network, l.Addr().String()); err != nil {
		return nil, nil, err
	}
	near, err = l.Accept()
	return near, far, err
}

// newSpan makes a tunnel that nobody carries yet.
func newSpan(t testing.TB, form, network string, s *loops) *span {
	t.Helper()
	front, browser := joined(t, "tcp")
	back, server := joined(t, network)
	if form == "TLS" {
		front, browser = secured(t, front, browser)
	}
	x := &span{newLive(front, back, credential{}, &route{stats: &routeStats{}, rest: &rest{}}), browser, server, make(chan struct{})}
	if form == "loop" {
		s.take(x.live)
		if x.pair == nil {
			t.Fatal("the loop does not take it")
		}
	}
	return x
}

func secured(t testing.TB, near, far net.Conn) (front, browser net.Conn) {
	t.Helper()
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	defer cert.Close()
	inner, outer := tls.Server(near, &tls.Config{Certificates: cert.TLS.Certificates}), tls.Client(far, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error, 1)
	go func() { shaken <- inner.Handshake() }()
	must(t, outer.Handshake())
	must(t, <-shaken)
	return inner, outer
}

func (x *span) begin(head string) {
	x.start([]byte(head), nil, nil, func(*live) { close(x.over) })
}

func (x *span) ends(t testing.TB, within time.Duration) {
	t.Helper()
	select {
	case <-x.over:
	case <-time.After(within):
		buf := make([]byte, 1<<20)
		t.Fatalf("after %v the tunnel goes on\n%s", within, buf[:runtime.Stack(buf, true)])
	}
}

// looped tells whether the loop carries both ways.
func (x *span) looped() bool {
	for _, w := range []*way{&x.up, &x.down} {
		w.mu.Lock()
		looped := w.looped
		w.mu.Unlock()
		if !looped {
			return false
		}
	}
	return true
}

// binaryFrame is a server's.
func binaryFrame(payload []byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte{0x82, 127}, uint64(len(payload)))
	return append(b, payload...)
}

// TestALoopCarries: what comes either way gets there as it was, no goroutine waits meanwhile, and
// everything is given back at the end.
func TestALoopCarries(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			s := running(t)
			x := newSpan(t, "loop", network, s)
			before := runtime.NumGoroutine()
			x.begin("head")
			read := func(c net.Conn, want string) {
				t.Helper()
				got := make([]byte, len(want))
				must(t, c.SetReadDeadline(time.Now().Add(patience)))
				if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
					t.Fatalf("%q %v, want %q", got, err, want)
				}
			}
			read(x.browser, "head")
			for range 100 {
				io.WriteString(x.browser, "\x81\x81aaaa\x19")
				read(x.server, "\x81\x81aaaa\x19")
				io.WriteString(x.server, "\x81\x01x")
				read(x.browser, "\x81\x01x")
			}
			within(t, patience, "the loop carries both ways", x.looped)
			within(t, patience, "there is no goroutine for it", func() bool { return runtime.NumGoroutine() <= before })
			if got := x.route.stats.received.Load(); got != 700 {
				t.Errorf("%d bytes were received", got)
			}
			if got := x.route.stats.sent.Load(); got != 304 {
				t.Errorf("%d bytes were sent", got)
			}
			x.browser.Close()
			if b, err := io.ReadAll(x.server); err != nil || len(b) > 0 {
				t.Errorf("the server sees %q %v", b, err)
			}
			x.server.Close()
			x.ends(t, patience)
			for _, l := range s.list {
				if len(l.free) != len(l.slots) {
					t.Errorf("%d of %d places are free", len(l.free), len(l.slots))
				}
			}
		})
	}
}

// TestWhatALoopLeaves: where one end is no plain socket, or the loop has ended, goroutines carry as ever.
func TestWhatALoopLeaves(t *testing.T) {
	ended, err := newLoops(1)
	must(t, err)
	ended.end()
	for name, c := range map[string]struct {
		form string
		by   *loops
	}{"TLS": {"TLS", running(t)}, "no loop": {"goroutines", nil}, "a loop that has ended": {"goroutines", ended}} {
		t.Run(name, func(t *testing.T) {
			x := newSpan(t, c.form, "tcp", nil)
			descriptors := openFiles(t)
			c.by.take(x.live)
			if x.pair != nil {
				t.Fatal("it was taken")
			}
			if got := openFiles(t); got > descriptors {
				t.Errorf("%d descriptors are left over", got-descriptors)
			}
			x.begin("")
			io.WriteString(x.browser, "\x81\x81aaaa\x19")
			got := make([]byte, 7)
			if _, err := io.ReadFull(x.server, got); err != nil || string(got) != "\x81\x81aaaa\x19" {
				t.Errorf("%q %v", got, err)
			}
			x.browser.Close()
			x.server.Close()
			x.ends(t, patience)
		})
	}
}

// TestALateEvent: one that was told of a descriptor before it was closed is none of the socket's that has
// its number and its place now.
func TestALateEvent(t *testing.T) {
	l, err := newLoop()
	must(t, err)
	defer l.end()
	s := &loops{list: []*loop{l}}
	first := newSpan(t, "loop", "tcp", s)
	number, late := first.pair[0].fd, first.pair[0].token
	first.pair[0].release()
	first.pair[1].release()
	second := newSpan(t, "loop", "tcp", s)
	var heir *socket
	for i := range second.pair {
		if second.pair[i].token.index == late.index {
			heir = &second.pair[i]
		}
		if second.pair[i].fd == number {
			number = -1
		}
	}
	if heir == nil || number != -1 {
		t.Fatalf("neither place %d nor descriptor are used again", late.index)
	}
	second.up.looped, second.down.looped = true, true
	to := map[bool]net.Conn{true: second.browser, false: second.server}[heir == &second.pair[0]]
	io.WriteString(to, "\x81\x81aaaa\x19")
	waiting := func() int {
		n, err := unix.IoctlGetInt(heir.fd, unix.TIOCINQ)
		must(t, err)
		return n
	}
	within(t, patience, "it has come", func() bool { return waiting() == 7 })
	l.event(&unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLHUP, Fd: late.index, Pad: late.generation}, 1)
	if waiting() != 7 || heir.in.came[toWrite] {
		t.Error("an event of a socket that is closed was taken for another's")
	}
	l.event(&unix.EpollEvent{Events: unix.EPOLLIN, Fd: heir.token.index, Pad: heir.token.generation}, 1)
	if waiting() != 0 {
		t.Error("its own was not")
	}
	second.pair[0].release()
	second.pair[1].release()
}

// TestAFloodHasOneTurn: a tunnel that floods moves one chunk while two hundred others say a word each.
func TestAFloodHasOneTurn(t *testing.T) {
	const quiet = 200
	l, err := newLoop()
	must(t, err)
	defer l.end()
	s := &loops{list: []*loop{l}}
	flood := newSpan(t, "loop", "tcp", s)
	all := []*span{flood}
	for range quiet {
		all = append(all, newSpan(t, "loop", "tcp", s))
	}
	for _, x := range all {
		x.up.looped, x.down.looped = true, true
	}
	defer func() {
		for _, x := range all {
			x.pair[0].release()
			x.pair[1].release()
		}
	}()
	stop := make(chan struct{})
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		frame := binaryFrame(make([]byte, 1<<20))
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = flood.server.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
			flood.server.Write(frame)
		}
	}()
	var read atomic.Uint64
	go func() { // ends with it
		b := make([]byte, chunkSize)
		for {
			n, err := flood.browser.Read(b)
			if read.Add(uint64(n)); err != nil {
				return
			}
		}
	}()
	within(t, patience, "the flood has come", func() bool { n, _ := unix.IoctlGetInt(flood.pair[1].fd, unix.TIOCINQ); return n > 2*chunkSize })
	for round := range 20 {
		for _, x := range all[1:] {
			io.WriteString(x.server, "\x81\x01x")
		}
		for _, x := range all[1:] {
			within(t, patience, "it has come", func() bool { n, _ := unix.IoctlGetInt(x.pair[1].fd, unix.TIOCINQ); return n == 3 })
		}
		before := flood.route.stats.sent.Load()
		l.turn()
		if moved := flood.route.stats.sent.Load() - before; moved > chunkSize {
			t.Errorf("round %d: it moves %d bytes in one turn", round, moved)
		}
		within(t, patience, "it has been read", func() bool { return read.Load() == flood.route.stats.sent.Load() })
		for i, x := range all[1:] {
			if got := x.route.stats.sent.Load(); got != uint64(3*(round+1)) {
				t.Fatalf("round %d: quiet tunnel %d has %d bytes after one turn", round, i, got)
			}
		}
	}
	close(stop)
	<-flooded
	if flood.route.stats.sent.Load() == 0 {
		t.Error("the flood did not move at all")
	}
}
