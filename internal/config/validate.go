package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"carrel/hub"
)

// Machine is what a configuration is checked against; 0: not known.
type Machine struct {
	Memory int64 // bytes
	CPUs   int
}

var (
	deploymentForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	nameForm       = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	prefixForm     = regexp.MustCompile(`^[A-Za-z0-9:_./-]{1,100}$`)
)

const maxName = 32

// checks collects faults by field.
type checks struct{ faults []Fault }

func (c *checks) that(ok bool, field, message, remedy string) {
	if !ok {
		c.faults = append(c.faults, Fault{Field: field, Message: message, Remedy: remedy})
	}
}

// oneOf checks a choice.
func (c *checks) oneOf(value, field, what string, choices ...string) {
	last := len(choices) - 1
	remedy := "use " + choices[last]
	if last > 0 {
		remedy = "use " + strings.Join(choices[:last], ", ") + " or " + choices[last]
	}
	c.that(slices.Contains(choices, value), field, "there is no such "+what, remedy)
}

// Validate lists every fault of the values themselves; it looks at nothing but its arguments.
func (c *Config) Validate(m Machine) []Fault {
	var k checks
	k.that(deploymentForm.MatchString(c.Deployment), "deployment", "this is no name of a deployment", "use 1 to 32 of a-z, 0-9 and hyphens")
	k.that(filepath.IsAbs(c.StateDir), "state_dir", "the path is not absolute", "begin it with /")
	// A socket's address holds 107 bytes (unix(7)).
	k.that(len(c.RunDir())+len("/redis/redis.sock") <= 107, "state_dir", "the path is too long for the sockets in it", "use a shorter one")
	k.that(c.Sessions.Lifetime > 0, "sessions.lifetime", "sessions must last", "give something like 14d")
	k.that(c.Proxy.UID > 0 && c.Proxy.UID <= maxUID, "proxy.uid", "the proxy does not run as root", "use a user id of its own, such as 64998")
	k.that(c.Proxy.PausePing >= Duration(time.Second), "proxy.pause_ping", "this is too often", "give something like 25s")
	for field, d := range map[string]Duration{"drain_notice": c.Proxy.DrainNotice, "drain_timeout": c.Proxy.DrainTimeout, "drain_spread": c.Proxy.DrainSpread, "upgrade_timeout": c.Proxy.UpgradeTimeout} {
		k.that(d >= 0 && d <= Duration(time.Hour), "proxy."+field, "this is no time to wait for", "give something like 10s, an hour at most")
	}
	k.oneOf(c.Log.Level, "log.level", "level", "debug", "info", "warn", "error")
	k.oneOf(c.Log.Format, "log.format", "format", "text", "json")
	k.oneOf(c.Log.Access, "log.access", "choice", "off", "errors", "all")
	k.oneOf(c.Log.AccessFormat, "log.access_format", "format", "log", "combined")
	c.validateOrigins(&k)
	c.validateMetrics(&k)
	c.validateListeners(&k)
	c.validateRedis(&k)
	c.validateSpawner(&k)
	c.validateImages(&k)
	c.validateDemo(&k)
	seen := map[string]bool{}
	for i, p := range c.OIDC.Providers {
		p.validate(&k, fmt.Sprintf("oidc.providers[%d].", i), seen)
	}
	c.validateProfiles(&k, m)
	c.validateTmp(&k, m)
	c.validateRuns(&k, m)
	for i, g := range c.CullGroups {
		at := fmt.Sprintf("cull_groups[%d].", i)
		k.that(g.Group != "", at+"group", "it is missing", "name the group, as the provider does")
		g.Cull.validate(&k, at+"cull.")
	}
	return k.faults
}

func (c *Config) validateOrigins(k *checks) {
	mode := hub.OriginMode(c.Origins)
	if _, err := c.HubOrigins(); err != nil {
		var e *hub.Error
		if errors.As(err, &e) {
			k.that(false, e.Field, e.Message, e.Remedy)
		}
	}
	k.that(c.NotebookHost == "" || mode != hub.OneOrigin, "notebook_host", "with origins: one-origin the notebooks are on the hub's host", "leave it out, or use origins: paths")
	k.that(!c.AdminAccess || mode == hub.Subdomains, "admin_access", "on an origin that notebooks share, a notebook would act as the administrator who opens it", "leave it out, or use origins: subdomains")
	k.that((c.TLS.CertFile == "") == (c.TLS.KeyFile == ""), "tls", "a certificate needs its key, and the other way round", "set both cert_file and key_file")
	c.validateACME(k)
	k.that(!c.TLS.On() || !strings.HasPrefix(c.PublicURL, "http://"), "public_url", "with tls set, browsers come by HTTPS", "begin it with https://")
}

