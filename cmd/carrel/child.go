package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"carrel/hub"
	"carrel/internal/config"
)

// handover is what the hub tells its proxy child over a pipe: never over argv or the environment,
// which others can read. The pipe then stays open for renewals; its end means that the hub is gone.
type handover struct {
	Keyring         []byte        `json:"keyring"` // hub.Keyring.ForProxy
	RedisURL        string        `json:"redis_url"`
	RedisPrefix     string        `json:"redis_prefix"`
	RedisCA         []byte        `json:"redis_ca,omitempty"`
	Origins         originsConfig `json:"origins"`
	AdminAccess     bool          `json:"admin_access"`
	TrustedProxies  []string      `json:"trusted_proxies"`
	Hub             string        `json:"hub"`
	Edge            string        `json:"edge"`
	RedisGrace      time.Duration `json:"redis_grace"`
	LogLevel        string        `json:"log_level"`
	LogFormat       string        `json:"log_format"`
	Certificate     renewal       `json:"certificate"` // empty: plain HTTP
	Listeners       int           `json:"listeners"`   // how many, from descriptor 4 on
	Doors           []config.Door `json:"doors"`       // what each of them is
	StrictTransport string        `json:"strict_transport"`
	Metrics         string        `json:"metrics"` // where to serve them; empty: nowhere
}

type originsConfig struct {
	Mode         hub.OriginMode `json:"mode"`
	PublicURL    string         `json:"public_url"`
	NotebookHost string         `json:"notebook_host"`
}

func (o originsConfig) origins() (hub.Origins, error) {
	return hub.NewOrigins(o.Mode, o.PublicURL, o.NotebookHost)
}

const (
	handoverFD    = 3
	childGrace    = 15 * time.Second
	childCommand  = "proxy-child"
	firstListener = 4
)

// proxyChild keeps one proxy process running: with a uid of its own, no Docker socket and no
// capability. The listeners stay open here, so that a crashed child is replaced with no refused
// connection.
type proxyChild struct {
	listeners []*os.File
	uid, gid  int // 0: this process's own
	logger    *slog.Logger

	mu   sync.Mutex
	hand handover
	pipe *json.Encoder // to the running child; nil between two
}

// newProxyChild duplicates the listeners' descriptors for the child.
func newProxyChild(hand handover, listeners []net.Listener, uid, gid int, logger *slog.Logger) (*proxyChild, error) {
	c := &proxyChild{hand: hand, uid: uid, gid: gid, logger: logger}
	for _, l := range listeners {
		tcp, ok := l.(*net.TCPListener)
		if !ok {
			return nil, hub.Errorf(hub.Internal, "hand listener over", "it is no TCP listener")
		}
		f, err := tcp.File()
		if err != nil {
			return nil, hub.Wrap(hub.Internal, "hand listener over", err)
		}
		c.listeners = append(c.listeners, f)
	}
	c.hand.Listeners = len(c.listeners)
	return c, nil
}

// Run starts the child, and again whenever it ends, until ctx does; then it asks it to drain and waits.
func (c *proxyChild) Run(ctx context.Context) error {
	defer func() {
		for _, f := range c.listeners {
			f.Close()
		}
	}()
	wait := 100 * time.Millisecond
	for {
		began := time.Now()
		err := c.once(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(began) > time.Minute {
			wait = 100 * time.Millisecond
		}
		c.logger.ErrorContext(ctx, "proxy ended; starting it again", "error", err, "after", wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, 10*time.Second)
	}
}

// once runs one child to its end.
func (c *proxyChild) once(ctx context.Context) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	var closeWrite = sync.OnceFunc(func() { write.Close() })
	defer closeWrite()
	// Not by its path: the child's uid may have no way through the directories above it, and an upgrade
	// may have put another version there.
	cmd := exec.Command("/proc/self/exe", childCommand) //nolint:noctx // ended by hand so that it can drain
	cmd.Args[0] = filepath.Base(os.Args[0])
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = []string{"PATH=/usr/bin:/bin", "GODEBUG=" + os.Getenv("GODEBUG")}
	cmd.Dir = "/"
	cmd.ExtraFiles = append([]*os.File{read}, c.listeners...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the hub alone
	if os.Geteuid() == 0 && c.uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(c.uid), Gid: uint32(c.gid)}
	}
	if err := cmd.Start(); err != nil {
		read.Close()
		return fmt.Errorf("start proxy: %w", err)
	}
	read.Close()
	if err := c.handOver(write); err != nil {
		c.logger.ErrorContext(ctx, "handover failed", "error", err)
	}
	defer c.letGo()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // joined below
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	closeWrite()
	select {
	case err := <-ended:
		return err
	case <-time.After(childGrace):
		cmd.Process.Kill() //nolint:errcheck // it may have ended just now
		return <-ended
	}
}

// handOver tells a child everything, and has it told of renewals from then on.
func (c *proxyChild) handOver(pipe io.Writer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pipe = json.NewEncoder(pipe)
	return c.pipe.Encode(c.hand)
}

func (c *proxyChild) letGo() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pipe = nil
}

// renew gives the running child, and those after it, a new certificate.
func (c *proxyChild) renew(r renewal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hand.Certificate = r
	if c.pipe != nil {
		if err := c.pipe.Encode(r); err != nil {
			c.logger.Debug("renewal not handed over: the child is ending, and the next has it from the start", "error", err)
		}
	}
}

// receiveHandover reads what the parent sends, and returns a context that ends with the parent and
// the renewals that come meanwhile.
func receiveHandover(ctx context.Context) (context.Context, handover, []net.Listener, <-chan renewal, error) {
	pipe := os.NewFile(handoverFD, "handover")
	if pipe == nil {
		return nil, handover{}, nil, nil, errors.New("this command is started by carrel serve only")
	}
	var h handover
	dec := json.NewDecoder(pipe)
	if err := dec.Decode(&h); err != nil {
		return nil, handover{}, nil, nil, fmt.Errorf("this command is started by carrel serve only: %w", err)
	}
	var listeners []net.Listener
	for i := range h.Listeners {
		f := os.NewFile(uintptr(firstListener+i), "listener")
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return nil, handover{}, nil, nil, fmt.Errorf("take listener over: %w", err)
		}
		listeners = append(listeners, l)
	}
	ctx, cancel := context.WithCancel(ctx)
	renewals := make(chan renewal)
	go func() { // ends with the process, or when the parent does
		defer close(renewals)
		defer cancel()
		for {
			var r renewal
			if dec.Decode(&r) != nil { // any end is the end
				return
			}
			select {
			case renewals <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, h, listeners, renewals, nil
}

// dropPrivileges makes sure that this process can gain no right that it does not have.
func dropPrivileges() error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 && errno != syscall.ENOTSUP {
		return fmt.Errorf("set no_new_privs: %w", errno)
	}
	return nil
}
