package docker

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"carrel/hub"
)

func TestSubnets(t *testing.T) {
	pool := netip.MustParsePrefix("10.201.0.0/16")
	all := subnetsOf(pool, "carrel-main-none", nil)
	if len(all) != 64 || !slices.Equal(all, subnetsOf(pool, "carrel-main-none", nil)) {
		t.Errorf("%d subnets: %v", len(all), all)
	}
	seen := map[netip.Prefix]bool{}
	for _, p := range all {
		if seen[p] || p.Bits() != bridgeBits || p != p.Masked() || !pool.Overlaps(p) {
			t.Errorf("%v is wrong", p)
		}
		seen[p] = true
	}
	if all[0] == subnetsOf(pool, "carrel-main-open", nil)[0] && all[0] == subnetsOf(pool, "carrel-x-none", nil)[0] {
		t.Error("every network begins at the same subnet")
	}
	// A machine in 10.201.4.7/24, a network of Docker's on three subnets at once, and one elsewhere.
	taken := []netip.Prefix{netip.MustParsePrefix("10.201.4.7/24"), netip.MustParsePrefix("10.201.8.0/21"), netip.MustParsePrefix("172.17.0.0/16"), netip.MustParsePrefix("fd00::/8")}
	free := subnetsOf(pool, "carrel-main-none", taken)
	if len(free) != 61 {
		t.Errorf("%d are free, want 61", len(free))
	}
	for _, p := range free {
		if slices.ContainsFunc(taken, p.Overlaps) {
			t.Errorf("%v is taken", p)
		}
	}
	if none := subnetsOf(pool, "x", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}); len(none) != 0 {
		t.Errorf("of a pool that is taken whole: %v", none)
	}
	if two := subnetsOf(netip.MustParsePrefix("10.201.248.0/21"), "x", nil); len(two) != 2 {
		t.Errorf("of the smallest pool: %v", two)
	}
}

func TestPools(t *testing.T) {
	for text, good := range map[string]bool{"": true, "10.0.0.0/8": true, "10.201.0.0/21": true, "10.201.7.9/16": true, "10.201.0.0/22": false, "10.201.0.0": false, "fd00::/16": false, "x": false} {
		_, err := newNetworks(Config{Subnets: text}, nil)
		if (err == nil) != good || err != nil && (hub.KindOf(err) != hub.Invalid || hub.FieldOf(err) != "spawner.docker.subnets") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestDevices: interface names are short, and no deployment's is another's.
func TestDevices(t *testing.T) {
	seen := map[string]bool{}
	for _, deployment := range []string{"a", "b", "main", "main-2", strings.Repeat("x", 32), strings.Repeat("x", 31) + "y"} {
		n := &networks{cfg: Config{Deployment: deployment}}
		for _, mode := range []hub.NetworkMode{hub.NetworkNone, hub.NetworkOpen} {
			d := n.device(mode)
			if len(d) > 15 || seen[d] {
				t.Errorf("%s of %s has the device %s", mode, deployment, d)
			}
			seen[d] = true
		}
	}
}

func TestRules(t *testing.T) {
	n := &networks{cfg: Config{Deployment: "main-2"}}
	with, without := n.rules(netip.MustParseAddrPort("10.201.0.1:20053")), n.rules(netip.AddrPort{})
	for _, part := range []string{
		"ip daddr 10.201.0.1 udp dport 53 dnat ip to 10.201.0.1:20053", "ip daddr 10.201.0.1 tcp dport 53 dnat ip to 10.201.0.1:20053",
		"ip daddr 10.201.0.1 meta l4proto { tcp, udp } th dport 20053 ct status dnat ct original proto-dst 53 accept",
	} {
		if !strings.Contains(with, part) {
			t.Errorf("%q is missing:\n%s", part, with)
		}
	}
	if strings.Contains(without, "53") || strings.Contains(without, "nat") {
		t.Errorf("nobody listens, and lookups are let through:\n%s", without)
	}
	if strings.Count(with, "accept") != strings.Count(without, "accept")+2 { // the rule, and the chain's policy
		t.Errorf("something else is accepted:\n%s", with)
	}
	for _, r := range []string{with, without} {
		if !strings.HasPrefix(r, "table inet carrel_main_2 {}\ndelete table inet carrel_main_2\n") {
			t.Errorf("the table is not replaced in one step:\n%s", r)
		}
		for _, p := range private {
			if !strings.Contains(r, p) {
				t.Errorf("%s is not dropped:\n%s", p, r)
			}
		}
	}
}

// TestResolverPorts are a deployment's own and always the same, and none that Linux gives out by itself.
func TestResolverPorts(t *testing.T) {
	ports := resolverPorts("main")
	if !slices.Equal(ports, resolverPorts("main")) || slices.Equal(ports, resolverPorts("other")) {
		t.Error("the ports are not the deployment's")
	}
	for _, deployment := range []string{"main", "other", "a", "b", "c"} {
		seen := map[uint16]bool{}
		for _, p := range resolverPorts(deployment) {
			if p < 1024 || p >= 32768 || seen[p] {
				t.Errorf("%s tries port %d", deployment, p)
			}
			seen[p] = true
		}
	}
}

// TestResolverPortFile: what can't be read is nobody's port.
func TestResolverPortFile(t *testing.T) {
	n := &networks{cfg: Config{StateDir: t.TempDir()}}
	if got := n.readPort(); got != 0 {
		t.Errorf("of no file: %d", got)
	}
	if err := n.writePort(20053); err != nil || n.readPort() != 20053 {
		t.Errorf("read back: %d, %v", n.readPort(), err)
	}
	for _, text := range []string{"", "x", "-1", "20053\n", "65536", "20053 accept"} {
		if err := os.WriteFile(n.portFile(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := n.readPort(); got != 0 {
			t.Errorf("%q is read as %d", text, got)
		}
	}
}
