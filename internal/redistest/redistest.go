// Package redistest starts a real Redis for a test, on a unix socket.
//
// It owns that process and its directory. It refuses to configure the one of a deployment: that is
// internal/redisserver's.
package redistest

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

const patience = 20 * time.Second

// A Server is a redis-server of a test's own, which writes its changes down. It ends with the test.
type Server struct {
	t   testing.TB
	dir string
	cmd *exec.Cmd
}

// New starts one in a directory of its own.
func New(t testing.TB) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "crl-redis-") // a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, dir: dir}
	t.Cleanup(func() {
		s.End(syscall.SIGKILL)
		os.RemoveAll(dir)
	})
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // a proxy of fewer rights goes through it
		t.Fatal(err)
	}
	s.Start()
	return s
}

// Socket is the path that it listens at.
func (s *Server) Socket() string { return filepath.Join(s.dir, "redis.sock") }

// URL is its address as redis.url takes it.
func (s *Server) URL() string { return "unix://" + s.Socket() }

// Start starts it again, with what it had, and waits until it listens.
func (s *Server) Start() {
	s.t.Helper()
	ctx := context.Background() // it ends by End
	s.cmd = exec.CommandContext(ctx, "redis-server", "--port", "0", "--unixsocket", s.Socket(), "--unixsocketperm", "777",
		"--dir", s.dir, "--appendonly", "yes", "--save", "")
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		s.t.Fatal(err)
	}
	var dialer net.Dialer
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		c, err := dialer.DialContext(ctx, "unix", s.Socket())
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("redis-server does not listen: %v", err)
		}
	}
}

// End sends it a signal and waits for its end; it does nothing to one that has ended.
func (s *Server) End(sig syscall.Signal) {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(sig)
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Wipe removes what it has written down, between End and Start.
func (s *Server) Wipe() {
	s.t.Helper()
	if err := os.RemoveAll(filepath.Join(s.dir, "appendonlydir")); err != nil {
		s.t.Fatal(err)
	}
}
