package front

import (
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// conn is a connection on which HTTP/1 requests come.
type conn struct {
	net.Conn

	owner *Listener
	scan  scanner
	aside atomic.Bool // taken over: what comes is no HTTP
	back  []byte      // was read and looked at before, and is read again
	// What was found in a read whose beginning was in order is told with the next one.
	fault error
	held  byte // the first byte that was not passed on, where has
	has   bool
	bad   atomic.Bool // there is a fault
}

// Read implements [net.Conn]. A fault comes out as an error that the server answers 400 to.
func (c *conn) Read(p []byte) (int, error) {
	switch {
	case len(c.back) > 0:
		n := copy(p, c.back)
		c.back = c.back[n:]
		return n, nil
	case c.aside.Load() || len(p) == 0:
		return c.Conn.Read(p)
	case c.fault != nil && c.has && len(p) == 1:
		// While a request is served net/http reads one byte ahead, and takes an error there for the
		// client's leaving. The request before the one at fault is served to its end.
		p[0], c.has = c.held, false
		return 1, nil
	case c.fault != nil:
		return 0, c.fault
	}
	n, err := c.Conn.Read(p)
	if n == 0 || c.aside.Load() {
		return n, err
	}
	good, fault := c.scan.scan(p[:n])
	if fault == nil {
		return n, err
	}
	c.fault, c.held, c.has = fault, p[good], p[good] != '\n' && good > 0
	c.bad.Store(true)
	c.owner.refused(c, fault)
	if good > 0 {
		return good, nil
	}
	return 0, fault
}

// Close implements [net.Conn]. After a refusal the answer would be lost, were the connection reset
// because of what the client went on sending: that is read away for a moment (RFC 9112, section 9.6).
func (c *conn) Close() error {
	if c.bad.Load() {
		c.linger()
	}
	return c.Conn.Close()
}

// linger ends what the client hears, and leaves it time to hear the last of it.
func (c *conn) linger() {
	_ = c.CloseWrite()
	until := time.Now().Add(lingerTime)
	_ = c.SetReadDeadline(until) // a closed one has none
	if _, err := io.CopyN(io.Discard, c.Conn, lingerBytes); err == nil {
		time.Sleep(time.Until(until)) // there is more, which nobody will read
	}
}

const (
	lingerTime  = 250 * time.Millisecond
	lingerBytes = 256 << 10
)

// CloseWrite ends what the client hears.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// plainConn is one without TLS, whose bodies the kernel may move.
type plainConn struct{ *conn }

// ReadFrom implements [io.ReaderFrom], by which net/http has the kernel send files and sockets.
func (c plainConn) ReadFrom(r io.Reader) (int64, error) {
	if b, ok := c.Conn.(*base); ok {
		return io.Copy(b.Conn, r)
	}
	return io.Copy(c.Conn, r)
}

// tlsConn is one within TLS.
type tlsConn struct {
	*conn

	inner *tls.Conn
}

// ConnectionState tells net/http of the TLS.
func (c tlsConn) ConnectionState() tls.ConnectionState { return c.inner.ConnectionState() }

// scanned gives the scanner of a connection that a Listener made, and its TLS where it speaks HTTP/1 by it.
func scanned(c net.Conn) (in *conn, secure *tls.Conn) {
	switch c := c.(type) {
	case plainConn:
		return c.conn, nil
	case tlsConn:
		return c.conn, c.inner
	}
	return nil, nil
}

// Release ends the looking at a connection that a handler has taken over, and gives what is beneath:
// the *net.TCPConn itself where the client speaks plainly, so that the kernel can move its bytes, the
// *tls.Conn otherwise. Whoever calls it closes what it gives: the connection is none of the client's
// many any more. What was read ahead comes behind what the handler was given of it.
func Release(c net.Conn) (inner net.Conn, ahead []byte) {
	in, _ := scanned(c)
	if in == nil {
		return c, nil
	}
	return in.release(), in.back
}

func (c *conn) release() net.Conn {
	c.aside.Store(true)
	if counted, ok := c.Conn.(*base); ok {
		counted.leave()
		return counted.Conn
	}
	if t, ok := c.Conn.(*tls.Conn); ok {
		if counted, ok := t.NetConn().(*base); ok {
			counted.leave()
		}
	}
	return c.Conn
}

// Redirects tells whether a connection came to a listener that only leads elsewhere.
func Redirects(c net.Conn) bool {
	in, _ := scanned(c)
	return in != nil && in.owner.opt.Redirect
}

// base is an accepted connection: it knows its client's address, and when it leaves the crowd.
type base struct {
	net.Conn

	remote net.Addr // the client's, where a proxy in front told it
	gone   func()   // nil: it is not counted
	left   atomic.Bool
}

// RemoteAddr implements [net.Conn].
func (b *base) RemoteAddr() net.Addr {
	if b.remote != nil {
		return b.remote
	}
	return b.Conn.RemoteAddr()
}

// Close implements [net.Conn].
func (b *base) Close() error {
	b.leave()
	return b.Conn.Close()
}

func (b *base) leave() {
	if b.gone != nil && b.left.CompareAndSwap(false, true) {
		b.gone()
	}
}

// CloseWrite ends what the client hears.
func (b *base) CloseWrite() error {
	if half, ok := b.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