func (c *Config) validateACME(k *checks) {
	a := c.TLS.ACME
	if a.Directory == "" {
		return
	}
	u, err := url.Parse(a.Directory)
	k.that(err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil, "tls.acme.directory", "this is no address of an ACME server", "give its directory, such as https://acme-v02.api.letsencrypt.org/directory")
	k.that(a.Agree, "tls.acme.agree_to_terms", "the server gives nothing to whoever did not agree to its terms", "read them, and set this to true")
	k.that(c.TLS.CertFile == "", "tls.acme", "the certificate is in cert_file already", "keep one of both")
	k.that(a.Email == "" || strings.Contains(a.Email, "@") && !strings.ContainsAny(a.Email, " ,:<>"), "tls.acme.email", "this is no address of mail", "write admin@example.org")
	if u, err := url.Parse(c.PublicURL); err == nil {
		_, err := netip.ParseAddr(u.Hostname())
		k.that(err != nil, "tls.acme", "the hub has an IP address in place of a name", "give it a name in public_url")
	}
}

func (c *Config) validateListeners(k *checks) {
	k.that(len(c.Listen) > 0, "listen", "the proxy listens nowhere", "give an address such as 127.0.0.1:8000")
	addresses(k, "listen", c.Listen, nil)
	addresses(k, "listen_redirect", c.ListenRedirect, c.Listen)
	k.that(len(c.ListenRedirect) == 0 || strings.HasPrefix(c.PublicURL, "https://"), "listen_redirect", "it leads to HTTPS, which public_url is not", "begin public_url with https://, or leave this out")
	for i, a := range c.ProxyProtocol {
		known := slices.Contains(c.Listen, a) || slices.Contains(c.ListenRedirect, a)
		k.that(known, fmt.Sprintf("proxy_protocol[%d]", i), "nothing listens there", "write it as in listen or listen_redirect")
	}
	k.that(len(c.ProxyProtocol) == 0 || len(c.TrustedProxies) > 0, "proxy_protocol", "nobody is trusted to speak it", "name the proxies' network in trusted_proxies")
	for i, p := range c.TrustedProxies {
		prefix, err := netip.ParsePrefix(p)
		at := fmt.Sprintf("trusted_proxies[%d]", i)
		k.that(err == nil, at, "this is no network", "write 10.0.0.0/8 or 127.0.0.1/32")
		k.that(err != nil || prefix.Bits() > 0, at, "this trusts everybody", "name only the network of the proxies in front")
	}
}

// addresses checks a list of listeners beside those of others.
func addresses(k *checks, field string, list, others []string) {
	for i, a := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		_, port, err := net.SplitHostPort(a)
		n, perr := strconv.ParseUint(port, 10, 16)
		k.that(err == nil && perr == nil && n > 0, at, "this is no host:port", "write 127.0.0.1:8000 or :8000")
		k.that(!slices.Contains(list[:i], a) && !slices.Contains(others, a), at, "this address is given twice", "keep one of them")
	}
}

func (c *Config) validateRedis(k *checks) {
	if c.Redis.URL != "" {
		const remedy = "give redis://[user:password@]host:6379/0, rediss://…, unix:///path, or redis+sentinel://[user:password@]host:26379,host:26379/0?master=name"
		scheme, rest, ok := strings.Cut(c.Redis.URL, "://")
		known := slices.Contains([]string{"redis", "rediss", "unix", "redis+sentinel"}, scheme)
		k.that(ok && known && rest != "", "redis.url", "this is no address of a Redis", remedy)
		k.that(scheme != "redis+sentinel" || strings.Contains(rest, "master="), "redis.url", "the name of the master is missing", remedy)
	}
	k.that(c.Redis.Prefix == "" || prefixForm.MatchString(c.Redis.Prefix), "redis.prefix", "this is no prefix of keys", "use at most 100 of letters, digits and : _ . / -")
}

func (c *Config) validateSpawner(k *checks) {
	s := c.Spawner
	k.oneOf(s.Driver, "spawner.driver", "driver", "docker")
	k.that(s.StartTimeout > 0, "spawner.start_timeout", "no server starts in no time", "give something like 2m")
	k.that(s.SweepMaxPercent <= 100, "spawner.sweep_max_percent", "a share is at most 100", "give 0 to 100")
	k.that(s.ReconcileEvery >= Duration(time.Second), "spawner.reconcile_every", "this is too often", "give something like 30s")
	k.oneOf(s.Docker.HomeKind, "spawner.docker.home_kind", "kind of home", "auto", "loop", "volume", "bind")
	s.Docker.validateHomePath(k, c.StateDir)
	pool, err := netip.ParsePrefix(s.Docker.Subnets)
	k.that(err == nil && pool.Addr().Is4() && pool.Bits() <= 21, "spawner.docker.subnets", "this is no IPv4 network with room for two of /22", "give a private one that nothing else uses, such as 10.201.0.0/16")
	for i, a := range s.Docker.DNS {
		_, err := netip.ParseAddrPort(a)
		k.that(err == nil, fmt.Sprintf("spawner.docker.dns[%d]", i), "this is no address of a resolver", "write 192.0.2.53:53")
	}
}

