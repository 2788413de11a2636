package hubtest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"carrel/hub"
)

// ErrCrash is what a [Hook] returns, or what a context is cancelled for, to end a call as a killed
// process would: what was done stays done, nothing is cleaned up, and nobody hears a sensible answer.
var ErrCrash = errors.New("the process was killed here")

// Point is a moment in a call of a [FakeSpawner] at which a [Hook] can interfere.
type Point string

// The points. An error at AtStart, AtCreated, AtStop, AtPause or AtResume makes the call fail with nothing changed; at
// AtRunning, AtStopped, AtPaused and AtResumed the deed is done and only the answer is lost.
const (
	AtStart   Point = "start"   // nothing is made yet
	AtCreated Point = "created" // the container is there, and does not run
	AtRunning Point = "running" // it runs
	AtInspect Point = "inspect"
	AtStop    Point = "stop" // nothing is stopped yet
	AtStopped Point = "stopped"
	AtList    Point = "list"
	AtLogs    Point = "logs"
	AtWatch   Point = "watch"
	AtUsage   Point = "usage"
	AtPause   Point = "pause" // nothing is frozen yet
	AtPaused  Point = "paused"
	AtResume  Point = "resume" // it is frozen still
	AtResumed Point = "resumed"
)

// Hook interferes with a call: it may wait, and an error of its ends the call. It is called without
// any lock held. The key is zero at AtList and AtWatch.
type Hook func(ctx context.Context, key hub.ServerKey) error

// Fail is a hook that fails with err.
func Fail(err error) Hook {
	return func(context.Context, hub.ServerKey) error { return err }
}

// Hang is a hook that waits until the context ends.
func Hang(ctx context.Context, _ hub.ServerKey) error {
	<-ctx.Done()
	return hub.Wrap(hub.Canceled, "fake spawner", ctx.Err())
}

// Slow is a hook that waits for so long.
func Slow(d time.Duration) Hook {
	return func(ctx context.Context, _ hub.ServerKey) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return hub.Wrap(hub.Canceled, "fake spawner", ctx.Err())
		}
	}
}

// Times lets a hook act n times.
func Times(n int, h Hook) Hook {
	var mu sync.Mutex
	return func(ctx context.Context, key hub.ServerKey) error {
		mu.Lock()
		n--
		over := n < 0
		mu.Unlock()
		if over {
			return nil
		}
		return h(ctx, key)
	}
}

// Plan is what becomes of a fake container once it runs.
type Plan struct {
	NoEndpoint bool          // it never gets an endpoint
	Dies       bool          // it ends by itself …
	After      time.Duration // … so long after its start
	Reason     string        // … for this reason
	Log        []string      // what it prints
}

// FakeSpawner is a driver whose containers exist in memory only. It implements [hub.Spawner],
// [hub.Logs], [hub.Watcher], [hub.Meter] and [hub.Pauser], and does what it is told to do wrong.
type FakeSpawner struct {
	deployment string
	m          *machine
}

// machine is what several drivers of one deployment share.
type machine struct {
	mu         sync.Mutex
	containers map[string]*container // by name, which is the lock on a generation
	made       int
	hooks      map[Point]Hook
	plan       func(hub.Spec) Plan
	away       bool
	cut        chan struct{} // closed and replaced when streams break
	watchers   map[chan hub.Status]bool
	cpu        map[hub.ServerKey]float64 // cores in use
	peaks      map[hub.ServerKey]int
	starts     map[hub.ServerKey]int
}

type container struct {
	name     string
	spec     hub.Spec
	phase    hub.Phase // Starting: created; Ready: runs; Paused: frozen; Failed: ended
	endpoint hub.Endpoint
	reason   string
	log      []string
	created  time.Time
	cpu      float64   // seconds used until cpuAt
	cpuAt    time.Time // zero until it runs
	changed  chan struct{}
}

var (
	_ hub.Spawner = (*FakeSpawner)(nil)
	_ hub.Logs    = (*FakeSpawner)(nil)
	_ hub.Watcher = (*FakeSpawner)(nil)
	_ hub.Meter   = (*FakeSpawner)(nil)
	_ hub.Pauser  = (*FakeSpawner)(nil)
)

