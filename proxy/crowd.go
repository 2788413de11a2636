package proxy

import (
	"net"
	"net/netip"
	"sync"
)

// maxPerAddress is how many connections one address may have open, websockets left out. It is
// wide: a classroom, or a whole campus, may be behind one. It keeps one machine from taking every
// descriptor there is.
const maxPerAddress = 4096

// crowd counts the connections of each address; of IPv6 each /64, which is one customer's.
type crowd struct {
	exempt func(netip.Addr) bool // proxies that we trust stand for many

	mu   sync.Mutex
	open map[netip.Addr]int
}

// enter counts a connection, unless its address has too many; leave is called once, at its end.
func (c *crowd) enter(from net.Addr) (leave func(), ok bool) {
	host, _, err := net.SplitHostPort(from.String())
	if err != nil {
		return nil, true // a unix socket: who may use it is the file system's to say
	}
	at, ok := parseHop(host)
	if !ok || c.exempt(at) {
		return nil, true
	}
	if at.Is6() {
		if p, err := at.Prefix(64); err == nil {
			at = p.Addr()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[netip.Addr]int{}
	}
	if c.open[at] >= maxPerAddress {
		return nil, false
	}
	c.open[at]++
	return func() { c.leave(at) }, true
}

func (c *crowd) leave(at netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[at]--; c.open[at] <= 0 {
		delete(c.open, at)
	}
}

// admit is told of every connection before anything is read from it, and of its end.
func (p *Proxy) admit(from net.Addr) (leave func(), ok bool) {
	gone, ok := p.crowd.enter(from)
	if !ok {
		p.metrics.refused[refusedCrowd].Inc()
		return nil, false
	}
	p.conns.Add(1)
	return func() {
		p.conns.Add(-1)
		if gone != nil {
			gone()
		}
	}, true
}
