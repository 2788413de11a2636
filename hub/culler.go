package hub

import (
	"context"
	"sync"
	"time"
)

const (
	cullEvery = 10 * time.Second
	// A kernel that says it is busy is believed when its server used this many cores.
	busyCores = 0.01
	// Nobody is asked for kernels until this close to the warning.
	askBefore = time.Minute
)

// watchClock counts observed time only: after a gap (the hub, the store or the driver was away)
// nobody's idle clock has run.
type watchClock struct {
	since time.Time // the present observation began
	last  time.Time // the last tick that saw everything
}

// tick tells since when everything has been observed without a gap.
func (w *watchClock) tick(now time.Time, sawAll bool) time.Time {
	if w.last.IsZero() || now.Sub(w.last) > 3*cullEvery || !sawAll {
		w.since = now
	}
	w.last = now
	return w.since
}

// cullLoop applies the rules for idle and old servers.
func (m *Manager) cullLoop(ctx context.Context) {
	var clock watchClock
	busy := map[ServerKey]time.Time{}
	every(ctx, cullEvery, func() {
		lease, err := m.cfg.Leases.Acquire(ctx, "cull", 3*cullEvery)
		if err != nil {
			clock.tick(time.Now(), false)
			return
		}
		defer func() { _ = lease.Release(context.WithoutCancel(ctx)) }()
		m.cull(ctx, &clock, busy)
	})
}

// cull makes one round. busy remembers when each server was last seen computing.
func (m *Manager) cull(ctx context.Context, clock *watchClock, busy map[ServerKey]time.Time) {
	activity, ready, err := m.observe(ctx)
	observed := clock.tick(time.Now(), err == nil)
	if err != nil {
		return
	}
	var mu sync.Mutex // busy
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for _, rec := range ready {
		rule, err := m.ruleFor(ctx, rec)
		if err != nil {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			mu.Lock()
			lastBusy := busy[rec.Key]
			mu.Unlock()
			used := activity[rec.Key]
			idleSince := latest(used, lastBusy, rec.Started, observed)
			if rule.Idle > 0 && time.Since(idleSince) > rule.Idle-rule.Warning-askBefore && m.computing(ctx, rec, rule, used) {
				idleSince = time.Now()
				mu.Lock()
				busy[rec.Key] = idleSince
				mu.Unlock()
			}
			m.judge(ctx, rec, decide(rec, rule, idleSince, time.Now()))
		})
	}
	wg.Wait()
	keepOnly(busy, ready)
}

// observe reads every ready server and when it was last used.
func (m *Manager) observe(ctx context.Context) (map[ServerKey]time.Time, []Server, error) {
	activity := map[ServerKey]time.Time{}
	for a, err := range m.cfg.Routes.Activities(ctx) {
		if err != nil {
			return nil, nil, err
		}
		activity[a.Key] = a.Last
	}
	var ready []Server
	for s, err := range m.cfg.Servers.Servers(ctx) {
		if err != nil {
			return nil, nil, err
		}
		if s.Phase == Ready {
			ready = append(ready, s)
		}
	}
	return activity, ready, nil
}

// computing asks the server for busy kernels. Its word counts only with CPU use to show for it, and
// no longer than the rule's BusyMax after a person last used it.
func (m *Manager) computing(ctx context.Context, rec Server, rule CullRule, used time.Time) bool {
	if rule.BusyMax > 0 && time.Since(latest(used, rec.Started)) > rule.BusyMax {
		return false
	}
	if _, cores, known := m.usage.get(rec.Key); known && cores < busyCores {
		return false
	}
	ctx, done := context.WithTimeout(ctx, 5*time.Second)
	defer done()
	state, err := m.cfg.Notebook.Busy(ctx, m.target(rec, rec.Endpoint))
	if err != nil {
		return false
	}
	_, cores, known := m.usage.get(rec.Key)
	return state.BusyKernels > 0 || state.Terminals > 0 && known && cores > 10*busyCores
}

// verdict is what one round decides of one server.
type verdict struct {
	at   time.Time // when it is to end; zero: no warning is due
	why  string
	stop bool
}

// decide is the rules, pure. A server that was not warned yet gets the full warning, whatever its
// idle time says.
func decide(rec Server, rule CullRule, idleSince, now time.Time) verdict {
	var at time.Time
	why := ""
	if rule.Idle > 0 {
		at, why = latest(idleSince.Add(rule.Idle), rec.KeepUntil), "it has been idle for "+rule.Idle.String()
	}
	if rule.MaxAge > 0 {
		if end := rec.Started.Add(rule.MaxAge); at.IsZero() || end.Before(at) {
			at, why = end, "it reached its maximum age of "+rule.MaxAge.String()
		}
	}
	if at.IsZero() || now.Before(at.Add(-rule.Warning)) {
		return verdict{}
	}
	if rec.CullAt.IsZero() {
		return verdict{at: latest(at, now.Add(rule.Warning)), why: why, stop: rule.Warning <= 0}
	}
	at = latest(at, rec.CullAt)
	return verdict{at: at, why: why, stop: !now.Before(at)}
}

// judge carries a verdict out: stop, warn, or take a warning back.
func (m *Manager) judge(ctx context.Context, rec Server, v verdict) {
	var err error
	switch {
	case v.stop:
		m.cfg.Logger.InfoContext(ctx, "culled", "server", rec.Key.String(), "why", v.why)
		_, err = m.Stop(ctx, rec.Key, "the hub stopped your server because "+v.why)
	case !v.at.Equal(rec.CullAt):
		_, err = m.update(ctx, rec.Key, func(s *Server) error {
			if s.Generation == rec.Generation && s.Phase == Ready {
				s.CullAt, s.CullWhy = v.at, v.why
			}
			return nil
		})
	}
	if err != nil && ctx.Err() == nil {
		m.cfg.Logger.WarnContext(ctx, "cull verdict not carried out", "server", rec.Key.String(), "error", err)
	}
}

// ruleFor is the rule of a server, by its profile and its owner's groups.
func (m *Manager) ruleFor(ctx context.Context, rec Server) (CullRule, error) {
	owner, err := m.cfg.Users.User(ctx, rec.Key.User)
	if err != nil && KindOf(err) != NotFound {
		return CullRule{}, err
	}
	return m.cfg.Policy().CullRule(rec.Profile, owner.Groups), nil
}

func latest(times ...time.Time) time.Time {
	var t time.Time
	for _, o := range times {
		if o.After(t) {
			t = o
		}
	}
	return t
}

func keepOnly(busy map[ServerKey]time.Time, ready []Server) {
	live := make(map[ServerKey]bool, len(ready))
	for _, s := range ready {
		live[s.Key] = true
	}
	for key := range busy {
		if !live[key] {
			delete(busy, key)
		}
	}
}
