package hubtest

import (
	"fmt"
	"testing"
	"time"

	"carrel/hub"
)

func madeRoute(key hub.ServerKey, g hub.Generation) hub.Route {
	return hub.Route{Key: key, UserID: "u", Generation: g, Endpoint: endpoint(fmt.Sprintf("http://10.0.0.%d:8888", g%250)), Image: fmt.Sprintf("sha256:%064x", g)}
}

// Routes tests that a store keeps the contract of [hub.RouteStore].
func Routes(t *testing.T, open func(testing.TB) hub.RouteStore) {
	runAll(t, open, []testCase[hub.RouteStore]{
		{"a route is listed as it was published", routePut},
		{"a lower generation is refused", routeLower},
		{"the highest of many generations stays", routeRace},
		{"a route is removed by its generation or a higher one", routeDeleted},
		{"a removal that comes late removes nothing newer", routeDeleteRace},
		{"every route is listed", routesListed},
		{"activity goes forwards, never back", activityForwards},
		{"the latest of many is kept", activityRace},
		{"every server's activity is listed", activitiesListed},
	})
}

func routePut(t *testing.T, s hub.RouteStore) {
	same(t, all(t, s.Routes(t.Context())), []hub.Route(nil))
	r := madeRoute(serverKey("alice", "gpu"), 1)
	for range 2 {
		ok(t, s.PutRoute(t.Context(), r))
		same(t, all(t, s.Routes(t.Context())), []hub.Route{r})
	}
	r.Endpoint = endpoint("unix:///run/x.sock") // the same start may move
	ok(t, s.PutRoute(t.Context(), r))
	same(t, all(t, s.Routes(t.Context())), []hub.Route{r})
}

func routeLower(t *testing.T, s hub.RouteStore) {
	key := serverKey("alice", "")
	for _, g := range []hub.Generation{3, 9, 10, 1 << 40} { // as text, 9 is above 10
		ok(t, s.PutRoute(t.Context(), madeRoute(key, g)))
		for _, lower := range []hub.Generation{0, 1, g - 1} {
			kind(t, s.PutRoute(t.Context(), madeRoute(key, lower)), hub.Conflict)
		}
		same(t, all(t, s.Routes(t.Context())), []hub.Route{madeRoute(key, g)})
	}
	ok(t, s.PutRoute(t.Context(), madeRoute(serverKey("alice", "gpu"), 1)))
}

func routeRace(t *testing.T, s hub.RouteStore) {
	for round := range 10 {
		key := serverKey(fmt.Sprintf("user-%d", round), "")
		race(8, func(n int) {
			err := s.PutRoute(t.Context(), madeRoute(key, hub.Generation(n+1)))
			if err != nil && (hub.KindOf(err) != hub.Conflict || n == 7) {
				t.Errorf("generation %d: %v", n+1, err)
			}
		})
		for _, r := range all(t, s.Routes(t.Context())) {
			if r.Generation != 8 {
				t.Errorf("the route that stayed is of generation %d", r.Generation)
			}
		}
	}
}

func routeDeleted(t *testing.T, s hub.RouteStore) {
	key := serverKey("alice", "")
	ok(t, s.DeleteRoute(t.Context(), key, 1)) // there is none
	for _, c := range []struct {
		g, by hub.Generation
		stays bool
	}{{9, 8, true}, {9, 0, true}, {9, 9, false}, {9, 10, false}, {10, 9, true}} {
		ok(t, s.PutRoute(t.Context(), madeRoute(key, c.g)))
		for range 2 {
			ok(t, s.DeleteRoute(t.Context(), key, c.by))
			if list := all(t, s.Routes(t.Context())); (len(list) == 1) != c.stays {
				t.Errorf("a route of generation %d, removed by %d: %v is there", c.g, c.by, list)
			}
		}
		ok(t, s.DeleteRoute(t.Context(), key, c.g))
	}
	ok(t, s.PutRoute(t.Context(), madeRoute(key, 1))) // nothing is remembered of the higher one
}

