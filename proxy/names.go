package proxy

import (
	"strings"
	"sync"

	"carrel/hub"
)

// nameTable holds the labels of the named servers that there are, running or not. Without it a path
// below a stopped one would be taken for a page of the default server. It is copy-on-write as the
// routes are: a request reads it without a lock, and nothing asks the store.
type nameTable struct {
	now shards[string, bool]

	mu      sync.Mutex      // writers, and what follows
	changed map[string]bool // by events since the store began to be read, to what; nil: it is not
}

func (t *nameTable) known(key hub.ServerKey) bool { return t.now.get(key.Label()) }

// apply takes what an event says of one server: whether it has a record.
func (t *nameTable) apply(key hub.ServerKey, there bool) {
	if key.Server.String() == "" {
		return
	}
	label := key.Label()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed != nil {
		t.changed[label] = there
	}
	if t.now.get(label) != there {
		t.now.change(label, func(m map[string]bool) { mark(m, label, there) })
	}
}

func mark(m map[string]bool, label string, there bool) {
	if there {
		m[label] = true
		return
	}
	delete(m, label)
}

// reading tells that the store is about to be read: what events say from now on is newer.
func (t *nameTable) reading() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed = map[string]bool{}
}

// replace makes the table that of the store as it was read.
func (t *nameTable) replace(read []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := map[string]bool{}
	for _, label := range read {
		if strings.Contains(label, "--") { // a named server's, see hub.ServerKey.Label
			next[label] = true
		}
	}
	for label, there := range t.changed {
		mark(next, label, there)
	}
	t.changed = nil
	t.now.store(next)
}
