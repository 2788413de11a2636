package hubtest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"carrel/hub"
)

// Behaviour is what the server of a [SpawnerSetup]'s Spec does once it runs.
type Behaviour int

// The behaviours.
const (
	// Runs: it runs until it is stopped, and need not answer.
	Runs Behaviour = iota
	// Ends: it prints what [Farewell] prints, and ends with a failure.
	Ends
)

// Farewell is a shell script for the behaviour Ends: it prints the lines "one", "two" with control
// characters around it, a thousand times "x", and "farewell", and fails.
const Farewell = `printf 'one\n\033two\007\n'; printf '%01000d\n' 0 | tr 0 x; echo farewell; exit 3`

// SpawnerSetup is how the suite [Spawner] gets at a driver.
type SpawnerSetup struct {
	// Open makes a driver with a deployment of its own, where nothing runs yet, and takes down all
	// that it made when the test ends.
	Open func(t *testing.T) hub.Spawner
	// Reopen makes another driver for the deployment of d, as a hub does that was started anew.
	Reopen func(t *testing.T, d hub.Spawner) hub.Spawner
	// Spec describes a server of the user that the driver can start. The suite changes Generation
	// and Progress.
	Spec func(t *testing.T, user string, does Behaviour) hub.Spec
}

// Spawner tests that a driver keeps the contract of [hub.Spawner], and of [hub.Logs], [hub.Watcher],
// [hub.Meter] and [hub.Pauser] where it implements them. A driver's own tests call it:
//
//	func TestContract(t *testing.T) {
//		hubtest.Spawner(t, hubtest.SpawnerSetup{
//			Open:   func(t *testing.T) hub.Spawner { return newDriver(t) },
//			Reopen: func(t *testing.T, d hub.Spawner) hub.Spawner { … New(d.(*Driver).cfg) … },
//			Spec: func(t *testing.T, user string, does hubtest.Behaviour) hub.Spec {
//				spec := testSpec(t, user)
//				spec.Command = []string{"sleep", "1000"}
//				if does == hubtest.Ends {
//					spec.Command = []string{"sh", "-c", hubtest.Farewell}
//				}
//				return spec
//			},
//		})
//	}
//
// It starts some thirty servers, most of them one after the other.
func Spawner(t *testing.T, setup SpawnerSetup) {
	s := &spawnerSuite{SpawnerSetup: setup, d: setup.Open(t)}
	for _, c := range []struct {
		name string
		run  func(*spawnerSuite, *testing.T)
	}{
		{"life", (*spawnerSuite).life},
		{"a second start finds the first's server", (*spawnerSuite).startTwice},
		{"starts of one generation at once make one server", (*spawnerSuite).startAtOnce},
		{"servers of many people start side by side", (*spawnerSuite).startMany},
		{"generations are servers of their own", (*spawnerSuite).generations},
		{"a start whose context is over makes nothing", (*spawnerSuite).startOver},
		{"a start cancelled at any step leaves nothing", (*spawnerSuite).startCancelled},
		{"stops at once all succeed", (*spawnerSuite).stopAtOnce},
		{"a stop racing a start", (*spawnerSuite).stopRacing},
		{"foreign handles are refused", (*spawnerSuite).foreignHandles},
		{"handles hold no secret and outlive the driver", (*spawnerSuite).handles},
		{"only our own is listed", (*spawnerSuite).listOwn},
		{"listing ends when its context does, or early", (*spawnerSuite).listCut},
		{"a server that ends by itself", (*spawnerSuite).ended},
		{"logs", (*spawnerSuite).logs},
		{"watch", (*spawnerSuite).watch},
		{"usage", (*spawnerSuite).usage},
		{"pause and resume", (*spawnerSuite).pause},
		{"pauses and resumes at once", (*spawnerSuite).pauseAtOnce},
		{"a paused server is stopped", (*spawnerSuite).pauseStop},
		{"nothing is paused that does not run", (*spawnerSuite).pauseEnded},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(s, t) })
	}
}

