package proxy

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"carrel/hub"
)

const (
	cacheFresh   = 30 * time.Second // how long an answer of the store is believed
	unknownFresh = 2 * time.Second  // likewise, that there is no such thing
	askWithin    = 3 * time.Second
	awayFor      = time.Second // how long a store that failed is not asked about what is known
	maxKnown     = 200_000
	maxUnknown   = 100_000
)

// cache keeps what a store says of secrets near: what is known costs no round trip, what ended is
// dropped by event, and with the store away what is known is honoured for the grace and no longer.
type cache[V any] struct {
	ask    func(context.Context, hub.SecretHash) (V, error) // NotFound: there is none
	grace  time.Duration
	flight singleflight.Group
	lookups

	mu    sync.Mutex
	known map[hub.SecretHash]entry[V]
	none  map[hub.SecretHash]time.Time // what there is not, and until when that is believed
	epoch uint64                       // counts endings: an answer asked for before the last may be out of date
	away  time.Time                    // until when the store is left alone
}

type entry[V any] struct {
	value   V
	checked time.Time // when the store was asked
	stale   bool      // ask again before believing, if the store answers
}

func newCache[V any](grace time.Duration, ask func(context.Context, hub.SecretHash) (V, error)) *cache[V] {
	return &cache[V]{ask: ask, grace: grace, known: map[hub.SecretHash]entry[V]{}, none: map[hub.SecretHash]time.Time{}}
}

// get finds a value; NotFound, or Unavailable for what is not known while the store is away.
func (c *cache[V]) get(ctx context.Context, h hub.SecretHash) (V, error) {
	now := time.Now()
	c.mu.Lock()
	e, known := c.known[h]
	none := now.Before(c.none[h])
	away := now.Before(c.away)
	c.mu.Unlock()
	switch age := now.Sub(e.checked); {
	case none:
		c.hits.Add(1)
		return c.nothing()
	case known && !e.stale && age <= cacheFresh, known && away && age <= c.grace:
		c.hits.Add(1)
		return e.value, nil
	}
	c.misses.Add(1)
	v, err := c.fetch(ctx, h)
	if err == nil || hub.KindOf(err) == hub.NotFound {
		return v, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, known = c.known[h]; known && now.Sub(e.checked) <= c.grace { // it did not end meanwhile
		return e.value, nil
	}
	return v, err
}

func (c *cache[V]) nothing() (zero V, err error) {
	return zero, hub.Errorf(hub.NotFound, "find credentials", "they are unknown or over")
}

// fetch asks the store, once for all who ask at the same time.
func (c *cache[V]) fetch(ctx context.Context, h hub.SecretHash) (V, error) {
	v, err, _ := c.flight.Do(string(h), func() (any, error) {
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), askWithin)
		defer done()
		c.mu.Lock()
		epoch := c.epoch
		c.mu.Unlock()
		asked := time.Now()
		v, err := c.ask(ctx, h)
		c.keep(h, entry[V]{value: v, checked: asked}, err, epoch)
		return v, err
	})
	value, _ := v.(V)
	return value, err
}

// keep takes an answer of the store, asked for at epoch. If something ended since, the answer may
// be from before: it is kept as one to ask again about.
func (c *cache[V]) keep(h hub.SecretHash, e entry[V], err error, epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil && hub.KindOf(err) != hub.NotFound:
		c.away = time.Now().Add(awayFor)
		return
	case err != nil:
		c.forget(h, unknownFresh)
		return
	case time.Now().Before(c.none[h]):
		return // it ended while we asked
	}
	if len(c.known) >= maxKnown {
		clear(c.known)
	}
	e.stale = epoch != c.epoch
	c.known[h] = e
}

// forget is called with the lock held. Made-up secrets have a room of their own, so that a flood of
// them drives nobody out.
func (c *cache[V]) forget(h hub.SecretHash, d time.Duration) {
	delete(c.known, h)
	if len(c.none) >= maxUnknown {
		clear(c.none)
	}
	c.none[h] = time.Now().Add(d)
}

// expire makes everything be asked for anew before it is believed: events were missed.
func (c *cache[V]) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	c.away = time.Time{}
	clear(c.none)
	for h, e := range c.known {
		e.stale = true
		c.known[h] = e
	}
}

// end remembers what is over.
func (c *cache[V]) end(hashes []hub.SecretHash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	for _, h := range hashes {
		c.forget(h, cacheFresh)
	}
}

// change edits a known value in place; edit tells whether to keep the edit.
func (c *cache[V]) change(h hub.SecretHash, edit func(*V) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, known := c.known[h]
	if !known || !edit(&e.value) {
		return false
	}
	c.known[h] = e
	return true
}

// sweep drops what is too old to be of any use.
func (c *cache[V]) sweep(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for h, e := range c.known {
		if now.Sub(e.checked) > max(c.grace, cacheFresh) {
			delete(c.known, h)
		}
	}
	for h, until := range c.none {
		if !now.Before(until) {
			delete(c.none, h)
		}
	}
}
