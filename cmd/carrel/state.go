package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"carrel/hub"
)

// state is the deployment's directory on this host:
//
//	<state>/           0711: the proxy's uid passes through, and lists nothing
//	  secrets/         0700: deployment.key, the demo provider's key
//	  redis/           the private Redis, when there is one
//	  docker/          the driver's: homes, bindings, addresses
//	  static/          0755: images' static files, which the proxy reads
//	  demo-users.json  0600
//	<run>/             0750, the proxy's group: hub.sock, edge.sock, redis.sock; for
//	                   the owner alone top.sock and traffic-*.sock
type state struct {
	dir, run string
	proxyGID int
}

// prepare makes the directories with their modes; it is idempotent.
func (s state) prepare() error {
	for _, d := range []struct {
		path string
		mode os.FileMode
		gid  int
	}{{s.dir, 0o711, -1}, {s.secrets(), 0o700, -1}, {s.docker(), 0o711, -1}, {s.statics(), 0o755, -1}, {s.run, 0o750, s.proxyGID}} {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return &hub.Error{Kind: hub.Invalid, Op: "make directory", Field: "state_dir", Message: err.Error(), Remedy: "choose a state_dir that this user can write", Err: err}
		}
		if err := os.Chmod(d.path, d.mode); err != nil {
			return hub.Wrap(hub.Internal, "set directory's mode", err)
		}
		if d.gid >= 0 && os.Geteuid() == 0 {
			if err := os.Chown(d.path, 0, d.gid); err != nil {
				return hub.Wrap(hub.Internal, "set directory's group", err)
			}
		}
	}
	return s.checkWay()
}

// checkWay makes sure that the proxy, under a uid of its own, can reach its sockets: a state_dir
// below a directory that is one person's alone, such as root's home, would hide them.
func (s state) checkWay() error {
	if os.Geteuid() != 0 || s.proxyGID == 0 {
		return nil
	}
	for dir := filepath.Dir(s.run); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return hub.Wrap(hub.Internal, "look at directory", err)
		}
		if info.Mode().Perm()&0o001 == 0 {
			return &hub.Error{
				Kind: hub.Invalid, Op: "check state_dir", Field: "state_dir", Message: "the proxy, which runs as another user, can't pass through " + dir,
				Remedy: "choose a state_dir elsewhere, such as /var/lib/carrel, or let others pass: chmod o+x " + dir,
			}
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// hold takes the directory's lock until the function returned is called, or the process ends: every
// hub shares it (unix.LOCK_SH), and whoever takes the deployment down wants it alone (unix.LOCK_EX).
func (s state) hold(how int) (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, hub.Wrap(hub.Unavailable, "lock state_dir", err)
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, &hub.Error{
			Kind: hub.Conflict, Op: "lock state_dir", Field: "state_dir", Message: "a carrel runs, or is being taken down, on " + s.dir,
			Remedy: "stop it first", Err: err,
		}
	}
	return func() { f.Close() }, nil
}

func (s state) secrets() string    { return filepath.Join(s.dir, "secrets") }
func (s state) docker() string     { return filepath.Join(s.dir, "docker") }
func (s state) statics() string    { return filepath.Join(s.dir, "static") }
func (s state) redis() string      { return filepath.Join(s.dir, "redis") }
func (s state) demoUsers() string  { return filepath.Join(s.dir, "demo-users.json") }
func (s state) hubSocket() string  { return filepath.Join(s.run, "hub.sock") }
func (s state) edgeSocket() string { return filepath.Join(s.run, "edge.sock") }
func (s state) topSocket() string  { return filepath.Join(s.run, "top.sock") }
func (s state) acme() string       { return filepath.Join(s.secrets(), "acme") }
func (s state) keysSocket() string {
	return filepath.Join(s.run, fmt.Sprintf("keys-%d.sock", os.Getpid()))
}
func (s state) trafficSocket() string {
	return filepath.Join(s.run, fmt.Sprintf("traffic-%d.sock", os.Getpid()))
}
func (s state) redisSocket() string { return filepath.Join(s.run, "redis") }

// dropDeadSockets removes the sockets of processes that were killed.
func (s state) dropDeadSockets() {
	left, err := filepath.Glob(filepath.Join(s.run, "*-*.sock"))
	if err != nil {
		return
	}
	for _, path := range left {
		kind, pid, _ := strings.Cut(strings.TrimSuffix(filepath.Base(path), ".sock"), "-")
		if kind != "keys" && kind != "traffic" {
			continue
		}
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(path) // another one may have been quicker
		}
	}
}

// keyring reads the deployment's key, making one at the first start. The key is everything: whoever
// has it can forge sessions' cookies and servers' tokens, and without it running notebooks are lost.
func (s state) keyring(deployment string) (*hub.Keyring, error) {
	path := filepath.Join(s.secrets(), "deployment.key")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		raw, err = makeKey(path)
	}
	if err != nil {
		return nil, &hub.Error{Kind: hub.Invalid, Op: "read deployment key", Field: "state_dir", Message: "the deployment key can't be read", Remedy: "run as the user who owns " + path, Err: err}
	}
	secret, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil {
		return nil, &hub.Error{Kind: hub.Invalid, Op: "read deployment key", Message: path + " does not hold a key", Remedy: "restore it from a backup; without the right key running notebooks can't be reached"}
	}
	return hub.NewKeyring(deployment, secret)
}

// makeKey writes a new key so that a crash leaves either none or a whole one.
func makeKey(path string) ([]byte, error) {
	var b [32]byte
	rand.Read(b[:])
	text := []byte(hex.EncodeToString(b[:]) + "\n")
	tmp, err := os.CreateTemp(filepath.Dir(path), ".deployment.key-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp.Name())
	if _, err = tmp.Write(text); err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	if err := os.Link(tmp.Name(), path); errors.Is(err, fs.ErrExist) { // another process was first
		return os.ReadFile(path)
	} else if err != nil {
		return nil, fmt.Errorf("keep the new key: %w", err)
	}
	return text, nil
}
