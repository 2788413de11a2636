package hub

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// patience is how long a start waits for another hub to let go of the server.
const patience = leaseTTL + 10*time.Second

// beginStart takes the lease and writes what is intended. A nil lease with a record means that
// there is nothing to do: the server is up, or another hub starts it.
func (m *Manager) beginStart(ctx context.Context, req StartRequest, owner User, profile Profile) (Server, heldLease, error) {
	for began := time.Now(); ; {
		rec, err := m.Server(ctx, req.Key)
		if err != nil || up(rec, owner) {
			return rec, nil, err
		}
		lease, err := m.lease(ctx, req.Key)
		switch {
		case err == nil:
			rec, err = m.recordStart(ctx, req, owner, profile)
			if err != nil || up(rec, owner) {
				lease.giveBack(ctx)
				return rec, nil, err
			}
			m.steps.begin(req.Key, rec.Generation)
			return rec, lease, nil
		case KindOf(err) != Conflict:
			return Server{}, nil, err
		case coming(rec, owner):
			return rec, nil, nil
		case time.Since(began) > patience:
			return Server{}, nil, &Error{Kind: Unavailable, Op: "start server", Message: "another hub is busy with this server", Remedy: "try again in a few seconds", Err: err}
		}
		select {
		case <-ctx.Done():
			return Server{}, nil, Wrap(Canceled, "start server", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// up tells whether a server runs, and for this person: a name can be given to another.
func up(rec Server, owner User) bool {
	return (rec.Phase == Ready || rec.Phase == Paused) && rec.Intent == WantRunning && rec.UserID == owner.ID
}

// coming tells whether a start for this person is recorded, whoever flies it.
func coming(rec Server, owner User) bool {
	return (rec.Phase == Queued || rec.Phase == Starting) && rec.Intent == WantRunning && rec.UserID == owner.ID
}

// recordStart writes the intent, with the lease held. A start that a crashed hub left is taken over
// as it is. Where something of an earlier start may still be there, the record becomes Stopping with
// the intent to run: first that goes, then the new generation begins.
func (m *Manager) recordStart(ctx context.Context, req StartRequest, owner User, profile Profile) (Server, error) {
	rec, err := m.Server(ctx, req.Key)
	if err == nil && rec.Revision == 0 {
		rec, err = m.recordUnknown(ctx, req.Key)
	}
	if err != nil || up(rec, owner) {
		return rec, err
	}
	if coming(rec, owner) {
		return m.cfg.Servers.PutServer(ctx, rec)
	}
	return m.withinShare(ctx, req.Key, profile, func() (Server, error) {
		rec.Profile, rec.SafeStart = profile.Name, req.SafeStart
		if rec.Phase.Active() || rec.Leftover {
			rec.Phase, rec.Intent, rec.Since, rec.Reason, rec.LogTail, rec.Leftover = Stopping, WantRunning, time.Now(), "", nil, false
			return m.cfg.Servers.PutServer(ctx, rec)
		}
		return m.renew(ctx, rec, owner)
	})
}

// renew records a new generation of a server of which nothing is left.
func (m *Manager) renew(ctx context.Context, rec Server, owner User) (Server, error) {
	gen, err := m.cfg.Servers.NextGeneration(ctx, rec.Key, rec.Generation)
	if err != nil {
		return Server{}, err
	}
	return m.cfg.Servers.PutServer(ctx, Server{
		Key: rec.Key, UserID: owner.ID, Generation: gen, Phase: Queued, Intent: WantRunning,
		Profile: rec.Profile, SafeStart: rec.SafeStart, Since: time.Now(), Revision: rec.Revision,
	})
}

// withinShare refuses a start beyond the number of servers that one person may run at once, or that there
// may be of the profile. What is limited is counted and recorded for one start at a time, at all hubs.
func (m *Manager) withinShare(ctx context.Context, key ServerKey, profile Profile, record func() (Server, error)) (Server, error) {
	most := m.cfg.Policy().MaxPerUser
	var limited []string
	if most > 0 {
		limited = append(limited, "share/"+key.User.Label())
	}
	if profile.Max > 0 {
		limited = append(limited, "profile/"+profile.Name)
	}
	if limited == nil {
		return record()
	}
	giveAllBack, err := acquireAll(ctx, m.cfg.Leases, limited, 10*time.Second)
	if err != nil {
		return Server{}, err
	}
	defer giveAllBack()
	own, alike := 0, 0
	for s, err := range m.cfg.Servers.Servers(ctx) {
		switch {
		case err != nil:
			return Server{}, Wrap(Internal, "count servers", err)
		case s.Key == key || !s.Phase.Active():
			continue
		case s.Key.User == key.User:
			own++
		}
		if s.Profile == profile.Name {
			alike++
		}
	}
	switch {
	case most > 0 && own >= most:
		return Server{}, &Error{Kind: TooMany, Op: "start server", Message: "you run as many servers as you may", Remedy: "stop one of your servers, then start this one"}
	case profile.Max > 0 && alike >= profile.Max:
		return Server{}, &Error{Kind: TooMany, Op: "start server", Field: "profile", Message: "as many servers of this profile run as there may be", Remedy: "choose another profile, or try again later"}
	}
	return record()
}

// flyStart does the work of a start whose intent is recorded.
func (m *Manager) flyStart(ctx context.Context, f *flight, rec Server) {
	rec, err := m.raise(ctx, f, rec)
	if err == nil {
		m.checkKernel(ctx, rec)
	}
	cause := m.end(ctx, f)
	clean, done := context.WithTimeout(context.WithoutCancel(ctx), cleanupWithin)
	defer done()
	switch {
	case errors.Is(cause, errStopped), errors.Is(err, errStopped):
		m.flyStop(clean, rec)
		m.steps.add(rec.Key, Progress{Step: "stopped", Message: "The start was cancelled", Done: true, Failed: true})
	case err == nil:
		m.steps.add(rec.Key, Progress{Step: "ready", Message: "Your server is ready", Percent: 100, Done: true})
	case cause != nil: // a shutdown or a lost lease
		m.handOver(clean, rec)
	default:
		m.failStart(clean, rec, err)
	}
}

// handOver leaves a start to the hub that has the lease now, or gets it next, which goes on from the
// record. If by the record the start is over, what came of it is this hub's to remove.
func (m *Manager) handOver(ctx context.Context, rec Server) {
	m.steps.drop(rec.Key)
	now, err := m.Server(ctx, rec.Key)
	if err != nil || now.Revision == 0 || now.Generation == rec.Generation && now.Intent == WantRunning {
		return
	}
	if err := m.takeDown(ctx, rec); err != nil {
		m.cfg.Logger.ErrorContext(ctx, "container not removed; the reconciler will sweep it", "server", rec.Key.String(), "error", err)
	}
}

// raise takes a server from its recorded intent to Ready. The record returned is the newest known,
// also with an error.
func (m *Manager) raise(ctx context.Context, f *flight, rec Server) (Server, error) {
	var owner User
	var profile Profile
	err := insist(ctx, func() (err error) { owner, profile, err = m.admit(ctx, rec.Key, rec.Profile); return err })
	if err != nil {
		return rec, err
	}
	if rec.Phase == Stopping {
		if rec, err = m.makeRoom(ctx, f, rec, owner); err != nil {
			return rec, err
		}
	}
	turn, err := m.queue.wait(ctx, rec.Key.User, func(place int) {
		m.steps.add(rec.Key, Progress{Step: "queue", Message: fmt.Sprintf("Waiting for a turn: place %d in line", place), Place: place})
	})
	if err != nil {
		return rec, err
	}
	defer turn()
	if rec, err = m.move(ctx, rec, Starting, nil); err != nil {
		return rec, err
	}
	m.steps.add(rec.Key, Progress{Step: "create", Message: "Preparing your server", Percent: 10})
	spec := m.spec(rec, profile)
	handle, wasSlot, err := m.create(ctx, f, spec, profile.Spare.Any())
	if err != nil {
		return rec, err
	}
	if rec, err = m.record(ctx, rec, handle); err != nil {
		return rec, err
	}
	within := m.cfg.Policy().StartTimeout
	if wasSlot {
		up, err := m.publish(ctx, f, rec, min(within, warmWithin))
		if err == nil || ctx.Err() != nil || errors.Is(err, errStopped) {
			return up, err
		}
		if rec, err = m.startCold(ctx, f, rec, spec, err); err != nil {
			return rec, err
		}
	}
	return m.publish(ctx, f, rec, within)
}

// record notes the handle of what was made.
func (m *Manager) record(ctx context.Context, rec Server, handle Handle) (Server, error) {
	rec.Handle = handle
	moved, err := m.move(ctx, rec, Starting, func(s *Server) { s.Handle = handle })
	if err != nil {
		return rec, err
	}
	return moved, nil
}

// makeRoom ends what is left of an earlier start, and records the new one.
func (m *Manager) makeRoom(ctx context.Context, f *flight, rec Server, owner User) (Server, error) {
	m.steps.add(rec.Key, Progress{Step: "queue", Message: "Ending your earlier server", Percent: 5})
	if err := m.takeDown(ctx, rec); err != nil {
		return rec, &Error{Kind: Unavailable, Op: "start server", Message: "your earlier server could not be ended yet", Remedy: "try again in a minute; the hub goes on trying", Err: err}
	}
	next := rec
	err := insist(ctx, func() error {
		now, err := m.cfg.Servers.Server(ctx, rec.Key)
		switch {
		case err != nil:
			return err
		case now.Intent == WantStopped:
			return errStopped
		case now.Generation == rec.Generation:
			next, err = m.renew(ctx, now, owner)
		case coming(now, owner): // an answer was lost
			next = now
		default:
			err = Errorf(Conflict, "record start", "the server was started anew meanwhile")
		}
		return err
	})
	if err != nil {
		return rec, err
	}
	m.flies(f, next)
	m.steps.renumber(rec.Key, next.Generation)
	return next, nil
}

// create has the driver make the server; wasSlot tells that it was a slot until now.
func (m *Manager) create(ctx context.Context, f *flight, spec Spec, warm bool) (handle Handle, wasSlot bool, err error) {
	startCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startWithin)
	defer cancel()
	m.mu.Lock()
	f.abort = cancel
	if ctx.Err() != nil {
		cancel()
	}
	m.mu.Unlock()
	handle, wasSlot, err = m.obtain(startCtx, spec, warm)
	if err != nil && startCtx.Err() != nil && ctx.Err() == nil {
		err = &Error{Kind: Unavailable, Op: "start server", Message: fmt.Sprintf("the server's image and container were not ready within %s", startWithin), Remedy: "ask an administrator to look at the machine and its image registry", Err: err}
	}
	return handle, wasSlot, err
}

// publish waits until the server answers, then gives it a route and calls it Ready.
func (m *Manager) publish(ctx context.Context, f *flight, rec Server, within time.Duration) (Server, error) {
	m.steps.add(rec.Key, Progress{Step: "wait", Message: "Your server is starting up", Percent: 40})
	waitCtx, done := context.WithTimeout(ctx, within)
	defer done()
	st, err := m.awaitAnswer(waitCtx, f, rec)
	if err != nil {
		if ctx.Err() == nil && waitCtx.Err() != nil {
			err = &Error{Kind: Unavailable, Op: "start server", Message: fmt.Sprintf("the server did not answer within %s", within), Remedy: "start it again; if your own configuration or an extension is at fault, use safe start", Err: err}
		}
		return rec, err
	}
	if err := insist(ctx, func() error { return m.cfg.Routes.PutRoute(ctx, routeTo(rec, st)) }); err != nil {
		return rec, err
	}
	return m.move(ctx, rec, Ready, func(s *Server) {
		s.Handle, s.Endpoint, s.Started, s.Reason, s.LogTail = rec.Handle, st.Endpoint, time.Now(), "", nil
	})
}

// awaitAnswer asks the server, more and more rarely, until it answers; it ends at once when the
// container does.
func (m *Manager) awaitAnswer(ctx context.Context, f *flight, rec Server) (Status, error) {
	ctx, end := context.WithCancelCause(ctx)
	var listening sync.WaitGroup
	defer listening.Wait()
	defer end(nil)
	listening.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case st := <-f.died:
				if now, err := m.cfg.Spawner.Inspect(ctx, rec.Handle); err == nil && runs(now) {
					continue // word of a slot in whose place this one was started
				}
				end(ended(st))
				f.tell(st) // if the answer came first, the flight's end has it looked after
				return
			}
		}
	})
	pause := 20 * time.Millisecond
	for {
		st, err := m.cfg.Spawner.Inspect(ctx, rec.Handle)
		if err == nil && (st.Phase == Failed || st.Phase == Absent) {
			return Status{}, ended(st)
		}
		if err != nil && KindOf(err) != Unavailable && ctx.Err() == nil {
			return Status{}, err
		}
		for range 10 {
			if !st.Endpoint.IsZero() && m.cfg.Notebook.Answers(ctx, m.target(rec, st.Endpoint)) == nil && ctx.Err() == nil {
				return st, nil
			}
			select {
			case <-ctx.Done():
				return Status{}, context.Cause(ctx)
			case <-time.After(pause):
			}
			pause = min(pause*5/4, 100*time.Millisecond)
		}
	}
}

