package docker

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
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

// rules is the packet filter, whole: replies to what the host asked pass; from "none" nothing else
// does; from "open" nothing to the host but our resolver, nothing to a private address, nothing by
// IPv6, and nothing into either bridge from elsewhere.
func (n *networks) rules() string {
	none, open := n.device(hub.NetworkNone), n.device(hub.NetworkOpen)
	resolver := ""
	if n.gate.IsValid() {
		resolver = fmt.Sprintf("iifname %q ip daddr %s meta l4proto { tcp, udp } th dport 53 accept", open, n.gate)
	}
	return fmt.Sprintf(`table inet %[1]s {}
delete table inet %[1]s
table inet %[1]s {
  chain forward {
    type filter hook forward priority -10; policy accept;
    iifname %[2]q drop
    oifname %[2]q drop
    oifname %[3]q ct state established,related accept
    oifname %[3]q drop
    iifname %[3]q meta nfproto ipv6 drop
    iifname %[3]q ip daddr { %[4]s } drop
    iifname %[3]q fib daddr type != unicast drop
  }
  chain input {
    type filter hook input priority -10; policy accept;
    iifname { %[2]q, %[3]q } ct state established,related accept
    %[5]s
    iifname { %[2]q, %[3]q } drop
  }
}
`, n.table(), none, open, strings.Join(private, ", "), resolver)
}

// enforce puts the filter in force in one step; it is idempotent, and done at each start, so that a
// firewall's reload takes it away for that long at most. Without root's rights it is refused.
func (n *networks) enforce(ctx context.Context) error {
	n.filter.Lock()
	defer n.filter.Unlock()
	if os.Geteuid() != 0 {
		return &hub.Error{Kind: hub.Unavailable, Op: "docker: set packet filter", Message: "the walls around notebooks can't be set up", Remedy: "an administrator must run carrel as root"}
	}
	return n.nft(ctx, n.rules())
}

// remove takes the filter away, when the deployment is taken down.
func (n *networks) remove(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return n.nft(ctx, fmt.Sprintf("table inet %[1]s {}\ndelete table inet %[1]s\n", n.table()))
}

func (n *networks) nft(ctx context.Context, rules string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Stdin = strings.NewReader(rules)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return &hub.Error{Kind: hub.Unavailable, Op: "docker: set packet filter", Message: "the walls around notebooks can't be set up", Remedy: "an administrator must install nftables; carrel doctor says more", Err: fmt.Errorf("%w: %s", err, bytes.TrimSpace(out.Bytes()))}
	}
	return nil
}
