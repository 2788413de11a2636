package config

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"carrel/hub"
)

// Tmp is about notebooks for visitors, who have no account.
type Tmp struct {
	Enabled    bool     `yaml:"enabled" reload:"live" doc:"Whether visitors get a notebook at <public_url>hub/tmp, by one click and without an account. Everything of theirs is removed when they leave."`
	Title      string   `yaml:"title" reload:"live" doc:"Heading of that page."`
	Text       string   `yaml:"text" reload:"live" doc:"What the page says, as plain text; an empty line begins a paragraph."`
	Image      string   `yaml:"image" reload:"live" doc:"Picture on the page: a file, .png, .jpg or .webp, of 2MiB at most."`
	Terms      string   `yaml:"terms" reload:"live" doc:"What visitors agree to by their click, as plain text."`
	Files      string   `yaml:"files" reload:"live" doc:"Directory in the server that links name notebooks of (hub/tmp?path=…): of the image, or a mount of the profile. The notebook's folder is copied into the visitor's home. Carrel's kernel image only; empty: links name files that the home has already."`
	Profile    string   `yaml:"profile" reload:"live" doc:"Profile of their notebooks, which nobody else may use then; with home_kind tmpfs, or home none. Empty: one core, 512MiB, a home of 100MiB in memory, no network."`
	Max        int      `yaml:"max" reload:"live" doc:"Visitors with a notebook at once; the rest wait in line."`
	Line       int      `yaml:"line" reload:"live" doc:"Visitors in line at once; beyond it they are asked to come later."`
	Reserve    Size     `yaml:"reserve" reload:"live" doc:"Memory of the machine that is kept for people with accounts: visitors' notebooks together take no more than the rest."`
	Idle       Duration `yaml:"idle" reload:"live" doc:"A notebook unused for so long ends; 0: never. A kernel that computes counts as use."`
	Age        Duration `yaml:"age" reload:"live" doc:"A notebook ends so long after it began."`
	Extend     Duration `yaml:"extend" reload:"live" doc:"How much longer a press of \"more time\" keeps it."`
	Extensions int      `yaml:"extensions" reload:"live" doc:"How often it can be pressed; 0: never."`
	Grace      Duration `yaml:"leave_grace" reload:"live" doc:"How long after its last page was closed a notebook ends; until then a reload finds it. Pages that nobody looks at say once a minute that they are there."`
	AtOnce     int      `yaml:"per_address" reload:"live" doc:"Notebooks of one address at once (IPv4 /32, IPv6 /64; four times as many of a /56, sixteen of a /48); 0: no limit."`
	Arrivals   int      `yaml:"arrivals_per_address" reload:"live" doc:"Notebooks that one address may open within arrivals_window, counted likewise; 0: no limit."`
	ArrivalsIn Duration `yaml:"arrivals_window" reload:"live" doc:"The time that arrivals_per_address is for."`
	Exempt     []string `yaml:"exempt_networks" reload:"live" doc:"Networks that per_address and arrivals_per_address are not for, such as a classroom's."`
	CORS       []string `yaml:"cors_origins" doc:"Origins of other sites whose pages may open a notebook with POST hub/api/tmp and use it, such as a journal's; each exactly as a browser writes it."`
	Captcha    Captcha  `yaml:"captcha" doc:"What is asked for beside the click."`
	Siblings   []string `yaml:"siblings" doc:"Public addresses of other deployments with notebooks for visitors, each with a slash at the end: when all are taken here, visitors are sent to the one with most room. Each may name the others."`
	Bans       []Ban    `yaml:"bans" reload:"live" doc:"Networks whose visitors are not let in."`
}

// Ban is a network that is shut out.
type Ban struct {
	Network string `yaml:"network" doc:"The network, as 198.51.100.0/24 or 2001:db8::/32."`
	Until   string `yaml:"until" doc:"When it ends, as 2026-12-31T18:00:00Z; empty: never."`
}

// visitorProfile is the one that stands in where tmp.profile names none.
const visitorProfile = "visitor"

