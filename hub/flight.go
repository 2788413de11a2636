package hub

import (
	"context"
	"errors"
	"sync"
	"time"
)

// flight is one start, stop, pause, wake or repair under way in this process.
type flight struct {
	starting bool
	pausing  bool          // a pause or a wake
	wanted   chan struct{} // of a pause: the server is wanted awake, or stopped
	recorded chan struct{} // closed when the record tells of the flight
	done     chan struct{}
	died     chan Status // at most one: the watcher saw the container end

	// The rest is the Manager's mutex's.
	cancel     context.CancelCauseFunc
	abort      context.CancelFunc // of the driver's call alone, where one is under way
	generation Generation         // that it flies
	revision   uint64             // of the record that it took off with
	cancelled  bool               // by a stop: it can't be joined any more
	ending     bool               // it can't be joined or cancelled any more
	lookAfter  bool               // something was recorded that it may not have seen
}

// tell hands an end on to the flight.
func (f *flight) tell(st Status) {
	select {
	case f.died <- st:
	default:
	}
}

// Why a flight's context was cancelled; what is to be cleaned up depends on it.
var (
	errShutdown  = errors.New("the hub is shutting down")
	errLeaseLost = errors.New("the lease on this server was lost")
	errStopped   = errors.New("the start was cancelled")
)

const (
	leaseTTL      = 30 * time.Second
	cleanupWithin = 2 * time.Minute
	startWithin   = 30 * time.Minute // create, with the pull of an image
)

// claim makes the key's one flight, if there is none; m.mu is held.
func (m *Manager) claim(key ServerKey, starting bool) *flight {
	f := &flight{starting: starting, cancel: func(error) {}, abort: func() {}, recorded: make(chan struct{}), done: make(chan struct{}), died: make(chan Status, 1), wanted: make(chan struct{}, 1)}
	m.flights[key] = f
	m.wg.Add(1)
	return f
}

// tryTakeOff claims the key's one flight; nil when there is one, or the hub is closing.
func (m *Manager) tryTakeOff(key ServerKey, starting bool) *flight {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing || m.flights[key] != nil {
		return nil
	}
	return m.claim(key, starting)
}

// takeOff claims the key's one flight. When a start is wanted and one is under way it is joined,
// and so is a stop; otherwise the flight under way is waited for.
func (m *Manager) takeOff(ctx context.Context, key ServerKey, starting bool) (f *flight, joined bool, err error) {
	for {
		m.mu.Lock()
		if m.closing {
			m.mu.Unlock()
			return nil, false, errClosing()
		}
		other := m.flights[key]
		if other == nil {
			f = m.claim(key, starting)
			m.mu.Unlock()
			return f, false, nil
		}
		join := other.starting == starting && !other.cancelled && !other.ending
		m.mu.Unlock()
		var recorded <-chan struct{}
		if join {
			recorded = other.recorded
		}
		select {
		case <-recorded:
			return other, true, nil
		case <-other.done: // without a record, if it was to be joined: ours may do better
		case <-ctx.Done():
			return nil, false, Wrap(Canceled, "change server", ctx.Err())
		}
	}
}

func errClosing() error {
	return &Error{Kind: Unavailable, Op: "change server", Message: "the hub is restarting", Remedy: "try again in a few seconds"}
}

// land ends a flight. What the watcher told it too late is the reconciler's to find.
func (m *Manager) land(key ServerKey, f *flight) {
	m.mu.Lock()
	delete(m.flights, key)
	lookAfter := f.lookAfter
	m.mu.Unlock()
	close(f.done)
	if len(f.died) > 0 || lookAfter {
		m.nudge()
	}
	m.wg.Done()
}

// lookAfter asks for a reconciliation once a flight is over, and a pause to come to its end.
func (m *Manager) lookAfter(key ServerKey, f *flight) {
	f.want()
	m.mu.Lock()
	defer m.mu.Unlock()
	if f.lookAfter = true; m.flights[key] != f {
		m.nudge()
	}
}

func (m *Manager) flying(key ServerKey) *flight {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.flights[key]
}

// flies tells a flight which generation it flies from now on.
func (m *Manager) flies(f *flight, rec Server) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.generation, f.revision = rec.Generation, rec.Revision
}

// launch runs fly with a context of the Manager's own, keeping the lease meanwhile, and lands the flight.
func (m *Manager) launch(ctx context.Context, f *flight, lease heldLease, rec Server, fly func(context.Context)) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	m.flies(f, rec)
	m.mu.Lock()
	f.cancel = cancel
	if m.closing {
		cancel(errShutdown)
	}
	m.mu.Unlock()
	close(f.recorded)
	go func() { // owned by m.wg, through land
		defer m.land(lease.key, f)
		defer cancel(nil)
		stopKeeping := lease.keep(context.WithoutCancel(ctx), cancel) // until the clean-up is over too
		defer stopKeeping()
		fly(ctx)
	}()
}

