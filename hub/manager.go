package hub

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"time"
)

// ManagerConfig is what a [Manager] needs; every field but Logs, Watcher and Meter (found on the
// Spawner where it has them) is required.
type ManagerConfig struct {
	Spawner  Spawner
	Servers  ServerStore
	Routes   RouteStore
	Users    UserStore
	Leases   Leases
	Events   Events
	Notebook Notebook
	Keyring  *Keyring
	Origins  Origins
	Policy   func() Policy // called at each decision; a reload swaps what it gives
	Logger   *slog.Logger
}

// Manager starts, stops and recovers servers, one flight per server at a time: in this process by
// its own table, across hubs by a lease, and at last by the driver's names. A flight belongs to the
// Manager and not to whoever asked: closing the tab ends nothing.
type Manager struct {
	cfg     ManagerConfig
	logs    Logs    // nil where the driver has none
	watcher Watcher // likewise
	meter   Meter   // likewise
	queue   *startQueue
	steps   *stepBoard
	usage   *usageBoard
	wake    chan struct{} // asks Run for a reconciliation now

	mu      sync.Mutex
	flights map[ServerKey]*flight
	closing bool
	wg      sync.WaitGroup // flights
}

// flight is one start or stop under way in this process.
type flight struct {
	starting bool
	cancel   context.CancelCauseFunc
	recorded chan struct{} // closed when the record tells of the flight
	done     chan struct{}
	died     chan Status // at most one: the watcher saw the container end
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

// NewManager checks the configuration and resolves the driver's optional abilities; it starts nothing.
func NewManager(cfg ManagerConfig) (*Manager, error) {
	if cfg.Spawner == nil || cfg.Servers == nil || cfg.Routes == nil || cfg.Users == nil || cfg.Leases == nil ||
		cfg.Events == nil || cfg.Notebook == nil || cfg.Keyring == nil || cfg.Policy == nil || cfg.Logger == nil {
		return nil, Errorf(Internal, "make manager", "a part is missing")
	}
	m := &Manager{
		cfg: cfg, flights: map[ServerKey]*flight{}, wake: make(chan struct{}, 1),
		queue: newStartQueue(), steps: newStepBoard(), usage: newUsageBoard(),
	}
	m.logs, _ = cfg.Spawner.(Logs)
	m.watcher, _ = cfg.Spawner.(Watcher)
	m.meter, _ = cfg.Spawner.(Meter)
	return m, nil
}

// Run reconciles, watches the driver, samples usage and culls until ctx ends; then it lets go of
// the flights under way, whose records the next hub finishes, and joins everything it launched.
func (m *Manager) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	for _, loop := range []func(context.Context){m.reconcileLoop, m.watchLoop, m.resetLoop, m.usageLoop, m.cullLoop} {
		loops.Go(func() { loop(ctx) })
	}
	<-ctx.Done()
	m.mu.Lock()
	m.closing = true
	for _, f := range m.flights {
		f.cancel(errShutdown)
	}
	m.mu.Unlock()
	loops.Wait()
	m.wg.Wait()
	return ctx.Err()
}

// Policy is the operator's policy as it stands.
func (m *Manager) Policy() Policy { return m.cfg.Policy() }

// Server gives a server's record; one that was never started is Absent.
func (m *Manager) Server(ctx context.Context, key ServerKey) (Server, error) {
	s, err := m.cfg.Servers.Server(ctx, key)
	if KindOf(err) == NotFound && err != nil {
		return Server{Key: key, Phase: Absent}, nil
	}
	return s, err
}

// Servers yields every record.
func (m *Manager) Servers(ctx context.Context) iter.Seq2[Server, error] {
	return m.cfg.Servers.Servers(ctx)
}

// StartRequest asks for a server.
type StartRequest struct {
	Key       ServerKey
	By        Principal // who asks: the owner or an administrator
	Profile   string    // empty: the first that the owner may use
	SafeStart bool
}

// Start begins a start and returns the record at once; progress is told by [Manager.Progress]. It
// is idempotent: while a server is queued, starting or ready its record is returned. A server that
// is being stopped is started when the stop is over. Errors: Forbidden, Invalid (a profile beyond
// the machine), TooMany (servers per person), Unavailable.
func (m *Manager) Start(ctx context.Context, req StartRequest) (Server, error) {
	owner, profile, err := m.admit(ctx, req)
	if err != nil {
		return Server{}, err
	}
	f, joined, err := m.takeOff(ctx, req.Key, true)
	if err != nil {
		return Server{}, err
	}
	if joined {
		return m.Server(ctx, req.Key)
	}
	rec, lease, err := m.beginStart(ctx, req, profile, owner)
	if err != nil || lease == nil {
		m.land(req.Key, f)
		return rec, err
	}
	m.launch(ctx, f, lease, func(ctx context.Context) { m.flyStart(ctx, f, rec, profile) })
	return rec, nil
}

