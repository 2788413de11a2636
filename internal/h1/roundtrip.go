package h1

import (
	"context"
	"errors"
	"math"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// Faults of a server.
var (
	// ErrNonsense is an answer that nobody asked for: a switch of protocols, too many informational
	// ones, or no status at all.
	ErrNonsense = errors.New("the server's answer makes no sense")
	// ErrSend wraps what went wrong while the request's body was read or written.
	ErrSend = errors.New("the request was not sent to its end")
)

const (
	maxInformed = 5                     // informational answers before the one that counts
	tail        = 50 * time.Millisecond // how long a body may still be on its way when the answer has ended
)

// RoundTrip implements [http.RoundTripper] in the caller's goroutine; the body of a request is sent by
// another, which has ended when the answer's body was read to its end or closed. A request is sent a
// second time, on a new connection, only if the kept one that it was sent on ended without a byte of
// an answer, and if either nothing of it was sent or it has no body and its method is a safe one (RFC
// 9110, section 9.2.2). Informational answers are not passed on.
//
// The answer's body is a [*Body], and must be closed. The request's body is closed in any case; its
// Close must end a Read that is under way.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	k := c.take(time.Now())
	reused := k != nil
	for {
		if k == nil {
			nc, err := c.Dial(r.Context())
			if err != nil {
				closeBody(r)
				return nil, err
			}
			k = newConn(nc)
		}
		x := &exchange{client: c, k: k, r: r}
		res, err := x.do() //nolint:contextcheck // it is the request's
		switch {
		case err == nil:
			return res, nil
		case !reused || !x.again(err):
			closeBody(r)
			return nil, err
		}
		k, reused = nil, false
	}
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		r.Body.Close()
	}
}

// exchange is one request and its answer on a connection.
type exchange struct {
	client *Client
	k      *conn
	r      *http.Request
	stop   func() bool // ends the watch for the request's being given up

	wrote int        // bytes of the request's head that left
	goOn  chan bool  // whether to send a body that waits; nil: none waits
	sent  chan error // how the sending ended; nil: there is no body

	broken atomic.Bool // the sending ended since the body failed, and the connection with it
}

// do writes the request and reads the answer's head. After an error the connection is closed.
func (x *exchange) do() (*http.Response, error) {
	k := x.k
	now := time.Now()
	k.got, k.left = 0, int64(x.client.MaxHead)
	x.stop = atEnd(x.r.Context(), k.cut)
	k.expect(x.client.AnswerTime, now)
	body := hasBody(x.r)
	err := x.writeHead(body)
	if err == nil {
		if body {
			x.startBody()
		}
		k.borrow()
		var res *http.Response
		if res, err = x.answer(); err == nil {
			return res, nil
		}
	}
	if sendErr := x.end(false); sendErr != nil && !errors.Is(sendErr, errGivenUp) {
		err = errors.Join(ErrSend, sendErr, err)
	}
	if cause := context.Cause(x.r.Context()); cause != nil {
		err = errors.Join(cause, err)
	}
	return nil, err
}

func (x *exchange) writeHead(hasBody bool) error {
	buf, _ := heads.Get().(*[]byte)
	defer heads.Put(buf)
	b, err := appendHead((*buf)[:0], x.r, hasBody)
	*buf = b
	if err != nil {
		return err
	}
	x.wrote, err = x.k.Conn.Write(b)
	return err
}

// again tells whether a request that failed on a kept connection may be sent on another.
func (x *exchange) again(err error) bool {
	switch {
	case x.k.got > 0, x.r.Context().Err() != nil, errors.Is(err, errHeader), errors.Is(err, os.ErrDeadlineExceeded):
		return false
	case x.wrote == 0:
		return true
	case x.sent != nil:
		return false
	}
	switch x.r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

func hasBody(r *http.Request) bool {
	return r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0
}

// atEnd has f called when a context ends, unless stop is before. One that offers that itself, as those
// of internal/front do, needs nothing made for it.
func atEnd(ctx context.Context, f func()) (stop func() bool) {
	if own, ok := ctx.(interface{ AfterFunc(f func()) func() bool }); ok {
		return own.AfterFunc(f)
	}
	if ctx.Done() == nil {
		return nil
	}
	return context.AfterFunc(ctx, f)
}

// answer reads the head that counts.
func (x *exchange) answer() (*http.Response, error) {
	k := x.k
	for range maxInformed {
		res, err := k.head(x.r)
		switch {
		case err != nil:
			return nil, err
		case res.StatusCode == http.StatusContinue:
			x.proceed()
			continue
		case res.StatusCode > http.StatusSwitchingProtocols && res.StatusCode < 200:
			continue
		case res.StatusCode < 200:
			return nil, ErrNonsense
		}
		k.left = math.MaxInt64
		x.giveUp() // a body that still waits is not wanted
		res.Body = x.body(res)
		return res, nil
	}
	return nil, ErrNonsense
}

func (x *exchange) body(res *http.Response) *Body {
	k := x.k
	k.left = math.MaxInt64
	b := &Body{x: x, std: res.Body, left: res.ContentLength, keep: !res.Close}
	if b.std == http.NoBody {
		b.std, b.left = nil, 0
	}
	if b.std != nil || b.left > int64(k.br.Buffered()) {
		k.unhurried()
	}
	if b.std == nil && b.left == 0 {
		b.finish(true)
	}
	return b
}

// head reads one head. A plain one has no Body: that is made of its length.
func (k *conn) head(r *http.Request) (*http.Response, error) {
	if _, err := k.br.Peek(1); err != nil {
		return nil, err
	}
	b, _ := k.br.Peek(k.br.Buffered())
	if res, size := plainAnswer(b, r); res != nil {
		_, _ = k.br.Discard(size) // it is there
		return res, nil
	}
	return http.ReadResponse(k.br, r)
}

// end closes the exchange: its body's sending has ended then, with the error that it gives, and the
// connection is kept for others or closed.
func (x *exchange) end(keep bool) (err error) {
	if x.sent != nil {
		if keep {
			late := time.NewTimer(tail)
			select {
			case err = <-x.sent:
				x.sent <- err
			case <-late.C:
			}
			late.Stop()
		}
		select {
		case err = <-x.sent:
			keep = keep && err == nil
		default:
			keep = false
			broken := x.broken.Load()
			x.k.Conn.Close()
			x.giveUp()
			x.r.Body.Close()
			if err = <-x.sent; err != nil && !broken {
				err = errGivenUp // by us
			}
		}
	}
	if x.stop != nil && !x.stop() {
		keep = false // it is being closed
	}
	if keep && x.k.br.Buffered() == 0 {
		x.k.restore()
		x.client.give(x.k)
		return err
	}
	x.k.drop()
	return err
}

var errGivenUp = errors.New("the rest was not wanted")
