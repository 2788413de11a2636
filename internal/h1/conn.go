package h1

import (
	"bufio"
	"errors"
	"math"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const bufferSize = 4 << 10

var (
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, bufferSize) }}
	heads   = sync.Pool{New: func() any { b := make([]byte, 0, bufferSize); return &b }}
)

var errHead = errors.New("the head of the answer is too large")

// conn is a connection to a server. While it is idle it holds no buffer.
type conn struct {
	net.Conn

	cut   func()          // closes it
	raw   syscall.RawConn // nil: it is no plain socket
	peek  func(uintptr) bool
	alive bool // what peek found

	br    *bufio.Reader // while a request is served
	left  int64         // bytes that may be read of a head
	got   int64         // bytes that came since the request
	since time.Time     // idle
	until time.Time     // the read deadline that is set
}

func newConn(c net.Conn) *conn {
	k := &conn{Conn: c, cut: func() { c.Close() }}
	if s, ok := c.(syscall.Conn); ok {
		k.raw, _ = s.SyscallConn() // of a closed one there is none, which shows soon
	}
	k.peek = func(fd uintptr) bool {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		k.alive = errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
		return true
	}
	return k
}

// quiet tells whether nothing came on an idle connection: neither its end nor bytes that nobody
// asked for, which the next request would take for its answer.
func (k *conn) quiet() bool {
	if k.raw == nil {
		return true
	}
	k.alive = false
	return k.raw.Read(k.peek) == nil && k.alive
}

// Read implements [io.Reader], within the limit of the head.
func (k *conn) Read(p []byte) (int, error) {
	if k.left <= 0 {
		return 0, errHead
	}
	if int64(len(p)) > k.left {
		p = p[:k.left]
	}
	n, err := k.Conn.Read(p)
	k.got += int64(n)
	if k.left != math.MaxInt64 {
		k.left -= int64(n)
	}
	return n, err
}

// borrow takes a buffer for reading.
func (k *conn) borrow() {
	k.br, _ = readers.Get().(*bufio.Reader)
	k.br.Reset(k)
}

// restore gives the buffer back.
func (k *conn) restore() {
	if k.br != nil {
		k.br.Reset(nil)
		readers.Put(k.br)
		k.br = nil
	}
}

// drop ends the connection.
func (k *conn) drop() {
	k.Close()
	k.restore()
}

// expect sets the deadline of the answer's head, which is not moved for each request.
func (k *conn) expect(within time.Duration, now time.Time) {
	if within <= 0 || k.until.Sub(now) >= within {
		return
	}
	k.until = now.Add(2 * within)
	_ = k.SetReadDeadline(k.until) // of a closed one none, which shows soon
}

// unhurried takes the deadline of the head away: a body may take as long as it likes.
func (k *conn) unhurried() {
	if !k.until.IsZero() {
		k.until = time.Time{}
		_ = k.SetReadDeadline(k.until)
	}
}
