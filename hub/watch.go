package hub

import (
	"context"
	"time"
)

// reconcileLoop compares what is recorded with what runs: at the start, at an interval, and when
// asked through m.wake. An outage is logged once.
func (m *Manager) reconcileLoop(ctx context.Context) {
	for failing := false; ; {
		err := m.Reconcile(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			m.cfg.Logger.WarnContext(ctx, "reconciliation put off until it can be", "error", err)
		}
		failing = err != nil
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

func (m *Manager) nudge() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// eventLoop asks for a reconciliation when the store was away, as it may have come back empty, and
// hears of intents that were recorded at other hubs.
func (m *Manager) eventLoop(ctx context.Context) {
	for e := range m.cfg.Events.Subscribe(ctx) {
		switch {
		case e.Kind == Reset:
			m.nudge()
		case e.Kind == ServerChanged && e.Server != nil:
			m.heed(*e.Server)
		}
	}
}

// watchLoop hears of ended containers at once, where the driver can tell. What ended while nobody
// listened is found by a reconciliation, once the stream stands.
func (m *Manager) watchLoop(ctx context.Context) {
	if m.watcher == nil {
		return
	}
	wait := time.Second
	for ctx.Err() == nil {
		stands := time.AfterFunc(time.Second, m.nudge)
		began := time.Now()
		for st, err := range m.watcher.Watch(ctx) {
			if err != nil {
				break
			}
			m.containerEnded(ctx, st)
		}
		stands.Stop()
		if wait = min(2*wait, 5*time.Second); time.Since(began) > wait {
			wait = time.Second
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// containerEnded tells the flight that waits for this container, or fails the ready server that lost it.
func (m *Manager) containerEnded(ctx context.Context, st Status) {
	m.mu.Lock()
	f := m.flights[st.Key]
	waits := f != nil && (f.starting || f.pausing) && f.generation == st.Generation
	m.mu.Unlock()
	if waits {
		f.tell(st)
	}
	if f != nil {
		return
	}
	rec, err := m.Server(ctx, st.Key)
	if err != nil || rec.Generation != st.Generation || rec.Phase != Ready && rec.Phase != Paused {
		return
	}
	m.failRunning(ctx, rec, st)
}

// failRunning begins to record why a running server ended, and to remove what is left of it.
func (m *Manager) failRunning(ctx context.Context, rec Server, st Status) {
	m.launchRepair(ctx, rec, false, func(ctx context.Context, _ *flight, rec Server) {
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
		m.fail(ctx, rec, message, tail)
	})
}