// NewSpawner makes a driver of a deployment of its own, where nothing runs.
func NewSpawner() *FakeSpawner {
	return &FakeSpawner{deployment: "fake", m: &machine{
		containers: map[string]*container{}, hooks: map[Point]Hook{}, plan: func(hub.Spec) Plan { return Plan{} }, cut: make(chan struct{}),
		watchers: map[chan hub.Status]bool{}, cpu: map[hub.ServerKey]float64{}, peaks: map[hub.ServerKey]int{}, starts: map[hub.ServerKey]int{},
	}}
}

// Reopen makes another driver for the same deployment, as a hub does that was started anew.
func (f *FakeSpawner) Reopen() *FakeSpawner { return &FakeSpawner{deployment: f.deployment, m: f.m} }

// On sets what happens at a point, in every driver of the deployment; nil: nothing.
func (f *FakeSpawner) On(p Point, h Hook) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.hooks[p] = h
}

// Plan sets what becomes of the containers that are started from now on.
func (f *FakeSpawner) Plan(plan func(hub.Spec) Plan) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.plan = plan
}

// SetAway makes every call Unavailable and breaks every stream, until it is set back.
func (f *FakeSpawner) SetAway(away bool) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.away = away
	if away {
		close(f.m.cut)
		f.m.cut = make(chan struct{})
	}
}

// SetCPU sets how many cores a server's containers keep busy.
func (f *FakeSpawner) SetCPU(key hub.ServerKey, cores float64) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	for _, c := range f.m.containers {
		if c.spec.Key == key {
			c.count(f.m.cpu[key])
		}
	}
	f.m.cpu[key] = cores
}

// Die ends every running container of a server by itself.
func (f *FakeSpawner) Die(key hub.ServerKey, reason string) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	for _, c := range f.m.containers {
		if c.spec.Key == key {
			f.m.end(c, reason)
		}
	}
}

// Containers gives everything that is there, whatever is set to go wrong, ordered by name.
func (f *FakeSpawner) Containers() []hub.Status {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	var all []hub.Status
	for _, name := range slices.Sorted(maps.Keys(f.m.containers)) {
		all = append(all, f.status(f.m.containers[name]))
	}
	return all
}

// Peak is the most containers of a server that were ever there at once, and Starts how many began to run.
func (f *FakeSpawner) Peak(key hub.ServerKey) int {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return f.m.peaks[key]
}

// Starts is how many containers of a server ever began to run.
func (f *FakeSpawner) Starts(key hub.ServerKey) int {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return f.m.starts[key]
}

// Listening gives the spec of the running container at an endpoint, and its end.
func (f *FakeSpawner) Listening(e hub.Endpoint) (spec hub.Spec, ok bool) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	for _, c := range f.m.containers {
		if c.phase == hub.Ready && !e.IsZero() && c.endpoint == e {
			return c.spec, true
		}
	}
	return hub.Spec{}, false
}

// at meets what every call meets at a point: the machine away, a hook, the context's end.
func (f *FakeSpawner) at(ctx context.Context, p Point, key hub.ServerKey) error {
	if err := f.hook(ctx, p, key); err != nil {
		return err
	}
	return hub.Wrap(hub.Canceled, "fake spawner: "+string(p), ctx.Err())
}

func (f *FakeSpawner) hook(ctx context.Context, p Point, key hub.ServerKey) error {
	f.m.mu.Lock()
	hook, away := f.m.hooks[p], f.m.away
	f.m.mu.Unlock()
	if away {
		return &hub.Error{Kind: hub.Unavailable, Op: "fake spawner: " + string(p), Message: "the machine can't be reached", Remedy: "try again"}
	}
	if hook == nil {
		return nil
	}
	return hook(ctx, key)
}

type fakeNote struct {
	Name string `json:"name"`
}

const fakeVersion = 1

func (f *FakeSpawner) name(key hub.ServerKey, g hub.Generation) string {
	return fmt.Sprintf("%s-%s-g%d", f.deployment, key.Label(), g)
}

func (f *FakeSpawner) handle(name string) hub.Handle {
	b, err := json.Marshal(fakeNote{name})
	if err != nil {
		panic(err) // a string
	}
	return hub.Handle{Driver: "fake", Version: fakeVersion, Data: b}
}

func openFake(h hub.Handle) (string, error) {
	var n fakeNote
	if h.Driver != "fake" || h.Version != fakeVersion || json.Unmarshal(h.Data, &n) != nil || n.Name == "" {
		return "", hub.Errorf(hub.Invalid, "read handle", "this server was not started by this driver")
	}
	return n.Name, nil
}

