package front

import (
	"slices"
	"sync"
	"time"
)

// requestContext is a request's. Nothing is made for it that nobody asks for.
type requestContext struct {
	values interface{ Value(key any) any } // the connection's

	mu   sync.Mutex
	err  error
	done chan struct{}
	then []*ending
	one  [1]*ending // the first of then: most have no other
}

// closed is the channel of whoever asks after the end.
var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Deadline implements [context.Context].
func (c *requestContext) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value implements [context.Context].
func (c *requestContext) Value(key any) any { return c.values.Value(key) }

// Done implements [context.Context].
func (c *requestContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.done != nil:
	case c.err != nil:
		c.done = closed
	default:
		c.done = make(chan struct{})
	}
	return c.done
}

// Err implements [context.Context].
func (c *requestContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// AfterFunc has f called at the end, unless stop is before. Package context asks for it by this name
// where a context is made of this one. Other than with [context.AfterFunc], f is called in the
// goroutine that ends the context, and must not wait.
func (c *requestContext) AfterFunc(f func()) (stop func() bool) {
	e := &ending{c, f}
	c.mu.Lock()
	over := c.err != nil
	switch {
	case over:
	case c.then == nil:
		c.one[0] = e
		c.then = c.one[:]
	default:
		c.then = append(c.then, e)
	}
	c.mu.Unlock()
	if over {
		f()
	}
	return e.stop
}

// ending is what is to be called at the end of a context.
type ending struct {
	of *requestContext
	f  func()
}

func (e *ending) stop() bool {
	e.of.mu.Lock()
	defer e.of.mu.Unlock()
	i := slices.Index(e.of.then, e)
	if i >= 0 {
		e.of.then = slices.Delete(e.of.then, i, i+1)
	}
	return i >= 0
}

// cancel ends the context; only the first counts.
func (c *requestContext) cancel(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	if c.done != nil {
		close(c.done)
	}
	then := c.then
	c.then = nil
	c.mu.Unlock()
	for _, e := range then {
		e.f()
	}
}
