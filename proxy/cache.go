package proxy

import (
	"context"
	"hash/maphash"
	"iter"
	"sync"
	"sync/atomic"
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
// dropped by event, and with the store away what is known is honoured for the grace and no longer. It is
// in parts with a lock each, so that what walks through all of it holds up few.
type cache[V any] struct {
	ask    func(context.Context, hub.SecretHash) (V, error) // NotFound: there is none
	grace  time.Duration
	flight singleflight.Group
	lookups
	epoch atomic.Uint64 // counts endings: an answer asked for before the last may be out of date
	away  atomic.Int64  // until when the store is left alone, in unix nanoseconds
	parts [cacheParts]cachePart[V]
}

const cacheParts = 64

// cachePart is what there is of the hashes that fall to it. A hash is in one of the two at most.
type cachePart[V any] struct {
	mu    sync.Mutex
	known map[hub.SecretHash]entry[V]
	none  map[hub.SecretHash]time.Time // what there is not, and until when that is believed
}

type entry[V any] struct {
	value   V
	checked time.Time // when the store was asked
	stale   bool      // ask again before believing, if the store answers
}

func newCache[V any](grace time.Duration, ask func(context.Context, hub.SecretHash) (V, error)) *cache[V] {
	c := &cache[V]{ask: ask, grace: grace}
	for i := range c.parts {
		c.parts[i].known, c.parts[i].none = map[hub.SecretHash]entry[V]{}, map[hub.SecretHash]time.Time{}
	}
	return c
}

func (c *cache[V]) part(h hub.SecretHash) *cachePart[V] {
	return &c.parts[maphash.String(shardSeed, string(h))%cacheParts]
}

// get finds a value; NotFound, or Unavailable for what is not known while the store is away.
func (c *cache[V]) get(ctx context.Context, h hub.SecretHash) (V, error) {
	now, part := time.Now(), c.part(h)
	part.mu.Lock()
	e, known := part.known[h]
	none := !known && now.Before(part.none[h])
	part.mu.Unlock()
	switch age := now.Sub(e.checked); {
	case none:
		c.hits.Add(1)
		return c.nothing()
	case known && !e.stale && age <= cacheFresh, known && age <= c.grace && now.UnixNano() < c.away.Load():
		c.hits.Add(1)
		return e.value, nil
	}
	c.misses.Add(1)
	v, err := c.fetch(ctx, h)
	if err == nil || hub.KindOf(err) == hub.NotFound {
		return v, err
	}
	part.mu.Lock()
	defer part.mu.Unlock()
	if e, known = part.known[h]; known && now.Sub(e.checked) <= c.grace { // it did not end meanwhile
		return e.value, nil
	}
	return v, err
}

// sure tells whether what is known is the store's own word, and no older than that is believed: with the
// store away it may be honoured all the same.
func (c *cache[V]) sure(h hub.SecretHash) bool {
	part := c.part(h)
	part.mu.Lock()
	defer part.mu.Unlock()
	e, known := part.known[h]
	return known && !e.stale && time.Since(e.checked) <= cacheFresh
}

func (c *cache[V]) nothing() (zero V, err error) {
	return zero, hub.Errorf(hub.NotFound, "find credentials", "they are unknown or over")
}

// fetch asks the store, once for all who ask at the same time.
func (c *cache[V]) fetch(ctx context.Context, h hub.SecretHash) (V, error) {
	v, err, _ := c.flight.Do(string(h), func() (any, error) {
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), askWithin)
		defer done()
		epoch, asked := c.epoch.Load(), time.Now()
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
	part := c.part(h)
	part.mu.Lock()
	defer part.mu.Unlock()
	switch {
	case err != nil && hub.KindOf(err) != hub.NotFound:
		c.away.Store(time.Now().Add(awayFor).UnixNano())
		return
	case err != nil:
		part.forget(h, unknownFresh)
		return
	case time.Now().Before(part.none[h]):
		return // it ended while we asked
	}
	if len(part.known) >= maxKnown/cacheParts {
		clear(part.known)
	}
	delete(part.none, h)
	e.stale = epoch != c.epoch.Load()
	part.known[h] = e
}

// forget is called with the lock held. Made-up secrets have a room of their own, so that a flood of
// them drives nobody out.
func (p *cachePart[V]) forget(h hub.SecretHash, d time.Duration) {
	delete(p.known, h)
	if len(p.none) >= maxUnknown/cacheParts {
		clear(p.none)
	}
	p.none[h] = time.Now().Add(d)
}

// expire makes everything be asked for anew before it is believed: events were missed.
func (c *cache[V]) expire() {
	c.epoch.Add(1) // before any part is looked at: what is being asked for now comes in as stale
	c.away.Store(0)
	for part := range c.each() {
		clear(part.none)
		for h, e := range part.known {
			e.stale = true
			part.known[h] = e
		}
	}
}

// end remembers what is over.
func (c *cache[V]) end(hashes []hub.SecretHash) {
	c.epoch.Add(1) // likewise
	for _, h := range hashes {
		part := c.part(h)
		part.mu.Lock()
		part.forget(h, cacheFresh)
		part.mu.Unlock()
	}
}

// change edits a known value in place; edit tells whether to keep the edit.
func (c *cache[V]) change(h hub.SecretHash, edit func(*V) bool) bool {
	part := c.part(h)
	part.mu.Lock()
	defer part.mu.Unlock()
	e, known := part.known[h]
	if !known || !edit(&e.value) {
		return false
	}
	part.known[h] = e
	return true
}

// sweep drops what is too old to be of any use.
func (c *cache[V]) sweep(now time.Time) {
	for part := range c.each() {
		for h, e := range part.known {
			if now.Sub(e.checked) > max(c.grace, cacheFresh) {
				delete(part.known, h)
			}
		}
		for h, until := range part.none {
			if !now.Before(until) {
				delete(part.none, h)
			}
		}
	}
}

// count is how many values are known.
func (c *cache[V]) count() (n int) {
	for part := range c.each() {
		n += len(part.known)
	}
	return n
}

// each gives the parts one after another, each with its lock held.
func (c *cache[V]) each() iter.Seq[*cachePart[V]] {
	return func(yield func(*cachePart[V]) bool) {
		more := true
		for i := 0; i < cacheParts && more; i++ {
			part := &c.parts[i]
			part.mu.Lock()
			more = yield(part)
			part.mu.Unlock()
		}
	}
}