// admit checks who asks and what for.
func (m *Manager) admit(ctx context.Context, req StartRequest) (User, Profile, error) {
	if !req.By.Can(ScopeServers, req.Key.User) {
		return User{}, Profile{}, &Error{Kind: Forbidden, Op: "start server", Message: "you may not start this server", Remedy: "start your own from the home page"}
	}
	owner, err := m.cfg.Users.User(ctx, req.Key.User)
	if err != nil {
		return User{}, Profile{}, Wrap(Internal, "start server: find owner", err)
	}
	policy := m.cfg.Policy()
	profile, err := policy.Profile(req.Profile, owner.Name, owner.Groups, owner.Admin)
	if err != nil {
		return User{}, Profile{}, err
	}
	if policy.MachineMemory > 0 && profile.Limits.Memory > policy.MachineMemory {
		return User{}, Profile{}, &Error{
			Kind: Invalid, Op: "start server", Field: "profile", Message: "the profile " + profile.Name + " asks for more memory than this machine has",
			Remedy: "choose another profile; an administrator can lower profiles." + profile.Name + ".memory",
		}
	}
	return owner, profile, m.withinShare(ctx, req.Key, policy.MaxPerUser)
}

// withinShare refuses a start beyond the number of servers that one person may run at once.
func (m *Manager) withinShare(ctx context.Context, key ServerKey, most int) error {
	if most <= 0 {
		return nil
	}
	running := 0
	for s, err := range m.cfg.Servers.Servers(ctx) {
		if err != nil {
			return Wrap(Internal, "count servers", err)
		}
		if s.Key.User == key.User && s.Key != key && s.Phase.Active() {
			running++
		}
	}
	if running >= most {
		return &Error{Kind: TooMany, Op: "start server", Message: "you run as many servers as you may", Remedy: "stop one of your servers, then start this one"}
	}
	return nil
}

// takeOff claims the key's one flight. When a start is wanted and one is under way it is joined,
// and so is a stop; otherwise the flight under way is waited for.
func (m *Manager) takeOff(ctx context.Context, key ServerKey, starting bool) (f *flight, joined bool, err error) {
	for {
		m.mu.Lock()
		if m.closing {
			m.mu.Unlock()
			return nil, false, &Error{Kind: Unavailable, Op: "change server", Message: "the hub is restarting", Remedy: "try again in a few seconds"}
		}
		other, busy := m.flights[key]
		if !busy {
			f = &flight{starting: starting, cancel: func(error) {}, recorded: make(chan struct{}), done: make(chan struct{}), died: make(chan Status, 1)}
			m.flights[key] = f
			m.wg.Add(1)
			m.mu.Unlock()
			return f, false, nil
		}
		m.mu.Unlock()
		wait := other.done
		if other.starting == starting {
			wait = other.recorded
		}
		select {
		case <-wait:
		case <-other.done:
		case <-ctx.Done():
			return nil, false, Wrap(Canceled, "change server", ctx.Err())
		}
		if other.starting == starting {
			return other, true, nil
		}
	}
}

// land ends a flight.
func (m *Manager) land(key ServerKey, f *flight) {
	m.mu.Lock()
	delete(m.flights, key)
	m.mu.Unlock()
	close(f.done)
	m.wg.Done()
}

func (m *Manager) flying(key ServerKey) *flight {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.flights[key]
}

// launch runs fly with a context of the Manager's own, keeping the lease meanwhile, and lands the flight.
func (m *Manager) launch(ctx context.Context, f *flight, lease heldLease, fly func(context.Context)) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	m.mu.Lock()
	f.cancel = cancel
	if m.closing {
		cancel(errShutdown)
	}
	m.mu.Unlock()
	close(f.recorded)
	go func() { // owned by m.wg, through land
		defer m.nudgeIf(ctx, errStopped)
		defer m.land(lease.key, f)
		defer cancel(nil)
		stopKeeping := lease.keep(cancel)
		defer stopKeeping()
		fly(ctx)
	}()
}

