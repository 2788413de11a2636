package hub_test

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carrel/hub"
	"carrel/hub/hubtest"
)

// runWorld is a store and a driver that programs are run by; hubs come and go in it.
type runWorld struct {
	t      *testing.T
	store  *hubtest.Store
	runner *hubtest.FakeRunner
	mu     sync.Mutex
	policy hub.RunPolicy
}

func inRunWorld(t *testing.T, test func(*testing.T, *runWorld)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		limits := hub.RunLimits{CPU: 10 * time.Second, Wall: 20 * time.Second, Memory: 256 << 20, Processes: 32, FileSize: 1 << 20, Disk: 1 << 20, Output: 1 << 10, OpenFiles: 64, Stack: 8 << 20}
		most := limits
		most.CPU, most.Memory = time.Minute, 1<<30
		w := &runWorld{t: t, store: hubtest.NewStore(), runner: hubtest.NewRunner(), policy: hub.RunPolicy{
			Enabled: true, Image: "image", CPUs: 0.5, Default: limits, Most: most, Concurrent: 2, PerPerson: 4, Line: 3, Kept: 5, Keep: time.Hour,
		}}
		test(t, w)
	})
}

// hub starts one, until the test ends or it is stopped.
func (w *runWorld) hub() (*hub.Runs, func()) {
	w.t.Helper()
	runs, err := hub.NewRuns(hub.RunsConfig{
		Runner: w.runner, Store: w.store, Leases: w.store, Logger: slog.New(slog.NewTextHandler(w.t.Output(), nil)),
		Policy: func() hub.Policy { w.mu.Lock(); defer w.mu.Unlock(); return hub.Policy{Runs: w.policy} },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := runs.Run(ctx); !errors.Is(err, context.Canceled) {
			w.t.Errorf("it ended with %v", err)
		}
	}()
	stop := sync.OnceFunc(func() { cancel(); <-ended })
	w.t.Cleanup(stop)
	return runs, stop
}

func person(t *testing.T, name string) hub.Principal {
	t.Helper()
	u, err := hub.ParseUserName(name)
	if err != nil {
		t.Fatal(err)
	}
	return hub.Principal{User: u, UserID: hub.UserID("id" + name)}
}

func program(code string) hub.RunSpec {
	return hub.RunSpec{Code: []byte(code), Limits: hub.RunLimits{CPU: time.Second, Wall: time.Second}}
}

func submit(t *testing.T, m *hub.Runs, name, code string) hub.Run {
	t.Helper()
	r, err := m.Submit(t.Context(), person(t, name), program(code))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// hang is a program that runs until it is ended.
func hang(ctx context.Context, _ hub.RunJob) (hub.RunResult, error) {
	<-ctx.Done()
	return hub.RunResult{}, hub.Wrap(hub.Canceled, "run", ctx.Err())
}

// A run comes to its end, and its result is its owner's alone, for a while.
func TestRunsResultIsKept(t *testing.T) {
	inRunWorld(t, func(t *testing.T, w *runWorld) {
		m, _ := w.hub()
		r := submit(t, m, "alice", "print(1)")
		if r.Result.Status != hub.RunQueued {
			t.Errorf("taken in as %s", r.Result.Status)
		}
		got, err := m.Await(t.Context(), r.ID)
		if err != nil || got.Result.Status != hub.RunFinished || string(got.Result.Stdout) != "print(1)" || got.Started.IsZero() || got.Ended.IsZero() {
			t.Fatalf("%+v, %v", got, err)
		}
		jobs, _ := w.runner.Jobs()
		if len(jobs) != 1 || jobs[0].ID != r.ID || jobs[0].Image != "image" || jobs[0].CPUs != 0.5 {
			t.Errorf("the driver was asked for %+v", jobs)
		}
		if again, err := m.Result(t.Context(), person(t, "alice"), r.ID); err != nil || again.Result.Status != hub.RunFinished || string(again.Result.Stdout) != "print(1)" {
			t.Errorf("%+v, %v", again, err)
		}
		namesake := person(t, "alice")
		namesake.UserID = "another"
		for _, who := range []hub.Principal{person(t, "bob"), namesake, {}} {
			if _, err := m.Result(t.Context(), who, r.ID); hub.KindOf(err) != hub.NotFound {
				t.Errorf("%+v is told: %v", who, err)
			}
			if err := m.End(t.Context(), who, false, r.ID); hub.KindOf(err) != hub.NotFound {
				t.Errorf("%+v ends it: %v", who, err)
			}
		}
		time.Sleep(time.Hour + time.Minute)
		if _, err := m.Result(t.Context(), person(t, "alice"), r.ID); hub.KindOf(err) != hub.NotFound {
			t.Errorf("an hour later: %v", err)
		}
	})
}

// So many run at once, so many wait, one person has so many; who has fewest goes first.
func TestRunsLine(t *testing.T) {
	inRunWorld(t, func(t *testing.T, w *runWorld) {
		w.policy.Concurrent, w.policy.Line = 1, 4
		m, _ := w.hub()
		w.runner.Does(func(ctx context.Context, _ hub.RunJob) (hub.RunResult, error) {
			time.Sleep(time.Second)
			return hub.RunResult{Status: hub.RunFinished}, nil
		})
		var all []hub.Run
		for _, name := range []string{"alice", "alice", "alice", "bob"} {
			all = append(all, submit(t, m, name, name))
			synctest.Wait()
		}
		w.mu.Lock()
		w.policy.PerPerson = 3
		w.mu.Unlock()
		if _, err := m.Submit(t.Context(), person(t, "alice"), program("x")); hub.KindOf(err) != hub.TooMany {
			t.Errorf("alice's fourth: %v", err)
		}
		all = append(all, submit(t, m, "carol", "carol"))
		if _, err := m.Submit(t.Context(), person(t, "dave"), program("x")); hub.KindOf(err) != hub.TooMany {
			t.Errorf("beyond the line: %v", err)
		}
		for _, r := range all {
			if got, err := m.Await(t.Context(), r.ID); err != nil || got.Result.Status != hub.RunFinished {
				t.Errorf("%+v, %v", got, err)
			}
		}
		jobs, most := w.runner.Jobs()
		var order []string
		for _, j := range jobs {
			order = append(order, string(j.Code))
		}
		if got := strings.Join(order, " "); most != 1 || got != "alice bob carol alice alice" {
			t.Errorf("the order is %s, %d at once", got, most)
		}
		submit(t, m, "alice", "there is room again")
	})
}

// A run that somebody ends, here or at another hub, is killed and forgotten, be it that it waits or works.
func TestRunsAreEnded(t *testing.T) {
	inRunWorld(t, func(t *testing.T, w *runWorld) {
		w.policy.Concurrent = 1
		here, _ := w.hub()
		other, _ := w.hub()
		w.runner.Does(hang)
		works, waits := submit(t, here, "alice", "works"), submit(t, here, "alice", "waits")
		synctest.Wait()
		for name, c := range map[string]struct {
			r  hub.Run
			at *hub.Runs
		}{"works, elsewhere": {works, other}, "waits, here": {waits, here}} {
			done := make(chan hub.Run, 1)
			go func() {
				got, err := here.Await(t.Context(), c.r.ID)
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				done <- got
			}()
			synctest.Wait()
			if err := c.at.End(t.Context(), person(t, "alice"), false, c.r.ID); err != nil {
				t.Fatal(err)
			}
			if got := <-done; got.Result.Status != hub.RunCanceled {
				t.Errorf("%s: %+v", name, got)
			}
			if _, err := here.Result(t.Context(), person(t, "alice"), c.r.ID); hub.KindOf(err) != hub.NotFound {
				t.Errorf("%s: afterwards %v", name, err)
			}
		}
		if left := w.runner.There(); len(left) > 0 {
			t.Errorf("%v is left", left)
		}
		r := submit(t, here, "alice", "again")
		if err := other.End(t.Context(), person(t, "ada"), true, r.ID); err != nil {
			t.Errorf("an administrator: %v", err)
		}
	})
}

// What a killed hub leaves is removed, and its record says so; what another hub has at work is left alone.
func TestRunsOfKilledHubs(t *testing.T) {
	inRunWorld(t, func(t *testing.T, w *runWorld) {
		alive, _ := w.hub()
		w.runner.Does(hang)
		r := submit(t, alive, "alice", "works")
		synctest.Wait()
		dead, err := hub.ParseRunID(strings.Repeat("d", 26))
		if err != nil {
			t.Fatal(err)
		}
		w.runner.Leave(dead)
		alice := person(t, "alice")
		if err := w.store.CreateRun(t.Context(), hub.Run{ID: dead, Owner: alice.User, OwnerID: alice.UserID, Result: hub.RunResult{Status: hub.RunRunning}}, time.Hour); err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.Acquire(t.Context(), "run:"+string(dead), 12*time.Second); err != nil { // the dead hub's
			t.Fatal(err)
		}
		next, _ := w.hub()
		synctest.Wait()
		if got, err := next.Result(t.Context(), alice, dead); err != nil || got.Result.Status != hub.RunRunning {
			t.Errorf("while it may be at work: %+v, %v", got, err)
		}
		time.Sleep(25 * time.Second)
		if left := w.runner.There(); !slices.Equal(left, []hub.RunID{r.ID}) {
			t.Errorf("there is %v, want %v", left, r.ID)
		}
		if got, err := next.Result(t.Context(), alice, dead); err != nil || got.Result.Status != hub.RunFailed || got.Why == "" {
			t.Errorf("the dead hub's: %+v, %v", got, err)
		}
		if got, err := next.Result(t.Context(), alice, r.ID); err != nil || got.Result.Status != hub.RunRunning {
			t.Errorf("the living hub's: %+v, %v", got, err)
		}
	})
}

// A hub that ends takes its runs with it, says so, and takes in no more.
func TestRunsEndWithTheHub(t *testing.T) {
	inRunWorld(t, func(t *testing.T, w *runWorld) {
		m, stop := w.hub()
		w.runner.Does(hang)
		r := submit(t, m, "alice", "works")
		synctest.Wait()
		stop()
		if got, err := w.store.Run(t.Context(), r.ID); err != nil || got.Result.Status != hub.RunFailed || got.Why == "" {
			t.Errorf("%+v, %v", got, err)
		}
		if left := w.runner.There(); len(left) > 0 {
			t.Errorf("%v is left", left)
		}
		if _, err := m.Submit(t.Context(), person(t, "alice"), program("x")); hub.KindOf(err) != hub.Unavailable {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// Only so many results of a person are kept: the newest.
func TestRunsKeptResults(t *testing.T) {
	inRunWorld(t, func(t *testing.T, w *runWorld) {
		m, _ := w.hub()
		var ids []hub.RunID
		for range 8 {
			r := submit(t, m, "alice", "x")
			if _, err := m.Await(t.Context(), r.ID); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, r.ID)
			time.Sleep(time.Second)
		}
		for i, id := range ids {
			_, err := m.Result(t.Context(), person(t, "alice"), id)
			if kept := i >= 3; kept != (err == nil) {
				t.Errorf("run %d: %v", i, err)
			}
		}
	})
}

// Without a store nothing is taken in, nothing is counted, and nothing runs; a driver's fault is told.
func TestRunsFaults(t *testing.T) {
	inRunWorld(t, func(t *testing.T, w *runWorld) {
		w.policy.PerPerson = 1
		m, _ := w.hub()
		w.store.Away(true)
		for range 3 {
			if _, err := m.Submit(t.Context(), person(t, "alice"), program("x")); hub.KindOf(err) != hub.Unavailable || err == nil {
				t.Errorf("without a store: %v", err)
			}
		}
		w.store.Away(false)
		if jobs, _ := w.runner.Jobs(); len(jobs) > 0 {
			t.Errorf("%d ran", len(jobs))
		}
		w.runner.Does(func(context.Context, hub.RunJob) (hub.RunResult, error) {
			return hub.RunResult{}, &hub.Error{Kind: hub.Unavailable, Message: "Docker is away"}
		})
		r := submit(t, m, "alice", "x")
		if got, err := m.Await(t.Context(), r.ID); err != nil || got.Result.Status != hub.RunFailed || got.Why != "Docker is away" {
			t.Errorf("%+v, %v", got, err)
		}
		w.mu.Lock()
		w.policy.Enabled = false
		w.mu.Unlock()
		if _, err := m.Submit(t.Context(), person(t, "alice"), program("x")); hub.KindOf(err) != hub.NotFound {
			t.Errorf("where runs are off: %v", err)
		}
	})
}

func TestRunSpecIsChecked(t *testing.T) {
	inRunWorld(t, func(t *testing.T, w *runWorld) {
		m, _ := w.hub()
		for field, spec := range map[string]hub.RunSpec{
			"code":  {Code: make([]byte, hub.MaxRunCode+1)},
			"stdin": {Code: []byte("x"), Stdin: make([]byte, hub.MaxRunStdin+1)},
			"argv":  {Code: []byte("x"), Argv: []string{"a\x00b"}},
		} {
			if _, err := m.Submit(t.Context(), person(t, "alice"), spec); hub.KindOf(err) != hub.Invalid || hub.FieldOf(err) != field {
				t.Errorf("%s: %v", field, err)
			}
		}
		for name, argv := range map[string][]string{"many": make([]string, 1000), "long": {strings.Repeat("x", 1<<20)}} {
			if _, err := m.Submit(t.Context(), person(t, "alice"), hub.RunSpec{Code: []byte("x"), Argv: argv}); hub.FieldOf(err) != "argv" {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := m.Submit(t.Context(), person(t, "alice"), hub.RunSpec{}); hub.FieldOf(err) != "code" {
			t.Errorf("no code: %v", err)
		}
	})
}

func TestRunLimits(t *testing.T) {
	inRunWorld(t, func(t *testing.T, w *runWorld) {
		p := w.policy
		got, err := p.Limits(map[string]float64{"cpu_seconds": 0.5, "memory": 64 << 20})
		want := p.Default
		want.CPU, want.Memory = 500*time.Millisecond, 64<<20
		if err != nil || got != want {
			t.Errorf("%+v, %v", got, err)
		}
		if named := want.Named(); len(named) != 9 || named["cpu_seconds"] != 0.5 || named["memory"] != 64<<20 {
			t.Errorf("named: %v", named)
		}
		for _, c := range []struct {
			name string
			v    float64
		}{
			{"memory", 0}, {"memory", -1}, {"memory", math.NaN()}, {"memory", math.Inf(1)}, {"memory", 1<<30 + 1}, {"cpu_seconds", 61}, {"wall_seconds", 0}, {"wall_seconds", 1e300},
			{"processes", 33}, {"file_size", 1}, {"disk", 1 << 40}, {"output", 0}, {"open_files", 3}, {"stack", 1},
		} {
			if _, err := p.Limits(map[string]float64{c.name: c.v}); hub.KindOf(err) != hub.Invalid || hub.FieldOf(err) != "limits."+c.name {
				t.Errorf("%s %v: %v", c.name, c.v, err)
			}
		}
		if _, err := p.Limits(map[string]float64{"memory": 64 << 20, "ram": 1}); hub.KindOf(err) != hub.Invalid || hub.FieldOf(err) != "limits" {
			t.Errorf("an unknown one: %v", err)
		}
	})
}

func TestParseRunID(t *testing.T) {
	if _, err := hub.ParseRunID("abcdefghijklmnopqrstuvwxy2"); err != nil {
		t.Error(err)
	}
	for _, s := range []string{"", "a", "../../../../../../../../etc", "ABCDEFGHIJKLMNOPQRSTUVWXY2", "abcdefghijklmnopqrstuvwxy\n", "abcdefghijklmnopqrstuvwxyz2"} {
		if _, err := hub.ParseRunID(s); hub.KindOf(err) != hub.NotFound {
			t.Errorf("%q: %v", s, err)
		}
	}
}
