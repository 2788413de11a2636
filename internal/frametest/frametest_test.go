package frametest

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const upgrade = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

// What is not a whole frame that was sent, or comes after a close frame, is found.
func TestWatcherFindsFaults(t *testing.T) {
	small := "\x82\x64" + strings.Repeat("s", smallSize)
	closing := "\x88\x02\x03\xf0" // 1008
	for name, c := range map[string]struct {
		sent string
		code uint16
		ok   bool
	}{
		"whole frames and a close": {small + small + closing, 1008, true},
		"a close within a frame":   {small + small[:40] + closing, 0, false},
		"a byte that was not sent": {small[:len(small)-1] + "x" + closing, 0, false},
		"a byte after the close":   {small + closing + "s", 1008, false},
		"no close":                 {small, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				_, _ = http.ReadRequest(bufio.NewReader(theirs))
				_, _ = io.WriteString(theirs, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"+c.sent)
			}()
			w, err := Watch(ours, upgrade)
			if err != nil {
				t.Fatal(err)
			}
			<-w.Done
			if w.Code != c.code || (w.Err == nil) != c.ok {
				t.Errorf("code %d, %v; want %d, ok: %v", w.Code, w.Err, c.code, c.ok)
			}
		})
	}
}

// The server's frames come in pieces, and are whole together.
func TestServe(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(Serve))
	defer s.Close()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	w, err := Watch(c, upgrade)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * between) // a frame of each size
	Open(t, []*Watcher{w})
	w.Close()
}
