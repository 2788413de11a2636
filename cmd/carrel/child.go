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
	"carrel/proxy"
)

// handover is what the hub tells its proxy child over a socket pair: never over argv or the
// environment, which others can read. The pair stays open: for words, for the child's that it is
// ready, and for its end, which means that the hub is gone.
type handover struct {
	Keyring         []byte        `json:"keyring"` // hub.Keyring.ForProxy
	RedisURL        string        `json:"redis_url"`
	RedisPrefix     string        `json:"redis_prefix"`
	RedisCA         []byte        `json:"redis_ca,omitempty"`
	Origins         originsConfig `json:"origins"`
	AdminAccess     bool          `json:"admin_access"`
	Embeds          []string      `json:"embeds,omitempty"` // origins
	TrustedProxies  []string      `json:"trusted_proxies"`
	Hub             string        `json:"hub"`
	Edge            string        `json:"edge"`
	Statics         string        `json:"statics"` // directory
	RedisGrace      time.Duration `json:"redis_grace"`
	PausePing       time.Duration `json:"pause_ping"`
	EventLoop       bool          `json:"event_loop"`
	Drain           proxy.Drain   `json:"drain"`
	LogLevel        string        `json:"log_level"`
	LogFormat       string        `json:"log_format"`
	Certificate     renewal       `json:"certificate"` // empty: plain HTTP
	Listeners       int           `json:"listeners"`   // how many, from descriptor 4 on
	Doors           []config.Door `json:"doors"`       // what each of them is
	Keys            string        `json:"keys"`        // socket of whoever keeps the certificates' keys; empty: none does
	StrictTransport string        `json:"strict_transport"`
	Access          string        `json:"access"`
	AccessFormat    string        `json:"access_format"`
	Metrics         string        `json:"metrics"` // where to serve them; empty: nowhere
	Traffic         bool          `json:"traffic"` // the descriptor after the listeners' is the socket for it
}

// word is what a running child is told.
type word struct {
	Certificate *renewal `json:"certificate,omitempty"` // from now on
	Succeeded   bool     `json:"succeeded,omitempty"`   // another child accepts on the same sockets: drain
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
	childMargin   = 7 * time.Second // beyond its own deadlines: last close frames, last activity
	childCommand  = "proxy-child"
	firstListener = 4
)

// proxyChild keeps one proxy process running: with a uid of its own, no Docker socket and no
// capability. The sockets stay open here, so that a crashed child is replaced with no refused
// connection.
type proxyChild struct {
	sockets  []socket
	traffic  socket // where the hub reads what the child counts; none: nowhere
	uid, gid int    // 0: this process's own
	logger   *slog.Logger
	hurry    <-chan struct{} // closed when a drain is not waited for any longer
	ready    chan struct{}   // closed once a child serves
	serves   func()

	mu   sync.Mutex
	hand handover
	talk *json.Encoder // to the running child; nil between two
}

func newProxyChild(hand handover, sockets []socket, uid, gid int, hurry <-chan struct{}, logger *slog.Logger) *proxyChild {
	c := &proxyChild{hand: hand, sockets: sockets, uid: uid, gid: gid, hurry: hurry, logger: logger, ready: make(chan struct{})}
	c.serves = sync.OnceFunc(func() { close(c.ready) })
	c.hand.Listeners = len(sockets)
	return c
}

// Run starts the child, and again whenever it ends, until ctx does; then it asks it to drain and waits.
func (c *proxyChild) Run(ctx context.Context) error {
	defer closeSockets(c.sockets)
	defer removeSocket(c.traffic)
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
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer ours.Close()
	cmd := c.command(theirs)
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return fmt.Errorf("start proxy: %w", err)
	}
	if err := c.handOver(ours); err != nil {
		c.logger.ErrorContext(ctx, "handover failed", "error", err)
	}
	defer c.letGo()
	var hearing sync.WaitGroup
	hearing.Go(func() { c.hear(ours) })
	defer hearing.Wait()
	defer ours.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // joined below
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	closeSockets(c.sockets) // nobody is left waiting when the child closes its own
	drain, hurry := c.hand.Drain.Notice+c.hand.Drain.Requests, (<-chan struct{})(nil)
	if errors.Is(context.Cause(ctx), proxy.ErrSucceeded) && c.say(word{Succeeded: true}) == nil {
		drain, hurry = c.hand.Drain.Handed, c.hurry
	} else {
		ours.Close()
	}
	select {
	case err := <-ended:
		return err
	case <-hurry:
	case <-time.After(drain + c.hand.Drain.Tunnels + childMargin):
	}
	cmd.Process.Kill() //nolint:errcheck // it may have ended just now
	return <-ended
}