// soon is how long anything may take that a driver does by itself; machines under test are busy.
const soon = time.Minute

type spawnerSuite struct {
	SpawnerSetup
	d hub.Spawner
}

func (s *spawnerSuite) spec(t *testing.T, user string, does Behaviour) hub.Spec {
	t.Helper()
	spec := s.Spec(t, user, does)
	spec.Generation = 1
	spec.Progress = func(hub.Progress) {}
	return spec
}

// start starts a server that is stopped when the test ends.
func (s *spawnerSuite) start(t *testing.T, spec hub.Spec) hub.Handle {
	t.Helper()
	h, err := s.d.Start(t.Context(), spec)
	if err != nil {
		t.Fatalf("start %s, generation %d: %v", spec.Key, spec.Generation, err)
	}
	if h.IsZero() {
		t.Fatalf("start %s gave a handle that holds nothing", spec.Key)
	}
	t.Cleanup(func() { s.stop(t, h) })
	return h
}

// stop works in cleanups too, where the test's own context is over.
func (s *spawnerSuite) stop(t *testing.T, h hub.Handle) {
	t.Helper()
	ctx, done := context.WithTimeout(context.WithoutCancel(t.Context()), soon)
	defer done()
	if err := s.d.Stop(ctx, h, 0); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func (s *spawnerSuite) inspect(t *testing.T, h hub.Handle) hub.Status {
	t.Helper()
	st, err := s.d.Inspect(t.Context(), h)
	if err != nil {
		t.Fatalf("inspect: %v", err)
	}
	return st
}

// listed gives what the driver lists of a key.
func listed(t *testing.T, d hub.Spawner, key hub.ServerKey) []hub.Status {
	t.Helper()
	var found []hub.Status
	for st, err := range d.List(t.Context()) {
		if err != nil {
			t.Fatalf("list: %v", err)
		}
		if st.Key == key {
			found = append(found, st)
		}
	}
	return found
}

func sameHandle(a, b hub.Handle) bool {
	return a.Driver == b.Driver && a.Version == b.Version && string(a.Data) == string(b.Data)
}

func (s *spawnerSuite) life(t *testing.T) {
	spec := s.spec(t, "life", Runs)
	began := time.Now()
	h := s.start(t, spec)
	st := s.inspect(t, h)
	if st.Phase != hub.Ready || st.Key != spec.Key || st.Generation != spec.Generation || st.UserID != spec.UserID || st.Profile != spec.Profile || !sameHandle(st.Handle, h) {
		t.Errorf("a server that was just started is %+v", st)
	}
	if st.Endpoint.IsZero() {
		t.Error("it has no endpoint")
	}
	if all := listed(t, s.d, spec.Key); len(all) != 1 || all[0].Image != st.Image || all[0].Endpoint != st.Endpoint {
		t.Errorf("it is listed as %+v, and inspected as %+v: routes would be mended for ever", all, st)
	}
	if st.Created.Before(began.Add(-soon)) || st.Created.After(time.Now().Add(soon)) {
		t.Errorf("it was created at %v, now is %v", st.Created, time.Now())
	}
	for range 2 {
		s.stop(t, h)
		if st := s.inspect(t, h); st.Phase != hub.Absent || !st.Endpoint.IsZero() {
			t.Errorf("after a stop it is %+v", st)
		}
	}
	if left := listed(t, s.d, spec.Key); len(left) > 0 {
		t.Errorf("after a stop these are listed: %+v", left)
	}
}

func (s *spawnerSuite) startTwice(t *testing.T) {
	spec := s.spec(t, "twice", Runs)
	h := s.start(t, spec)
	before := s.inspect(t, h)
	if again := s.start(t, spec); !sameHandle(again, h) {
		t.Errorf("the second start gave another handle: %s, then %s", h.Data, again.Data)
	}
	if after := s.inspect(t, h); after.Phase != hub.Ready || !after.Created.Equal(before.Created) || after.Endpoint != before.Endpoint {
		t.Errorf("the second start touched the server: it was %+v, and is %+v", before, after)
	}
	if all := listed(t, s.d, spec.Key); len(all) != 1 {
		t.Errorf("%d servers are listed: %+v", len(all), all)
	}
}

func (s *spawnerSuite) startAtOnce(t *testing.T) {
	spec := s.spec(t, "atonce", Runs)
	handles := make([]hub.Handle, 6)
	errs := make([]error, len(handles))
	var wg sync.WaitGroup
	for i := range handles {
		wg.Go(func() { handles[i], errs[i] = s.d.Start(t.Context(), spec) })
	}
	wg.Wait()
	for i, h := range handles {
		if errs[i] != nil {
			t.Errorf("start %d: %v", i, errs[i])
		} else if !sameHandle(h, handles[0]) {
			t.Errorf("start %d gave another handle: %s, not %s", i, h.Data, handles[0].Data)
		}
	}
	if all := listed(t, s.d, spec.Key); len(all) != 1 || all[0].Phase != hub.Ready {
		t.Errorf("%d servers are listed: %+v", len(all), all)
	}
	s.stop(t, s.start(t, spec))
}

func (s *spawnerSuite) startMany(t *testing.T) {
	var wg sync.WaitGroup
	var specs []hub.Spec
	for i := range 4 {
		specs = append(specs, s.spec(t, fmt.Sprintf("many%d", i), Runs))
	}
	handles := make([]hub.Handle, len(specs))
	for i, spec := range specs {
		wg.Go(func() {
			h, err := s.d.Start(t.Context(), spec)
			if err != nil {
				t.Errorf("start %s: %v", spec.Key, err)
				return
			}
			handles[i] = h
		})
	}
	wg.Wait()
	endpoints := map[hub.Endpoint]bool{}
	for i, h := range handles {
		if h.IsZero() {
			continue
		}
		st := s.inspect(t, h)
		if st.Key != specs[i].Key || st.UserID != specs[i].UserID || st.Phase != hub.Ready {
			t.Errorf("%s is %+v", specs[i].Key, st)
		}
		endpoints[st.Endpoint] = true
		wg.Go(func() { s.stop(t, h) })
	}
	wg.Wait()
	if len(endpoints) != len(specs) {
		t.Errorf("%d servers share the endpoints %v", len(specs), endpoints)
	}
}

func (s *spawnerSuite) generations(t *testing.T) {
	spec := s.spec(t, "generations", Runs)
	first := s.start(t, spec)
	spec.Generation = 2
	second := s.start(t, spec)
	if sameHandle(first, second) {
		t.Fatal("two generations have one handle")
	}
	if all := listed(t, s.d, spec.Key); len(all) != 2 || all[0].Generation == all[1].Generation {
		t.Errorf("listed: %+v", all)
	}
	s.stop(t, first)
	if st := s.inspect(t, first); st.Phase != hub.Absent {
		t.Errorf("the first generation is %+v after its stop", st)
	}
	if st := s.inspect(t, second); st.Phase != hub.Ready || st.Generation != 2 {
		t.Errorf("the second generation is %+v after the first's stop", st)
	}
}

func (s *spawnerSuite) startOver(t *testing.T) {
	spec := s.spec(t, "over", Runs)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if h, err := s.d.Start(ctx, spec); hub.KindOf(err) != hub.Canceled {
		t.Errorf("start with a cancelled context: %+v, %v; want an error of kind canceled", h, err)
	}
	if left := listed(t, s.d, spec.Key); len(left) > 0 {
		t.Errorf("it left %+v", left)
	}
}

// startCancelled cancels starts at each step that the driver tells of, and at moments between.
func (s *spawnerSuite) startCancelled(t *testing.T) {
	spec := s.spec(t, "cancelled", Runs)
	var mu sync.Mutex
	steps := 0
	spec.Progress = func(hub.Progress) { mu.Lock(); steps++; mu.Unlock() }
	began := time.Now()
	s.stop(t, s.start(t, spec))
	took := time.Since(began)
	try := func(name string, cancelled func(cancel func(), spec *hub.Spec)) {
		spec.Generation++
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		mine := spec
		mine.Progress = func(hub.Progress) {}
		cancelled(cancel, &mine)
		h, err := s.d.Start(ctx, mine)
		if err == nil { // it was faster
			s.stop(t, h)
			return
		}
		if hub.KindOf(err) != hub.Canceled {
			t.Errorf("%s: %v; want an error of kind canceled", name, err)
		}
		if left := listed(t, s.d, spec.Key); len(left) > 0 {
			t.Errorf("%s: it left %+v", name, left)
		}
	}
	for step := range steps {
		try(fmt.Sprintf("cancelled at step %d", step), func(cancel func(), spec *hub.Spec) {
			var mu sync.Mutex
			n := 0
			spec.Progress = func(hub.Progress) {
				mu.Lock()
				defer mu.Unlock()
				if n++; n > step {
					cancel()
				}
			}
		})
	}
	for part := range 6 {
		after := took * time.Duration(part) / 6
		try(fmt.Sprintf("cancelled after %v of %v", after, took), func(cancel func(), _ *hub.Spec) { time.AfterFunc(after, cancel) })
	}
	if left := listed(t, s.d, spec.Key); len(left) > 0 { // a backend may be late with what it was asked for
		t.Errorf("in the end there are %+v", left)
	}
}

func (s *spawnerSuite) stopAtOnce(t *testing.T) {
	h := s.start(t, s.spec(t, "stops", Runs))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { s.stop(t, h) })
	}
	wg.Wait()
	if st := s.inspect(t, h); st.Phase != hub.Absent {
		t.Errorf("after four stops it is %+v", st)
	}
}

