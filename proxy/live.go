package proxy

import (
	"encoding/binary"
	"io"
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

// live is one open tunnel. Each direction is carried by a loop while its messages flow, where both ends
// are plain sockets, and otherwise by one goroutine, which alone reads its source and writes its
// destination; whoever cuts the tunnel only leaves word and wakes them, so that no client, however slow,
// holds up another's sign-out. Idle it costs this, and two small stacks where there is TLS.
type live struct {
	front, back net.Conn
	pair        *[2]socket // those two, if a loop carries; else nil
	who         credential
	route       *route

	down way // to the browser
	up   way // to the server

	meter *tunnelMeter       // of all tunnels
	awake func(*route) error // wakes the server, if it is paused

	coming  frames                 // up.frames after the chunk that is on its way
	pingDue atomic.Bool            // the browser is to be asked whether it is there
	owed    atomic.Pointer[[]byte] // a pong to the browser

	mu      sync.Mutex             // deadlines, once the tunnel is cut, and the back's for reading
	until   time.Time              // that one, but for a moment; with mu
	closing atomic.Pointer[[]byte] // the close frame for the browser, once the tunnel is cut
	cutAt   int64                  // when, in unix nanoseconds; with mu
	said    int                    // bytes of it that have left; of who carries the way down
	torn    bool                   // a write to the browser ended half-way; likewise

	going atomic.Int32 // directions that go on
	ended func(*live)  // called once both have ended
}

// giveUp ends the writes that nobody has taken anything of for too long. It is called now and then: a
// deadline for each write would cost a message its time, and its goroutine a larger stack for good.
func (t *live) giveUp(now time.Time) {
	before := now.Add(-writeTimeout).UnixNano()
	down, up := t.down.since.Load(), t.up.since.Load()
	if (down == 0 || down > before) && (up == 0 || up > before) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing.Load() != nil {
		return // it has its deadlines
	}
	if down != 0 && down <= before {
		_ = t.front.SetWriteDeadline(now) // a broken connection shows at once
	}
	if up != 0 && up <= before {
		_ = t.back.SetWriteDeadline(now) // likewise
	}
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

// start has bytes carried both ways, after the head, until both directions have ended, and does not
// wait; ended is called then. What the readers of either side have read already goes first.
func (t *live) start(head, fromFront, fromBack []byte, ended func(*live)) {
	t.ended = ended
	t.going.Store(2)
	if t.writeFront(head) != nil {
		t.close()
		fromFront, fromBack = nil, nil
	}
	if len(fromFront) > 0 || t.pair == nil || !t.pair[0].joins() {
		go t.upstream(&handed{chunk: fromFront})
	}
	if len(fromBack) > 0 || t.pair == nil || !t.pair[1].joins() {
		go t.downstream(&handed{chunk: fromBack})
	}
}

// finish is called at a direction's end.
func (t *live) finish() {
	if t.going.Add(-1) > 0 {
		return
	}
	if t.pair != nil {
		t.pair[0].release()
		t.pair[1].release()
	} else {
		t.close()
	}
	t.ended(t)
}

// What waits for a message must have a small stack: see TestIdleTunnels. So what carries a message is
// kept flat, and what comes at the end is not beneath it.

// upstream carries what the browser sends.
func (t *live) upstream(h *handed) {
	if t.resumeUp(h) != nil || pump(t.front, t.toServer) != resting {
		t.upstreamEnds()
	}
}

func (t *live) upstreamEnds() {
	defer t.finish()
	if t.closing.Load() != nil {
		_, _ = io.Copy(io.Discard, t.front) // up to the browser's own close frame, or its deadline
	}
	closeWrite(t.back)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing.Load() == nil {
		t.until = time.Now().Add(halfOpen)
		_ = t.back.SetReadDeadline(t.until)
	}
}

// toServer writes a chunk to the server, which is woken for it if need be. Once the tunnel is cut
// nothing more gets there.
func (t *live) toServer(b []byte) error { return t.onward(b, fresh) }

// heard does all that a chunk for the server needs but the writing. Now is in unix nanoseconds, 0 where
// it is not known.
func (t *live) heard(b []byte, now int64) error {
	t.meter.received.Add(uint64(len(b)))
	t.route.stats.received.Add(uint64(len(b)))
	if t.closing.Load() != nil {
		return errEnding
	}
	t.coming = t.up.frames
	t.coming.advance(b)
	if t.coming.data != t.up.frames.data {
		if now == 0 {
			now = time.Now().UnixNano()
		}
		t.route.stats.used.Store(now) // before it is asked whether the server is paused
	}
	return nil
}

// onward does with a chunk for the server what is left to do.
func (t *live) onward(b []byte, at stage) (err error) {
	if at == fresh {
		if err := t.heard(b, 0); err != nil {
			return err
		}
	}
	if at != begun {
		if t.route.paused() {
			if b, err = t.toPaused(b); err != nil || len(b) == 0 {
				return err
			}
		}
		t.up.mu.Lock()
		t.up.frames, t.up.writing = t.coming, true
		t.up.mu.Unlock()
	}
	t.up.since.Store(time.Now().UnixNano())
	_, err = t.back.Write(b)
	t.up.since.Store(0)
	t.up.mu.Lock()
	t.up.writing = false
	t.up.mu.Unlock()
	return err
}

// downstream carries what the server sends, and tells the browser why the tunnel ends.
func (t *live) downstream(h *handed) {
	how := over
	if t.resumeDown(h) == nil {
		how = late
	}
	for how == late {
		if how = pump(t.back, t.toClient); how == late && !t.speak() {
			how = over
		}
	}
	if how != resting {
		t.downstreamEnds()
	}
}

func (t *live) downstreamEnds() {
	defer t.finish()
	if frame := t.ending(); frame != nil && !t.torn {
		if !t.down.frames.atBoundary() {
			_ = t.back.SetReadDeadline(time.Now().Add(closeWait))
			pump(t.back, t.toClient) // the rest of the frame, if it comes
		}
		if t.down.frames.atBoundary() && t.said < len(frame) {
			_ = t.writeFront(frame[t.said:]) // the connection ends either way
		}
	}
	closeWrite(t.front)
	t.mu.Lock()
	defer t.mu.Unlock()
	wait := halfOpen
	if t.closing.Load() != nil {
		wait = closeWait
	}
	_ = t.front.SetReadDeadline(time.Now().Add(wait))
}

// toClient writes a chunk to the browser; once the tunnel is cut, up to the end of a frame only.
func (t *live) toClient(b []byte) error {
	if t.ending() == nil {
		t.down.frames.advance(b)
		return t.writeFront(b)
	}
	if t.down.frames.atBoundary() {
		return errEnding
	}
	if err := t.writeFront(b[:t.down.frames.next(b)]); err != nil {
		return err
	}
	if t.down.frames.atBoundary() {
		return errEnding
	}
	return nil
}

// writeFront writes to the browser; nothing more once a part of something has not left, as what follows would be
// taken for the rest.
func (t *live) writeFront(b []byte) error {
	if t.torn {
		return errEnding
	}
	if t.closing.Load() != nil {
		t.hurry()
	}
	t.down.since.Store(time.Now().UnixNano())
	n, err := t.front.Write(b)
	t.down.since.Store(0)
	t.count(n)
	t.torn = n < len(b)
	return err
}

func (t *live) count(sent int) {
	t.meter.sent.Add(uint64(sent))
	t.route.stats.sent.Add(uint64(sent))
}

// hurry leaves the browser of a tunnel that was cut a moment for the next write.
func (t *live) hurry() {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.front.SetWriteDeadline(time.Now().Add(closeWait))
}

// ending is the close frame of a tunnel that was cut, or nil.
func (t *live) ending() []byte {
	if frame := t.closing.Load(); frame != nil {
		return *frame
	}
	return nil
}

// cut ends the tunnel with a close frame, between two frames of the server's, where the stream
// reaches such a place in time. It does not wait.
func (t *live) cut(code uint16, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing.Load() != nil {
		return
	}
	frame := closeFrame(code, reason)
	t.closing.Store(&frame)
	now := time.Now()
	t.cutAt = now.UnixNano()
	if t.pair != nil {
		t.farewell(frame)
	}
	_ = t.back.SetReadDeadline(now)                     // wakes the way down
	_ = t.back.SetWriteDeadline(now)                    // nothing more gets to the server
	_ = t.front.SetWriteDeadline(now.Add(closeWait))    // a browser that does not read
	_ = t.front.SetReadDeadline(now.Add(2 * closeWait)) // the browser's close frame, or enough
}

// farewell sends the close frame at once where a loop carries the way down, between two frames: who is cut
// together with thousands does not wait for as many goroutines. What the browser's socket does not take is the
// goroutine's to send.
func (t *live) farewell(frame []byte) {
	t.down.mu.Lock()
	defer t.down.mu.Unlock()
	if !t.down.looped || !t.down.frames.atBoundary() {
		return
	}
	n, _ := send(t.pair[0].fd, frame) // what fails shows when the way ends
	t.said = max(n, 0)
	t.count(t.said)
}

// cutBy tells by which code the tunnel was cut, and when; 0: it was not.
func (t *live) cutBy() (code uint16, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	frame := t.ending()
	if frame == nil {
		return 0, time.Time{}
	}
	return binary.BigEndian.Uint16(frame[2:]), time.Unix(0, t.cutAt)
}

func closeWrite(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
}
