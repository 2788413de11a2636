package front

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Options say how a listener's connections begin. The zero value is plain HTTP with nobody counted.
type Options struct {
	TLS *tls.Config // nil: plain; NextProtos decides between HTTP/1.1 and h2
	// Proxies tells whom the PROXY protocol is taken from, with which every connection begins then; nil:
	// it is not spoken.
	Proxies  func(netip.Addr) bool
	Redirect bool // see Redirects

	Logger *slog.Logger // nil: none
}

// Listener gives connections that are ready for an HTTP server: through with TLS, and with a scanner
// on what is HTTP/1. Its connections of h2 are *tls.Conn, as net/http wants them.
type Listener struct {
	net.Listener

	opt   Options
	enter func(net.Addr) (leave func(), ok bool)
	fault func() // told of each refused framing; nil: nobody is

	ready  chan net.Conn
	failed chan error
	done   chan struct{}
	begin  func() // starts to accept, once
	end    func()
	wg     sync.WaitGroup // who accepts

	opening sync.WaitGroup // what is being prepared

	mu      sync.Mutex
	pending map[*base]bool // where HTTP did not begin yet; nil once closed
}

// New puts the options in front of a listener. It starts nothing: the first Accept does.
func New(l net.Listener, opt Options) *Listener {
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Listener{Listener: l, opt: opt, ready: make(chan net.Conn), failed: make(chan error, 1), done: make(chan struct{}), pending: map[*base]bool{}}
	f.begin = sync.OnceFunc(func() { f.wg.Go(f.acceptAll) })
	f.end = sync.OnceFunc(func() { close(f.done) })
	return f
}

// Admit has every connection asked for by its client's address; leave is called when it is closed or
// released. It is called before the first Accept.
func (l *Listener) Admit(enter func(net.Addr) (leave func(), ok bool)) { l.enter = enter }

// Faults has each connection whose framing is refused told of, once. It is called before the first
// Accept.
func (l *Listener) Faults(told func()) { l.fault = told }

// beginTime is how long a client may take until HTTP can begin.
const beginTime = 10 * time.Second

// Accept implements [net.Listener].
func (l *Listener) Accept() (net.Conn, error) {
	if l.opt.TLS == nil && l.opt.Proxies == nil {
		return l.acceptPlain()
	}
	l.begin()
	select {
	case c := <-l.ready:
		return c, nil
	case err := <-l.failed:
		return nil, err
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// acceptPlain needs to wait for nothing that a client sends.
func (l *Listener) acceptPlain() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if b := l.admit(&base{Conn: c}); b != nil {
			return plainConn{&conn{Conn: b, owner: l}}, nil
		}
	}
}

// acceptAll prepares each connection in a goroutine of its own, so that a slow client stops no other.
// Those that come before the end are brought through.
func (l *Listener) acceptAll() {
	for {
		c, err := l.Listener.Accept()
		if err == nil {
			l.opening.Go(func() { l.prepare(c) })
			continue
		}
		over := errors.Is(err, net.ErrClosed)
		if over {
			l.opening.Wait()
		}
		select {
		case l.failed <- err: // the server waits a moment after one that passes
		case <-l.done:
			return
		}
		if over {
			return
		}
	}
}

// prepare brings a connection to where HTTP begins.
func (l *Listener) prepare(c net.Conn) {
	b := &base{Conn: c}
	if !l.pend(b) {
		_ = b.Close()
		return
	}
	ready, err := l.open(b)
	l.unpend(b)
	if err != nil {
		_ = b.Close()
		l.opt.Logger.Debug("connection did not begin", "client", b.RemoteAddr().String(), "error", err)
		return
	}
	select {
	case l.ready <- ready:
	case <-l.done:
		_ = b.Close()
	}
}

var errOtherProtocol = errors.New("it does not speak HTTP")

var errCrowd = errors.New("one connection too many")

// open does what comes before HTTP.
func (l *Listener) open(b *base) (net.Conn, error) {
	_ = b.SetDeadline(time.Now().Add(beginTime)) // a closed one has none
	if l.opt.Proxies != nil {
		if err := l.readProxy(b); err != nil {
			return nil, err
		}
	}
	if l.admit(b) == nil {
		return nil, errCrowd
	}
	ready, err := l.handshake(b)
	_ = b.SetDeadline(time.Time{})
	return ready, err
}

// pend has a connection closed with the listener, until unpend.
func (l *Listener) pend(b *base) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending == nil {
		return false
	}
	l.pending[b] = true
	return true
}

func (l *Listener) unpend(b *base) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pending, b)
}

// admit asks for a connection; nil when it was one too many, and closed.
func (l *Listener) admit(b *base) *base {
	if l.enter == nil {
		return b
	}
	gone, ok := l.enter(b.RemoteAddr())
	if !ok {
		_ = b.Close()
		return nil
	}
	b.gone = gone
	return b
}

// handshake does TLS's, if it is spoken.
func (l *Listener) handshake(b *base) (net.Conn, error) {
	if l.opt.TLS == nil {
		return plainConn{&conn{Conn: b, owner: l}}, nil
	}
	t := tls.Server(b, l.opt.TLS)
	if err := t.Handshake(); err != nil { //nolint:noctx // it has a deadline, and ends with the listener
		return nil, err
	}
	switch t.ConnectionState().NegotiatedProtocol {
	case "h2":
		return t, nil
	case "", "http/1.1":
	default:
		return nil, errOtherProtocol // an ACME server has seen what it wanted (RFC 8737, section 3)
	}
	return tlsConn{&conn{Conn: t, owner: l}, t}, nil
}

// Stop accepts nothing new. What came before is brought through, and Accept gives it; then Accept says
// that the listener is closed.
func (l *Listener) Stop() error { return l.Listener.Close() }

// Close implements [net.Listener]. It cuts what is at its beginning, and joins what was at work.
func (l *Listener) Close() error {
	err := l.Listener.Close()
	l.end()
	l.mu.Lock()
	for b := range l.pending {
		_ = b.Conn.Close() // the rest is left to whoever opens it
	}
	l.pending = nil
	l.mu.Unlock()
	l.wg.Wait()
	l.opening.Wait()
	return err
}

func (l *Listener) refused(c *conn, fault error) {
	if l.fault != nil {
		l.fault()
	}
	l.opt.Logger.Debug("framing refused", "client", c.RemoteAddr().String(), "error", fault)
}
