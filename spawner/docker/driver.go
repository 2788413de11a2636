// Package docker runs people's servers as Docker containers: the driver "docker" of package hub's
// Spawner contract, with Logs, Watcher, Meter, Bindings, Slots, Pauser and Runner.
//
// It owns everything that Docker is told: the container's walls ([walls] makes them all), names and
// MACed labels from which a deployment can be rebuilt, two networks on which containers reach
// nobody, the packet filter and the resolver behind them, homes, and images. It is the only package
// that imports Docker's client. It refuses to own any decision about who may run what, and it
// never opens, lists or changes anything in a tree that a container can write: files of a home are
// the guest's alone, and what has to be done among them a container does (see homework).
package docker

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"carrel/hub"
)

// Name is the driver's, as in the configuration.
const Name = "docker"

// Config is what the driver needs.
type Config struct {
	Host       string // Docker's address; empty: the environment's or the default socket
	Deployment string // part of every name; 1 to 32 of a-z, 0-9 and -
	Keyring    *hub.Keyring
	StateDir   string        // absolute, on this host, reached by nobody else
	HomeKind   string        // "loop", "volume", "bind", or "auto": loop where this process is root
	HomePath   hub.HomePath  // where homes of the kind bind are
	Subnets    string        // IPv4 pool of the networks, as "10.201.0.0/16"
	Upstreams  []string      // resolvers that names are asked of, as "host:port"; empty: the host's
	Statics    string        // where images' static files are kept (see package statics), read by proxies; "": nowhere
	Quarantine time.Duration // how long an address stays unused after its container
	SocketGID  int           // the proxy's group, which reaches the sockets of servers that were slots
	Logger     *slog.Logger
}

// Driver implements [hub.Spawner]. Run must be running while servers are.
type Driver struct {
	cfg      Config
	api      *engine
	addrs    *addressBook
	networks *networks
	homes    *homes
	pulls    *pulls
	wanted   chan string // images whose static files are to be kept
	slots    *slots
	crash    func(step string) // nil but in tests; see at
}

var (
	_ hub.Spawner  = (*Driver)(nil)
	_ hub.Logs     = (*Driver)(nil)
	_ hub.Watcher  = (*Driver)(nil)
	_ hub.Meter    = (*Driver)(nil)
	_ hub.Bindings = (*Driver)(nil)
	_ hub.Pauser   = (*Driver)(nil)
	_ hub.Slots    = (*Driver)(nil)
	_ hub.Runner   = (*Driver)(nil)
)

// New checks the configuration and makes a client; it asks Docker nothing yet.
func New(cfg Config) (*Driver, error) {
	if cfg.Keyring == nil || cfg.Logger == nil || cfg.Deployment == "" || !filepath.IsAbs(cfg.StateDir) {
		return nil, hub.Errorf(hub.Internal, "make docker driver", "a part is missing")
	}
	switch cfg.HomeKind {
	case "", "auto":
		cfg.HomeKind = homeVolume
		if os.Geteuid() == 0 {
			cfg.HomeKind = homeLoop
		}
	case homeLoop, homeVolume:
	case homeBind:
		if cfg.HomePath.IsZero() || os.Geteuid() != 0 {
			return nil, &hub.Error{Kind: hub.Invalid, Op: "make docker driver", Field: "spawner.docker.home_kind", Message: "homes of the kind bind take a home_path, and root's rights", Remedy: "give home_path something like /srv/homes/{user}, and run carrel as root; or use volume"}
		}
	default:
		return nil, &hub.Error{Kind: hub.Invalid, Op: "make docker driver", Field: "spawner.docker.home_kind", Message: "there is no such kind of home", Remedy: "use auto, loop, volume or bind"}
	}
	api, err := newEngine(cfg.Host)
	if err != nil {
		return nil, &hub.Error{Kind: hub.Invalid, Op: "make docker client", Field: "spawner.docker.host", Message: "this is no address of a Docker daemon", Remedy: "give something like unix:///var/run/docker.sock", Err: err}
	}
	nets, err := newNetworks(cfg, api)
	if err != nil {
		return nil, err
	}
	d := &Driver{cfg: cfg, api: api, networks: nets, pulls: newPulls(), wanted: make(chan string, 64), slots: newSlots()}
	d.homes = &homes{cfg: cfg, api: api, inUse: d.homeInUse, users: d.homeUsers}
	d.addrs = &addressBook{path: filepath.Join(cfg.StateDir, "addresses.json"), quiet: cfg.Quarantine, used: d.addressesInUse, logger: cfg.Logger}
	return d, nil
}

