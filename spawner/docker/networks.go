package docker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/network"

	"carrel/hub"
)

// networks are the deployment's two bridges, one per mode. Containers on them reach no other
// container; on "none" nothing at all; on "open" the outside alone. The host reaches every one.
type networks struct {
	cfg  Config
	api  *engine
	pool netip.Prefix
	turn chan struct{} // one at a time makes a network and sets the filter

	setting sync.Mutex // one at a time reads the resolver's port and sets the filter by it

	mu   sync.Mutex
	gate netip.Addr // the open bridge's, where our resolver answers; invalid until it is known
}

type bridge struct {
	name       string // Docker's
	prefix     netip.Prefix
	resolver   string
	resolvConf string
}

const (
	defaultPool = "10.201.0.0/16"
	bridgeBits  = 22 // 1,021 servers a network
)

func newNetworks(cfg Config, api *engine) (*networks, error) {
	text := cfg.Subnets
	if text == "" {
		text = defaultPool
	}
	pool, err := netip.ParsePrefix(text)
	if err != nil || !pool.Addr().Is4() || pool.Bits() > bridgeBits-1 {
		return nil, &hub.Error{Kind: hub.Invalid, Op: "read subnets", Field: "spawner.docker.subnets", Message: "this is no IPv4 network of /21 or larger", Remedy: "give something like " + defaultPool}
	}
	return &networks{cfg: cfg, api: api, pool: pool.Masked(), turn: make(chan struct{}, 1)}, nil
}

func (n *networks) name(mode hub.NetworkMode) string {
	return "carrel-" + n.cfg.Deployment + "-" + string(mode)
}

// device is the bridge's interface name, at most 15 bytes.
func (n *networks) device(mode hub.NetworkMode) string {
	sum := sha256.Sum256([]byte("carrel bridge " + n.cfg.Deployment))
	return "crl" + hex.EncodeToString(sum[:4]) + string(mode)[:1]
}

// ensure finds or makes the bridge of a mode, with its packet filter in force: no container starts
// without it.
func (n *networks) ensure(ctx context.Context, mode hub.NetworkMode) (bridge, error) {
	if mode != hub.NetworkOpen {
		mode = hub.NetworkNone
	}
	select {
	case n.turn <- struct{}{}:
		defer func() { <-n.turn }()
	case <-ctx.Done():
		return bridge{}, fail("make network", ctx.Err())
	}
	b, err := n.findOrMake(ctx, mode)
	if err != nil {
		return bridge{}, err
	}
	if mode == hub.NetworkOpen {
		n.setGate(b.prefix.Addr().Next())
	}
	if err := n.enforce(ctx); err != nil {
		return bridge{}, err
	}
	return b, n.writeResolvConf(mode, &b)
}

func (n *networks) setGate(a netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gate = a
}

// gateway is the open bridge's address on the host; invalid when there is no such bridge. A process
// that has not made it looks for one that another made.
func (n *networks) gateway(ctx context.Context) (netip.Addr, error) {
	n.mu.Lock()
	gate := n.gate
	n.mu.Unlock()
	if gate.IsValid() {
		return gate, nil
	}
	b, found, err := n.find(ctx, hub.NetworkOpen)
	if !found || err != nil {
		return netip.Addr{}, err
	}
	gate = b.prefix.Addr().Next()
	n.setGate(gate)
	return gate, nil
}

// find looks for the bridge of a mode; one that Carrel did not make is a Conflict.
func (n *networks) find(ctx context.Context, mode hub.NetworkMode) (b bridge, found bool, err error) {
	b.name = n.name(mode)
	got, err := n.api.on(ctx).NetworkInspect(ctx, b.name, network.InspectOptions{})
	if isNotFound(err) {
		return b, false, nil
	}
	if err != nil {
		return b, false, fail("find network", err)
	}
	if !n.cfg.Keyring.CheckLabelMAC(got.Labels[labelMAC], "network", b.name) || len(got.IPAM.Config) != 1 {
		return b, false, &hub.Error{Kind: hub.Conflict, Op: "docker: find network", Message: "a network " + b.name + " is there that this deployment did not make", Remedy: "an administrator must remove it, or restore the deployment's key"}
	}
	b.prefix, err = netip.ParsePrefix(got.IPAM.Config[0].Subnet)
	return b, err == nil, hub.Wrap(hub.Internal, "docker: read network", err)
}

// findOrMake makes the bridge when it is not there, one hub of this machine at a time.
func (n *networks) findOrMake(ctx context.Context, mode hub.NetworkMode) (bridge, error) {
	b, found, err := n.find(ctx, mode)
	if found || err != nil {
		return b, err
	}
	unlock, err := lockFile(ctx, filepath.Join(n.cfg.StateDir, "networks.lock"))
	if err != nil {
		return bridge{}, hub.Wrap(hub.Unavailable, "docker: make network", err)
	}
	defer unlock()
	if b, found, err := n.find(ctx, mode); found || err != nil {
		return b, err
	}
	return n.tryMake(ctx, mode, b)
}

