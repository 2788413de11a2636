//go:build integration

package docker

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"carrel/hub"
)

// ipv6 gives a server's namespace IPv6 by hand, which Docker did not: addresses, and a way out by the
// bridge. No container could. It gives the namespace, and the addresses with their zone in it.
func ipv6(t *testing.T, d *Driver, h hub.Handle, mode hub.NetworkMode, host string) (namespace string, addresses []string) {
	t.Helper()
	name, err := d.open(h)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.api.on(t.Context()).ContainerInspect(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	namespace = fmt.Sprintf("/proc/%d/ns/net", c.State.Pid)
	gate := map[hub.NetworkMode]string{hub.NetworkNone: "fd00:77:1::", hub.NetworkOpen: "fd00:77:2::"}[mode]
	in(t, namespace, "sysctl", "-q", "-w", "net.ipv6.conf.eth0.disable_ipv6=0", "net.ipv6.conf.eth0.accept_dad=0")
	in(t, namespace, "ip", "addr", "add", gate+host+"/64", "dev", "eth0", "nodad")
	in(t, namespace, "ip", "route", "add", "default", "via", gate+"1", "dev", "eth0")
	link := linkLocal(t, in(t, namespace, "ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"))
	return namespace, []string{gate + host, link + "%eth0"}
}

// in runs a program of the host's in a network namespace.
func in(t *testing.T, namespace string, command ...string) string {
	t.Helper()
	out, err := exec.Command("nsenter", append([]string{"--net=" + namespace}, command...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(command, " "), err, out)
	}
	return string(out)
}

func linkLocal(t *testing.T, shown string) string {
	t.Helper()
	for _, f := range strings.Fields(shown) {
		if a, _, _ := strings.Cut(f, "/"); strings.HasPrefix(a, "fe80:") {
			return a
		}
	}
	t.Fatalf("no address of the link in %q", shown)
	return ""
}

// bridge6 gives the bridge of a mode IPv6 by hand, and the addresses as a server has them.
func bridge6(t *testing.T, d *Driver, mode hub.NetworkMode) []string {
	t.Helper()
	device, gate := d.networks.device(mode), map[hub.NetworkMode]string{hub.NetworkNone: "fd00:77:1::1", hub.NetworkOpen: "fd00:77:2::1"}[mode]
	const here = "/proc/self/ns/net"
	in(t, here, "sysctl", "-q", "-w", "net.ipv6.conf."+device+".disable_ipv6=0", "net.ipv6.conf."+device+".accept_dad=0")
	in(t, here, "ip", "addr", "add", gate+"/64", "dev", device, "nodad")
	return []string{gate, linkLocal(t, in(t, here, "ip", "-6", "-o", "addr", "show", "dev", device, "scope", "link")) + "%eth0"}
}

// TestIPv6ByHand: containers have no IPv6. If one had, it would reach neither this machine nor a
// neighbour by it, not even to find out who is there.
func TestIPv6ByHand(t *testing.T) { //nolint:tparallel // its parts come one after another
	t.Parallel()
	for _, mode := range []hub.NetworkMode{hub.NetworkNone, hub.NetworkOpen} {
		t.Run(string(mode), func(t *testing.T) {
			d := newDriver(t)
			spec := idle(t, "alice")
			spec.Network = mode
			h, _ := start(t, d, spec)
			bobs := idle(t, "bob")
			bobs.Network = mode
			bob, _ := start(t, d, bobs)
			device := d.networks.device(mode)
			gates := bridge6(t, d, mode)
			mine, _ := ipv6(t, d, h, mode, "a")
			theirs, neighbours := ipv6(t, d, bob, mode, "b")
			here := listen(t, "", 0)
			listen(t, theirs, here)
			udp6(t, "", here)
			udp6(t, theirs, here)

			// Where a machine's default is not to have bridges filtered, the bridge's own setting decides;
			// the next start sees to it.
			setting := "/sys/class/net/" + device + "/bridge/nf_call_ip6tables"
			if err := os.WriteFile(setting, []byte("0"), 0); err != nil {
				t.Fatal(err)
			}
			if _, err := d.networks.ensure(t.Context(), mode); err != nil {
				t.Fatal(err)
			}
			if raw, err := os.ReadFile(setting); err != nil || string(raw) != "1\n" {
				t.Errorf("the bridge's traffic is left out of the filter: %q, %v", raw, err)
			}
			everything := every(here, append(gates, neighbours...)...)
			everything = append(everything, every(22, gates...)...)
			expect(t, d, h, false, everything)
			if seen := in(t, mine, "ip", "-6", "neigh", "show", "dev", "eth0"); strings.Contains(seen, "lladdr") {
				t.Errorf("neighbours were found:\n%s", seen)
			}

			flush(t, d)
			eventually(t, "all is reached without the filter", func() bool { // once the neighbours are found anew
				got := reached(t, d, h, every(here, append(gates, neighbours...)...))
				return !slices.Contains(slices.Collect(maps.Values(got)), false)
			})
			if seen := in(t, mine, "ip", "-6", "neigh", "show", "dev", "eth0"); strings.Count(seen, "lladdr") != 4 {
				t.Errorf("without the filter these neighbours are found:\n%s", seen)
			}
		})
	}
}

// udp6 answers by UDP over IPv6 in a namespace.
func udp6(t *testing.T, namespace string, port int) {
	t.Helper()
	var u net.PacketConn
	var err error
	within(t, namespace, func() { u, err = net.ListenPacket("udp6", "[::]:"+strconv.Itoa(port)) })
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { u.Close(); wg.Wait() })
	wg.Go(func() {
		for buf := make([]byte, 64); ; {
			_, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo([]byte(banner), from)
		}
	})
}

