package hub_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"carrel/hub"
	"carrel/hub/hubtest"
)

// Tests go by hours of ten minutes, to be over soon: rounds are real ones, ten seconds apart.
const (
	hour   = 10 * time.Minute
	minute = hour / 60
)

// rule is short enough for a test to watch, and longer than a round.
var rule = hub.CullRule{Idle: hour, Warning: 10 * minute, BusyMax: 5 * hour, Extend: 2 * hour}

func (w *world) cullBy(r hub.CullRule) {
	w.setPolicy(func(p *hub.Policy) { p.Profiles[0].Cull = r })
}

func (w *world) use(key hub.ServerKey) {
	w.t.Helper()
	if err := w.store.RecordActivity(w.t.Context(), []hub.Activity{{Key: key, Last: time.Now()}}); err != nil {
		w.t.Fatal(err)
	}
}

// fate watches a server for a while: when it was warned, and when it was stopped.
func (w *world) fate(key hub.ServerKey, during time.Duration) (warned, stopped time.Duration) {
	w.t.Helper()
	began := time.Now()
	for time.Since(began) < during {
		time.Sleep(10 * time.Second)
		synctest.Wait()
		rec := w.record(key)
		if warned == 0 && !rec.CullAt.IsZero() {
			warned = time.Since(began)
		}
		if rec.Phase == hub.Absent {
			return warned, time.Since(began)
		}
	}
	return warned, 0
}

// about allows for the culler's asking once a minute, a real one.
func about(got, want time.Duration) bool { return got >= want-time.Minute && got <= want+time.Minute }

func TestCull(t *testing.T) {
	busy := hub.NotebookState{Kernels: 1, BusyKernels: 1}
	for _, c := range []struct {
		name            string
		rule            hub.CullRule
		arrange         func(*world, hub.ServerKey)
		watch           time.Duration
		warned, stopped time.Duration // 0: never
	}{
		{"idle", rule, func(*world, hub.ServerKey) {}, 3 * hour, 50 * minute, hour},
		{"a kernel that is there and idle", rule, func(w *world, k hub.ServerKey) {
			w.notebook.Set(k, hubtest.Mood{State: hub.NotebookState{Kernels: 3, Terminals: 2, LastActivity: time.Now().Add(24 * hour)}})
		}, 3 * hour, 50 * minute, hour},
		{"a busy kernel that computes, up to busy_max", rule, func(w *world, k hub.ServerKey) {
			w.notebook.Set(k, hubtest.Mood{State: busy})
			w.machine.SetCPU(k, 0.9)
		}, 8 * hour, 5*hour + 50*minute, 6 * hour},
		{"a kernel that only says that it is busy", rule, func(w *world, k hub.ServerKey) {
			w.notebook.Set(k, hubtest.Mood{State: busy})
		}, 3 * hour, 50 * minute, hour},
		{"processor time without a busy kernel", rule, func(w *world, k hub.ServerKey) {
			w.notebook.Set(k, hubtest.Mood{State: hub.NotebookState{Kernels: 1}})
			w.machine.SetCPU(k, 0.9)
		}, 3 * hour, 50 * minute, hour},
		{"a terminal in which something computes", rule, func(w *world, k hub.ServerKey) {
			w.notebook.Set(k, hubtest.Mood{State: hub.NotebookState{Terminals: 1}})
			w.machine.SetCPU(k, 0.9)
		}, 2 * hour, 0, 0},
		{"it does not say what its kernels do", rule, func(w *world, k hub.ServerKey) {
			w.notebook.Set(k, hubtest.Mood{NoState: true})
			w.machine.SetCPU(k, 0.9)
		}, 3 * hour, 50 * minute, hour},
		{"no rule", hub.CullRule{}, func(*world, hub.ServerKey) {}, 24 * hour, 0, 0},
		{"maximum age, though it computes", hub.CullRule{MaxAge: 2 * hour, Idle: hour, Warning: 10 * minute}, func(w *world, k hub.ServerKey) {
			w.notebook.Set(k, hubtest.Mood{State: busy})
			w.machine.SetCPU(k, 0.9)
		}, 4 * hour, 110 * minute, 2 * hour},
		{"a rule of the owner's group", rule, func(w *world, k hub.ServerKey) {
			w.setPolicy(func(p *hub.Policy) {
				p.GroupCulls = []hub.GroupCull{{Group: "slow", Rule: hub.CullRule{Idle: 4 * hour, Warning: hour}}}
			})
			w.person("alice", "slow")
		}, 6 * hour, 3 * hour, 4 * hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				key := keyOf(t, "alice", "")
				w.cullBy(c.rule)
				h := w.hub()
				w.ready(h, key)
				c.arrange(w, key)
				warned, stopped := w.fate(key, c.watch)
				if (c.warned == 0) != (warned == 0) || c.warned > 0 && !about(warned, c.warned) {
					t.Errorf("warned after %v, want %v", warned, c.warned)
				}
				if (c.stopped == 0) != (stopped == 0) || c.stopped > 0 && !about(stopped, c.stopped) {
					t.Errorf("stopped after %v, want %v", stopped, c.stopped)
				}
				if stopped > 0 && (stopped-warned < c.rule.Warning-11*time.Second || !strings.Contains(w.record(key).Reason, "the hub stopped your server because it")) {
					t.Errorf("warned after %v, stopped after %v for this reason: %q", warned, stopped, w.record(key).Reason)
				}
			})
		})
	}
}