// tryMake tries those of the pool's subnets that nobody has. Docker has the last word on whether one
// is free.
func (n *networks) tryMake(ctx context.Context, mode hub.NetworkMode, b bridge) (bridge, error) {
	subnets, err := n.freeSubnets(ctx, b.name)
	if err != nil {
		return bridge{}, err
	}
	failure := error(&hub.Error{Kind: hub.Unavailable, Op: "docker: make network", Message: "there is no free subnet for the notebooks' network", Remedy: "an administrator can widen spawner.docker.subnets"})
	for _, s := range subnets {
		err := n.make(ctx, mode, b.name, s)
		if b, found, ferr := n.find(ctx, mode); found || ferr != nil {
			return b, ferr
		}
		if err != nil && !errdefs.IsPermissionDenied(err) { // which is what Docker calls an overlap
			return bridge{}, fail("make network", err)
		}
		if err != nil {
			failure = fail("make network", err)
		}
	}
	return bridge{}, failure
}

// freeSubnets are the pool's, from one that the network's name chooses, without those that overlap
// another network of Docker's or an address of this machine.
func (n *networks) freeSubnets(ctx context.Context, name string) ([]netip.Prefix, error) {
	all, err := n.api.on(ctx).NetworkList(ctx, network.ListOptions{})
	if err != nil {
		return nil, fail("list networks", err)
	}
	var taken []netip.Prefix
	for _, o := range all {
		for _, c := range o.IPAM.Config {
			if p, err := netip.ParsePrefix(c.Subnet); err == nil {
				taken = append(taken, p)
			}
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, hub.Wrap(hub.Internal, "docker: list host's addresses", err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			taken = append(taken, p)
		}
	}
	return subnetsOf(n.pool, name, taken), nil
}

func subnetsOf(pool netip.Prefix, name string, taken []netip.Prefix) []netip.Prefix {
	count := uint32(1) << (bridgeBits - pool.Bits())
	sum := sha256.Sum256([]byte(name))
	start := binary.BigEndian.Uint32(sum[:4]) % count
	base := binary.BigEndian.Uint32(pool.Addr().AsSlice())
	var free []netip.Prefix
next:
	for i := range count {
		var raw [4]byte
		binary.BigEndian.PutUint32(raw[:], base+(start+i)%count<<(32-bridgeBits))
		p := netip.PrefixFrom(netip.AddrFrom4(raw), bridgeBits)
		for _, t := range taken {
			if t.Overlaps(p) {
				continue next
			}
		}
		free = append(free, p)
	}
	return free
}

func (n *networks) make(ctx context.Context, mode hub.NetworkMode, name string, prefix netip.Prefix) error {
	_, err := n.api.on(ctx).NetworkCreate(ctx, name, network.CreateOptions{
		Driver:   "bridge",
		Internal: mode == hub.NetworkNone,
		IPAM:     &network.IPAM{Driver: "default", Config: []network.IPAMConfig{{Subnet: prefix.String(), Gateway: prefix.Addr().Next().String()}}},
		Options: map[string]string{
			"com.docker.network.bridge.name": n.device(mode), "com.docker.network.bridge.enable_icc": "false",
			"com.docker.network.driver.mtu": "1500",
		},
		Labels: map[string]string{labelDeployment: n.cfg.Deployment, labelMAC: n.cfg.Keyring.LabelMAC("network", name)},
	})
	return err
}

// noResolver is an address in the container itself, where nothing answers.
const noResolver = "127.0.0.1"

// writeResolvConf writes the containers' resolv.conf: our resolver's address on "open", one that
// never answers on "none". Docker's own resolver, which knows every container's name and asks the
// host's resolvers, is thereby out of the way; a container that asks it all the same is sent to the
// same place (see walls), and learns no person's name (see containerName).
func (n *networks) writeResolvConf(mode hub.NetworkMode, b *bridge) error {
	b.resolvConf = filepath.Join(n.cfg.StateDir, "resolv-"+string(mode)+".conf")
	b.resolver = noResolver
	text := "nameserver " + noResolver + "\noptions timeout:1 attempts:1\n"
	if mode == hub.NetworkOpen {
		b.resolver = b.prefix.Addr().Next().String()
		text = "nameserver " + b.resolver + "\noptions timeout:2 attempts:3\n"
	}
	if have, err := os.ReadFile(b.resolvConf); err == nil && string(have) == text {
		return nil
	}
	if err := os.MkdirAll(n.cfg.StateDir, 0o700); err != nil {
		return hub.Wrap(hub.Unavailable, "write resolv.conf", err)
	}
	return hub.Wrap(hub.Unavailable, "write resolv.conf", os.WriteFile(b.resolvConf, []byte(text), 0o644)) //nolint:gosec // containers read it
}
