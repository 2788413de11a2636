package h1

import (
	"context"
	"net"
	"sync"
	"time"
)

// Client makes round trips to one server. It starts no goroutine of its own: somebody calls Sweep
// now and then, and Retire at the end.
type Client struct {
	Dial     func(context.Context) (net.Conn, error)
	MaxIdle  int           // connections that are kept
	IdleTime time.Duration // for how long
	MaxHead  int           // bytes of an answer's head

	// AnswerTime is how long the head of an answer may take, to twice that, once a request is sent.
	AnswerTime time.Duration
	// ContinueTime is how long a body waits for "100 Continue" where the client asks for that.
	ContinueTime time.Duration

	mu      sync.Mutex
	idle    []*conn   // the last used last
	used    time.Time // last
	retired bool
}

// take gives the connection that was used last, or nil.
func (c *Client) take(now time.Time) *conn {
	for {
		c.mu.Lock()
		n := len(c.idle)
		c.used = now
		if n == 0 {
			c.mu.Unlock()
			return nil
		}
		k := c.idle[n-1]
		c.idle[n-1] = nil
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		if now.Sub(k.since) < c.IdleTime && k.quiet() {
			return k
		}
		k.drop()
	}
}

// give keeps a connection for the next request, or closes it where there are enough.
func (c *Client) give(k *conn) {
	k.since = time.Now()
	c.mu.Lock()
	if len(c.idle) < c.MaxIdle && !c.retired {
		c.idle = append(c.idle, k)
		k = nil
	}
	c.mu.Unlock()
	if k != nil {
		k.drop()
	}
}

// Sweep closes the connections that were idle for too long, and tells whether there is none and was no
// request for as long.
func (c *Client) Sweep(now time.Time) (unused bool) {
	c.mu.Lock()
	old := 0
	for old < len(c.idle) && now.Sub(c.idle[old].since) >= c.IdleTime {
		old++
	}
	gone := append([]*conn(nil), c.idle[:old]...)
	c.idle = append(c.idle[:0], c.idle[old:]...)
	left := len(c.idle)
	clear(c.idle[left : left+old])
	unused = left == 0 && now.Sub(c.used) >= c.IdleTime
	c.mu.Unlock()
	for _, k := range gone {
		k.drop()
	}
	return unused
}

// Retire closes the connections that no request is using, and has the others closed after theirs.
func (c *Client) Retire() {
	c.mu.Lock()
	c.retired = true
	gone := c.idle
	c.idle = nil
	c.mu.Unlock()
	for _, k := range gone {
		k.drop()
	}
}
