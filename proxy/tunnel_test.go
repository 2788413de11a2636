package proxy

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"carrel/hub"
)

func roundTrip(t testing.TB, c *websocket.Conn, m []byte) {
	t.Helper()
	must(t, c.SetReadDeadline(time.Now().Add(patience)))
	must(t, c.WriteMessage(websocket.BinaryMessage, m))
	_, got, err := c.ReadMessage()
	if err != nil || !bytes.Equal(got, m) {
		t.Fatalf("%d bytes come back as %d (%v)", len(m), len(got), err)
	}
}

// wantClose reads until the connection ends, which must be by a close frame with that code, and closes it.
func wantClose(t testing.TB, c *websocket.Conn, code int) {
	t.Helper()
	defer c.Close()
	must(t, c.SetReadDeadline(time.Now().Add(patience)))
	for {
		_, _, err := c.ReadMessage()
		if err == nil {
			continue
		}
		if !websocket.IsCloseError(err, code) {
			t.Fatalf("ended with %v, want close code %d", err, code)
		}
		return
	}
}

// TestTunnels: websockets pass end to end in every form of origins, over TLS, TCP and unix sockets,
// with sub-protocols and compression.
func TestTunnels(t *testing.T) {
	for name, s := range map[string]setup{"subdomains": {}, "paths": {mode: hub.Paths}, "one origin, base path": {mode: hub.OneOrigin, public: "http://hub.test/carrel/"}, "TLS": {tls: true}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, s)
			alice := w.person("alice")
			got := &inbox{}
			key := serverKey(t, "alice", "")
			w.route(key, 1, onUnix(t, echo(got)))
			for _, d := range []websocket.Dialer{{}, {EnableCompression: true}, {Subprotocols: []string{"v1.kernel.websocket.jupyter.org", "other"}}} {
				c, res, err := w.socketWith(d, "alice", "api/kernels/1/channels?session_id=2", w.as(alice), ownOrigin(w, "alice"))
				must(t, err)
				if r := got.last(t); r.RequestURI != w.origins.ServerPath(key)+"api/kernels/1/channels?session_id=2" || r.Host != w.origins.Host(alice.user.Name) {
					t.Errorf("the server is asked for %s at %s", r.RequestURI, r.Host)
				}
				if d.EnableCompression != strings.Contains(res.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate") || len(d.Subprotocols) > 0 && c.Subprotocol() != d.Subprotocols[0] {
					t.Errorf("extensions %q, protocol %q", res.Header.Get("Sec-WebSocket-Extensions"), c.Subprotocol())
				}
				random := make([]byte, 3<<20)
				rand.Read(random)
				for _, m := range [][]byte{{}, []byte("x"), bytes.Repeat([]byte("text "), 100_000), random} {
					roundTrip(t, c, m)
				}
				must(t, c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4001, "mine"), time.Now().Add(patience)))
				wantClose(t, c, 4001) // the server's own answer
			}
			w.until("the tunnels are gone", func() bool { return len(w.proxy.tunnels.credentials()) == 0 })
		})
	}
}

// TestNamesOfTheHandshake: some clients compare them to the letter.
func TestNamesOfTheHandshake(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", echo(nil))
	c, err := w.dial(t.Context(), "", "")
	must(t, err)
	defer c.Close()
	must(t, w.request("GET", w.url("alice", "ws"), "", kinds["websocket"], w.as(alice), ownOrigin(w, "alice")).Write(c))
	head := make([]byte, 4096)
	n, err := c.Read(head)
	if err != nil || !strings.HasPrefix(string(head[:n]), "HTTP/1.1 101 ") || !strings.Contains(string(head[:n]), "\r\nSec-WebSocket-Accept: ") {
		t.Errorf("%v %s", err, head[:n])
	}
}

// TestEarlyFrames: what either side sends right behind the handshake is not lost.
func TestEarlyFrames(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		hj, _ := rw.(http.Hijacker)
		c, buf, err := hj.Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x82\x05early")
		b := make([]byte, 8)
		if _, err := io.ReadFull(buf, b); err == nil {
			c.Write(append([]byte{0x82, 8}, b...))
		}
	}))
	c, err := w.dial(t.Context(), "", "")
	must(t, err)
	defer c.Close()
	var req bytes.Buffer
	must(t, w.request("GET", w.url("alice", "ws"), "", kinds["websocket"], w.as(alice), ownOrigin(w, "alice")).Write(&req))
	c.Write(append(req.Bytes(), "\x82\x82maskab"...))
	must(t, c.SetDeadline(time.Now().Add(patience)))
	b, _ := io.ReadAll(c)
	if _, frames, _ := bytes.Cut(b, []byte("\r\n\r\n")); string(frames) != "\x82\x05early\x82\x08\x82\x82maskab" {
		t.Errorf("%q", b)
	}
}