// An open tab asks the server every few seconds; that alone is no use. A person's input is, and
// takes a warning back.
func TestUse(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		w.cullBy(rule)
		h := w.hub()
		w.ready(h, key)
		for range 4 {
			if warned, stopped := w.fate(key, 55*minute); warned == 0 || stopped > 0 {
				t.Errorf("warned after %v, stopped after %v", warned, stopped)
			}
			w.use(key)
			time.Sleep(11 * time.Second)
			if rec := w.record(key); !rec.CullAt.IsZero() || rec.CullWhy != "" {
				t.Errorf("used, and still warned: %v, %q", rec.CullAt, rec.CullWhy)
			}
		}
		if _, stopped := w.fate(key, 2*hour); !about(stopped+11*time.Second, hour) {
			t.Errorf("stopped %v after the last use", stopped)
		}
	})
}

func TestExtend(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		aged := rule
		aged.MaxAge = 5 * hour
		w.cullBy(aged)
		h := w.hub()
		if _, err := h.Extend(t.Context(), key); hub.KindOf(err) != hub.NotFound {
			t.Errorf("extending what was never started: %v", err)
		}
		w.ready(h, key)
		w.fate(key, 55*minute)
		if rec, err := h.Extend(t.Context(), key); err != nil || !rec.CullAt.IsZero() || !rec.KeepUntil.Equal(time.Now().Add(2*hour)) {
			t.Errorf("extend: %+v, %v", rec, err)
		}
		if warned, stopped := w.fate(key, 115*minute); !about(warned, 110*minute) || stopped > 0 {
			t.Errorf("after the extension warned after %v, stopped after %v", warned, stopped)
		}
		// Old age can't be put off, however often one asks.
		refused := 0
		for w.record(key).Phase == hub.Ready && refused < 1000 {
			if _, err := h.Extend(t.Context(), key); err != nil {
				if hub.KindOf(err) != hub.Forbidden {
					t.Fatal(err)
				}
				refused++
			}
			time.Sleep(minute)
		}
		rec := w.record(key)
		if age := time.Since(rec.Started); rec.Phase != hub.Absent || !strings.Contains(rec.Reason, "maximum age") || age > 5*hour+3*minute {
			t.Errorf("at the age of %v it is %s: %s", age, rec.Phase, rec.Reason)
		}
		if _, err := h.Extend(t.Context(), key); hub.KindOf(err) != hub.Conflict {
			t.Errorf("extending what was stopped: %v", err)
		}
	})
}

// Nobody is culled for what was not observed: after an outage of store, hub or driver everyone has
// the whole idle time, and the whole warning, again.
func TestCullAfterAnOutage(t *testing.T) {
	aged := hub.CullRule{MaxAge: hour, Warning: 10 * minute}
	for name, outage := range map[string]func(*world, *process){
		"store": func(w *world, _ *process) {
			w.store.Away(true)
			time.Sleep(3 * hour)
			w.store.Away(false)
		},
		"hub": func(w *world, h *process) {
			h.kill()
			time.Sleep(3 * hour)
			w.hub()
		},
	} {
		for _, r := range []hub.CullRule{rule, aged} {
			t.Run(fmt.Sprintf("%s, max age %v", name, r.MaxAge), func(t *testing.T) {
				inWorld(t, func(t *testing.T, w *world) {
					key := keyOf(t, "alice", "")
					w.cullBy(r)
					h := w.hub()
					w.ready(h, key)
					if warned, stopped := w.fate(key, 55*minute); warned == 0 || stopped > 0 {
						t.Fatalf("warned after %v, stopped after %v", warned, stopped)
					}
					outage(w, h)
					_, stopped := w.fate(key, 3*hour)
					want := 10 * minute
					if r.Idle > 0 {
						want = hour
					}
					if stopped < want || stopped > want+2*minute {
						t.Errorf("stopped %v after the outage, want %v", stopped, want)
					}
				})
			})
		}
	}
}

