// Package redisserver runs a private redis-server for deployments that configure none.
//
// It owns the child process, its configuration, its users and its directory: append-only, reached
// by a unix socket alone, with one user for the hub and one of fewer rights for the proxy. The
// child has a session of its own and outlives a killed hub; the next hub adopts it. It refuses to
// know what is kept in it: that is hub/redisstore's.
//
// Two locks (flock(2)) in the directory keep things single. "lock" is the hub's. "server.lock" is
// the child's: it is handed the open file, so the lock is held just as long as that process lives,
// whoever started it, and whatever became of socket and pid file meanwhile.
package redisserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// Config says where, and for whom.
type Config struct {
	Dir       string // data and configuration, 0700
	SocketDir string // the socket's directory, passable for GID
	GID       int    // the proxy's group
	Prefix    string // of the keys, to which the proxy's rights are confined
	Hub       hub.Secret
	Proxy     hub.Secret // passwords
	Logger    *slog.Logger
}

// Server supervises one redis-server.
type Server struct{ cfg Config }

// New checks the configuration; it starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Dir == "" || cfg.SocketDir == "" || cfg.Prefix == "" || cfg.Hub.IsZero() || cfg.Proxy.IsZero() || cfg.Logger == nil {
		return nil, hub.Errorf(hub.Internal, "make redis server", "a part is missing")
	}
	s := &Server{cfg}
	if len(s.socket()) > 107 {
		return nil, &hub.Error{Kind: hub.Invalid, Op: "make redis server", Field: "state_dir", Message: "the path is too long for Redis's socket", Remedy: "use a shorter one"}
	}
	return s, nil
}

func (s *Server) socket() string { return filepath.Join(s.cfg.SocketDir, "redis.sock") }

// HubURL is how the hub reaches it.
func (s *Server) HubURL() string { return s.url("hub", s.cfg.Hub) }

// ProxyURL is how the proxy does.
func (s *Server) ProxyURL() string { return s.url("proxy", s.cfg.Proxy) }

func (s *Server) url(user string, password hub.Secret) string {
	u := url.URL{Scheme: "unix", User: url.UserPassword(user, password.Reveal()), Path: s.socket()}
	return u.String()
}

// ErrLeft is the cause of the end of Run's context when another process goes on with the
// redis-server: it is not ended.
var ErrLeft = errors.New("redis-server is left to another process")

// Succeed is Run for a process that succeeds another, which has a redis-server running and leaves it
// with [ErrLeft] once this one is ready.
func (s *Server) Succeed(ctx context.Context, ready func()) error {
	for ctx.Err() == nil {
		if s.answers(ctx) == nil {
			ready()
		}
		if err := s.Run(ctx, ready); !errors.Is(err, errTaken) {
			return err
		}
		pause(ctx, 100*time.Millisecond)
	}
	return ctx.Err()
}

// Run keeps a redis-server running until ctx ends, adopting one that an earlier hub left; then it
// has it save and end. ready is called each time one begins to answer. Another hub on the same
// directory is an error.
func (s *Server) Run(ctx context.Context, ready func()) error {
	lock, err := s.prepare(ctx)
	if err != nil {
		return err
	}
	defer lock.Close() // released with the process at the latest
	for wait := firstWait; ; wait = min(2*wait, 5*time.Second) {
		began := time.Now()
		err := s.once(ctx, ready)
		if errors.Is(context.Cause(ctx), ErrLeft) {
			return ctx.Err()
		}
		if ctx.Err() != nil {
			s.shutdown(context.WithoutCancel(ctx))
			return ctx.Err()
		}
		if time.Since(began) > 30*time.Second {
			wait = firstWait
		}
		s.cfg.Logger.ErrorContext(ctx, "redis-server ended; starting it again", "error", err, "after", wait)
		pause(ctx, wait)
	}
}

const (
	firstWait      = 100 * time.Millisecond // before a second start
	shutdownWithin = 20 * time.Second
)