// The deadlines of calls to Docker: of one that only asks, and of one that makes or removes something.
const (
	callTimeout   = 10 * time.Second
	createTimeout = 60 * time.Second
)

// Ping tells whether Docker answers.
func (d *Driver) Ping(ctx context.Context) error {
	ctx, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	_, err := d.api.on(ctx).Ping(ctx)
	return fail("ask Docker", err)
}

// Facts are what `carrel doctor` reports of a Docker daemon.
type Facts struct {
	Version       string
	LiveRestore   bool
	StorageDriver string
	CgroupVersion string
	Unlimited     []string // what this kernel's cgroups can't cap: memory, swap, CPU, processes
	Seccomp       bool
	Root          string
	Memory        int64 // bytes
	CPUs          int
}

// Facts asks Docker about itself.
func (d *Driver) Facts(ctx context.Context) (Facts, error) {
	ctx, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	info, err := d.api.on(ctx).Info(ctx)
	if err != nil {
		return Facts{}, fail("ask Docker about itself", err)
	}
	f := Facts{
		Version: info.ServerVersion, LiveRestore: info.LiveRestoreEnabled, StorageDriver: info.Driver,
		CgroupVersion: info.CgroupVersion, Root: info.DockerRootDir, Memory: info.MemTotal, CPUs: info.NCPU,
	}
	for what, capped := range map[string]bool{"memory": info.MemoryLimit, "swap": info.SwapLimit, "CPU": info.CPUCfsQuota, "processes": info.PidsLimit} {
		if !capped {
			f.Unlimited = append(f.Unlimited, what)
		}
	}
	slices.Sort(f.Unlimited)
	for _, o := range info.SecurityOptions {
		f.Seccomp = f.Seccomp || strings.HasPrefix(o, "name=seccomp")
	}
	return f, nil
}

// Run keeps the walls standing, answers the containers' name lookups, keeps images' static files, and
// closes homes that nobody has any more, until ctx ends.
func (d *Driver) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { d.resolve(ctx) })
	wg.Go(func() { d.keepStatics(ctx) })
	d.keep(ctx)
	return ctx.Err()
}

const (
	wallsEvery = 5 * time.Second
	tidyEvery  = time.Minute
)

// keep sets the packet filter anew every few seconds, in case something took it away, and tidies now
// and then. A fault is logged when it begins and when it ends.
func (d *Driver) keep(ctx context.Context) {
	tick := time.NewTicker(wallsEvery)
	defer tick.Stop()
	broken := false
	var tidied time.Time
	for {
		if time.Since(tidied) > tidyEvery {
			tidied = time.Now()
			d.homes.tidy(ctx)
			d.networks.setGate(netip.Addr{}) // looked up again: another process may have made the bridge anew
		}
		callCtx, done := context.WithTimeout(ctx, callTimeout)
		err := d.networks.enforce(callCtx)
		done()
		if ctx.Err() == nil && (err != nil) != broken {
			broken = err != nil
			d.cfg.Logger.WarnContext(ctx, "packet filter", "in_force", !broken, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Close ends pulls that are under way, and the client's connections.
func (d *Driver) Close() error {
	d.pulls.stop()
	d.slots.close()
	return d.api.close()
}
