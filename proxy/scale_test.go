package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"carrel/hub"
	"carrel/hub/hubtest"
)

// sizes are those that are compared: what a request costs must not depend on how many people there
// are. `make bench-routes` runs the benchmarks of this file.
var sizes = []int{100, 100_000}

// draws are from whom a benchmark picks someone at random, again and again: the same number of people in
// tables of both sizes, and everybody of the large ones, whom the processor's caches don't hold.
var draws = []struct {
	name      string
	n, active int
}{{"100-of-100", 100, 100}, {"100-of-100000", 100_000, 100}, {"100000-of-100000", 100_000, 100_000}}

// everyDraw measures, for each of the draws, what prepare gives; pick gives someone's number.
func everyDraw(b *testing.B, prepare func(p *Proxy, pick func() int) (once func())) {
	b.Helper()
	for _, d := range draws {
		b.Run(d.name, func(b *testing.B) {
			p := manyPeople(b, d.n)
			dice := rand.New(rand.NewPCG(1, 2))
			active := dice.Perm(d.n)[:d.active]
			once := prepare(p, func() int { return active[dice.IntN(len(active))] })
			began := cpuTime(b)
			for b.Loop() {
				once()
			}
			perCPU(b, began)
		})
	}
}

// manyPeople is a proxy, not running, that knows n people's routes and sessions. All of them is made
// up from a number, so that a benchmark can ask for anyone without keeping anything itself.
func manyPeople(b testing.TB, n int) *Proxy {
	b.Helper()
	origins, err := hub.NewOrigins(hub.Subdomains, "http://hub.test/", "")
	must(b, err)
	keys, err := hub.NewKeyring("test", make([]byte, 32))
	must(b, err)
	store := hubtest.NewStore()
	p, err := New(Config{
		Origins: origins, Keyring: keys.ForProxy(), Sessions: store, Tickets: store, Tokens: store, Users: store, Routes: store, Names: store, Changes: store, Events: store,
		RedisGrace: time.Hour, Drain: testDrain, Logger: slog.New(slog.DiscardHandler), Hub: endpoint(b, "http://127.0.0.1:1"), Edge: endpoint(b, "http://127.0.0.1:1"),
	})
	must(b, err)
	now, routes := time.Now(), make(map[hub.ServerKey]hub.Route, n)
	for i := range n {
		r := numberedRoute(b, i)
		routes[r.Key] = r
		parent := hub.Session{
			Hash: hub.NewSecret("parent" + cookieOf(i)).Hash(), User: r.Key.User, UserID: r.UserID, Provider: "test",
			Identity: hub.Identity{Issuer: "http://issuer.test", Subject: strconv.Itoa(i)}, Groups: []string{"staff", "course-" + strconv.Itoa(i%50)},
			Created: now, LastSeen: now, Expires: now.Add(24 * time.Hour), Idle: 12 * time.Hour,
		}
		h := hub.NewSecret(cookieOf(i)).Hash()
		s := hub.Session{Hash: h, Host: origins.Host(r.Key.User), Created: now, Expires: parent.Expires}.Under(parent)
		p.sessions.keep(h, entry[hub.Session]{value: s, checked: now.Add(time.Hour)}, nil, 0)
	}
	p.routes.replace(routes, now)
	return p
}

