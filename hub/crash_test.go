package hub_test

import (
	"context"
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

// record gives a server's record; one that is missing is Absent.
func (w *world) record(key hub.ServerKey) hub.Server {
	w.t.Helper()
	s, err := w.store.Server(w.t.Context(), key)
	if hub.KindOf(err) == hub.NotFound {
		return hub.Server{Key: key, Phase: hub.Absent}
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) route(key hub.ServerKey) (route hub.Route) {
	w.t.Helper()
	for r, err := range w.store.Routes(w.t.Context()) {
		if err != nil {
			w.t.Fatal(err)
		}
		if r.Key == key {
			route = r
		}
	}
	return route
}

func (w *world) containers(key hub.ServerKey) []hub.Status {
	return slices.DeleteFunc(w.machine.Containers(), func(st hub.Status) bool { return st.Key != key })
}

// agrees checks that record, container and route of a server tell one truth, and that there were
// never two containers.
func (w *world) agrees(key hub.ServerKey, want hub.Phase) {
	w.t.Helper()
	rec, route, containers := w.record(key), w.route(key), w.containers(key)
	if rec.Phase != want {
		w.t.Errorf("%s is %s (%s), want %s", key, rec.Phase, rec.Reason, want)
	}
	if w.machine.Peak(key) > 1 {
		w.t.Errorf("%s had %d containers at once", key, w.machine.Peak(key))
	}
	if want != hub.Ready && want != hub.Paused {
		if len(containers) > 0 || !route.Key.IsZero() || rec.Leftover || !rec.Handle.IsZero() {
			w.t.Errorf("%s is %s, and there are: containers %+v, route %+v, handle %s, leftover %v", key, want, containers, route, rec.Handle.Data, rec.Leftover)
		}
		return
	}
	if len(containers) != 1 {
		w.t.Fatalf("%s has the containers %+v", key, containers)
	}
	c := containers[0]
	if c.Phase != want || c.Generation != rec.Generation || c.Endpoint != rec.Endpoint || c.UserID != rec.UserID || string(c.Handle.Data) != string(rec.Handle.Data) {
		w.t.Errorf("%s: container %+v, record %+v", key, c, rec)
	}
	if route.Generation != rec.Generation || route.Endpoint != rec.Endpoint || route.UserID != rec.UserID || route.Image != c.Image || c.Image == "" || (route.Paused != 0) != (want == hub.Paused) {
		w.t.Errorf("%s: route %+v, record %+v, container %+v", key, route, rec, c)
	}
}

// settle lets everything that is under way, and every repair, come to its end.
func settle() {
	time.Sleep(5 * time.Minute)
	synctest.Wait()
}

// ready starts a server and waits until it is.
func (w *world) ready(h *process, key hub.ServerKey) hub.Server {
	w.t.Helper()
	if _, err := h.Start(w.t.Context(), ask(key)); err != nil {
		w.t.Fatalf("start %s: %v", key, err)
	}
	time.Sleep(2 * time.Second)
	synctest.Wait()
	w.agrees(key, hub.Ready)
	return w.record(key)
}

// A hub is killed at every step of a start, before the step takes effect and after. The next hub
// finishes what was intended: a server that answers and has a route, or none at all.
func TestKilledAtEveryStepOfAStart(t *testing.T) {
	for way := range 4 {
		after, standby := way%2 == 1, way/2 == 1 // standby: the next hub was there all the time
		for step, over := 0, false; !over; step++ {
			if step > 200 {
				t.Fatal("the start never ends")
			}
			inWorld(t, func(t *testing.T, w *world) {
				key := keyOf(t, "alice", "")
				first := w.hub()
				if standby {
					w.hub()
				}
				first.gate.arm(step, after)
				w.machine.On(hubtest.AtCreated, first.gate.crash("created"))
				w.machine.On(hubtest.AtRunning, first.gate.crash("running"))
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				_, _ = first.Start(ctx, ask(key))
				time.Sleep(5 * time.Second)
				over = !first.gate.isDead()
				first.kill()
				w.machine.On(hubtest.AtCreated, nil)
				w.machine.On(hubtest.AtRunning, nil)
				intended := w.record(key).Intent == hub.WantRunning
				if !standby {
					w.hub()
				}
				settle()
				want := hub.Absent
				if intended {
					want = hub.Ready
				}
				w.agrees(key, want)
				if t.Failed() {
					t.Logf("killed at step %d (after: %v, standby: %v) of %s", step, after, standby, strings.Join(first.gate.calls, ", "))
				}
			})
			if t.Failed() {
				return
			}
		}
	}
}

// The same for a stop, and for the end of a server that ended by itself: whatever was intended comes
// to its end, and the reason is not lost.
func TestKilledAtEveryStepOfAStop(t *testing.T) {
	ways := map[string]func(*world, *process, hub.ServerKey){
		"stop": func(w *world, h *process, key hub.ServerKey) {
			ctx, cancel := context.WithTimeout(w.t.Context(), 3*time.Second)
			defer cancel()
			_, _ = h.Stop(ctx, key, "because")
		},
		"end": func(w *world, _ *process, key hub.ServerKey) { w.machine.Die(key, "out of memory") },
	}
	for way, act := range ways {
		for mode := range 4 {
			after, standby := mode%2 == 1, mode/2 == 1
			for step, over := 0, false; !over; step++ {
				if step > 200 {
					t.Fatal("the stop never ends")
				}
				inWorld(t, func(t *testing.T, w *world) {
					key := keyOf(t, "alice", "")
					first := w.hub()
					w.ready(first, key)
					if standby {
						w.hub()
					}
					first.gate.arm(step, after)
					w.machine.On(hubtest.AtStopped, first.gate.crash("stopped"))
					act(w, first, key)
					time.Sleep(5 * time.Second)
					over = !first.gate.isDead()
					first.kill()
					w.machine.On(hubtest.AtStopped, nil)
					want := hub.Ready
					switch {
					case way == "end":
						want = hub.Failed
					case w.record(key).Intent == hub.WantStopped:
						want = hub.Absent
					}
					if !standby {
						w.hub()
					}
					settle()
					w.agrees(key, want)
					if rec := w.record(key); want == hub.Absent && rec.Reason != "because" || want == hub.Failed && (!strings.Contains(rec.Reason, "out of memory") || len(rec.LogTail) != 2) {
						t.Errorf("the reason is %q, the log's tail %q", rec.Reason, rec.LogTail)
					}
					if t.Failed() {
						t.Logf("%s: killed at step %d (after: %v, standby: %v) of %s", way, step, after, standby, strings.Join(first.gate.calls, ", "))
					}
				})
				if t.Failed() {
					return
				}
			}
		}
	}
}

// One call to the store fails, or its answer is lost, at any step of a start and of a stop. Whoever
// was told nothing wrong gets what they asked for; record, route and container agree in any case.
func TestOneStoreCallFails(t *testing.T) {
	for _, lost := range []bool{false, true} {
		for step, over := 0, false; !over; step++ {
			if step > 200 {
				t.Fatal("it never ends")
			}
			inWorld(t, func(t *testing.T, w *world) {
				key := keyOf(t, "alice", "")
				h := w.hub()
				time.Sleep(3 * time.Second) // a moment at which no loop is at work
				var mu sync.Mutex
				var ops []string
				looking := false // the test itself
				fail := func(op string) error {
					mu.Lock()
					defer mu.Unlock()
					if looking {
						return nil
					}
					if ops = append(ops, op); len(ops)-1 == step {
						return hub.Errorf(hub.Unavailable, op, "the store blinked")
					}
					return nil
				}
				if lost {
					w.store.FailAfter(fail)
				} else {
					w.store.FailBefore(fail)
				}
				_, startErr := h.Start(t.Context(), ask(key))
				time.Sleep(3 * time.Second)
				mu.Lock()
				looking = true
				mu.Unlock()
				started := w.record(key).Phase
				mu.Lock()
				looking = false
				mu.Unlock()
				_, stopErr := h.Stop(t.Context(), key, "")
				time.Sleep(time.Second)
				mu.Lock()
				over = len(ops) <= step
				mu.Unlock()
				w.store.FailAfter(nil)
				w.store.FailBefore(nil)
				if startErr == nil && started != hub.Ready {
					t.Errorf("the start went well, and the server was %s", started)
				}
				settle()
				rec := w.record(key)
				switch {
				case stopErr == nil && startErr == nil:
					w.agrees(key, hub.Absent)
				case rec.Intent == hub.WantRunning:
					w.agrees(key, hub.Ready)
				default:
					w.agrees(key, hub.Absent)
				}
				if t.Failed() {
					t.Logf("step %d (lost: %v) of %v; start: %v, stop: %v", step, lost, ops, startErr, stopErr)
				}
			})
			if t.Failed() {
				return
			}
		}
	}
}

// A hub is killed, or shut down in order, with starts in every phase; the next one finishes them all.
func TestRestartWithStartsInEveryPhase(t *testing.T) {
	for name, end := range map[string]func(*process){"killed": (*process).kill, "shut down": (*process).shutdown} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.setPolicy(func(p *hub.Policy) { p.ConcurrentMax = 2 })
				waiting, creating, queued := keyOf(t, "alice", ""), keyOf(t, "bob", ""), keyOf(t, "carol", "")
				w.notebook.Set(waiting, hubtest.Mood{After: 30 * time.Second})
				w.machine.On(hubtest.AtCreated, func(ctx context.Context, key hub.ServerKey) error {
					if key == creating {
						return hubtest.Slow(30*time.Second)(ctx, key)
					}
					return nil
				})
				first := w.hub()
				for _, key := range []hub.ServerKey{waiting, creating, queued} {
					if _, err := first.Start(t.Context(), ask(key)); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				if p := w.record(queued).Phase; p != hub.Queued {
					t.Errorf("the third start is %s", p)
				}
				end(first)
				second := w.hub()
				settle()
				for _, key := range []hub.ServerKey{waiting, creating, queued} {
					w.agrees(key, hub.Ready)
				}
				second.shutdown()
				for _, key := range []hub.ServerKey{waiting, creating, queued} {
					w.agrees(key, hub.Ready)
				}
			})
		})
	}
}

