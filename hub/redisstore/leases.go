package redisstore

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"iter"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

type lease struct {
	s           *Store
	key, holder string
}

// Acquire implements [hub.Leases].
func (s *Store) Acquire(ctx context.Context, name string, ttl time.Duration) (hub.Lease, error) {
	l := &lease{s, s.key("lease", name), rand.Text()}
	ok, err := s.rdb.SetNX(ctx, l.key, l.holder, ttl).Result()
	if err != nil {
		return nil, s.fail("take lease", err)
	}
	if !ok {
		return nil, conflict("take lease", "another process is at it")
	}
	return l, nil
}

var extendLease = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])`)

// Extend implements [hub.Lease].
func (l *lease) Extend(ctx context.Context, ttl time.Duration) error {
	n, err := extendLease.Run(ctx, l.s.rdb, []string{l.key}, l.holder, ttl.Milliseconds()).Int()
	if err != nil {
		return l.s.fail("extend lease", err)
	}
	if n == 0 {
		return conflict("extend lease", "the lease was lost")
	}
	return nil
}

var releaseLease = redis.NewScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1`)

// Release implements [hub.Lease].
func (l *lease) Release(ctx context.Context) error {
	return l.s.fail("release lease", releaseLease.Run(ctx, l.s.rdb, []string{l.key}, l.holder).Err())
}

func (s *Store) channel() string { return s.key("events") }

// Subscribe implements [hub.Events]. A silent connection is pinged by go-redis, and a broken one
// made anew; each (re)connection begins with Reset, as nothing tells what was missed.
func (s *Store) Subscribe(ctx context.Context) iter.Seq[hub.Event] {
	return func(yield func(hub.Event) bool) {
		for wait := 50 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 2*time.Second) {
			sub := s.rdb.Subscribe(ctx, s.channel())
			if _, err := sub.ReceiveTimeout(ctx, 2*opWithin); err == nil {
				wait = 50 * time.Millisecond
				if !yield(hub.Event{Kind: hub.Reset}) || !s.relay(ctx, sub, yield) {
					sub.Close() //nolint:errcheck // its end is wanted
					return
				}
			}
			sub.Close() //nolint:errcheck // it is broken
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
	}
}

// relay hands events on until the connection breaks (true) or the consumer has enough (false).
func (s *Store) relay(ctx context.Context, sub *redis.PubSub, yield func(hub.Event) bool) bool {
	for ctx.Err() == nil {
		msg, err := sub.ReceiveTimeout(ctx, 15*time.Second)
		if err != nil {
			if isTimeout(err) && sub.Ping(ctx) == nil {
				if _, err := sub.ReceiveTimeout(ctx, opWithin); err == nil {
					continue
				}
			}
			return true
		}
		m, ok := msg.(*redis.Message)
		if !ok {
			continue
		}
		var e hub.Event
		if err := json.Unmarshal([]byte(m.Payload), &e); err != nil {
			s.logger.ErrorContext(ctx, "event not understood", "error", err)
			e = hub.Event{Kind: hub.Reset}
		}
		if !yield(e) {
			return false
		}
	}
	return false
}

func isTimeout(err error) bool {
	t, ok := err.(interface{ Timeout() bool }) //nolint:errorlint // net's errors come bare
	return ok && t.Timeout()
}
