package proxy

import (
	"bytes"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"carrel/hub"
)

// listener is a server that notes what comes by its one websocket, and says what it is told to.
type listener struct {
	mu   sync.Mutex
	got  []string
	conn *websocket.Conn
}

func (l *listener) note(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, what)
}

func (l *listener) heard() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.got)
}

func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	c, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	c.SetPingHandler(func(s string) error { l.note("ping " + s); return nil })
	c.SetPongHandler(func(s string) error { l.note("pong " + s); return nil })
	c.SetCloseHandler(func(int, string) error { l.note("close"); return nil })
	l.mu.Lock()
	l.conn = c
	l.mu.Unlock()
	for {
		_, b, err := c.ReadMessage()
		if err != nil {
			return
		}
		l.note("message " + string(b))
		if c.WriteMessage(websocket.TextMessage, b) != nil {
			return
		}
	}
}

// browser is a websocket's client that notes what comes, read all the time as a browser does.
type browser struct {
	*websocket.Conn
	listener
	over chan error
}

func (w *world) openBrowser(p *person) *browser {
	w.t.Helper()
	b := &browser{Conn: w.mustSocket(p, "ws"), over: make(chan error, 1)}
	answer := b.PingHandler()
	b.SetPingHandler(func(s string) error { b.note("ping " + s); return answer(s) })
	b.SetPongHandler(func(s string) error { b.note("pong " + s); return nil })
	go func() {
		for {
			_, m, err := b.ReadMessage()
			if err != nil {
				b.over <- err
				return
			}
			b.note("message " + string(m))
		}
	}()
	return b
}

func (w *world) sees(l interface{ heard() []string }, what string) {
	w.t.Helper()
	w.until("there is: "+what, func() bool { return slices.Contains(l.heard(), what) })
}

func TestTunnelsOfAPausedServer(t *testing.T) {
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			edge := &sleeper{}
			w := newWorld(t, setup{edge: edge, ping: 50 * time.Millisecond, tls: secure})
			alice := w.person("alice")
			server := &listener{}
			key := w.serve("alice", server)
			b := w.openBrowser(alice)
			must(t, b.WriteMessage(websocket.TextMessage, []byte("first")))
			w.sees(b, "message first")
			w.pause(key, time.Now())

			w.until("the browser is pinged again and again", func() bool {
				n := 0
				for _, what := range b.heard() {
					if what == "ping carrel" {
						n++
					}
				}
				return n >= 3
			})
			must(t, b.WriteControl(websocket.PingMessage, []byte("mine"), time.Now().Add(patience)))
			w.sees(b, "pong mine")
			must(t, server.conn.WriteControl(websocket.PingMessage, []byte("late"), time.Now().Add(patience)))
			w.sees(server, "pong late") // the browser's answer is there when the server goes on
			if calls := edge.called(); calls != "" {
				t.Errorf("frames of control had the hub asked %q", calls)
			}
			if !w.proxy.routes.get(key).paused() {
				t.Error("it was woken")
			}

			must(t, b.WriteMessage(websocket.TextMessage, []byte("second")))
			w.sees(b, "message second")
			if calls := edge.called(); calls != "POST /wake/alice" {
				t.Errorf("the hub was asked %q", calls)
			}
			if got := server.heard(); !slices.Equal(got, []string{"message first", "pong late", "pong ", "message second"}) {
				t.Errorf("the server heard %q", got)
			}

			w.pause(key, time.Now())
			must(t, b.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "bye"), time.Now().Add(patience)))
			w.sees(server, "close")
			if calls := edge.called(); calls != "POST /wake/alice" {
				t.Errorf("the hub was asked %q", calls)
			}
			must(t, b.Close())
			w.until("the tunnel is gone", func() bool { return w.proxy.tunnels.none() })
		})
	}
}

