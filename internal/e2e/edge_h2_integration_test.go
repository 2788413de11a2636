//go:build integration

package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// connect opens a connection as the edge's clients do: through a load balancer that speaks the PROXY
// protocol, where there is one, and with TLS, where it is on.
func (e *edge) connect(ctx context.Context, protocol string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", e.address())
	if err != nil {
		return nil, err
	}
	if e.proxied {
		// Version 2, a connection over IPv4 of 12 bytes' addresses (PROXY protocol, section 2.2).
		head := []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\x7f\x00\x00\x01")
		from := c.LocalAddr().(*net.TCPAddr).Port
		if _, err := c.Write(append(head, byte(from>>8), byte(from), byte(e.port>>8), byte(e.port))); err != nil {
			c.Close()
			return nil, err
		}
	}
	if !e.secure {
		return c, nil
	}
	s := tls.Client(c, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost", NextProtos: []string{protocol}}) // a certificate of the test's own
	if err := s.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	if got := s.ConnectionState().NegotiatedProtocol; got != protocol {
		s.Close()
		return nil, errors.New("the edge speaks " + got)
	}
	return s, nil
}

// multiplex makes several requests at once on a connection of h2, and goes on by another when it is told
// GOAWAY: x/net's client sends anew what the server says that it has not looked at (RFC 9113, section
// 6.8), and nothing else.
func (e *edge) multiplex(ctx context.Context, l *load, i int) {
	// net/http's own speaks h2 on a *tls.Conn alone, and this one's frames are watched.
	t := &http2.Transport{DialTLSContext: func(ctx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) { //nolint:staticcheck // see above
		c, err := e.connect(ctx, "h2")
		if err != nil {
			return nil, err
		}
		return watchFrames(c, l), nil
	}}
	defer t.CloseIdleConnections() //nolint:staticcheck // see above
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				body := strings.Repeat("x", n%2*1000)                             // every other one a POST
				res, err := t.RoundTrip(e.request(context.Background(), i, body)) //nolint:staticcheck // see above
				if err != nil {
					l.fail("request %d of h2: %v", n, err)
					return
				}
				got, err := io.ReadAll(res.Body)
				res.Body.Close()
				if want := strconv.Itoa(i) + " " + body; err != nil || res.StatusCode != http.StatusOK || string(got) != want {
					l.fail("answer %d of h2: %d, %d bytes, %v", n, res.StatusCode, len(got), err)
					return
				}
				l.streams.Add(1)
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	wg.Wait()
}

// framed is a connection of h2 that sees what the server sends.
type framed struct {
	net.Conn
	l      *load
	copied *io.PipeWriter
	seen   chan struct{}

	mu     sync.Mutex
	closed bool // by us
	told   bool // GOAWAY, without a fault
}

func watchFrames(c net.Conn, l *load) *framed {
	r, w := io.Pipe()
	f := &framed{Conn: c, l: l, copied: w, seen: make(chan struct{})}
	go f.watch(r)
	return f
}

func (f *framed) watch(r *io.PipeReader) {
	defer close(f.seen)
	frames := http2.NewFramer(io.Discard, r)
	for {
		frame, err := frames.ReadFrame()
		if err != nil {
			r.CloseWithError(io.ErrClosedPipe) // nothing waits for us
			return
		}
		switch x := frame.(type) {
		case *http2.GoAwayFrame:
			f.mu.Lock()
			if x.ErrCode != http2.ErrCodeNo {
				f.l.fail("h2: GOAWAY for %v, %s", x.ErrCode, x.DebugData())
			} else if !f.told {
				f.l.moved.Add(1)
			}
			f.told = true
			f.mu.Unlock()
		case *http2.RSTStreamFrame:
			if x.ErrCode != http2.ErrCodeNo {
				f.l.fail("h2: a stream is reset for %v", x.ErrCode)
			}
		}
	}
}

// Read is the client's; a connection has to end by GOAWAY and the connection's regular end.
func (f *framed) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	f.copied.Write(b[:n])
	if err == nil {
		return n, nil
	}
	f.copied.Close()
	<-f.seen
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed && (!errors.Is(err, io.EOF) || !f.told) {
		f.l.fail("h2: the connection ends with %v, told GOAWAY before: %v", err, f.told)
	}
	return n, err
}

func (f *framed) Close() error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	return f.Conn.Close()
}
