package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"carrel/hub"
)

// A paused server is frozen: it has its connections, and answers nothing. The hub tells of a pause by
// the route a moment before it freezes the server. Whoever comes from then on has the server woken by
// the hub first, and waits; and if the server is in use here after all, it is woken at once.

const (
	wakeWithin    = 10 * time.Second
	wakeRetry     = 200 * time.Millisecond
	finishWithin  = 100 * time.Millisecond // for requests that are at work when a pause is told
	maxObjections = 1024
)

// rest is what is known of a server's pauses. The routes to one run of a server share it.
type rest struct {
	mark atomic.Int64 // hub.Route.Paused
	// holds are the requests at work. Each is counted before it looks at the mark, and whoever sets the
	// mark looks at them after.
	holds atomic.Int64

	mu     sync.Mutex
	waking *wakening // that is under way

	copies copies

	goodbye atomic.Int64 // when a visitor's page was closed, in unix nanoseconds; 0: one is there again
}

// told takes what a route says of the pause.
func (s *rest) told(mark int64) {
	if mark != 0 && s.mark.Load() == 0 {
		s.copies.since.Store(time.Now().UnixNano())
	}
	s.mark.Store(mark)
}

// wakening is a call to the hub that all share who wait for a server.
type wakening struct {
	done chan struct{}
	err  error // once done
}

func (r *route) paused() bool { return r.rest.mark.Load() != 0 }

// awake waits until a server is awake, and has it woken if need be.
func (p *Proxy) awake(ctx context.Context, rt *route) error {
	for rt.paused() {
		rt.rest.mu.Lock()
		w := rt.rest.waking
		lead := w == nil
		if lead {
			w = &wakening{done: make(chan struct{})}
			rt.rest.waking = w
		}
		rt.rest.mu.Unlock()
		if lead {
			p.wake(ctx, rt, w)
		}
		select {
		case <-w.done:
		case <-ctx.Done():
			return hub.Wrap(hub.Canceled, "wait for server", ctx.Err())
		}
		if w.err != nil {
			return w.err
		}
	}
	return nil
}

// awakeForTunnel is awake for a tunnel, which outlives the request that it began with.
func (p *Proxy) awakeForTunnel(rt *route) error { return p.awake(context.Background(), rt) }

// wake has the hub wake a server, for all who wait: also when who asked first is gone.
func (p *Proxy) wake(ctx context.Context, rt *route, w *wakening) {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), wakeWithin)
	defer done()
	mark := rt.rest.mark.Load()
	if mark != 0 { // it may just have been woken
		p.tunnels.on(rt, (*live).pong)
		w.err = p.askWake(ctx, rt.Key)
	}
	if w.err == nil {
		rt.rest.mark.CompareAndSwap(mark, 0) // a later pause stands
	}
	rt.rest.mu.Lock()
	rt.rest.waking = nil
	rt.rest.mu.Unlock()
	close(w.done)
}

var errAsleep = &hub.Error{Kind: hub.Unavailable, Op: "wake server", Message: "this server is paused, and could not be woken", Remedy: "try again in a moment; if it stays so, stop and start it from the home page"}

// askWake has the hub wake a server. A hub that is away is asked again until ctx ends.
func (p *Proxy) askWake(ctx context.Context, key hub.ServerKey) error {
	for {
		status, err := p.call(ctx, "wake", key)
		switch {
		case err == nil && status == http.StatusNoContent:
			return nil
		case err == nil && status != http.StatusServiceUnavailable:
			err = fmt.Errorf("the hub answered with status %d", status)
		default:
			if pause(ctx, wakeRetry); ctx.Err() == nil {
				continue
			}
		}
		p.cfg.Logger.WarnContext(ctx, "server not woken", "server", key.String(), "status", status, "error", err)
		return errAsleep
	}
}

// call has the hub do something about a server.
func (p *Proxy) call(ctx context.Context, what string, key hub.ServerKey) (status int, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://edge/"+what+"/"+key.Label(), http.NoBody)
	if err != nil {
		return 0, err
	}
	res, err := p.pools.get(p.cfg.Edge).RoundTrip(r)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, maxRefusal))
	return res.StatusCode, err
}

// hearPause objects to a pause of a server that was used later than the hub knows, or is in use. It does
// not wait.
func (p *Proxy) hearPause(key hub.ServerKey) {
	rt := p.routes.get(key)
	if rt == nil || !rt.inUse() {
		return
	}
	select {
	case p.objects <- rt:
	default: // who uses it has it woken
	}
}

func (r *route) inUse() bool {
	mark := r.rest.mark.Load()
	return mark != 0 && (r.rest.holds.Load() > 0 || r.lastUsed().UnixMilli() > mark)
}

// objectLoop has those servers woken that are in use.
func (p *Proxy) objectLoop(ctx context.Context) {
	var calls sync.WaitGroup
	defer calls.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case rt := <-p.objects:
			calls.Go(func() {
				poll(ctx, finishWithin, func() bool { return !rt.inUse() })
				if rt.inUse() {
					_ = p.awake(ctx, rt) // logged
				}
			})
		}
	}
}
