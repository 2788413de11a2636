package hub

import (
	"context"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// ManagerConfig is what a [Manager] needs; every field but Observer, Logs, Watcher,
// Meter, Slots and Pauser (found on the Spawner where it has them) is required.
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
	Observer Observer      // may be nil
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
	slots   Slots   // likewise
	pauser  Pauser  // likewise
	queue   *startQueue
	steps   *stepBoard
	usage   *usageBoard
	census  *census
	wake    chan struct{} // asks Run for a reconciliation now
	spent   chan struct{} // a slot was claimed
	arrived arrivals      // starts that a slot would serve
	claims  claims        // of slots, by person
	stock   atomic.Pointer[SlotStock]

	mu      sync.Mutex
	flights map[ServerKey]*flight
	closing bool
	wg      sync.WaitGroup // flights
}

// NewManager checks the configuration and resolves the driver's optional abilities; it starts nothing.
func NewManager(cfg ManagerConfig) (*Manager, error) {
	if cfg.Spawner == nil || cfg.Servers == nil || cfg.Routes == nil || cfg.Users == nil || cfg.Leases == nil ||
		cfg.Events == nil || cfg.Notebook == nil || cfg.Keyring == nil || cfg.Policy == nil || cfg.Logger == nil {
		return nil, Errorf(Internal, "make manager", "a part is missing")
	}
	if cfg.Observer == nil {
		cfg.Observer = unobserved{}
	}
	m := &Manager{
		cfg: cfg, flights: map[ServerKey]*flight{}, wake: make(chan struct{}, 1), spent: make(chan struct{}, 1), steps: newStepBoard(cfg.Observer), usage: newUsageBoard(), census: newCensus(),
		queue: newStartQueue(func() int { return max(cfg.Policy().ConcurrentMax, 1) }),
	}
	m.logs, _ = cfg.Spawner.(Logs)
	m.watcher, _ = cfg.Spawner.(Watcher)
	m.meter, _ = cfg.Spawner.(Meter)
	m.slots, _ = cfg.Spawner.(Slots)
	m.pauser, _ = cfg.Spawner.(Pauser)
	return m, nil
}

// Run reconciles, watches the driver, samples usage and culls until ctx ends; then it lets go of
// the flights under way, whose records the next hub finishes, and joins everything it launched.
func (m *Manager) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	for _, loop := range []func(context.Context){m.reconcileLoop, m.watchLoop, m.eventLoop, m.usageLoop, m.cullLoop, m.poolLoop} {
		loops.Go(func() { loop(ctx) })
	}
	<-ctx.Done()
	m.mu.Lock()
	m.closing = true
	for _, f := range m.flights {
		f.stop(errShutdown)
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
	if !req.By.Can(ScopeServers, req.Key.User) {
		return Server{}, &Error{Kind: Forbidden, Op: "start server", Message: "you may not start this server", Remedy: "start your own from the home page"}
	}
	owner, profile, err := m.admit(ctx, req.Key, req.Profile)
	if err != nil {
		return Server{}, err
	}
	if req.By.User == req.Key.User && req.By.UserID != "" && req.By.UserID != owner.ID {
		return Server{}, &Error{Kind: Forbidden, Op: "start server", Message: "this name belongs to somebody else by now", Remedy: "sign in again"}
	}
	f, joined, err := m.joinStart(ctx, req.Key)
	if err != nil || f == nil {
		return joined, err
	}
	rec, lease, err := m.beginStart(ctx, req, owner, profile)
	if err != nil || lease == nil {
		m.land(req.Key, f)
		return rec, err
	}
	m.launch(ctx, f, lease, rec, func(ctx context.Context) { m.flyStart(ctx, f, rec) })
	return rec, nil
}

// joinStart gives the key's one flight to the caller or, where a start is under way, a nil flight
// and the record of that start. One that is to be stopped, as another hub may just have recorded, is
// waited for.
func (m *Manager) joinStart(ctx context.Context, key ServerKey) (*flight, Server, error) {
	for {
		f, joined, err := m.takeOff(ctx, key, true)
		if err != nil || !joined {
			return f, Server{}, err
		}
		rec, err := m.Server(ctx, key)
		if err != nil || rec.Phase != Stopping || rec.Intent != WantStopped {
			return nil, rec, err
		}
		m.heed(rec)
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, Server{}, Wrap(Canceled, "start server", ctx.Err())
		}
	}
}

// owner finds whom a name belongs to.
func (m *Manager) owner(ctx context.Context, name UserName) (User, error) {
	if name.IsVisitor() {
		return VisitorUser(name), nil
	}
	return m.cfg.Users.User(ctx, name)
}

