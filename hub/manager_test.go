package hub_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carrel/hub"
	"carrel/hub/hubtest"
)

// steps collects the steps of a start, until it is over.
func (w *world) steps(h *process, key hub.ServerKey) func() []hub.Progress {
	var all []hub.Progress
	done := make(chan struct{})
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Hour)
	go func() {
		defer close(done)
		for p := range h.Progress(ctx, key) {
			all = append(all, p)
		}
	}()
	return func() []hub.Progress { <-done; cancel(); return all }
}

func names(steps []hub.Progress) (names []string) {
	for _, p := range steps {
		names = append(names, p.Step)
	}
	return slices.Compact(names)
}

func TestStart(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.setPolicy(func(p *hub.Policy) { p.KernelCheck = true })
		w.machine.On(hubtest.AtStart, hubtest.Slow(time.Second))
		key := keyOf(t, "alice", "")
		w.notebook.Set(key, hubtest.Mood{After: 3 * time.Second})
		h := w.hub()
		rec, err := h.Start(t.Context(), ask(key))
		if err != nil || rec.Phase != hub.Queued || rec.Generation != 1 || rec.Profile != "small" || rec.Intent != hub.WantRunning {
			t.Fatalf("start: %+v, %v", rec, err)
		}
		steps := w.steps(h, key)()
		if want := []string{"create", "start", "wait", "kernel", "ready"}; !slices.Equal(names(steps), want) {
			t.Errorf("the steps were %v, want %v", names(steps), want)
		}
		percent := 0
		for _, p := range steps {
			if p.Percent < percent || p.At.IsZero() || p.Message == "" {
				t.Errorf("step %+v after %d percent", p, percent)
			}
			percent = p.Percent
			if p.Open != (p.Step == "kernel") {
				t.Errorf("step %q says that the server can be opened: %v", p.Step, p.Open)
			}
		}
		if last := steps[len(steps)-1]; percent != 100 || !last.Done || last.Failed {
			t.Errorf("the last step is %+v", last)
		}
		synctest.Wait()
		w.agrees(key, hub.Ready)
		if n := w.notebook.Kernels(key); n != 1 {
			t.Errorf("%d kernels were tried", n)
		}
		if rec := w.record(key); time.Since(rec.Started) > time.Second || rec.Reason != "" {
			t.Errorf("the record is %+v", rec)
		}
		// The spec that the driver got is the server's own.
		if spec, ok := w.machine.Listening(w.record(key).Endpoint); !ok || spec.BasePath != "/user/alice/" || spec.Origin != "http://alice.localhost:8000" || spec.HubURL != "http://localhost:8000/hub/home" || spec.Image != "image" {
			t.Errorf("the driver was given %+v", spec)
		}
		// Whoever comes late hears it all again.
		if late := w.steps(h, key)(); !slices.Equal(names(late), names(steps)) {
			t.Errorf("a late listener heard %v", names(late))
		}
	})
}

// Many ask for many servers, each several times, at two hubs: each server starts once.
func TestStartsAreJoined(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.machine.On(hubtest.AtCreated, hubtest.Slow(time.Second))
		hubs := []*process{w.hub(), w.hub()}
		var wg sync.WaitGroup
		var keys []hub.ServerKey
		for i := range 20 {
			key := keyOf(t, "alice", fmt.Sprintf("s%d", i))
			keys = append(keys, key)
			for n := range 6 {
				wg.Go(func() {
					rec, err := hubs[n%2].Start(t.Context(), ask(key))
					if err != nil || rec.Generation != 1 || rec.Intent != hub.WantRunning {
						t.Errorf("start %s: %+v, %v", key, rec, err)
					}
				})
			}
		}
		began := time.Now()
		wg.Wait()
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("the answers took %v: a start is not waited for", took)
		}
		settle()
		for _, key := range keys {
			w.agrees(key, hub.Ready)
			if n := w.machine.Starts(key); n != 1 {
				t.Errorf("%s was started %d times", key, n)
			}
		}
	})
}

