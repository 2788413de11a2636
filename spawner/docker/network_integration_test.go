//go:build integration

package docker

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"carrel/hub"
)

// TestNetworkNone: a server without a network reaches nothing at all.
func TestNetworkNone(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	w := newWorld(t, d)
	h, _ := start(t, d, idle(t, "alice"))
	_, same := neighbour(t, d, "bob", hub.NetworkNone)
	_, other := neighbour(t, d, "carol", hub.NetworkOpen)
	everything := append(w.host(t), w.around()...)
	everything = append(everything, every(w.port, w.public)...)
	everything = append(everything, every(port, same, other)...)
	for _, mode := range []hub.NetworkMode{hub.NetworkNone, hub.NetworkOpen} {
		b, _, err := d.networks.find(t.Context(), mode)
		if err != nil {
			t.Fatal(err)
		}
		everything = append(everything, every(53, b.prefix.Addr().Next().String())...)
	}
	expect(t, d, h, false, everything)
	for _, nr := range []string{"17", "18", "19"} {
		t.Attr("seen-"+nr, fmt.Sprintf("without a network: none of %d ways", len(everything)))
	}
}

// TestNetworkOpen: a server with a network reaches the outside, and neither this machine, nor what is
// private, nor a neighbour.
func TestNetworkOpen(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	w := newWorld(t, d)
	spec := idle(t, "alice")
	spec.Network = hub.NetworkOpen
	h, _ := start(t, d, spec)
	_, same := neighbour(t, d, "bob", hub.NetworkOpen)
	_, other := neighbour(t, d, "carol", hub.NetworkNone)
	forbidden := append(w.host(t), w.around()...)
	forbidden = append(forbidden, every(port, same, other)...)
	expect(t, d, h, false, forbidden)
	expect(t, d, h, true, every(w.port, w.public))

	// What was tried would have been reached, but for the filter; and the next start has it back.
	reachable := every(w.port, append([]string{"2852039166", "0xa9fea9fe", "::ffff:169.254.169.254"}, w.private...)...)
	reachable = append(reachable, every(w.port, d.networks.gate.String())...)
	flush(t, d)
	expect(t, d, h, true, reachable)
	spec.Generation++
	h, _ = start(t, d, spec)
	expect(t, d, h, false, reachable)
	t.Attr("seen-17", fmt.Sprintf("with a network: none of %d ways; %d of them lead there without the filter", len(w.around()), len(reachable)))
	t.Attr("seen-18", fmt.Sprintf("with a network: none of %d ways to this machine", len(w.host(t))))
	t.Attr("seen-19", "with a network: no neighbour by TCP, UDP or echo")
}

// TestFilterComesBack: a firewall's reload takes the walls away for a few seconds only.
func TestFilterComesBack(t *testing.T) {
	d := newDriver(t)
	if _, err := d.networks.ensure(t.Context(), hub.NetworkNone); err != nil {
		t.Fatal(err)
	}
	background(t, d)
	for range 2 {
		flush(t, d)
		eventually(t, "the filter is back", func() bool {
			return setFilter(t.Context(), "list table inet "+d.networks.table()+"\n") == nil
		})
	}
	if err := setFilter(t.Context(), "insert rule inet "+d.networks.table()+" forward accept\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a rule that somebody put in is gone", func() bool {
		out, err := exec.Command("nft", "list", "chain", "inet", d.networks.table(), "forward").CombinedOutput()
		return err == nil && strings.Contains(string(out), "drop") && !strings.Contains(string(out), "\t\taccept\n")
	})
	t.Attr("seen-0", "a table that was removed is back, and a rule that was put in is gone")
}