// admit finds a server's owner and the profile asked for, if the owner may use it here and now.
func (m *Manager) admit(ctx context.Context, key ServerKey, profile string) (User, Profile, error) {
	owner, err := m.owner(ctx, key.User)
	if KindOf(err) == NotFound {
		return User{}, Profile{}, &Error{Kind: NotFound, Op: "start server", Message: "nobody of this name has signed in here", Remedy: "its owner signs in first", Err: err}
	}
	if err != nil {
		return User{}, Profile{}, Wrap(Internal, "start server: find owner", err)
	}
	policy := m.cfg.Policy()
	p, err := policy.Profile(profile, owner.Name, owner.Groups, owner.Admin)
	if err != nil {
		return User{}, Profile{}, err
	}
	if policy.MachineMemory > 0 && p.Limits.Memory > policy.MachineMemory {
		return User{}, Profile{}, &Error{
			Kind: Invalid, Op: "start server", Field: "profile", Message: "the profile " + p.Name + " asks for more memory than this machine has",
			Remedy: "choose another profile; an administrator can lower profiles." + p.Name + ".memory",
		}
	}
	return owner, p, nil
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
		rec, err := m.update(ctx, key, func(s *Server) error { s.wantStopped(why); return nil })
		if err != nil && KindOf(err) != NotFound {
			return Server{}, err
		}
		if m.cancelStart(key, f) {
			return rec, nil
		} // else it was over before it could be cancelled: stop what it started
	}
	return m.stop(ctx, key, why, func(Server) bool { return true })
}

// stop stops a server if, once nothing else changes it, its record is still as it should be.
func (m *Manager) stop(ctx context.Context, key ServerKey, why string, still func(Server) bool) (Server, error) {
	f, joined, err := m.takeOff(ctx, key, false)
	if err != nil {
		return Server{}, err
	}
	if joined { // a stop, or something else, after which the reconciler sees the intent
		rec, err := m.intend(ctx, key, why, still)
		m.lookAfter(key, f)
		return rec, err
	}
	rec, lease, err := m.beginStop(ctx, key, why, still)
	if err != nil || lease == nil {
		m.land(key, f)
		return rec, err
	}
	m.launch(ctx, f, lease, rec, func(ctx context.Context) { m.flyStop(ctx, rec) })
	return rec, nil
}

// Extend keeps a server that is about to be culled for its rule's Extend from now on. Nothing puts
// off old age. Errors: Forbidden, Conflict when the server does not run.
func (m *Manager) Extend(ctx context.Context, key ServerKey) (Server, error) {
	return m.update(ctx, key, func(s *Server) error {
		if s.Phase != Ready && s.Phase != Paused {
			return &Error{Kind: Conflict, Op: "extend server", Message: "this server is not running", Remedy: "start it from the home page"}
		}
		rule, err := m.ruleFor(ctx, *s)
		if err != nil {
			return err
		}
		now := time.Now()
		if rule.Extend <= 0 || rule.MaxAge > 0 && now.After(s.Started.Add(rule.MaxAge-rule.Warning)) {
			return &Error{Kind: Forbidden, Op: "extend server", Message: "this server can't be extended", Remedy: "save your work; you can start it again"}
		}
		s.KeepUntil, s.CullAt, s.CullWhy = now.Add(rule.Extend), time.Time{}, ""
		return nil
	})
}

// Progress yields the steps of the server's last or present start, those past first, and ends
// after the last; for a start that another hub flies it tells of the phases.
func (m *Manager) Progress(ctx context.Context, key ServerKey) iter.Seq[Progress] {
	return func(yield func(Progress) bool) {
		var last Phase
		for ctx.Err() == nil {
			if f := m.flying(key); f != nil && f.starting {
				select { // its steps begin with its record
				case <-f.recorded:
					if m.steps.follow(ctx, key, yield) {
						return
					}
				case <-f.done:
				case <-ctx.Done():
				}
			}
			s, err := m.Server(ctx, key)
			if err == nil && m.steps.tells(s) {
				m.steps.follow(ctx, key, yield)
				return
			}
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

// move is update to another phase, refusing an illegal transition, and with errStopped a step
// forward of a server that is to be stopped. While the store is away it insists.
func (m *Manager) move(ctx context.Context, rec Server, to Phase, change func(*Server)) (Server, error) {
	var s Server
	err := insist(ctx, func() (err error) {
		s, err = m.moveOnce(ctx, rec.Key, rec.Generation, to, change)
		return err
	})
	if err != nil {
		return rec, err
	}
	m.cfg.Logger.InfoContext(ctx, "server", "server", s.Key.String(), "generation", s.Generation, "phase", to, "reason", s.Reason)
	return s, nil
}

func (m *Manager) moveOnce(ctx context.Context, key ServerKey, g Generation, to Phase, change func(*Server)) (Server, error) {
	return m.update(ctx, key, func(s *Server) error {
		if s.Generation != g {
			return Errorf(Conflict, "change phase", "the server was started anew meanwhile")
		}
		if s.Intent == WantStopped && (to == Starting || to == Ready) {
			return errStopped
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