// pause waits, or less when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// once runs a redis-server to its end, or adopts one and waits for its.
func (s *Server) once(ctx context.Context, ready func()) error {
	lock, err := s.flock("server.lock")
	if err != nil {
		return err
	}
	if lock != nil {
		return s.start(ctx, lock, ready)
	}
	s.cfg.Logger.InfoContext(ctx, "adopting the running redis-server")
	for ctx.Err() == nil && s.runs() {
		if s.answers(ctx) == nil {
			ready()
			for ctx.Err() == nil && s.runs() {
				pause(ctx, 200*time.Millisecond)
			}
			break
		}
		pause(ctx, 50*time.Millisecond)
	}
	return errors.New("the adopted redis-server ended")
}

// start starts a redis-server that holds lock, and waits for its end.
func (s *Server) start(ctx context.Context, lock *os.File, ready func()) error {
	defer lock.Close()                                                          // the child has its own
	cmd := exec.Command("redis-server", filepath.Join(s.cfg.Dir, "redis.conf")) //nolint:noctx // it is to outlive us
	cmd.Dir = s.cfg.Dir
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is not for it
	if err := cmd.Start(); err != nil {
		return &hub.Error{Kind: hub.Unavailable, Op: "start redis-server", Message: "redis-server can't be started", Remedy: "install redis-server, or set redis.url", Err: err}
	}
	lock.Close() // now it is the child's alone
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the child, which may outlive this process
	for s.answers(ctx) != nil {
		select {
		case err := <-ended:
			return fmt.Errorf("redis-server ended at its start; see %s: %w", filepath.Join(s.cfg.Dir, "redis.log"), orByItself(err))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	ready()
	select {
	case err := <-ended:
		return orByItself(err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func orByItself(err error) error {
	if err == nil {
		return errors.New("it ended by itself")
	}
	return err
}

func (s *Server) client() *redis.Client {
	return redis.NewClient(&redis.Options{Network: "unix", Addr: s.socket(), Username: "hub", Password: s.cfg.Hub.Reveal(), DialTimeout: time.Second, ReadTimeout: time.Second, MaxRetries: -1, DialerRetries: 1})
}

func (s *Server) answers(ctx context.Context) error {
	probe, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", s.socket())
	if err != nil {
		return err // asked often while it starts, and the client would log each failure
	}
	probe.Close() // nothing was written
	c := s.client()
	defer c.Close() //nolint:errcheck // one question
	return c.Ping(ctx).Err()
}

// runs tells whether a redis-server has this directory, be it that it does not answer.
func (s *Server) runs() bool {
	lock, err := s.flock("server.lock")
	if lock != nil {
		lock.Close() // only whether it could be had
	}
	return lock == nil && err == nil
}

// shutdown has the server write everything down and end.
func (s *Server) shutdown(ctx context.Context) {
	ctx, done := context.WithTimeout(ctx, shutdownWithin)
	defer done()
	for ctx.Err() == nil && s.runs() {
		c := s.client()
		_ = c.Shutdown(ctx).Err() // the connection's end is the answer
		c.Close()                 //nolint:errcheck // it ends with the server
		pause(ctx, 50*time.Millisecond)
	}
	if s.runs() {
		s.cfg.Logger.ErrorContext(ctx, "redis-server does not end", "log", filepath.Join(s.cfg.Dir, "redis.log"))
	}
}

// Stop ends a redis-server that an earlier hub left, when the deployment is taken down. A hub that
// runs is Conflict: it would only start another.
func (s *Server) Stop() error {
	if _, err := os.Stat(s.cfg.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := s.flock("lock")
	if err != nil {
		return err
	}
	if lock == nil {
		return errTaken
	}
	defer lock.Close() // released with the process at the latest
	s.shutdown(context.Background())
	return nil
}

// Quiet ends the Redis library's own log, for the whole process: all that goes wrong is returned as
// an error too, and logged once by whoever has it.
func Quiet() { redis.SetLogger(unheard{}) }

// unheard is a log that nobody reads.
type unheard struct{}

// Printf implements the library's logger.
func (unheard) Printf(context.Context, string, ...any) {}
