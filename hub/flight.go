package hub

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

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

// keep extends the lease until the returned function is called, which gives it back. A lost lease
// cancels the flight: another hub has the server now.
func (l *serverLease) keep(cancel context.CancelCauseFunc) func() {
	ctx, stop := context.WithCancel(context.Background())
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
		ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
		defer done()
		_ = l.Release(ctx) // it ends by itself
	}
}

// beginStart takes the lease and writes what is intended. A nil lease with a record means that
// there is nothing to do: the server is up, or another hub has it in hand.
func (m *Manager) beginStart(ctx context.Context, req StartRequest, profile Profile, owner User) (Server, heldLease, error) {
	rec, err := m.Server(ctx, req.Key)
	if err != nil {
		return Server{}, nil, err
	}
	if rec.Phase == Ready || rec.Phase == Paused {
		return rec, nil, nil
	}
	lease, err := m.lease(ctx, req.Key)
	if err != nil {
		if KindOf(err) == Conflict && rec.Phase.Pending() {
			return rec, nil, nil
		}
		return Server{}, nil, err
	}
	rec, err = m.recordStart(ctx, req, profile, owner)
	if err != nil || rec.Phase == Ready || rec.Phase == Paused {
		_ = lease.Release(ctx)
		return rec, nil, err
	}
	m.steps.begin(req.Key)
	return rec, lease, nil
}

// recordStart writes the intent with a new generation; a start that a crashed hub left is taken
// over with its own.
func (m *Manager) recordStart(ctx context.Context, req StartRequest, profile Profile, owner User) (Server, error) {
	rec, err := m.Server(ctx, req.Key)
	if err != nil || rec.Phase == Ready || rec.Phase == Paused {
		return rec, err
	}
	now := time.Now()
	if rec.Phase == Queued || rec.Phase == Starting {
		rec.Intent = WantRunning
		return m.cfg.Servers.PutServer(ctx, rec)
	}
	gen, err := m.cfg.Servers.NextGeneration(ctx, req.Key, rec.Generation)
	if err != nil {
		return Server{}, err
	}
	rec = Server{
		Key: req.Key, UserID: owner.ID, Generation: gen, Phase: Queued, Intent: WantRunning,
		Profile: profile.Name, SafeStart: req.SafeStart, Since: now, Revision: rec.Revision,
	}
	return m.cfg.Servers.PutServer(ctx, rec)
}

// flyStart does the work of a start whose intent is recorded.
func (m *Manager) flyStart(ctx context.Context, f *flight, rec Server, profile Profile) {
	policy := m.cfg.Policy()
	rec, err := m.raise(ctx, f, rec, profile, policy)
	if err == nil {
		m.checkKernel(ctx, rec, policy)
	}
	if err == nil && ctx.Err() == nil {
		m.steps.add(rec.Key, Progress{Step: "ready", Message: "Your server is ready", Percent: 100, Done: true})
		return
	}
	clean, done := context.WithTimeout(context.WithoutCancel(ctx), cleanupWithin)
	defer done()
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errShutdown), errors.Is(cause, errLeaseLost):
		// The record stands; another hub, or the next, goes on from it.
	case errors.Is(cause, errStopped):
		m.flyStop(clean, rec)
		m.steps.add(rec.Key, Progress{Step: "stopped", Message: "The start was cancelled", Done: true, Failed: true})
	default:
		m.failStart(clean, rec, err)
	}
}

// raise takes a server from its recorded intent to Ready. The record returned is the newest known,
// also with an error.
func (m *Manager) raise(ctx context.Context, f *flight, rec Server, profile Profile, policy Policy) (Server, error) {
	turn, err := m.queue.wait(ctx, rec.Key.User, max(policy.ConcurrentMax, 1), func(place int) {
		m.steps.add(rec.Key, Progress{Step: "queue", Message: fmt.Sprintf("Waiting for a turn: place %d in line", place), Place: place})
	})
	if err != nil {
		return rec, err
	}
	defer turn()
	if next, err := m.move(ctx, rec.Key, rec.Generation, Starting, nil); err == nil {
		rec = next
	} else {
		return rec, err
	}
	m.steps.add(rec.Key, Progress{Step: "create", Message: "Preparing your server", Percent: 10})
	startCtx, done := context.WithTimeout(ctx, startWithin)
	handle, err := m.cfg.Spawner.Start(startCtx, m.spec(rec, profile))
	done()
	if err != nil {
		return rec, err
	}
	rec.Handle = handle
	err = insist(ctx, func() error {
		next, err := m.move(ctx, rec.Key, rec.Generation, Starting, func(s *Server) { s.Handle = handle })
		if err == nil {
			rec = next
		}
		return err
	})
	if err != nil {
		return rec, err
	}
	return m.publish(ctx, f, rec, policy.StartTimeout)
}

