package hub

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// beginStop takes the lease, writes the intent and removes the route. A nil lease with a record
// means that there is nothing to do.
func (m *Manager) beginStop(ctx context.Context, key ServerKey, why string, still func(Server) bool) (Server, heldLease, error) {
	rec, err := m.Server(ctx, key)
	if err != nil || rec.Phase == Absent || !still(rec) {
		return rec, nil, err
	}
	lease, err := m.lease(ctx, key)
	if err != nil {
		if KindOf(err) == Conflict { // another hub has it in hand, and heeds the intent
			rec, err = m.intend(ctx, key, why, still)
		}
		return rec, nil, err
	}
	rec, err = m.update(ctx, key, func(s *Server) error {
		if s.Phase == Absent || !still(*s) {
			return errNothingToDo
		}
		if s.Phase == Failed {
			s.Phase, s.Since = Stopping, time.Now() // for what it may have left
		}
		s.wantStopped(why)
		s.CullAt, s.CullWhy, s.Leftover = time.Time{}, "", false
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

// intend records that a server is wanted stopped, for whoever has it in hand.
func (m *Manager) intend(ctx context.Context, key ServerKey, why string, still func(Server) bool) (Server, error) {
	rec, err := m.update(ctx, key, func(s *Server) error {
		if s.Phase == Absent || s.Phase == Failed || !still(*s) {
			return errNothingToDo
		}
		s.wantStopped(why)
		return nil
	})
	if errors.Is(err, errNothingToDo) {
		err = nil
	}
	return rec, err
}

// wantStopped notes that a server is to be stopped. What reads the record sees it stopping at once,
// also while a start is still about to notice.
func (s *Server) wantStopped(why string) {
	if s.Phase.Active() && s.Phase != Stopping {
		s.Phase, s.Since = Stopping, time.Now() // of Queued nothing runs yet, but something may: the driver's list tells
	}
	s.Intent, s.Reason = WantStopped, why
}

var errNothingToDo = errors.New("nothing is to be done")

// flyStop takes a server down and records it as Absent; when the driver fails, the record keeps
// the intent and the reconciler tries again.
func (m *Manager) flyStop(ctx context.Context, rec Server) {
	ctx, done := context.WithTimeout(ctx, cleanupWithin)
	defer done()
	if err := m.takeDown(ctx, rec); err != nil {
		m.cfg.Logger.ErrorContext(ctx, "stop failed; the reconciler will try again", "server", rec.Key.String(), "error", err)
		return
	}
	err := m.settle(ctx, rec, func(s *Server) {
		s.Phase, s.Since, s.Intent, s.Handle, s.Endpoint, s.Leftover = Absent, time.Now(), WantStopped, Handle{}, Endpoint{}, false
	})
	if err != nil && KindOf(err) != NotFound {
		m.cfg.Logger.ErrorContext(ctx, "stop not recorded; the reconciler will", "server", rec.Key.String(), "error", err)
		return
	}
	m.cfg.Logger.InfoContext(ctx, "server", "server", rec.Key.String(), "generation", rec.Generation, "phase", Absent, "reason", rec.Reason)
}

// fail records that a server failed, and why, before anything is removed: its last words must
// outlive the hub too. Then it removes what is left.
func (m *Manager) fail(ctx context.Context, rec Server, message string, tail []string) {
	failed, err := m.move(ctx, rec, Failed, func(s *Server) {
		if !rec.Handle.IsZero() {
			s.Handle = rec.Handle // it may not have been recorded yet
		}
		s.Endpoint, s.Reason, s.LogTail, s.Intent, s.CullAt, s.CullWhy = Endpoint{}, message, tail, WantStopped, time.Time{}, ""
		s.Leftover = rec.Phase != Queued // of which nothing was ever made
	})
	if err != nil {
		m.cfg.Logger.ErrorContext(ctx, "failure not recorded; the reconciler will look again", "server", rec.Key.String(), "error", err)
		return
	}
	m.usage.forget(rec.Key)
	m.clear(ctx, failed)
}

// clear removes what a failed server left.
func (m *Manager) clear(ctx context.Context, rec Server) {
	err := m.takeDown(ctx, rec)
	if err == nil && rec.Leftover {
		err = m.settle(ctx, rec, func(s *Server) { s.Handle, s.Leftover = Handle{}, false })
	}
	if err != nil && KindOf(err) != NotFound {
		m.cfg.Logger.ErrorContext(ctx, "container not removed; the reconciler will try again", "server", rec.Key.String(), "error", err)
	}
}

// settle changes the record of a generation, insisting while the store is away.
func (m *Manager) settle(ctx context.Context, rec Server, change func(*Server)) error {
	return insist(ctx, func() error {
		_, err := m.update(ctx, rec.Key, func(s *Server) error {
			if s.Generation != rec.Generation {
				return Errorf(Conflict, "change record", "the server was started anew meanwhile")
			}
			change(s)
			return nil
		})
		return err
	})
}

// takeDown removes a generation's route, then its container, as far as they are there. A handle may
// never have been recorded although the container was made: the driver's list has it.
func (m *Manager) takeDown(ctx context.Context, rec Server) error {
	ctx, done := context.WithTimeout(ctx, cleanupWithin)
	defer done()
	if err := insist(ctx, func() error { return m.cfg.Routes.DeleteRoute(ctx, rec.Key, rec.Generation) }); err != nil {
		return err
	}
	m.usage.forget(rec.Key)
	handle := rec.Handle
	if handle.IsZero() && rec.Phase != Queued {
		all, err := m.census.take(ctx, m.cfg.Spawner)
		if err != nil {
			return err
		}
		for _, st := range all[rec.Key] {
			if st.Generation == rec.Generation {
				handle = st.Handle
			}
		}
	}
	if handle.IsZero() {
		return nil
	}
	return m.cfg.Spawner.Stop(ctx, handle, m.cfg.Policy().StopGrace)
}

func (m *Manager) logTail(ctx context.Context, h Handle) []string {
	if m.logs == nil || h.IsZero() {
		return nil
	}
	ctx, done := context.WithTimeout(ctx, 10*time.Second)
	defer done()
	tail, err := m.logs.Logs(ctx, h, 30)
	if err != nil {
		m.cfg.Logger.DebugContext(ctx, "no log tail", "error", err)
	}
	return tail
}

// census lists what the driver has. Whoever asks while a listing is under way waits for the next,
// which all of them share: a class that starts at once costs two.
type census struct {
	turn chan struct{} // capacity 1: one listing at a time
	mu   sync.Mutex
	next *listing
}

type listing struct {
	done chan struct{}
	all  map[ServerKey][]Status
	err  error
}

func newCensus() *census { return &census{turn: make(chan struct{}, 1)} }

// take gives a listing that was begun after the call.
func (c *census) take(ctx context.Context, of Spawner) (map[ServerKey][]Status, error) {
	c.mu.Lock()
	l := c.next
	if l != nil {
		c.mu.Unlock()
		select {
		case <-l.done:
			return l.all, l.err
		case <-ctx.Done():
			return nil, Wrap(Canceled, "list containers", ctx.Err())
		}
	}
	l = &listing{done: make(chan struct{})}
	c.next = l
	c.mu.Unlock()
	c.turn <- struct{}{} // for listWithin at most
	defer func() { <-c.turn }()
	c.mu.Lock()
	c.next = nil // who asks from now on needs a later one
	c.mu.Unlock()
	defer close(l.done)
	l.all, l.err = list(context.WithoutCancel(ctx), of)
	return l.all, l.err
}

// listWithin is how long a listing may take.
const listWithin = 30 * time.Second

// list gives what the driver has by key, the newest generation last.
func list(ctx context.Context, of Spawner) (map[ServerKey][]Status, error) {
	ctx, done := context.WithTimeout(ctx, listWithin)
	defer done()
	all := map[ServerKey][]Status{}
	for st, err := range of.List(ctx) {
		if err != nil {
			return nil, err
		}
		all[st.Key] = append(all[st.Key], st)
	}
	for _, several := range all {
		slices.SortFunc(several, func(a, b Status) int { return cmp.Compare(a.Generation, b.Generation) })
	}
	return all, nil
}