func routeDeleteRace(t *testing.T, s hub.RouteStore) {
	key := serverKey("alice", "")
	for g := hub.Generation(1); g <= 40; g += 2 {
		ok(t, s.PutRoute(t.Context(), madeRoute(key, g)))
		race(2, func(n int) {
			var err error
			if n == 0 {
				err = s.DeleteRoute(t.Context(), key, g)
			} else {
				err = s.PutRoute(t.Context(), madeRoute(key, g+1))
			}
			if err != nil {
				t.Error(err)
			}
		})
		same(t, all(t, s.Routes(t.Context())), []hub.Route{madeRoute(key, g+1)})
	}
}

func routesListed(t *testing.T, s hub.RouteStore) {
	want := map[hub.ServerKey]string{}
	for i := range 450 {
		r := madeRoute(serverKey(fmt.Sprintf("user-%d", i/2), []string{"", "gpu"}[i%2]), 1)
		ok(t, s.PutRoute(t.Context(), r))
		want[r.Key] = asJSON(t, r)
	}
	for _, r := range all(t, s.Routes(t.Context())) {
		if want[r.Key] != asJSON(t, r) {
			t.Errorf("listed %s, want %s", asJSON(t, r), want[r.Key])
		}
		delete(want, r.Key)
	}
	if len(want) > 0 {
		t.Errorf("%d are not listed", len(want))
	}
	stopsEarly(t, s.Routes(t.Context()))
}

// activity is what is listed, to the millisecond that a store may count in.
func activity(t *testing.T, s hub.RouteStore) map[hub.ServerKey]int64 {
	t.Helper()
	got := map[hub.ServerKey]int64{}
	for _, a := range all(t, s.Activities(t.Context())) {
		if _, twice := got[a.Key]; twice {
			t.Errorf("%s is listed twice", a.Key)
		}
		got[a.Key] = a.Last.UnixMilli()
	}
	return got
}

func activityForwards(t *testing.T, s hub.RouteStore) {
	key, other := serverKey("alice", ""), serverKey("a.long.name@of.a.university.example.org.that.is.cut.in.labels", "gpu")
	if got := activity(t, s); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	ok(t, s.RecordActivity(t.Context(), nil))
	begin := time.Now()
	latest := time.Time{}
	for _, ahead := range []time.Duration{0, time.Second, -time.Hour, time.Second, 1500 * time.Millisecond, 1400 * time.Millisecond} {
		at := begin.Add(ahead)
		if at.After(latest) {
			latest = at
		}
		ok(t, s.RecordActivity(t.Context(), []hub.Activity{{Key: key, Last: at}}))
		if got := activity(t, s); len(got) != 1 || got[key] != latest.UnixMilli() {
			t.Errorf("after %v: got %v, want %d", ahead, got, latest.UnixMilli())
		}
	}
	ok(t, s.RecordActivity(t.Context(), []hub.Activity{{Key: other, Last: begin}, {Key: key, Last: begin}, {Key: other, Last: begin.Add(-time.Hour)}}))
	if got := activity(t, s); len(got) != 2 || got[key] != latest.UnixMilli() || got[other] != begin.UnixMilli() {
		t.Errorf("got %v", got)
	}
}

func activityRace(t *testing.T, s hub.RouteStore) {
	key := serverKey("alice", "")
	begin := time.Now()
	race(10, func(n int) {
		for i := range 10 {
			if err := s.RecordActivity(t.Context(), []hub.Activity{{Key: key, Last: begin.Add(time.Duration(i*10+n) * time.Second)}}); err != nil {
				t.Error(err)
			}
		}
	})
	if got, want := activity(t, s)[key], begin.Add(99*time.Second).UnixMilli(); got != want {
		t.Errorf("got %d, want %d", got, want)
	}
}

func activitiesListed(t *testing.T, s hub.RouteStore) {
	begin := time.Now()
	var acts []hub.Activity
	for i := range 450 {
		acts = append(acts, hub.Activity{Key: serverKey(fmt.Sprintf("user-%d", i), ""), Last: begin.Add(time.Duration(i%3) * time.Second)})
	}
	ok(t, s.RecordActivity(t.Context(), acts))
	got := activity(t, s)
	for _, a := range acts {
		if got[a.Key] != a.Last.UnixMilli() {
			t.Errorf("%s: got %d, want %d", a.Key, got[a.Key], a.Last.UnixMilli())
		}
	}
	if len(got) != len(acts) {
		t.Errorf("%d are listed, want %d", len(got), len(acts))
	}
	stopsEarly(t, s.Activities(t.Context()))
}
