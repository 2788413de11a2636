// Package config is the one reader of Carrel's configuration: a YAML file, the environment over it,
// and defaults under it.
//
// It owns the file's form: every field with its default, its meaning (which `carrel config example`
// and docs/configuration.md are made of) and its checks, which list every fault with file, line,
// field and remedy. It refuses to act: it starts nothing, and hands resolved values to cmd/carrel,
// which alone imports it.
package config

import (
	"os"
	"path/filepath"
	"runtime"
	"time"

	"carrel/hub"
)

// Config is the whole of it. Tags: yaml names the field, doc says what it is for, reload "live"
// that a change counts without a restart, secret "yes" what is never shown and "url" an address that
// is shown without its password.
type Config struct {
	Deployment     string    `yaml:"deployment" doc:"Name of this deployment; part of the name of everything that it makes."`
	StateDir       string    `yaml:"state_dir" doc:"Where this host keeps the deployment's key, homes and private Redis. Reached by nobody else."`
	PublicURL      string    `yaml:"public_url" doc:"Address of the hub in people's browsers; may have a base path."`
	Listen         []string  `yaml:"listen" doc:"Addresses that the proxy listens on, as host:port."`
	ListenRedirect []string  `yaml:"listen_redirect" doc:"Addresses, as host:port, where plain HTTP is answered with the way to the same page by HTTPS; usually :80."`
	ProxyProtocol  []string  `yaml:"proxy_protocol" doc:"Those of listen and listen_redirect, as written there, whose connections begin with the PROXY protocol (v1 or v2). Only trusted_proxies may connect to them then."`
	Origins        string    `yaml:"origins" doc:"How notebooks are kept off the hub's origin: subdomains (alice.example.org), paths (a second port or host, see notebook_host), or one-origin (as JupyterHub; weaker)."`
	NotebookHost   string    `yaml:"notebook_host" doc:"Subdomains: the domain that people's hosts are under, with its port; empty: the hub's own host. Paths: the notebooks' host:port."`
	TrustedProxies []string  `yaml:"trusted_proxies" doc:"Networks of proxies in front, whose X-Forwarded-For counts."`
	AdminAccess    bool      `yaml:"admin_access" doc:"Whether administrators may open other people's servers (with subdomains only)."`
	TLS            TLS       `yaml:"tls" doc:"Certificate of the proxy's listeners; empty: plain HTTP, for loopback or behind a proxy that ends TLS."`
	HSTS           HSTS      `yaml:"hsts" doc:"Strict-Transport-Security (RFC 6797): browsers come by HTTPS alone once they have been here. Sent where public_url is https, and not for localhost."`
	Proxy          Proxy     `yaml:"proxy" doc:"The proxy process."`
	Redis          Redis     `yaml:"redis" doc:"The session store."`
	OIDC           OIDC      `yaml:"oidc" doc:"Sign-in through OpenID Connect. With no provider, a demo provider on loopback is used."`
	Demo           Demo      `yaml:"demo" doc:"The built-in demo provider."`
	Sessions       Sessions  `yaml:"sessions" doc:"How long people stay signed in."`
	Spawner        Spawner   `yaml:"spawner" doc:"How servers are started."`
	Image          Image     `yaml:"image" doc:"Carrel's own kernel image, used by profiles that name none."`
	Profiles       []Profile `yaml:"profiles" reload:"live" doc:"Kinds of server that people choose from. Left out: small (1 core, 1GiB, a home of 2GiB) and large (2 cores, 4GiB, 10GiB), or less where the machine has less."`
	CullGroups     []Group   `yaml:"cull_groups" reload:"live" doc:"Cull rules for members of groups, in place of their profile's; the first that fits counts."`
	Tmp            Tmp       `yaml:"tmp" doc:"Notebooks for visitors without an account."`
	Runs           Runs      `yaml:"runs" doc:"Running code for programs: code in, output out."`
	Metrics        Metrics   `yaml:"metrics" doc:"Metrics for Prometheus. The hub's are also at <public_url>hub/metrics, for administrators and tokens with the scope read:metrics."`
	Log            Log       `yaml:"log" doc:"The log, on standard error."`
}

