package hub_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carrel/hub"
	"carrel/hub/hubtest"
)

// paused starts a server and pauses it.
func (w *world) paused(h *process, key hub.ServerKey) hub.Server {
	w.t.Helper()
	w.ready(h, key)
	rec, err := h.Pause(w.t.Context(), key)
	if err != nil || rec.Phase != hub.Paused {
		w.t.Fatalf("pause %s: %s, %v", key, rec.Phase, err)
	}
	w.agrees(key, hub.Paused)
	return rec
}

func TestPauseAndWake(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		h, key := w.hub(), keyOf(t, "alice", "")
		was := w.ready(h, key)
		before := time.Now()
		w.paused(h, key)
		if mark := w.route(key).Paused; mark < before.UnixMilli() || mark > time.Now().UnixMilli() {
			t.Errorf("the route's mark is %d, paused was at %d", mark, before.UnixMilli())
		}
		if rec, err := h.Pause(t.Context(), key); err != nil || rec.Phase != hub.Paused {
			t.Errorf("paused again: %s, %v", rec.Phase, err)
		}
		if rec, err := h.Start(t.Context(), ask(key)); err != nil || rec.Phase != hub.Paused {
			t.Errorf("started while paused: %s, %v", rec.Phase, err)
		}
		settle()
		w.agrees(key, hub.Paused) // whoever reconciles lets it be
		for range 2 {
			if rec, err := h.Wake(t.Context(), key); err != nil || rec.Phase != hub.Ready {
				t.Errorf("woken: %s, %v", rec.Phase, err)
			}
			w.agrees(key, hub.Ready)
		}
		if is := w.record(key); is.Generation != was.Generation || !is.Started.Equal(was.Started) {
			t.Errorf("it was %+v, and is %+v", was, is)
		}
		if pauses, wakes := w.seen.of("pause"), w.seen.of("wake"); pauses != "pause paused" || wakes != "wake ok" {
			t.Errorf("the observer was told %q, %q", pauses, wakes)
		}
		settle()
		w.agrees(key, hub.Ready)
	})
}

// A proxy that knows of a use has the pause end before the server is frozen.
func TestAPauseIsObjectedTo(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		h := w.hub()
		w.ready(h, key)
		w.machine.On(hubtest.AtPause, func(context.Context, hub.ServerKey) error {
			t.Error("it was frozen")
			return nil
		})
		var wg sync.WaitGroup
		wg.Go(func() {
			if rec, err := h.Pause(t.Context(), key); err != nil || rec.Phase != hub.Ready {
				t.Errorf("the pause: %s, %v", rec.Phase, err)
			}
		})
		time.Sleep(50 * time.Millisecond)
		if w.route(key).Paused == 0 {
			t.Error("the proxies were not told")
		}
		began := time.Now()
		if rec, err := h.Wake(t.Context(), key); err != nil || rec.Phase != hub.Ready {
			t.Errorf("the wake: %s, %v", rec.Phase, err)
		}
		if took := time.Since(began); took > 10*time.Millisecond {
			t.Errorf("it waited %v", took)
		}
		wg.Wait()
		if got := w.seen.of("pause"); got != "pause objected" {
			t.Errorf("the observer was told %q", got)
		}
		w.agrees(key, hub.Ready)
	})
}

// However many ask, at whichever hub, while one hub pauses: all hear of a server that is awake.
func TestWakesAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		hubs := []*process{w.hub(), w.hub()}
		w.ready(hubs[0], key)
		w.machine.On(hubtest.AtPause, hubtest.Slow(10*time.Millisecond))
		w.machine.On(hubtest.AtResume, hubtest.Slow(10*time.Millisecond))
		for _, after := range []time.Duration{time.Millisecond, 100 * time.Millisecond, 255 * time.Millisecond, 10 * time.Second} {
			resumed := 0
			w.machine.On(hubtest.AtResumed, func(context.Context, hub.ServerKey) error { resumed++; return nil })
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := hubs[0].Pause(t.Context(), key); err != nil {
					t.Errorf("pause: %v", err)
				}
			})
			time.Sleep(after)
			for i := range 20 {
				wg.Go(func() {
					if rec, err := hubs[i%2].Wake(t.Context(), key); err != nil || rec.Phase != hub.Ready {
						t.Errorf("wake after %v: %s, %v", after, rec.Phase, err)
					}
				})
			}
			wg.Wait()
			w.agrees(key, hub.Ready)
			if resumed > 2 {
				t.Errorf("after %v: the driver was asked %d times", after, resumed)
			}
		}
	})
}

