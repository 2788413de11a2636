package chp

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	dialTimeout = 10 * time.Second
	// Many servers close idle connections after five seconds. A request that they do not answer
	// because they just did so may not be sent again.
	poolTimeout   = 4 * time.Second
	maxServerHead = 256 << 10

	socketHost = ".socket.invalid" // ends the made-up host of a unix socket's pool
)

// dialer reaches servers.
type dialer struct {
	tls  atomic.Pointer[tls.Config] // may be replaced
	idle time.Duration

	once sync.Once
	pool *http.Transport
}

func (d *dialer) transport() *http.Transport {
	d.once.Do(func() {
		d.pool = &http.Transport{
			DialContext: d.dial, DialTLSContext: d.dialTLS,
			MaxIdleConnsPerHost: 32, IdleConnTimeout: poolTimeout, DisableCompression: true,
			ExpectContinueTimeout: time.Second, MaxResponseHeaderBytes: maxServerHead,
		}
	})
	return d.pool
}

// pooled is the host by which the pool of connections to a target is known.
func (t target) pooled() string {
	if t.socket != "" {
		return hex.EncodeToString([]byte(t.socket)) + socketHost
	}
	return t.host
}

func (d *dialer) dial(ctx context.Context, _, address string) (net.Conn, error) {
	network := "tcp"
	if name, ok := strings.CutSuffix(hostname(address), socketHost); ok {
		socket, err := hex.DecodeString(name)
		if err != nil {
			return nil, err
		}
		network, address = "unix", string(socket)
	}
	nd := net.Dialer{Timeout: dialTimeout}
	c, err := nd.DialContext(ctx, network, address)
	if err != nil || d.idle == 0 {
		return c, err
	}
	return &idleConn{Conn: c, timeout: d.idle}, nil
}

// connect makes a connection for one websocket.
func (d *dialer) connect(ctx context.Context, t target) (net.Conn, error) {
	address := t.pooled()
	if t.socket != "" {
		address += ":0"
	} else if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(strings.Trim(address, "[]"), map[string]string{"http": "80", "https": "443"}[t.scheme])
	}
	c, err := d.dial(ctx, "tcp", address)
	if err != nil || t.scheme != "https" {
		return c, err
	}
	return d.secure(ctx, c, address)
}

func (d *dialer) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return d.secure(ctx, c, address)
}

// secure shakes hands by what counts now.
func (d *dialer) secure(ctx context.Context, c net.Conn, address string) (net.Conn, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if now := d.tls.Load(); now != nil {
		cfg = now.Clone()
	}
	cfg.ServerName = hostname(address)
	secured := tls.Client(c, cfg)
	ctx, done := context.WithTimeout(ctx, dialTimeout)
	defer done()
	if err := secured.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return secured, nil
}

// idleConn ends when neither side has sent anything for some time.
type idleConn struct {
	net.Conn
	timeout time.Duration

	mu    sync.Mutex // net/http sets a deadline to interrupt a Read: it must not be extended in between
	off   bool
	limit time.Time // the owner's own deadline of reading, or zero
}

// Read implements [net.Conn].
func (c *idleConn) Read(b []byte) (int, error) {
	if err := c.extend(); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// Write implements [net.Conn].
func (c *idleConn) Write(b []byte) (int, error) {
	if err := c.extend(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *idleConn) extend() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off {
		return nil
	}
	until := time.Now().Add(c.timeout)
	if err := c.Conn.SetWriteDeadline(until); err != nil {
		return err
	}
	if !c.limit.IsZero() && c.limit.Before(until) {
		until = c.limit
	}
	return c.Conn.SetReadDeadline(until)
}

// SetReadDeadline implements [net.Conn].
func (c *idleConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = t
	return c.Conn.SetReadDeadline(t)
}

// SetDeadline implements [net.Conn].
func (c *idleConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// CloseWrite lets tunnels end one direction.
func (c *idleConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// forever takes the timeout off a connection that has become a tunnel.
func forever(c net.Conn) {
	if secured, ok := c.(*tls.Conn); ok {
		c = secured.NetConn()
	}
	if idle, ok := c.(*idleConn); ok {
		idle.mu.Lock()
		idle.off = true
		idle.mu.Unlock()
	}
}

// idleListener gives connections that end when they are idle, if there is a timeout.
type idleListener struct {
	net.Listener
	timeout time.Duration
}

// Accept implements [net.Listener].
func (l idleListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil || l.timeout == 0 {
		return c, err
	}
	return &idleConn{Conn: c, timeout: l.timeout}, nil
}