// background runs the driver until the test ends.
func background(t *testing.T, d *Driver) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = d.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// TestNoForgedPackets: nobody speaks below TCP and UDP, or changes the interfaces.
func TestNoForgedPackets(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	spec := idle(t, "alice")
	spec.Network = hub.NetworkOpen
	h, _ := start(t, d, spec)
	out := python(t, d, h, `
import errno, fcntl, socket, struct
def tried(what, do):
    try:
        do()
        print(what, "worked")
    except OSError as e:
        print(what, errno.errorcode[e.errno])
tried("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
tried("raw tcp", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))
tried("raw 6", lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6))
tried("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
tried("packet dgram", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0806)))
tried("netfilter", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12))
tried("sctp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132))
tried("vsock", lambda: socket.socket(40, socket.SOCK_STREAM))
def address():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    name = [n for _, n in socket.if_nameindex() if n != "lo"][0]
    fcntl.ioctl(s, 0x8916, struct.pack("16sH2s4s8s", name.encode(), socket.AF_INET, b"", socket.inet_aton("10.1.2.3"), b""))
tried("address", address)
def route():
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    s.send(struct.pack("IHHIIBBBBI", 24, 20, 5, 1, 0, 2, 24, 0, 0, 1))
    error = struct.unpack("i", s.recv(999)[16:20])[0]
    raise OSError(-error, "")
tried("netlink", route)
tried("lo", lambda: socket.socket(socket.AF_INET6).bind(("::1", 0)) or True)
`)
	for line := range strings.Lines(out) {
		if what, is, _ := strings.Cut(strings.TrimSpace(line), " "); !strings.HasSuffix(is, "EPERM") && !(what == "lo" && is == "EADDRNOTAVAIL") {
			t.Errorf("%s %s", what, is)
		}
	}
	if n := strings.Count(out, "\n") + 1; n != 11 {
		t.Errorf("%d lines: %s", n, out)
	}
	for _, nr := range []string{"19", "20"} {
		t.Attr("seen-"+nr, fmt.Sprintf("%d kinds of raw and packet sockets: EPERM", strings.Count(out, "EPERM")))
	}
}

// upstream is a resolver that tells everything.
func upstream(t *testing.T) (address string, asked func() string) {
	t.Helper()
	var mu sync.Mutex
	var names strings.Builder
	a := serveDNS(t, func(q dnsmessage.Question, tcp bool) dnsmessage.Message {
		mu.Lock()
		names.WriteString(q.Name.String() + "\n")
		mu.Unlock()
		name := q.Name.String()
		switch {
		case q.Type != dnsmessage.TypeA:
			return dnsmessage.Message{}
		case name == "public.example.":
			return answer(aRecord(name, "203.0.113.10"))
		case name == "private.example.":
			return answer(aRecord(name, "169.254.169.254"))
		case name == "both.example.":
			return answer(aRecord(name, "203.0.113.10"), aRecord(name, "10.0.0.1"))
		case name == "alias.example.":
			return answer(cname(name, "x.example."), cname("x.example.", "y.example."), aRecord("y.example.", "192.168.1.1"))
		case name == "long.example." && !tcp:
			return dnsmessage.Message{Header: dnsmessage.Header{Truncated: true}}
		case name == "long.example.":
			var all []dnsmessage.Resource
			for i := range 100 {
				all = append(all, aRecord(name, netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}).String()))
			}
			return answer(all...)
		}
		return dnsmessage.Message{Header: dnsmessage.Header{RCode: dnsmessage.RCodeNameError}}
	})
	return a, func() string { mu.Lock(); defer mu.Unlock(); return names.String() }
}

