package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"carrel/hub"
	"carrel/hub/oidc"
)

// finding is what one check of doctor's says.
type finding struct {
	Name   string `json:"name"`
	Status string `json:"status"` // ok, warn or fail
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"`
}

func doctorCommand(f *flags) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check Docker, Redis, provider, image, mounts, ports and clock, and say what to do", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := openDeployment(f)
			if err != nil {
				return err
			}
			findings := d.examine(cmd.Context())
			if asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(findings)
			} else {
				for _, x := range findings {
					fmt.Fprintf(cmd.OutOrStdout(), "%-5s %-14s %s\n", x.Status, x.Name, x.Found)
					if x.Remedy != "" {
						fmt.Fprintf(cmd.OutOrStdout(), "      %-14s what to do: %s\n", "", x.Remedy)
					}
				}
			}
			for _, x := range findings {
				if x.Status == "fail" {
					return errTold
				}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// examine makes every check side by side, each within ten seconds.
func (d *deployment) examine(ctx context.Context) []finding {
	checks := []func(context.Context) []finding{d.checkDocker, d.checkRedis, d.checkProviders, d.checkTools, d.checkPorts, d.checkDisk}
	results := make([][]finding, len(checks))
	var wg sync.WaitGroup
	for i, check := range checks {
		wg.Go(func() {
			ctx, done := context.WithTimeout(ctx, 10*time.Second)
			defer done()
			results[i] = check(ctx)
		})
	}
	wg.Wait()
	var all []finding
	for _, r := range results {
		all = append(all, r...)
	}
	return all
}

func ok(name, found string) finding { return finding{name, "ok", found, ""} }

func (d *deployment) checkDocker(ctx context.Context) []finding {
	driver, err := d.driver()
	if err != nil {
		return []finding{{"Docker", "fail", err.Error(), "set spawner.docker.host"}}
	}
	defer driver.Close() //nolint:errcheck // the process ends with it
	facts, err := driver.Facts(ctx)
	if err != nil {
		return []finding{{"Docker", "fail", "it does not answer", "start it, or set spawner.docker.host"}}
	}
	fs := []finding{ok("Docker", facts.Version+", "+facts.StorageDriver+", cgroup v"+facts.CgroupVersion)}
	if !facts.LiveRestore {
		fs = append(fs, finding{"live restore", "warn", "off: notebooks end when dockerd restarts", `set "live-restore": true in /etc/docker/daemon.json`})
	}
	if len(facts.Unlimited) > 0 {
		fs = append(fs, finding{"cgroups", "fail", "servers can't be limited in: " + strings.Join(facts.Unlimited, ", "), "enable these cgroup controllers; for memory and swap boot with cgroup_enable=memory swapaccount=1"})
	} else {
		fs = append(fs, ok("cgroups", "memory, swap, CPU and processes can be limited"))
	}
	if !facts.Seccomp {
		fs = append(fs, finding{"seccomp", "fail", "not available", "use a kernel and a Docker with seccomp"})
	}
	image := d.cfg.Image.Name
	if opts, err := d.imageOptions(); err == nil && image == "" {
		image = opts.Name()
	}
	if _, present, err := driver.ImageLabels(ctx, image); err == nil && present {
		fs = append(fs, ok("kernel image", image))
	} else {
		fs = append(fs, finding{"kernel image", "warn", image + " is not there", "carrel image build, or wait for the first carrel serve"})
	}
	return fs
}

func (d *deployment) checkRedis(ctx context.Context) []finding {
	address := d.cfg.Redis.URL
	if address == "" {
		path, err := exec.LookPath("redis-server")
		if err != nil {
			return []finding{{"Redis", "fail", "redis-server is not installed", "install redis-server, or set redis.url"}}
		}
		s, err := d.redisServer()
		if err != nil {
			return []finding{{"Redis", "fail", err.Error(), "choose a shorter state_dir"}}
		}
		address = s.HubURL()
		if _, err := os.Stat(d.state.redisSocket() + "/redis.sock"); err != nil {
			return []finding{ok("Redis", "private, not running now ("+path+")")}
		}
	}
	store, err := d.store(address)
	if err != nil {
		message, remedy := hub.Public(err)
		return []finding{{"Redis", "fail", message, remedy}}
	}
	defer store.Close() //nolint:errcheck // the process ends with it
	facts, err := store.Facts(ctx)
	if err != nil {
		return []finding{{"Redis", "fail", "it does not answer", "check redis.url, and that Redis runs"}}
	}
	fs := []finding{ok("Redis", facts.Version)}
	if facts.Evicts {
		fs = append(fs, finding{"Redis memory", "warn", "it evicts keys: sessions can vanish", "set maxmemory-policy noeviction"})
	}
	if !facts.Persisted {
		fs = append(fs, finding{"Redis disk", "warn", "it is not append-only: a restart signs people out", "set appendonly yes"})
	}
	return fs
}

func (d *deployment) checkProviders(ctx context.Context) []finding {
	if len(d.cfg.OIDC.Providers) == 0 {
		return append(d.checkOrigins(), finding{"sign-in", "warn", "the demo provider, for this machine only", "set oidc.providers for real use"})
	}
	fs := d.checkOrigins()
	list, _, _, err := d.providers()
	if err != nil {
		return append(fs, finding{"sign-in", "fail", err.Error(), "check oidc.providers"})
	}
	for _, p := range list {
		fs = append(fs, checkProvider(ctx, p))
	}
	return fs
}

// checkProvider asks for the discovery document just as sign-in does, and compares clocks.
func checkProvider(ctx context.Context, p oidc.ProviderConfig) finding {
	name := "sign-in " + p.Name
	unreachable := finding{name, "fail", "its discovery document can't be had", "check the issuer, and ca_file if it has a CA of its own"}
	client, err := p.HTTPClient()
	if err != nil {
		message, remedy := hub.Public(err)
		return finding{name, "fail", message, remedy}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(p.Issuer, "/")+"/.well-known/openid-configuration", nil)
	if err != nil {
		return unreachable
	}
	began := time.Now()
	res, err := client.Do(req)
	if err != nil {
		return unreachable
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return unreachable
	}
	if at, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		if skew := began.Sub(at).Abs(); skew > 30*time.Second {
			return finding{"clock", "fail", fmt.Sprintf("this machine and %s differ by %s", p.Name, skew.Round(time.Second)), "set the clock; tokens are refused otherwise"}
		}
	}
	return ok(name, p.Issuer)
}