// find gives the container of a handle, nil when it is gone; f.m.mu is held.
func (f *FakeSpawner) find(h hub.Handle) (*container, error) {
	name, err := openFake(h)
	if err != nil {
		return nil, err
	}
	return f.m.containers[name], nil
}

// Start implements [hub.Spawner].
func (f *FakeSpawner) Start(ctx context.Context, spec hub.Spec) (hub.Handle, error) {
	if err := f.at(ctx, AtStart, spec.Key); err != nil {
		return hub.Handle{}, err
	}
	name := f.name(spec.Key, spec.Generation)
	spec.Progress(hub.Progress{Step: "create", Message: "Making a container of the mind", Percent: 20})
	c, mine := f.m.create(name, spec)
	if !mine {
		return f.handle(name), c.running(ctx, f.m)
	}
	if err := f.at(ctx, AtCreated, spec.Key); err != nil {
		if !errors.Is(err, ErrCrash) && !errors.Is(context.Cause(ctx), ErrCrash) {
			f.m.discard(c)
		}
		return hub.Handle{}, err
	}
	spec.Progress(hub.Progress{Step: "start", Message: "Starting it", Percent: 30})
	if !f.m.run(c) {
		return hub.Handle{}, hub.Errorf(hub.Conflict, "fake spawner: start", "the server was stopped meanwhile")
	}
	if err := f.hook(ctx, AtRunning, spec.Key); err != nil { // a context that ends now comes too late
		return hub.Handle{}, err
	}
	return f.handle(name), nil
}

// create makes the container of a name, or finds it: one that an earlier call left unstarted is
// this call's to start.
func (m *machine) create(name string, spec hub.Spec) (c *container, mine bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.containers[name]; c != nil {
		return c, false
	}
	c = &container{name: name, spec: spec, phase: hub.Starting, created: time.Now(), changed: make(chan struct{})}
	m.containers[name] = c
	n := 0
	for _, o := range m.containers {
		if o.spec.Key == spec.Key {
			n++
		}
	}
	m.peaks[spec.Key] = max(m.peaks[spec.Key], n)
	return c, true
}

// running starts a container that another call made and left, or waits for that call.
func (c *container) running(ctx context.Context, m *machine) error {
	select {
	case <-c.changed:
		return nil
	case <-time.After(10 * time.Millisecond): // whoever made it is dead, or slow: either may start it
	case <-ctx.Done():
		return hub.Wrap(hub.Canceled, "fake spawner: start", ctx.Err())
	}
	if !m.run(c) {
		return hub.Errorf(hub.Conflict, "fake spawner: start", "the server was stopped meanwhile")
	}
	return nil
}

// run starts a container unless it runs; false when it was removed.
func (m *machine) run(c *container) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.containers[c.name] != c {
		return false
	}
	if c.phase != hub.Starting {
		return true
	}
	plan := m.plan(c.spec)
	c.phase, c.log, c.cpuAt = hub.Ready, plan.Log, time.Now()
	if m.made++; !plan.NoEndpoint {
		c.endpoint, _ = hub.ParseEndpoint(fmt.Sprintf("http://10.0.%d.%d:8888", m.made/250, m.made%250+1))
	}
	m.starts[c.spec.Key]++
	close(c.changed)
	if plan.Dies {
		reason := cmp.Or(plan.Reason, "exit code 1")
		if plan.After <= 0 {
			m.end(c, reason)
		} else {
			time.AfterFunc(plan.After, func() {
				m.mu.Lock()
				defer m.mu.Unlock()
				m.end(c, reason)
			})
		}
	}
	return true
}

// end is a container's end by itself; m.mu is held.
func (m *machine) end(c *container, reason string) {
	if !c.runs() || m.containers[c.name] != c {
		return
	}
	c.count(m.cpu[c.spec.Key])
	c.phase, c.reason, c.endpoint = hub.Failed, reason, hub.Endpoint{}
	if m.away {
		return // nobody can be told
	}
	st := (&FakeSpawner{m: m}).status(c)
	for w := range m.watchers {
		select {
		case w <- st:
		default:
		}
	}
}

func (m *machine) remove(c *container) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.containers[c.name] == c {
		delete(m.containers, c.name)
	}
}

// discard removes a container that nobody has started.
func (m *machine) discard(c *container) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.phase == hub.Starting && m.containers[c.name] == c {
		delete(m.containers, c.name)
	}
}

// runs tells whether a container does, frozen or not; m.mu is held.
func (c *container) runs() bool { return c.phase == hub.Ready || c.phase == hub.Paused }

