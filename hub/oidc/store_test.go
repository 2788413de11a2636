package oidc

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"carrel/hub"
	"carrel/hub/redisstore"
)

// stores is what sign-in writes to. It counts the writes.
type stores interface {
	SessionStore
	hub.TicketStore
	hub.UserStore
	hub.Leases
}

type counted struct {
	stores
	writes   atomic.Int64
	stumbles atomic.Int64 // updates that fail from here on
}

func newStores(t testing.TB) *counted {
	t.Helper()
	r := miniredis.RunT(t)
	s, err := redisstore.New(redisstore.Config{URL: "redis://" + r.Addr(), Prefix: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return &counted{stores: s}
}

func (c *counted) CreateSession(ctx context.Context, s hub.Session) error {
	c.writes.Add(1)
	return c.stores.CreateSession(ctx, s)
}

func (c *counted) TouchSession(ctx context.Context, h hub.SecretHash, at time.Time) error {
	c.writes.Add(1)
	return c.stores.TouchSession(ctx, h, at)
}

func (c *counted) UpdateSession(ctx context.Context, h hub.SecretHash, change func(*hub.Session)) error {
	c.writes.Add(1)
	if c.stumbles.Load() > 0 {
		c.stumbles.Add(-1)
		return &hub.Error{Kind: hub.Unavailable, Op: "update session"}
	}
	return c.stores.UpdateSession(ctx, h, change)
}

func (c *counted) EndSessions(ctx context.Context, q hub.SessionQuery) ([]hub.SecretHash, error) {
	c.writes.Add(1)
	return c.stores.EndSessions(ctx, q)
}

func (c *counted) PutTicket(ctx context.Context, h hub.SecretHash, t hub.Ticket, ttl time.Duration) error {
	c.writes.Add(1)
	return c.stores.PutTicket(ctx, h, t, ttl)
}

func (c *counted) Once(ctx context.Context, key string, ttl time.Duration) (bool, error) {
	c.writes.Add(1)
	return c.stores.Once(ctx, key, ttl)
}

func (c *counted) BindUser(ctx context.Context, u hub.User) (hub.User, error) {
	c.writes.Add(1)
	return c.stores.BindUser(ctx, u)
}

// sessions are the live ones.
func (c *counted) sessions(t testing.TB) []hub.Session {
	t.Helper()
	var list []hub.Session
	for s, err := range c.Sessions(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	return list
}

// notes are bindings beside homes.
type notes map[hub.UserName]hub.Binding

func (n notes) Binding(_ context.Context, name hub.UserName) (hub.Binding, error) {
	b, ok := n[name]
	if !ok {
		return b, &hub.Error{Kind: hub.NotFound, Op: "read binding"}
	}
	return b, nil
}

func (n notes) Bind(_ context.Context, b hub.Binding) error {
	n[b.Name] = b
	return nil
}
