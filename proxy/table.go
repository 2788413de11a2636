package proxy

import (
	"iter"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"carrel/hub"
)

// missingGrace is how long a route is kept that a reading of the store lacks. A store that lost its
// routes gets them back from the hub within seconds, one after another; a stop that was missed is
// over by then, and no address is given to another server for ten minutes.
const missingGrace = time.Minute

// routeTable is copy-on-write: a request reads it without a lock.
type routeTable struct {
	now shards[hub.ServerKey, *route]

	mu      sync.Mutex                  // writers, and what follows
	changed map[hub.ServerKey]bool      // by events since the store began to be read; nil: it is not
	missing map[hub.ServerKey]time.Time // since when the store lacks them
}

// route is one server's. Of its Paused, which changes while all else stays, rest knows.
type route struct {
	hub.Route
	files atomic.Int32 // whose its static files are; see serveStatic
	told  int64        // what the store knows; the activity loop's own
	stats *routeStats
	rest  *rest
	token atomic.Pointer[string] // see serverToken
}

// routeStats counts what went by a server's routes, one after another, since this proxy knows of it.
type routeStats struct {
	used           atomic.Int64 // when a person last used it, in unix nanoseconds
	requests       atomic.Uint64
	received, sent atomic.Uint64 // bytes, from and to clients; of websockets and of bodies
	tunnels        atomic.Int64  // open
}

// lastUsed is the zero of unix time where nobody did.
func (r *route) lastUsed() time.Time { return time.Unix(0, r.stats.used.Load()) }

func (r *route) touch() { r.stats.used.Store(time.Now().UnixNano()) }

func (t *routeTable) all() iter.Seq2[hub.ServerKey, *route] { return t.now.all() }
func (t *routeTable) get(key hub.ServerKey) *route          { return t.now.get(key) }
func (t *routeTable) known(key hub.ServerKey) bool          { return t.now.get(key) != nil }

// apply takes what an event says of one server, nil for no route, and returns the route that it
// replaces.
func (t *routeTable) apply(key hub.ServerKey, r *hub.Route) *route {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed != nil {
		t.changed[key] = true
	}
	delete(t.missing, key)
	if r == nil && !t.known(key) {
		return nil
	}
	var old *route
	t.now.change(key, func(m map[hub.ServerKey]*route) { old = set(m, key, r) })
	return old
}

// set writes one entry and returns what it replaces; an equal one stays.
func set(m map[hub.ServerKey]*route, key hub.ServerKey, r *hub.Route) *route {
	old := m[key]
	if r == nil {
		delete(m, key)
		return old
	}
	next := &route{Route: *r, stats: &routeStats{}, rest: &rest{}}
	next.Paused = 0
	if old != nil && old.Route == next.Route {
		old.rest.told(r.Paused)
		return nil
	}
	if old != nil {
		next.stats = old.stats
		if old.Generation == r.Generation {
			next.rest = old.rest
			next.files.Store(old.files.Load())
		}
	}
	next.rest.told(r.Paused)
	m[key] = next
	return old
}

// reading tells that the store is about to be read: what events say from now on is newer.
func (t *routeTable) reading() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed = map[hub.ServerKey]bool{}
}

// lacking tells whether routes are kept that the store lacked when it was read.
func (t *routeTable) lacking() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.missing) > 0
}

// replace makes the table that of the store as it was read, and returns the routes that went.
func (t *routeTable) replace(read map[hub.ServerKey]hub.Route, now time.Time) []*route {
	t.mu.Lock()
	defer t.mu.Unlock()
	next, missing := maps.Collect(t.all()), map[hub.ServerKey]time.Time{}
	var gone []*route
	drop := func(old *route) {
		if old != nil {
			gone = append(gone, old)
		}
	}
	for key := range next {
		if _, there := read[key]; there || t.changed[key] {
			continue
		}
		since, again := t.missing[key]
		if !again {
			since = now
		}
		if now.Sub(since) >= missingGrace {
			drop(set(next, key, nil))
			continue
		}
		missing[key] = since
	}
	for key, r := range read {
		if !t.changed[key] {
			drop(set(next, key, &r))
		}
	}
	t.changed, t.missing = nil, missing
	t.now.store(next)
	return gone
}
