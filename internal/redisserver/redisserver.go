// Package redisserver runs a private redis-server for deployments that configure none.
//
// It owns the child process, its configuration, its users and its directory: append-only, reached
// by a unix socket alone, with one user for the hub and one of fewer rights for the proxy. The
// child has a session of its own and outlives a killed hub; the next hub adopts it. It refuses to
// know what is kept in it: that is hub/redisstore's.
package redisserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
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

// Run keeps a redis-server running until ctx ends, adopting one that an earlier hub left; then it
// has it save and end. ready is called when it answers for the first time. Another hub on the same
// directory is an error.
func (s *Server) Run(ctx context.Context, ready func()) error {
	lock, err := s.prepare()
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // released with the process at the latest
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		began := time.Now()
		err := s.once(ctx, ready)
		if ctx.Err() != nil {
			s.shutdown()
			return ctx.Err()
		}
		if time.Since(began) > 30*time.Second {
			wait = 100 * time.Millisecond
		}
		s.cfg.Logger.ErrorContext(ctx, "redis-server ended; starting it again", "error", err, "after", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// prepare makes the directories and files, and takes the directory's lock.
func (s *Server) prepare() (*os.File, error) {
	for dir, mode := range map[string]os.FileMode{s.cfg.Dir: 0o700, s.cfg.SocketDir: 0o750} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return nil, hub.Wrap(hub.Unavailable, "make Redis's directory", err)
		}
	}
	if os.Geteuid() == 0 { // setgid: the socket that Redis makes is the proxy's group's
		if err := os.Chown(s.cfg.SocketDir, 0, s.cfg.GID); err != nil {
			return nil, hub.Wrap(hub.Unavailable, "give Redis's directory to the proxy's group", err)
		}
	}
	if err := os.Chmod(s.cfg.SocketDir, 0o750|os.ModeSetgid); err != nil {
		return nil, hub.Wrap(hub.Unavailable, "set mode of Redis's directory", err)
	}
	lock, err := os.OpenFile(filepath.Join(s.cfg.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, hub.Wrap(hub.Unavailable, "lock Redis's directory", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a descriptor
		lock.Close() //nolint:errcheck // unused
		return nil, &hub.Error{Kind: hub.Conflict, Op: "lock Redis's directory", Field: "state_dir", Message: "another carrel runs on this state_dir", Remedy: "stop it first, or give this one a state_dir of its own", Err: err}
	}
	for name, text := range map[string]string{"redis.conf": s.config(), "users.acl": s.users()} {
		if err := os.WriteFile(filepath.Join(s.cfg.Dir, name), []byte(text), 0o600); err != nil {
			lock.Close() //nolint:errcheck // unused
			return nil, hub.Wrap(hub.Unavailable, "write Redis's configuration", err)
		}
	}
	return lock, nil
}

func (s *Server) config() string {
	return fmt.Sprintf(`port 0
unixsocket %q
unixsocketperm 770
dir %q
pidfile %q
logfile %q
aclfile %q
daemonize no
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
timeout 0
`, s.socket(), s.cfg.Dir, filepath.Join(s.cfg.Dir, "redis.pid"), filepath.Join(s.cfg.Dir, "redis.log"), filepath.Join(s.cfg.Dir, "users.acl"))
}

// users are the ACL: nobody without a name; the hub everything but what could end or rewire the
// server beyond its use; the proxy only what carrying requests takes: read people, tokens and
// routes, take tickets, open and touch sessions, record activity, hear events.
func (s *Server) users() string {
	p := s.cfg.Prefix
	read := ""
	for _, k := range []string{"user:*", "token:*", "route:*", "tomb:*"} {
		read += " %R~" + p + k
	}
	write := ""
	for _, k := range []string{"session:*", "child:*", "children:*", "ticket:*", "routes", "activity"} {
		write += " ~" + p + k
	}
	return "user default off\n" +
		"user hub on >" + s.cfg.Hub.Reveal() + " ~* &* +@all -debug -replicaof -slaveof -module -acl\n" +
		"user proxy on >" + s.cfg.Proxy.Reveal() + read + write + " &" + p + "events -@all +get +mget +getdel +set +exists +zadd +zrange +zrem +pttl +pexpire +del" +
		" +eval +evalsha +script|load +subscribe +unsubscribe +ping +hello +client +auth\n"
}

// once runs a redis-server to its end, or adopts one and waits for its.
func (s *Server) once(ctx context.Context, ready func()) error {
	if s.answers(ctx) == nil {
		s.cfg.Logger.InfoContext(ctx, "adopted the running redis-server")
		ready()
		return s.waitGone(ctx)
	}
	if pid := s.survivor(); pid > 0 {
		s.cfg.Logger.WarnContext(ctx, "a redis-server runs on this directory and does not answer yet", "pid", pid)
		return s.waitAnswerOrEnd(ctx, pid, ready)
	}
	cmd := exec.Command("redis-server", filepath.Join(s.cfg.Dir, "redis.conf")) //nolint:gosec,noctx // our own file; it is to outlive us
	cmd.Dir = s.cfg.Dir
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is not for it
	if err := cmd.Start(); err != nil {
		return &hub.Error{Kind: hub.Unavailable, Op: "start redis-server", Message: "redis-server can't be started", Remedy: "install redis-server, or set redis.url", Err: err}
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the child, which may outlive this process
	for {
		if s.answers(ctx) == nil {
			ready()
			break
		}
		select {
		case err := <-ended:
			return fmt.Errorf("redis-server ended at its start; see %s: %w", filepath.Join(s.cfg.Dir, "redis.log"), err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	select {
	case err := <-ended:
		if err == nil {
			err = errors.New("it ended by itself")
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Server) client() *redis.Client {
	return redis.NewClient(&redis.Options{Network: "unix", Addr: s.socket(), Username: "hub", Password: s.cfg.Hub.Reveal(), DialTimeout: time.Second, ReadTimeout: time.Second, MaxRetries: -1})
}

func (s *Server) answers(ctx context.Context) error {
	c := s.client()
	defer c.Close() //nolint:errcheck // one question
	return c.Ping(ctx).Err()
}

// survivor is the pid of a redis-server that still has our directory, or 0.
func (s *Server) survivor() int {
	raw, err := os.ReadFile(filepath.Join(s.cfg.Dir, "redis.pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return 0
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || cwd != s.cfg.Dir {
		return 0
	}
	return pid
}

// waitGone watches an adopted server.
func (s *Server) waitGone(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
		if s.answers(ctx) != nil && s.survivor() == 0 {
			return errors.New("the adopted redis-server ended")
		}
	}
}

func (s *Server) waitAnswerOrEnd(ctx context.Context, pid int, ready func()) error {
	for ctx.Err() == nil {
		if s.answers(ctx) == nil {
			ready()
			return s.waitGone(ctx)
		}
		if s.survivor() != pid {
			return errors.New("the redis-server that did not answer ended")
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	return ctx.Err()
}

// shutdown has the server write everything down and end.
func (s *Server) shutdown() {
	ctx, done := context.WithTimeout(context.Background(), 10*time.Second)
	defer done()
	c := s.client()
	defer c.Close()           //nolint:errcheck // it ends with the server
	_ = c.Shutdown(ctx).Err() // the connection's end is the answer
	for ctx.Err() == nil && s.survivor() != 0 {
		time.Sleep(20 * time.Millisecond)
	}
}

// Stop ends a redis-server that an earlier hub left, when the deployment is taken down.
func (s *Server) Stop() {
	if s.survivor() != 0 {
		s.shutdown()
	}
}