// The store is wiped while servers run: each is adopted with its generation, its owner's id and its
// profile, and its route is back. That it does not answer just then is no reason to end it.
func TestStoreWiped(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		h := w.hub()
		var before []hub.Server
		for i := range 4 {
			key := keyOf(t, "alice", fmt.Sprintf("s%d", i))
			w.ready(h, key)
			if i > 1 { // a second generation
				if _, err := h.Stop(t.Context(), key, ""); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				w.ready(h, key)
			}
			before = append(before, w.record(key))
		}
		w.notebook.Set(before[0].Key, hubtest.Mood{Broken: true})
		w.store.Wipe()
		time.Sleep(2 * time.Second)
		for _, was := range before {
			w.agrees(was.Key, hub.Ready)
			is := w.record(was.Key)
			if is.Generation != was.Generation || is.UserID != was.UserID || is.Profile != was.Profile || is.Endpoint != was.Endpoint {
				t.Errorf("adopted as %+v; it was %+v", is, was)
			}
		}
		settle()
		w.agrees(before[0].Key, hub.Ready)
		// The next start counts on.
		w.person("alice")
		if _, err := h.Stop(t.Context(), before[2].Key, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if next := w.ready(h, before[2].Key); next.Generation <= before[2].Generation {
			t.Errorf("after generation %d came %d", before[2].Generation, next.Generation)
		}
	})
}

