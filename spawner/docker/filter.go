package docker

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"carrel/hub"
)

// private are the IPv4 networks that no notebook reaches: this machine's surroundings, metadata
// services, and what is no single host (RFC 6890, RFC 5771).
var private = []string{
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
}

func (n *networks) table() string {
	return "carrel_" + strings.ReplaceAll(n.cfg.Deployment, "-", "_")
}

// What one server with a network may begin: the table in which the kernel follows connections is everybody's,
// and so is the line. A page with a hundred pictures, or pip with its mirrors, stays far below. The burst may be
// had again whenever the table is set anew, which is every few seconds.
const (
	newFlows  = 100 // connections, and exchanges by UDP, in a second
	flowBurst = 500 // beyond that, at once
)

// rules is the packet filter, whole: replies to what the host asked pass; from "none" nothing else
// does; from "open" nothing to the host but lookups to our resolver, nothing to a private address,
// nothing by IPv6, no mail (RFC 5321's port; a submission needs an account), so many new connections a second
// of each server, and nothing into either bridge from elsewhere. Traffic between two ports of a
// bridge comes by here too (see filterBridge).
//
// Lookups are sent to the resolver's own port, before any rule that would publish a container's port
// 53 on the gateway, and nothing but what was sent there so is accepted: another daemon may listen on
// port 53 of every address.
func (n *networks) rules(resolver netip.AddrPort) string {
	none, open := n.device(hub.NetworkNone), n.device(hub.NetworkOpen)
	redirect, accept := "", ""
	if resolver.IsValid() {
		redirect = fmt.Sprintf(`
  chain prerouting {
    type nat hook prerouting priority -110; policy accept;
    iifname %[1]q ip daddr %[2]s udp dport 53 dnat ip to %[3]s
    iifname %[1]q ip daddr %[2]s tcp dport 53 dnat ip to %[3]s
  }`, open, resolver.Addr(), resolver)
		accept = fmt.Sprintf("iifname %q ip daddr %s meta l4proto { tcp, udp } th dport %d ct status dnat ct original proto-dst 53 accept", open, resolver.Addr(), resolver.Port())
	}
	return fmt.Sprintf(`table inet %[1]s {}
delete table inet %[1]s
table inet %[1]s {%[6]s
  set flows {
    type ipv4_addr
    size 4096
    flags dynamic,timeout
    timeout 1m
  }
  chain forward {
    type filter hook forward priority -10; policy accept;
    iifname %[2]q drop
    oifname %[2]q drop
    oifname %[3]q ct state established,related accept
    oifname %[3]q drop
    iifname %[3]q meta nfproto ipv6 drop
    iifname %[3]q ip daddr { %[4]s } drop
    iifname %[3]q fib daddr type != unicast drop
    iifname %[3]q tcp dport 25 drop
    iifname %[3]q ct state new update @flows { ip saddr limit rate over %[7]d/second burst %[8]d packets } drop
  }
  chain input {
    type filter hook input priority -10; policy accept;
    iifname { %[2]q, %[3]q } ct state established,related accept
    %[5]s
    iifname { %[2]q, %[3]q } drop
  }
}
`, n.table(), none, open, strings.Join(private, ", "), accept, redirect, newFlows, flowBurst)
}

// enforce puts the filter in force in one step. It is idempotent, and done at each start and every
// few seconds by Run, so that a firewall's reload takes it away for no longer.
func (n *networks) enforce(ctx context.Context) error {
	gate, err := n.gateway(ctx)
	if err != nil {
		return err
	}
	n.setting.Lock()
	defer n.setting.Unlock()
	resolver := netip.AddrPort{}
	if port := n.readPort(); gate.IsValid() && port != 0 {
		resolver = netip.AddrPortFrom(gate, port)
	}
	for _, mode := range []hub.NetworkMode{hub.NetworkNone, hub.NetworkOpen} {
		if err := filterBridge(n.device(mode)); err != nil {
			return err
		}
	}
	return setFilter(ctx, n.rules(resolver))
}

// portFile tells all hubs of this machine where one of them listens for lookups.
func (n *networks) portFile() string { return filepath.Join(n.cfg.StateDir, "resolver.port") }

// readPort is the resolver's port; 0 when nobody listens.
func (n *networks) readPort() uint16 {
	raw, err := os.ReadFile(n.portFile())
	if err != nil {
		return 0
	}
	port, err := strconv.ParseUint(string(raw), 10, 16)
	if err != nil {
		return 0 // damaged
	}
	return uint16(port)
}

func (n *networks) writePort(port uint16) error {
	return hub.Wrap(hub.Unavailable, "docker: note resolver's port", writeFile(n.portFile(), strconv.AppendUint(nil, uint64(port), 10)))
}

// remove takes the filter away, when the deployment is taken down.
func (n *networks) remove(ctx context.Context) error {
	return setFilter(ctx, fmt.Sprintf("table inet %[1]s {}\ndelete table inet %[1]s\n", n.table()))
}