// One hub culls; when it dies the other does.
func TestOneHubCulls(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		w.cullBy(rule)
		w.notebook.Set(key, hubtest.Mood{State: hub.NotebookState{Kernels: 1, BusyKernels: 1}})
		w.machine.SetCPU(key, 1)
		first, second := w.hub(), w.hub()
		w.ready(first, key)
		time.Sleep(2 * hour)
		for _, h := range []*process{first, second} {
			h.gate.arm(-1, false)
		}
		before := w.notebook.Asked(key)
		time.Sleep(10 * minute)
		asked := [2]int{first.gate.count("Busy"), second.gate.count("Busy")}
		if n := w.notebook.Asked(key) - before; n == 0 || n > 70 || asked[0] > 0 && asked[1] > 0 {
			t.Errorf("asked %d times in ten minutes, by the hubs %v", n, asked)
		}
		culling, other := first, second
		if asked[1] > 0 {
			culling, other = second, first
		}
		culling.kill()
		time.Sleep(2 * hour)
		if other.gate.count("Busy") == 0 {
			t.Error("nobody culls since that hub died")
		}
		w.agrees(key, hub.Ready)
		w.machine.SetCPU(key, 0)
		if _, stopped := w.fate(key, 2*hour); !about(stopped, hour) {
			t.Errorf("stopped %v after its last computing", stopped)
		}
	})
}

// Servers that do not answer the culler's question keep no other from being culled.
func TestDeafServersHoldUpNobody(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		r := rule
		r.BusyMax = 0
		w.cullBy(r)
		h := w.hub()
		var keys []hub.ServerKey
		for i := range 80 {
			key := keyOf(t, "alice", fmt.Sprintf("s%d", i))
			keys = append(keys, key)
			w.ready(h, key)
		}
		for _, key := range keys[1:] {
			w.notebook.Set(key, hubtest.Mood{Deaf: true})
			w.machine.SetCPU(key, 1)
		}
		if _, stopped := w.fate(keys[0], 3*hour); stopped == 0 || stopped > 70*minute {
			t.Errorf("the one that answers was stopped after %v", stopped)
		}
		time.Sleep(hour)
		if n := len(w.machine.Containers()); n > 0 {
			t.Errorf("%d deaf servers are left", n)
		}
	})
}

// A server is stopped and started anew, or extended, at another hub just while it is asked for the
// last time before its end: it stays.
func TestCullRaces(t *testing.T) {
	for name, race := range map[string]func(*world, *process, hub.ServerKey) error{
		"start": func(w *world, h *process, key hub.ServerKey) error {
			_, err := h.Stop(w.t.Context(), key, "by hand")
			if err == nil {
				_, err = h.Start(w.t.Context(), ask(key))
			}
			return err
		},
		"extend": func(w *world, h *process, key hub.ServerKey) error {
			_, err := h.Extend(w.t.Context(), key)
			return err
		},
	} {
		for shift := -15 * time.Second; shift <= 15*time.Second; shift += 2 * time.Second {
			inWorld(t, func(t *testing.T, w *world) {
				key := keyOf(t, "alice", "")
				w.cullBy(rule)
				w.notebook.Set(key, hubtest.Mood{StateIn: 4 * time.Second})
				w.machine.SetCPU(key, 1)
				first, second := w.hub(), w.hub()
				w.ready(first, key)
				w.fate(key, 55*minute)
				time.Sleep(time.Until(w.record(key).CullAt) + shift)
				err := race(w, second, key)
				if hub.KindOf(err) == hub.Conflict && err != nil { // it was over
					return
				}
				if err != nil {
					t.Error(err)
				}
				time.Sleep(minute)
				settle()
				w.agrees(key, hub.Ready)
				if t.Failed() {
					t.Logf("%s, %v after the end that was told", name, shift)
				}
			})
		}
	}
}

// Under a short rule, too, a server that computes is not even warned.
func TestShortRule(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		key := keyOf(t, "alice", "")
		w.cullBy(hub.CullRule{Idle: 70 * time.Second, Warning: 45 * time.Second, BusyMax: time.Hour})
		w.notebook.Set(key, hubtest.Mood{State: hub.NotebookState{BusyKernels: 1}})
		w.machine.SetCPU(key, 1)
		h := w.hub()
		w.ready(h, key)
		time.Sleep(time.Minute) // until its processor time was measured twice
		if warned, stopped := w.fate(key, 20*time.Minute); warned > 0 || stopped > 0 {
			t.Errorf("warned after %v, stopped after %v", warned, stopped)
		}
	})
}

// Who is about to end is asked once more: a computation that began a moment ago is not cut off.
func TestAskedOnceMore(t *testing.T) {
	for before := 15 * time.Second; before <= 55*time.Second; before += 10 * time.Second {
		inWorld(t, func(t *testing.T, w *world) {
			key := keyOf(t, "alice", "")
			r := rule
			r.Idle += 25 * time.Second // so that its end falls between two askings
			w.cullBy(r)
			h := w.hub()
			w.ready(h, key)
			w.fate(key, 55*minute)
			end := w.record(key).CullAt
			time.Sleep(time.Until(end) - before)
			w.machine.SetCPU(key, 1)
			w.notebook.Set(key, hubtest.Mood{State: hub.NotebookState{BusyKernels: 1}})
			if _, stopped := w.fate(key, 50*minute); stopped > 0 && before > 25*time.Second { // CPU use is sampled every 10 s
				t.Errorf("it began to compute %v before its end, and was stopped", before)
			}
		})
	}
}