// count adds up the processor time used until now.
func (c *container) count(cores float64) {
	if c.phase == hub.Ready {
		c.cpu += cores * time.Since(c.cpuAt).Seconds()
		c.cpuAt = time.Now()
	}
}

// status is what the driver tells of a container; f.m.mu is held.
func (f *FakeSpawner) status(c *container) hub.Status {
	return hub.Status{
		Key: c.spec.Key, Generation: c.spec.Generation, UserID: c.spec.UserID, Profile: c.spec.Profile,
		Handle: f.handle(c.name), Phase: c.phase, Endpoint: c.endpoint, Reason: c.reason, Created: c.created, Image: "fake:" + c.spec.Image,
	}
}

// Inspect implements [hub.Spawner].
func (f *FakeSpawner) Inspect(ctx context.Context, h hub.Handle) (hub.Status, error) {
	key := f.keyOf(h)
	if err := f.at(ctx, AtInspect, key); err != nil {
		return hub.Status{}, err
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	c, err := f.find(h)
	if err != nil {
		return hub.Status{}, err
	}
	if c == nil {
		return hub.Status{Handle: h, Phase: hub.Absent}, nil
	}
	return f.status(c), nil
}

func (f *FakeSpawner) keyOf(h hub.Handle) hub.ServerKey {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if c, err := f.find(h); err == nil && c != nil {
		return c.spec.Key
	}
	return hub.ServerKey{}
}

// Stop implements [hub.Spawner]. Fake servers need no grace.
func (f *FakeSpawner) Stop(ctx context.Context, h hub.Handle, _ time.Duration) error {
	key := f.keyOf(h)
	if err := f.at(ctx, AtStop, key); err != nil {
		return err
	}
	f.m.mu.Lock()
	c, err := f.find(h)
	f.m.mu.Unlock()
	if err != nil {
		return err
	}
	if c != nil {
		f.m.remove(c)
	}
	return f.hook(ctx, AtStopped, key)
}

// List implements [hub.Spawner].
func (f *FakeSpawner) List(ctx context.Context) iter.Seq2[hub.Status, error] {
	return func(yield func(hub.Status, error) bool) {
		if err := f.at(ctx, AtList, hub.ServerKey{}); err != nil {
			yield(hub.Status{}, err)
			return
		}
		for _, st := range f.Containers() {
			if !yield(st, nil) {
				return
			}
		}
	}
}

// Logs implements [hub.Logs].
func (f *FakeSpawner) Logs(ctx context.Context, h hub.Handle, n int) ([]string, error) {
	if err := f.at(ctx, AtLogs, f.keyOf(h)); err != nil {
		return nil, err
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	c, err := f.find(h)
	if err != nil || c == nil {
		return nil, err
	}
	return slices.Clone(c.log[max(0, len(c.log)-n):]), nil
}

// Watch implements [hub.Watcher].
func (f *FakeSpawner) Watch(ctx context.Context) iter.Seq2[hub.Status, error] {
	return func(yield func(hub.Status, error) bool) {
		if err := f.at(ctx, AtWatch, hub.ServerKey{}); err != nil {
			yield(hub.Status{}, err)
			return
		}
		told := make(chan hub.Status, 1000)
		f.m.mu.Lock()
		f.m.watchers[told] = true
		cut := f.m.cut
		f.m.mu.Unlock()
		defer func() {
			f.m.mu.Lock()
			delete(f.m.watchers, told)
			f.m.mu.Unlock()
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case <-cut:
				yield(hub.Status{}, hub.Errorf(hub.Unavailable, "fake spawner: watch", "the stream broke"))
				return
			case st := <-told:
				if !yield(st, nil) {
					return
				}
			}
		}
	}
}

// Usage implements [hub.Meter].
func (f *FakeSpawner) Usage(ctx context.Context, h hub.Handle) (hub.Usage, error) {
	if err := f.at(ctx, AtUsage, f.keyOf(h)); err != nil {
		return hub.Usage{}, err
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	c, err := f.find(h)
	if err != nil {
		return hub.Usage{}, err
	}
	if c == nil || !c.runs() {
		return hub.Usage{}, hub.Errorf(hub.NotFound, "fake spawner: usage", "this server does not run")
	}
	c.count(f.m.cpu[c.spec.Key])
	return hub.Usage{CPUSeconds: c.cpu, Memory: 64 << 20, MemoryLimit: c.spec.Limits.Memory, PIDs: 7, At: time.Now()}, nil
}