// checkOrigins tells of choices that make people less safe.
func (d *deployment) checkOrigins() []finding {
	var fs []finding
	if d.origins.Mode() == hub.OneOrigin {
		fs = append(fs, finding{"origins", "warn", "one-origin: a notebook's page can act as its reader on the hub and on every notebook", "use subdomains, or paths with a second port"})
	}
	if u, err := url.Parse(d.cfg.PublicURL); err == nil && u.Scheme == "http" && !loopbackName(u.Hostname()) {
		fs = append(fs, finding{"public_url", "warn", "plain HTTP: passwords and notebooks can be read on the way", "give tls.cert_file, or put a proxy that ends TLS in front"})
	}
	return fs
}

func loopbackName(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && addr.IsLoopback()
}

func (d *deployment) checkTools(context.Context) []finding {
	if os.Geteuid() != 0 {
		return []finding{{"rights", "fail", "carrel does not run as root: it can't set up the walls around notebooks", "run it as root; the proxy, which faces the network, gives its rights up"}}
	}
	var fs []finding
	for tool, why := range map[string]string{"nft": "nftables", "mkfs.ext4": "e2fsprogs", "e2fsck": "e2fsprogs", "resize2fs": "e2fsprogs", "dumpe2fs": "e2fsprogs", "mount": "util-linux", "losetup": "util-linux"} {
		if _, err := exec.LookPath(tool); err != nil {
			if _, err := os.Stat("/usr/sbin/" + tool); err != nil {
				fs = append(fs, finding{"tools", "fail", tool + " is missing", "install " + why})
			}
		}
	}
	if len(fs) == 0 {
		fs = append(fs, ok("tools", "nft, mkfs.ext4, mount"))
	}
	return append(fs, d.checkHomes()...)
}

// checkHomes looks at where homes are to be.
func (d *deployment) checkHomes() []finding {
	kind := d.cfg.Spawner.Docker.HomeKind
	if kind == "bind" {
		return []finding{checkHomePath(d.cfg.Spawner.Docker.HomePath)}
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil && kind != "volume" {
		return []finding{{"homes", "fail", "there are no loop devices", "load the module loop, or set spawner.docker.home_kind: volume"}}
	}
	return nil
}

// checkHomePath looks at the operator's directory, which may be of a server that is not mounted.
func checkHomePath(template string) finding {
	p, err := hub.ParseHomePath(template)
	if err != nil {
		message, remedy := hub.Public(err)
		return finding{"homes", "fail", message, remedy}
	}
	var at unix.Stat_t
	switch err := unix.Stat(p.Base(), &at); {
	case err != nil:
		return finding{"homes", "fail", p.Base() + " can't be looked at: " + err.Error(), "mount or make it, or change spawner.docker.home_path"}
	case at.Mode&unix.S_IFMT != unix.S_IFDIR:
		return finding{"homes", "fail", p.Base() + " is no directory", "change spawner.docker.home_path"}
	case at.Uid != 0 || at.Mode&0o022 != 0:
		return finding{"homes", "warn", "others than root can write in " + p.Base() + ": people's directories are not made there", "make them yourself, or chown root and chmod 755 " + p.Base()}
	}
	return ok("homes", p.Base()+", a directory for each person")
}

func (d *deployment) checkPorts(ctx context.Context) []finding {
	var fs []finding
	for _, door := range d.cfg.Doors() {
		address := door.Address
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", address)
		switch {
		case err == nil:
			l.Close()
			fs = append(fs, ok("port", address+" is free"))
		case errors.Is(err, unix.EADDRINUSE) && d.answersAt(ctx, address):
			fs = append(fs, ok("port", address+" is carrel's"))
		case errors.Is(err, unix.EADDRINUSE) && (d.cfg.TLS.On() || door.Redirect || door.ProxyProtocol): // which it can't be asked
			fs = append(fs, finding{"port", "warn", address + " is in use", "nothing, if it is by carrel"})
		default:
			fs = append(fs, finding{"port", "fail", address + " is in use by another program", "stop it, or change listen and public_url"})
		}
	}
	return fs
}

func (d *deployment) answersAt(ctx context.Context, address string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+d.origins.Base()+"carrel-health", nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

func (d *deployment) checkDisk(context.Context) []finding {
	var st unix.Statfs_t
	if err := unix.Statfs(d.state.dir, &st); err != nil {
		return []finding{{"disk", "fail", "state_dir can't be examined", "check state_dir"}}
	}
	free := int64(st.Bavail) * st.Bsize
	if free < 2<<30 {
		return []finding{{"disk", "warn", fmt.Sprintf("%d MiB are free at %s", free>>20, d.state.dir), "free some space"}}
	}
	return []finding{ok("disk", fmt.Sprintf("%d GiB are free at %s", free>>30, d.state.dir))}
}