// A start is cancelled in each phase, at the hub that flies it and at another.
func TestStartIsCancelled(t *testing.T) {
	key := keyOf(t, "alice", "")
	phases := map[string]func(*world, *process){
		"queued": func(w *world, h *process) {
			w.setPolicy(func(p *hub.Policy) { p.ConcurrentMax = 1 })
			w.notebook.Set(keyOf(w.t, "bob", ""), hubtest.Mood{Broken: true})
			if _, err := h.Start(w.t.Context(), ask(keyOf(w.t, "bob", ""))); err != nil {
				w.t.Fatal(err)
			}
			synctest.Wait()
		},
		"creating":             func(w *world, _ *process) { w.machine.On(hubtest.AtStart, hubtest.Hang) },
		"created":              func(w *world, _ *process) { w.machine.On(hubtest.AtCreated, hubtest.Hang) },
		"running":              func(w *world, _ *process) { w.machine.On(hubtest.AtRunning, hubtest.Hang) },
		"waiting for a deaf":   func(w *world, _ *process) { w.notebook.Set(key, hubtest.Mood{Deaf: true}) },
		"waiting for a broken": func(w *world, _ *process) { w.notebook.Set(key, hubtest.Mood{Broken: true}) },
		"trying a kernel": func(w *world, _ *process) {
			w.setPolicy(func(p *hub.Policy) { p.KernelCheck = true })
			w.notebook.Set(key, hubtest.Mood{KernelIn: time.Hour})
		},
	}
	for phase, arrange := range phases {
		for _, elsewhere := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, elsewhere %v", phase, elsewhere), func(t *testing.T) {
				inWorld(t, func(t *testing.T, w *world) {
					h := w.hub()
					canceller := h
					if elsewhere {
						canceller = w.hub()
					}
					arrange(w, h)
					if _, err := h.Start(t.Context(), ask(key)); err != nil {
						t.Fatal(err)
					}
					steps := w.steps(h, key)
					time.Sleep(2 * time.Second)
					cancelled, err := canceller.Stop(t.Context(), key, "changed my mind")
					if err != nil || cancelled.Phase != hub.Stopping && cancelled.Phase != hub.Absent || cancelled.Coming() {
						t.Fatalf("stopping gives %s, %v", cancelled.Phase, err)
					}
					time.Sleep(2 * time.Second)
					synctest.Wait()
					w.agrees(key, hub.Absent)
					told := steps()
					if last := told[len(told)-1]; last.Step != "stopped" || !last.Done {
						t.Errorf("the last step was %+v", last)
					}
					for _, p := range []hubtest.Point{hubtest.AtStart, hubtest.AtCreated, hubtest.AtRunning} {
						w.machine.On(p, nil)
					}
					w.notebook.Set(key, hubtest.Mood{})
					w.setPolicy(func(p *hub.Policy) { p.ConcurrentMax = 10 })
					w.ready(h, key)
				})
			})
		}
	}
}

// Who starts a server again right after a stop, while the start before is still about to notice,
// gets a new server, and is never told that the old one is ready.
func TestStartRightAfterCancelling(t *testing.T) {
	key := keyOf(t, "alice", "")
	for _, elsewhere := range []bool{false, true} {
		t.Run(fmt.Sprintf("elsewhere %v", elsewhere), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.setPolicy(func(p *hub.Policy) { p.KernelCheck = true })
				w.notebook.Set(key, hubtest.Mood{KernelIn: time.Hour})
				h := w.hub()
				canceller := h
				if elsewhere {
					canceller = w.hub()
				}
				if _, err := h.Start(t.Context(), ask(key)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Second)
				old := w.record(key)
				if old.Phase != hub.Ready {
					t.Fatalf("the server is %s", old.Phase)
				}
				w.machine.On(hubtest.AtStop, hubtest.Slow(time.Second))
				if _, err := canceller.Stop(t.Context(), key, "changed my mind"); err != nil {
					t.Fatal(err)
				}
				rec, err := h.Start(t.Context(), ask(key))
				if err != nil || rec.Phase == hub.Ready {
					t.Errorf("starting again gives %s of generation %d, %v", rec.Phase, rec.Generation, err)
				}
				settle()
				if rec := w.record(key); rec.Generation == old.Generation {
					t.Error("no new generation was started")
				}
				w.agrees(key, hub.Ready)
			})
		})
	}
}

