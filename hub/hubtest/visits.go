package hubtest

import (
	"strings"
	"sync"
	"testing"
	"time"

	"carrel/hub"
)

func madeVisit(n int) hub.Visit {
	name, err := hub.ParseUserName("visitor-" + strings.Repeat("a", 25) + string(rune('a'+n)))
	if err != nil {
		panic(err) // made just above
	}
	return hub.Visit{Name: name, Phase: hub.VisitWaiting, From: "192.0.2.7/32", Path: "a b.ipynb", Arrived: time.Now().UTC().Truncate(time.Millisecond)}
}

// Visits is the suite of [hub.VisitStore] and of what the other stores forget with a visitor.
func Visits(t *testing.T, open func(testing.TB) FullStore) {
	t.Run("kept as written", func(t *testing.T) { visitsKept(t, open(t)) })
	t.Run("changed by who knows it as it is", func(t *testing.T) { visitsChanged(t, open(t)) })
	t.Run("arrivals are counted for a while", func(t *testing.T) { arrivalsCounted(t, open(t)) })
	t.Run("a visitor's generations are forgotten", func(t *testing.T) { visitorsGenerations(t, open(t)) })
}

func visitsKept(t *testing.T, s FullStore) {
	t.Helper()
	want := madeVisit(0)
	if _, err := s.Visit(t.Context(), want.Name); hub.KindOf(err) != hub.NotFound {
		t.Errorf("before: %v", err)
	}
	want, err := s.PutVisit(t.Context(), want)
	if err != nil || want.Revision == 0 {
		t.Fatalf("put: %+v, %v", want, err)
	}
	if have, err := s.Visit(t.Context(), want.Name); err != nil || have != want {
		t.Errorf("have %+v, want %+v (%v)", have, want, err)
	}
	if all, err := collect(s.Visits(t.Context())); err != nil || len(all) != 1 || all[0] != want {
		t.Errorf("listed: %+v, %v", all, err)
	}
}

func visitsChanged(t *testing.T, s FullStore) {
	t.Helper()
	first, err := s.PutVisit(t.Context(), madeVisit(0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutVisit(t.Context(), madeVisit(0)); hub.KindOf(err) != hub.Conflict {
		t.Errorf("made twice: %v", err)
	}
	next := first
	next.Phase = hub.VisitOpen
	if _, err := s.PutVisit(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutVisit(t.Context(), first); hub.KindOf(err) != hub.Conflict {
		t.Errorf("an old one was written: %v", err)
	}
	if err := s.DeleteVisit(t.Context(), first); hub.KindOf(err) != hub.Conflict {
		t.Errorf("an old one was deleted: %v", err)
	}
	now, err := s.Visit(t.Context(), first.Name)
	if err != nil || now.Phase != hub.VisitOpen {
		t.Fatalf("have %+v, %v", now, err)
	}
	if err := s.DeleteVisit(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutVisit(t.Context(), now); hub.KindOf(err) != hub.Conflict {
		t.Errorf("a deleted one came back: %v", err)
	}
	if all, err := collect(s.Visits(t.Context())); err != nil || len(all) != 0 {
		t.Errorf("listed: %+v, %v", all, err)
	}
}

func arrivalsCounted(t *testing.T, s FullStore) {
	t.Helper()
	var wg sync.WaitGroup
	for range 9 {
		wg.Go(func() {
			if _, err := s.CountArrival(t.Context(), "2001:db8::/64", 3*time.Second); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n, err := s.CountArrival(t.Context(), "2001:db8::/64", 3*time.Second); err != nil || n != 10 {
		t.Errorf("the tenth is number %d, %v", n, err)
	}
	if n, err := s.CountArrival(t.Context(), "2001:db8::/56", time.Hour); err != nil || n != 1 {
		t.Errorf("another's is number %d, %v", n, err)
	}
	until := time.Now().Add(30 * time.Second)
	for n := 0; n != 1; time.Sleep(100 * time.Millisecond) {
		var err error
		if n, err = s.CountArrival(t.Context(), "2001:db8::/64", time.Millisecond); err != nil || time.Now().After(until) {
			t.Fatalf("never forgotten: %d, %v", n, err)
		}
	}
	if _, err := s.CountArrival(t.Context(), "x", 0); hub.KindOf(err) != hub.Invalid {
		t.Errorf("for no time: %v", err)
	}
}

func visitorsGenerations(t *testing.T, s FullStore) {
	t.Helper()
	alice, err := hub.ParseServerKey("alice", "")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[hub.ServerKey]hub.Generation{madeVisit(0).Key(): 1, alice: 8} {
		if _, err := s.NextGeneration(t.Context(), key, 6); err != nil {
			t.Fatal(err)
		}
		rec, err := s.PutServer(t.Context(), hub.Server{Key: key})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.DeleteServer(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
		if g, err := s.NextGeneration(t.Context(), key, 0); err != nil || g != want {
			t.Errorf("%s: the next start is %d, want %d (%v)", key, g, want, err)
		}
	}
}