// TestTunnelsAreCut: each reason ends open websockets within a second, with its code (attack 47).
func TestTunnelsAreCut(t *testing.T) {
	for _, c := range []struct {
		name string
		code int
		cut  func(*world, *person)
	}{
		{"sign-out of the hub's session", 1008, func(w *world, p *person) { w.end(hub.SessionQuery{Hash: p.session.Hash}) }},
		{"sign-out of the person", 1008, func(w *world, p *person) { w.end(hub.SessionQuery{User: p.user.Name}) }},
		{"back-channel logout", 1008, func(w *world, p *person) { w.end(hub.SessionQuery{Identity: p.user.Identity}) }},
		{"back-channel logout by sid", 1008, func(w *world, p *person) {
			w.end(hub.SessionQuery{Identity: hub.Identity{Issuer: p.user.Identity.Issuer}, SID: p.session.SID})
		}},
		{"the server is stopped", 1001, func(w *world, p *person) {
			must(w.t, w.store.DeleteRoute(w.t.Context(), serverKey(w.t, p.user.Name.String(), ""), 1))
		}},
		{"the server is started anew", 1001, func(w *world, p *person) {
			key := serverKey(w.t, p.user.Name.String(), "")
			r := w.proxy.routes.get(key).Route
			r.Generation++
			must(w.t, w.store.PutRoute(w.t.Context(), r))
		}},
		{"the server's address changes", 1001, func(w *world, p *person) {
			key := serverKey(w.t, p.user.Name.String(), "")
			r := w.proxy.routes.get(key).Route
			r.Endpoint = endpoint(w.t, "http://127.0.0.1:9")
			must(w.t, w.store.PutRoute(w.t.Context(), r))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, setup{})
			alice, bob := w.person("alice"), w.person("bob")
			w.serve("alice", echo(nil))
			w.serve("bob", echo(nil))
			socket, other := w.mustSocket(alice, "ws"), w.mustSocket(bob, "ws")
			roundTrip(t, socket, []byte("before"))
			began := time.Now()
			c.cut(w, alice)
			wantClose(t, socket, c.code)
			if took := time.Since(began); took > time.Second {
				t.Errorf("took %v", took)
			}
			roundTrip(t, other, []byte("a neighbour's goes on"))
			if c.code == 1008 {
				if got := w.get(w.url("alice", ""), w.as(alice)); got.status != 401 {
					t.Errorf("the old cookie: %d", got.status)
				}
				if _, res, err := w.socket("alice", "ws", w.as(alice), ownOrigin(w, "alice")); err == nil || res.StatusCode != http.StatusForbidden {
					t.Errorf("a new websocket: %v %v", res, err)
				}
			}
			w.until("the tunnel is gone", func() bool { return len(w.proxy.tunnels.credentials()) == 1 })
		})
	}
}

func (w *world) end(q hub.SessionQuery) {
	w.t.Helper()
	if _, err := w.store.EndSessions(w.t.Context(), q); err != nil {
		w.t.Fatal(err)
	}
}

func TestATokensTunnelEndsWithIt(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", echo(nil))
	c, _, err := w.socket("alice", "ws", byToken(alice))
	must(t, err)
	browser := w.mustSocket(alice, "ws")
	roundTrip(t, c, []byte("x"))
	began := time.Now()
	must(t, w.store.DeleteToken(t.Context(), alice.user.Name, alice.tokenID))
	wantClose(t, c, 1008)
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
	if got := w.get(w.url("alice", ""), byToken(alice)); got.status != 401 {
		t.Errorf("the old token: %d", got.status)
	}
	roundTrip(t, browser, []byte("x"))
}

// TestInputEndsAtOnce: who was signed out writes nothing more to the server, even if they never close.
func TestInputEndsAtOnce(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	got := make(chan string, 100)
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		c, err := up.Upgrade(rw, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		for {
			_, b, err := c.ReadMessage()
			if err != nil {
				close(got)
				return
			}
			got <- string(b)
		}
	}))
	c, br := w.rawSocket(alice)
	io.WriteString(c, "\x81\x86\x00\x00\x00\x00before")
	if m := <-got; m != "before" {
		t.Fatal(m)
	}
	w.end(hub.SessionQuery{Hash: alice.session.Hash})
	if b, err := br.Peek(2); err != nil || b[0] != 0x88 {
		t.Fatalf("%q %v", b, err)
	}
	io.WriteString(c, "\x81\x85\x00\x00\x00\x00after")
	if m, more := <-got; more {
		t.Errorf("the server got %q", m)
	}
}

