package proxy

import (
	"sync"
	"sync/atomic"
	"time"

	"carrel/hub"
)

// routeTable is copy-on-write: a request reads it without a lock.
type routeTable struct {
	mu  sync.Mutex // writers
	now atomic.Pointer[map[hub.ServerKey]*route]
}

// route is one server's, with when a person last used it, in unix nanoseconds.
type route struct {
	hub.Route
	used atomic.Int64
	told int64 // what the store knows; the activity loop's own
}

func (r *route) touch() { r.used.Store(time.Now().UnixNano()) }

func (t *routeTable) all() map[hub.ServerKey]*route {
	if m := t.now.Load(); m != nil {
		return *m
	}
	return nil
}

func (t *routeTable) get(key hub.ServerKey) *route { return t.all()[key] }
func (t *routeTable) known(key hub.ServerKey) bool { return t.all()[key] != nil }
func (t *routeTable) size() int                    { return len(t.all()) }
func (t *routeTable) put(r hub.Route)              { t.change(func(m map[hub.ServerKey]*route) { set(m, r) }) }
func (t *routeTable) remove(key hub.ServerKey) {
	t.change(func(m map[hub.ServerKey]*route) { delete(m, key) })
}
func set(m map[hub.ServerKey]*route, r hub.Route) {
	if old := m[r.Key]; old != nil && old.Route == r {
		return
	}
	m[r.Key] = &route{Route: r}
}

// replace makes the table that of the store, keeping what is unchanged with its activity.
func (t *routeTable) replace(next map[hub.ServerKey]hub.Route) {
	t.change(func(m map[hub.ServerKey]*route) {
		for key := range m {
			if _, stays := next[key]; !stays {
				delete(m, key)
			}
		}
		for _, r := range next {
			set(m, r)
		}
	})
}

func (t *routeTable) change(do func(map[hub.ServerKey]*route)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.all()
	next := make(map[hub.ServerKey]*route, len(old)+1)
	for k, v := range old {
		next[k] = v
	}
	do(next)
	t.now.Store(&next)
}
