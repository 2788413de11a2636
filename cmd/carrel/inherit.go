package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"carrel/hub"
	"carrel/internal/config"
)

// socket is a listening socket as a descriptor, which children and a successor are given: as long as
// one process has it, whoever connects is waited for by the kernel.
type socket struct {
	name string // as the configuration has it; of a unix socket, its path
	file *os.File
}

func closeSockets(list []socket) {
	for _, s := range list {
		s.file.Close()
	}
}

// inheritance is what a process gets from the one that it succeeds, or from systemd.
type inheritance struct {
	handed map[string]*os.File // by name, from the predecessor
	given  []*os.File          // by systemd (sd_listen_fds(3))
	tell   *os.File            // the predecessor, which waits for a word; nil: there is none
}

const (
	successorEnv   = "CARREL_SUCCEEDS" // set for a process that is to succeed another
	predecessorFD  = 3
	firstInherited = 4
	inheritWithin  = 10 * time.Second
)

// testament is what a process tells its successor; the sockets themselves are descriptors from
// [firstInherited] on, in this order.
type testament struct {
	Sockets []string `json:"sockets"`
}

// verdict is a successor's word: that it serves, or why it can't.
type verdict struct {
	Ready bool   `json:"ready"`
	Error string `json:"error,omitempty"`
}

// inherit takes what this process was started with. It is called once, before anything is opened.
func inherit() (*inheritance, error) {
	in := &inheritance{handed: map[string]*os.File{}}
	if os.Getenv(successorEnv) == "" {
		in.given = activation.Files(true)
		return in, nil
	}
	_ = os.Unsetenv(successorEnv) // not for children
	syscall.CloseOnExec(predecessorFD)
	_ = syscall.SetNonblock(predecessorFD, true) // so that it has deadlines
	in.tell = os.NewFile(predecessorFD, "predecessor")
	_ = in.tell.SetReadDeadline(time.Now().Add(inheritWithin))
	var t testament
	if err := json.NewDecoder(in.tell).Decode(&t); err != nil {
		return nil, fmt.Errorf("succeed a running carrel: %w", err)
	}
	for i, name := range t.Sockets {
		syscall.CloseOnExec(firstInherited + i)
		in.handed[name] = os.NewFile(uintptr(firstInherited+i), name)
	}
	return in, nil
}

// succeeds tells whether another process serves until this one is ready.
func (in *inheritance) succeeds() bool { return in.tell != nil }

// ready tells the predecessor that it may go.
func (in *inheritance) ready() { in.say(verdict{Ready: true}) }

// end tells the predecessor why this process ends, unless it was ready before.
func (in *inheritance) end(err error) {
	if err != nil {
		message, _ := hub.Public(err)
		if field := hub.FieldOf(err); field != "" {
			message = field + ": " + message
		}
		if message == "" {
			message = err.Error()
		}
		in.say(verdict{Error: message}) // without a message it was printed
	}
}

func (in *inheritance) say(v verdict) {
	if in.tell == nil {
		return
	}
	if raw, err := json.Marshal(v); err == nil {
		_, _ = in.tell.Write(raw) // who is gone needs no word
	}
	in.tell.Close()
	in.tell = nil
}

// take gives the socket of an address out, if it was inherited.
func (in *inheritance) take(name string) *os.File {
	if f := in.handed[name]; f != nil {
		delete(in.handed, name)
		return f
	}
	want, err := net.ResolveTCPAddr("tcp", name)
	if err != nil {
		return nil
	}
	for i, f := range in.given {
		if sameAddress(addressOf(f), want) {
			in.given = slices.Delete(in.given, i, i+1)
			return f
		}
	}
	return nil
}

// rest closes what nothing asked for; of what systemd gave that is a fault, as whoever connects there
// would wait for ever.
func (in *inheritance) rest() error {
	for _, f := range in.handed {
		f.Close() // the configuration has it no more
	}
	if len(in.given) == 0 {
		return nil
	}
	what := in.given[0].Name()
	if a := addressOf(in.given[0]); a != nil {
		what = a.String()
	}
	return &hub.Error{Kind: hub.Invalid, Op: "take systemd's sockets", Field: "listen", Message: "the socket unit opens " + what + ", which listen does not name", Remedy: "name it in listen, or take it out of the socket unit"}
}