// TLS is a certificate and its key.
type TLS struct {
	CertFile string `yaml:"cert_file" doc:"PEM file with the certificate and its chain."`
	KeyFile  string `yaml:"key_file" doc:"PEM file with its key."`
	ACME     ACME   `yaml:"acme" doc:"Certificates from an ACME server such as Let's Encrypt, in place of files: of the hub's name, and with subdomains of each person's at its first use. Port 443 of every name must lead here, or port 80 to listen_redirect."`
}

// ACME is about the server that gives certificates.
type ACME struct {
	Directory string `yaml:"directory" doc:"The server's directory, such as https://acme-v02.api.letsencrypt.org/directory; empty: none is asked."`
	Agree     bool   `yaml:"agree_to_terms" doc:"Whether you agree to that server's terms of service."`
	Email     string `yaml:"email" doc:"Where that server's operator can reach you."`
	CAFile    string `yaml:"ca_file" doc:"PEM file of the CA that signed the server's own certificate; empty: the system's CAs."`
}

// On tells whether the proxy speaks TLS itself.
func (t TLS) On() bool { return t.CertFile != "" || t.ACME.Directory != "" }

// HSTS is about Strict-Transport-Security.
type HSTS struct {
	MaxAge     Duration `yaml:"max_age" doc:"How long browsers keep to it; 0: they are told nothing."`
	Subdomains bool     `yaml:"include_subdomains" doc:"Whether it counts for every host below the hub's too, also those that are not Carrel's."`
}

// Proxy is about the proxy process.
type Proxy struct {
	UID        int      `yaml:"uid" doc:"User and group id that the proxy runs as, when carrel runs as root."`
	RedisGrace Duration `yaml:"redis_grace" doc:"How long known sessions are honoured while Redis is away."`
	EventLoop  bool     `yaml:"event_loop" doc:"Carry websockets between plain sockets by an event loop, at two thirds of the CPU and a seventh of the memory for each; else two goroutines carry each. It is new: switch it off where you suspect it."`
	PausePing  Duration `yaml:"pause_ping" doc:"How often browsers with a websocket to a paused server are pinged, so that no load balancer cuts it."`

	DrainNotice    Duration `yaml:"drain_notice" doc:"When the proxy stops, how long it says at /carrel-health that it is not ready before it accepts no more: for load balancers in front."`
	DrainTimeout   Duration `yaml:"drain_timeout" doc:"How long requests under way may take then."`
	DrainSpread    Duration `yaml:"drain_spread" doc:"Over how long open websockets are told meanwhile, so that their tabs do not all come back at once."`
	UpgradeTimeout Duration `yaml:"upgrade_timeout" doc:"How long requests under way may take when another process has taken over (SIGUSR2)."`
}

// Redis is about the session store.
type Redis struct {
	URL     string `yaml:"url" doc:"redis://, rediss:// (TLS), unix:// or redis+sentinel://host:26379,host:26379/0?master=name; empty: a private redis-server that carrel starts." secret:"url"`
	URLFile string `yaml:"url_file" doc:"File that holds the address, where it has a password in it."`
	CAFile  string `yaml:"ca_file" doc:"PEM file of the CA that signed Redis's certificate."`
	Prefix  string `yaml:"prefix" doc:"Prefix of every key; empty: carrel:<deployment>:"`
}

// OIDC lists the providers.
type OIDC struct {
	Providers []Provider `yaml:"providers" doc:"The providers that people choose from."`
}

