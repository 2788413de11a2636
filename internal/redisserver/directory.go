package redisserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"carrel/hub"
)

var errTaken = &hub.Error{Kind: hub.Conflict, Op: "lock Redis's directory", Field: "state_dir", Message: "another carrel runs on this state_dir", Remedy: "stop it first, or give this one a state_dir of its own"}

// prepare makes the directories and files, and takes the directory's lock. A survivor that was
// started with another configuration or other users is ended: it would keep them.
func (s *Server) prepare(ctx context.Context) (*os.File, error) {
	for dir, mode := range map[string]os.FileMode{s.cfg.Dir: 0o700, s.cfg.SocketDir: 0o750 | os.ModeSetgid} {
		if err := os.MkdirAll(dir, mode.Perm()); err != nil {
			return nil, hub.Wrap(hub.Unavailable, "make Redis's directory", err)
		}
		if dir == s.cfg.SocketDir && os.Geteuid() == 0 { // setgid: the socket that Redis makes is the proxy's group's
			if err := os.Chown(dir, 0, s.cfg.GID); err != nil {
				return nil, hub.Wrap(hub.Unavailable, "give Redis's directory to the proxy's group", err)
			}
		}
		if err := os.Chmod(dir, mode); err != nil {
			return nil, hub.Wrap(hub.Unavailable, "set mode of Redis's directory", err)
		}
	}
	lock, err := s.flock("lock")
	if err != nil {
		return nil, err
	}
	if lock == nil {
		return nil, errTaken
	}
	changed := false
	for name, text := range map[string]string{"redis.conf": s.config(), "users.acl": s.users()} {
		path := filepath.Join(s.cfg.Dir, name)
		if old, err := os.ReadFile(path); err == nil && string(old) == text { // a path of our own
			continue
		}
		changed = true
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			lock.Close() // unused
			return nil, hub.Wrap(hub.Unavailable, "write Redis's configuration", err)
		}
	}
	if changed && s.runs() {
		s.cfg.Logger.InfoContext(ctx, "ending a redis-server that was started with another configuration")
		s.shutdown(ctx)
	}
	return lock, nil
}

// flock takes a lock in the directory; nil when another process has it. The file is closed at exec
// but in whom it is handed to.
func (s *Server) flock(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(s.cfg.Dir, name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, hub.Wrap(hub.Unavailable, "lock Redis's directory", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) // a descriptor
	if err == nil {
		return f, nil
	}
	f.Close() // unused
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil //nolint:nilnil // no lock, and no fault
	}
	return nil, hub.Wrap(hub.Unavailable, "lock Redis's directory", err)
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
// server beyond its use; the proxy only what carrying requests takes: read people, tokens, routes,
// servers' names, which change was the last, and sessions, take tickets, open sessions of notebook hosts, record activity and use,
// hear events. Package redisstore tells what each key is, and what a proxy can still do with these. Of CLIENT it
// has nothing that shows or touches others' connections (what an older Redis does not know can't be
// named).
func (s *Server) users() string {
	p := s.cfg.Prefix
	var keys strings.Builder
	for _, k := range []string{"user:*", "token:*", "route:*", "routes", "servers", "change", "session:*"} {
		keys.WriteString(" %R~" + p + k)
	}
	for _, k := range []string{"seen:*", "child:*", "children:*", "ticket:*", "activity"} {
		keys.WriteString(" ~" + p + k)
	}
	// Nobody signs in as default, but Redis itself is it while it reads its append-only file: without
	// rights, every transaction in there would be dropped.
	return "user default off resetpass ~* &* +@all\n" +
		"user hub on >" + s.cfg.Hub.Reveal() + " ~* &* +@all -debug -replicaof -slaveof -module -acl\n" +
		"user proxy on >" + s.cfg.Proxy.Reveal() + keys.String() + " &" + p + "events -@all +get +mget +getdel +set +exists +zadd +zrange +zrem +pexpire" +
		" +eval +evalsha +script|load +subscribe +unsubscribe +ping +hello +auth\n"
}