// cancelStart cancels a start; false when it is over, or past the point where it can be cancelled.
func (m *Manager) cancelStart(key ServerKey, f *flight) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.flights[key] != f || f.ending {
		return false
	}
	f.stop(errStopped)
	return true
}

// stop ends what the flight does, the driver's call too; the Manager's mutex is held. A lost lease
// spares that call: another hub may have found by now, under the same name, what would be removed.
func (f *flight) stop(cause error) {
	f.cancelled = true
	f.cancel(cause)
	f.abort()
}

// end makes a flight one that nobody joins or cancels any more, and tells whether it was cancelled
// before, and why.
func (m *Manager) end(ctx context.Context, f *flight) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.ending = true
	return context.Cause(ctx)
}

// heed cancels the start that this process flies when the record says that somebody, at another
// hub perhaps, wants the server stopped.
func (m *Manager) heed(rec Server) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.flights[rec.Key]
	if f != nil && f.starting && !f.ending && rec.Intent == WantStopped && rec.Generation == f.generation && rec.Revision > f.revision {
		f.stop(errStopped)
	}
}

// launchRepair runs fix as the server's one flight, if no other hub or flight has it in hand and
// the record is still the same.
func (m *Manager) launchRepair(ctx context.Context, rec Server, starting bool, fix func(context.Context, *flight, Server)) {
	f := m.tryTakeOff(rec.Key, starting)
	if f == nil {
		return
	}
	lease, err := m.lease(ctx, rec.Key)
	if err != nil {
		m.land(rec.Key, f)
		return
	}
	now, err := m.Server(ctx, rec.Key)
	if err != nil || now.Revision != rec.Revision {
		lease.giveBack(ctx)
		m.land(rec.Key, f)
		if err == nil {
			m.nudge()
		}
		return
	}
	if starting {
		m.steps.begin(rec.Key, rec.Generation)
	}
	m.launch(ctx, f, lease, now, func(ctx context.Context) { fix(ctx, f, now) })
}

// serverLease is a server's lease while its phase changes.
type serverLease struct {
	Lease
	key ServerKey
}

// heldLease is nil when another hub has the server in hand.
type heldLease = *serverLease

func (m *Manager) lease(ctx context.Context, key ServerKey) (heldLease, error) {
	l, err := m.cfg.Leases.Acquire(ctx, "server/"+key.Label(), leaseTTL)
	if err != nil {
		return nil, err
	}
	return &serverLease{l, key}, nil
}

// giveBack releases a lease although the caller may be gone; a lease that can't be released ends by itself.
func (l *serverLease) giveBack(ctx context.Context) { giveBack(ctx, l.Lease) }

func giveBack(ctx context.Context, l Lease) {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer done()
	_ = l.Release(ctx)
}

// keep extends the lease until the returned function is called, which gives it back. A lost lease
// cancels the flight: another hub has the server now.
func (l *serverLease) keep(ctx context.Context, cancel context.CancelCauseFunc) func() {
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(leaseTTL / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if KindOf(l.Extend(ctx, leaseTTL)) == Conflict {
					cancel(errLeaseLost)
					return
				}
			}
		}
	})
	return func() {
		stop()
		wg.Wait()
		l.giveBack(ctx)
	}
}

// acquire takes a lease that others hold for moments only, waiting for it.
func acquire(ctx context.Context, leases Leases, name string, ttl time.Duration) (Lease, error) {
	ctx, done := context.WithTimeout(ctx, ttl)
	defer done()
	for {
		l, err := leases.Acquire(ctx, name, ttl)
		if err == nil || KindOf(err) != Conflict {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, &Error{Kind: Unavailable, Op: "take lease " + name, Message: "the hub is busy", Remedy: "try again in a few seconds", Err: err}
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// acquireAll takes several leases, one after the other, as others do in the same order. Each lasts for ttl at least
// once it has the last.
func acquireAll(ctx context.Context, leases Leases, names []string, ttl time.Duration) (release func(), err error) {
	var held []Lease
	release = func() {
		for _, l := range held {
			giveBack(ctx, l)
		}
	}
	for i, name := range names {
		l, err := acquire(ctx, leases, name, time.Duration(len(names)-i)*ttl)
		if err != nil {
			release()
			return nil, err
		}
		held = append(held, l)
	}
	return release, nil
}
