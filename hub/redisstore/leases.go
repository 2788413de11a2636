package redisstore

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// A lease is the key "lease:<name>", which holds who has it and ends by itself.
type lease struct {
	s           *Store
	key, holder string
}

// acquireLease takes a lease, and finds that it was taken when go-redis sends the command a second
// time because the answer to the first was lost. KEYS lease; ARGV holder, ttl ms.
var acquireLease = redis.NewScript(`
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) == ARGV[1] then return 1 end
return 0`)

// Acquire implements [hub.Leases].
func (s *Store) Acquire(ctx context.Context, name string, ttl time.Duration) (hub.Lease, error) {
	const op = "take lease"
	ms, err := millis(op, ttl)
	if err != nil {
		return nil, err
	}
	l := &lease{s, s.key("lease", name), rand.Text()}
	n, err := acquireLease.Run(ctx, s.rdb, []string{l.key}, l.holder, ms).Int()
	if err != nil {
		return nil, s.fail(op, err)
	}
	if n == 0 {
		return nil, conflict(op, "another process is at it")
	}
	return l, nil
}

var extendLease = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])`)

// Extend implements [hub.Lease].
func (l *lease) Extend(ctx context.Context, ttl time.Duration) error {
	const op = "extend lease"
	ms, err := millis(op, ttl)
	if err != nil {
		return err
	}
	n, err := extendLease.Run(ctx, l.s.rdb, []string{l.key}, l.holder, ms).Int()
	if err != nil {
		return l.s.fail(op, err)
	}
	if n == 0 {
		return conflict(op, "the lease was lost")
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