// half is a server that sends the first half of a large frame, and the rest when it is told to.
func half(size int, rest <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		hj, _ := rw.(http.Hijacker)
		c, _, err := hj.Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		head := binary.BigEndian.AppendUint64([]byte{0x82, 127}, uint64(size))
		c.Write(append(head, bytes.Repeat([]byte("a"), size/2)...))
		<-rest
		c.Write(append(bytes.Repeat([]byte("b"), size-size/2), "\x82\x04more"...)) // which nobody may get
		for {
			if _, err := c.Write(append([]byte{0x82, 4}, "more"...)); err != nil {
				return
			}
		}
	})
}

// rawSocket opens a websocket by hand and gives the connection past the handshake.
func (w *world) rawSocket(p *person) (net.Conn, *bufio.Reader) {
	w.t.Helper()
	user := p.user.Name.String()
	c, err := w.dial(w.t.Context(), "", "")
	must(w.t, err)
	w.t.Cleanup(func() { c.Close() })
	must(w.t, w.request("GET", w.url(user, "ws"), "", kinds["websocket"], w.as(p), ownOrigin(w, user)).Write(c))
	must(w.t, c.SetDeadline(time.Now().Add(patience)))
	br := bufio.NewReader(c)
	for line := ""; line != "\r\n"; {
		line, err = br.ReadString('\n')
		must(w.t, err)
	}
	return c, br
}

// TestCutInTheMiddleOfAMessage: the close frame comes behind the frame that was under way; if the
// server does not finish that in time, the connection ends without one. A broken frame is never seen.
func TestCutInTheMiddleOfAMessage(t *testing.T) {
	const size = 1<<20 + 1234 // the end is inside a chunk
	for name, finishes := range map[string]bool{"the server finishes": true, "the server never does": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, setup{})
			alice := w.person("alice")
			rest := make(chan struct{})
			w.serve("alice", half(size, rest))
			_, br := w.rawSocket(alice)
			if _, err := br.Peek(1); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			w.end(hub.SessionQuery{Hash: alice.session.Hash})
			tunnels := w.proxy.tunnels.pick()
			w.until("the tunnel is being cut", func() bool { return tunnels[0].ending() != nil })
			if finishes {
				close(rest)
			}
			got, err := io.ReadAll(br)
			must(t, err)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
			if !finishes {
				close(rest)
				if len(got) != 10+size/2 || bytes.Contains(got[10:], []byte{0x88}) {
					t.Errorf("%d bytes", len(got))
				}
				return
			}
			want := append(binary.BigEndian.AppendUint64([]byte{0x82, 127}, size), bytes.Repeat([]byte("a"), size/2)...)
			want = append(want, bytes.Repeat([]byte("b"), size/2)...)
			want = append(want, closeFrame(1008, "you were signed out")...)
			if !bytes.Equal(got, want) {
				t.Errorf("%d bytes that end in %q, want %d", len(got), got[max(0, len(got)-40):], len(want))
			}
		})
	}
}

// pick copies the open tunnels.
func (s *tunnels) pick() []*live {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*live
	for _, m := range s.byServer {
		for t := range m {
			list = append(list, t)
		}
	}
	return list
}

// TestAClientThatNeverReads: the server is held back, little is kept, and nobody's sign-out waits (attack 34).
func TestAClientThatNeverReads(t *testing.T) {
	w := newWorld(t, setup{})
	alice, bob := w.person("alice"), w.person("bob")
	sent := make(chan int, 1)
	total := 0
	flood := bytes.Repeat([]byte("f"), 1<<20)
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }, WriteBufferSize: 1 << 20}
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		c, err := up.Upgrade(rw, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		for {
			_ = c.SetWriteDeadline(time.Now().Add(2 * time.Second))
			if c.WriteMessage(websocket.BinaryMessage, flood) != nil {
				sent <- total
				return
			}
			total += len(flood)
		}
	}))
	w.serve("bob", echo(nil))
	other := w.mustSocket(bob, "ws")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	conn, _ := w.rawSocket(alice)
	n := <-sent // the server can't write any more
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n > 32<<20 {
		t.Errorf("%d MiB were taken from the server although nobody reads", n>>20)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("%d MiB are kept", grown>>20)
	}
	began := time.Now()
	w.end(hub.SessionQuery{Hash: alice.session.Hash})
	w.end(hub.SessionQuery{Hash: bob.session.Hash})
	wantClose(t, other, 1008)
	if took := time.Since(began); took > time.Second {
		t.Errorf("another's sign-out took %v", took)
	}
	w.until("the tunnel is gone", func() bool { return len(w.proxy.tunnels.credentials()) == 0 })
	conn.Close()
}