// A hub is killed at every step of a pause and of the wake behind it: the next one makes record, route
// and container tell one truth, and the server can be woken.
func TestKilledAtEveryStepOfAPause(t *testing.T) {
	for _, after := range []bool{false, true} {
		for step, over := 0, false; !over; step++ {
			if step > 100 {
				t.Fatal("the pause never ends")
			}
			inWorld(t, func(t *testing.T, w *world) {
				key := keyOf(t, "alice", "")
				first := w.hub()
				was := w.ready(first, key)
				first.gate.arm(step, after)
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				_, _ = first.Pause(ctx, key)
				_, _ = first.Wake(ctx, key)
				over = !first.gate.isDead()
				first.kill()
				next := w.hub()
				settle()
				at := fmt.Sprintf("killed at step %d (%v)", step, first.gate.calls)
				rec := w.record(key)
				if rec.Phase != hub.Ready && rec.Phase != hub.Paused || rec.Generation != was.Generation {
					t.Fatalf("%s: %+v", at, rec)
				}
				w.agrees(key, rec.Phase)
				if rec, err := next.Wake(t.Context(), key); err != nil || rec.Phase != hub.Ready {
					t.Errorf("%s: woken: %s, %v", at, rec.Phase, err)
				}
				w.agrees(key, hub.Ready)
				if t.Failed() {
					t.Log(at)
					over = true
				}
			})
		}
	}
}

// What an operator freezes or wakes by Docker's own means is found out.
func TestPausedBehindOurBack(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		h := w.hub()
		rec := w.ready(h, key)
		if err := w.machine.Pause(t.Context(), rec.Handle); err != nil {
			t.Fatal(err)
		}
		settle()
		w.agrees(key, hub.Paused)
		if err := w.machine.Resume(t.Context(), rec.Handle); err != nil {
			t.Fatal(err)
		}
		settle()
		w.agrees(key, hub.Ready)
	})
}

func TestAPausedServerOutlivesTheStore(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		h := w.hub()
		w.paused(h, key)
		w.store.Wipe()
		w.person("alice")
		settle()
		w.agrees(key, hub.Paused)
		if _, err := h.Wake(t.Context(), key); err != nil {
			t.Errorf("wake: %v", err)
		}
		w.agrees(key, hub.Ready)
	})
}

func TestAPausedServerEnds(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		h := w.hub()
		stopped, died, fell := keyOf(t, "alice", ""), keyOf(t, "bob", ""), keyOf(t, "carol", "")
		w.paused(h, stopped)
		w.paused(h, died)
		w.paused(h, fell)
		if _, err := h.Stop(t.Context(), stopped, "enough"); err != nil {
			t.Fatal(err)
		}
		w.machine.Die(died, "it was killed")
		w.machine.On(hubtest.AtResume, func(context.Context, hub.ServerKey) error {
			w.machine.Die(fell, "out of memory")
			return nil
		})
		if _, err := h.Wake(t.Context(), fell); hub.KindOf(err) != hub.Unavailable {
			t.Errorf("woken although it ended: %v", err)
		}
		settle()
		w.agrees(stopped, hub.Absent)
		w.agrees(died, hub.Failed)
		w.agrees(fell, hub.Failed)
		for _, key := range []hub.ServerKey{stopped, died, fell} {
			_, err := h.Wake(t.Context(), key)
			if hub.KindOf(err) != hub.Conflict {
				t.Errorf("wake %s: %v", key, err)
			}
			if _, err = h.Pause(t.Context(), key); hub.KindOf(err) != hub.Conflict && hub.KindOf(err) != hub.NotFound {
				t.Errorf("pause %s: %v", key, err)
			}
		}
	})
}

// The rules hold for paused servers too, and nobody wakes one to find out whether it is idle.
func TestAPausedServerIsCulled(t *testing.T) {
	for name, r := range map[string]hub.CullRule{"idle": rule, "age": {MaxAge: hour, Warning: 10 * minute}} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				key := keyOf(t, "alice", "")
				h := w.hub()
				w.cullBy(r)
				w.paused(h, key)
				h.gate.arm(-1, false)
				w.machine.On(hubtest.AtResume, func(context.Context, hub.ServerKey) error {
					t.Error("it was woken")
					return nil
				})
				time.Sleep(15 * time.Second) // a sample is taken
				synctest.Wait()
				if u, _, ok := h.Usage(key); !ok || u.Memory == 0 {
					t.Errorf("its usage is %+v, %v", u, ok)
				}
				w.machine.On(hubtest.AtUsage, hubtest.Fail(hub.Errorf(hub.Unavailable, "usage", "not to be had"))) // else nobody would ask
				warned, stopped := w.fate(key, 2*hour)
				if !about(warned, 50*minute) || !about(stopped, hour) || h.gate.count("Busy") > 0 {
					t.Errorf("warned after %v, stopped after %v, asked %d times", warned, stopped, h.gate.count("Busy"))
				}
				w.agrees(key, hub.Absent)
			})
		})
	}
}