// perCPU reports the processor time of a pass, collecting garbage included, which other programs on
// the machine change less than the time of the clock.
func perCPU(b *testing.B, began time.Duration) {
	b.Helper()
	b.ReportMetric(float64((cpuTime(b)-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func nameOf(i int) string   { return fmt.Sprintf("person%06d", i) }
func cookieOf(i int) string { return fmt.Sprintf("%043d", i) }

func numberedRoute(b testing.TB, i int) hub.Route {
	b.Helper()
	key, err := hub.ParseServerKey(nameOf(i), "")
	must(b, err)
	return hub.Route{Key: key, UserID: hub.UserID("u-" + key.User.String()), Generation: 1, Endpoint: endpoint(b, "http://127.0.0.1:"+strconv.Itoa(1024+i%60000))}
}

// BenchmarkDecision is everything that stands between a request that has been read and its
// forwarding: the canonical path, the server it names, the session, the access and the route.
func BenchmarkDecision(b *testing.B) {
	everyDraw(b, func(p *Proxy, pick func() int) func() {
		o := p.cfg.Origins
		return func() {
			i := pick()
			name := nameOf(i)
			r := &http.Request{
				Method: http.MethodGet, Host: name + ".hub.test", URL: &url.URL{Path: "/user/" + name + "/api/contents"},
				Header: http.Header{"Cookie": {hub.CookieNotebook + "=" + cookieOf(i)}},
			}
			if _, err := canonical(r.URL); err != nil {
				b.Fatal(err)
			}
			place := o.Classify(r.Host)
			key, _, err := split(o, r.URL, p.known)
			if err != nil || place.Label != key.User.Label() {
				b.Fatal(err, place)
			}
			who, err := p.authenticate(r, o.Host(key.User))
			if err != nil {
				b.Fatal(err)
			}
			rt := p.routes.get(key)
			if err := hub.Access(who.Principal, key, rt.UserID, false); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkRouteLookup(b *testing.B) {
	everyDraw(b, func(p *Proxy, pick func() int) func() {
		keys := make([]hub.ServerKey, p.routes.now.count())
		for i := range keys {
			keys[i] = numberedRoute(b, i).Key
		}
		return func() {
			if p.routes.get(keys[pick()]) == nil {
				b.Fatal("a route is missing")
			}
		}
	})
}

func BenchmarkSessionCheck(b *testing.B) {
	everyDraw(b, func(p *Proxy, pick func() int) func() {
		return func() {
			if _, err := p.bySession(b.Context(), hub.NewSecret(cookieOf(pick())).Hash()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRouteAdd has 50 at once add a route to the table and remove it again.
func BenchmarkRouteAdd(b *testing.B) {
	for _, n := range sizes {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			p := manyPeople(b, n)
			const together = 50
			var routes [together]hub.Route
			for i := range routes {
				routes[i] = numberedRoute(b, n+i)
			}
			var mu sync.Mutex
			var waits []time.Duration
			for b.Loop() {
				var all sync.WaitGroup
				for _, r := range routes {
					all.Go(func() {
						began := time.Now()
						p.routes.apply(r.Key, &r)
						wait := time.Since(began)
						mu.Lock()
						defer mu.Unlock()
						waits = append(waits, wait)
					})
				}
				all.Wait()
				for _, r := range routes {
					p.routes.apply(r.Key, nil)
				}
			}
			slices.Sort(waits)
			b.ReportMetric(float64(waits[len(waits)*99/100].Microseconds()), "p99-µs")
		})
	}
}

// Parts of a table hold together: what is set is found, what is changed is changed alone, and the
// whole is what was stored.
func TestShards(t *testing.T) {
	var s shards[string, int]
	if s.get("a") != 0 || len(maps.Collect(s.all())) != 0 {
		t.Error("an empty table holds something")
	}
	want := map[string]int{}
	for i := range 3 * shardCount {
		want[strconv.Itoa(i)] = i + 1
	}
	s.store(want)
	s.change("new", func(m map[string]int) { m["new"] = 7 })
	s.change("5", func(m map[string]int) { delete(m, "5") })
	want["new"] = 7
	delete(want, "5")
	for k, v := range want {
		if s.get(k) != v {
			t.Fatalf("%s is %d, want %d", k, s.get(k), v)
		}
	}
	if got := maps.Collect(s.all()); !maps.Equal(got, want) {
		t.Errorf("%d entries, want %d", len(got), len(want))
	}
	s.store(map[string]int{"only": 1})
	if got := maps.Collect(s.all()); len(got) != 1 || got["only"] != 1 {
		t.Errorf("%v", got)
	}
	s.change("again", func(m map[string]int) { m["again"] = 2 })
	if s.get("again") != 2 {
		t.Error("a part that was emptied takes nothing")
	}
}

// Who reads a table while it changes sees every entry that nobody touches.
func TestShardsAreReadWhileTheyChange(t *testing.T) {
	var s shards[int, int]
	const kept = 1000
	whole := map[int]int{}
	for i := range kept {
		whole[i] = i + 1
	}
	s.store(whole)
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	writers.Go(func() {
		for i := kept; ctx.Err() == nil; i++ {
			key := kept + i%500
			s.change(key, func(m map[int]int) {
				if m[key] == 0 {
					m[key] = 1
				} else {
					delete(m, key)
				}
			})
			if i%1000 == 0 {
				s.store(whole)
			}
		}
	})
	for i := range 200 * kept {
		if got := s.get(i % kept); got != i%kept+1 {
			t.Errorf("%d is %d", i%kept, got)
			break
		}
	}
	stop()
	writers.Wait()
}
