package proxy

import (
	"bufio"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// holder is a raw server of websockets that says on all of them what it is told to, and costs no
// goroutine for each.
func holder(t *testing.T) (addr string, say func(string)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ended := make(chan struct{})
	var mu sync.Mutex
	var held []net.Conn
	each := func(do func(net.Conn)) {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range held {
			do(c)
		}
	}
	go func() {
		defer close(ended)
		defer each(func(c net.Conn) { c.Close() })
		br := bufio.NewReader(nil)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			held = append(held, c)
			mu.Unlock()
			br.Reset(c)
			for line := ""; line != "\r\n"; {
				if line, err = br.ReadString('\n'); err != nil {
					break
				}
			}
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n")
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return l.Addr().String(), func(s string) { each(func(c net.Conn) { io.WriteString(c, s) }) }
}

// TestIdleTunnels: what an open websocket that has carried something each way, and now says nothing,
// costs here: its tunnel, and where no loop carries it two goroutines of the smallest stack. The clients'
// ends, which are counted too, are a small part, but for those of a loop.
func TestIdleTunnels(t *testing.T) {
	t.Run("loop", func(t *testing.T) { idleTunnels(t, newWorld(t, setup{loop: true}), 0, 5<<9) })
	t.Run("goroutines", func(t *testing.T) { idleTunnels(t, newWorld(t, setup{}), 2, 8<<10+raceStacks) })
}

func idleTunnels(t *testing.T, w *world, goroutinesEach int, most int64) {
	const people, each = 8, maxTunnels
	addr, say := holder(t)
	var heads []string
	for i := range people {
		name := "p" + string(rune('a'+i))
		p := w.person(name)
		w.route(serverKey(t, name, ""), 1, endpoint(t, "http://"+addr))
		var b strings.Builder
		must(t, w.request("GET", w.url(name, "ws"), "", kinds["websocket"], w.as(p), ownOrigin(w, name)).Write(&b))
		heads = append(heads, b.String())
	}
	held := make([]net.Conn, 0, people*each)
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	open := func(head string) {
		c, err := w.dial(t.Context(), "", "")
		must(t, err)
		held = append(held, c)
		must(t, c.SetDeadline(time.Now().Add(patience)))
		io.WriteString(c, head)
		b := make([]byte, 1024)
		if n, err := c.Read(b); err != nil || !strings.HasPrefix(string(b[:n]), "HTTP/1.1 101 ") {
			t.Fatalf("%q %v", b[:n], err)
		}
	}
	open(heads[0])
	before, goroutines := inUse(), runtime.NumGoroutine()
	for i := 1; i < people*each; i++ {
		open(heads[i%people])
	}
	w.until("handlers have returned", func() bool { return w.proxy.handlers.Load() == 0 })
	w.until("only the tunnels' goroutines are left", func() bool { return runtime.NumGoroutine() <= goroutines+goroutinesEach*len(held)+10 })
	say("\x81\x01x")
	for _, c := range held {
		b := make([]byte, 3)
		if _, err := io.ReadFull(c, b); err != nil || b[2] != 'x' {
			t.Fatalf("%q %v", b, err)
		}
		io.WriteString(c, "\x81\x81aaaa\x19")
	}
	rt := w.proxy.routes.get(serverKey(t, "pa", ""))
	w.until("they have carried it", func() bool { return rt.stats.received.Load() >= uint64(each*7) })
	got := (inUse() - before) / int64(len(held)-1)
	t.Logf("%d bytes for each of %d", got, len(held))
	if got > most {
		t.Errorf("an idle tunnel holds %d bytes, %d at most", got, most)
	}
}

func TestSettled(t *testing.T) {
	s := &tunnels{}
	front, back := net.Pipe()
	defer front.Close()
	defer back.Close()
	come := func(n int) {
		for range n {
			l := newLive(front, back, credential{}, &route{})
			s.add(l)
			s.remove(l)
		}
	}
	for i, c := range []struct {
		n    int
		want bool
	}{{0, false}, {10, false}, {0, false}, {manyChanges, false}, {manyChanges, false}, {5, true}, {0, false}, {manyChanges / 4, false}, {0, false}, {manyChanges / 4, false}, {0, true}} {
		come(c.n)
		if got := s.settled(); got != c.want {
			t.Errorf("look %d: %v", i, got)
		}
	}
}

// inUse is what heap and stacks hold, after what is garbage went and stacks shrank.
func inUse() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
