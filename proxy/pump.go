package proxy

import (
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const chunkSize = 32 << 10

var chunks = sync.Pool{New: func() any { b := make([]byte, chunkSize); return &b }}

func borrow() *[]byte {
	buf, _ := chunks.Get().(*[]byte)
	return buf
}

// pump reads from a connection until its end, or its deadline, and gives each chunk to send. It rests
// where a loop can go on with it. While the connection is silent no buffer is held: one is borrowed only
// once there is something to read.
func pump(src net.Conn, send func([]byte) error) outcome {
	if s, ok := src.(*socket); ok {
		return s.pump(send)
	}
	sc, ok := src.(syscall.Conn)
	if !ok {
		return pumpPlain(src, send)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return over
	}
	// One call waits and reads again and again: what each call costs anew is spared for a message.
	err = raw.Read(func(fd uintptr) bool { return drawn(int(fd), send) })
	return outcomeOf(err)
}

// drawn gives to send what there is to read. It is false when there may be more later.
func drawn(fd int, send func([]byte) error) (over bool) {
	buf := borrow()
	for again := true; again; {
		n, err := unix.Read(fd, *buf)
		switch {
		case err == unix.EINTR: // errors.Is takes more of the stack
		case err == unix.EAGAIN:
			again = false
		case err != nil || n <= 0 || send((*buf)[:n]) != nil:
			over, again = true, false
		}
	}
	chunks.Put(buf)
	return over
}

// pumpPlain is for connections that are no plain sockets, such as TLS.
func pumpPlain(src io.Reader, send func([]byte) error) outcome {
	buf := make([]byte, 4<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 && send(buf[:n]) != nil {
			return over
		}
		if err != nil {
			return outcomeOf(err)
		}
	}
}

// writeAtOnce writes to a connection as much as it takes without waiting.
func writeAtOnce(c net.Conn, b []byte) (n int) {
	if s, ok := c.(*socket); ok {
		return s.atOnce(b)
	}
	sc, ok := c.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Write(func(fd uintptr) bool { // what fails shows at the next write
		n, _ = unix.Write(int(fd), b)
		return true
	})
	return max(n, 0)
}