// Starts and stops of one server race, at two hubs, with a slow driver: there is one container or
// none, never two, and record, route and container agree.
func TestStartsAndStopsRace(t *testing.T) {
	for seed := range 30 {
		inWorld(t, func(t *testing.T, w *world) {
			key := keyOf(t, "alice", "")
			w.machine.On(hubtest.AtCreated, hubtest.Slow(time.Duration(seed*37%200)*time.Millisecond))
			w.machine.On(hubtest.AtStop, hubtest.Slow(time.Duration(seed*53%300)*time.Millisecond))
			w.notebook.Set(key, hubtest.Mood{After: time.Duration(seed*91%400) * time.Millisecond})
			hubs := []*process{w.hub(), w.hub()}
			var wg sync.WaitGroup
			for i := range 12 {
				wg.Go(func() {
					time.Sleep(time.Duration((seed*17+i*71)%900) * time.Millisecond)
					var err error
					if h := hubs[(i/2)%2]; i%2 == 0 {
						_, err = h.Start(t.Context(), ask(key))
					} else {
						_, err = h.Stop(t.Context(), key, "race")
					}
					if err != nil {
						t.Errorf("call %d: %v", i, err)
					}
				})
			}
			wg.Wait()
			settle()
			if rec := w.record(key); rec.Intent == hub.WantRunning {
				w.agrees(key, hub.Ready)
			} else {
				w.agrees(key, hub.Absent)
			}
			if _, err := hubs[seed%2].Stop(t.Context(), key, "over"); err != nil {
				t.Error(err)
			}
			settle()
			w.agrees(key, hub.Absent)
			w.ready(hubs[0], key)
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// A server that could not be stopped yet is not joined by a second: the next start ends it first.
func TestStartAfterAStopThatFailed(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		h := w.hub()
		w.ready(h, key)
		w.machine.On(hubtest.AtStop, hubtest.Fail(hub.Errorf(hub.Unavailable, "stop", "the machine is busy")))
		if _, err := h.Stop(t.Context(), key, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if rec := w.record(key); rec.Phase != hub.Stopping || !w.route(key).Key.IsZero() {
			t.Errorf("after a stop that failed: %+v, route %+v", rec, w.route(key))
		}
		if _, err := h.Start(t.Context(), ask(key)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if rec := w.record(key); rec.Phase != hub.Failed || !rec.Leftover || !strings.Contains(rec.Reason, "earlier server") {
			t.Errorf("a start whose way is not free: %+v", rec)
		}
		w.machine.On(hubtest.AtStop, nil)
		if next := w.ready(h, key); next.Generation != 2 || next.Leftover {
			t.Errorf("%+v", next)
		}
	})
}

// A name is given to another person while the first one's server runs. It is never theirs.
func TestNameGivenToAnother(t *testing.T) {
	for _, wiped := range []bool{false, true} {
		inWorld(t, func(t *testing.T, w *world) {
			key := keyOf(t, "alice", "")
			h := w.hub()
			was := w.ready(h, key)
			if wiped {
				w.store.Wipe()
			}
			second := hub.User{ID: "uother", Name: key.User, Identity: hub.Identity{Issuer: "https://id.example", Subject: "second"}}
			if err := w.store.Rebind(t.Context(), second); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			if r := w.route(key); r.UserID != was.UserID || hub.Access(hub.Principal{User: key.User, UserID: second.ID}, key, r.UserID, false) == nil {
				t.Errorf("the route %+v lets the second person in", r)
			}
			is := w.ready(h, key)
			if is.UserID != second.ID || is.Generation <= was.Generation || w.route(key).UserID != second.ID {
				t.Errorf("wiped %v: the second person's server is %+v, route %+v", wiped, is, w.route(key))
			}
		})
	}
}

// What goes wrong is told with what to do, the field where one is at fault, and the log's tail.
func TestFailures(t *testing.T) {
	noImage := &hub.Error{Kind: hub.Invalid, Field: "profiles.small.image", Message: "the image is not there", Remedy: "build it with carrel image build"}
	for _, c := range []struct {
		name    string
		arrange func(*world, hub.ServerKey)
		message string
		remedy  string
		tail    bool
	}{
		{"image missing", func(w *world, _ hub.ServerKey) { w.machine.On(hubtest.AtStart, hubtest.Fail(noImage)) }, "the image is not there", "build it", false},
		{"never answered", func(w *world, k hub.ServerKey) { w.notebook.Set(k, hubtest.Mood{Broken: true}) }, "did not answer within 1m0s", "safe start", true},
		{"deaf", func(w *world, k hub.ServerKey) { w.notebook.Set(k, hubtest.Mood{Deaf: true}) }, "did not answer within 1m0s", "safe start", true},
		{"no endpoint", func(w *world, _ hub.ServerKey) { w.plan(hubtest.Plan{NoEndpoint: true}) }, "did not answer", "safe start", true},
		{"ended at once", func(w *world, _ hub.ServerKey) { w.plan(hubtest.Plan{Dies: true, Reason: "exit code 3"}) }, "ended by itself: exit code 3", "last lines", true},
		{"ended while deaf", func(w *world, k hub.ServerKey) {
			w.notebook.Set(k, hubtest.Mood{Deaf: true})
			w.plan(hubtest.Plan{Dies: true, After: 3 * time.Second, Reason: "out of memory"})
		}, "ended by itself: out of memory", "last lines", true},
		{"driver away", func(w *world, _ hub.ServerKey) {
			w.machine.On(hubtest.AtStart, hubtest.Fail(&hub.Error{Kind: hub.Unavailable, Message: "Docker can't be reached", Remedy: "start Docker"}))
		}, "Docker can't be reached", "start Docker", false},
		{"driver hangs", func(w *world, _ hub.ServerKey) { w.machine.On(hubtest.AtStart, hubtest.Hang) }, "not ready within 30m0s", "ask an administrator", false},
		{"a fault of ours", func(w *world, _ hub.ServerKey) {
			w.machine.On(hubtest.AtStart, hubtest.Fail(errors.New("secret path /x")))
		}, "could not start this server", "ask an administrator", false},
		{"answer lost", func(w *world, _ hub.ServerKey) { w.machine.On(hubtest.AtRunning, hubtest.Fail(errors.New("EOF"))) }, "could not start this server", "ask an administrator", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				key := keyOf(t, "alice", "")
				h := w.hub()
				c.arrange(w, key)
				if _, err := h.Start(t.Context(), ask(key)); err != nil {
					t.Fatal(err)
				}
				steps := w.steps(h, key)()
				synctest.Wait()
				w.agrees(key, hub.Failed)
				last, rec := steps[len(steps)-1], w.record(key)
				if !last.Failed || !last.Done || !strings.Contains(last.Message, c.message) || !strings.Contains(last.Remedy, c.remedy) {
					t.Errorf("told %+v; want %q, with the remedy %q", last, c.message, c.remedy)
				}
				if rec.Reason != last.Message || (len(rec.LogTail) > 0) != c.tail || !slices.Equal(rec.LogTail, last.Log) {
					t.Errorf("recorded %q with the log's tail %q", rec.Reason, rec.LogTail)
				}
				// Elsewhere it is told too, and the next start is free.
				if told := w.steps(w.hub(), key)(); len(told) != 1 || told[0].Message != rec.Reason || !told[0].Failed {
					t.Errorf("another hub tells %+v", told)
				}
				w.machine.On(hubtest.AtStart, nil)
				w.machine.On(hubtest.AtRunning, nil)
				w.notebook.Set(key, hubtest.Mood{})
				w.plan(hubtest.Plan{})
				if got := w.ready(h, key); got.Generation != 2 || got.Reason != "" || got.LogTail != nil {
					t.Errorf("the next start: %+v", got)
				}
			})
		})
	}
}

func (w *world) plan(p hubtest.Plan) {
	p.Log = []string{"first line", "last line"}
	w.machine.Plan(func(hub.Spec) hubtest.Plan { return p })
}

// What can't be asked for is refused at once, with the field and a remedy, and leaves no record.
func TestRefusals(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		h := w.hub()
		alice, bob := keyOf(t, "alice", ""), keyOf(t, "bob", "")
		for _, c := range []struct {
			name string
			req  hub.StartRequest
			kind hub.Kind
			says string
		}{
			{"beyond the machine", hub.StartRequest{Key: alice, By: hub.Principal{User: alice.User}, Profile: "big"}, hub.Invalid, "profile"},
			{"no such profile", hub.StartRequest{Key: alice, By: hub.Principal{User: alice.User}, Profile: "none"}, hub.Invalid, "profile"},
			{"another group's profile", hub.StartRequest{Key: alice, By: hub.Principal{User: alice.User}, Profile: "club"}, hub.Forbidden, "profile"},
			{"another's server", hub.StartRequest{Key: alice, By: hub.Principal{User: bob.User}}, hub.Forbidden, ""},
			{"nobody", hub.StartRequest{Key: alice}, hub.Forbidden, ""},
			{"who had the name before", hub.StartRequest{Key: alice, By: hub.Principal{User: alice.User, UserID: "uformer"}}, hub.Forbidden, ""},
			{"never signed in", hub.StartRequest{Key: keyOf(t, "dave", ""), By: hub.Principal{User: bob.User, Admin: true}}, hub.NotFound, ""},
		} {
			_, err := h.Start(t.Context(), c.req)
			message, remedy := hub.Public(err)
			if hub.KindOf(err) != c.kind || message == "" || remedy == "" || hub.FieldOf(err) != c.says {
				t.Errorf("%s: %v (kind %v, field %q, remedy %q)", c.name, err, hub.KindOf(err), hub.FieldOf(err), remedy)
			}
		}
		if _, err := w.store.Server(t.Context(), alice); hub.KindOf(err) != hub.NotFound {
			t.Errorf("a refused start left a record: %v", err)
		}
		if _, err := h.Start(t.Context(), hub.StartRequest{Key: alice, By: hub.Principal{User: bob.User, Admin: true}}); err != nil {
			t.Errorf("an administrator's start: %v", err)
		}
	})
}

