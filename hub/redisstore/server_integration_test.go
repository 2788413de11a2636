//go:build integration

package redisstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"carrel/internal/program"

	"github.com/redis/go-redis/v9"
)

// within bounds what a test waits for; a loaded machine takes its time.
const within = 30 * time.Second

// server is a redis-server, or a Sentinel, of a test's own.
type server struct {
	dir, port string
	lines     []string // of its configuration
	sentinel  bool
	cmd       *exec.Cmd
	ended     chan error
}

// newServer configures one with a unix socket and a loopback port.
func newServer(t testing.TB, lines ...string) *server {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "rs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &server{dir: dir, port: freePort()}
	s.lines = append([]string{"bind 127.0.0.1", "dir " + dir, "unixsocket " + s.socket(), `save ""`, "appendonly yes", "logfile " + filepath.Join(dir, "log")}, lines...)
	if !strings.Contains(strings.Join(lines, "\n"), "port ") {
		s.lines = append(s.lines, "port "+s.port)
	}
	return s
}

// startServer starts one.
func startServer(t testing.TB, lines ...string) *server {
	t.Helper()
	s := newServer(t, lines...)
	s.start(t)
	return s
}

func freePort() string { return strconv.Itoa(program.FreePort()) }

func (s *server) socket() string { return filepath.Join(s.dir, "s") }

func (s *server) url() string { return "redis://127.0.0.1:" + s.port }

// start runs it, until the test ends at the latest, and waits for it to listen.
func (s *server) start(t testing.TB) {
	t.Helper()
	conf := filepath.Join(s.dir, "conf")
	if _, err := os.Stat(conf); err != nil { // a Sentinel has written to its own since
		if err := os.WriteFile(conf, []byte(strings.Join(s.lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{conf}
	if s.sentinel {
		args = append(args, "--sentinel")
	}
	cmd := exec.Command("redis-server", args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	s.cmd, s.ended = cmd, ended
	t.Cleanup(func() { s.end(syscall.SIGKILL) })
	for end := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", "127.0.0.1:"+s.port); err == nil {
			c.Close()
			return
		}
		select {
		case err := <-ended:
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			t.Fatalf("redis-server ended at its start: %v\n%s", err, log)
		default:
		}
		if time.Now().After(end) {
			t.Fatal("redis-server does not listen")
		}
	}
}

// end signals the process and waits for its end.
func (s *server) end(sig syscall.Signal) {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Signal(sig)
	<-s.ended
	s.cmd = nil
}

// admin is a client that may do everything.
func (s *server) admin(t testing.TB) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: s.socket()})
	t.Cleanup(func() { c.Close() })
	return c
}

func do(t testing.TB, c *redis.Client, args ...any) any {
	t.Helper()
	v, err := c.Do(context.WithoutCancel(t.Context()), args...).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatalf("%v: %v", args, err)
	}
	return v
}

// until waits for what takes a while.
func until(t testing.TB, what string, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !happened(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not happen that %s", what)
		}
	}
}

// ownUser makes an ACL user who may use what lies under a prefix, and nothing else.
func (s *server) ownUser(t testing.TB, admin *redis.Client, n int) (user, prefix string) {
	t.Helper()
	user, prefix = fmt.Sprintf("user-%d", n), fmt.Sprintf("carrel:%d:", n)
	do(t, admin, "ACL", "SETUSER", user, "on", ">secret", "~"+prefix+"*", "&"+prefix+"*", "+@all", "-@dangerous", "-@admin")
	return user, prefix
}

// sentinelAdmin is a client of a Sentinel.
func (s *server) sentinelAdmin(t testing.TB) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + s.port, Password: "watch"})
	t.Cleanup(func() { c.Close() })
	return c
}
