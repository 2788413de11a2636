package proxy

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"carrel/internal/front"
)

// Drain says how a proxy goes away.
type Drain struct {
	Notice   time.Duration // it says that it is not ready for so long before it stops accepting
	Requests time.Duration // how long requests under way may take then
	Handed   time.Duration // likewise where a successor accepts already
	Tunnels  time.Duration // over how long websockets are told, so that not all come back at once
}

// ErrSucceeded is the cause of the end of Run's context when another process accepts on the same
// listeners already: nobody waits for this one's end.
var ErrSucceeded = errors.New("another proxy has taken over")

const (
	// A connection that is idle may bring one more request just when it is closed, which then fails
	// (RFC 9112, section 9.6). So the next answer on each says "Connection: close", and those that
	// bring none are closed after a while: a longer one where nobody waits.
	settleStop   = 500 * time.Millisecond
	settleHanded = 5 * time.Second

	tunnelsTimeout = 3 * time.Second // for the last close frame to be taken
	drainPoll      = 5 * time.Millisecond
	goingAway      = "the proxy is restarting"
)

// drain goes away in order: not ready, no new connections, requests finished, and meanwhile tunnels
// told. Neither an endless download nor a browser that does not read holds up the other's end.
func (p *Proxy) drain(ctx context.Context, server *front.Server, listeners []net.Listener, succeeded bool) {
	d := p.cfg.Drain
	p.ready.Store(false)
	within, settle := d.Handed, settleHanded
	if !succeeded {
		pause(ctx, d.Notice)
		within, settle = d.Requests, settleStop
	}
	p.leaving.Store(true)
	for _, l := range listeners {
		stopAccepting(l) // a successor, or who started us, has the same socket open
	}
	var told sync.WaitGroup
	told.Go(func() { p.tunnels.leave(ctx, d.Tunnels) })
	requests, done := context.WithTimeout(ctx, within)
	defer done()
	poll(requests, settle, func() bool { return p.conns.Load() == 0 })
	if err := server.Shutdown(requests); err != nil {
		server.Close() //nolint:errcheck // what did not finish is cut
	}
	told.Wait()
	// A handler may be about to enter a tunnel.
	poll(ctx, tunnelsTimeout, func() bool { return p.handlers.Load() == 0 && p.tunnels.none() })
	last, done := context.WithCancel(ctx)
	done()
	p.tunnels.wait(last)
}

// poll waits until something is so, for a while at most.
func poll(ctx context.Context, within time.Duration, so func() bool) {
	ctx, done := context.WithTimeout(ctx, within)
	defer done()
	for !so() && ctx.Err() == nil {
		pause(ctx, drainPoll)
	}
}

// pause waits, or less when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// stopAccepting leaves those that have come to be served.
func stopAccepting(l net.Listener) {
	if f, ok := l.(*front.Listener); ok {
		_ = f.Stop() // it ends with the process at the latest
		return
	}
	l.Close()
}