// Provider is one OpenID Provider.
type Provider struct {
	Name             string   `yaml:"name" doc:"Name in addresses: a-z, 0-9 and hyphens."`
	Title            string   `yaml:"title" doc:"Name for people."`
	Issuer           string   `yaml:"issuer" doc:"Issuer address, exactly as in the provider's tokens."`
	ClientID         string   `yaml:"client_id" doc:"Our id there. The redirect address to register is <public_url>hub/oidc/<name>/callback."`
	ClientSecret     string   `yaml:"client_secret" doc:"Our secret there." secret:"yes"`
	ClientSecretFile string   `yaml:"client_secret_file" doc:"File that holds the secret."`
	Scopes           []string `yaml:"scopes" doc:"Scopes to ask for; empty: openid profile email, and groups and offline_access where offered."`
	UsernameClaim    string   `yaml:"username_claim" doc:"Claim that names the person; email counts only when verified. Empty: preferred_username."`
	GroupsClaim      string   `yaml:"groups_claim" doc:"Claim that lists the person's groups, a.b for b within a. Empty: groups; \"-\": the provider tells none."`
	Everyone         bool     `yaml:"everyone" doc:"Whether everyone with an account there may sign in."`
	AllowedUsers     []string `yaml:"allowed_users" doc:"User names that may sign in."`
	AllowedGroups    []string `yaml:"allowed_groups" doc:"Groups whose members may sign in."`
	AllowedDomains   []string `yaml:"allowed_email_domains" doc:"Domains of verified e-mail addresses that may sign in."`
	AdminUsers       []string `yaml:"admin_users" doc:"User names of administrators."`
	AdminGroups      []string `yaml:"admin_groups" doc:"Groups whose members are administrators."`
	RefreshEvery     Duration `yaml:"refresh_every" doc:"How often groups are asked for again; 0: at sign-in only."`
	FrontChannel     bool     `yaml:"front_channel_logout" doc:"Accept front-channel logout, for providers without a back channel."`
	CAFile           string   `yaml:"ca_file" doc:"PEM file with CAs trusted for this provider."`
}

// Demo is about the built-in provider.
type Demo struct {
	People []string `yaml:"people" doc:"Names of demo people; the first administers. Passwords are made at the first start, in <state_dir>/demo-users.json."`
}

// Sessions is about their lives.
type Sessions struct {
	Lifetime Duration `yaml:"lifetime" doc:"A session ends this long after sign-in."`
	Idle     Duration `yaml:"idle" doc:"A session unused for so long ends; 0: never."`
}

// Spawner is about starting servers.
type Spawner struct {
	Driver          string   `yaml:"driver" doc:"Which driver starts servers: docker."`
	ConcurrentMax   int      `yaml:"concurrent_starts" reload:"live" doc:"Starts at work at once; the rest wait in line. 0: twice the number of CPUs."`
	StartTimeout    Duration `yaml:"start_timeout" reload:"live" doc:"How long a started server may take to answer."`
	StopGrace       Duration `yaml:"stop_grace" reload:"live" doc:"How long a server may take to end before it is killed."`
	MaxPerUser      int      `yaml:"max_per_user" reload:"live" doc:"Servers that one person may run at once; 0: no limit."`
	KernelCheck     bool     `yaml:"kernel_check" reload:"live" doc:"Have a kernel compute once at each start, and show it in the progress."`
	SweepAfter      Duration `yaml:"sweep_after" reload:"live" doc:"How long a container that should be gone is left alone before it is removed."`
	SweepMaxPercent int      `yaml:"sweep_max_percent" reload:"live" doc:"A sweep of more than this share of all servers is refused: the wrong Redis is likelier."`
	ReconcileEvery  Duration `yaml:"reconcile_every" reload:"live" doc:"How often records are compared with what runs."`
	Docker          Docker   `yaml:"docker" doc:"The driver docker."`
}

// Docker is about the driver docker.
type Docker struct {
	Host       string   `yaml:"host" doc:"Docker's address; empty: DOCKER_HOST or the default socket."`
	HomeKind   string   `yaml:"home_kind" doc:"Homes as loop (an ext4 image each, with hard caps on bytes and files), volume (a Docker volume, no caps), bind (a directory of yours each, such as of an NFS mount, no caps) or auto (loop where carrel runs as root)."`
	HomePath   string   `yaml:"home_path" doc:"With home_kind bind: where homes are, such as /srv/homes/{user}; {user} is the person's name, {id} an id that is never another's."`
	Subnets    string   `yaml:"subnets" doc:"IPv4 pool for the notebooks' networks; each takes a /22."`
	DNS        []string `yaml:"dns" doc:"Resolvers that notebooks' lookups are forwarded to, as host:port; empty: the host's."`
	Quarantine Duration `yaml:"address_quarantine" doc:"How long a container's address stays unused after it."`
}

