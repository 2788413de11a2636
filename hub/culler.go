package hub

import (
	"context"
	"maps"
	"sync"
	"time"
)

const (
	cullEvery = 10 * time.Second
	// A kernel that says it is busy is believed when its server used this many cores.
	busyCores = 0.01
	// A server is asked for its kernels at most this often, and at its end once more.
	askEvery = time.Minute
)

// watchClock counts observed time only: after a gap (the hub, the store or the driver was away, or
// the whole machine slept) nobody's idle clock has run.
type watchClock struct {
	since time.Time // the present observation began
	last  time.Time // the last round that saw everything was over
}

// tick tells since when everything has been observed without a gap. It goes by the wall clock, which
// runs on while the machine sleeps.
func (w *watchClock) tick(now time.Time, sawAll bool) time.Time {
	now = now.Round(0)
	if w.last.IsZero() || now.Sub(w.last) > 3*cullEvery || !sawAll {
		w.since = now
	}
	w.last = now
	return w.since
}

// culler is the state of the one hub that culls.
type culler struct {
	lease Lease // held from round to round; nil: another hub culls
	clock watchClock
	mu    sync.Mutex
	seen  map[ServerKey]asked
}

// asked is what is known of a server's kernels.
type asked struct {
	at   time.Time // when it was last asked
	busy time.Time // when it was last seen computing
}

// cullLoop applies the rules for idle and old servers, at one hub at a time.
func (m *Manager) cullLoop(ctx context.Context) {
	c := &culler{seen: map[ServerKey]asked{}}
	every(ctx, cullEvery, func() {
		if m.holdCull(ctx, c) {
			m.cull(ctx, c)
		}
	})
	if c.lease != nil {
		giveBack(ctx, c.lease)
	}
}

// holdCull keeps, or takes, the lease on culling. Who gets it anew has observed nothing yet.
func (m *Manager) holdCull(ctx context.Context, c *culler) bool {
	const ttl = 3 * cullEvery
	if c.lease != nil && c.lease.Extend(ctx, ttl) == nil {
		return true
	}
	c.lease, c.clock = nil, watchClock{}
	lease, err := m.cfg.Leases.Acquire(ctx, "cull", ttl)
	if err != nil {
		return false
	}
	c.lease = lease
	return true
}

// cull makes one round. However long guests take to answer, it ends in time for the next.
func (m *Manager) cull(ctx context.Context, c *culler) {
	activity, running, err := m.observe(ctx)
	observed := c.clock.tick(time.Now(), err == nil)
	if err != nil {
		return
	}
	askCtx, done := context.WithTimeout(ctx, cullEvery)
	defer done()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 64)
	for _, rec := range running {
		rule, err := m.ruleFor(ctx, rec)
		if m.pauser == nil {
			rule.Pause = 0
		}
		if err != nil || rule.Idle <= 0 && rule.MaxAge <= 0 && rule.Pause <= 0 {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			v, known := m.verdictOn(askCtx, c, rec, rule, activity[rec.Key], observed)
			if known {
				m.judge(ctx, rec, v, latest(activity[rec.Key], rec.Started))
			}
		})
	}
	wg.Wait()
	c.keepOnly(running)
}

// verdictOn decides of one server; it is not known of one whose turn to be asked did not come in
// this round. Who is to end is asked once more.
func (m *Manager) verdictOn(ctx context.Context, c *culler, rec Server, rule CullRule, used, observed time.Time) (v verdict, known bool) {
	for _, every := range []time.Duration{rule.askEvery(), 0} {
		since, known := m.idleSince(ctx, c, rec, rule, latest(used, rec.Started, observed), every)
		if !known {
			return verdict{}, false
		}
		if v = decide(rec, rule, since, observed, time.Now()); !v.stop && !v.pause || !rule.asks() {
			break
		}
	}
	return v, true
}

// asks tells whether a server has to be asked for its kernels.
func (r CullRule) asks() bool { return r.Idle > 0 || r.Pause > 0 }

// askEvery is how often: under a short rule more often, so that who computes is not warned or paused
// between two askings.
func (r CullRule) askEvery() time.Duration {
	every := askEvery
	if r.Idle > 0 {
		every = min(every, (r.Idle-r.Warning)/2)
	}
	if r.Pause > 0 {
		every = min(every, r.Pause/2)
	}
	return every
}

// idleSince tells since when nobody used a server and it computed nothing. A paused one computes nothing,
// and is not asked: that would have to wake it.
func (m *Manager) idleSince(ctx context.Context, c *culler, rec Server, rule CullRule, used time.Time, every time.Duration) (since time.Time, known bool) {
	c.mu.Lock()
	seen := c.seen[rec.Key]
	c.mu.Unlock()
	if !rule.asks() || rec.Phase == Paused || time.Since(used) < every || time.Since(seen.at) < every {
		return latest(used, seen.busy), true
	}
	if ctx.Err() != nil {
		return time.Time{}, false
	}
	seen.at = time.Now()
	if m.computing(ctx, rec, rule, used) {
		seen.busy = time.Now()
	}
	c.mu.Lock()
	c.seen[rec.Key] = seen
	c.mu.Unlock()
	return latest(used, seen.busy), true
}