// A person starts more servers at once than they may have, at two hubs: the share is kept.
func TestShare(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.setPolicy(func(p *hub.Policy) { p.MaxPerUser = 2 })
		hubs := []*process{w.hub(), w.hub()}
		w.store.FailBefore(func(op string) error { // a slow store: each counts before another has recorded
			if op == "PutServer" {
				time.Sleep(50 * time.Millisecond)
			}
			return nil
		})
		var mu sync.Mutex
		refused := 0
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				_, err := hubs[i%2].Start(t.Context(), ask(keyOf(t, "alice", fmt.Sprintf("s%d", i))))
				mu.Lock()
				defer mu.Unlock()
				if hub.KindOf(err) == hub.TooMany {
					refused++
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		settle()
		if n := len(w.machine.Containers()); n != 2 || refused != 4 {
			t.Errorf("%d servers run, %d starts were refused; want 2 and 4", n, refused)
		}
		w.ready(hubs[0], keyOf(t, "bob", "")) // another person has a share of their own
		for _, st := range w.machine.Containers() {
			if _, err := hubs[0].Start(t.Context(), ask(st.Key)); err != nil {
				t.Errorf("a start of what runs: %v", err)
			}
		}
	})
}

// A burst waits in line, everyone hears their place, and who has nothing at work goes first.
func TestBurst(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.setPolicy(func(p *hub.Policy) { p.ConcurrentMax = 1 })
		h := w.hub()
		var order []hub.ServerKey
		w.machine.On(hubtest.AtStart, func(ctx context.Context, key hub.ServerKey) error {
			order = append(order, key)
			return hubtest.Slow(10*time.Second)(ctx, key)
		})
		var steps []func() []hub.Progress
		keys := []hub.ServerKey{keyOf(t, "alice", "a"), keyOf(t, "alice", "b"), keyOf(t, "bob", ""), keyOf(t, "carol", "")}
		for _, key := range keys {
			if _, err := h.Start(t.Context(), ask(key)); err != nil {
				t.Fatal(err)
			}
			steps = append(steps, w.steps(h, key))
			synctest.Wait()
		}
		var places []int
		for _, p := range steps[3]() {
			if p.Step == "queue" {
				places = append(places, p.Place)
			}
		}
		if want := []int{3, 2, 1}; !slices.Equal(places, want) {
			t.Errorf("the last in line heard %v, want %v", places, want)
		}
		for _, s := range steps {
			s()
		}
		if !slices.Equal(order, keys) {
			t.Errorf("the order was %v", order)
		}
	})
}