// Image is about the kernel image.
type Image struct {
	Name        string `yaml:"name" doc:"Image to use in place of the one that carrel builds."`
	Base        string `yaml:"base" doc:"Base image to build on; empty: one from a registry where one answers, else made with mmdebstrap."`
	ExtraCAFile string `yaml:"extra_ca_file" doc:"PEM file with CAs that builds trust, for sites behind a proxy that ends TLS. It does not stay in the image."`
}

// Profile is one kind of server.
type Profile struct {
	Name        string            `yaml:"name" doc:"Its name: a-z, 0-9 and hyphens."`
	Title       string            `yaml:"title" doc:"Its name for people."`
	Description string            `yaml:"description" doc:"What it is for, in a sentence."`
	Default     bool              `yaml:"default" doc:"Whether it is chosen unless another is."`
	Image       string            `yaml:"image" doc:"Image; empty: Carrel's kernel image."`
	Command     []string          `yaml:"command" doc:"Command in place of the image's; it must listen on port 8888 below CARREL_BASE_URL."`
	CPU         float64           `yaml:"cpu" doc:"Cores; 0.5 is half of one."`
	Memory      Size              `yaml:"memory" doc:"Memory; swap is off."`
	Disk        Size              `yaml:"disk" doc:"Size of the home; a larger one grows it at the next start, a smaller one leaves it."`
	Inodes      int               `yaml:"inodes" doc:"Files in the home; 0: one for each 16 KiB."`
	Shm         Size              `yaml:"shm" doc:"Size of /dev/shm."`
	Tmp         Size              `yaml:"tmp" doc:"Size of /tmp and of each other writable place outside the home; it counts as memory."`
	PIDs        int               `yaml:"pids" doc:"Processes and threads."`
	Files       int               `yaml:"files" doc:"Open files a process."`
	Network     string            `yaml:"network" doc:"none, or open: the outside, but no private, metadata or host address."`
	Env         map[string]string `yaml:"env" doc:"More environment variables."`
	Mounts      []Mount           `yaml:"mounts" doc:"Host paths made visible, such as shared data."`
	UID         int               `yaml:"uid" doc:"User id in the container."`
	GID         int               `yaml:"gid" doc:"Group id in the container."`
	Home        string            `yaml:"home" doc:"Where the home is mounted; \"none\": no home, files are lost at the stop."`
	HomeKind    string            `yaml:"home_kind" doc:"tmpfs: a home in memory, of the size of disk, empty at each start and gone at the stop; empty: kept, as spawner.docker.home_kind says."`
	Users       []string          `yaml:"users" doc:"User names that may use it; with groups empty too: everyone."`
	Groups      []string          `yaml:"groups" doc:"Groups whose members may use it."`
	DefaultURL  string            `yaml:"default_url" doc:"Page that opens."`
	Max         int               `yaml:"max" doc:"Servers of it at once, those kept ready included; 0: no limit."`
	Spare       int               `yaml:"spare" doc:"Servers kept started and nobody's, so that whoever wants one next has it at once; each takes some 100 MiB. Carrel's kernel image, as root, only."`
	SpareMax    int               `yaml:"spare_max" doc:"Keep ready as many as people started in the last two minutes, but no more than this; 0: spare alone counts."`
	SpareAt     []SpareAt         `yaml:"spare_at" doc:"More to keep ready at given times, such as before a class."`
	Cull        Cull              `yaml:"cull" doc:"When a server of this profile ends by itself."`
}

// SpareAt is a time with servers kept ready for it.
type SpareAt struct {
	Spare    int      `yaml:"spare" doc:"Servers kept ready then."`
	Days     []string `yaml:"days" doc:"Days of the week, mon to sun; empty: every day."`
	From     string   `yaml:"from" doc:"When it begins, such as \"09:45\"."`
	Until    string   `yaml:"until" doc:"When it ends; not after from: on the next day."`
	TimeZone string   `yaml:"time_zone" doc:"Whose clock that is, by its IANA name, such as Europe/Berlin."`
}

// Mount is a host path.
type Mount struct {
	Source   string `yaml:"source" doc:"Path on the host."`
	Target   string `yaml:"target" doc:"Path in the server."`
	Writable bool   `yaml:"writable" doc:"Whether servers may write there."`
}

