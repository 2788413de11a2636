package hub_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"carrel/hub"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// A class has its servers at its time by the clock of its place, whatever that clock does.
func TestSpareAtATime(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	class := hub.SpareTime{Count: 40, Days: []time.Weekday{time.Monday, time.Sunday}, From: 9*time.Hour + 45*time.Minute, Until: 11 * time.Hour, Zone: berlin}
	night := hub.SpareTime{Count: 7, Days: []time.Weekday{time.Saturday}, From: 22 * time.Hour, Until: 3 * time.Hour, Zone: berlin}
	daily := hub.SpareTime{Count: 5, From: 0, Until: 0, Zone: zone(t, "Asia/Kolkata")} // the whole day
	for _, c := range []struct {
		name, at string // UTC
		times    []hub.SpareTime
		want     int
	}{
		{"before", "2026-11-30T08:44:59Z", []hub.SpareTime{class}, 2}, // a Monday, 09:44:59 there
		{"from its first second", "2026-11-30T08:45:00Z", []hub.SpareTime{class}, 40},
		{"to its last", "2026-11-30T09:59:59Z", []hub.SpareTime{class}, 40},
		{"after", "2026-11-30T10:00:00Z", []hub.SpareTime{class}, 2},
		{"in summer an hour earlier", "2026-07-06T07:45:00Z", []hub.SpareTime{class}, 40},
		{"on another day", "2026-12-01T08:50:00Z", []hub.SpareTime{class}, 2},
		{"on the day that clocks go back", "2026-10-25T08:45:00Z", []hub.SpareTime{class}, 40},
		{"over midnight, in the evening", "2026-11-28T21:00:00Z", []hub.SpareTime{night}, 7}, // a Saturday
		{"over midnight, in the morning", "2026-11-29T01:59:59Z", []hub.SpareTime{night}, 7},
		{"over midnight, its end", "2026-11-29T02:00:00Z", []hub.SpareTime{night}, 2},
		{"over midnight, of the day before", "2026-11-28T01:00:00Z", []hub.SpareTime{night}, 2},
		{"the whole day", "2026-11-28T01:00:00Z", []hub.SpareTime{daily}, 5},
		{"the larger of two", "2026-11-30T09:00:00Z", []hub.SpareTime{daily, class}, 40},
	} {
		now, err := time.Parse(time.RFC3339, c.at)
		if err != nil {
			t.Fatal(err)
		}
		if got := (hub.Spare{Always: 2, At: c.times}).Wanted(now, 0); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestSpareByArrivals(t *testing.T) {
	for _, c := range []struct{ always, most, arrivals, want int }{
		{2, 10, 0, 2}, {2, 10, 1, 2}, {2, 10, 5, 5}, {2, 10, 50, 10}, {2, 0, 50, 2}, {0, 10, 3, 3}, {12, 10, 50, 12},
	} {
		if got := (hub.Spare{Always: c.always, Max: c.most}).Wanted(time.Time{}, c.arrivals); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// More servers wait while more people come, and no more than the ceiling; later as few as ever.
func TestPoolFollowsArrivals(t *testing.T) {
	withPool(t, func(t *testing.T, w *world) {
		w.setPolicy(func(p *hub.Policy) { p.Profiles[0].Spare.Max = 3 })
		h := w.hub()
		waits := func() int {
			time.Sleep(30 * time.Second) // in which the pool is looked at
			w.pool.mu.Lock()
			defer w.pool.mu.Unlock()
			return w.pool.spare["small"]
		}
		for i, want := range []int{2, 2, 3, 3} {
			w.ready(h, []hub.ServerKey{keyOf(t, "alice", ""), keyOf(t, "bob", ""), keyOf(t, "carol", ""), keyOf(t, "alice", "two")}[i])
			if got := waits(); got != want {
				t.Errorf("after %d starts %d wait, want %d", i+1, got, want)
			}
		}
		time.Sleep(hub.ArrivalWindow)
		if got := waits(); got != 2 {
			t.Errorf("much later %d wait, want 2", got)
		}
		if stock, ok := h.SlotStock(); !ok || stock != (hub.SlotStock{Ready: 2, Memory: 2 << 20}) {
			t.Errorf("the stock is %+v, %v", stock, ok)
		}
		w.setPolicy(func(p *hub.Policy) { p.Profiles[0].Spare = hub.Spare{} })
		if stock, ok := h.SlotStock(); ok {
			t.Errorf("with nothing to keep ready the stock is %+v", stock)
		}
	})
}

// Nobody empties the pool by stopping and starting: beyond a share they start cold, and others are served.
func TestClaimsAreRationed(t *testing.T) {
	withPool(t, func(t *testing.T, w *world) {
		h, alice, bob := w.hub(), keyOf(t, "alice", ""), keyOf(t, "bob", "")
		again := func(key hub.ServerKey) (claimed bool) {
			before := w.pool.claimed()
			w.ready(h, key)
			if _, err := h.Stop(t.Context(), key, "enough"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second) // it ends, and another slot is made
			return w.pool.claimed() > before
		}
		const share = 20
		for i := range share {
			if !again(alice) {
				t.Fatalf("start %d of %d was cold", i+1, share)
			}
		}
		if again(alice) {
			t.Errorf("%d slots in %s are not all that one person gets", share+1, hub.ClaimWindow)
		}
		if !again(bob) {
			t.Error("another person's start was cold")
		}
		time.Sleep(hub.ClaimWindow)
		if !again(alice) {
			t.Error("much later a start is cold still")
		}
	})
}

// Of a profile with a limit no more servers run, whoever starts them and at whichever hub; those that are kept
// ready count too.
func TestShareOfAProfile(t *testing.T) {
	withPool(t, func(t *testing.T, w *world) {
		w.setPolicy(func(p *hub.Policy) { p.Profiles[0].Max = 1 })
		hubs := []*process{w.hub(), w.hub()}
		people := []string{"alice", "bob", "carol"}
		var mu sync.Mutex
		var refused []string
		var wg sync.WaitGroup
		for i, name := range people {
			wg.Go(func() {
				_, err := hubs[i%2].Start(t.Context(), ask(keyOf(t, name, "")))
				mu.Lock()
				defer mu.Unlock()
				var told *hub.Error
				if errors.As(err, &told) && told.Kind == hub.TooMany && told.Field == "profile" {
					refused = append(refused, name)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		settle()
		if n := len(w.machine.Containers()); n != 1 || len(refused) != 2 {
			t.Fatalf("%d servers run, %d starts were refused; want 1 and 2", n, len(refused))
		}
		waits := func() int {
			time.Sleep(time.Minute)
			w.pool.mu.Lock()
			defer w.pool.mu.Unlock()
			return w.pool.spare["small"]
		}
		if n := waits(); n != 0 {
			t.Errorf("%d are kept ready although none may run", n)
		}
		if _, err := hubs[0].Stop(t.Context(), w.machine.Containers()[0].Key, "enough"); err != nil {
			t.Fatal(err)
		}
		if n := waits(); n != 1 {
			t.Errorf("%d are kept ready where one more may run", n)
		}
		w.ready(hubs[1], keyOf(t, refused[0], ""))
	})
}

// With the store away nobody knows how many run: what waits stays as it is, within the profile's limit.
func TestPoolDuringAnOutage(t *testing.T) {
	withPool(t, func(t *testing.T, w *world) {
		w.setPolicy(func(p *hub.Policy) { p.Profiles[0].Max = 2 })
		h := w.hub()
		w.ready(h, keyOf(t, "alice", ""))
		waits := func() int {
			time.Sleep(time.Minute)
			w.pool.mu.Lock()
			defer w.pool.mu.Unlock()
			return w.pool.spare["small"]
		}
		if n := waits(); n != 1 {
			t.Fatalf("%d wait beside the one that runs", n)
		}
		w.store.FailBefore(func(string) error { return hub.Errorf(hub.Unavailable, "redis", "it is away") })
		if n := waits(); n != 1 {
			t.Errorf("during the outage %d wait", n)
		}
		w.store.FailBefore(nil)
	})
}
