package hub_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carrel/hub"
	"carrel/hub/hubtest"
)

// A container that ends by itself is noticed within a second, with its reason and its last lines.
func TestContainerDies(t *testing.T) {
	for _, c := range []struct {
		name   string
		during func(*world, *process, hub.ServerKey)
		within time.Duration
	}{
		{"while it is used", func(*world, *process, hub.ServerKey) {}, time.Second},
		{"while its kernel is tried", func(w *world, h *process, key hub.ServerKey) {
			if _, err := h.Stop(w.t.Context(), key, ""); err != nil {
				w.t.Fatal(err)
			}
			time.Sleep(time.Second)
			w.setPolicy(func(p *hub.Policy) { p.KernelCheck = true })
			w.notebook.Set(key, hubtest.Mood{KernelIn: 5 * time.Second})
			w.ready(h, key)
		}, 6 * time.Second},
		{"while the store is away", func(w *world, _ *process, _ hub.ServerKey) {
			w.store.Away(true)
			time.AfterFunc(20*time.Second, func() { w.store.Away(false) })
		}, 22 * time.Second},
		{"while the driver is away", func(w *world, _ *process, _ hub.ServerKey) {
			w.machine.SetAway(true)
			time.AfterFunc(20*time.Second, func() { w.machine.SetAway(false) })
		}, 28 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				key := keyOf(t, "alice", "")
				h := w.hub()
				w.hub()
				w.ready(h, key)
				time.Sleep(10 * time.Second)
				c.during(w, h, key)
				w.machine.Die(key, "out of memory")
				time.Sleep(c.within)
				synctest.Wait()
				w.agrees(key, hub.Failed)
				if rec := w.record(key); rec.Reason != "your server ended by itself: out of memory" || len(rec.LogTail) != 2 {
					t.Errorf("recorded: %q, %q", rec.Reason, rec.LogTail)
				}
				if told := w.steps(h, key)(); !told[len(told)-1].Failed {
					t.Errorf("whoever looks hears last: %+v", told[len(told)-1])
				}
				w.ready(h, key)
			})
		})
	}
}

// A late word of an older generation's end does not fail the start of the next.
func TestLateWordOfAnOlderEnd(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		h := w.hub()
		w.ready(h, key)
		w.notebook.Set(key, hubtest.Mood{After: 5 * time.Second})
		w.machine.On(hubtest.AtStop, func(ctx context.Context, k hub.ServerKey) error {
			w.machine.Die(k, "it was killed") // as docker stop does: the end is told before the container is gone
			return nil
		})
		if _, err := h.Stop(t.Context(), key, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Start(t.Context(), ask(key)); err != nil {
			t.Fatal(err)
		}
		h.ContainerEnded(t.Context(), hub.Status{Key: key, Generation: 1, Phase: hub.Failed, Reason: "it was killed"})
		time.Sleep(10 * time.Second)
		w.agrees(key, hub.Ready)
	})
}

// While the driver is away nothing is changed, whatever is asked; when it is back, things go on.
func TestDriverAway(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key, waiting, stopped := keyOf(t, "alice", ""), keyOf(t, "bob", ""), keyOf(t, "carol", "")
		w.setPolicy(func(p *hub.Policy) { p.StartTimeout = time.Hour })
		h := w.hub()
		before := w.ready(h, key)
		w.ready(h, stopped)
		w.notebook.Set(waiting, hubtest.Mood{After: 90 * time.Second})
		if _, err := h.Start(t.Context(), ask(waiting)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		w.machine.SetAway(true)
		if _, err := h.Stop(t.Context(), stopped, "enough"); err != nil {
			t.Errorf("a stop while the driver is away: %v", err)
		}
		time.Sleep(time.Minute)
		if is := w.record(key); is.Phase != hub.Ready || is.Revision != before.Revision || w.route(key).Key.IsZero() {
			t.Errorf("a server was changed: %+v", is)
		}
		if is := w.record(waiting); is.Phase != hub.Starting {
			t.Errorf("a server that is waited for is %+v", is)
		}
		if is := w.record(stopped); is.Phase != hub.Stopping || is.Intent != hub.WantStopped || !w.route(stopped).Key.IsZero() {
			t.Errorf("a server that is to be stopped is %+v", is)
		}
		if n := strings.Count(w.logged(), "reconciliation put off"); n != 1 {
			t.Errorf("the outage was logged %d times", n)
		}
		w.machine.SetAway(false)
		settle()
		w.agrees(key, hub.Ready)
		w.agrees(waiting, hub.Ready)
		w.agrees(stopped, hub.Absent)
	})
}

