package hub

import (
	"context"
	"time"
)

// forgetAfter is how long the record of a server that nobody runs is kept. Its generations go on
// being counted all the same.
const forgetAfter = 7 * 24 * time.Hour

// Reconcile compares records with what runs and mends each difference: it adopts what runs without
// a record, takes over starts and stops that a crashed hub left, restores lost routes, fails what
// ended unseen, and sweeps only what a record says is over. Any error in listing either side ends
// it with nothing changed.
func (m *Manager) Reconcile(ctx context.Context) error {
	lease, err := m.cfg.Leases.Acquire(ctx, "reconcile", time.Minute)
	if err != nil {
		if KindOf(err) == Conflict {
			return nil // another hub is at it
		}
		return err
	}
	defer giveBack(ctx, lease)
	records := map[ServerKey]Server{}
	for s, err := range m.cfg.Servers.Servers(ctx) {
		if err != nil {
			return Wrap(Internal, "reconcile: list records", err)
		}
		records[s.Key] = s
	}
	containers, err := list(ctx, m.cfg.Spawner) // by key, the newest generation last
	if err != nil {
		return Wrap(Internal, "reconcile: list containers", err)
	}
	routes := map[ServerKey]Route{}
	for r, err := range m.cfg.Routes.Routes(ctx) {
		if err != nil {
			return Wrap(Internal, "reconcile: list routes", err)
		}
		routes[r.Key] = r
	}
	for key, all := range containers {
		if newest := newestOf(all); newest.Generation > records[key].Generation && m.flying(key) == nil {
			if newest.Phase == Starting && time.Since(newest.Created) < m.cfg.Policy().SweepAfter {
				continue // it was made and does not run yet: another hub may be at it
			}
			if _, err := m.adopt(ctx, records[key], all); err != nil {
				m.cfg.Logger.WarnContext(ctx, "not adopted; the next round tries again", "server", key.String(), "error", err)
			}
		}
	}
	for key, rec := range records {
		m.mend(ctx, rec, containers[key], routes[key])
	}
	for key, r := range routes {
		if _, known := records[key]; !known && len(containers[key]) == 0 && m.unknown(ctx, key) {
			_ = m.cfg.Routes.DeleteRoute(ctx, key, r.Generation) // the next round tries again
		}
	}
	m.sweep(ctx, records, containers)
	return nil
}

// unknown tells that a server has no record now: a warm start takes less time than listing the
// containers, so that one which another hub made may be among the routes and not among the records.
func (m *Manager) unknown(ctx context.Context, key ServerKey) bool {
	_, err := m.cfg.Servers.Server(ctx, key)
	return KindOf(err) == NotFound
}

// newestOf prefers what runs, then the higher generation.
func newestOf(all []Status) (newest Status) {
	for _, st := range all {
		if runs(st) || !runs(newest) {
			newest = st
		}
	}
	return newest
}

func runs(st Status) bool { return st.Phase == Ready || st.Phase == Paused }

// mend looks at one record beside its containers and its route.
func (m *Manager) mend(ctx context.Context, rec Server, containers []Status, route Route) {
	var st Status
	for _, c := range containers {
		if c.Generation == rec.Generation {
			st = c
		}
	}
	routed := !route.Key.IsZero()
	switch {
	case m.flying(rec.Key) != nil:
		m.heed(rec)
	case (rec.Phase == Queued || rec.Phase == Starting || rec.Phase == Stopping) && rec.Intent == WantRunning:
		m.launchRepair(ctx, rec, true, m.flyStart)
	case rec.Phase != Absent && rec.Phase != Failed && rec.Intent == WantStopped:
		m.launchRepair(ctx, rec, false, func(ctx context.Context, _ *flight, rec Server) { m.flyStop(ctx, rec) })
	case rec.Phase == Ready || rec.Phase == Paused:
		m.mendRunning(ctx, rec, st, route)
	case rec.Leftover || routed:
		m.launchRepair(ctx, rec, false, func(ctx context.Context, _ *flight, rec Server) { m.clear(ctx, rec) })
	case time.Since(rec.Since) > forgetAfter && len(containers) == 0: // Absent or Failed
		_ = m.cfg.Servers.DeleteServer(ctx, rec) // a Conflict means that it is needed again
	}
}

// mendRunning looks at a server that should run.
func (m *Manager) mendRunning(ctx context.Context, rec Server, st Status, route Route) {
	if runs(st) || st.Phase == Starting {
		lost := route.Endpoint != st.Endpoint || route.Image != st.Image || route.Generation != rec.Generation || rec.Endpoint != st.Endpoint
		frozen := st.Phase == Paused
		if runs(st) && !st.Endpoint.IsZero() && (lost || frozen != (rec.Phase == Paused) || frozen != (route.Paused != 0)) {
			m.launchRepair(ctx, rec, false, func(ctx context.Context, _ *flight, rec Server) { m.reroute(ctx, rec, st) })
		}
		return
	}
	askCtx, done := context.WithTimeout(ctx, 10*time.Second)
	defer done()
	seen, err := m.cfg.Spawner.Inspect(askCtx, rec.Handle)
	if err == nil && (seen.Phase == Failed || seen.Phase == Absent) {
		m.failRunning(ctx, rec, seen)
	}
}