// An idle server is paused by its rule, one that computes is not, and each use gives it the whole time
// anew. In the end it is stopped as any other.
func TestIdleServersArePaused(t *testing.T) {
	r := rule
	r.Pause = 20 * minute
	busy := hubtest.Mood{State: hub.NotebookState{Kernels: 1, BusyKernels: 1}}
	inWorld(t, func(t *testing.T, w *world) {
		idle, computes := keyOf(t, "alice", ""), keyOf(t, "bob", "")
		h := w.hub()
		w.cullBy(r)
		w.notebook.Set(computes, busy)
		w.machine.SetCPU(computes, 0.9)
		w.ready(h, idle)
		w.ready(h, computes)
		phaseAfter := func(after time.Duration, want hub.Phase) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			w.agrees(idle, want)
			w.agrees(computes, hub.Ready)
		}
		phaseAfter(15*minute, hub.Ready)
		phaseAfter(10*minute, hub.Paused)
		w.use(idle)
		if _, err := h.Wake(t.Context(), idle); err != nil {
			t.Fatal(err)
		}
		phaseAfter(15*minute, hub.Ready)
		phaseAfter(10*minute, hub.Paused)
		asked := w.notebook.Asked(idle)
		if _, stopped := w.fate(idle, hour); !about(stopped, 35*minute) || w.notebook.Asked(idle) != asked {
			t.Errorf("stopped after %v, asked %d times", stopped, w.notebook.Asked(idle)-asked)
		}
		w.machine.SetCPU(computes, 0)
		w.notebook.Set(computes, hubtest.Mood{})
		time.Sleep(25 * minute)
		synctest.Wait()
		w.agrees(computes, hub.Paused)
	})
}

// Whoever wants the files of a paused server gets them: it is woken.
func TestFilesOfAPausedServer(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		h := w.hub()
		w.paused(h, key)
		var files bytes.Buffer
		if err := h.Archive(t.Context(), key, &files); err != nil || files.String() != "files of /user/alice/" {
			t.Errorf("%q, %v", files.String(), err)
		}
		w.agrees(key, hub.Ready)
	})
}

// A stop that finds a pause under way does not wait for the next reconciliation.
func TestStopRacingAPause(t *testing.T) {
	for _, after := range []time.Duration{0, 100 * time.Millisecond, 255 * time.Millisecond} {
		inWorld(t, func(t *testing.T, w *world) {
			key := keyOf(t, "alice", "")
			h := w.hub()
			w.ready(h, key)
			w.machine.On(hubtest.AtPause, hubtest.Slow(10*time.Millisecond))
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = h.Pause(t.Context(), key) })
			time.Sleep(after)
			if _, err := h.Stop(t.Context(), key, "enough"); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
			time.Sleep(time.Second)
			synctest.Wait()
			w.agrees(key, hub.Absent)
		})
	}
}

// A pause that somebody asked for waits a moment for what else is being done about the server.
func TestPauseOfABusyServer(t *testing.T) {
	for held, want := range map[time.Duration]hub.Phase{time.Second: hub.Paused, time.Minute: hub.Ready} {
		inWorld(t, func(t *testing.T, w *world) {
			h, key := w.hub(), keyOf(t, "alice", "")
			w.ready(h, key)
			lease, err := w.store.Acquire(t.Context(), "server/"+key.Label(), held) // by another hub
			if err != nil {
				t.Fatal(err)
			}
			_, err = h.Pause(t.Context(), key)
			if want == hub.Paused && err != nil || want == hub.Ready && hub.KindOf(err) != hub.Conflict {
				t.Errorf("held for %s: %v", held, err)
			}
			_ = lease.Release(t.Context())
			w.agrees(key, want)
		})
	}
}

// A driver that fails to freeze leaves a server that runs.
func TestAPauseThatFails(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		h := w.hub()
		w.ready(h, key)
		for _, at := range []hubtest.Point{hubtest.AtPause, hubtest.AtPaused} {
			w.machine.On(at, hubtest.Fail(hub.Errorf(hub.Unavailable, "pause", "Docker is away")))
			if rec, err := h.Pause(t.Context(), key); err != nil || rec.Phase != hub.Ready {
				t.Errorf("at %s: %s, %v", at, rec.Phase, err)
			}
			w.agrees(key, hub.Ready)
			w.machine.On(at, nil)
		}
	})
}
