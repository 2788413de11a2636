package hub_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carrel/hub"
	"carrel/hub/hubtest"
)

// world is a deployment in memory: a store, a machine, people. Hubs come and go in it.
type world struct {
	t        *testing.T
	store    *hubtest.Store
	machine  *hubtest.FakeSpawner
	notebook *hubtest.FakeNotebook
	keys     *hub.Keyring
	origins  hub.Origins

	mu     sync.Mutex
	policy hub.Policy
	log    bytes.Buffer

	seen seen  // what observers were told
	pool *pool // of slots; nil: the driver has none
}

// inWorld runs a test in a bubble of its own time.
func inWorld(t *testing.T, test func(*testing.T, *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, store: hubtest.NewStore(), machine: hubtest.NewSpawner()}
		w.notebook = hubtest.NewNotebook(w.machine)
		var err error
		if w.keys, err = hub.NewKeyring("test", bytes.Repeat([]byte{7}, 32)); err != nil {
			t.Fatal(err)
		}
		if w.origins, err = hub.NewOrigins(hub.Subdomains, "http://localhost:8000/", ""); err != nil {
			t.Fatal(err)
		}
		w.policy = hub.Policy{
			Profiles: []hub.Profile{
				{Name: "small", Default: true, Image: "image", Limits: hub.Limits{Memory: 1 << 30}},
				{Name: "big", Image: "image", Limits: hub.Limits{Memory: 64 << 30}},
				{Name: "club", Image: "image", Groups: []string{"club"}},
			},
			ConcurrentMax: 10, StartTimeout: time.Minute, StopGrace: 10 * time.Second, MachineMemory: 8 << 30,
			SweepAfter: time.Minute, SweepMaxShare: 0.1, ReconcileEvery: 30 * time.Second,
		}
		w.machine.Plan(func(hub.Spec) hubtest.Plan { return hubtest.Plan{Log: []string{"first line", "last line"}} })
		for _, name := range []string{"alice", "bob", "carol"} {
			w.person(name)
		}
		test(t, w)
		if t.Failed() {
			w.mu.Lock()
			defer w.mu.Unlock()
			t.Logf("the hubs' log:\n%s", w.log.String())
		}
	})
}

// Write keeps the hubs' log.
func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

func (w *world) setPolicy(change func(*hub.Policy)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.policy.Profiles = slices.Clone(w.policy.Profiles)
	change(&w.policy)
}

func (w *world) person(name string, groups ...string) hub.User {
	w.t.Helper()
	u, err := hub.ParseUserName(name)
	if err != nil {
		w.t.Fatal(err)
	}
	id := hub.Identity{Issuer: "https://id.example", Subject: name}
	user, err := w.store.BindUser(w.t.Context(), hub.User{ID: w.keys.UserID(id), Name: u, Identity: id, Groups: groups})
	if err != nil {
		w.t.Fatal(err)
	}
	return user
}