// routeTo is the route to what runs for a record.
func routeTo(rec Server, st Status) Route {
	r := Route{Key: rec.Key, UserID: rec.UserID, Generation: rec.Generation, Endpoint: st.Endpoint, Image: st.Image}
	if st.Phase == Paused {
		r.Paused = time.Now().UnixMilli()
	}
	return r
}

func ended(st Status) error {
	reason := st.Reason
	if reason == "" {
		reason = "no reason known"
	}
	return &Error{Kind: Unavailable, Op: "start server", Message: "the server ended by itself: " + reason, Remedy: "read its last lines below; if your own configuration or an extension is at fault, use safe start"}
}

// failStart records why a start failed, with the log's tail, then removes what it made.
func (m *Manager) failStart(ctx context.Context, rec Server, cause error) {
	message, remedy := Public(cause)
	if message == "" {
		message, remedy = "the hub could not start this server", "try again; if it happens again, ask an administrator to look at the hub's log"
	}
	m.cfg.Logger.WarnContext(ctx, "start failed", "server", rec.Key.String(), "generation", rec.Generation, "error", cause)
	tail := m.logTail(ctx, rec.Handle)
	m.fail(ctx, rec, message, tail)
	m.steps.add(rec.Key, Progress{Step: "failed", Message: message, Remedy: remedy, Log: tail, Done: true, Failed: true})
}

