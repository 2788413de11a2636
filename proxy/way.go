package proxy

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// way is what one direction has come to, and who carries it: the loop, where both ends are sockets of
// its, or a goroutine.
type way struct {
	frames frames
	since  atomic.Int64 // when the write that is under way began, in unix nanoseconds; 0: none is

	mu      sync.Mutex
	looped  bool    // the loop carries it
	writing bool    // to the server: something is under way, or half written; then frames is ahead of it
	came    [2]bool // the loop has told, since somebody last tried
	closed  [2]bool
	waits   *waits // nil: whoever carries it has neither waited nor been given a deadline
}

// What a way waits for: its source to have something, or its destination to take something.
const (
	toRead = iota
	toWrite
)

// waits are for the goroutine that carries a way.
type waits struct {
	bell  chan struct{} // there is something to look at
	until [2]time.Time
}

func (w *way) waiting() *waits {
	if w.waits == nil {
		w.waits = &waits{bell: make(chan struct{}, 1)}
	}
	return w.waits
}

// ring wakes whoever waits; with mu.
func (w *way) ring() {
	if w.waits != nil {
		select {
		case w.waits.bell <- struct{}{}:
		default:
		}
	}
}

// tell says that there may be something to read, or room to write.
func (w *way) tell(what int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.came[what] = true
	w.ring()
}

// shut ends the waiting for good; with mu.
func (w *way) shut(what int) {
	w.closed[what] = true
	w.ring()
}

// until sets a deadline; with mu.
func (w *way) until(what int, at time.Time) {
	w.waiting().until[what] = at
	w.ring()
}

// begin comes before an attempt: what the loop tells from then on is news.
func (w *way) begin(what int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.came[what] = false
	return w.spoilt(what)
}

// spoilt tells why there is nothing to try; with mu.
func (w *way) spoilt(what int) error {
	if w.closed[what] {
		return net.ErrClosed
	}
	if w.waits == nil {
		return nil
	}
	if at := w.waits.until[what]; !at.IsZero() && !time.Now().Before(at) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// idle tells whether the loop may carry the way; with mu.
func (w *way) idle() bool {
	return !w.came[toRead] && !w.closed[toRead] && (w.waits == nil || w.waits.until[toRead].IsZero())
}

// wait waits until another attempt is worth while.
func (w *way) wait(what int) {
	for {
		w.mu.Lock()
		if w.came[what] || w.spoilt(what) != nil {
			w.mu.Unlock()
			return
		}
		bell, at := w.waiting().bell, w.waits.until[what]
		w.mu.Unlock()
		if at.IsZero() {
			<-bell
			continue
		}
		late := time.NewTimer(time.Until(at))
		select {
		case <-bell:
		case <-late.C:
		}
		late.Stop()
	}
}

// outcome is how a pump ended.
type outcome uint8

const (
	over outcome = iota
	late
	resting // the loop carries the way
	goesOn
)

func outcomeOf(err error) outcome {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return late
	}
	return over
}
