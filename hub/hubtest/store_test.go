package hubtest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"carrel/hub"
	"carrel/hub/hubtest"
)

func TestMemoryStoreKeepsTheContracts(t *testing.T) {
	hubtest.Stores(t, func(testing.TB) (hubtest.FullStore, func()) {
		s := hubtest.NewStore()
		return s, func() { s.Away(true); s.Away(false) }
	})
}

func key(t *testing.T) hub.ServerKey {
	t.Helper()
	k, err := hub.ParseServerKey("alice", "")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestMemoryStoreFailsBefore(t *testing.T) {
	s := hubtest.NewStore()
	broken := errors.New("broken")
	for op, call := range hubtest.Calls(s) {
		var asked []string
		s.FailBefore(func(op string) error { asked = append(asked, op); return broken })
		if err := call(t.Context()); !errors.Is(err, broken) {
			t.Errorf("%s: %v", op, err)
		}
		if len(asked) != 1 || asked[0] != op {
			t.Errorf("%s was asked for as %v", op, asked)
		}
	}
	s.FailBefore(nil)
	for x, err := range s.Servers(t.Context()) {
		t.Errorf("what failed happened: %v, %v", x, err)
	}
}

func TestMemoryStoreFailsAfter(t *testing.T) {
	s := hubtest.NewStore()
	lost := errors.New("the answer was lost")
	s.FailAfter(func(op string) error {
		if op == "PutServer" {
			return lost
		}
		return nil
	})
	if _, err := s.PutServer(t.Context(), hub.Server{Key: key(t)}); !errors.Is(err, lost) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Server(t.Context(), key(t)); err != nil {
		t.Errorf("what happened is not there: %v", err)
	}
}

func TestMemoryStoreAway(t *testing.T) {
	s := hubtest.NewStore()
	if _, err := s.PutServer(t.Context(), hub.Server{Key: key(t)}); err != nil {
		t.Fatal(err)
	}
	l, err := s.Acquire(t.Context(), "name", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	s.Away(true)
	for op, call := range hubtest.Calls(s) {
		if err := call(t.Context()); err == nil || hub.KindOf(err) != hub.Unavailable {
			t.Errorf("%s: %v", op, err)
		}
	}
	for op, err := range map[string]error{"Extend": l.Extend(t.Context(), time.Hour), "Release": l.Release(t.Context())} {
		if err == nil || hub.KindOf(err) != hub.Unavailable {
			t.Errorf("%s: %v", op, err)
		}
	}
	s.Away(false)
	if _, err := s.Server(t.Context(), key(t)); err != nil {
		t.Errorf("what was there is gone: %v", err)
	}
	if err := l.Extend(t.Context(), time.Hour); err != nil {
		t.Errorf("the lease is lost: %v", err)
	}
	s.Wipe()
	if _, err := s.Server(t.Context(), key(t)); err == nil || hub.KindOf(err) != hub.NotFound {
		t.Errorf("after a wipe: %v", err)
	}
	if err := l.Extend(t.Context(), time.Hour); err == nil || hub.KindOf(err) != hub.Conflict {
		t.Errorf("a lease outlives a wipe: %v", err)
	}
}

// TestMemoryStoreInABubble: time passes as the bubble's does, and nothing is left behind in it.
func TestMemoryStoreInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := hubtest.NewStore()
		s.Away(true)
		var heard []hub.EventKind
		ctx, stop := context.WithCancel(t.Context())
		go func() {
			for e := range s.Subscribe(ctx) {
				heard = append(heard, e.Kind)
			}
		}()
		synctest.Wait()
		if len(heard) > 0 {
			t.Errorf("heard %v from a store that is away", heard)
		}
		s.Away(false)
		synctest.Wait()
		if _, err := s.Acquire(t.Context(), "name", 24*time.Hour); err != nil {
			t.Fatal(err)
		}
		if err := s.PutRoute(t.Context(), hub.Route{Key: key(t), Generation: 1}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s.Wipe()
		synctest.Wait()
		if len(heard) != 3 || heard[0] != hub.Reset || heard[1] != hub.RouteChanged || heard[2] != hub.Reset {
			t.Errorf("heard %v", heard)
		}
		if _, err := s.Acquire(t.Context(), "name", 24*time.Hour); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24*time.Hour - time.Nanosecond)
		if _, err := s.Acquire(t.Context(), "name", time.Hour); hub.KindOf(err) != hub.Conflict || err == nil {
			t.Errorf("the lease ended early: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if _, err := s.Acquire(t.Context(), "name", time.Hour); err != nil {
			t.Errorf("the lease did not end: %v", err)
		}
		stop()
	})
}