// A driver that hangs, at any of its calls, holds nothing up for ever.
func TestDriverHangs(t *testing.T) {
	for _, point := range []hubtest.Point{hubtest.AtInspect, hubtest.AtStop, hubtest.AtList, hubtest.AtLogs, hubtest.AtUsage, hubtest.AtWatch} {
		t.Run(string(point), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				running, starting, ended := keyOf(t, "alice", ""), keyOf(t, "bob", ""), keyOf(t, "carol", "")
				h := w.hub()
				w.ready(h, running)
				w.ready(h, ended)
				w.machine.On(point, hubtest.Hang)
				w.machine.Die(ended, "exit code 1")
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if _, err := h.Start(ctx, ask(starting)); err != nil && hub.KindOf(err) != hub.Unavailable {
					t.Errorf("start: %v", err)
				}
				if _, err := h.Stop(ctx, running, ""); err != nil {
					t.Errorf("stop: %v", err)
				}
				time.Sleep(5 * time.Minute)
				w.machine.On(point, nil)
				settle()
				w.agrees(running, hub.Absent)
				w.agrees(ended, hub.Failed)
				w.agrees(starting, w.record(starting).Phase)
				for _, key := range []hub.ServerKey{running, starting, ended} {
					w.ready(h, key)
				}
			})
		})
	}
}

// The store is away for a while at any moment of a start: the start insists, and comes to its end.
func TestStoreAwayDuringAStart(t *testing.T) {
	for after := time.Duration(0); after < 4*time.Second; after += 250 * time.Millisecond {
		inWorld(t, func(t *testing.T, w *world) {
			key := keyOf(t, "alice", "")
			w.machine.On(hubtest.AtStart, hubtest.Slow(time.Second))
			w.notebook.Set(key, hubtest.Mood{After: time.Second})
			h := w.hub()
			if _, err := h.Start(t.Context(), ask(key)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(after)
			w.store.Away(true)
			time.Sleep(time.Minute)
			w.store.Away(false)
			settle()
			w.agrees(key, hub.Ready)
			if n := w.machine.Starts(key); n != 1 {
				t.Errorf("away after %v: it was started %d times", after, n)
			}
		})
	}
}

// A hub loses its lease in the middle of a start: the other hub goes on with the same container.
func TestLeaseLost(t *testing.T) {
	for _, point := range []hubtest.Point{hubtest.AtStart, hubtest.AtCreated, hubtest.AtRunning} {
		t.Run(string(point), func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				key := keyOf(t, "alice", "")
				h := w.hub()
				w.machine.On(point, hubtest.Times(1, func(ctx context.Context, k hub.ServerKey) error {
					err := hubtest.Slow(2*time.Minute)(ctx, k)
					if err != nil { // a driver removes what a cancelled call made
						w.machine.Die(k, "removed by the first hub")
					}
					return err
				}))
				w.notebook.Set(key, hubtest.Mood{After: 5 * time.Second})
				if _, err := h.Start(t.Context(), ask(key)); err != nil {
					t.Fatal(err)
				}
				steps := w.steps(h, key)
				time.Sleep(time.Second)
				h.loseLeases(t.Context())
				w.hub()
				time.Sleep(time.Minute)
				w.agrees(key, hub.Ready) // though the first hub's call still hangs
				settle()
				w.agrees(key, hub.Ready)
				if n := w.machine.Starts(key); n != 1 {
					t.Errorf("it was started %d times", n)
				}
				told := steps()
				if last := told[len(told)-1]; last.Step != "ready" || !last.Done {
					t.Errorf("those who waited at the first hub heard last: %+v", last)
				}
			})
		})
	}
}