// validateHomePath keeps people's directories to one that is nothing else's.
func (d Docker) validateHomePath(k *checks, stateDir string) {
	const at = "spawner.docker.home_path"
	if d.HomeKind != "bind" {
		k.that(d.HomePath == "", at, "homes of this home_kind are not there", "set home_kind: bind, or leave this out")
		return
	}
	p, err := hub.ParseHomePath(d.HomePath)
	if message, remedy := hub.Public(err); err != nil {
		k.that(false, at, message, remedy)
		return
	}
	k.that(!private(p.Base(), stateDir), at, "this would give the whole machine away", "give a directory that holds homes only, as /srv/homes/{user}")
}

// validateDemo keeps the demo provider to this machine: its people's names are known to everyone.
func (c *Config) validateDemo(k *checks) {
	seen := map[hub.UserName]bool{}
	for i, n := range c.Demo.People {
		at := fmt.Sprintf("demo.people[%d]", i)
		name, err := hub.ParseUserName(n)
		k.that(err == nil, at, "this is no user name", "use a-z, 0-9 and - . _ @ +")
		k.that(err != nil || !seen[name], at, "two people have this name", "give each their own")
		seen[name] = true
	}
	if len(c.OIDC.Providers) > 0 {
		return
	}
	const why, remedy = "the demo provider serves this machine only", "name a provider in oidc.providers, or use localhost"
	k.that(len(c.Demo.People) > 0, "demo.people", "nobody could sign in", "name somebody, or a provider in oidc.providers")
	if u, err := url.Parse(c.PublicURL); err == nil && u.Host != "" {
		k.that(loopback(u.Hostname()), "public_url", why, remedy)
	}
	for field, list := range map[string][]string{"listen": c.Listen, "listen_redirect": c.ListenRedirect} {
		for i, a := range list {
			if host, _, err := net.SplitHostPort(a); err == nil {
				k.that(loopback(host), fmt.Sprintf("%s[%d]", field, i), why, "name a provider in oidc.providers, or listen on 127.0.0.1")
			}
		}
	}
}

// loopback tells whether a host is this machine for whoever names it.
func loopback(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsLoopback()
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

func (p Provider) validate(k *checks, at string, seen map[string]bool) {
	k.that(nameForm.MatchString(p.Name) && len(p.Name) <= maxName, at+"name", "this is no name of a provider", "use at most 32 of a-z, 0-9 and single hyphens")
	k.that(!seen[p.Name], at+"name", "two providers have this name", "give each its own")
	seen[p.Name] = true
	u, err := url.Parse(p.Issuer)
	ok := err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == ""
	k.that(ok, at+"issuer", "this is no address", "give the issuer exactly as the provider writes it, as https://login.example.org")
	k.that(!ok || u.Scheme == "https" || loopback(u.Hostname()), at+"issuer", "secrets and tokens would travel unencrypted", "use https:// (OpenID Connect asks for it)")
	k.that(p.ClientID != "", at+"client_id", "it is missing", "register Carrel at the provider with the redirect address <public_url>hub/oidc/"+p.Name+"/callback")
	k.that(len(p.Scopes) == 0 || slices.Contains(p.Scopes, "openid"), at+"scopes", "the scope openid is missing", "add it, or leave the field out")
	allowed := p.Everyone || len(p.AllowedUsers)+len(p.AllowedGroups)+len(p.AllowedDomains)+len(p.AdminUsers)+len(p.AdminGroups) > 0
	k.that(allowed, at+"everyone", "nobody may sign in with this provider", "set everyone: true, or allowed_users, allowed_groups or allowed_email_domains")
	people(k, at+"allowed_users", p.AllowedUsers)
	people(k, at+"admin_users", p.AdminUsers)
	for i, d := range p.AllowedDomains {
		d = strings.TrimPrefix(d, "@")
		k.that(d != "" && !strings.ContainsAny(d, "@ *"), fmt.Sprintf("%sallowed_email_domains[%d]", at, i), "this is no mail domain", "give whole domains, such as example.org")
	}
}

// people checks a list of user names.
func people(k *checks, field string, names []string) {
	for i, n := range names {
		_, err := hub.ParseUserName(n)
		k.that(err == nil, fmt.Sprintf("%s[%d]", field, i), "this is no user name", "use a-z, 0-9 and - . _ @ +")
	}
}
