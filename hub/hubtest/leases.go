package hubtest

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carrel/hub"
)

// Leases tests that a store keeps the contracts of [hub.Leases] and [hub.Lease].
func Leases(t *testing.T, open func(testing.TB) hub.Leases) {
	runAll(t, open, []testCase[hub.Leases]{
		{"a lease is one holder's", leaseExclusive},
		{"names are apart", leaseNames},
		{"one of many gets it", leaseRace},
		{"holders never overlap", leaseOverlap},
		{"it ends by itself, and not before", leaseEnds},
		{"extended, it lasts", leaseExtended},
		{"a lost one can't be extended", leaseLost},
		{"giving back a lost one takes it from nobody", leaseLostRelease},
		{"one without a life is refused", leaseEndless},
	})
}

func acquire(t *testing.T, s hub.Leases, name string, ttl time.Duration) hub.Lease {
	t.Helper()
	l, err := s.Acquire(t.Context(), name, ttl)
	ok(t, err)
	return l
}

func leaseExclusive(t *testing.T, s hub.Leases) {
	for range 3 {
		l := acquire(t, s, "server/alice", time.Hour)
		_, err := s.Acquire(t.Context(), "server/alice", time.Hour)
		kind(t, err, hub.Conflict)
		ok(t, l.Extend(t.Context(), time.Hour))
		_, err = s.Acquire(t.Context(), "server/alice", time.Hour)
		kind(t, err, hub.Conflict)
		ok(t, l.Release(t.Context()))
		ok(t, l.Release(t.Context()))
		kind(t, l.Extend(t.Context(), time.Hour), hub.Conflict)
	}
}

func leaseNames(t *testing.T, s hub.Leases) {
	for _, n := range []string{"a", "a/b", "b", "a:b", "ä", "*", ""} {
		acquire(t, s, n, time.Hour)
	}
}

func leaseRace(t *testing.T, s hub.Leases) {
	for i := range 20 {
		var taken atomic.Int32
		race(8, func(int) {
			_, err := s.Acquire(t.Context(), strconv.Itoa(i), time.Hour)
			switch {
			case err == nil:
				taken.Add(1)
			case hub.KindOf(err) != hub.Conflict:
				t.Error(err)
			}
		})
		if n := taken.Load(); n != 1 {
			t.Fatalf("%d hold the lease", n)
		}
	}
}

func leaseOverlap(t *testing.T, s hub.Leases) {
	var inside sync.Mutex
	turns := 0
	race(6, func(int) {
		for end := time.Now().Add(patience); time.Now().Before(end); {
			l, err := s.Acquire(t.Context(), "turn", time.Hour)
			if hub.KindOf(err) == hub.Conflict && err != nil {
				time.Sleep(time.Millisecond)
				continue
			}
			if err != nil {
				t.Error(err)
				return
			}
			if !inside.TryLock() {
				t.Error("two hold the lease at once")
				return
			}
			turns++
			more := turns < 60
			inside.Unlock()
			if err := l.Release(t.Context()); err != nil {
				t.Error(err)
			}
			if !more {
				return
			}
		}
	})
	if turns < 60 {
		t.Errorf("%d turns were taken, want 60", turns)
	}
}

func leaseEnds(t *testing.T, s hub.Leases) {
	const ttl = 500 * time.Millisecond
	begin := time.Now()
	acquire(t, s, "name", ttl)
	endsAt(t, "the lease", begin.Add(ttl), func() error {
		_, err := s.Acquire(t.Context(), "name", time.Hour)
		if err == nil {
			return &hub.Error{Kind: hub.NotFound}
		}
		kind(t, err, hub.Conflict)
		return nil
	})
}

func leaseExtended(t *testing.T, s hub.Leases) {
	const ttl = 500 * time.Millisecond
	begin := time.Now()
	l := acquire(t, s, "name", ttl)
	ok(t, l.Extend(t.Context(), time.Hour))
	eventually(t, "time passes", func() bool { return time.Since(begin) > ttl+200*time.Millisecond })
	_, err := s.Acquire(t.Context(), "name", time.Hour)
	kind(t, err, hub.Conflict)
	ok(t, l.Extend(t.Context(), time.Millisecond)) // from now: shorter, too
	eventually(t, "the lease ends", func() bool {
		_, err := s.Acquire(t.Context(), "name", time.Hour)
		return err == nil
	})
}

func leaseLost(t *testing.T, s hub.Leases) {
	l := acquire(t, s, "name", 50*time.Millisecond)
	eventually(t, "the lease is lost", func() bool {
		next, err := s.Acquire(t.Context(), "name", time.Hour)
		return err == nil && next != nil
	})
	kind(t, l.Extend(t.Context(), time.Hour), hub.Conflict)

	begin := time.Now()
	l = acquire(t, s, "nobody's", 50*time.Millisecond)
	eventually(t, "time passes", func() bool { return time.Since(begin) > 150*time.Millisecond })
	kind(t, l.Extend(t.Context(), time.Hour), hub.Conflict)
	acquire(t, s, "nobody's", time.Hour)
}

func leaseLostRelease(t *testing.T, s hub.Leases) {
	l := acquire(t, s, "name", 50*time.Millisecond)
	var next hub.Lease
	eventually(t, "the lease is lost", func() (taken bool) {
		var err error
		next, err = s.Acquire(t.Context(), "name", time.Hour)
		return err == nil
	})
	ok(t, l.Release(t.Context()))
	_, err := s.Acquire(t.Context(), "name", time.Hour)
	kind(t, err, hub.Conflict)
	ok(t, next.Extend(t.Context(), time.Hour))
}

func leaseEndless(t *testing.T, s hub.Leases) {
	for _, ttl := range []time.Duration{0, -1, -time.Hour} {
		_, err := s.Acquire(t.Context(), "name", ttl)
		kind(t, err, hub.Invalid)
	}
	l := acquire(t, s, "name", time.Hour)
	kind(t, l.Extend(t.Context(), 0), hub.Invalid)
	_, err := s.Acquire(t.Context(), "name", time.Hour)
	kind(t, err, hub.Conflict)
}
