package chp

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// routeData is what was posted for a route, every value as it came.
type routeData map[string]json.RawMessage

// route leads a prefix to a target.
type route struct {
	path   string // as the API names it
	data   routeData
	target target
	broken error        // why the target can't be used; found when it is, as the original does
	last   atomic.Int64 // milliseconds
	told   atomic.Int64 // of which the store knows
}

func (r *route) touch() { r.seen(time.Now().UnixMilli()) }

// seen notes activity at some time; it only grows.
func (r *route) seen(ms int64) {
	for {
		last := r.last.Load()
		if ms <= last || r.last.CompareAndSwap(last, ms) {
			return
		}
	}
}

// MarshalJSON gives what was posted and last_activity, nothing else: clients compare.
func (r *route) MarshalJSON() ([]byte, error) {
	all := maps.Clone(r.data)
	all["last_activity"] = json.RawMessage(time.UnixMilli(r.last.Load()).UTC().Format(`"2006-01-02T15:04:05.000Z"`))
	return encode(all)
}

// encode is json.Marshal without its escapes for HTML.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// table holds the routes by name, and as a trie of their segments.
type table struct {
	hosts bool // the first segment is a host

	mu   sync.RWMutex
	all  map[string]*route
	root node
}

type node struct {
	route    *route
	branches map[string]*node
}

// clean is the form in which a route is named: one slash in front, and one less at the end.
func clean(path string) string {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	return path
}

// segments are what a path is matched by; slashes at its ends don't count.
func segments(path string) []string {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

// named is the name of a route that is added: the original cleans at two places.
func named(path string) string { return clean(clean(path)) }

func (t *table) add(path string, data routeData, to string) {
	t.put(named(path), data, to, time.Now().UnixMilli())
}

// put sets a route that was last used at some time, in milliseconds.
func (t *table) put(path string, data routeData, to string, last int64) {
	r := &route{path: path, data: data, target: target{raw: to}}
	r.target, r.broken = parseTarget(to)
	if data["target"] == nil {
		data["target"], _ = encode(to) // a string can be encoded
	}
	if t.hosts && path != "/" {
		data["host"], _ = encode(strings.SplitN(path, "/", 3)[1]) // here too
	}
	r.seen(last)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all = map[string]*route{}
	}
	if before := t.all[path]; before != nil {
		r.seen(before.last.Load())
	}
	t.all[path] = r
	n := &t.root
	for _, s := range segments(path) {
		next := n.branches[s]
		if next == nil {
			next = &node{}
			if n.branches == nil {
				n.branches = map[string]*node{}
			}
			n.branches[s] = next
		}
		n = next
	}
	n.route = r
}

// remove forgets a route and tells whether there was one.
func (t *table) remove(path string) bool {
	path = clean(path)
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.all[path]
	if r == nil {
		return false
	}
	delete(t.all, path)
	t.root.prune(segments(path), r)
	return true
}

// prune takes a route out, and the branches that led to nothing else.
func (n *node) prune(path []string, r *route) {
	if len(path) == 0 {
		if n.route == r { // or another name for the same segments holds the place
			n.route = nil
		}
		return
	}
	child := n.branches[path[0]]
	if child == nil {
		return
	}
	child.prune(path[1:], r)
	if child.route == nil && len(child.branches) == 0 {
		delete(n.branches, path[0])
	}
}

func (t *table) get(path string) *route {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.all[clean(path)]
}

// list gives the routes that were last used before a time, or all.
func (t *table) list(before time.Time) map[string]*route {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if before.IsZero() {
		return maps.Clone(t.all)
	}
	some := map[string]*route{}
	for path, r := range t.all {
		if r.last.Load() < before.UnixMilli() {
			some[path] = r
		}
	}
	return some
}

// find gives the route of the longest prefix, and how many segments that has.
func (t *table) find(path []string) (found *route, depth int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n := &t.root
	found = n.route
	for i, s := range path {
		if n = n.branches[s]; n == nil {
			break
		}
		if n.route != nil {
			found, depth = n.route, i+1
		}
	}
	return found, depth
}

// used notes activity of the route of that name, which may have been replaced since the request came.
func (t *table) used(path string) {
	if r := t.get(path); r != nil {
		r.touch()
	}
}
