package proxy

import (
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	writeTimeout = 60 * time.Second // a peer that takes nothing for so long is gone
	closeWait    = time.Second
	halfOpen     = 10 * time.Second // how long one direction goes on after the other's end
)

// live is one open tunnel. Each direction is one goroutine's, which alone reads its source and
// writes its destination; whoever cuts the tunnel only leaves word and wakes them, so that no
// client, however slow, holds up another's sign-out.
type live struct {
	front, back net.Conn
	who         credential
	route       *route

	toFront frames // the direction's own
	toBack  frames // likewise

	meter *tunnelMeter // of all tunnels

	mu      sync.Mutex // deadlines, and
	closing []byte     // the close frame for the browser, once the tunnel is cut
	cutAt   int64      // when, in unix nanoseconds
}

// tunnelMeter counts bytes, from and to clients.
type tunnelMeter struct{ received, sent atomic.Uint64 }

func newLive(front, back net.Conn, who credential, rt *route) *live {
	for _, c := range []net.Conn{front, back} {
		_ = c.SetDeadline(time.Time{}) // a broken connection shows at once
	}
	return &live{front: front, back: back, who: who, route: rt, meter: &tunnelMeter{}}
}

// follows tells whether the tunnel leads where a route does.
func (t *live) follows(rt *route) bool {
	return rt != nil && rt.Generation == t.route.Generation && rt.Endpoint == t.route.Endpoint
}

func (t *live) close() {
	t.front.Close()
	t.back.Close()
}

// run carries bytes both ways until both directions have ended.
func (t *live) run(head, fromFront, fromBack []byte) {
	defer t.close()
	if t.writeFront(head) != nil {
		return
	}
	var up sync.WaitGroup
	up.Go(func() { t.upstream(fromFront) })
	t.downstream(fromBack)
	up.Wait()
}

// upstream carries what the browser sends.
func (t *live) upstream(first []byte) {
	if len(first) == 0 || t.toServer(first) == nil {
		pump(t.front, t.toServer)
	}
	closeWrite(t.back)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing == nil {
		_ = t.back.SetReadDeadline(time.Now().Add(halfOpen))
	}
}

// toServer writes a chunk to the server. Once the tunnel is cut nothing more gets there.
func (t *live) toServer(b []byte) error {
	t.meter.received.Add(uint64(len(b)))
	t.route.stats.received.Add(uint64(len(b)))
	before := t.toBack.data
	t.toBack.advance(b)
	t.mu.Lock()
	if t.closing != nil {
		t.mu.Unlock()
		return nil // read on: the browser's own close frame may come
	}
	_ = t.back.SetWriteDeadline(time.Now().Add(writeTimeout))
	t.mu.Unlock()
	if t.toBack.data != before {
		t.route.touch()
	}
	_, err := t.back.Write(b)
	return err
}

// downstream carries what the server sends, and tells the browser why the tunnel ends.
func (t *live) downstream(first []byte) {
	if len(first) == 0 || t.toClient(first) == nil {
		pump(t.back, t.toClient)
	}
	if frame := t.ending(); frame != nil {
		if !t.toFront.atBoundary() {
			_ = t.back.SetReadDeadline(time.Now().Add(closeWait))
			pump(t.back, t.toClient) // the rest of the frame, if it comes
		}
		if t.toFront.atBoundary() {
			_ = t.writeFront(frame) // the connection ends either way
		}
	}
	closeWrite(t.front)
	t.mu.Lock()
	defer t.mu.Unlock()
	wait := halfOpen
	if t.closing != nil {
		wait = closeWait
	}
	_ = t.front.SetReadDeadline(time.Now().Add(wait))
}

// toClient writes a chunk to the browser; once the tunnel is cut, up to the end of a frame only.
func (t *live) toClient(b []byte) error {
	if t.ending() == nil {
		t.toFront.advance(b)
		return t.writeFront(b)
	}
	if t.toFront.atBoundary() {
		return errEnding
	}
	if err := t.writeFront(b[:t.toFront.next(b)]); err != nil {
		return err
	}
	if t.toFront.atBoundary() {
		return errEnding
	}
	return nil
}

func (t *live) writeFront(b []byte) error {
	t.mu.Lock()
	within := writeTimeout
	if t.closing != nil {
		within = closeWait
	}
	_ = t.front.SetWriteDeadline(time.Now().Add(within))
	t.mu.Unlock()
	n, err := t.front.Write(b)
	t.meter.sent.Add(uint64(n))
	t.route.stats.sent.Add(uint64(n))
	return err
}

func (t *live) ending() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closing
}

// cut ends the tunnel with a close frame, between two frames of the server's, where the stream
// reaches such a place in time. It does not wait.
func (t *live) cut(code uint16, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing != nil {
		return
	}
	t.closing = closeFrame(code, reason)
	now := time.Now()
	t.cutAt = now.UnixNano()
	_ = t.back.SetReadDeadline(now)                     // wakes the way down
	_ = t.back.SetWriteDeadline(now)                    // nothing more gets to the server
	_ = t.front.SetWriteDeadline(now.Add(closeWait))    // a browser that does not read
	_ = t.front.SetReadDeadline(now.Add(2 * closeWait)) // the browser's close frame, or enough
}

// cutBy tells by which code the tunnel was cut, and when; 0: it was not.
func (t *live) cutBy() (code uint16, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing == nil {
		return 0, time.Time{}
	}
	return binary.BigEndian.Uint16(t.closing[2:]), time.Unix(0, t.cutAt)
}

func closeWrite(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
}