// Cull is a rule.
type Cull struct {
	Pause   Duration `yaml:"pause_after" doc:"Unused for so long, it is paused: frozen, without CPU, until the next use wakes it; 0: never. A kernel that computes counts as use."`
	Idle    Duration `yaml:"idle" doc:"Unused for so long; 0: never. A kernel that computes counts as use, an open tab does not."`
	MaxAge  Duration `yaml:"max_age" doc:"So long after its start, used or not; 0: never."`
	Warning Duration `yaml:"warning" doc:"The owner is warned so long before."`
	BusyMax Duration `yaml:"busy_max" doc:"A computing kernel keeps its server no longer than this after its owner last used it; 0: for ever."`
	Extend  Duration `yaml:"extend" doc:"What one press of \"keep my server\" gives; 0: it can't be kept."`
}

// Group is a rule for a group's members.
type Group struct {
	Group string `yaml:"group" doc:"The group."`
	Cull  Cull   `yaml:"cull" doc:"The rule."`
}

// Log is about the log.
type Log struct {
	Level  string `yaml:"level" doc:"debug, info, warn or error."`
	Format string `yaml:"format" doc:"text or json."`
	Access string `yaml:"access" doc:"Requests that the proxy logs: off, errors (refused or failed) or all (but for open tabs' own polls, where they succeed)."`

	AccessFormat string `yaml:"access_format" doc:"log: events in the log's format; combined: lines as Apache's and nginx's, on standard output."`
}

// defaultProxyUID is a uid of the proxy's own.
const defaultProxyUID = 64998

// Default is the configuration of an empty file.
func Default() *Config {
	return &Config{
		Deployment: "carrel", StateDir: defaultStateDir(), PublicURL: "http://localhost:8000/", Listen: []string{"127.0.0.1:8000"},
		Origins: string(hub.Subdomains), HSTS: HSTS{MaxAge: Duration(180 * 24 * time.Hour)},
		Proxy: Proxy{
			UID: defaultProxyUID, RedisGrace: Duration(5 * time.Minute), EventLoop: true, PausePing: Duration(25 * time.Second),
			DrainTimeout: Duration(8 * time.Second), DrainSpread: Duration(3 * time.Second), UpgradeTimeout: Duration(10 * time.Minute),
		},
		Demo:     Demo{People: []string{"admin", "alice", "bob"}},
		Sessions: Sessions{Lifetime: Duration(14 * 24 * time.Hour), Idle: Duration(24 * time.Hour)},
		Spawner: Spawner{
			Driver: "docker", StartTimeout: Duration(2 * time.Minute), StopGrace: Duration(10 * time.Second), MaxPerUser: 3, KernelCheck: true,
			SweepAfter: Duration(time.Minute), SweepMaxPercent: 10, ReconcileEvery: Duration(30 * time.Second),
			Docker: Docker{HomeKind: "auto", Subnets: "10.201.0.0/16", Quarantine: Duration(10 * time.Minute)},
		},
		Profiles: defaultProfiles(),
		Tmp:      defaultTmp(),
		Runs:     defaultRuns(),
		Log:      Log{Level: "info", Format: "text", Access: "errors", AccessFormat: "log"},
	}
}

// defaultProfiles are two, of which the first has servers kept ready, where that can be.
func defaultProfiles() []Profile {
	small := profile("small", "Small", "For reading, teaching and light work.", 1, 1<<30, 2<<30, true)
	if os.Geteuid() == 0 {
		small.Spare = 2
	}
	return []Profile{small, profile("large", "Large", "For heavier computing.", 2, 4<<30, 10<<30, false)}
}

// profile is a profile with the defaults of every field that a file leaves out.
func profile(name, title, description string, cpu float64, memory, disk Size, isDefault bool) Profile {
	return Profile{
		Name: name, Title: title, Description: description, Default: isDefault, CPU: cpu, Memory: memory, Disk: disk,
		Shm: 64 << 20, Tmp: 256 << 20, PIDs: 256, Files: 4096, Network: string(hub.NetworkOpen), UID: 1000, GID: 1000,
		Home: "/home/jovyan", DefaultURL: "/lab",
		Cull: defaultCull(),
	}
}