// addressOf is where a descriptor listens by TCP; nil for anything else.
func addressOf(f *os.File) *net.TCPAddr {
	l, err := net.FileListener(f)
	if err != nil {
		return nil
	}
	defer l.Close() // a copy
	a, _ := l.Addr().(*net.TCPAddr)
	return a
}

func sameAddress(a, b *net.TCPAddr) bool {
	if a == nil || b == nil || a.Port != b.Port {
		return false
	}
	x, _ := netip.AddrFromSlice(a.IP)
	y, _ := netip.AddrFromSlice(b.IP)
	any := func(ip netip.Addr) bool { return !ip.IsValid() || ip.IsUnspecified() }
	return x.Unmap() == y.Unmap() || any(x) && any(y)
}

// listen takes or opens the proxy's sockets here, so that a port in use, or a certificate that is not
// to be had, is told before anything starts.
func (d *deployment) listen(ctx context.Context, in *inheritance) ([]socket, error) {
	if _, err := d.readCertificate(); err != nil {
		return nil, err
	}
	var list []socket
	for _, door := range d.cfg.Doors() {
		f := in.take(door.Address)
		if f == nil {
			var err error
			if f, err = openTCP(ctx, door); err != nil {
				return nil, err
			}
		}
		list = append(list, socket{door.Address, f})
	}
	return list, nil
}

// leaveWithin is how long an address in use is waited for: a proxy whose parent was killed lets go of it
// in a moment.
const leaveWithin = 2 * time.Second

func listenPatiently(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	for end := time.Now().Add(leaveWithin); ; {
		l, err := lc.Listen(ctx, "tcp", address)
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func openTCP(ctx context.Context, door config.Door) (*os.File, error) {
	l, err := listenPatiently(ctx, door.Address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, &hub.Error{Kind: hub.Invalid, Op: "listen", Field: door.Field, Message: door.Address + " is in use by another program", Remedy: "stop that program, or choose another port here and in public_url", Err: err}
	}
	if err != nil {
		return nil, &hub.Error{Kind: hub.Invalid, Op: "listen", Field: door.Field, Message: door.Address + " can't be listened on", Remedy: "choose another address", Err: err}
	}
	defer l.Close() // the file is a copy
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, hub.Errorf(hub.Internal, "listen", "it is no TCP listener")
	}
	f, err := tcp.File()
	return f, hub.Wrap(hub.Internal, "keep listener", err)
}

// Modes of sockets: for the proxy's group too, or not.
const (
	proxysToo  os.FileMode = 0o660
	ownersOnly os.FileMode = 0o600
)

// listenUnix takes or makes a socket.
func (d *deployment) listenUnix(ctx context.Context, in *inheritance, path string, mode os.FileMode) (net.Listener, socket, error) {
	if f := in.handed[path]; f != nil {
		delete(in.handed, path)
		l, err := net.FileListener(f)
		return l, socket{path, f}, hub.Wrap(hub.Internal, "take socket over", err)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, socket{}, hub.Wrap(hub.Unavailable, "replace socket", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, socket{}, hub.Wrap(hub.Unavailable, "listen on socket", err)
	}
	unix, ok := l.(*net.UnixListener)
	if !ok {
		return nil, socket{}, hub.Errorf(hub.Internal, "listen on socket", "it is no unix listener")
	}
	unix.SetUnlinkOnClose(false) // a successor goes on with it
	f, err := unix.File()
	if err != nil {
		return nil, socket{}, hub.Wrap(hub.Internal, "keep socket", err)
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, socket{}, hub.Wrap(hub.Unavailable, "set socket's mode", err)
	}
	if os.Geteuid() == 0 && mode == proxysToo {
		if err := os.Chown(path, 0, d.state.proxyGID); err != nil {
			return nil, socket{}, hub.Wrap(hub.Unavailable, "give socket to the proxy", err)
		}
	}
	return l, socket{path, f}, nil
}
