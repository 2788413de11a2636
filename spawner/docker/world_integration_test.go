//go:build integration

package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"carrel/hub"
)

// banner is what everything that a test listens with says.
const banner = "reached"

// A world is a piece of network of the test's own, which stands for all that lies around this
// machine: a namespace with an outside address and with private ones, to which what comes from the
// deployment's bridges is routed. On every address of it, and of this machine, something listens.
type world struct {
	public  string
	private []string // a metadata service's among them
	port    int
	path    string // of its namespace
}

var worlds sync.Mutex // the addresses are there once

func newWorld(t *testing.T, d *Driver) *world {
	t.Helper()
	worlds.Lock()
	t.Cleanup(worlds.Unlock)
	w := &world{public: "203.0.113.10", private: []string{"169.254.169.254", "10.77.0.10", "172.20.77.10", "192.168.77.10", "100.64.77.10", "198.18.77.10"}}
	name := "crl" + d.cfg.Deployment
	table := strconv.Itoa(100000 + os.Getpid())
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	undo := func(args ...string) {
		t.Cleanup(func() {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				t.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
			}
		})
	}
	ip("netns", "add", name)
	undo("netns", "del", name)
	ip("link", "add", name+"h", "type", "veth", "peer", "name", "out", "netns", name)
	undo("link", "del", name+"h") // with its routes, at once
	ip("addr", "add", "203.0.113.9/30", "dev", name+"h")
	ip("link", "set", name+"h", "up")
	for _, a := range append([]string{w.public + "/30"}, w.private...) {
		ip("-n", name, "addr", "add", a, "dev", "out")
	}
	ip("-n", name, "link", "set", "lo", "up")
	ip("-n", name, "link", "set", "out", "up")
	ip("-n", name, "route", "add", "default", "via", "203.0.113.9")
	for _, a := range append([]string{w.public}, w.private...) {
		ip("route", "add", a, "via", w.public, "dev", name+"h", "table", table, "onlink")
	}
	for _, mode := range []hub.NetworkMode{hub.NetworkNone, hub.NetworkOpen} {
		if _, err := d.networks.ensure(t.Context(), mode); err != nil {
			t.Fatal(err)
		}
		ip("rule", "add", "iif", d.networks.device(mode), "lookup", table)
		undo("rule", "del", "iif", d.networks.device(mode), "lookup", table)
	}
	w.path = "/run/netns/" + name
	w.port = listen(t, "", 0)
	listen(t, w.path, w.port)
	return w
}

// listen serves TCP and UDP on every address of a network namespace, or of this one.
func listen(t *testing.T, namespace string, port int) int {
	t.Helper()
	var l net.Listener
	var u net.PacketConn
	var err error
	within(t, namespace, func() {
		if l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); err != nil {
			return
		}
		u, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", l.Addr().(*net.TCPAddr).Port))
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); u.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, banner)
			c.Close()
		}
	})
	wg.Go(func() {
		p := ipv4.NewPacketConn(u)
		if err := p.SetControlMessage(ipv4.FlagDst, true); err != nil {
			t.Error(err)
		}
		buf := make([]byte, 64)
		for {
			_, control, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			// Answers come from the address that was asked, or it would not know them.
			if _, err := p.WriteTo([]byte(banner), &ipv4.ControlMessage{Src: control.Dst}, from); err != nil {
				_, _ = u.WriteTo([]byte(banner), from)
			}
		}
	})
	return l.Addr().(*net.TCPAddr).Port
}

// within does something in a network namespace; "" is this one.
func within(t *testing.T, namespace string, do func()) {
	t.Helper()
	var err error
	done := make(chan struct{})
	go func() { // on a thread that ends with it, where it is not to come back
		defer close(done)
		if namespace != "" {
			runtime.LockOSThread()
			var f *os.File
			if f, err = os.Open(namespace); err != nil {
				return
			}
			defer f.Close()
			if err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
				return
			}
		}
		do()
	}()
	<-done
	if err != nil {
		t.Fatal(err)
	}
}

// A target is something that a container tries to reach.
type target struct {
	Network string `json:"network"`
	Host    string `json:"host"`
	Port    int    `json:"port"`
}

func (x target) String() string { return fmt.Sprintf("%s %s port %d", x.Network, x.Host, x.Port) }