// publish waits until the server answers, then gives it a route and calls it Ready.
func (m *Manager) publish(ctx context.Context, f *flight, rec Server, within time.Duration) (Server, error) {
	m.steps.add(rec.Key, Progress{Step: "wait", Message: "Your server is starting up", Percent: 40})
	waitCtx, done := context.WithTimeout(ctx, within)
	defer done()
	endpoint, err := m.awaitAnswer(waitCtx, f, rec)
	if err != nil {
		if ctx.Err() == nil && waitCtx.Err() != nil {
			err = &Error{Kind: Unavailable, Op: "start server", Message: fmt.Sprintf("the server did not answer within %s", within), Remedy: "start it again; if your own configuration or an extension is at fault, use safe start", Err: err}
		}
		return rec, err
	}
	route := Route{Key: rec.Key, UserID: rec.UserID, Generation: rec.Generation, Endpoint: endpoint}
	err = insist(ctx, func() error { return m.cfg.Routes.PutRoute(ctx, route) })
	if err != nil {
		return rec, err
	}
	err = insist(ctx, func() error {
		next, err := m.move(ctx, rec.Key, rec.Generation, Ready, func(s *Server) {
			s.Endpoint, s.Started, s.Reason, s.LogTail = endpoint, time.Now(), "", nil
		})
		if err == nil {
			rec = next
		}
		return err
	})
	return rec, err
}

// awaitAnswer asks the server, more and more rarely, until it answers; it ends early when the
// container does.
func (m *Manager) awaitAnswer(ctx context.Context, f *flight, rec Server) (Endpoint, error) {
	pause := 20 * time.Millisecond
	for {
		st, err := m.cfg.Spawner.Inspect(ctx, rec.Handle)
		if err != nil && KindOf(err) != Unavailable {
			return Endpoint{}, err
		}
		if err == nil && (st.Phase == Failed || st.Phase == Absent) {
			return Endpoint{}, ended(st)
		}
		for range 10 {
			if !st.Endpoint.IsZero() && m.cfg.Notebook.Answers(ctx, m.target(rec, st.Endpoint)) == nil {
				return st.Endpoint, nil
			}
			select {
			case <-ctx.Done():
				return Endpoint{}, ctx.Err()
			case st := <-f.died:
				return Endpoint{}, ended(st)
			case <-time.After(pause):
			}
			pause = min(pause*5/4, 200*time.Millisecond)
		}
	}
}

func ended(st Status) error {
	reason := st.Reason
	if reason == "" {
		reason = "no reason known"
	}
	return &Error{Kind: Unavailable, Op: "start server", Message: "the server ended by itself: " + reason, Remedy: "read its last lines below; if your own configuration or an extension is at fault, use safe start"}
}

// failStart records why a start failed, with the log's tail, after removing what it made.
func (m *Manager) failStart(ctx context.Context, rec Server, cause error) {
	message, remedy := Public(cause)
	if message == "" {
		message, remedy = "the hub could not start this server", "try again; if it happens again, ask an administrator to look at the hub's log"
	}
	tail := m.logTail(ctx, rec.Handle)
	m.cfg.Logger.WarnContext(ctx, "start failed", "server", rec.Key.String(), "generation", rec.Generation, "error", cause)
	m.remove(ctx, rec)
	err := insist(ctx, func() error {
		_, err := m.move(ctx, rec.Key, rec.Generation, Failed, func(s *Server) {
			s.Handle, s.Endpoint, s.Reason, s.LogTail, s.Intent = Handle{}, Endpoint{}, message, tail, WantStopped
		})
		return err
	})
	if err != nil {
		m.cfg.Logger.ErrorContext(ctx, "failure not recorded", "server", rec.Key.String(), "error", err)
	}
	m.steps.add(rec.Key, Progress{Step: "failed", Message: message, Remedy: remedy, Log: tail, Done: true, Failed: true})
}

func (m *Manager) logTail(ctx context.Context, h Handle) []string {
	if m.logs == nil || h.IsZero() {
		return nil
	}
	tail, err := m.logs.Logs(ctx, h, 30)
	if err != nil {
		m.cfg.Logger.DebugContext(ctx, "no log tail", "error", err)
	}
	return tail
}

// remove takes down route and container of a generation, as far as they are there.
func (m *Manager) remove(ctx context.Context, rec Server) {
	if err := insist(ctx, func() error { return m.cfg.Routes.DeleteRoute(ctx, rec.Key, rec.Generation) }); err != nil {
		m.cfg.Logger.ErrorContext(ctx, "route not removed", "server", rec.Key.String(), "error", err)
	}
	if rec.Handle.IsZero() {
		return
	}
	if err := m.cfg.Spawner.Stop(ctx, rec.Handle, m.cfg.Policy().StopGrace); err != nil {
		m.cfg.Logger.ErrorContext(ctx, "container not removed; the reconciler will try again", "server", rec.Key.String(), "error", err)
	}
}