// After a wipe, somebody signs in and starts before any hub has looked round: what runs is found.
func TestStartRightAfterAWipe(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		first := w.hub()
		w.ready(first, key)
		if _, err := first.Stop(t.Context(), key, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		was := w.ready(first, key)
		first.kill()
		w.store.Wipe()
		w.person("alice")
		lease, err := w.store.Acquire(t.Context(), "reconcile", time.Hour) // somebody else is at it, and slow
		if err != nil {
			t.Fatal(err)
		}
		second := w.hub()
		got, err := second.Start(t.Context(), ask(key))
		if err != nil || got.Phase != hub.Ready || got.Generation != was.Generation {
			t.Errorf("start: %+v, %v; want the server of generation %d that runs", got, err, was.Generation)
		}
		w.agrees(key, hub.Ready)
		if err := lease.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// The store loses its last second: a newer generation runs than it knows of.
func TestStoreLostItsLastSecond(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		h := w.hub()
		w.ready(h, key)
		if _, err := h.Stop(t.Context(), key, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		old := w.record(key)
		now := w.ready(h, key)
		old.Revision = now.Revision
		if _, err := w.store.PutServer(t.Context(), old); err != nil {
			t.Fatal(err)
		}
		if err := w.store.DeleteRoute(t.Context(), key, now.Generation); err != nil {
			t.Fatal(err)
		}
		settle()
		w.agrees(key, hub.Ready)
		if got := w.record(key); got.Generation != now.Generation {
			t.Errorf("generation %d, want %d", got.Generation, now.Generation)
		}
	})
}

// A hub that is pointed at a wrong store ends nobody's server.
func TestWrongStoreKillsNobody(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		h := w.hub()
		var keys []hub.ServerKey
		for i := range 12 {
			key := keyOf(t, "alice", fmt.Sprintf("s%d", i))
			w.ready(h, key)
			keys = append(keys, key)
		}
		h.shutdown()
		w.store.Wipe()
		w.person("alice")
		for i, key := range keys { // what another store may say of the same names
			rec := hub.Server{Key: key, Generation: hub.Generation(i%3 + 1), Phase: []hub.Phase{hub.Absent, hub.Failed}[i%2], Intent: hub.WantStopped, Since: time.Now().Add(-24 * time.Hour)}
			if _, err := w.store.PutServer(t.Context(), rec); err != nil {
				t.Fatal(err)
			}
		}
		w.hub()
		settle()
		if n := len(w.machine.Containers()); n != len(keys) {
			t.Errorf("%d of %d servers are left", n, len(keys))
		}
		if !strings.Contains(w.logged(), "sweep refused") {
			t.Error("nobody was told that a sweep was refused")
		}
	})
}