func (c *proxyChild) command(theirs *os.File) *exec.Cmd {
	// Not by its path: the child's uid may have no way through the directories above it, and an upgrade
	// may have put another version there.
	cmd := exec.Command("/proc/self/exe", childCommand) //nolint:noctx // ended by hand so that it can drain
	cmd.Args[0] = filepath.Base(os.Args[0])
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = []string{"PATH=/usr/bin:/bin", "GODEBUG=" + os.Getenv("GODEBUG")}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{theirs}
	for _, s := range c.sockets {
		cmd.ExtraFiles = append(cmd.ExtraFiles, s.file)
	}
	if c.traffic.file != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, c.traffic.file)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the hub alone
	if os.Geteuid() == 0 && c.uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(c.uid), Gid: uint32(c.gid)}
	}
	return cmd
}

// hear waits for the child's word that it serves. It has nothing else to say, and is not believed more.
func (c *proxyChild) hear(ours io.Reader) {
	var b [1]byte
	if _, err := ours.Read(b[:]); err == nil {
		c.serves()
	}
}

// handOver tells a child everything, and has it told of what changes from then on.
func (c *proxyChild) handOver(ours io.Writer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.talk = json.NewEncoder(ours)
	return c.talk.Encode(c.hand)
}

func (c *proxyChild) letGo() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.talk = nil
}

// say tells the running child, if there is one.
func (c *proxyChild) say(w word) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.talk == nil {
		return nil
	}
	return c.talk.Encode(w)
}

// renew gives the running child, and those after it, a new certificate.
func (c *proxyChild) renew(r renewal) {
	c.mu.Lock()
	c.hand.Certificate = r
	c.mu.Unlock()
	if err := c.say(word{Certificate: &r}); err != nil {
		c.logger.Debug("renewal not handed over: the child is ending, and the next has it from the start", "error", err)
	}
}

// heir is what a child was handed: a context that ends with the hub, or when the child is succeeded,
// the renewals that come meanwhile, and how to say that it serves.
type heir struct {
	handover
	access    proxy.AccessLog
	listeners []net.Listener
	traffic   net.Listener // nil: nobody reads it
	renewals  <-chan renewal
	serves    func()
}

// receiveHandover reads what the parent sends.
func receiveHandover(ctx context.Context) (context.Context, heir, error) {
	talk := os.NewFile(handoverFD, "handover")
	if talk == nil {
		return nil, heir{}, errors.New("this command is started by carrel serve only")
	}
	h := heir{serves: func() { _, _ = talk.Write([]byte{'r'}) }} // a parent that is gone ends the context
	dec := json.NewDecoder(talk)
	if err := dec.Decode(&h.handover); err != nil {
		return nil, heir{}, fmt.Errorf("this command is started by carrel serve only: %w", err)
	}
	for i := range h.Listeners {
		l, err := listenerAt(firstListener + i)
		if err != nil {
			return nil, heir{}, err
		}
		h.listeners = append(h.listeners, l)
	}
	if h.Traffic {
		l, err := listenerAt(firstListener + h.Listeners)
		if err != nil {
			return nil, heir{}, err
		}
		h.traffic = l
	}
	ctx, cancel := context.WithCancelCause(ctx)
	renewals := make(chan renewal)
	h.renewals = renewals
	go func() { // ends with the process, or when the parent does
		defer close(renewals)
		defer cancel(nil)
		for {
			var w word
			if dec.Decode(&w) != nil { // any end is the end
				return
			}
			if w.Succeeded {
				cancel(proxy.ErrSucceeded)
			}
			if w.Certificate == nil {
				continue
			}
			select {
			case renewals <- *w.Certificate:
			case <-ctx.Done():
			}
		}
	}()
	return ctx, h, nil
}

// listenerAt takes a descriptor over that the parent left.
func listenerAt(fd int) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close() // the listener has a copy
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take listener over: %w", err)
	}
	return l, nil
}

// dropPrivileges makes sure that this process can gain no right that it does not have.
func dropPrivileges() error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 && errno != syscall.ENOTSUP {
		return fmt.Errorf("set no_new_privs: %w", errno)
	}
	return nil
}
