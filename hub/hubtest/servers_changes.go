package hubtest

import (
	"errors"
	"sync"
	"testing"

	"carrel/hub"
)

// Changes tests that a store keeps the contract of [hub.Changes].
func Changes(t *testing.T, open func(testing.TB) FullStore) {
	runAll(t, open, []testCase[FullStore]{
		{"each change has a name of its own and follows another", changesNamed},
		{"what changes nothing is no change", changesNone},
		{"many changes at once are one chain", changesRace},
		{"what a change names is in the store", changesStored},
	})
}

// lastChange is the name of the last change.
func lastChange(t *testing.T, s hub.Changes) string {
	t.Helper()
	name, err := s.LastChange(t.Context())
	ok(t, err)
	return name
}

func changesNamed(t *testing.T, s FullStore) {
	if last := lastChange(t, s); last != "" {
		t.Errorf("the last change of an empty store is %q", last)
	}
	heard := listen(t, s)
	key := serverKey("alice", "gpu")
	var x hub.Server
	before, names := "", map[string]bool{}
	for what, change := range map[string]func() error{
		"a record": func() (err error) { x, err = s.PutServer(t.Context(), madeServer(key)); return err },
		"a route":  func() error { return s.PutRoute(t.Context(), madeRoute(key, 1)) },
	} {
		ok(t, change())
		before = follows(t, heard.next(t), what, before, names)
		same(t, lastChange(t, s), before)
	}
	ok(t, s.PutRoute(t.Context(), madeRoute(key, 1))) // the same again
	before = follows(t, heard.next(t), "a route again", before, names)
	ok(t, s.DeleteServer(t.Context(), x))
	before = follows(t, heard.next(t), "a record that goes", before, names)
	ok(t, s.DeleteRoute(t.Context(), key, 1))
	before = follows(t, heard.next(t), "a route that goes", before, names)
	same(t, lastChange(t, s), before)
}

// follows tests that an event's change follows the one named, under a name of its own, which it gives.
func follows(t *testing.T, e hub.Event, what, before string, names map[string]bool) string {
	t.Helper()
	if e.Change == "" || names[e.Change] || e.After != before {
		t.Errorf("%s: the change is %q after %q, want a new one after %q", what, e.Change, e.After, before)
	}
	names[e.Change] = true
	return e.Change
}

func changesNone(t *testing.T, s FullStore) {
	key := serverKey("alice", "")
	ok(t, s.PutRoute(t.Context(), madeRoute(key, 2)))
	x := madeSession("alice")
	ok(t, s.CreateSession(t.Context(), x))
	last := lastChange(t, s)
	kind(t, s.PutRoute(t.Context(), madeRoute(key, 1)), hub.Conflict)
	ok(t, s.DeleteRoute(t.Context(), key, 1))
	ok(t, s.DeleteRoute(t.Context(), serverKey("bob", ""), 1))
	_, err := s.PutServer(t.Context(), hub.Server{Key: key, Revision: 9})
	kind(t, err, hub.Conflict)
	kind(t, s.DeleteServer(t.Context(), hub.Server{Key: key}), hub.Conflict)
	ok(t, s.RecordActivity(t.Context(), []hub.Activity{{Key: key}}))
	_, err = s.EndSessions(t.Context(), hub.SessionQuery{Hash: x.Hash})
	ok(t, err)
	same(t, lastChange(t, s), last)
}

// changesRace: in the order in which the changes are told, each follows the one before it.
func changesRace(t *testing.T, s FullStore) {
	heard := listen(t, s)
	const writers, each = 8, 10
	var done sync.WaitGroup
	for n := range writers {
		key := serverKey("alice", string(rune('a'+n)))
		done.Go(func() {
			for g := range hub.Generation(each) {
				var err error
				switch {
				case n%2 == 0:
					_, err = s.PutServer(t.Context(), madeServer(serverKey("bob", string(rune('a'+n))+string(rune('a'+g)))))
				case g%3 == 2:
					err = s.DeleteRoute(t.Context(), key, g)
				default:
					err = s.PutRoute(t.Context(), madeRoute(key, g+1))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	before, names := "", map[string]bool{}
	for range writers * each {
		before = follows(t, heard.next(t), "a change among many", before, names)
	}
	done.Wait()
	same(t, lastChange(t, s), before)
}

// changesStored: whoever reads the last change's name, and then the routes, reads what it named.
func changesStored(t *testing.T, s FullStore) {
	heard := listen(t, s)
	key := serverKey("alice", "")
	const n = 200
	type reading struct {
		change string
		found  hub.Generation
	}
	var readings []reading
	var others sync.WaitGroup
	others.Go(func() {
		for g := range hub.Generation(n) {
			if err := s.PutRoute(t.Context(), madeRoute(key, g+1)); err != nil {
				t.Error(err)
			}
		}
	})
	others.Go(func() {
		for found := hub.Generation(0); found < n; {
			change, err := s.LastChange(t.Context())
			for r, failed := range s.Routes(t.Context()) {
				found, err = r.Generation, errors.Join(err, failed)
			}
			if err != nil {
				t.Error(err)
				return
			}
			readings = append(readings, reading{change, found})
		}
	})
	named := map[string]hub.Generation{}
	for range n {
		e := heard.next(t)
		named[e.Change] = e.Route.Generation
	}
	others.Wait()
	for _, r := range readings {
		if named[r.change] > r.found {
			t.Errorf("the last change was that to %d, and %d was read", named[r.change], r.found)
		}
	}
}
