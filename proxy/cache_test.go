package proxy

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"carrel/hub"
)

// source is a store that can be away, and counts.
type source struct {
	there map[hub.SecretHash]string
	away  bool
	asked atomic.Int64
	gate  chan struct{} // when set, an answer waits for it, and is from before
}

func (s *source) ask(ctx context.Context, h hub.SecretHash) (string, error) {
	s.asked.Add(1)
	v, ok := s.there[h]
	away := s.away
	if s.gate != nil {
		<-s.gate
	}
	switch {
	case away:
		return "", hub.Wrap(hub.Unavailable, "ask", errors.New("refused"))
	case !ok:
		return "", hub.Errorf(hub.NotFound, "ask", "there is none")
	}
	return v, ctx.Err()
}

const testGrace = 5 * time.Minute

// inTime runs a test of a cache whose store knows alice, in a bubble's time.
func inTime(t *testing.T, name string, test func(t *testing.T, c *cache[string], s *source)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &source{there: map[hub.SecretHash]string{"a": "alice"}}
			test(t, newCache(testGrace, s.ask), s)
		})
	})
}

func get(t *testing.T, c *cache[string], h hub.SecretHash, want string, kind hub.Kind) {
	t.Helper()
	v, err := c.get(t.Context(), h)
	if v != want || (err != nil) != (want == "") || err != nil && hub.KindOf(err) != kind {
		t.Errorf("%q %v, want %q", v, err, want)
	}
}

func asked(t *testing.T, s *source, want int64) {
	t.Helper()
	if n := s.asked.Load(); n != want {
		t.Errorf("asked %d times, want %d", n, want)
	}
}

func TestCacheInTime(t *testing.T) {
	inTime(t, "fresh for 30 s", func(t *testing.T, c *cache[string], s *source) {
		get(t, c, "a", "alice", 0)
		time.Sleep(cacheFresh)
		get(t, c, "a", "alice", 0)
		asked(t, s, 1)
		delete(s.there, "a")
		time.Sleep(time.Second)
		get(t, c, "a", "", hub.NotFound)
		asked(t, s, 2)
	})
	inTime(t, "unknown for two", func(t *testing.T, c *cache[string], s *source) {
		get(t, c, "b", "", hub.NotFound)
		s.there["b"] = "bob"
		get(t, c, "b", "", hub.NotFound)
		asked(t, s, 1)
		time.Sleep(unknownFresh)
		get(t, c, "b", "bob", 0)
	})
	inTime(t, "ended at once, and for good", func(t *testing.T, c *cache[string], s *source) {
		get(t, c, "a", "alice", 0)
		c.end([]hub.SecretHash{"a"})
		get(t, c, "a", "", hub.NotFound)
		asked(t, s, 1)
	})
	inTime(t, "honoured for the grace, and no longer", func(t *testing.T, c *cache[string], s *source) {
		get(t, c, "a", "alice", 0)
		s.away = true
		for range 10 {
			time.Sleep(testGrace/10 - time.Millisecond)
			get(t, c, "a", "alice", 0)
			get(t, c, "b", "", hub.Unavailable)
		}
		time.Sleep(time.Second)
		get(t, c, "a", "", hub.Unavailable)
		c.sweep(time.Now())
		get(t, c, "a", "", hub.Unavailable)
		s.away = false
		time.Sleep(awayFor)
		get(t, c, "a", "alice", 0)
	})
	inTime(t, "a store that is away is left alone", func(t *testing.T, c *cache[string], s *source) {
		get(t, c, "a", "alice", 0)
		c.expire()
		s.away = true
		for range 100 {
			get(t, c, "a", "alice", 0)
		}
		asked(t, s, 2)
		time.Sleep(awayFor)
		s.away = false
		get(t, c, "a", "alice", 0)
		asked(t, s, 3)
	})
	inTime(t, "ended with the store away", func(t *testing.T, c *cache[string], s *source) {
		get(t, c, "a", "alice", 0)
		s.away = true
		c.end([]hub.SecretHash{"a"})
		get(t, c, "a", "", hub.NotFound)
		time.Sleep(cacheFresh)
		get(t, c, "a", "", hub.Unavailable)
	})
	inTime(t, "events were missed", func(t *testing.T, c *cache[string], s *source) {
		get(t, c, "a", "alice", 0)
		delete(s.there, "a")
		c.expire()
		get(t, c, "a", "", hub.NotFound)
	})
}

// unknown counts what a cache holds of what there is not.
func unknown(c *cache[string]) (n int) {
	for part := range c.each() {
		n += len(part.none)
	}
	return n
}