// observe reads every running server, paused ones too, and when it was last used.
func (m *Manager) observe(ctx context.Context) (map[ServerKey]time.Time, []Server, error) {
	activity := map[ServerKey]time.Time{}
	for a, err := range m.cfg.Routes.Activities(ctx) {
		if err != nil {
			return nil, nil, err
		}
		activity[a.Key] = a.Last
	}
	var running []Server
	for s, err := range m.cfg.Servers.Servers(ctx) {
		if err != nil {
			return nil, nil, err
		}
		if s.Phase == Ready || s.Phase == Paused {
			running = append(running, s)
		}
	}
	return activity, running, nil
}

// computing asks the server for busy kernels. Its word counts only with CPU use to show for it, and
// no longer than the rule's BusyMax after a person last used it.
func (m *Manager) computing(ctx context.Context, rec Server, rule CullRule, used time.Time) bool {
	if rule.BusyMax > 0 && time.Since(used) > rule.BusyMax {
		return false
	}
	if cores, known := m.usage.recent(rec.Key); known && cores < busyCores {
		return false
	}
	ctx, done := context.WithTimeout(ctx, 5*time.Second)
	defer done()
	state, err := m.cfg.Notebook.Busy(ctx, m.target(rec, rec.Endpoint))
	if err != nil {
		return false
	}
	cores, known := m.usage.recent(rec.Key)
	return state.BusyKernels > 0 || state.Terminals > 0 && known && cores > 10*busyCores
}

// verdict is what one round decides of one server.
type verdict struct {
	at   time.Time // when it is to end; zero: no warning is due
	why  string
	rule string // idle or age
	stop bool
	// pause it, whatever else is due. Nobody is warned of that: whoever is there does not notice.
	pause bool
}

// stayAwake is how long a server is left awake at least that something woke which is no use.
const stayAwake = time.Minute

// decide is the rules, pure.
func decide(rec Server, rule CullRule, idleSince, observed, now time.Time) verdict {
	v := decideEnd(rec, rule, idleSince, observed, now)
	due := latest(idleSince.Add(rule.Pause), rec.Since.Add(min(rule.Pause, stayAwake)))
	v.pause = rule.Pause > 0 && rec.Phase == Ready && !v.stop && !now.Before(due)
	return v
}

// decideEnd tells whether a server is to end. One that was not warned yet, or whose warning ran while nobody
// observed, gets the full warning, whatever its idle time says.
func decideEnd(rec Server, rule CullRule, idleSince, observed, now time.Time) verdict {
	var at time.Time
	why, by := "", "idle"
	if rule.Idle > 0 {
		at, why = latest(idleSince.Add(rule.Idle), rec.KeepUntil), "it has been idle for "+rule.Idle.String()
	}
	if rule.MaxAge > 0 {
		if end := rec.Started.Add(rule.MaxAge); at.IsZero() || end.Before(at) {
			at, by, why = end, "age", "it reached its maximum age of "+rule.MaxAge.String()
		}
	}
	if at.IsZero() || now.Before(at.Add(-rule.Warning)) {
		return verdict{}
	}
	if rec.CullAt.Before(observed.Add(rule.Warning)) {
		return verdict{at: latest(at, now.Add(rule.Warning)), why: why, rule: by, stop: rule.Warning <= 0}
	}
	at = latest(at, rec.CullAt)
	return verdict{at: at, why: why, rule: by, stop: !now.Before(at)}
}

// judge carries a verdict out: stop, pause, warn, or take a warning back, unless the record changed
// since it was read: started anew, or extended. The next round judges what it is by then.
func (m *Manager) judge(ctx context.Context, rec Server, v verdict, used time.Time) {
	var err error
	unchanged := func(s Server) bool { return s.Revision == rec.Revision }
	switch {
	case (v.stop || v.pause) && m.flying(rec.Key) != nil: // something else is being done about it
	case v.stop:
		m.cfg.Logger.InfoContext(ctx, "culled", "server", rec.Key.String(), "why", v.why)
		_, err = m.stop(ctx, rec.Key, "the hub stopped your server because "+v.why, unchanged)
		if err == nil {
			m.cfg.Observer.Culled(v.rule)
		}
	case v.pause:
		_, err = m.pause(ctx, rec.Key, used, unchanged)
	case !v.at.Equal(rec.CullAt):
		rec.CullAt, rec.CullWhy = v.at, v.why
		_, err = m.cfg.Servers.PutServer(ctx, rec)
	}
	if err != nil && KindOf(err) != Conflict && ctx.Err() == nil {
		m.cfg.Logger.WarnContext(ctx, "cull verdict not carried out", "server", rec.Key.String(), "error", err)
	}
}

// ruleFor is the rule of a server, by its profile and its owner's groups.
func (m *Manager) ruleFor(ctx context.Context, rec Server) (CullRule, error) {
	policy := m.cfg.Policy()
	if len(policy.GroupCulls) == 0 {
		return policy.CullRule(rec.Profile, nil), nil
	}
	owner, err := m.owner(ctx, rec.Key.User)
	if err != nil && KindOf(err) != NotFound {
		return CullRule{}, err
	}
	return policy.CullRule(rec.Profile, owner.Groups), nil
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

func (c *culler) keepOnly(running []Server) {
	live := make(map[ServerKey]bool, len(running))
	for _, s := range running {
		live[s.Key] = true
	}
	maps.DeleteFunc(c.seen, func(key ServerKey, _ asked) bool { return !live[key] })
}
