package proxy

import (
	"context"
	"time"
)

// The tunnels of a paused server stay open. Load balancers cut those that are silent, so the browser is
// asked now and then whether it is there, and its answers are kept from the server; what else of control
// comes neither wakes the server nor is lost.

// The frames of control that concern us (RFC 6455, section 5.5).
const (
	opPing = 0x89 // with FIN
	opPong = 0x8a

	pausePing = 25 * time.Second // by default
	ourPing   = "carrel"
)

// lonePong is a client's pong that nobody asked for.
var lonePong = []byte{opPong, 0x80, 0, 0, 0, 0}

// toPaused is what of a chunk is to go to a paused server's socket, which is woken unless all of it are
// pings and pongs.
func (t *live) toPaused(b []byte) ([]byte, error) {
	if rest, ok := t.controls(b); ok {
		return rest, nil
	}
	if t.awake(t.route) != nil {
		t.cut(closeTryAgain, "the server could not be woken")
		return nil, errEnding
	}
	return b, nil
}

// controls takes a chunk of whole pings and pongs, and is false for any other. Pings it answers, of
// several the last (section 5.5.3); pongs are returned, but for those to our own pings.
func (t *live) controls(b []byte) (rest []byte, ok bool) {
	if !t.up.frames.atBoundary() {
		return nil, false
	}
	var owed []byte
	for len(b) > 0 {
		op, payload, size := control(b)
		switch {
		case size == 0:
			return nil, false
		case op == opPing:
			owed = append([]byte{opPong, byte(len(payload))}, payload...)
		case string(payload) != ourPing:
			rest = append(rest, b[:size]...)
		}
		b = b[size:]
	}
	if owed != nil {
		t.owed.Store(&owed)
		t.nudge()
	}
	return rest, true
}

// control reads a client's whole ping or pong at the begin of a chunk; its size is 0 for anything else.
func control(b []byte) (op byte, payload []byte, size int) {
	const head = 6 // with the mask
	if len(b) < head || b[0] != opPing && b[0] != opPong || b[1]&0x80 == 0 {
		return 0, nil, 0
	}
	n := int(b[1] & 0x7f)
	if n > 125 || len(b) < head+n {
		return 0, nil, 0
	}
	payload = make([]byte, n)
	for i := range payload {
		payload[i] = b[head+i] ^ b[2+i%4]
	}
	return b[0], payload, head + n
}

// nudge has the way down wake up, and say to the browser what is to be said.
func (t *live) nudge() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing.Load() == nil {
		_ = t.back.SetReadDeadline(time.Now()) // speak sets it back; a broken connection shows at once
	}
}

// speak says to the browser what is due, between two frames of the server's, when a deadline was met. It
// is false at the end of the way down. What can't be said now is left out.
func (t *live) speak() (goesOn bool) {
	t.mu.Lock()
	over := t.closing.Load() != nil || !t.until.IsZero() && !time.Now().Before(t.until)
	if !over {
		_ = t.back.SetReadDeadline(t.until)
	}
	t.mu.Unlock()
	if over {
		return false
	}
	var b []byte
	if owed := t.owed.Swap(nil); owed != nil {
		b = *owed
	}
	if t.pingDue.Swap(false) {
		b = append(append(b, opPing, byte(len(ourPing))), ourPing...)
	}
	return len(b) == 0 || !t.down.frames.atBoundary() || t.writeFront(b) == nil
}

// pong has the server hear from its client. A server that sent a ping just before it was frozen looks for
// the answer first thing when it goes on, and must find one.
func (t *live) pong() {
	if n := t.pongAtOnce(); n > 0 && n < len(lonePong) {
		t.close() // half a frame spoils what follows
	}
}

func (t *live) pongAtOnce() (n int) {
	t.up.mu.Lock()
	defer t.up.mu.Unlock()
	if t.up.writing || t.closing.Load() != nil || !t.up.frames.atBoundary() {
		return 0
	}
	return writeAtOnce(t.back, lonePong)
}

// on does something to each tunnel of a server.
func (s *tunnels) on(rt *route, do func(*live)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.byServer[rt.Key] {
		do(t)
	}
}

// pingLoop asks the browsers at paused servers whether they are there.
func (p *Proxy) pingLoop(ctx context.Context) {
	tick := time.NewTicker(p.cfg.PausePing)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, rt := range p.routes.all() {
			if rt.paused() {
				p.tunnels.on(rt, func(t *live) {
					t.pingDue.Store(true)
					t.nudge()
				})
			}
		}
	}
}
