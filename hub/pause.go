package hub

import (
	"context"
	"errors"
	"time"
)

const (
	// objectWithin is how long proxies have to say that a server is in use, once its route says that it
	// is paused.
	objectWithin = 250 * time.Millisecond
	// wakeRetry is how often a wake looks whether another hub has let go of the server.
	wakeRetry = 20 * time.Millisecond
	// pausePatience is how long a pause that somebody asked for waits until nothing else is being done
	// about the server: its record says Ready a moment before its start is over.
	pausePatience = 2 * time.Second
)

var (
	// errWanted ends a pause of a server that is in use.
	errWanted = errors.New("the server is in use")
	// errBusy is why a server is not paused that another flight, or another hub, has in hand.
	errBusy = &Error{Kind: Conflict, Op: "pause server", Message: "something else is being done about this server", Remedy: "try again in a moment"}
)

// Pause freezes a ready server that nobody uses, and returns its record as it is then: Paused, or Ready
// if a proxy knows of a use. It is idempotent. Errors: Conflict when the server is not ready, or
// something else goes on being done about it; Invalid where the driver can't pause.
func (m *Manager) Pause(ctx context.Context, key ServerKey) (Server, error) {
	for enough := time.Now().Add(pausePatience); ; {
		rec, err := m.pause(ctx, key, time.Now(), func(Server) bool { return true })
		if !errors.Is(err, errBusy) || time.Now().After(enough) {
			return rec, err
		}
		select {
		case <-ctx.Done():
			return Server{}, Wrap(Canceled, "pause server", ctx.Err())
		case <-time.After(wakeRetry):
		}
	}
}

// pause freezes a server that, as far as the hub knows, was last used at a time, if its record is still
// as it should be.
func (m *Manager) pause(ctx context.Context, key ServerKey, used time.Time, still func(Server) bool) (Server, error) {
	if m.pauser == nil {
		return Server{}, &Error{Kind: Invalid, Op: "pause server", Message: "servers of this kind can't be paused", Remedy: "stop it instead"}
	}
	f := m.takeOffPausing(key)
	if f == nil {
		return Server{}, errBusy
	}
	rec, lease, err := m.beginPause(ctx, key, still)
	if err != nil || lease == nil {
		m.land(key, f)
		return rec, err
	}
	m.launch(ctx, f, lease, rec, func(ctx context.Context) { m.flyPause(ctx, f, rec, used) })
	select {
	case <-f.done:
	case <-ctx.Done():
		return Server{}, Wrap(Canceled, "pause server", ctx.Err())
	}
	return m.Server(ctx, key)
}

// takeOffPausing claims the key's one flight for a pause or a wake; nil when there is one, or the hub
// is closing.
func (m *Manager) takeOffPausing(key ServerKey) *flight {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing || m.flights[key] != nil {
		return nil
	}
	f := m.claim(key, false)
	f.pausing = true
	return f
}

// beginPause takes the lease and records the pause. A nil lease with a record means that there is
// nothing to do.
func (m *Manager) beginPause(ctx context.Context, key ServerKey, still func(Server) bool) (Server, heldLease, error) {
	lease, err := m.lease(ctx, key)
	if KindOf(err) == Conflict {
		return Server{}, nil, errBusy
	}
	if err != nil {
		return Server{}, nil, err
	}
	rec, err := m.update(ctx, key, func(s *Server) error {
		switch {
		case s.Phase == Paused && s.Intent == WantRunning, !still(*s):
			return errNothingToDo
		case s.Phase != Ready || s.Intent != WantRunning:
			return errNotRunning("pause server")
		}
		s.Phase, s.Since = Paused, time.Now()
		return nil
	})
	if err != nil {
		lease.giveBack(ctx)
		if errors.Is(err, errNothingToDo) {
			err = nil
		}
		return rec, nil, err
	}
	return rec, lease, nil
}

func errNotRunning(op string) error {
	return &Error{Kind: Conflict, Op: op, Message: "this server is not running", Remedy: "start it from the home page"}
}

// flyPause does the work of a pause that is recorded. Proxies are told first: from then on they hold
// back what comes for the server until it is awake, and one that knows of a use wakes it at once.
func (m *Manager) flyPause(ctx context.Context, f *flight, rec Server, used time.Time) {
	err := m.freeze(ctx, f, rec, used)
	switch {
	case err == nil:
		m.cfg.Observer.PauseOver("paused")
	case errors.Is(err, errWanted):
		m.cfg.Observer.PauseOver("objected")
	default:
		m.cfg.Observer.PauseOver("failed")
	}
	if err == nil {
		m.cfg.Logger.InfoContext(ctx, "server", "server", rec.Key.String(), "generation", rec.Generation, "phase", Paused)
		return
	}
	if errors.Is(err, errLeaseLost) {
		return // another hub has it in hand
	}
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), cleanupWithin)
	defer done()
	if _, undone := m.thaw(ctx, rec); undone != nil && !errors.Is(undone, errStopped) {
		m.cfg.Logger.WarnContext(ctx, "pause not undone; the reconciler will", "server", rec.Key.String(), "error", errors.Join(err, undone))
		m.nudge()
	} else if !errors.Is(err, errWanted) {
		m.cfg.Logger.WarnContext(ctx, "not paused", "server", rec.Key.String(), "error", err)
	}
}

