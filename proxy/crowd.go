package proxy

import (
	"net"
	"net/http"
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
	held map[net.Conn]netip.Addr
}

// watch is told of every connection's state (http.Server.ConnState). One too many is closed at once.
func (c *crowd) watch(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if !c.enter(conn) {
			conn.Close()
		}
	case http.StateClosed, http.StateHijacked:
		c.leave(conn)
	case http.StateActive, http.StateIdle:
	}
}

func (c *crowd) enter(conn net.Conn) bool {
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		return true // a unix socket: who may use it is the file system's to say
	}
	at, ok := parseHop(host)
	if !ok || c.exempt(at) {
		return true
	}
	if at.Is6() {
		if p, err := at.Prefix(64); err == nil {
			at = p.Addr()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open, c.held = map[netip.Addr]int{}, map[net.Conn]netip.Addr{}
	}
	if c.open[at] >= maxPerAddress {
		return false
	}
	c.open[at]++
	c.held[conn] = at
	return true
}

func (c *crowd) leave(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.held[conn]
	if !ok {
		return
	}
	delete(c.held, conn)
	if c.open[at]--; c.open[at] <= 0 {
		delete(c.open, at)
	}
}