// TestNames: an open server has names looked up, and is told no private address; one without a
// network asks nobody; and Docker's own resolver tells neither of them of the other.
func TestNames(t *testing.T) {
	t.Parallel()
	address, asked := upstream(t)
	d := newDriver(t, func(c *Config) { c.Upstreams = []string{address} })
	w := newWorld(t, d)
	background(t, d)
	spec := idle(t, "alice")
	spec.Network = hub.NetworkOpen
	open, _ := start(t, d, spec)
	none, st := start(t, d, idle(t, "bob"))
	_, neighbourOpen := neighbour(t, d, "carol", hub.NetworkOpen)

	const resolve = `
import socket, sys
for name in sys.argv[1:]:
    try:
        print(name, len(sorted(set(a[4][0] for a in socket.getaddrinfo(name, 80, socket.AF_INET)))))
    except OSError as e:
        print(name, "fails")
`
	eventually(t, "the resolver answers", func() bool {
		return python(t, d, open, resolve, "public.example") == "public.example 1"
	})
	got := python(t, d, open, resolve, "private.example", "both.example", "alias.example", "nosuch.example", "long.example")
	if want := "private.example fails\nboth.example fails\nalias.example fails\nnosuch.example fails\nlong.example 100"; got != want {
		t.Errorf("looked up:\n%s\nwant:\n%s", got, want)
	}
	t.Attr("seen-17", "by name: 3 names of private addresses fail to resolve")
	expect(t, d, open, true, every(w.port, "public.example"))
	if got := python(t, d, none, resolve, "public.example"); got != "public.example fails" {
		t.Errorf("without a network: %s", got)
	}

	// 127.0.0.11 is Docker's resolver, in every container of a network that is not the default one.
	const docker = `
import socket, struct, sys
for server, name, kind in zip(*[iter(sys.argv[1:])] * 3):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(3)
    q = b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0" + struct.pack(">HH", int(kind), 1)
    try:
        s.sendto(struct.pack(">HHHHHH", 7, 256, 1, 0, 0, 0) + q, (server, 53))
        m = s.recv(4096)
        print(name, m[3] & 15, struct.unpack(">H", m[6:8])[0], m[12 + len(q):])
    except OSError as e:
        print(name, "fails")
`
	reverse := func(a string) string {
		p := strings.Split(a, ".")
		return p[3] + "." + p[2] + "." + p[1] + "." + p[0] + ".in-addr.arpa"
	}
	bobs, _, _ := strings.Cut(st.Endpoint.Address(), ":")
	got = python(t, d, open, docker, "127.0.0.11", reverse(neighbourOpen), "12", "127.0.0.11", "carrel-"+d.cfg.Deployment+"-carol-g1", "1", "127.0.0.11", "private.example", "1")
	got += "\n" + python(t, d, none, docker, "127.0.0.11", reverse(bobs), "12", "127.0.0.11", "leak.example", "1")
	for _, secret := range []string{"carol-g", "bob", "leak.example 0 1", "private.example 0 1"} {
		if strings.Contains(strings.ReplaceAll(got, "carrel-"+d.cfg.Deployment+"-carol-g1 ", ""), secret) {
			t.Errorf("Docker's resolver tells %q:\n%s", secret, got)
		}
	}
	if strings.Contains(asked(), "leak.example") {
		t.Error("a server without a network had a name looked up")
	}
	if conf, code := run(t, d, none, "cat", "/etc/resolv.conf"); code != 0 || !strings.Contains(conf, "nameserver 127.0.0.1\n") {
		t.Errorf("resolv.conf without a network: %s", conf)
	}
	if raw, err := os.ReadFile(d.cfg.StateDir + "/resolv-open.conf"); err != nil || !strings.Contains(string(raw), d.networks.gate.String()) {
		t.Errorf("resolv.conf: %s, %v", raw, err)
	}
}

