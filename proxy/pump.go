package proxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const chunkSize = 32 << 10

var chunks = sync.Pool{New: func() any { b := make([]byte, chunkSize); return &b }}

// pump reads from a connection until its end and gives each chunk to send. While the connection is
// silent no buffer is held: one is borrowed only once there is something to read.
func pump(src net.Conn, send func([]byte) error) {
	sc, ok := src.(syscall.Conn)
	if !ok {
		pumpPlain(src, send)
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	// One call waits and reads again and again: what each call costs anew is spared for a message.
	_ = raw.Read(func(fd uintptr) bool { return drawn(int(fd), send) }) // a deadline, or the end
}

// drawn gives to send what there is to read. It is false when there may be more later.
func drawn(fd int, send func([]byte) error) (over bool) {
	buf, _ := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	for {
		n, err := unix.Read(fd, *buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return false
		case err != nil || n <= 0 || send((*buf)[:n]) != nil:
			return true
		}
	}
}

// pumpPlain is for connections that are no plain sockets, such as TLS.
func pumpPlain(src io.Reader, send func([]byte) error) {
	buf := make([]byte, 4<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 && send(buf[:n]) != nil || err != nil {
			return
		}
	}
}