// checkKernel has a kernel compute once, while nobody waits for a turn: it shows a broken image or
// home before its owner finds out, and it is never a reason to fail a start.
func (m *Manager) checkKernel(ctx context.Context, rec Server, policy Policy) {
	if !policy.KernelCheck || m.queue.busy() {
		return
	}
	m.steps.add(rec.Key, Progress{Step: "kernel", Message: "Asking a kernel to compute", Percent: 90})
	ctx, done := context.WithTimeout(ctx, 15*time.Second)
	defer done()
	began := time.Now()
	if err := m.cfg.Notebook.TryKernel(ctx, m.target(rec, rec.Endpoint)); err != nil {
		m.cfg.Logger.WarnContext(ctx, "kernel check failed", "server", rec.Key.String(), "error", err)
		m.steps.add(rec.Key, Progress{Step: "kernel", Message: "The server answers, but its kernel did not compute; your environment may be broken", Percent: 95})
		return
	}
	m.steps.add(rec.Key, Progress{Step: "kernel", Message: fmt.Sprintf("A kernel answered in %.1f s", time.Since(began).Seconds()), Percent: 95})
}

// spec is what the driver needs for a record.
func (m *Manager) spec(rec Server, p Profile) Spec {
	o := m.cfg.Origins
	return Spec{
		Key: rec.Key, Generation: rec.Generation, UserID: rec.UserID, Profile: p.Name, Image: p.Image, Command: p.Command,
		Limits: p.Limits, Network: p.Network, Env: p.Env, Mounts: p.Mounts, UID: p.UID, GID: p.GID, Home: p.Home,
		BasePath: o.ServerPath(rec.Key), Origin: o.ServerOrigin(rec.Key.User), Token: m.cfg.Keyring.ServerToken(rec.Key, rec.Generation),
		HubURL: o.HubURL("home"), DefaultURL: p.DefaultURL, SafeStart: rec.SafeStart,
		Progress: func(step Progress) { m.steps.add(rec.Key, step) },
	}
}

func (m *Manager) target(rec Server, e Endpoint) Target {
	return Target{Endpoint: e, BasePath: m.cfg.Origins.ServerPath(rec.Key), Token: m.cfg.Keyring.ServerToken(rec.Key, rec.Generation)}
}

// beginStop takes the lease, writes the intent and removes the route. A nil lease with a record
// means that there is nothing to do.
func (m *Manager) beginStop(ctx context.Context, key ServerKey, why string) (Server, heldLease, error) {
	rec, err := m.Server(ctx, key)
	if err != nil || rec.Phase == Absent {
		return rec, nil, err
	}
	lease, err := m.lease(ctx, key)
	if err != nil {
		if KindOf(err) == Conflict { // another hub has it in hand: the intent reaches it or the reconciler
			rec, err = m.update(ctx, key, func(s *Server) error { s.Intent, s.Reason = WantStopped, why; return nil })
		}
		return rec, nil, err
	}
	rec, err = m.update(ctx, key, func(s *Server) error {
		if s.Phase != Absent {
			if s.Phase == Queued {
				s.Phase = Starting // nothing runs yet, but something may: Stop finds out
			}
			s.Phase, s.Since = Stopping, time.Now()
		}
		s.Intent, s.Reason, s.CullAt, s.CullWhy = WantStopped, why, time.Time{}, ""
		return nil
	})
	if err == nil {
		err = m.cfg.Routes.DeleteRoute(ctx, key, rec.Generation)
	}
	if err != nil || rec.Phase == Absent {
		_ = lease.Release(ctx)
		return rec, nil, err
	}
	return rec, lease, nil
}

// flyStop takes a server down and records it as Absent; when the driver fails, the record keeps
// the intent and the reconciler tries again.
func (m *Manager) flyStop(ctx context.Context, rec Server) {
	stopCtx, done := context.WithTimeout(ctx, cleanupWithin)
	defer done()
	err := insist(stopCtx, func() error { return m.cfg.Routes.DeleteRoute(stopCtx, rec.Key, rec.Generation) })
	if err == nil && !rec.Handle.IsZero() {
		err = m.cfg.Spawner.Stop(stopCtx, rec.Handle, m.cfg.Policy().StopGrace)
	}
	if err != nil {
		m.cfg.Logger.ErrorContext(ctx, "stop failed; the reconciler will try again", "server", rec.Key.String(), "error", err)
		return
	}
	m.usage.forget(rec.Key)
	err = insist(stopCtx, func() error {
		_, err := m.update(stopCtx, rec.Key, func(s *Server) error {
			if s.Generation != rec.Generation {
				return Errorf(Conflict, "record stop", "the server was started anew meanwhile")
			}
			s.Phase, s.Since, s.Handle, s.Endpoint = Absent, time.Now(), Handle{}, Endpoint{}
			return nil
		})
		return err
	})
	if err != nil && KindOf(err) != NotFound {
		m.cfg.Logger.ErrorContext(ctx, "stop not recorded; the reconciler will", "server", rec.Key.String(), "error", err)
		return
	}
	m.cfg.Logger.InfoContext(ctx, "server", "server", rec.Key.String(), "generation", rec.Generation, "phase", Absent, "reason", rec.Reason)
}
