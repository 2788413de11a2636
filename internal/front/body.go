package front

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
)

// body is a request's, whose length is known.
type body struct {
	visit *visit

	mu     sync.Mutex
	left   int64
	err    error // sticks
	closed bool
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	return b.read(p)
}

func (b *body) read(p []byte) (n int, err error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	v := b.visit
	p = p[:min(int64(len(p)), b.left)]
	if v.r < v.w {
		n = copy(p, v.buf[v.r:v.w])
		v.r += n
	} else {
		n, b.err = v.c.Read(p)
	}
	b.left -= int64(n)
	switch {
	case b.left == 0:
		b.err = io.EOF
		v.unread.Store(false)
		return n, b.err
	case errors.Is(b.err, io.EOF):
		b.err = io.ErrUnexpectedEOF
	}
	if b.err != nil {
		v.cancel(context.Canceled) // nobody may be there for the answer
	}
	return n, b.err
}

// Close implements [io.Closer]. As with net/http a rest that is not too long is read, for the sake of
// the connection.
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rest()
	b.closed = true
	return nil
}

// close ends the reading, and tells whether all was read. No body is a whole one.
func (b *body) close() (whole bool) {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return b.left == 0
}

// drain reads what is left of a body before its request is answered, since many a client reads no
// answer before it has sent all. It tells whether that was all.
func (b *body) drain() (whole bool) {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rest()
	return b.left == 0
}

// maxDrain is how much of a body that nobody wanted is read to use its connection again.
const maxDrain = 256 << 10

// rest reads what is left, unless it is too much.
func (b *body) rest() {
	if b.closed || b.left >= maxDrain {
		return
	}
	for p := make([]byte, min(b.left, 4<<10)); b.err == nil; {
		_, _ = b.read(p) // the error stays
	}
}