// A start whose owner is gone, or may not use its profile any more, fails; it does not hang.
func TestStartThatCantGoOn(t *testing.T) {
	for name, change := range map[string]func(*world, hub.ServerKey){
		"owner gone":   func(w *world, key hub.ServerKey) { _ = w.store.DeleteUser(w.t.Context(), key.User) },
		"profile gone": func(w *world, _ hub.ServerKey) { w.setPolicy(func(p *hub.Policy) { p.Profiles = p.Profiles[1:] }) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				key := keyOf(t, "alice", "")
				w.notebook.Set(key, hubtest.Mood{After: 30 * time.Second})
				h := w.hub()
				if _, err := h.Start(t.Context(), ask(key)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				h.kill()
				change(w, key)
				w.hub()
				settle()
				w.agrees(key, hub.Failed)
				if w.record(key).Reason == "" {
					t.Error("nobody is told why")
				}
			})
		})
	}
}

// A server that another hub starts while this one lists what there is keeps its route.
func TestReconcileBesideAStart(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		listed, started := make(chan struct{}), make(chan struct{})
		var once sync.Once
		h := w.hubThat(func(op string) {
			if op == "Routes" { // the records and containers are known
				once.Do(func() { close(listed); <-started })
			}
		})
		<-listed
		h.gate.arm(-1, false)
		key := keyOf(t, "alice", "")
		w.ready(w.hub(), key)
		close(started)
		synctest.Wait()
		w.agrees(key, hub.Ready)
		if n := h.gate.count("DeleteRoute"); n > 0 {
			t.Errorf("the route was removed %d times", n)
		}
	})
}

// A route that is lost or wrong comes back; one that nothing is behind goes.
func TestRoutesAreMended(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		h := w.hub()
		rec := w.ready(h, key)
		nowhere, err := hub.ParseEndpoint("http://10.9.9.9:1")
		if err != nil {
			t.Fatal(err)
		}
		stopped := keyOf(t, "carol", "")
		w.ready(h, stopped)
		if _, err := h.Stop(t.Context(), stopped, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for _, key := range []hub.ServerKey{keyOf(t, "bob", ""), stopped} {
			if err := w.store.PutRoute(t.Context(), hub.Route{Key: key, Generation: 1, Endpoint: nowhere}); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.store.DeleteRoute(t.Context(), key, rec.Generation); err != nil {
			t.Fatal(err)
		}
		time.Sleep(31 * time.Second)
		w.agrees(key, hub.Ready)
		for _, key := range []hub.ServerKey{keyOf(t, "bob", ""), stopped} {
			if r := w.route(key); !r.Key.IsZero() {
				t.Errorf("a route to nowhere is left: %+v", r)
			}
		}
		for _, wrong := range []hub.Route{
			{Key: key, UserID: rec.UserID, Generation: rec.Generation, Endpoint: nowhere},
			{Key: key, UserID: rec.UserID, Generation: rec.Generation, Endpoint: rec.Endpoint}, // of a release that knew no images
		} {
			if err := w.store.PutRoute(t.Context(), wrong); err != nil {
				t.Fatal(err)
			}
			time.Sleep(31 * time.Second)
			w.agrees(key, hub.Ready)
		}
	})
}

// The record of a server that nobody ran for long is forgotten, its count of starts is not.
func TestForget(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		h := w.hub()
		w.ready(h, key)
		if _, err := h.Stop(t.Context(), key, ""); err != nil {
			t.Fatal(err)
		}
		for _, days := range []int{6, 8} {
			kept := days < 7
			time.Sleep(time.Second)
			rec := w.record(key)
			rec.Since = time.Now().Add(-time.Duration(days) * 24 * time.Hour)
			if _, err := w.store.PutServer(t.Context(), rec); err != nil {
				t.Fatal(err)
			}
			time.Sleep(31 * time.Second)
			if _, err := w.store.Server(t.Context(), key); (err == nil) != kept {
				t.Errorf("after %d days: %v, want kept=%v", days, err, kept)
			}
		}
		if rec := w.ready(h, key); rec.Generation != 2 {
			t.Errorf("generation %d", rec.Generation)
		}
	})
}
