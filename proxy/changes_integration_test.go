//go:build integration

package proxy

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
	"carrel/internal/program"
	"carrel/internal/redistest"
)

// TestRoutesThroughRedisFaults: routes come, move and go while Redis is killed and started again, is
// emptied, and gives way to a replica that lacks its last changes. Whatever each of these lost, both
// proxies have in the end what the store has, and no server that runs all the time is ever without a
// route.
func TestRoutesThroughRedisFaults(t *testing.T) {
	for name, c := range map[string]struct {
		fault func(t *testing.T, p *pair, socket string)
		fills bool // the hub puts routes back, as its reconciler does
	}{
		"cut":       {fault: func(_ *testing.T, p *pair, _ string) { p.way.cut(); p.way.open() }},
		"restarted": {fault: restarted},
		"emptied":   {fault: emptied, fills: true},
		"failover":  {fault: failover, fills: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, true)
			socket := p.redis.Socket() // whoever listens there
			steady := p.put(t, "steady", 1)
			moving := make([]hub.Route, 10)
			for i := range moving {
				moving[i] = p.put(t, fmt.Sprintf("moving%d", i), 1)
			}
			p.put(t, "quiet", 1) // of which no event tells afterwards
			p.agree(t)
			ctx, stop := context.WithCancel(t.Context())
			var writers sync.WaitGroup
			defer writers.Wait()
			defer stop()
			writers.Go(func() { p.churn(ctx, moving, steady, c.fills) })
			writers.Go(func() {
				for ctx.Err() == nil {
					for i, x := range p.proxies {
						if !x.routes.known(steady.Key) {
							t.Errorf("proxy %d lost the route of a server that runs", i)
							return
						}
					}
					time.Sleep(time.Millisecond)
				}
			})
			for range 3 {
				c.fault(t, p, socket)
				time.Sleep(200 * time.Millisecond) // of changes, at whatever point
			}
			stop()
			writers.Wait()
			must(t, p.hub.PutRoute(t.Context(), steady))
			p.agree(t)
		})
	}
}

// put publishes a route.
func (p *pair) put(t *testing.T, name string, g hub.Generation) hub.Route {
	t.Helper()
	r := hubRoute(serverKey(t, name, ""), endpoint(t, "http://127.0.0.1:1"))
	r.Generation = g
	must(t, p.hub.PutRoute(t.Context(), r))
	return r
}

// churn starts and stops servers until ctx ends. A store that is away makes it try on.
func (p *pair) churn(ctx context.Context, moving []hub.Route, steady hub.Route, fills bool) {
	for g := hub.Generation(2); ctx.Err() == nil; g++ {
		for i, r := range moving {
			r.Generation = g
			if (int(g)+i)%3 == 0 {
				_ = p.hub.DeleteRoute(ctx, r.Key, g) // or it stays, as far as the store goes
			} else {
				_ = p.hub.PutRoute(ctx, r) // likewise
			}
		}
		if fills {
			_ = p.hub.PutRoute(ctx, steady) // likewise
		}
	}
}

// agree waits until both proxies have the very routes that the store has, but for those that a reading
// lacked, which they are about to forget (see [missingGrace]).
func (p *pair) agree(t *testing.T) {
	t.Helper()
	within(t, routesEvery+patience, "both proxies have the store's routes", func() bool {
		stored := map[hub.ServerKey]hub.Route{}
		for r, err := range p.hub.Routes(t.Context()) {
			if err != nil {
				return false
			}
			stored[r.Key] = r
		}
		for _, x := range p.proxies {
			if !x.routes.are(stored) {
				return false
			}
		}
		return true
	})
}

// are tells whether the table holds these routes, and besides only some that it is about to forget.
func (t *routeTable) are(want map[hub.ServerKey]hub.Route) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	found := 0
	for key, r := range t.all() {
		x, wanted := want[key]
		_, leaving := t.missing[key]
		if wanted && x != r.Route || !wanted && !leaving {
			return false
		}
		if wanted {
			found++
		}
	}
	return found == len(want)
}

// restarted kills Redis, which comes back with what it had written.
func restarted(t *testing.T, p *pair, _ string) {
	t.Helper()
	p.redis.End(syscall.SIGKILL)
	p.redis.Start()
}

func client(t *testing.T, socket string) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: socket})
	t.Cleanup(func() { c.Close() })
	return c
}

// emptied loses everything without a connection being cut, and makes a change that no event tells.
func emptied(t *testing.T, p *pair, socket string) {
	t.Helper()
	c := client(t, socket)
	must(t, c.FlushAll(t.Context()).Err())
	r := p.put(t, "untold", 1)
	value, err := c.Get(t.Context(), "test:route:"+r.Key.Label()).Result()
	must(t, err)
	must(t, c.Set(t.Context(), "test:route:"+r.Key.Label(), strings.ReplaceAll(value, `"generation":1`, `"generation":2`), 0).Err())
}

// failover makes a replica the master that has not got the last changes, and takes the place of the old
// one: hub and proxies find it where that was.
func failover(t *testing.T, p *pair, socket string) {
	t.Helper()
	old, port := client(t, socket), strconv.Itoa(program.FreePort())
	must(t, old.ConfigSet(t.Context(), "repl-diskless-sync-delay", "0").Err())
	must(t, old.ConfigSet(t.Context(), "port", port).Err())
	next := redistest.New(t)
	c := client(t, next.Socket())
	must(t, c.Do(t.Context(), "REPLICAOF", "127.0.0.1", port).Err())
	within(t, patience, "the replica is in step", func() bool {
		role, err := c.Do(t.Context(), "ROLE").Slice()
		return err == nil && len(role) > 3 && role[3] == "connected"
	})
	must(t, c.Do(t.Context(), "REPLICAOF", "NO", "ONE").Err())
	time.Sleep(50 * time.Millisecond) // of changes that the old one alone gets
	p.redis.End(syscall.SIGKILL)
	p.redis = next
	must(t, os.Rename(next.Socket(), socket))
}
