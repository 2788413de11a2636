package proxy

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"testing"

	"github.com/gorilla/websocket"
)

// websocketOver makes a gorilla connection of a plain one: as a client's, or as a server's.
func websocketOver(t testing.TB, c net.Conn, client bool) *websocket.Conn {
	t.Helper()
	near, far := net.Pipe()
	handshake := make(chan *websocket.Conn, 1)
	if client {
		// gorilla's client wants to see an answer first.
		go answerHandshake(far)
		d := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return &switched{Conn: near, then: c}, nil }}
		ws, _, err := d.DialContext(t.Context(), "ws://x/", nil)
		must(t, err)
		near.Close()
		return ws
	}
	go func() {
		r, _ := http.NewRequestWithContext(t.Context(), "GET", "http://x/", nil)
		for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="} {
			r.Header.Set(k, v)
		}
		up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
		ws, err := up.Upgrade(&hijackable{conn: &switched{Conn: near, then: c}}, r, nil)
		if err != nil {
			t.Error(err)
		}
		handshake <- ws
	}()
	br := bufio.NewReader(far)
	for line := ""; line != "\r\n"; {
		var err error
		line, err = br.ReadString('\n')
		must(t, err)
	}
	ws := <-handshake
	near.Close()
	return ws
}

func answerHandshake(far net.Conn) {
	r, err := http.ReadRequest(bufio.NewReader(far))
	if err != nil {
		return
	}
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	_, _ = up.Upgrade(&hijackable{conn: far}, r, nil)
}

// switched is one connection for the handshake and another one after it.
type switched struct {
	net.Conn
	then net.Conn
	done bool
}

func (s *switched) Read(b []byte) (int, error) {
	if s.done {
		return s.then.Read(b)
	}
	n, err := s.Conn.Read(b)
	s.done = bytes.Contains(b[:n], []byte("\r\n\r\n"))
	return n, err
}

func (s *switched) Write(b []byte) (int, error) {
	if s.done {
		return s.then.Write(b)
	}
	n, err := s.Conn.Write(b)
	if bytes.HasPrefix(b, []byte("HTTP/1.1 101")) {
		s.done = true
	}
	return n, err
}

type hijackable struct {
	conn net.Conn
	h    http.Header
}

func (h *hijackable) Header() http.Header {
	if h.h == nil {
		h.h = http.Header{}
	}
	return h.h
}
func (h *hijackable) Write(b []byte) (int, error) { return h.conn.Write(b) }
func (h *hijackable) WriteHeader(int)             {}
func (h *hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}
