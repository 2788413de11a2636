package proxy

import (
	"slices"
	"sync"

	"carrel/hub"
)

// chainKept is how many changes are remembered; one is asked about a moment after it was made.
const chainKept = 256

// chain follows the names of the store's changes (see [hub.Changes]) as events tell them.
type chain struct {
	mu    sync.Mutex
	names [chainKept]string // the newest ones, and the one before the first
	next  int               // place of the next name
	last  string            // "": nothing was heard yet
	older bool              // a hub of an earlier release told of a change without a name
}

// begin forgets all: the connection is new, on which nothing follows what was heard on another, or
// everything is about to be read, so that nothing heard before counts.
func (c *chain) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.names, c.last, c.older = [chainKept]string{}, "", false
}

// hear takes a change, and tells whether none is missing before it.
func (c *chain) hear(e hub.Event) (whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case e.Change == "":
		c.older = true
		return true
	case e.Change == c.last: // it was the last when we asked, or a script ran twice
		return true
	case c.last == "":
		c.add(e.After)
		whole = true
	default:
		whole = e.After == c.last
	}
	c.add(e.Change)
	c.last = e.Change
	return whole
}

func (c *chain) add(name string) {
	c.names[c.next] = name
	c.next = (c.next + 1) % chainKept
}

// reached tells whether everything up to a change, the last one of the store a moment ago, was heard of
// or was there before. Where nothing was heard yet the chain begins with it.
func (c *chain) reached(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case name == "":
		return false
	case c.last == "":
		c.add(name)
		c.last = name
		return true
	}
	return slices.Contains(c.names[:], name)
}

// mixed tells whether changes without names were heard of.
func (c *chain) mixed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.older
}
