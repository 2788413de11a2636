package front

import (
	"context"
	"errors"
	"os"
	"time"
)

const (
	// lookEvery is how often connections are looked at: the least by which a timeout comes late. No
	// timer is set for each request.
	lookEvery = 200 * time.Millisecond
	// freshTime is how long a connection that brought nothing yet is waited for by Shutdown, as net/http does.
	freshTime = 5 * time.Second
)

// lookAfter ends what takes too long, and has the client of a request that takes a while watched.
func (s *Server) lookAfter() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var list []*visit
	for {
		select {
		case <-s.over:
			return
		case <-tick.C:
		}
		list = s.all(list)
		now := s.now()
		for _, v := range list {
			v.look(now)
		}
		clear(list)
	}
}

// look is called now and then.
func (v *visit) look(now int64) {
	seen := v.phase.Load()
	took := time.Duration(now - seen>>phaseBits)
	switch seen & phaseMask {
	case phaseFresh, phaseHead:
		if within := v.server.std.ReadHeaderTimeout; within > 0 && took > within {
			v.expire(seen)
		}
	case phaseIdle:
		if within := v.server.std.IdleTimeout; within > 0 && took > within {
			v.expire(seen)
		}
	case phaseActive:
		if took > lookEvery && !v.unread.Load() {
			v.watch(seen)
		}
		v.lookAtWrites(now)
	case phaseWatched:
		v.lookAtWrites(now)
	}
}

// lookAtWrites fails what the client did not take in time. When the deadline has been moved meanwhile
// it is not this one.
func (v *visit) lookAtWrites(now int64) {
	if until := v.until.Load(); until != 0 && now > until && v.until.CompareAndSwap(until, 0) {
		_ = v.c.SetWriteDeadline(past) // of a closed one none
	}
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// expire ends a visit that is still in the phase in which it was seen. Its goroutine closes the
// connection: to say farewell within TLS may take a while.
func (v *visit) expire(seen int64) {
	if v.phase.CompareAndSwap(seen, seen|phaseMask) {
		_ = v.c.SetReadDeadline(past) // likewise
	}
}

// leave ends a visit that no request is being served of.
func (v *visit) leave() {
	seen := v.phase.Load()
	switch seen & phaseMask {
	case phaseIdle:
		v.expire(seen)
	case phaseFresh:
		if v.server.now()-seen>>phaseBits > int64(freshTime) {
			v.expire(seen)
		}
	}
}

// cut ends a visit at once, and the request that is served.
func (v *visit) cut() {
	_ = v.in.Conn.Close()
	if seen := v.phase.Load(); seen&phaseMask == phaseActive && !v.unread.Load() {
		v.watch(seen) // which sees that the client is gone
	}
}

// watch begins to wait for the client's leaving, unless the visit is in another phase meanwhile.
func (v *visit) watch(seen int64) {
	if v.phase.CompareAndSwap(seen, seen&^phaseMask|phaseWatched) {
		go v.wait() // unwatch waits for it
	}
}

func (v *visit) wait() {
	n, err := v.c.Read(v.ahead[:])
	v.early = n
	if n == 0 && !(v.abort.Load() && errors.Is(err, os.ErrDeadlineExceeded)) {
		v.cancel(context.Canceled)
	}
	v.gone <- struct{}{}
}

// unwatch ends the watch, once the visit is in another phase. What it read comes behind what is there.
func (v *visit) unwatch() {
	v.abort.Store(true)
	_ = v.c.SetReadDeadline(past) // of a closed one none, and then the watch has ended
	<-v.gone
	_ = v.c.SetReadDeadline(time.Time{})
	v.abort.Store(false)
	if v.early > 0 {
		v.buf = append(v.buf[:v.w], v.ahead[0])
		v.w++
		v.buf = v.buf[:max(v.w, min(cap(v.buf), bufferSize))]
		v.early = 0
	}
}