// TestAFloodFromTheClient: a server that never reads holds the client back.
func TestAFloodFromTheClient(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	stop := make(chan struct{})
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if c, err := up.Upgrade(rw, r, nil); err == nil {
			<-stop
			c.Close()
		}
	}))
	defer close(stop)
	conn, _ := w.rawSocket(alice)
	must(t, conn.SetWriteDeadline(time.Now().Add(2*time.Second)))
	n := 0
	frame := append([]byte{0x82, 0xfe, 0xff, 0xff, 1, 2, 3, 4}, bytes.Repeat([]byte("x"), 65535)...)
	for {
		k, err := conn.Write(frame)
		n += k
		if err != nil {
			break
		}
	}
	if n > 32<<20 {
		t.Errorf("%d MiB were taken", n>>20)
	}
	w.end(hub.SessionQuery{Hash: alice.session.Hash})
	within(t, 5*time.Second, "the tunnel is gone though the server does not read", func() bool { return len(w.proxy.tunnels.credentials()) == 0 })
}

func TestTooManyTunnels(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", echo(nil))
	open := func(int) { w.mustSocket(alice, "ws") }
	for i := range maxTunnels {
		open(i)
	}
	_, res, err := w.socket("alice", "ws", w.as(alice), ownOrigin(w, "alice"))
	if err == nil || res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("%v %v", res, err)
	}
	if _, _, err := w.socket("alice", "ws", byToken(alice)); err != nil {
		t.Errorf("by token, which has a number of its own: %v", err)
	}
}

// TestServersThatRefuse: what a server says instead of an upgrade is handed on, within bounds.
func TestServersThatRefuse(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("X-Why", "because")
		switch {
		case strings.HasSuffix(r.URL.Path, "/early"):
			rw.WriteHeader(http.StatusEarlyHints)
			rw.WriteHeader(http.StatusNotFound)
			io.WriteString(rw, "no kernel")
		case strings.HasSuffix(r.URL.Path, "/endless"):
			for {
				if _, err := io.WriteString(rw, strings.Repeat("x", 64<<10)); err != nil {
					return
				}
			}
		default:
			rw.WriteHeader(http.StatusNotFound)
			io.WriteString(rw, "no kernel")
		}
	}))
	for _, page := range []string{"plain", "early"} {
		got := w.get(w.url("alice", page), kinds["websocket"], w.as(alice), ownOrigin(w, "alice"))
		if got.status != 404 || got.body != "no kernel" || got.header.Get("X-Why") != "because" {
			t.Errorf("%s: %d %v %q", page, got.status, got.header, got.body)
		}
	}
	res, err := w.transport().RoundTrip(w.request("GET", w.url("alice", "endless"), "", kinds["websocket"], w.as(alice), ownOrigin(w, "alice")))
	must(t, err)
	defer res.Body.Close()
	if n, err := io.Copy(io.Discard, res.Body); err == nil || n > 2*maxRefusal {
		t.Errorf("%d bytes of an endless refusal, %v", n, err)
	}
}

// TestHalfClosed: when one side has said all, the other's rest still comes.
func TestHalfClosed(t *testing.T) {
	w := newWorld(t, setup{})
	alice := w.person("alice")
	w.serve("alice", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		hj, _ := rw.(http.Hijacker)
		c, buf, err := hj.Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		all, _ := io.ReadAll(buf)
		c.Write(append([]byte{0x82, byte(len(all))}, all...))
	}))
	c, br := w.rawSocket(alice)
	io.WriteString(c, "last words")
	must(t, c.(*net.TCPConn).CloseWrite())
	if got, err := io.ReadAll(br); err != nil || string(got) != "\x82\x0alast words" {
		t.Errorf("%q %v", got, err)
	}
}

// TestFiveHundredTunnels come and go and leave nothing behind.
func TestFiveHundredTunnels(t *testing.T) {
	w := newWorld(t, setup{})
	alice, bob := w.person("alice"), w.person("bob")
	w.serve("alice", echo(nil))
	w.serve("bob", echo(nil))
	roundTrip(t, w.mustSocket(alice, "ws"), []byte("x"))
	w.end(hub.SessionQuery{Hash: alice.session.Hash})
	w.until("the first one is gone", func() bool { return len(w.proxy.tunnels.credentials()) == 0 })
	alice = w.person("alice")
	base := runtime.NumGoroutine()
	var open []*websocket.Conn
	for range 250 {
		open = append(open, w.mustSocket(alice, "ws"), w.mustSocket(bob, "ws"))
	}
	for _, c := range open {
		roundTrip(t, c, []byte("x"))
	}
	w.end(hub.SessionQuery{Hash: alice.session.Hash})
	for i, c := range open {
		if i%2 == 0 {
			wantClose(t, c, 1008)
		}
		c.Close()
	}
	w.until("no tunnel is left", func() bool { return len(w.proxy.tunnels.pick()) == 0 })
	w.until("no goroutine is left", func() bool { return runtime.NumGoroutine() <= base+5 })
	w.proxy.crowd.mu.Lock()
	defer w.proxy.crowd.mu.Unlock()
	for at, n := range w.proxy.crowd.open {
		if n > 10 {
			t.Errorf("%d connections of %s are still counted", n, at)
		}
	}
}
