package hub

import (
	"context"
	"errors"
	"time"
)

// reconcileLoop compares what is recorded with what runs: at the start, at an interval, and when
// asked through m.wake.
func (m *Manager) reconcileLoop(ctx context.Context) {
	for {
		if err := m.Reconcile(ctx); err != nil && ctx.Err() == nil {
			m.cfg.Logger.WarnContext(ctx, "reconciliation put off", "error", err)
		}
		wait := m.cfg.Policy().ReconcileEvery
		if wait <= 0 {
			wait = 30 * time.Second
		}
		select {
		case <-ctx.Done():
			return
		case <-m.wake:
		case <-time.After(wait):
		}
	}
}

// resetLoop asks for a reconciliation when the store was away: it may have come back empty.
func (m *Manager) resetLoop(ctx context.Context) {
	for e := range m.cfg.Events.Subscribe(ctx) {
		if e.Kind == Reset {
			m.nudge()
		}
	}
}

func (m *Manager) nudge() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// nudgeIf asks for a reconciliation when ctx was cancelled for this cause: what was asked may have
// come too late for the flight to see.
func (m *Manager) nudgeIf(ctx context.Context, cause error) {
	if errors.Is(context.Cause(ctx), cause) {
		m.nudge()
	}
}

// watchLoop hears of ended containers at once, where the driver can tell.
func (m *Manager) watchLoop(ctx context.Context) {
	if m.watcher == nil {
		return
	}
	for ctx.Err() == nil {
		for st, err := range m.watcher.Watch(ctx) {
			if err != nil {
				break
			}
			m.containerEnded(ctx, st)
		}
		m.nudge() // the stream broke: something may have ended unseen
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// containerEnded tells the flight that waits for this container, or fails the ready server that lost it.
func (m *Manager) containerEnded(ctx context.Context, st Status) {
	if f := m.flying(st.Key); f != nil {
		if f.starting {
			select {
			case f.died <- st:
			default:
			}
		}
		return
	}
	rec, err := m.Server(ctx, st.Key)
	if err != nil || rec.Generation != st.Generation || rec.Phase != Ready && rec.Phase != Paused {
		return
	}
	m.launchRepair(ctx, rec, func(ctx context.Context, rec Server) { m.failRunning(ctx, rec, st) })
}

// launchRepair runs fix as the server's one flight, if no other hub or flight has it in hand and
// the record is still the same.
func (m *Manager) launchRepair(ctx context.Context, rec Server, fix func(context.Context, Server)) {
	m.mu.Lock()
	busy := m.flights[rec.Key] != nil
	m.mu.Unlock()
	if busy {
		return
	}
	f, joined, err := m.takeOff(ctx, rec.Key, false)
	if err != nil || joined {
		return
	}
	lease, err := m.lease(ctx, rec.Key)
	if err != nil {
		m.land(rec.Key, f)
		return
	}
	now, err := m.Server(ctx, rec.Key)
	if err != nil || now.Revision != rec.Revision {
		_ = lease.Release(ctx)
		m.land(rec.Key, f)
		m.nudge()
		return
	}
	m.launch(ctx, f, lease, func(ctx context.Context) { fix(ctx, now) })
}

// failRunning records why a ready server ended, and removes what is left of it.
func (m *Manager) failRunning(ctx context.Context, rec Server, st Status) {
	ctx, done := context.WithTimeout(ctx, cleanupWithin)
	defer done()
	message := "your server ended by itself"
	if st.Reason != "" {
		message += ": " + st.Reason
	}
	var tail []string
	if st.Phase == Failed {
		tail = m.logTail(ctx, st.Handle)
	}
	m.remove(ctx, rec)
	m.usage.forget(rec.Key)
	err := insist(ctx, func() error {
		_, err := m.move(ctx, rec.Key, rec.Generation, Failed, func(s *Server) {
			s.Reason, s.LogTail, s.Handle, s.Endpoint, s.Intent = message, tail, Handle{}, Endpoint{}, WantStopped
			s.CullAt, s.CullWhy = time.Time{}, ""
		})
		return err
	})
	if err != nil {
		m.cfg.Logger.ErrorContext(ctx, "end not recorded", "server", rec.Key.String(), "error", err)
	}
}

// Reconcile compares records with what runs and mends each difference: it adopts what runs without
// a record, takes over starts and stops that a crashed hub left, restores lost routes, fails what
// ended unseen, and sweeps only what a record says is to be stopped. Any error in listing either
// side ends it with nothing changed.
func (m *Manager) Reconcile(ctx context.Context) error {
	lease, err := m.cfg.Leases.Acquire(ctx, "reconcile", time.Minute)
	if err != nil {
		if KindOf(err) == Conflict {
			return nil // another hub is at it
		}
		return err
	}
	defer func() { _ = lease.Release(context.WithoutCancel(ctx)) }()
	records := map[ServerKey]Server{}
	for s, err := range m.cfg.Servers.Servers(ctx) {
		if err != nil {
			return Wrap(Internal, "reconcile: list records", err)
		}
		records[s.Key] = s
	}
	running := map[ServerKey]Status{}
	var superseded []Status
	for st, err := range m.cfg.Spawner.List(ctx) {
		if err != nil {
			return Wrap(Internal, "reconcile: list containers", err)
		}
		if other, twice := running[st.Key]; twice {
			if st.Generation < other.Generation {
				st, other = other, st
			}
			superseded = append(superseded, other)
		}
		running[st.Key] = st
	}
	routes := map[ServerKey]Route{}
	for r, err := range m.cfg.Routes.Routes(ctx) {
		if err != nil {
			return Wrap(Internal, "reconcile: list routes", err)
		}
		routes[r.Key] = r
	}
	m.mendAll(ctx, records, running, routes)
	m.sweep(ctx, records, running, superseded)
	return nil
}

// mendAll mends every server whose record and container differ.
func (m *Manager) mendAll(ctx context.Context, records map[ServerKey]Server, running map[ServerKey]Status, routes map[ServerKey]Route) {
	for key, st := range running {
		if _, known := records[key]; !known {
			m.adopt(ctx, st)
		}
	}
	for key, rec := range records {
		st, runs := running[key]
		runs = runs && st.Generation == rec.Generation
		m.mend(ctx, rec, st, runs)
		r, routed := routes[key]
		switch {
		case rec.Phase == Ready && runs && st.Phase == Ready && (!routed || r.Endpoint != st.Endpoint || r.Generation != rec.Generation) && m.flying(key) == nil:
			m.reroute(ctx, rec, st)
		case routed && (rec.Phase == Absent || rec.Phase == Failed) && m.flying(key) == nil:
			_ = m.cfg.Routes.DeleteRoute(ctx, key, r.Generation)
		}
	}
}

// mend looks at one record beside its container.
func (m *Manager) mend(ctx context.Context, rec Server, st Status, runs bool) {
	switch {
	case m.flying(rec.Key) != nil:
	case rec.Phase == Queued || rec.Phase == Starting:
		m.resume(ctx, rec)
	case rec.Phase == Stopping || rec.Intent == WantStopped && (rec.Phase == Ready || rec.Phase == Paused):
		m.launchRepair(ctx, rec, m.resumeStop)
	case rec.Phase == Ready || rec.Phase == Paused:
		if runs && (st.Phase == Ready || st.Phase == Paused || st.Phase == Starting) {
			return
		}
		seen, err := m.cfg.Spawner.Inspect(ctx, rec.Handle)
		if err == nil && (seen.Phase == Failed || seen.Phase == Absent) {
			m.launchRepair(ctx, rec, func(ctx context.Context, rec Server) { m.failRunning(ctx, rec, seen) })
		}
	}
}

// resume takes a start over from a hub that ended in the middle of it.
func (m *Manager) resume(ctx context.Context, rec Server) {
	if rec.Intent == WantStopped {
		m.launchRepair(ctx, rec, m.resumeStop)
		return
	}
	owner, err := m.cfg.Users.User(ctx, rec.Key.User)
	if err != nil {
		return
	}
	by := Principal{User: owner.Name, UserID: owner.ID, Groups: owner.Groups, Admin: owner.Admin}
	if _, err := m.Start(ctx, StartRequest{Key: rec.Key, By: by, Profile: rec.Profile, SafeStart: rec.SafeStart}); err != nil && KindOf(err) != Conflict {
		m.cfg.Logger.WarnContext(ctx, "start not resumed", "server", rec.Key.String(), "error", err)
	}
}

// resumeStop goes on with a stop whose handle may never have been recorded: the driver's list has it.
func (m *Manager) resumeStop(ctx context.Context, rec Server) {
	if rec.Handle.IsZero() {
		for st, err := range m.cfg.Spawner.List(ctx) {
			if err != nil {
				return
			}
			if st.Key == rec.Key && st.Generation == rec.Generation {
				rec.Handle = st.Handle
			}
		}
	}
	m.flyStop(ctx, rec)
}

// reroute publishes a route that the store lost.
func (m *Manager) reroute(ctx context.Context, rec Server, st Status) {
	err := m.cfg.Routes.PutRoute(ctx, Route{Key: rec.Key, UserID: rec.UserID, Generation: rec.Generation, Endpoint: st.Endpoint})
	if err == nil {
		_, err = m.update(ctx, rec.Key, func(s *Server) error { s.Handle, s.Endpoint = st.Handle, st.Endpoint; return nil })
	}
	m.cfg.Logger.InfoContext(ctx, "route restored", "server", rec.Key.String(), "error", err)
}

// adopt records a container that no record knows: the store was wiped, and it is somebody's.
func (m *Manager) adopt(ctx context.Context, st Status) {
	if st.Phase != Ready && st.Phase != Paused && st.Phase != Starting {
		return // ended unseen and unknown: its logs are kept until the name is used again
	}
	gen, err := m.cfg.Servers.NextGeneration(ctx, st.Key, st.Generation)
	if err != nil {
		return
	}
	_ = gen // counted, so that no later start takes this container's number
	rec := Server{
		Key: st.Key, UserID: st.UserID, Generation: st.Generation, Phase: Starting, Intent: WantRunning,
		Profile: st.Profile, Handle: st.Handle, Since: time.Now(),
	}
	if rec, err = m.cfg.Servers.PutServer(ctx, rec); err != nil {
		return
	}
	m.cfg.Logger.InfoContext(ctx, "adopted", "server", st.Key.String(), "generation", st.Generation)
	m.launchRepair(ctx, rec, func(ctx context.Context, rec Server) {
		f := m.flying(rec.Key)
		if f == nil {
			return
		}
		if _, err := m.publish(ctx, f, rec, m.cfg.Policy().StartTimeout); err != nil {
			m.cfg.Logger.WarnContext(ctx, "adopted server does not answer; left as it is", "server", rec.Key.String(), "error", err)
		}
	})
}

// sweep removes containers that a record says are over: of an older generation than the record's,
// or of a record that is Absent or Failed. More than a share of all at once is more likely a wrong
// store than so many orphans: then nothing is swept, and the log says so.
func (m *Manager) sweep(ctx context.Context, records map[ServerKey]Server, running map[ServerKey]Status, superseded []Status) {
	policy := m.cfg.Policy()
	doomed := superseded
	for key, st := range running {
		rec, known := records[key]
		over := known && (rec.Generation > st.Generation || rec.Generation == st.Generation && (rec.Phase == Absent || rec.Phase == Failed))
		if over && time.Since(rec.Since) > policy.SweepAfter && m.flying(key) == nil {
			doomed = append(doomed, st)
		}
	}
	total := len(running) + len(superseded)
	if len(doomed) > 2 && float64(len(doomed)) > policy.SweepMaxShare*float64(total) {
		m.cfg.Logger.ErrorContext(ctx, "sweep refused: too many servers would end at once; is this the right Redis?", "doomed", len(doomed), "of", total)
		return
	}
	for _, st := range doomed {
		stopCtx, done := context.WithTimeout(ctx, cleanupWithin)
		err := m.cfg.Spawner.Stop(stopCtx, st.Handle, policy.StopGrace)
		done()
		m.cfg.Logger.InfoContext(ctx, "swept", "server", st.Key.String(), "generation", st.Generation, "error", err)
	}
}