// A long message that the pause falls into arrives whole, and so does one from the server.
func TestAPauseInTheMiddleOfAMessage(t *testing.T) {
	edge := &sleeper{}
	w := newWorld(t, setup{edge: edge, ping: 2 * time.Millisecond})
	alice := w.person("alice")
	server := &listener{}
	key := w.serve("alice", server)
	b := w.openBrowser(alice)
	b.SetReadLimit(64 << 20)
	long := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	for range 5 {
		var wg sync.WaitGroup
		wg.Go(func() {
			for range 3 {
				w.pauseUnseen(key, time.Now())
				time.Sleep(3 * time.Millisecond) // anywhere in the message
			}
		})
		must(t, b.WriteMessage(websocket.BinaryMessage, long))
		must(t, b.WriteMessage(websocket.TextMessage, []byte("end")))
		w.sees(b, "message end")
		wg.Wait()
		got := b.heard()
		if i := slices.IndexFunc(got, func(s string) bool { return len(s) > len(long) }); i < 0 || got[i] != "message "+string(long) {
			t.Fatal("the message did not come back as it was")
		}
		b.mu.Lock()
		b.got = nil
		b.mu.Unlock()
	}
}

// closedPipe is a connection that nobody is at.
func closedPipe() net.Conn {
	c, other := net.Pipe()
	other.Close()
	return c
}

func TestControl(t *testing.T) {
	frame := func(op byte, payload string) []byte {
		b := []byte{op, 0x80 | byte(len(payload)), 1, 2, 3, 4}
		for i := range len(payload) {
			b = append(b, payload[i]^b[2+i%4])
		}
		return b
	}
	ping, pong, own := frame(opPing, "question"), frame(opPong, "other"), frame(opPong, ourPing)
	for name, c := range map[string]struct {
		chunk []byte
		rest  string
		ok    bool
		owed  string
	}{
		"our own pong":                {own, "", true, ""},
		"another's":                   {pong, string(pong), true, ""},
		"all together":                {slices.Concat(ping, own, pong, own), string(pong), true, "\x8a\x08question"},
		"the last of several pings":   {slices.Concat(frame(opPing, "one"), ping), "", true, "\x8a\x08question"},
		"an empty ping":               {frame(opPing, ""), "", true, "\x8a\x00"},
		"a longest ping":              {frame(opPing, string(bytes.Repeat([]byte("x"), 125))), "", true, "\x8a\x7d" + string(bytes.Repeat([]byte("x"), 125))},
		"one that is too long":        {append([]byte{opPing, 0x80 | 126, 0, 126, 1, 2, 3, 4}, make([]byte, 126)...), "", false, ""},
		"one that is not masked":      {[]byte{opPing, 0}, "", false, ""},
		"a fragment":                  {frame(0x09, ""), "", false, ""},
		"half of one":                 {ping[:7], "", false, ""},
		"half of one behind another":  {slices.Concat(pong, ping[:1]), "", false, ""},
		"a close frame":               {frame(0x88, ""), "", false, ""},
		"text":                        {frame(0x81, "text"), "", false, ""},
		"text behind a ping":          {slices.Concat(ping, frame(0x81, "text")), "", false, ""},
		"an unknown kind with a mask": {frame(0x8b, ""), "", false, ""},
	} {
		l := newLive(closedPipe(), closedPipe(), credential{hash: hub.RandomSecret().Hash()}, &route{})
		rest, ok := l.controls(c.chunk)
		owed := ""
		if o := l.owed.Load(); o != nil {
			owed = string(*o)
		}
		if ok != c.ok || string(rest) != c.rest || owed != c.owed {
			t.Errorf("%s: %q %v, owed %q", name, rest, ok, owed)
		}
	}
	inside := newLive(closedPipe(), closedPipe(), credential{}, &route{})
	inside.up.frames.advance(frame(0x81, "a long text")[:9])
	if _, ok := inside.controls(pong); ok {
		t.Error("what looks like a pong inside of a message was taken for one")
	}
}