// While a start that failed is being cleaned up, the owner asks anew, or for a stop: neither is lost.
func TestAskedWhileAFailureIsCleanedUp(t *testing.T) {
	for _, again := range []bool{true, false} {
		inWorld(t, func(t *testing.T, w *world) {
			key := keyOf(t, "alice", "")
			h := w.hub()
			w.plan(hubtest.Plan{Dies: true})
			w.machine.On(hubtest.AtStop, hubtest.Slow(5*time.Second))
			if _, err := h.Start(t.Context(), ask(key)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			if rec := w.record(key); rec.Phase != hub.Failed || !rec.Leftover {
				t.Fatalf("%+v", rec)
			}
			w.plan(hubtest.Plan{})
			want := hub.Absent
			if again {
				want = hub.Ready
				if rec, err := h.Start(t.Context(), ask(key)); err != nil || rec.Generation != 2 {
					t.Errorf("start: %+v, %v", rec, err)
				}
			} else if _, err := h.Stop(t.Context(), key, ""); err != nil {
				t.Error(err)
			}
			time.Sleep(10 * time.Second)
			w.agrees(key, want)
		})
	}
}

// A hub that misses the word of a stop at another one still heeds it: at the next reconciliation, or
// at its own next step, whichever comes first.
func TestStopElsewhereUnheard(t *testing.T) {
	for _, c := range []struct {
		name              string
		reconcile, answer time.Duration
	}{{"reconciled", 30 * time.Second, time.Hour}, {"next step", time.Hour, 20 * time.Second}} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.setPolicy(func(p *hub.Policy) { p.ReconcileEvery, p.StartTimeout = c.reconcile, 2*time.Hour })
				key := keyOf(t, "alice", "")
				w.notebook.Set(key, hubtest.Mood{After: c.answer})
				h, other := w.hub(), w.hub()
				h.gate.mu.Lock()
				h.gate.deaf = true
				h.gate.mu.Unlock()
				if _, err := h.Start(t.Context(), ask(key)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Second)
				if _, err := other.Stop(t.Context(), key, ""); err != nil {
					t.Fatal(err)
				}
				for range 70 {
					time.Sleep(time.Second)
					if !w.route(key).Key.IsZero() && c.answer < time.Minute && w.record(key).Phase == hub.Ready {
						t.Fatal("what is to be stopped became ready")
					}
				}
				w.agrees(key, hub.Absent)
			})
		})
	}
}

// Word of an intent that the present start has overtaken cancels nothing.
func TestOldIntentIsNotHeeded(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		w.notebook.Set(key, hubtest.Mood{After: 5 * time.Second})
		h := w.hub()
		rec, err := h.Start(t.Context(), ask(key))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		rec.Intent = hub.WantStopped
		h.Heed(rec) // as old as the start itself
		rec.Generation, rec.Revision = rec.Generation-1, rec.Revision+100
		h.Heed(rec) // of an older one
		time.Sleep(10 * time.Second)
		w.agrees(key, hub.Ready)
	})
}
