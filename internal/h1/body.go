package h1

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// startBody has the request's body sent, at once or when the server asks for it.
func (x *exchange) startBody() {
	x.sent = make(chan error, 1)
	if strings.EqualFold(x.r.Header.Get("Expect"), "100-continue") {
		x.goOn = make(chan bool, 1)
	}
	goOn := x.goOn
	go func() { x.sent <- x.sendBody(goOn) }() // end waits for it
}

// proceed lets a waiting body be sent, and giveUp lets it not. Only the first that is called counts.
func (x *exchange) proceed() { x.decide(true) }
func (x *exchange) giveUp()  { x.decide(false) }

func (x *exchange) decide(send bool) {
	if x.goOn != nil {
		x.goOn <- send
		x.goOn = nil
	}
}

func (x *exchange) sendBody(goOn <-chan bool) error {
	defer x.r.Body.Close()
	if goOn != nil {
		late := time.NewTimer(x.client.ContinueTime)
		defer late.Stop()
		select {
		case send := <-goOn:
			if !send {
				return errGivenUp
			}
		case <-late.C:
		}
	}
	broken, err := writeBody(x.k.Conn, x.r)
	if broken {
		x.broken.Store(true)
		x.k.Conn.Close() // the server would wait for the rest, and we for its answer
	}
	return err
}

// Body is an answer's body. When it was read to its end its connection is free for others.
type Body struct {
	x    *exchange
	std  io.ReadCloser // net/http's; nil: it is of known length, and read from the connection
	left int64
	keep bool
	done bool
}

// Ready tells whether a Read has something to give, or the end, without a wait for the server.
func (b *Body) Ready() bool { return b.done || b.x.k.br.Buffered() > 0 }

// Read implements [io.Reader]. The last bytes come with io.EOF where the length is known.
func (b *Body) Read(p []byte) (n int, err error) {
	switch {
	case b.done && b.left == 0:
		return 0, io.EOF
	case b.done:
		return 0, http.ErrBodyReadAfterClose
	case b.std != nil:
		n, err = b.std.Read(p)
		if errors.Is(err, io.EOF) {
			b.left = 0
			b.finish(true)
		}
		return n, err
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err = b.x.k.br.Read(p)
	b.left -= int64(n)
	switch {
	case b.left == 0:
		b.finish(true)
		return n, io.EOF
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close implements [io.Closer]. A body that was not read to its end takes its connection along.
func (b *Body) Close() error {
	b.finish(false)
	return nil
}

// finish ends the exchange, once.
func (b *Body) finish(whole bool) {
	if b.done {
		return
	}
	b.done = true
	_ = b.x.end(whole && b.keep) // what the server did not want is no fault of the answer's
}

const (
	firstStep = 256 << 10 // bytes given to the kernel at once
	lastStep  = 4 << 20
	quick     = time.Second
)

// spliceFrom is how many bytes must be left for the kernel to be asked: it costs several system calls.
const spliceFrom = 64 << 10

// Kernel tells whether the kernel can move the rest of the body to another socket, and it is worth it.
func (b *Body) Kernel() bool {
	if b.std != nil || b.done || b.left-int64(b.x.k.br.Buffered()) < spliceFrom {
		return false
	}
	switch b.x.k.Conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// Splice has dst take the rest of a body of which [Body.Kernel] is true, socket to socket where dst
// is net/http's writer over a plain connection. It gives dst a piece at a time, small ones where they
// are taken slowly, so that dst can judge its client by each.
func (b *Body) Splice(dst io.ReaderFrom) error {
	if n := min(int64(b.x.k.br.Buffered()), b.left); n > 0 {
		if err := b.part(dst, b.x.k.br, n); err != nil {
			return err
		}
	}
	for step := int64(firstStep); b.left > 0; {
		began := time.Now()
		if err := b.part(dst, b.x.k.Conn, min(step, b.left)); err != nil {
			return err
		}
		if took := time.Since(began); took < quick {
			step = min(2*step, lastStep)
		} else {
			step = firstStep / 4
		}
	}
	b.finish(true)
	return nil
}

func (b *Body) part(dst io.ReaderFrom, src io.Reader, n int64) error {
	got, err := dst.ReadFrom(&io.LimitedReader{R: src, N: n})
	b.left -= got
	if err == nil && got < n {
		err = io.ErrUnexpectedEOF
	}
	return err
}