// reroute publishes a route that the store lost, or that does not say whether the server is paused; nor
// may its record: a hub crashed at it, or somebody else froze or woke the server. The server is looked
// at again, now that nobody else has it in hand.
func (m *Manager) reroute(ctx context.Context, rec Server, st Status) {
	ctx, done := context.WithTimeout(ctx, cleanupWithin)
	defer done()
	st, err := m.cfg.Spawner.Inspect(ctx, st.Handle)
	if err == nil && !runs(st) {
		return // the next round finds out why
	}
	if err == nil {
		err = insist(ctx, func() error { return m.cfg.Routes.PutRoute(ctx, routeTo(rec, st)) })
	}
	if err == nil {
		err = m.settle(ctx, rec, func(s *Server) {
			s.Handle, s.Endpoint = st.Handle, st.Endpoint
			if s.Phase != st.Phase && s.Phase.CanBecome(st.Phase) {
				s.Phase, s.Since = st.Phase, time.Now()
			}
		})
	}
	m.cfg.Logger.InfoContext(ctx, "route restored", "server", rec.Key.String(), "phase", st.Phase, "error", err)
}

// adopt records a container of which the store knows nothing, or nothing so new: it was wiped, or
// lost its last second. What runs is somebody's, and is given its route at once, whether it answers
// or not; what ended is told to its owner, and then removed.
func (m *Manager) adopt(ctx context.Context, old Server, all []Status) (Server, error) {
	st := newestOf(all)
	// Counted, so that no later start takes the number of a container that is there.
	if _, err := m.cfg.Servers.NextGeneration(ctx, st.Key, all[len(all)-1].Generation); err != nil {
		return old, err
	}
	now := time.Now()
	rec := Server{
		Key: st.Key, UserID: st.UserID, Generation: st.Generation, Profile: st.Profile, Handle: st.Handle, Since: now, Revision: old.Revision,
		Phase: st.Phase, Intent: WantRunning, Endpoint: st.Endpoint, Started: st.Created,
	}
	if !runs(st) {
		rec.Phase, rec.Intent, rec.Endpoint, rec.Started, rec.Leftover = Failed, WantStopped, Endpoint{}, time.Time{}, true
		rec.Reason, rec.LogTail = "your server ended while the hub was away", m.logTail(ctx, st.Handle)
		if st.Reason != "" {
			rec.Reason += ": " + st.Reason
		}
	}
	rec, err := m.cfg.Servers.PutServer(ctx, rec)
	if err != nil {
		return old, err
	}
	m.cfg.Logger.InfoContext(ctx, "adopted", "server", st.Key.String(), "generation", st.Generation, "phase", rec.Phase)
	if runs(st) && !st.Endpoint.IsZero() {
		err = m.cfg.Routes.PutRoute(ctx, routeTo(rec, st))
	}
	return rec, err
}

// recordUnknown looks for containers of a server without a record before anything is started for
// it: after a wipe, one may run.
func (m *Manager) recordUnknown(ctx context.Context, key ServerKey) (Server, error) {
	all, err := m.census.take(ctx, m.cfg.Spawner)
	if err != nil {
		return Server{}, err
	}
	if len(all[key]) == 0 {
		return Server{Key: key, Phase: Absent}, nil
	}
	return m.adopt(ctx, Server{Key: key, Phase: Absent}, all[key])
}

// sweep removes containers that a record says are over: of an older generation than the record's,
// or of a record that is Absent or Failed. More than a share of all at once is more likely a wrong
// store than so many orphans: then nothing is swept, and the log says so.
func (m *Manager) sweep(ctx context.Context, records map[ServerKey]Server, containers map[ServerKey][]Status) {
	policy := m.cfg.Policy()
	var doomed []Status
	total := 0
	for key, all := range containers {
		total += len(all)
		rec, known := records[key]
		if !known || time.Since(rec.Since) < policy.SweepAfter {
			continue
		}
		for _, st := range all {
			over := rec.Generation > st.Generation || rec.Generation == st.Generation && (rec.Phase == Absent || rec.Phase == Failed && !rec.Leftover)
			if over && time.Since(st.Created) > policy.SweepAfter {
				doomed = append(doomed, st)
			}
		}
	}
	if len(doomed) > 2 && float64(len(doomed)) > policy.SweepMaxShare*float64(total) {
		m.cfg.Logger.ErrorContext(ctx, "sweep refused: too many servers would end at once; is this the right Redis?", "doomed", len(doomed), "of", total)
		return
	}
	for _, st := range doomed {
		m.launchRepair(ctx, records[st.Key], false, func(ctx context.Context, _ *flight, _ Server) {
			ctx, done := context.WithTimeout(ctx, cleanupWithin)
			defer done()
			err := m.cfg.Spawner.Stop(ctx, st.Handle, policy.StopGrace)
			m.cfg.Logger.InfoContext(ctx, "swept", "server", st.Key.String(), "generation", st.Generation, "error", err)
		})
	}
}