func defaultTmp() Tmp {
	return Tmp{
		Title: "A notebook, now", Text: "Try out code in a notebook of your own. There is nothing to install and no account to make.",
		Max: 10, Line: 100, Idle: Duration(10 * time.Minute), Age: Duration(time.Hour), Extend: Duration(30 * time.Minute), Extensions: 2, Grace: Duration(150 * time.Second), AtOnce: 4, Arrivals: 30, ArrivalsIn: Duration(time.Hour),
		Captcha: Captcha{Bits: 17, Exempt: true},
	}
}

// resolveTmp adds what visitors need to the policy.
func (c *Config) resolveTmp(p *hub.Policy, kernelImage string) {
	t := c.Tmp
	at := slices.IndexFunc(p.Profiles, func(x hub.Profile) bool { return x.Name == t.Profile })
	if at < 0 {
		if !t.Enabled {
			p.Visits.Captcha = t.Captcha.policy() // it is the start's, also where a reload lets visitors in
			return
		}
		builtin := profile(visitorProfile, "Visitor", "For people without an account.", 1, 512<<20, 100<<20, false)
		builtin.HomeKind, builtin.Network, builtin.Tmp, builtin.PIDs = string(hub.HomeTmpfs), string(hub.NetworkNone), 64<<20, 128
		p.Profiles = append(p.Profiles, builtin.resolve(kernelImage))
		at = len(p.Profiles) - 1
	}
	x := &p.Profiles[at]
	x.Visitors, x.Default = true, false
	if t.Files != "" {
		x.Env = maps.Clone(x.Env)
		if x.Env == nil {
			x.Env = map[string]string{}
		}
		x.Env["CARREL_FILES"] = t.Files
	}
	idle, warning := time.Duration(t.Idle), min(time.Duration(t.Idle)/3, 2*time.Minute)
	x.Cull = hub.CullRule{Idle: idle, Warning: warning, BusyMax: time.Duration(t.Age), Extend: idle}
	p.Visits = hub.VisitPolicy{
		Enabled: t.Enabled, Profile: x.Name, Max: t.Max, Line: t.Line, Age: time.Duration(t.Age), Extend: time.Duration(t.Extend), Extensions: t.Extensions, Grace: time.Duration(t.Grace),
		AtOnce: t.AtOnce, Arrivals: t.Arrivals, ArrivalsIn: time.Duration(t.ArrivalsIn),
		Page:    hub.VisitPage{Title: t.Title, Text: t.Text, Image: t.Image, Terms: t.Terms},
		Copied:  t.Files != "",
		Captcha: t.Captcha.policy(),
	}
	if p.MachineMemory > 0 && x.Limits.Memory > 0 {
		p.Visits.Max = min(t.Max, int(max(0, p.MachineMemory-int64(t.Reserve))/x.Limits.Memory))
	}
	if x.Max > 0 {
		p.Visits.Max = min(p.Visits.Max, x.Max)
	}
	for _, n := range t.Exempt {
		if prefix, err := netip.ParsePrefix(n); err == nil {
			p.Visits.Exempt = append(p.Visits.Exempt, prefix.Masked())
		}
	}
	for _, b := range t.Bans {
		if prefix, err := netip.ParsePrefix(b.Network); err == nil {
			until, _ := time.Parse(time.RFC3339, b.Until) // it was checked; empty is for ever
			p.Visits.Bans = append(p.Visits.Bans, hub.Ban{Network: prefix.Masked(), Until: until})
		}
	}
}

func (c *Config) validateTmp(k *checks, m Machine) {
	t := c.Tmp
	for field, n := range map[string]int{"max": t.Max, "line": t.Line, "extensions": t.Extensions, "per_address": t.AtOnce, "arrivals_per_address": t.Arrivals} {
		k.that(n >= 0 && n <= 100000, "tmp."+field, "out of range", "give 0 to 100000")
	}
	k.that(t.Age >= Duration(time.Minute) && t.Age <= Duration(24*time.Hour), "tmp.age", "out of range", "give 1m to 24h")
	k.that(time.Duration(t.Extensions)*time.Duration(t.Extend) <= 7*24*time.Hour, "tmp.extend", "with all extensions a visit would last over a week", "give less")
	k.that(t.ArrivalsIn > 0, "tmp.arrivals_window", "it must last", "give something like 1h")
	c.validateTmpNetworks(k)
	c.validateSiblings(k)
	c.validateCaptcha(k)
	k.that(t.Files == "" || plainPath(t.Files) && t.Files != "/", "tmp.files", "this is no directory", "give the whole path, such as /srv/notebooks")
	image := strings.ToLower(filepath.Ext(t.Image))
	k.that(t.Image == "" || plainPath(t.Image) && slices.Contains([]string{".png", ".jpg", ".jpeg", ".webp"}, image), "tmp.image", "this is no picture", "give the whole path of a file that ends in .png, .jpg or .webp")
	if t.Enabled {
		c.validateOpenTmp(k, m)
	}
}