func defaultCull() Cull {
	return Cull{Idle: Duration(2 * time.Hour), Warning: Duration(10 * time.Minute), BusyMax: Duration(48 * time.Hour), Extend: Duration(2 * time.Hour)}
}

func defaultStateDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/carrel"
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "share", "carrel")
	}
	return "/var/lib/carrel"
}

// RunDir is where the deployment's sockets are.
func (c *Config) RunDir() string { return filepath.Join(c.StateDir, "run") }

// HubOrigins resolves where everything is.
func (c *Config) HubOrigins() (hub.Origins, error) {
	return hub.NewOrigins(hub.OriginMode(c.Origins), c.PublicURL, c.NotebookHost)
}

// KeyPrefix is the prefix of every key in Redis.
func (c *Config) KeyPrefix() string {
	if c.Redis.Prefix != "" {
		return c.Redis.Prefix
	}
	return "carrel:" + c.Deployment + ":"
}

// Policy resolves what the operator decided. kernelImage stands in for profiles without an image,
// memory is the machine's, in bytes.
func (c *Config) Policy(kernelImage string, memory int64) hub.Policy {
	p := hub.Policy{
		AdminAccess: c.AdminAccess, MaxPerUser: c.Spawner.MaxPerUser, ConcurrentMax: c.Spawner.ConcurrentMax,
		StartTimeout: time.Duration(c.Spawner.StartTimeout), StopGrace: time.Duration(c.Spawner.StopGrace), MachineMemory: memory,
		KernelCheck: c.Spawner.KernelCheck, RedisGrace: time.Duration(c.Proxy.RedisGrace), SweepAfter: time.Duration(c.Spawner.SweepAfter),
		SweepMaxShare: float64(c.Spawner.SweepMaxPercent) / 100, ReconcileEvery: time.Duration(c.Spawner.ReconcileEvery),
	}
	if p.ConcurrentMax <= 0 {
		p.ConcurrentMax = 2 * runtime.NumCPU()
	}
	for _, pr := range c.Profiles {
		p.Profiles = append(p.Profiles, pr.resolve(kernelImage))
	}
	for _, g := range c.CullGroups {
		p.GroupCulls = append(p.GroupCulls, hub.GroupCull{Group: g.Group, Rule: g.Cull.rule()})
	}
	c.resolveTmp(&p, kernelImage)
	c.resolveRuns(&p, kernelImage)
	return p
}

func (p Profile) resolve(kernelImage string) hub.Profile {
	r := hub.Profile{
		Name: p.Name, Title: p.Title, Description: p.Description, Default: p.Default, Image: p.Image, Command: p.Command,
		Limits:  hub.Limits{CPUs: p.CPU, Memory: int64(p.Memory), Disk: int64(p.Disk), Inodes: int64(p.Inodes), Shm: int64(p.Shm), Tmp: int64(p.Tmp), PIDs: int64(p.PIDs), Files: int64(p.Files)},
		Network: hub.NetworkMode(p.Network), Env: p.Env, UID: p.UID, GID: p.GID, Home: p.Home, Users: p.Users, Groups: p.Groups, HomeKind: hub.HomeKind(p.HomeKind),
		Cull: p.Cull.rule(), DefaultURL: p.DefaultURL, Spare: p.spares(),
	}
	if r.Image == "" {
		r.Image = kernelImage
	}
	if r.Title == "" {
		r.Title = p.Name
	}
	if r.Home == "none" {
		r.Home = ""
	}
	for _, m := range p.Mounts {
		r.Mounts = append(r.Mounts, hub.Mount{Source: m.Source, Target: m.Target, Writable: m.Writable})
	}
	return r
}

func (c Cull) rule() hub.CullRule {
	return hub.CullRule{Pause: time.Duration(c.Pause), Idle: time.Duration(c.Idle), MaxAge: time.Duration(c.MaxAge), Warning: time.Duration(c.Warning), BusyMax: time.Duration(c.BusyMax), Extend: time.Duration(c.Extend)}
}