// Stop begins a stop, or cancels a start, and returns the record once the intent is written. It is
// idempotent. The why is told to the owner.
func (m *Manager) Stop(ctx context.Context, key ServerKey, why string) (Server, error) {
	if f := m.flying(key); f != nil && f.starting {
		select { // the start has a record before it can be cancelled
		case <-f.recorded:
		case <-f.done:
		case <-ctx.Done():
			return Server{}, Wrap(Canceled, "stop server", ctx.Err())
		}
		if _, err := m.update(ctx, key, func(s *Server) error { s.Intent, s.Reason = WantStopped, why; return nil }); err != nil && KindOf(err) != NotFound {
			return Server{}, err
		}
		m.mu.Lock()
		cancel := f.cancel
		m.mu.Unlock()
		cancel(errStopped)
		select {
		case <-f.done: // it was over before it could be cancelled: stop what it started
		default:
			return m.Server(ctx, key)
		}
	}
	f, joined, err := m.takeOff(ctx, key, false)
	if err != nil {
		return Server{}, err
	}
	if joined { // a stop, or a repair, after which the reconciler sees the intent
		return m.update(ctx, key, func(s *Server) error { s.Intent = WantStopped; return nil })
	}
	rec, lease, err := m.beginStop(ctx, key, why)
	if err != nil || lease == nil {
		m.land(key, f)
		return rec, err
	}
	m.launch(ctx, f, lease, func(ctx context.Context) { m.flyStop(ctx, rec) })
	return rec, nil
}

// Extend keeps a server that is about to be culled for its rule's Extend from now on.
func (m *Manager) Extend(ctx context.Context, key ServerKey) (Server, error) {
	return m.update(ctx, key, func(s *Server) error {
		rule, err := m.ruleFor(ctx, *s)
		if err != nil {
			return err
		}
		if rule.Extend <= 0 {
			return &Error{Kind: Forbidden, Op: "extend server", Message: "this server can't be extended", Remedy: "save your work; you can start it again"}
		}
		s.KeepUntil, s.CullAt, s.CullWhy = time.Now().Add(rule.Extend), time.Time{}, ""
		return nil
	})
}

// Progress yields the steps of the server's last or present start, those past first, and ends
// after the last; for a start that another hub flies it tells of the phases.
func (m *Manager) Progress(ctx context.Context, key ServerKey) iter.Seq[Progress] {
	if m.flying(key) != nil || m.steps.has(key) {
		return m.steps.follow(ctx, key)
	}
	return func(yield func(Progress) bool) {
		var last Phase
		for ctx.Err() == nil {
			s, err := m.Server(ctx, key)
			if err == nil && s.Phase != last {
				last = s.Phase
				if p := phaseProgress(s); !yield(p) || p.Done {
					return
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(300 * time.Millisecond):
			}
		}
	}
}

// Usage is the last sample of what a server uses, with the cores it kept busy since the one before.
func (m *Manager) Usage(key ServerKey) (u Usage, cores float64, ok bool) { return m.usage.get(key) }

// update changes a record by compare and swap, reading it anew on conflict. NotFound when there is
// no record; change's own error ends it.
func (m *Manager) update(ctx context.Context, key ServerKey, change func(*Server) error) (Server, error) {
	for {
		s, err := m.cfg.Servers.Server(ctx, key)
		if err != nil {
			return Server{}, err
		}
		if err := change(&s); err != nil {
			return s, err
		}
		s, err = m.cfg.Servers.PutServer(ctx, s)
		if err == nil || KindOf(err) != Conflict {
			return s, err
		}
	}
}

// move is update to another phase, refusing an illegal transition.
func (m *Manager) move(ctx context.Context, key ServerKey, g Generation, to Phase, change func(*Server)) (Server, error) {
	s, err := m.update(ctx, key, func(s *Server) error {
		if s.Generation != g {
			return Errorf(Conflict, "change phase", "the server was started anew meanwhile")
		}
		if s.Phase != to {
			if !s.Phase.CanBecome(to) {
				return Errorf(Conflict, "change phase", "a server that is %s can't become %s", s.Phase, to)
			}
			s.Phase, s.Since = to, time.Now()
		}
		if change != nil {
			change(s)
		}
		return nil
	})
	if err == nil {
		m.cfg.Logger.InfoContext(ctx, "server", "server", key.String(), "generation", g, "phase", to, "reason", s.Reason)
	}
	return s, err
}

// insist repeats do while the store is unavailable, until it answers or ctx ends: what happened in
// the world must reach the record.
func insist(ctx context.Context, do func() error) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := do()
		if err == nil || KindOf(err) != Unavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}