func keyOf(t *testing.T, user, server string) hub.ServerKey {
	t.Helper()
	k, err := hub.ParseServerKey(user, server)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ask(key hub.ServerKey) hub.StartRequest {
	return hub.StartRequest{Key: key, By: hub.Principal{User: key.User}}
}

// driver is what a hub starts servers with: one that can keep slots, if the test has some.
func (w *world) driver(g *gate) hub.Spawner {
	if w.pool != nil {
		return pooledSpawner{gatedSpawner{g}, w.pool}
	}
	return gatedSpawner{g}
}

// process is a hub: a Manager that reaches the world through a gate.
type process struct {
	*hub.Manager
	gate *gate
	quit context.CancelFunc
	done chan struct{}
}

// hub starts one. At the test's end it is shut down, and joined.
func (w *world) hub() *process {
	w.t.Helper()
	return w.hubThat(func(string) {})
}

// hubThat is hub with something done before each of its calls.
func (w *world) hubThat(before func(op string)) *process {
	w.t.Helper()
	g := &gate{w: w, dieAt: -1, dead: make(chan struct{}), before: before}
	m, err := hub.NewManager(hub.ManagerConfig{
		Spawner: w.driver(g), Servers: gatedServers{g}, Routes: gatedRoutes{g}, Users: gatedUsers{w.store, g}, Leases: gatedLeases{g}, Events: gatedEvents{g},
		Notebook: gatedNotebook{g}, Keyring: w.keys, Origins: w.origins, Observer: &w.seen, Logger: slog.New(slog.NewTextHandler(w, nil)),
		Policy: func() hub.Policy { w.mu.Lock(); defer w.mu.Unlock(); return w.policy },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	p := &process{Manager: m, gate: g, quit: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = m.Run(ctx)
	}()
	w.t.Cleanup(func() { cancel(); <-p.done })
	synctest.Wait()
	return p
}

// kill ends a hub as kill -9 does: from now on it reaches nothing.
func (p *process) kill() {
	p.gate.die()
	p.quit()
}

// shutdown ends a hub in order.
func (p *process) shutdown() {
	p.quit()
	<-p.done
}

// gate stands between a hub and the world, and counts what passes. From the call on at which the
// hub is to die, nothing passes any more.
type gate struct {
	w      *world
	mu     sync.Mutex
	armed  bool
	calls  []string
	dieAt  int
	deaf   bool // to events
	leases []hub.Lease
	after  bool // it dies when the call is done, before it hears the answer
	before func(op string)
	dead   chan struct{}
	once   sync.Once
}

func (g *gate) die() { g.once.Do(func() { close(g.dead) }) }

func (g *gate) isDead() bool {
	select {
	case <-g.dead:
		return true
	default:
		return false
	}
}

// arm counts from now on.
func (g *gate) arm(dieAt int, after bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.armed, g.calls, g.dieAt, g.after = true, nil, dieAt, after
}

func (g *gate) tick(op string) (dies bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.armed {
		return false
	}
	g.calls = append(g.calls, op)
	return len(g.calls)-1 == g.dieAt
}

// count tells how many calls of a kind passed since the gate was armed.
func (g *gate) count(op string) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.calls {
		if c == op {
			n++
		}
	}
	return n
}

// crash is a hook for points inside the driver.
func (g *gate) crash(op string) hubtest.Hook {
	return func(context.Context, hub.ServerKey) error {
		if !g.isDead() && g.tick(op) {
			g.die()
			return hubtest.ErrCrash
		}
		return nil
	}
}

func (g *gate) silence(ctx context.Context) error {
	<-ctx.Done()
	return hub.Wrap(hub.Canceled, "a dead hub", ctx.Err())
}

func pass[T any](ctx context.Context, g *gate, op string, do func() (T, error)) (T, error) {
	var zero T
	if g.isDead() {
		return zero, g.silence(ctx)
	}
	g.before(op)
	dies := g.tick(op)
	if dies && !g.after {
		g.die()
		return zero, g.silence(ctx)
	}
	v, err := do()
	if dies {
		g.die()
	}
	if g.isDead() {
		return zero, g.silence(ctx)
	}
	return v, err
}

func passErr(ctx context.Context, g *gate, op string, do func() error) error {
	_, err := pass(ctx, g, op, func() (struct{}, error) { return struct{}{}, do() })
	return err
}

func passAll[T any](ctx context.Context, g *gate, op string, of iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		all, err := pass(ctx, g, op, func() ([]T, error) {
			var all []T
			for v, err := range of {
				if err != nil {
					return nil, err
				}
				all = append(all, v)
			}
			return all, nil
		})
		for _, v := range all {
			if !yield(v, nil) {
				return
			}
		}
		if err != nil {
			var zero T
			yield(zero, err)
		}
	}
}

// passStream cuts a stream when the hub dies.
func passStream(ctx context.Context, g *gate, open func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-g.dead:
			cancel()
		case <-ctx.Done():
		}
	})
	open(ctx)
	cancel()
	wg.Wait()
}

