package chromiumtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace for a browser. In the machine's own, what Chromium loads fails with
// ERR_NETWORK_CHANGED whenever an interface comes or goes, as with each container.
type namespace struct {
	fd      int
	control int // the port for its debugging protocol, the same inside and outside
}

// inside has all connections within the namespace's loopback arrive at one port, but for those to the
// browser itself; a second interface has the browser know that it is online. IPv6 would bring an address
// a second later.
const inside = `
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
ip link set lo up
ip link add outside type veth peer name nowhere
ip address add 192.0.2.1/24 dev outside
ip link set outside up
ip link set nowhere up
nft add table ip carrel
nft 'add chain ip carrel output { type nat hook output priority -100; }'
nft add rule ip carrel output ip daddr 127.0.0.0/8 tcp dport != { %d, %d } redirect to :%d
`

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	loopback := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	outer, err := net.ListenTCP("tcp4", loopback)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = outer.Close() })
	n := &namespace{control: port(outer)}
	var inner *net.TCPListener
	var file *os.File
	err = elsewhere(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		if file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		n.fd = int(file.Fd())
		if inner, err = net.ListenTCP("tcp4", loopback); err != nil {
			return err
		}
		script := fmt.Sprintf(inside, n.control, port(inner), port(inner))
		cmd := exec.Command("sh", "-e") //nolint:noctx // it ends by itself
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("set up a network namespace: %w: %s", err, out)
		}
		return nil
	})
	t.Cleanup(func() {
		if inner != nil {
			_ = inner.Close()
		}
		_ = file.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	go forward(inner, func(c *net.TCPConn) (*net.TCPConn, error) {
		to, err := wanted(c)
		if err != nil {
			return nil, err
		}
		return net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(to))
	})
	go forward(outer, func(*net.TCPConn) (c *net.TCPConn, err error) {
		err = elsewhere(func() error {
			if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
				return err
			}
			c, err = net.DialTCP("tcp4", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: n.control})
			return err
		})
		return c, err
	})
	return n
}

// enter has a command run in the namespace.
func (n *namespace) enter(cmd *exec.Cmd) {
	cmd.Args = append([]string{"nsenter", fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), n.fd)}, cmd.Args...)
	cmd.Path = "/usr/bin/nsenter"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

func port(l *net.TCPListener) int {
	return int(netip.MustParseAddrPort(l.Addr().String()).Port())
}

// elsewhere runs f where it can enter another network namespace; afterwards its thread is back in the
// machine's own. The thread must not end: what it started would, by its Pdeathsig.
func elsewhere(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		err = f()
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			done <- errors.Join(err, back)
			return // locked: the thread ends, so that nothing else runs on it
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

const originalDst = 80 // SO_ORIGINAL_DST of linux/netfilter_ipv4.h

// wanted is where a connection that the packet filter redirected was to go.
func wanted(c *net.TCPConn) (netip.AddrPort, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var sa *unix.IPv6Mreq
	if cerr := raw.Control(func(fd uintptr) {
		// The address is a struct sockaddr_in, which this reads as the first bytes of another struct.
		sa, err = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, originalDst)
	}); cerr != nil || err != nil {
		return netip.AddrPort{}, errors.Join(cerr, err)
	}
	port := binary.BigEndian.Uint16(sa.Multiaddr[2:])
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(sa.Multiaddr[4:8])), port), nil
}

// forward carries each connection until both sides are done; one that can't be made ends with a reset, as
// at a port where nobody listens.
func forward(l *net.TCPListener, dial func(*net.TCPConn) (*net.TCPConn, error)) {
	for {
		a, err := l.AcceptTCP()
		if err != nil {
			return
		}
		go func() {
			b, err := dial(a)
			if err != nil {
				_ = a.SetLinger(0)
				_ = a.Close()
				return
			}
			var both sync.WaitGroup
			both.Go(func() { carry(a, b) })
			both.Go(func() { carry(b, a) })
			both.Wait()
			_ = errors.Join(a.Close(), b.Close())
		}()
	}
}

func carry(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = to.Close() // a reset of the one is one of the other
		return
	}
	_ = to.CloseWrite()
}