// stopRacing stops a server while a second start of it looks for it. Whatever came of it, one more
// stop ends it, and the next generation starts.
func (s *spawnerSuite) stopRacing(t *testing.T) {
	spec := s.spec(t, "race", Runs)
	h := s.start(t, spec)
	var wg sync.WaitGroup
	wg.Go(func() { s.stop(t, h) })
	wg.Go(func() {
		if _, err := s.d.Start(t.Context(), spec); err != nil && hub.KindOf(err) == hub.Internal {
			t.Errorf("a start that a stop overtook: %v; want an error with a kind", err)
		}
	})
	wg.Wait()
	s.stop(t, h)
	if left := listed(t, s.d, spec.Key); len(left) > 0 {
		t.Errorf("after the last stop there are %+v", left)
	}
	spec.Generation++
	if st := s.inspect(t, s.start(t, spec)); st.Phase != hub.Ready {
		t.Errorf("the next generation is %+v", st)
	}
}

func (s *spawnerSuite) foreignHandles(t *testing.T) {
	own := s.start(t, s.spec(t, "foreign", Runs))
	for name, h := range map[string]hub.Handle{
		"nothing":         {},
		"another driver":  {Driver: own.Driver + "x", Version: own.Version, Data: own.Data},
		"another version": {Driver: own.Driver, Version: own.Version + 1, Data: own.Data},
		"no note":         {Driver: own.Driver, Version: own.Version},
		"garbage":         {Driver: own.Driver, Version: own.Version, Data: json.RawMessage(`[1,`)},
		"an empty note":   {Driver: own.Driver, Version: own.Version, Data: json.RawMessage(`{}`)},
	} {
		calls := map[string]error{"stop": s.d.Stop(t.Context(), h, 0)}
		_, calls["inspect"] = s.d.Inspect(t.Context(), h)
		if l, ok := s.d.(hub.Logs); ok {
			_, calls["logs"] = l.Logs(t.Context(), h, 1)
		}
		if m, ok := s.d.(hub.Meter); ok {
			_, calls["usage"] = m.Usage(t.Context(), h)
		}
		if p, ok := s.d.(hub.Pauser); ok {
			calls["pause"], calls["resume"] = p.Pause(t.Context(), h), p.Resume(t.Context(), h)
		}
		for call, err := range calls {
			if hub.KindOf(err) != hub.Invalid {
				t.Errorf("%s with a handle of %s: %v; want an error of kind invalid", call, name, err)
			}
		}
	}
	if st := s.inspect(t, own); st.Phase != hub.Ready {
		t.Errorf("the driver's own server is %+v after that", st)
	}
}

