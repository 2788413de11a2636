package proxy

import (
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is one end of a tunnel that a loop carries: a plain socket, of TCP or unix, that has left Go's
// poller. Read and Write wait as other connections' do, for the goroutine that holds the way that they
// are of: the loop wakes it.
//
// The descriptor is closed once both ways have ended. Until then whoever carries a way uses it as it is;
// all others look under mu whether it is there still.
type socket struct {
	loop  *loop
	token token
	tun   *live
	out   *way // what is read goes this one
	in    *way // what is written comes this one
	other *socket

	visits visits // the loop's own
	armed  bool   // the loop tells when it can be written to; of who holds in

	mu sync.Mutex
	fd int // -1: closed
}

// plain tells whether a connection is a socket and nothing else.
func plain(c net.Conn) bool {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// duplicate gives a connection's socket a descriptor that Go's poller does not know.
func duplicate(c net.Conn) (fd int, err error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return -1, net.ErrClosed
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return -1, err
	}
	if e := raw.Control(func(have uintptr) { fd, err = unix.FcntlInt(have, unix.F_DUPFD_CLOEXEC, 0) }); e != nil {
		return -1, e
	}
	return fd, err
}

// Read implements [net.Conn].
func (s *socket) Read(p []byte) (int, error) {
	for {
		if err := s.out.begin(toRead); err != nil {
			return 0, s.failed("read", err)
		}
		n, err := unix.Read(s.fd, p)
		switch {
		case err == nil && n == 0 && len(p) > 0:
			return 0, io.EOF
		case err == nil:
			return n, nil
		case err == unix.EAGAIN:
			s.out.wait(toRead)
		case err != unix.EINTR:
			return 0, s.failed("read", err)
		}
	}
}

// Write implements [net.Conn].
func (s *socket) Write(p []byte) (done int, err error) {
	for {
		if err := s.in.begin(toWrite); err != nil {
			return done, s.failed("write", err)
		}
		n, err := unix.Write(s.fd, p[done:])
		done += max(n, 0)
		switch {
		case err == nil && done == len(p):
			return done, nil
		case err == unix.EAGAIN:
			s.arm()
			s.in.wait(toWrite)
		case err != nil && err != unix.EINTR:
			return done, s.failed("write", err)
		}
	}
}

// atOnce writes as much as the socket takes without waiting. It is for who does not carry the way.
func (s *socket) atOnce(p []byte) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return 0
	}
	n, _ = unix.Write(s.fd, p) // what fails shows at the next write
	return max(n, 0)
}

// Close implements [net.Conn]. Whoever carries one of the ways finds out; the descriptor stays until
// they have ended, so that its number is nobody else's while they may use it.
func (s *socket) Close() error {
	s.mu.Lock()
	if s.fd >= 0 {
		_ = unix.Shutdown(s.fd, unix.SHUT_RDWR) // one that was reset has nothing to shut
	}
	s.mu.Unlock()
	s.out.mu.Lock()
	s.out.shut(toRead)
	s.recall(handed{})
	s.out.mu.Unlock()
	s.in.mu.Lock()
	s.in.shut(toWrite)
	s.in.mu.Unlock()
	return nil
}

// recall has a goroutine carry the way that begins here, if the loop does; with out.mu.
func (s *socket) recall(h handed) {
	if s.out.looped {
		s.out.looped = false
		go s.tun.carry(s, h) // it ends with the tunnel, or rests
	}
}

// pump is the function of that name for what a goroutine carries until it may rest. It is not put into
// the other, whose stack must be small.
//
//go:noinline
func (s *socket) pump(send func([]byte) error) outcome {
	for {
		if err := s.out.begin(toRead); err != nil {
			return outcomeOf(err)
		}
		if drawn(s.fd, send) {
			return over
		}
		if how := s.rest(); how != goesOn {
			return how
		}
	}
}

// rest gives the way to the loop, or waits until there is something to do about it.
func (s *socket) rest() outcome {
	if s.joins() {
		return resting
	}
	s.out.wait(toRead)
	return goesOn
}

// joins gives the way to the loop, if nothing has come of which it has told already, and there is no
// deadline to keep.
func (s *socket) joins() bool {
	w := s.out
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.idle() || !s.loop.takes() {
		return false
	}
	s.other.disarm()
	w.looped, w.waits = true, nil
	return true
}

// release closes the descriptor. Nobody carries anything any more.
func (s *socket) release() {
	if s.loop != nil {
		s.loop.drop(s)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
		s.fd = -1
	}
}

// CloseWrite ends what the other side hears.
func (s *socket) CloseWrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return net.ErrClosed
	}
	return unix.Shutdown(s.fd, unix.SHUT_WR)
}

// arm has the loop tell when the socket can be written to. It tells at once if it can.
func (s *socket) arm() {
	if !s.armed {
		s.armed = s.loop.interest(s, unix.EPOLL_CTL_MOD, events|unix.EPOLLOUT) == nil
	}
}

func (s *socket) disarm() {
	if s.armed {
		s.armed = s.loop.interest(s, unix.EPOLL_CTL_MOD, events) != nil
	}
}

func (s *socket) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "socket", Err: err}
}

// LocalAddr implements [net.Conn]; nobody asks.
func (s *socket) LocalAddr() net.Addr { return nil }

// RemoteAddr implements [net.Conn]; nobody asks.
func (s *socket) RemoteAddr() net.Addr { return nil }

// SetDeadline implements [net.Conn].
func (s *socket) SetDeadline(at time.Time) error {
	_ = s.SetWriteDeadline(at) // it does not fail
	return s.SetReadDeadline(at)
}

// SetReadDeadline implements [net.Conn]. The loop keeps no time: a goroutine takes the way over.
func (s *socket) SetReadDeadline(at time.Time) error {
	w := s.out
	w.mu.Lock()
	defer w.mu.Unlock()
	w.until(toRead, at)
	if !at.IsZero() {
		s.recall(handed{})
	}
	return nil
}

// SetWriteDeadline implements [net.Conn].
func (s *socket) SetWriteDeadline(at time.Time) error {
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	s.in.until(toWrite, at)
	return nil
}
