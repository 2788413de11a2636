package docker

import (
	"net/netip"
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
	with, without := n.rules(netip.MustParseAddr("10.201.0.1")), n.rules(netip.Addr{})
	if !strings.Contains(with, "ip daddr 10.201.0.1 meta l4proto { tcp, udp } th dport 53 accept") || strings.Contains(without, "dport 53") {
		t.Errorf("the resolver's rule:\n%s\n%s", with, without)
	}
	for _, r := range []string{with, without} {
		if strings.Count(r, "accept") != strings.Count(without, "accept")+strings.Count(r, "dport 53") {
			t.Errorf("something else is accepted:\n%s", r)
		}
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