// freeze tells the proxies, and unless one objects pauses the server.
func (m *Manager) freeze(ctx context.Context, f *flight, rec Server, used time.Time) error {
	st, err := m.cfg.Spawner.Inspect(ctx, rec.Handle)
	if err != nil {
		return err
	}
	if !runs(st) {
		return errNotRunning("pause server")
	}
	route := routeTo(rec, st)
	route.Paused = used.UnixMilli()
	if err := m.cfg.Routes.PutRoute(ctx, route); err != nil {
		return err
	}
	select {
	case <-f.wanted:
		return errWanted
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(objectWithin):
	}
	return m.pauser.Pause(ctx, rec.Handle)
}

// want asks a pause to end as if it had not begun.
func (f *flight) want() {
	select {
	case f.wanted <- struct{}{}:
	default:
	}
}

// Wake has a paused server go on, and returns when it does, or when ctx ends; it goes on then too. It
// is idempotent. Errors: Conflict when the server is not running, Unavailable.
func (m *Manager) Wake(ctx context.Context, key ServerKey) (Server, error) {
	for {
		rec, over, err := m.tryWake(ctx, key)
		if err != nil || over {
			return rec, err
		}
		select {
		case <-ctx.Done():
			return Server{}, Wrap(Canceled, "wake server", ctx.Err())
		case <-time.After(wakeRetry):
		}
	}
}

// tryWake is not over while something else is being done about the server. What this process does it
// waits for, and has a pause objected to.
func (m *Manager) tryWake(ctx context.Context, key ServerKey) (rec Server, over bool, err error) {
	f := m.takeOffPausing(key)
	if f == nil {
		if err := m.awaitLanding(ctx, key); err != nil {
			return Server{}, false, err
		}
		return m.awake(ctx, key)
	}
	lease, err := m.lease(ctx, key)
	if err != nil {
		m.land(key, f)
		if KindOf(err) == Conflict {
			return m.awake(ctx, key)
		}
		return Server{}, false, err
	}
	if rec, _, err = m.awake(ctx, key); err != nil {
		lease.giveBack(ctx)
		m.land(key, f)
		return rec, false, err
	}
	var thawed Server
	var failure error
	m.launch(ctx, f, lease, rec, func(ctx context.Context) {
		ctx, done := context.WithTimeout(ctx, cleanupWithin)
		defer done()
		began := time.Now()
		thawed, failure = m.thaw(ctx, rec)
		if rec.Phase == Paused {
			m.cfg.Observer.WakeOver(time.Since(began), failure)
		}
	})
	select {
	case <-f.done:
		return thawed, true, failure
	case <-ctx.Done():
		return Server{}, false, Wrap(Canceled, "wake server", ctx.Err())
	}
}

// awake tells whether a server's record calls it awake; Conflict when it can't be woken.
func (m *Manager) awake(ctx context.Context, key ServerKey) (Server, bool, error) {
	rec, err := m.Server(ctx, key)
	if err == nil && (!up(rec, User{ID: rec.UserID})) {
		err = errNotRunning("wake server")
	}
	return rec, rec.Phase == Ready, err
}

// awaitLanding waits for the key's flight, and has a pause end at once.
func (m *Manager) awaitLanding(ctx context.Context, key ServerKey) error {
	m.mu.Lock()
	f, closing := m.flights[key], m.closing
	m.mu.Unlock()
	if closing {
		return errClosing()
	}
	if f == nil {
		return nil
	}
	f.want()
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return Wrap(Canceled, "change server", ctx.Err())
	}
}

// thaw has a server go on, and says so in its record, then in its route.
func (m *Manager) thaw(ctx context.Context, rec Server) (Server, error) {
	if m.pauser != nil {
		if err := m.pauser.Resume(ctx, rec.Handle); err != nil {
			m.nudge() // it may have ended
			return rec, &Error{Kind: Unavailable, Op: "wake server", Message: "this server could not be woken", Remedy: "try again in a moment; if it stays so, stop and start it from the home page", Err: err}
		}
	}
	st, err := m.cfg.Spawner.Inspect(ctx, rec.Handle)
	if err != nil {
		return rec, err
	}
	if rec, err = m.move(ctx, rec, Ready, nil); err != nil {
		return rec, err
	}
	return rec, insist(ctx, func() error { return m.cfg.Routes.PutRoute(ctx, routeTo(rec, st)) })
}