// TestCacheInACrowd: what happens at the same time, and a flood.
func TestCacheInACrowd(t *testing.T) {
	for name, end := range map[string]func(*cache[string]){
		"its end is told":   func(c *cache[string]) { c.end([]hub.SecretHash{"a"}) },
		"events are missed": func(c *cache[string]) { c.expire() },
	} {
		inTime(t, "while the store is asked, "+name, func(t *testing.T, c *cache[string], s *source) {
			s.gate = make(chan struct{})
			done := make(chan struct{})
			go func() { defer close(done); c.get(t.Context(), "a") }()
			synctest.Wait()
			delete(s.there, "a")
			end(c)
			close(s.gate)
			<-done
			get(t, c, "a", "", hub.NotFound)
		})
	}
	inTime(t, "a flood of made-up ones drives nobody out", func(t *testing.T, c *cache[string], s *source) {
		get(t, c, "a", "alice", 0)
		for i := range maxUnknown + 10 {
			c.get(t.Context(), hub.SecretHash(strconv.Itoa(i)))
		}
		before := s.asked.Load()
		get(t, c, "a", "alice", 0)
		asked(t, s, before)
		if n := unknown(c); n > maxUnknown {
			t.Errorf("%d made-up ones are kept", n)
		}
		time.Sleep(time.Minute)
		c.sweep(time.Now())
		if n := unknown(c); n != 0 {
			t.Errorf("%d made-up ones are still kept", n)
		}
	})
	inTime(t, "many ask at once, the store once", func(t *testing.T, c *cache[string], s *source) {
		s.gate = make(chan struct{})
		for range 50 {
			go c.get(t.Context(), "a")
		}
		synctest.Wait()
		close(s.gate)
		synctest.Wait()
		asked(t, s, 1)
	})
}

func TestTheTableAndTheStore(t *testing.T) {
	at := func(s string) hub.Endpoint { return endpoint(t, s) }
	alice, bob := hubRoute(serverKey(t, "alice", ""), at("http://127.0.0.1:1")), hubRoute(serverKey(t, "bob", ""), at("http://127.0.0.1:2"))
	moved := alice
	moved.Generation, moved.Endpoint = 2, at("http://127.0.0.1:3")
	all := func(list ...hub.Route) map[hub.ServerKey]hub.Route {
		m := map[hub.ServerKey]hub.Route{}
		for _, r := range list {
			m[r.Key] = r
		}
		return m
	}
	now := time.Now()
	has := func(t *testing.T, table *routeTable, want ...hub.Route) {
		t.Helper()
		if n := len(maps.Collect(table.all())); n != len(want) {
			t.Errorf("%d routes, want %d", n, len(want))
		}
		for _, r := range want {
			if x := table.get(r.Key); x == nil || x.Route != r {
				t.Errorf("%v leads to %v, want %v", r.Key, x, r)
			}
		}
	}
	t.Run("what the store lacks stays a minute, however little it has", func(t *testing.T) {
		var table routeTable
		table.replace(all(alice, bob), now)
		for i, read := range []map[hub.ServerKey]hub.Route{nil, all(bob), nil} {
			if gone := table.replace(read, now.Add(time.Duration(i)*time.Second)); len(gone) > 0 {
				t.Errorf("%d went", len(gone))
			}
		}
		has(t, &table, alice, bob)
		if gone := table.replace(nil, now.Add(missingGrace)); len(gone) != 1 || gone[0].Route != alice {
			t.Errorf("%v went, want alice's", gone) // bob's was there meanwhile
		}
		has(t, &table, bob)
		table.replace(nil, now.Add(2*missingGrace+2*time.Second))
		has(t, &table)
	})
	t.Run("what an event says while the store is read is newer", func(t *testing.T) {
		var table routeTable
		table.replace(all(alice, bob), now)
		table.reading()
		table.apply(bob.Key, nil)
		table.apply(alice.Key, &moved)
		table.replace(all(alice, bob), now)
		has(t, &table, moved)
		table.replace(all(alice, bob), now) // a later reading counts again
		has(t, &table, alice, bob)
	})
	t.Run("what an event brings while the store is read is not missing", func(t *testing.T) {
		var table routeTable
		table.reading()
		table.apply(alice.Key, &alice)
		table.replace(nil, now)
		table.replace(nil, now.Add(missingGrace))
		has(t, &table, alice)
	})
	t.Run("activity outlives a change", func(t *testing.T) {
		var table routeTable
		table.replace(all(alice), now)
		table.get(alice.Key).touch()
		used := table.get(alice.Key).stats.used.Load()
		if old := table.apply(alice.Key, &alice); old != nil {
			t.Error("an equal route replaced the known one")
		}
		if old := table.apply(alice.Key, &moved); old == nil || old.Route != alice || table.get(alice.Key).stats.used.Load() != used {
			t.Errorf("%v", old)
		}
	})
}
