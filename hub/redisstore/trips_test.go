package redisstore

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// trips counts a store's round trips.
type trips struct{ n atomic.Int64 }

func (c *trips) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *trips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { c.n.Add(1); return next(ctx, cmd) }
}

func (c *trips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { c.n.Add(1); return next(ctx, cmds) }
}

// TestRoundTrips of what is done for every page, or for every session in use.
func TestRoundTrips(t *testing.T) {
	s := openStore(t, Config{URL: "redis://" + startMini(t).Addr()})
	x := session("alice")
	must(t, s.CreateSession(t.Context(), x))
	c := hub.Session{Hash: hub.RandomSecret().Hash(), Host: "alice.example.org", Expires: x.Expires}.Under(x)
	must(t, s.CreateSession(t.Context(), c))
	must(t, s.TouchSession(t.Context(), x.Hash, time.Now())) // the script is known from here on
	count := &trips{}
	s.rdb.AddHook(count)
	find := func(h hub.SecretHash) func() error {
		return func() error { _, err := s.Session(t.Context(), h); return err }
	}
	for _, c := range []struct {
		name string
		call func() error
		most int64
	}{
		{"find a hub session", find(x.Hash), 1},
		{"find a notebook host's session", find(c.Hash), 2},
		{"find nothing", func() error {
			if err := find("unknown")(); hub.KindOf(err) != hub.NotFound {
				return err
			}
			return nil
		}, 1},
		{"record use", func() error { return s.TouchSession(t.Context(), x.Hash, time.Now()) }, 1},
		{"list sessions", func() error { return first(s.Sessions(t.Context())) }, 2},
	} {
		count.n.Store(0)
		must(t, c.call())
		if n := count.n.Load(); n == 0 || n > c.most {
			t.Errorf("to %s took %d round trips, want %d at most", c.name, n, c.most)
		}
	}
}

func first[T any](list func(func(T, error) bool)) (err error) {
	list(func(_ T, e error) bool { err = e; return false })
	return err
}