// TestResolverIsTakenOver: of two hubs on a machine one answers, and when it goes the other does.
func TestResolverIsTakenOver(t *testing.T) {
	t.Parallel()
	names := func(address string) string {
		return serveDNS(t, func(q dnsmessage.Question, _ bool) dnsmessage.Message {
			return answer(aRecord(q.Name.String(), address))
		})
	}
	first := newDriver(t, func(c *Config) { c.Upstreams = []string{names("203.0.113.1")} })
	cfg := first.cfg
	cfg.Upstreams = []string{names("203.0.113.2")}
	second := reopen(t, cfg)
	b, err := first.networks.ensure(t.Context(), hub.NetworkOpen)
	if err != nil {
		t.Fatal(err)
	}
	l := lookup{question: dnsmessage.Question{Name: dnsmessage.MustNewName("a.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}
	answers := func(with string) func() bool {
		return func() bool {
			m, err := l.exchange(t.Context(), "udp", net.JoinHostPort(b.resolver, strconv.Itoa(int(first.networks.readPort()))))
			return err == nil && len(m.Answers) == 1 && netip.AddrFrom4(m.Answers[0].Body.(*dnsmessage.AResource).A).String() == with
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = first.Run(ctx) })
	eventually(t, "the first answers", answers("203.0.113.1"))
	background(t, second)
	if !answers("203.0.113.1")() {
		t.Error("the second got between")
	}
	cancel()
	wg.Wait()
	eventually(t, "the second answers", answers("203.0.113.2"))
}

// anotherResolver is a daemon of this machine's on port 53 of every address, by UDP and TCP; or, where
// something else has port 53 already, of the one address. It counts who comes.
func anotherResolver(t *testing.T, gate string) (visits func() int64) {
	t.Helper()
	var u net.PacketConn
	var l net.Listener
	bind := func(host string) (err error) {
		if u, err = net.ListenPacket("udp4", net.JoinHostPort(host, "53")); err != nil {
			return err
		}
		if l, err = net.Listen("tcp4", net.JoinHostPort(host, "53")); err != nil {
			u.Close()
		}
		return err
	}
	if err := bind("0.0.0.0"); err != nil {
		t.Logf("on the gateway alone: %v", err)
		if err := bind(gate); err != nil {
			t.Fatal(err)
		}
	}
	var count atomic.Int64
	var wg sync.WaitGroup
	t.Cleanup(func() { u.Close(); l.Close(); wg.Wait() })
	wg.Go(func() {
		for buf := make([]byte, 512); ; {
			_, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			count.Add(1)
			_, _ = u.WriteTo([]byte(banner), from)
		}
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			count.Add(1)
			c.Close()
		}
	})
	return count.Load
}

// TestAnotherResolver: a daemon of this machine's has port 53, another one the port that our resolver
// would take first, and a container's port is published as 53. Lookups reach our resolver all the
// same, and nothing else on the gateway is reached, with our resolver there or without.
func TestAnotherResolver(t *testing.T) {
	t.Parallel()
	address, _ := upstream(t)
	d := newDriver(t, func(c *Config) { c.Upstreams = []string{address} })
	spec := idle(t, "alice")
	spec.Network = hub.NetworkOpen
	h, _ := start(t, d, spec)
	gate, err := d.networks.gateway(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	visits := anotherResolver(t, gate.String())
	first := int(resolverPorts(d.cfg.Deployment)[0])
	listen(t, "", first)
	published := listen(t, "", 0)
	table := "crltest_" + d.cfg.Deployment
	t.Cleanup(func() {
		if err := setFilter(context.Background(), "delete table ip "+table+"\n"); err != nil {
			t.Error(err)
		}
	})
	if err := setFilter(t.Context(), fmt.Sprintf("table ip %s {\nchain p {\ntype nat hook prerouting priority -100; policy accept;\niifname %q meta l4proto { tcp, udp } th dport 53 redirect to :%d\n}\n}\n", table, d.networks.device(hub.NetworkOpen), published)); err != nil {
		t.Fatal(err)
	}
	ask := func(network string) string {
		return python(t, d, h, `
import socket, struct, sys
network, server, name = sys.argv[1:]
q = struct.pack(">HHHHHH", 7, 256, 1, 0, 0, 0) + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0" + struct.pack(">HH", 1, 1)
try:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if network == "tcp" else socket.SOCK_DGRAM) as s:
        s.settimeout(2)
        s.connect((server, 53))
        s.send(q if network == "udp" else struct.pack(">H", len(q)) + q)
        m = s.recv(4096)
        print(socket.inet_ntoa(m[-4:]) if len(m) > len(q) else m)
except OSError as e:
    print("nobody")
`, network, gate.String(), "public.example")
	}
	others := every(first, gate.String())[:2]
	others = append(others, every(published, gate.String())[:2]...)
	closed := func(when string) {
		t.Helper()
		for _, network := range []string{"udp", "tcp"} {
			if got := ask(network); got != "nobody" {
				t.Errorf("%s, a lookup by %s: %s", when, network, got)
			}
		}
		expect(t, d, h, false, others)
	}
	closed("before the resolver runs")

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = d.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	for _, network := range []string{"udp", "tcp"} {
		eventually(t, "our resolver answers by "+network, func() bool { return ask(network) == "203.0.113.10" })
	}
	port := int(d.networks.readPort())
	if port == first || port == 0 {
		t.Fatalf("the resolver's port is %d", port)
	}
	expect(t, d, h, false, append(others, every(port, gate.String())[:2]...)) // nor ours, but by way of 53
	if n := visits(); n != 0 {
		t.Errorf("the other daemon was asked %d times", n)
	}
	cancel()
	wg.Wait()
	closed("when the resolver has gone")
	if n := visits(); n != 0 {
		t.Errorf("the other daemon was asked %d times", n)
	}

	flush(t, d)
	expect(t, d, h, true, others)
	if err := setFilter(t.Context(), "flush table ip "+table+"\n"); err != nil {
		t.Fatal(err)
	}
	expect(t, d, h, true, every(53, gate.String())[:2])
	if visits() < 2 {
		t.Error("nothing reaches the other daemon without the filter: this tests nothing")
	}
}