// every way to the hosts: TCP and UDP to the port, and an echo request.
func every(port int, hosts ...string) (list []target) {
	for _, h := range hosts {
		list = append(list, target{"tcp", h, port}, target{"udp", h, port}, target{"icmp", h, 0})
	}
	return list
}

// host is every address of this machine, and what else leads to it.
func (w *world) host(t *testing.T) []target {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	list := every(w.port, "255.255.255.255", "224.0.0.1")
	for _, a := range addrs {
		if ip := a.(*net.IPNet).IP; !ip.IsLoopback() {
			list = append(list, every(w.port, ip.String())...)
			if !ip.IsLinkLocalUnicast() && ip.To4() != nil {
				list = append(list, every(22, ip.String())...)
				list = append(list, every(w.port, "::ffff:"+ip.String())...)
			}
		}
	}
	return list
}

// around is every private address, with the forms of the metadata service's by which filters of text
// have been got round.
func (w *world) around() []target {
	return append(every(w.port, w.private...), every(w.port, "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "64:ff9b::a9fe:a9fe")...)
}

const probe = `
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def reaches(t):
    try:
        kind = socket.SOCK_STREAM if t["network"] == "tcp" else socket.SOCK_DGRAM
        family, kind, proto, _, address = socket.getaddrinfo(t["host"], t["port"], type=kind)[0]
        message = b"?"
        if t["network"] == "icmp":
            if t["host"].startswith("::ffff:"):
                family, address = socket.AF_INET, (socket.getaddrinfo(t["host"].removeprefix("::ffff:"), 0)[0][4][0], 0)
            v6 = family == socket.AF_INET6
            proto, message = (socket.IPPROTO_ICMPV6, b"\x80" + bytes(7)) if v6 else (socket.IPPROTO_ICMP, b"\x08\0\xf7\xff" + bytes(4))
        with socket.socket(family, kind, proto) as s:
            s.settimeout(2.5)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if t["network"] == "tcp":
                s.connect(address)
                return True
            s.sendto(message, address)
            return bool(s.recv(64))
    except OSError:
        return False

targets = json.load(sys.stdin) if len(sys.argv) < 2 else json.loads(sys.argv[1])
with ThreadPoolExecutor(64) as pool:
    print(json.dumps(list(pool.map(reaches, targets))))
`

// reached tries every target from inside a server.
func reached(t *testing.T, d *Driver, h hub.Handle, targets []target) map[target]bool {
	t.Helper()
	raw, err := json.Marshal(targets)
	if err != nil {
		t.Fatal(err)
	}
	var is []bool
	if out := python(t, d, h, probe, string(raw)); json.Unmarshal([]byte(out), &is) != nil || len(is) != len(targets) {
		t.Fatalf("the probe printed %s", out)
	}
	got := map[target]bool{}
	for i, x := range targets {
		got[x] = is[i]
	}
	return got
}

func expect(t *testing.T, d *Driver, h hub.Handle, want bool, targets []target) {
	t.Helper()
	for x, is := range reached(t, d, h, targets) {
		if is != want {
			t.Errorf("%v: reached is %v", x, is)
		}
	}
}

func flush(t *testing.T, d *Driver) {
	t.Helper()
	if err := setFilter(context.Background(), "delete table inet "+d.networks.table()+"\n"); err != nil {
		t.Fatal(err)
	}
}

// neighbourProgram answers on the servers' port by TCP and UDP.
const neighbourProgram = `
import socket, threading
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(("", 8888))
def udp():
    while True:
        _, who = u.recvfrom(64)
        u.sendto(b"reached", who)
threading.Thread(target=udp, daemon=True).start()
l = socket.create_server(("", 8888))
while True:
    c, _ = l.accept()
    c.close()
`

// neighbour starts another person's server, which listens, and gives its address.
func neighbour(t *testing.T, d *Driver, user string, mode hub.NetworkMode) (hub.Handle, string) {
	t.Helper()
	spec := testSpec(t, user)
	spec.Command, spec.Network = []string{"python3", "-c", neighbourProgram}, mode
	h, st := start(t, d, spec)
	eventually(t, "the neighbour listens", func() bool {
		c, err := net.Dial("tcp", st.Endpoint.Address())
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	host, _, _ := net.SplitHostPort(st.Endpoint.Address())
	return h, host
}