// validateTmpNetworks checks who is let in, and from where.
func (c *Config) validateTmpNetworks(k *checks) {
	t := c.Tmp
	for i, n := range t.Exempt {
		_, err := netip.ParsePrefix(n)
		k.that(err == nil, fmt.Sprintf("tmp.exempt_networks[%d]", i), "this is no network", "write 10.0.0.0/8")
	}
	for i, o := range t.CORS {
		u, err := url.Parse(o)
		plain := err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.Scheme+"://"+strings.ToLower(u.Host) == o
		k.that(plain, fmt.Sprintf("tmp.cors_origins[%d]", i), "this is no origin", "write https://journal.example.org, without a path and in small letters")
	}
	for i, b := range t.Bans {
		at := fmt.Sprintf("tmp.bans[%d].", i)
		_, err := netip.ParsePrefix(b.Network)
		k.that(err == nil, at+"network", "this is no network", "write 198.51.100.0/24 or 2001:db8::/32")
		_, err = time.Parse(time.RFC3339, b.Until)
		k.that(b.Until == "" || err == nil, at+"until", "this is no time", "write 2026-12-31T18:00:00Z, or leave it out")
	}
}

func (c *Config) validateSiblings(k *checks) {
	for i, s := range c.Tmp.Siblings {
		u, err := url.Parse(s)
		plain := err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == "" && strings.HasSuffix(u.Path, "/") && u.String() == s
		k.that(plain, fmt.Sprintf("tmp.siblings[%d]", i), "this is no public address", "write https://two.example.org/, with a slash at the end")
		k.that(s != c.PublicURL, fmt.Sprintf("tmp.siblings[%d]", i), "this is this deployment's own address", "name the others only")
	}
}

// validateOpenTmp checks what counts where visitors are let in.
func (c *Config) validateOpenTmp(k *checks, m Machine) {
	mode := hub.OriginMode(c.Origins)
	k.that(mode != hub.OneOrigin, "tmp.enabled", "with origins: one-origin a visitor's notebook could act on the hub as whoever opens it", "use origins: subdomains or paths")
	k.that(mode != hub.Subdomains || c.TLS.ACME.Directory == "", "tmp.enabled", "each visitor has a host name of their own, and an ACME server gives no certificate for each of them", "use a certificate for all names (tls.cert_file, for *.example.org), or origins: paths")
	memory := Size(512 << 20)
	if at := slices.IndexFunc(c.Profiles, func(p Profile) bool { return p.Name == c.Tmp.Profile }); at >= 0 {
		p := c.Profiles[at]
		memory = p.Memory
		k.that(p.HomeKind == string(hub.HomeTmpfs) || p.Home == "none", "tmp.profile", "visitors' files must go with them, and this profile's homes are kept", "give the profile home_kind: tmpfs")
		k.that(!slices.ContainsFunc(p.Mounts, func(m Mount) bool { return m.Writable }), "tmp.profile", "one visitor could leave something for the next in a writable mount", "make the profile's mounts read-only")
		k.that(len(p.Users)+len(p.Groups) == 0, "tmp.profile", "this profile is for some people, and visitors are nobody", "give them a profile of their own")
		k.that(len(c.Profiles) > 1, "tmp.profile", "there is no profile left for people with accounts", "give visitors one of their own")
	} else {
		k.that(c.Tmp.Profile == "", "tmp.profile", "there is no such profile", "name one of profiles, or leave it out")
		k.that(!slices.ContainsFunc(c.Profiles, func(p Profile) bool { return p.Name == visitorProfile }), "tmp.profile", "a profile is called visitor already", "name it here, or call it something else")
	}
	k.that(m.Memory == 0 || int64(c.Tmp.Reserve)+int64(memory) <= m.Memory, "tmp.reserve", "what is left of the machine's memory is not enough for one visitor", "give less")
}
