package proxy

import (
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
	for {
		var buf *[]byte
		var n int
		var rerr error
		err := raw.Read(func(fd uintptr) bool {
			buf, _ = chunks.Get().(*[]byte)
			for {
				n, rerr = unix.Read(int(fd), *buf)
				if rerr != unix.EINTR {
					break
				}
			}
			if rerr == unix.EAGAIN {
				chunks.Put(buf)
				buf = nil
				return false
			}
			return true
		})
		if err != nil || rerr != nil || n <= 0 {
			if buf != nil {
				chunks.Put(buf)
			}
			return
		}
		err = send((*buf)[:n])
		chunks.Put(buf)
		if err != nil {
			return
		}
	}
}

// pumpPlain is for connections that are no plain sockets, such as TLS.
func pumpPlain(src net.Conn, send func([]byte) error) {
	buf := make([]byte, 4<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 && send(buf[:n]) != nil || err != nil {
			return
		}
	}
}