// checkKernel has a kernel compute once, while nobody waits for a turn: it shows a broken image or
// home before its owner finds out, and it is never a reason to fail a start.
func (m *Manager) checkKernel(ctx context.Context, rec Server) {
	if !m.cfg.Policy().KernelCheck || m.queue.busy() {
		return
	}
	m.steps.add(rec.Key, Progress{Step: "kernel", Message: "Your server answers; asking a kernel to compute", Percent: 90, Open: true})
	ctx, done := context.WithTimeout(ctx, 15*time.Second)
	defer done()
	began := time.Now()
	if err := m.cfg.Notebook.TryKernel(ctx, m.target(rec, rec.Endpoint)); err != nil {
		m.cfg.Logger.WarnContext(ctx, "kernel check failed", "server", rec.Key.String(), "error", err)
		m.steps.add(rec.Key, Progress{Step: "kernel", Message: "The server answers, but its kernel did not compute; your environment may be broken", Percent: 95, Open: true})
		return
	}
	m.steps.add(rec.Key, Progress{Step: "kernel", Message: fmt.Sprintf("A kernel answered in %.1f s", time.Since(began).Seconds()), Percent: 95, Open: true})
}

// spec is what the driver needs for a record.
func (m *Manager) spec(rec Server, p Profile) Spec {
	o, s := m.cfg.Origins, m.shape(p)
	s.Key, s.Generation, s.UserID, s.Env, s.SafeStart = rec.Key, rec.Generation, rec.UserID, p.Env, rec.SafeStart
	s.BasePath, s.Origin, s.Token = o.ServerPath(rec.Key), o.ServerOrigin(rec.Key.User), m.cfg.Keyring.ServerToken(rec.Key, rec.Generation)
	s.HubURL, s.DefaultURL = o.HubURL("home"), p.DefaultURL
	if rec.Key.User.IsVisitor() {
		s.HubURL = o.HubURL("tmp")
	}
	s.Progress = func(step Progress) { m.steps.add(rec.Key, step) }
	return s
}

// shape is what the servers of a profile have in common.
func (m *Manager) shape(p Profile) Spec {
	return Spec{
		Profile: p.Name, Image: p.Image, Command: p.Command, Limits: p.Limits, Network: p.Network, Mounts: p.Mounts, UID: p.UID, GID: p.GID, Home: p.Home, HomeKind: p.HomeKind,
		Progress: func(Progress) {},
	}
}

func (m *Manager) target(rec Server, e Endpoint) Target {
	return Target{Endpoint: e, BasePath: m.cfg.Origins.ServerPath(rec.Key), Token: m.cfg.Keyring.ServerToken(rec.Key, rec.Generation)}
}