type gatedSpawner struct{ g *gate }

func (s gatedSpawner) Start(ctx context.Context, spec hub.Spec) (hub.Handle, error) {
	return pass(ctx, s.g, "Start", func() (hub.Handle, error) {
		ctx, cancel := context.WithCancelCause(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel(nil)
		wg.Go(func() {
			select {
			case <-s.g.dead:
				cancel(hubtest.ErrCrash)
			case <-ctx.Done():
			}
		})
		return s.g.w.machine.Start(ctx, spec)
	})
}

func (s gatedSpawner) Inspect(ctx context.Context, h hub.Handle) (hub.Status, error) {
	return pass(ctx, s.g, "Inspect", func() (hub.Status, error) { return s.g.w.machine.Inspect(ctx, h) })
}

func (s gatedSpawner) Stop(ctx context.Context, h hub.Handle, grace time.Duration) error {
	return passErr(ctx, s.g, "Stop", func() error { return s.g.w.machine.Stop(ctx, h, grace) })
}

func (s gatedSpawner) Pause(ctx context.Context, h hub.Handle) error {
	return passErr(ctx, s.g, "Pause", func() error { return s.g.w.machine.Pause(ctx, h) })
}

func (s gatedSpawner) Resume(ctx context.Context, h hub.Handle) error {
	return passErr(ctx, s.g, "Resume", func() error { return s.g.w.machine.Resume(ctx, h) })
}

func (s gatedSpawner) List(ctx context.Context) iter.Seq2[hub.Status, error] {
	return passAll(ctx, s.g, "List", s.g.w.machine.List(ctx))
}

func (s gatedSpawner) Logs(ctx context.Context, h hub.Handle, n int) ([]string, error) {
	return pass(ctx, s.g, "Logs", func() ([]string, error) { return s.g.w.machine.Logs(ctx, h, n) })
}

func (s gatedSpawner) Usage(ctx context.Context, h hub.Handle) (hub.Usage, error) {
	return pass(ctx, s.g, "Usage", func() (hub.Usage, error) { return s.g.w.machine.Usage(ctx, h) })
}

func (s gatedSpawner) Watch(ctx context.Context) iter.Seq2[hub.Status, error] {
	return func(yield func(hub.Status, error) bool) {
		passStream(ctx, s.g, func(ctx context.Context) {
			for st, err := range s.g.w.machine.Watch(ctx) {
				if !yield(st, err) {
					return
				}
			}
		})
	}
}

type gatedServers struct{ g *gate }

func (s gatedServers) Server(ctx context.Context, key hub.ServerKey) (hub.Server, error) {
	return pass(ctx, s.g, "Server", func() (hub.Server, error) { return s.g.w.store.Server(ctx, key) })
}

func (s gatedServers) PutServer(ctx context.Context, x hub.Server) (hub.Server, error) {
	return pass(ctx, s.g, fmt.Sprintf("PutServer %s", x.Phase), func() (hub.Server, error) { return s.g.w.store.PutServer(ctx, x) })
}

func (s gatedServers) DeleteServer(ctx context.Context, x hub.Server) error {
	return passErr(ctx, s.g, "DeleteServer", func() error { return s.g.w.store.DeleteServer(ctx, x) })
}

func (s gatedServers) NextGeneration(ctx context.Context, key hub.ServerKey, least hub.Generation) (hub.Generation, error) {
	return pass(ctx, s.g, "NextGeneration", func() (hub.Generation, error) { return s.g.w.store.NextGeneration(ctx, key, least) })
}

func (s gatedServers) Servers(ctx context.Context) iter.Seq2[hub.Server, error] {
	return passAll(ctx, s.g, "Servers", s.g.w.store.Servers(ctx))
}

type gatedRoutes struct{ g *gate }

func (r gatedRoutes) PutRoute(ctx context.Context, x hub.Route) error {
	return passErr(ctx, r.g, "PutRoute", func() error { return r.g.w.store.PutRoute(ctx, x) })
}

func (r gatedRoutes) DeleteRoute(ctx context.Context, key hub.ServerKey, g hub.Generation) error {
	return passErr(ctx, r.g, "DeleteRoute", func() error { return r.g.w.store.DeleteRoute(ctx, key, g) })
}

func (r gatedRoutes) Routes(ctx context.Context) iter.Seq2[hub.Route, error] {
	return passAll(ctx, r.g, "Routes", r.g.w.store.Routes(ctx))
}

func (r gatedRoutes) RecordActivity(ctx context.Context, acts []hub.Activity) error {
	return passErr(ctx, r.g, "RecordActivity", func() error { return r.g.w.store.RecordActivity(ctx, acts) })
}

func (r gatedRoutes) Activities(ctx context.Context) iter.Seq2[hub.Activity, error] {
	return passAll(ctx, r.g, "Activities", r.g.w.store.Activities(ctx))
}

// gatedUsers reads through the gate; a Manager writes no users.
type gatedUsers struct {
	hub.UserStore
	g *gate
}

func (u gatedUsers) User(ctx context.Context, name hub.UserName) (hub.User, error) {
	return pass(ctx, u.g, "User", func() (hub.User, error) { return u.UserStore.User(ctx, name) })
}

type gatedLeases struct{ g *gate }

func (l gatedLeases) Acquire(ctx context.Context, name string, ttl time.Duration) (hub.Lease, error) {
	return pass(ctx, l.g, "Acquire", func() (hub.Lease, error) {
		lease, err := l.g.w.store.Acquire(ctx, name, ttl)
		if err != nil {
			return nil, err
		}
		l.g.mu.Lock()
		defer l.g.mu.Unlock()
		l.g.leases = append(l.g.leases, lease)
		return gatedLease{lease, l.g}, nil
	})
}

// loseLeases takes every lease from a hub, without telling it.
func (p *process) loseLeases(ctx context.Context) {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	for _, l := range p.gate.leases {
		_ = l.Release(ctx) // fails for what is over
	}
}

type gatedLease struct {
	l hub.Lease
	g *gate
}

func (l gatedLease) Extend(ctx context.Context, ttl time.Duration) error {
	return passErr(ctx, l.g, "Extend", func() error { return l.l.Extend(ctx, ttl) })
}

func (l gatedLease) Release(ctx context.Context) error {
	return passErr(ctx, l.g, "Release", func() error { return l.l.Release(ctx) })
}

type gatedEvents struct{ g *gate }

func (e gatedEvents) Subscribe(ctx context.Context) iter.Seq[hub.Event] {
	return func(yield func(hub.Event) bool) {
		passStream(ctx, e.g, func(ctx context.Context) {
			for x := range e.g.w.store.Subscribe(ctx) {
				e.g.mu.Lock()
				deaf := e.g.deaf
				e.g.mu.Unlock()
				if !deaf && !yield(x) {
					return
				}
			}
		})
	}
}

type gatedNotebook struct{ g *gate }

func (n gatedNotebook) Answers(ctx context.Context, t hub.Target) error {
	return passErr(ctx, n.g, "Answers", func() error { return n.g.w.notebook.Answers(ctx, t) })
}

func (n gatedNotebook) Busy(ctx context.Context, t hub.Target) (hub.NotebookState, error) {
	return pass(ctx, n.g, "Busy", func() (hub.NotebookState, error) { return n.g.w.notebook.Busy(ctx, t) })
}

// Archive implements [hub.Archiver] for servers that answer.
func (n gatedNotebook) Archive(ctx context.Context, t hub.Target, to io.Writer, _ int64) error {
	if err := n.Answers(ctx, t); err != nil {
		return err
	}
	_, err := io.WriteString(to, "files of "+t.BasePath)
	return err
}

func (n gatedNotebook) TryKernel(ctx context.Context, t hub.Target) error {
	return passErr(ctx, n.g, "TryKernel", func() error { return n.g.w.notebook.TryKernel(ctx, t) })
}