func (s *spawnerSuite) handles(t *testing.T) {
	spec := s.spec(t, "handles", Runs)
	h := s.start(t, spec)
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), spec.Token.Reveal()) {
		t.Errorf("the handle tells the server's token: %s", text)
	}
	var kept hub.Handle
	if err := json.Unmarshal(text, &kept); err != nil {
		t.Fatal(err)
	}
	next := s.Reopen(t, s.d)
	if st, err := next.Inspect(t.Context(), kept); err != nil || st.Phase != hub.Ready || st.Key != spec.Key || st.Endpoint.IsZero() {
		t.Errorf("a new driver sees %+v, %v", st, err)
	}
	if all := listed(t, next, spec.Key); len(all) != 1 || !sameHandle(all[0].Handle, h) {
		t.Errorf("a new driver lists %+v", all)
	}
	if again, err := next.Start(t.Context(), spec); err != nil || !sameHandle(again, h) {
		t.Errorf("a new driver started it anew: %s, %v", again.Data, err)
	}
	if err := next.Stop(t.Context(), kept, 0); err != nil {
		t.Errorf("a new driver can't stop it: %v", err)
	}
	if st := s.inspect(t, h); st.Phase != hub.Absent {
		t.Errorf("after the new driver's stop it is %+v", st)
	}
}