// What a record says is over is swept, after its time and not before; what no record knows never is.
func TestSweep(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		h := w.hub()
		key := keyOf(t, "alice", "")
		was := w.ready(h, key)
		if _, err := h.Stop(t.Context(), key, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		// The driver is late with a start of a generation that is over.
		spec := hub.Spec{Key: key, Generation: was.Generation, UserID: was.UserID, Progress: func(hub.Progress) {}}
		if _, err := w.machine.Start(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		time.Sleep(45 * time.Second)
		if n := len(w.containers(key)); n != 1 {
			t.Errorf("it was swept at once")
		}
		settle()
		w.agrees(key, hub.Absent)
	})
}

// Several generations of one server can't be; when they are, the newest that runs is the server.
func TestThreeGenerations(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		for _, g := range []hub.Generation{2, 3, 1} {
			spec := hub.Spec{Key: key, Generation: g, UserID: "u", Profile: "small", BasePath: "/user/alice/", Token: w.keys.ServerToken(key, g), Progress: func(hub.Progress) {}}
			if _, err := w.machine.Start(t.Context(), spec); err != nil {
				t.Fatal(err)
			}
		}
		w.hub()
		settle()
		rec, all := w.record(key), w.containers(key)
		if rec.Phase != hub.Ready || rec.Generation != 3 || w.route(key).Generation != 3 {
			t.Errorf("record %+v, route %+v", rec, w.route(key))
		}
		if len(all) != 1 || all[0].Generation != 3 {
			t.Errorf("containers: %+v", all)
		}
	})
}

// One generation runs, and a newer one ended, unknown to the store: what runs is the server, and the
// next start takes no number that is taken.
func TestNewerGenerationEnded(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		user := w.person("alice")
		for _, g := range []hub.Generation{1, 5} {
			w.plan(hubtest.Plan{Dies: g == 5})
			spec := hub.Spec{Key: key, Generation: g, UserID: user.ID, Profile: "small", BasePath: "/user/alice/", Token: w.keys.ServerToken(key, g), Progress: func(hub.Progress) {}}
			if _, err := w.machine.Start(t.Context(), spec); err != nil {
				t.Fatal(err)
			}
		}
		w.plan(hubtest.Plan{})
		h := w.hub()
		if rec := w.record(key); rec.Phase != hub.Ready || rec.Generation != 1 || w.route(key).Generation != 1 {
			t.Errorf("adopted: %+v", rec)
		}
		if _, err := h.Stop(t.Context(), key, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if _, err := h.Start(t.Context(), ask(key)); err != nil {
			t.Fatal(err)
		}
		settle()
		if rec := w.record(key); rec.Phase != hub.Ready || rec.Generation <= 5 || len(w.containers(key)) != 1 {
			t.Errorf("the next start: %+v; containers %+v", rec, w.containers(key))
		}
	})
}