// TestIPv6Forward: the rules, on a machine of the test's own that forwards IPv6 and has bridges of
// the deployment's names: nothing gets from either to beyond, and nothing from there to them.
func TestIPv6Forward(t *testing.T) {
	t.Parallel()
	n := &networks{cfg: Config{Deployment: fmt.Sprintf("v6-%d", os.Getpid())}}
	name := func(what string) string { return fmt.Sprintf("crl%d%s", os.Getpid(), what) }
	path := func(what string) string { return "/run/netns/" + name(what) }
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	guests := map[string]string{"none": n.device(hub.NetworkNone), "open": n.device(hub.NetworkOpen)}
	for _, ns := range []string{"host", "none", "open", "world"} {
		ip("netns", "add", name(ns))
		t.Cleanup(func() { ip("netns", "del", name(ns)) })
	}
	host := path("host")
	in(t, host, "sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.default.accept_dad=0")
	net6 := map[string]string{"none": "fd00:77:1::", "open": "fd00:77:2::", "world": "fd00:77:3::"}
	for _, ns := range []string{"none", "open", "world"} {
		in(t, path(ns), "sysctl", "-q", "-w", "net.ipv6.conf.default.accept_dad=0")
		in(t, host, "ip", "link", "add", "to"+ns, "type", "veth", "peer", "name", "eth0", "netns", name(ns))
		at := "to" + ns
		if bridge := guests[ns]; bridge != "" {
			at = bridge
			in(t, host, "ip", "link", "add", bridge, "type", "bridge", "forward_delay", "0")
			in(t, host, "ip", "link", "set", "to"+ns, "master", bridge)
			in(t, host, "ip", "link", "set", bridge, "up")
		}
		in(t, host, "ip", "link", "set", "to"+ns, "up")
		in(t, host, "ip", "addr", "add", net6[ns]+"1/64", "dev", at, "nodad")
		in(t, path(ns), "ip", "addr", "add", net6[ns]+"2/64", "dev", "eth0", "nodad")
		in(t, path(ns), "ip", "link", "set", "eth0", "up")
		in(t, path(ns), "ip", "route", "add", "default", "via", net6[ns]+"1")
	}
	port := listen(t, path("world"), 0)
	listen(t, path("none"), port)
	listen(t, path("open"), port)
	reaches := func(from, to string) (is bool) {
		within(t, path(from), func() {
			c, err := net.DialTimeout("tcp6", net.JoinHostPort(net6[to]+"2", strconv.Itoa(port)), 2*time.Second)
			if is = err == nil; is {
				c.Close()
			}
		})
		return is
	}
	pairs := [][2]string{{"open", "world"}, {"none", "world"}, {"world", "open"}, {"world", "none"}, {"none", "open"}, {"open", "none"}}
	for _, p := range pairs {
		eventually(t, p[0]+" reaches "+p[1]+" without rules", func() bool { return reaches(p[0], p[1]) })
	}
	load := exec.Command("nsenter", "--net="+host, "nft", "-f", "-")
	load.Stdin = strings.NewReader(n.rules(netip.MustParseAddrPort("10.199.0.1:20053")))
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, p := range pairs {
		if reaches(p[0], p[1]) {
			t.Errorf("%s reaches %s", p[0], p[1])
		}
	}
}
