package docker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"

	"carrel/hub"
)

// networks are the deployment's two bridges, one per mode. Containers on them reach no other
// container; on "none" nothing at all; on "open" the outside alone. The host reaches every one.
type networks struct {
	cfg    Config
	api    *client.Client
	pool   netip.Prefix
	mu     sync.Mutex
	ready  map[hub.NetworkMode]bridge
	gate   netip.Addr // the open bridge's, where our resolver answers
	filter sync.Mutex
}

type bridge struct {
	name       string // Docker's
	device     string // the kernel's
	prefix     netip.Prefix
	resolvConf string
}

const (
	defaultPool = "10.201.0.0/16"
	bridgeBits  = 22 // 1,021 servers a network
)

func newNetworks(cfg Config, api *client.Client) (*networks, error) {
	text := cfg.Subnets
	if text == "" {
		text = defaultPool
	}
	pool, err := netip.ParsePrefix(text)
	if err != nil || !pool.Addr().Is4() || pool.Bits() > bridgeBits-1 {
		return nil, &hub.Error{Kind: hub.Invalid, Op: "read subnets", Field: "spawner.docker.subnets", Message: "this is no IPv4 network of /21 or larger", Remedy: "give something like " + defaultPool}
	}
	return &networks{cfg: cfg, api: api, pool: pool.Masked(), ready: map[hub.NetworkMode]bridge{}}, nil
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
	n.mu.Lock()
	defer n.mu.Unlock()
	b, err := n.find(ctx, mode)
	if err != nil {
		return bridge{}, err
	}
	n.ready[mode] = b
	if mode == hub.NetworkOpen {
		n.gate = b.prefix.Addr().Next()
	}
	if err := n.enforce(ctx); err != nil {
		return bridge{}, err
	}
	return b, n.writeResolvConf(mode, &b)
}

func (n *networks) find(ctx context.Context, mode hub.NetworkMode) (bridge, error) {
	b := bridge{name: n.name(mode), device: n.device(mode)}
	for range 2 {
		got, err := n.api.NetworkInspect(ctx, b.name, network.InspectOptions{})
		if err == nil {
			if !n.cfg.Keyring.CheckLabelMAC(got.Labels[labelMAC], "network", b.name) || len(got.IPAM.Config) != 1 {
				return bridge{}, hub.Errorf(hub.Conflict, "docker: find network", "a network %s is there that Carrel did not make", b.name)
			}
			b.prefix, err = netip.ParsePrefix(got.IPAM.Config[0].Subnet)
			return b, hub.Wrap(hub.Internal, "docker: read network", err)
		}
		if !isNotFound(err) {
			return bridge{}, fail("find network", err)
		}
		if err := n.make(ctx, mode, b); err != nil {
			return bridge{}, err
		}
	}
	return bridge{}, hub.Errorf(hub.Unavailable, "docker: make network", "the network %s does not stay", b.name)
}

// make tries the pool's subnets from one that the deployment's name chooses, until Docker takes one.
func (n *networks) make(ctx context.Context, mode hub.NetworkMode, b bridge) error {
	count := uint32(1) << (bridgeBits - n.pool.Bits())
	sum := sha256.Sum256([]byte(b.name))
	start := binary.BigEndian.Uint32(sum[:4]) % count
	var err error
	for i := range count {
		base := binary.BigEndian.Uint32(n.pool.Addr().AsSlice()) + (start+i)%count<<(32-bridgeBits)
		var raw [4]byte
		binary.BigEndian.PutUint32(raw[:], base)
		prefix := netip.PrefixFrom(netip.AddrFrom4(raw), bridgeBits)
		_, err = n.api.NetworkCreate(ctx, b.name, network.CreateOptions{
			Driver:   "bridge",
			Internal: mode == hub.NetworkNone,
			IPAM:     &network.IPAM{Driver: "default", Config: []network.IPAMConfig{{Subnet: prefix.String(), Gateway: prefix.Addr().Next().String()}}},
			Options: map[string]string{
				"com.docker.network.bridge.name": b.device, "com.docker.network.bridge.enable_icc": "false",
				"com.docker.network.driver.mtu": "1500",
			},
			Labels: map[string]string{labelDeployment: n.cfg.Deployment, labelMAC: n.cfg.Keyring.LabelMAC("network", b.name)},
		})
		if err == nil || isConflict(err) || !strings.Contains(err.Error(), "overlap") {
			break // made; made by another hub just now; or no matter of subnets
		}
	}
	if isConflict(err) {
		return nil
	}
	return fail("make network", err)
}

// writeResolvConf writes the containers' resolv.conf: our resolver's address on "open", one that
// never answers on "none". Docker's own resolver, which knows every container's name and asks the
// host's resolvers, is thereby out of the way.
func (n *networks) writeResolvConf(mode hub.NetworkMode, b *bridge) error {
	b.resolvConf = filepath.Join(n.cfg.StateDir, "resolv-"+string(mode)+".conf")
	text := "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"
	if mode == hub.NetworkOpen {
		text = "nameserver " + n.gate.String() + "\noptions timeout:2 attempts:3\n"
	}
	if have, err := os.ReadFile(b.resolvConf); err == nil && string(have) == text {
		return nil
	}
	if err := os.MkdirAll(n.cfg.StateDir, 0o711); err != nil {
		return hub.Wrap(hub.Unavailable, "write resolv.conf", err)
	}
	return hub.Wrap(hub.Unavailable, "write resolv.conf", os.WriteFile(b.resolvConf, []byte(text), 0o644)) //nolint:gosec // containers read it
}
