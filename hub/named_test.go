package hub_test

import (
	"testing"
	"time"

	"carrel/hub"
	"carrel/hub/hubtest"
)

// named tells whether a proxy can know of a server.
func (w *world) named(key hub.ServerKey) bool {
	w.t.Helper()
	for label, err := range w.store.ServerLabels(w.t.Context()) {
		if err != nil {
			w.t.Fatal(err)
		}
		if label == key.Label() {
			return true
		}
	}
	return false
}

// A named server's address is its own from the request on, before it has a route and after, and for a
// week after it stopped.
func TestANameIsKnownFromTheRequestOn(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		h := w.hub()
		key := keyOf(t, "alice", "gpu")
		if w.named(key) {
			t.Error("it is known before anybody asked for it")
		}
		w.notebook.Set(key, hubtest.Mood{After: time.Second})
		if _, err := h.Start(t.Context(), ask(key)); err != nil {
			t.Fatal(err)
		}
		if !w.named(key) || !w.route(key).Key.IsZero() {
			t.Errorf("while it starts: known %v, route %+v", w.named(key), w.route(key))
		}
		settle()
		w.agrees(key, hub.Ready)
		if _, err := h.Stop(t.Context(), key, ""); err != nil {
			t.Fatal(err)
		}
		settle()
		w.agrees(key, hub.Absent)
		w.setPolicy(func(p *hub.Policy) { p.ReconcileEvery = 2 * time.Hour })
		for _, c := range []struct {
			later time.Duration
			known bool
		}{{6 * 24 * time.Hour, true}, {2 * 24 * time.Hour, false}} {
			time.Sleep(c.later)
			if w.named(key) != c.known {
				t.Errorf("another %v later it is known: %v, want %v", c.later, !c.known, c.known)
			}
		}
	})
}

// After a wipe the names of what runs come back from the containers.
func TestNamesComeBackFromContainers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		h := w.hub()
		runs, stopped := keyOf(t, "alice", "gpu"), keyOf(t, "alice", "cpu")
		w.ready(h, runs)
		w.ready(h, stopped)
		if _, err := h.Stop(t.Context(), stopped, ""); err != nil {
			t.Fatal(err)
		}
		settle()
		w.store.Wipe()
		settle()
		if !w.named(runs) || w.named(stopped) {
			t.Errorf("known: %s %v, %s %v", runs, w.named(runs), stopped, w.named(stopped))
		}
	})
}