func (s *spawnerSuite) listOwn(t *testing.T) {
	spec := s.spec(t, "own", Runs)
	h := s.start(t, spec)
	all := listed(t, s.d, spec.Key)
	if len(all) != 1 || all[0].Phase != hub.Ready || all[0].Generation != spec.Generation || all[0].UserID != spec.UserID ||
		all[0].Profile != spec.Profile || all[0].Endpoint.IsZero() || !sameHandle(all[0].Handle, h) {
		t.Errorf("listed: %+v", all)
	}
	other := s.Open(t)
	for st, err := range other.List(t.Context()) {
		t.Errorf("another deployment lists %+v, %v", st, err)
	}
	if err := other.Stop(t.Context(), h, 0); err != nil && hub.KindOf(err) != hub.Invalid {
		t.Errorf("another deployment's stop: %v", err)
	}
	if st := s.inspect(t, h); st.Phase != hub.Ready {
		t.Errorf("after another deployment's stop it is %+v", st)
	}
}

func (s *spawnerSuite) listCut(t *testing.T) {
	s.start(t, s.spec(t, "cut1", Runs))
	s.start(t, s.spec(t, "cut2", Runs))
	n := 0
	for st, err := range s.d.List(t.Context()) {
		if n++; err != nil || st.Key.IsZero() {
			t.Errorf("listed %+v, %v", st, err)
		}
		break
	}
	if n != 1 {
		t.Errorf("%d servers came before the end that was asked for", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var last error
	for _, err := range s.d.List(ctx) {
		last = err
	}
	if last == nil {
		t.Error("a list that was cut off looks complete")
	}
}

// ended starts a server that fails, and waits until the driver knows.
func (s *spawnerSuite) fail(t *testing.T, user string) (hub.Spec, hub.Handle, hub.Status) {
	t.Helper()
	spec := s.spec(t, user, Ends)
	h := s.start(t, spec)
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		st := s.inspect(t, h)
		if st.Phase == hub.Failed {
			return spec, h, st
		}
		if time.Since(began) > soon {
			t.Fatalf("a server that should have ended is %+v", st)
		}
	}
}

func (s *spawnerSuite) ended(t *testing.T) {
	spec, h, st := s.fail(t, "ended")
	if st.Key != spec.Key || st.Generation != spec.Generation || st.Reason == "" || !st.Endpoint.IsZero() || !sameHandle(st.Handle, h) {
		t.Errorf("an ended server is %+v", st)
	}
	if all := listed(t, s.d, spec.Key); len(all) != 1 || all[0].Phase != hub.Failed {
		t.Errorf("listed: %+v", all)
	}
	s.stop(t, h)
	if st := s.inspect(t, h); st.Phase != hub.Absent {
		t.Errorf("after a stop it is %+v", st)
	}
}

func (s *spawnerSuite) logs(t *testing.T) {
	d, ok := s.d.(hub.Logs)
	if !ok {
		return
	}
	_, h, _ := s.fail(t, "logs")
	lines, err := d.Logs(t.Context(), h, 100)
	if err != nil || len(lines) != 4 {
		t.Fatalf("logs: %q, %v", lines, err)
	}
	if want := []string{"one", "two", "farewell"}; !slices.Equal(slices.Delete(slices.Clone(lines), 2, 3), want) {
		t.Errorf("lines: %q, want %q and a long one", lines, want)
	}
	if long := lines[2]; len(long) < 300 || len(long) > 400 || !strings.HasPrefix(long, strings.Repeat("x", 300)) {
		t.Errorf("a line of a thousand bytes was cut to %d: %q", len(long), long)
	}
	if last, err := d.Logs(t.Context(), h, 1); err != nil || !slices.Equal(last, []string{"farewell"}) {
		t.Errorf("the last line: %q, %v", last, err)
	}
	quiet := s.start(t, s.spec(t, "quiet", Runs))
	if lines, err := d.Logs(t.Context(), quiet, 10); err != nil {
		t.Errorf("logs of a running server: %q, %v", lines, err)
	}
}

func (s *spawnerSuite) watch(t *testing.T) {
	d, ok := s.d.(hub.Watcher)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	told := make(chan hub.Status, 100)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(told)
		for st, err := range d.Watch(ctx) {
			if err != nil {
				if ctx.Err() == nil {
					t.Errorf("watch: %v", err)
				}
				return
			}
			told <- st
		}
	})
	// A stream may take a while to stand: servers end until one is heard of.
	var heard hub.Status
	for i := 0; heard.Key.IsZero() && ctx.Err() == nil; i++ {
		spec, h, _ := s.fail(t, fmt.Sprintf("watched%d", i))
		select {
		case heard = <-told:
			if heard.Key != spec.Key || heard.Generation != spec.Generation || heard.Phase != hub.Failed || heard.Reason == "" || !sameHandle(heard.Handle, h) {
				t.Errorf("%s ended, and heard was %+v", spec.Key, heard)
			}
		case <-time.After(time.Second):
		}
	}
	if heard.Key.IsZero() {
		t.Error("servers ended, and nothing was heard")
	}
	cancel()
	wg.Wait()
}

func (s *spawnerSuite) usage(t *testing.T) {
	d, ok := s.d.(hub.Meter)
	if !ok {
		return
	}
	h := s.start(t, s.spec(t, "usage", Runs))
	u, err := d.Usage(t.Context(), h)
	if err != nil || u.Memory == 0 || u.PIDs == 0 || u.At.Before(time.Now().Add(-soon)) {
		t.Errorf("usage: %+v, %v", u, err)
	}
	s.stop(t, h)
	if u, err := d.Usage(t.Context(), h); err == nil {
		t.Errorf("a server that is gone uses %+v", u)
	}
}
