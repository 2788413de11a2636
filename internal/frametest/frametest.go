// Package frametest has both ends of a websocket whose frames are checked one by one (RFC 6455,
// section 5.2): a server that sends them in pieces, so that whoever cuts it in comes between the
// pieces, and a client that takes nothing but whole ones, and a close frame as the last of all.
//
// It owns what it sends, so that a byte that was not sent is found. It refuses to speak of who may
// open the websocket: a test writes its own request.
package frametest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

const (
	opBinary, opClose = 0x82, 0x88 // each with the bit that says "the last of its message"

	smallSize, largeSize = 100, 3000
	between              = 200 * time.Millisecond // two pieces
)

// Serve answers an upgrade, and sends small and large frames for as long as somebody reads, each in
// two pieces. Anything else it answers at once, with nothing.
func Serve(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		return
	}
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	small := append([]byte{opBinary, smallSize}, bytes.Repeat([]byte("s"), smallSize)...)
	large := append(binary.BigEndian.AppendUint16([]byte{opBinary, 126}, largeSize), bytes.Repeat([]byte("l"), largeSize)...)
	for i := 0; ; i++ {
		frame := small
		if i/2%2 == 1 {
			frame = large
		}
		piece := frame[:len(frame)/2]
		if i%2 == 1 {
			piece = frame[len(frame)/2:]
		}
		if _, err := c.Write(piece); err != nil {
			return
		}
		time.Sleep(between)
	}
}

// A Watcher is a client. What it saw is there to be read when Done is closed.
type Watcher struct {
	Done chan struct{}
	Code uint16    // of the close frame, 0 without one
	At   time.Time // when that came
	Err  error     // why it stopped to read, nil after a close frame and the connection's end

	conn net.Conn
	r    *bufio.Reader
}

// Watch sends a request on a connection of its own, and watches what comes after the 101. It owns the
// connection, also when it fails.
func Watch(c net.Conn, request string) (*Watcher, error) {
	w := &Watcher{Done: make(chan struct{}), conn: c, r: bufio.NewReaderSize(c, 512)}
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	_, err := io.WriteString(c, request)
	if err == nil {
		err = w.upgraded()
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	go w.read()
	return w, nil
}

// Close ends it from the client's side, and waits until it is over.
func (w *Watcher) Close() {
	w.conn.Close()
	<-w.Done
}

func (w *Watcher) upgraded() error {
	res, err := http.ReadResponse(w.r, nil)
	if err == nil && res.StatusCode != http.StatusSwitchingProtocols {
		res.Body.Close()
		err = fmt.Errorf("websocket: %s", res.Status)
	}
	return err
}

func (w *Watcher) read() {
	defer close(w.Done)
	defer w.conn.Close()
	for w.Err == nil && w.Code == 0 {
		w.Err = w.frame()
	}
}

// frame reads one, and after a close frame the connection's end.
func (w *Watcher) frame() error {
	op, payload, err := w.next()
	switch {
	case err != nil:
		return err
	case op == opClose && len(payload) >= 2:
		w.At, w.Code = time.Now(), binary.BigEndian.Uint16(payload)
		if rest, err := io.ReadAll(w.r); err != nil || len(rest) > 0 {
			return fmt.Errorf("after the close frame come %d bytes, %w", len(rest), err)
		}
	case op != opBinary || !sent(string(payload)):
		return fmt.Errorf("a frame of kind %x with %d bytes is none that was sent", op, len(payload))
	}
	return nil
}

// next reads a frame as servers send them: not masked.
func (w *Watcher) next() (op byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(w.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int(head[1])
	if n == 126 {
		var more [2]byte
		if _, err := io.ReadFull(w.r, more[:]); err != nil {
			return 0, nil, err
		}
		n = int(binary.BigEndian.Uint16(more[:]))
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(w.r, payload)
	return head[0], payload, err
}

func sent(payload string) bool {
	return payload == strings.Repeat("s", smallSize) || payload == strings.Repeat("l", largeSize)
}

// Cut waits until each has ended, and fails the test unless each saw a whole close frame with this
// code as the last of all. It gives the time when the last one did.
func Cut(t testing.TB, list []*Watcher, code uint16, within time.Duration) (last time.Time) {
	t.Helper()
	enough := time.After(within)
	for i, w := range list {
		select {
		case <-w.Done:
		case <-enough:
			t.Fatalf("websocket %d of %d is open still", i, len(list))
		}
		if w.Code != code || w.Err != nil {
			t.Fatalf("websocket %d ended with code %d, %v; want %d", i, w.Code, w.Err, code)
		}
		if w.At.After(last) {
			last = w.At
		}
	}
	return last
}

// Open fails the test if one of them has ended.
func Open(t testing.TB, list []*Watcher) {
	t.Helper()
	for i, w := range list {
		select {
		case <-w.Done:
			t.Errorf("websocket %d of %d ended with code %d, %v", i, len(list), w.Code, w.Err)
		default:
		}
	}
}
