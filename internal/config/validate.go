package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"carrel/hub"
)

// Machine is what a configuration is checked against.
type Machine struct {
	Memory int64 // bytes; 0: not known
}

var (
	deploymentForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	nameForm       = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
)

// checks collects faults by field.
type checks struct{ faults []Fault }

func (c *checks) that(ok bool, field, message, remedy string) {
	if !ok {
		c.faults = append(c.faults, Fault{Field: field, Message: message, Remedy: remedy})
	}
}

// Validate lists every fault of the values themselves; it looks at nothing but its arguments.
func (c *Config) Validate(m Machine) []Fault {
	var k checks
	k.that(deploymentForm.MatchString(c.Deployment), "deployment", "this is no name of a deployment", "use 1 to 32 of a-z, 0-9 and hyphens")
	k.that(filepath.IsAbs(c.StateDir), "state_dir", "the path is not absolute", "begin it with /")
	// A socket's address holds 107 bytes (unix(7)).
	k.that(len(c.RunDir())+len("/redis/redis.sock") <= 107, "state_dir", "the path is too long for the sockets in it", "use a shorter one")
	if _, err := c.HubOrigins(); err != nil {
		var e *hub.Error
		if errors.As(err, &e) {
			k.that(false, e.Field, e.Message, e.Remedy)
		}
	}
	k.that(len(c.Listen) > 0, "listen", "the proxy listens nowhere", "give an address such as 127.0.0.1:8000")
	for i, a := range c.Listen {
		_, port, err := net.SplitHostPort(a)
		k.that(err == nil && port != "", fmt.Sprintf("listen[%d]", i), "this is no host:port", "write 127.0.0.1:8000 or :8000")
	}
	for i, p := range c.TrustedProxies {
		_, err := netip.ParsePrefix(p)
		k.that(err == nil, fmt.Sprintf("trusted_proxies[%d]", i), "this is no network", "write 10.0.0.0/8 or 127.0.0.1/32")
	}
	k.that((c.TLS.CertFile == "") == (c.TLS.KeyFile == ""), "tls", "a certificate needs its key, and the other way round", "set both cert_file and key_file")
	k.that(slices.Contains([]string{"auto", "loop", "volume"}, c.Spawner.Docker.HomeKind), "spawner.docker.home_kind", "there is no such kind of home", "use auto, loop or volume")
	k.that(c.Spawner.Driver == "docker", "spawner.driver", "there is no such driver", "use docker")
	k.that(c.Spawner.StartTimeout > 0, "spawner.start_timeout", "no server starts in no time", "give something like 2m")
	k.that(c.Spawner.SweepMaxPercent <= 100, "spawner.sweep_max_percent", "a share is at most 100", "give 0 to 100")
	k.that(c.Sessions.Lifetime > 0, "sessions.lifetime", "sessions must last", "give something like 14d")
	k.that(slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level), "log.level", "there is no such level", "use debug, info, warn or error")
	k.that(slices.Contains([]string{"text", "json"}, c.Log.Format), "log.format", "there is no such format", "use text or json")
	c.validateProviders(&k)
	c.validateProfiles(&k, m)
	return k.faults
}

func (c *Config) validateProviders(k *checks) {
	seen := map[string]bool{}
	for i, p := range c.OIDC.Providers {
		at := fmt.Sprintf("oidc.providers[%d].", i)
		k.that(nameForm.MatchString(p.Name), at+"name", "this is no name of a provider", "use a-z, 0-9 and single hyphens")
		k.that(!seen[p.Name], at+"name", "two providers have this name", "give each its own")
		seen[p.Name] = true
		k.that(strings.HasPrefix(p.Issuer, "https://") || strings.HasPrefix(p.Issuer, "http://"), at+"issuer", "this is no address", "give the issuer exactly as the provider writes it, as https://login.example.org")
		k.that(p.ClientID != "", at+"client_id", "it is missing", "register Carrel at the provider with the redirect address <public_url>hub/oidc/"+p.Name+"/callback")
		allowed := p.Everyone || len(p.AllowedUsers)+len(p.AllowedGroups)+len(p.AllowedDomains) > 0
		k.that(allowed, at+"everyone", "nobody may sign in with this provider", "set everyone: true, or allowed_users, allowed_groups or allowed_email_domains")
	}
	for i, n := range c.Demo.People {
		_, err := hub.ParseUserName(n)
		k.that(err == nil, fmt.Sprintf("demo.people[%d]", i), "this is no user name", "use a-z, 0-9 and - . _ @ +")
	}
}

func (c *Config) validateProfiles(k *checks, m Machine) {
	k.that(len(c.Profiles) > 0, "profiles", "there is none", "give one at least, or leave the field out")
	seen := map[string]bool{}
	for i, p := range c.Profiles {
		at := fmt.Sprintf("profiles[%d].", i)
		k.that(nameForm.MatchString(p.Name), at+"name", "this is no name of a profile", "use a-z, 0-9 and single hyphens")
		k.that(!seen[p.Name], at+"name", "two profiles have this name", "give each its own")
		seen[p.Name] = true
		k.that(p.CPU > 0, at+"cpu", "a server needs some", "give something like 1 or 0.5")
		k.that(p.Memory >= 64<<20, at+"memory", "a server needs 64MiB at least", "give something like 1GiB")
		k.that(m.Memory == 0 || int64(p.Memory) <= m.Memory, at+"memory", fmt.Sprintf("this machine has %s only", Size(m.Memory>>20<<20)), "give less")
		k.that(p.Disk == 0 || p.Disk >= 16<<20, at+"disk", "a home needs 16MiB at least", "give something like 2GiB")
		k.that(p.PIDs == 0 || p.PIDs >= 32, at+"pids", "a server needs 32 at least", "give something like 256")
		k.that(p.Files == 0 || p.Files >= 256 && p.Files <= 20000, at+"files", "out of range", "give 256 to 20000")
		k.that(p.Network == "none" || p.Network == "open", at+"network", "there is no such network", "use none or open")
		k.that(p.Home == "none" || filepath.IsAbs(p.Home) && filepath.Clean(p.Home) == p.Home && p.Home != "/", at+"home", "this is no path for a home", "use /home/jovyan, or none")
		k.that(strings.HasPrefix(p.DefaultURL, "/"), at+"default_url", "this is no path", "use /lab or /tree")
		k.that(p.UID > 0 && p.GID > 0, at+"uid", "servers do not run as root", "use 1000")
		for j, mt := range p.Mounts {
			ok := filepath.IsAbs(mt.Source) && filepath.Clean(mt.Source) == mt.Source && filepath.IsAbs(mt.Target) && filepath.Clean(mt.Target) == mt.Target
			k.that(ok, fmt.Sprintf("%smounts[%d]", at, j), "the paths must be absolute and plain", "write /data/shared")
			k.that(!strings.Contains(mt.Source, "docker.sock") && mt.Source != "/", fmt.Sprintf("%smounts[%d].source", at, j), "this would give the whole machine away", "mount a directory with data only")
		}
	}
}
