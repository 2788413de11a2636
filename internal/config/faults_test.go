package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// faultCase is what is written, and the fault that it must give: line, field, message and remedy.
type faultCase struct{ name, text, want string }

// TestEveryFaultIsToldWithItsPlace has one case for each check.
func TestEveryFaultIsToldWithItsPlace(t *testing.T) {
	for _, list := range [][]faultCase{formFaults(), deploymentFaults(), redisFaults(), providerFaults(), spawnerFaults(), tmpFaults(), runFaults(), limitFaults(), profileFaults()} {
		if strings.HasPrefix(list[0].want, "3: profiles[0].cpu") {
			t.Attr("seen-28", fmt.Sprintf("%d limits of a profile are faults with their place", len(list)))
		}
		for _, c := range list {
			t.Run(c.name, func(t *testing.T) {
				_, faults := load(t, c.text)
				if !has(faults, c.want) {
					t.Errorf("%q gives\n  %v\nwant\n  %s", c.text, faults, c.want)
				}
				for _, f := range faults {
					if f.File != "carrel.yaml" && f.File != "defaults" {
						t.Errorf("file %q", f.File)
					}
				}
			})
		}
	}
}

// onProfile is a profile with more fields.
func onProfile(fields string) string { return "profiles:\n  - name: a\n" + fields }

// onSpareAt is a time that has nothing wrong but a field on its last line.
func onSpareAt(field string) string {
	name, _, _ := strings.Cut(field, ":")
	all := []string{"spare: 40", "days: [mon]", `from: "09:45"`, `until: "11:00"`, "time_zone: Europe/Berlin"}
	all = slices.DeleteFunc(all, func(f string) bool { return strings.HasPrefix(f, name+":") })
	return onProfile("    spare_at:\n      - " + strings.Join(append(all, field), "\n        ") + "\n")
}

func onMount(source, target string) string {
	return onProfile("    mounts:\n      - source: " + source + "\n        target: " + target + "\n")
}

func runFaults() []faultCase {
	return []faultCase{
		{"no image", "runs:\n  image: 'a b'\n", "2: runs.image: this is no name of an image"},
		{"no cpu", "runs:\n  cpu: 0\n", "2: runs.cpu: a program needs some (give something like 1 or 0.5)"},
		{"more cpus than there are", "runs:\n  enabled: true\n  cpu: 500\n", "3: runs.cpu: this machine has less (give less)"},
		{"many at once", "runs:\n  concurrent: 10001\n", "2: runs.concurrent: out of range (give 0 to 10000)"},
		{"a long line", "runs:\n  line: 10001\n", "2: runs.line: out of range (give 0 to 10000)"},
		{"none of a person", "runs:\n  per_person: 0\n", "2: runs.per_person: out of range (give 1 to 1000)"},
		{"no results", "runs:\n  results_per_person: 0\n", "2: runs.results_per_person: out of range (give 1 to 1000)"},
		{"kept too long", "runs:\n  keep: 2d\n", "2: runs.keep: out of range (give 1m to 24h)"},
		{"no memory", "runs:\n  default:\n    memory: 1MiB\n", "3: runs.default.memory: with so little no program runs (give more)"},
		{"no time", "runs:\n  max:\n    time: 0s\n", "3: runs.max.time: with so little no program runs (give more)"},
		{"default above max", "runs:\n  default:\n    cpu_time: 3m\n", "3: runs.default.cpu_time: this is above runs.max (give less, or raise that)"},
		{"a long run", "runs:\n  max:\n    time: 2h\n", "3: runs.max.time: a run takes an hour at most (give less)"},
		{"much output", "runs:\n  max:\n    output: 1GiB\n", "3: runs.max.output: what is printed is kept in Redis (give 16MiB at most)"},
		{"many open files", "runs:\n  max:\n    open_files: 20001\n", "3: runs.max.open_files: out of range (give 20000 at most)"},
		{"many processes", "runs:\n  max:\n    processes: 4194304\n", "3: runs.max.processes: the kernel knows fewer (give something like 256)"},
		{"more memory than there is", "runs:\n  enabled: true\n  max:\n    memory: 100TiB\n", "4: runs.max.memory: this machine has less (give less)"},
	}
}

// formFaults are those of the file's form.
func formFaults() []faultCase {
	return []faultCase{
		{"unknown field", "listn: [a]\n", "1: listn: there is no such field (did you mean listen?)"},
		{"unknown field in a struct", "redis:\n  ulr: x\n", "2: redis.ulr: there is no such field (did you mean url?)"},
		{"unknown field in a list", onProfile("    memroy: 1GiB\n"), "3: profiles[0].memroy: there is no such field (did you mean memory?)"},
		{"unlike any field", "zzzzzzzzzz: 1\n", "1: zzzzzzzzzz: there is no such field (carrel config example lists them all)"},
		{"set twice", "deployment: a\nstate_dir: /x\ndeployment: b\n", "3: deployment: this field is set twice (keep one of them)"},
		{"variable set twice", onProfile("    env:\n      A: 1\n      A: 2\n"), "5: profiles[0].env.A: this name is set twice"},
		{"list for a value", "deployment: [a]\n", "1: deployment: a single value is wanted here (write deployment: value)"},
		{"value for a list", "listen: 127.0.0.1:8000\n", "1: listen: a list is wanted here (write [a, b]"},
		{"value for fields", "redis: redis://x\n", "1: redis: fields are wanted here (write name: value, indented)"},
		{"value for fields in a list", "profiles: [5]\n", "1: profiles[0]: fields are wanted here"},
		{"value for names", onProfile("    env: 5\n"), "3: profiles[0].env: names with values are wanted here (write NAME: value"},
		{"list for names", onProfile("    env: [A]\n"), "3: profiles[0].env: names with values are wanted here"},
		{"fields for a value", "state_dir:\n  x: y\n", "state_dir: a single value is wanted here"},
		{"a list for the whole", "- a\n- b\n", "1: : fields are wanted here"},
		{"no true, no false", "admin_access: yes\n", "1: admin_access: true or false is wanted here"},
		{"text for a number", "proxy:\n  uid: root\n", "2: proxy.uid: a whole number from 0 on is wanted here"},
		{"negative number", "proxy:\n  uid: -1\n", "2: proxy.uid: a whole number from 0 on is wanted here"},
		{"fraction", "spawner:\n  max_per_user: 1.5\n", "2: spawner.max_per_user: a whole number from 0 on is wanted here"},
		{"number too large", "spawner:\n  max_per_user: 99999999999\n", "2: spawner.max_per_user: a whole number"},
		{"duration without unit", "sessions:\n  idle: 30\n", "2: sessions.idle: this is no duration: write 90s, 30m, 2h or 14d"},
		{"duration in weeks", "sessions:\n  idle: 2w\n", "2: sessions.idle: this is no duration"},
		{"size with a wrong unit", onProfile("    memory: 1Gb/s\n"), "3: profiles[0].memory: this is no size: write 512MiB or 2GiB"},
		{"two documents", "deployment: a\n---\ndeployment: b\n", "3: : the file holds more than one document"},
		{"no YAML", "deployment: a\n\tb: c\n", ": : this is no YAML"},
		{"unclosed quote", "a: b\nstate_dir: \"/x\n", ": this is no YAML"},
		{"binary", "deployment: \xff\xfe\n", "0: : this is no text in UTF-8"},
		{"anchor", "deployment: &a carrel\n", "1: : anchors and aliases (& and *) are not read"},
		{"alias", "deployment: *a\n", "1: : anchors and aliases"},
		{"merge", "redis:\n  <<: {url: x}\n", "2: : anchors and aliases"},
		{"tag", "deployment: !!binary aGk=\n", "1: : tags, directives and complex keys"},
		{"deep brackets", "\nlisten: " + strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1) + "\n", "2: : this is nested too deeply"},
		{"deep lists", strings.Repeat("- ", maxDepth+1) + "a\n", "1: : this is nested too deeply"},
		{"NUL in a text", "deployment: \"a\\0b\"\n", "1: deployment: text without NUL"},
	}
}

// deploymentFaults are those of the whole.
func deploymentFaults() []faultCase {
	return []faultCase{
		{"deployment", "deployment: My_Hub\n", "1: deployment: this is no name of a deployment (use 1 to 32"},
		{"deployment too long", "deployment: " + strings.Repeat("a", 33) + "\n", "1: deployment: this is no name of a deployment"},
		{"relative state_dir", "state_dir: var/lib\n", "1: state_dir: the path is not absolute (begin it with /)"},
		{"long state_dir", "state_dir: /" + strings.Repeat("d", 90) + "\n", "1: state_dir: the path is too long for the sockets in it"},
		{"public_url", "public_url: ftp://x/\n", "1: public_url: the public address is no http or https address"},
		{"public_url with a query", "public_url: http://localhost:8000/?a=b\n", "1: public_url: the public address is no http"},
		{"base path", "public_url: http://localhost:8000/a%20b/\n", "1: public_url: the base path holds a character"},
		{"form of origins", "origins: subdomain\n", "1: origins: there is no such form of origins (use subdomains, paths or one-origin)"},
		{"subdomains of an address", "public_url: http://127.0.0.1:8000/\n", "notebook_host: an IP address has no subdomains"},
		{"paths without a host", "origins: paths\n", "notebook_host: with origins: paths the notebooks need a host or port other than the hub's"},
		{"paths on the hub's host", "origins: paths\nnotebook_host: LOCALHOST:8000\n", "2: notebook_host: with origins: paths"},
		{"notebook_host with a scheme", "notebook_host: https://notebooks.example.org\n", "1: notebook_host: this is no host"},
		{"notebook_host to no end", "origins: one-origin\nnotebook_host: x.example.org\n", "2: notebook_host: with origins: one-origin"},
		{"admin access on a shared origin", "origins: one-origin\nadmin_access: true\n", "2: admin_access: on an origin that notebooks share"},
		{"certificate without key", "tls:\n  cert_file: /x\n", "tls: a certificate needs its key"},
		{"key without certificate", "tls:\n  key_file: /x\n", "tls: a certificate needs its key"},
		{"TLS with an http address", "tls:\n  cert_file: /x\n  key_file: /y\n", "public_url: with tls set, browsers come by HTTPS (begin it with https://)"},
		{"ACME without a server", "public_url: https://localhost/\ntls:\n  acme: {directory: http://acme.test/, agree_to_terms: true}\n", "3: tls.acme.directory: this is no address of an ACME server"},
		{"ACME's terms", "public_url: https://localhost/\ntls:\n  acme: {directory: https://acme.test/}\n", "tls.acme.agree_to_terms: the server gives nothing"},
		{"ACME beside files", "public_url: https://localhost/\ntls:\n  cert_file: /x\n  key_file: /y\n  acme: {directory: https://acme.test/, agree_to_terms: true}\n", "tls.acme: the certificate is in cert_file already"},
		{"ACME's mail", "public_url: https://localhost/\ntls:\n  acme: {directory: https://acme.test/, agree_to_terms: true, email: me}\n", "3: tls.acme.email: this is no address of mail"},
		{"ACME for an address", "public_url: https://127.0.0.1/\norigins: one-origin\ntls:\n  acme: {directory: https://acme.test/, agree_to_terms: true}\n", "tls.acme: the hub has an IP address"},
		{"ACME with an http address", "tls:\n  acme: {directory: https://acme.test/, agree_to_terms: true}\n", "public_url: with tls set, browsers come by HTTPS"},
		{"listens nowhere", "listen: []\n", "1: listen: the proxy listens nowhere (give an address"},
		{"no port", "listen: [localhost]\n", "1: listen[0]: this is no host:port"},
		{"port too large", "listen: [\"127.0.0.1:65536\"]\n", "1: listen[0]: this is no host:port"},
		{"port by name", "listen: [\"127.0.0.1:http\"]\n", "1: listen[0]: this is no host:port"},
		{"second listener", "listen:\n  - 127.0.0.1:8000\n  - oops\n", "3: listen[1]: this is no host:port"},
		{"the same listener twice", "listen:\n  - 127.0.0.1:8000\n  - 127.0.0.1:8000\n", "3: listen[1]: this address is given twice"},
		{"redirecting to HTTP", "listen_redirect: [\"127.0.0.1:8080\"]\n", "1: listen_redirect: it leads to HTTPS, which public_url is not"},
		{"redirecting where it listens", "public_url: https://localhost:8000/\nlisten_redirect: [\"127.0.0.1:8000\"]\n", "2: listen_redirect[0]: this address is given twice"},
		{"redirecting for the demo", "public_url: https://localhost:8000/\nlisten_redirect: [\":80\"]\n", "2: listen_redirect[0]: the demo provider serves this machine only"},
		{"metrics where people come in", "metrics:\n  listen: 127.0.0.1:8000\n", "2: metrics.listen: people come in at this address"},
		{"metrics where people are redirected", "public_url: https://localhost:8000/\nlisten_redirect: [\"127.0.0.1:8080\"]\nmetrics:\n  proxy_listen: 127.0.0.1:8080\n", "4: metrics.proxy_listen: people come in at this address"},
		{"PROXY protocol elsewhere", "proxy_protocol: [\"127.0.0.1:8001\"]\ntrusted_proxies: [127.0.0.1/32]\n", "1: proxy_protocol[0]: nothing listens there"},
		{"PROXY protocol from nobody", "proxy_protocol: [\"127.0.0.1:8000\"]\n", "1: proxy_protocol: nobody is trusted to speak it"},
		{"trusted proxy", "trusted_proxies: [10.0.0.1]\n", "1: trusted_proxies[0]: this is no network (write 10.0.0.0/8"},
		{"trusting everybody", "trusted_proxies: [\"::/0\"]\n", "1: trusted_proxies[0]: this trusts everybody"},
		{"proxy as root", "proxy:\n  uid: 0\n", "2: proxy.uid: the proxy does not run as root"},
		{"uid over the kernel's", "proxy:\n  uid: 4294967295\n", "2: proxy.uid: the proxy does not run as root"},
		{"log level", "log:\n  level: loud\n", "2: log.level: there is no such level (use debug, info, warn or error)"},
		{"log format", "log:\n  format: xml\n", "2: log.format: there is no such format (use text or json)"},
		{"lifetime", "sessions:\n  lifetime: 0s\n", "2: sessions.lifetime: sessions must last"},
	}
}

// redisFaults are those of Redis and the demo provider.
func redisFaults() []faultCase {
	return []faultCase{
		{"address of a Redis", "redis:\n  url: localhost:6379\n", "2: redis.url: this is no address of a Redis (give redis://"},
		{"http for Redis", "redis:\n  url: http://localhost:6379\n", "2: redis.url: this is no address of a Redis"},
		{"Sentinel without a master", "redis:\n  url: redis+sentinel://a:1,b:1/0\n", "2: redis.url: the name of the master is missing"},
		{"prefix with a pattern", "redis:\n  prefix: \"*\"\n", "2: redis.prefix: this is no prefix of keys"},
		{"name of a demo person", "demo:\n  people: [Ünal]\n", "2: demo.people[0]: this is no user name"},
		{"one demo name twice", "demo:\n  people: [bob, Bob]\n", "2: demo.people[1]: two people have this name"},
		{"nobody", "demo:\n  people: []\n", "2: demo.people: nobody could sign in"},
		{"demo provider in public", "public_url: http://hub.example.org/\n", "1: public_url: the demo provider serves this machine only"},
		{"demo provider on every address", "listen: [\":8000\"]\n", "1: listen[0]: the demo provider serves this machine only"},
		{"demo provider on a LAN", "listen: [\"192.0.2.7:8000\"]\n", "1: listen[0]: the demo provider serves this machine only"},
		{"localhost by another's name", "public_url: http://localhost.example.org:8000/\n", "1: public_url: the demo provider serves this machine only"},
	}
}

// providerFaults are those of OpenID providers.
func providerFaults() []faultCase {
	return []faultCase{
		{"provider's name", strings.Replace(provider, "uni", "Uni", 1), "3: oidc.providers[0].name: this is no name of a provider"},
		{"two providers of one name", provider + strings.TrimPrefix(provider, "oidc:\n  providers:\n"), "7: oidc.providers[1].name: two providers have this name"},
		{"issuer", strings.Replace(provider, "https://login", "login", 1), "4: oidc.providers[0].issuer: this is no address"},
		{"issuer with a query", strings.Replace(provider, "example.org", "example.org/?a=b", 1), "4: oidc.providers[0].issuer: this is no address"},
		{"issuer without TLS", strings.Replace(provider, "https", "http", 1), "4: oidc.providers[0].issuer: secrets and tokens would travel unencrypted"},
		{"no client", strings.Replace(provider, "client_id: carrel", "client_id: \"\"", 1), "5: oidc.providers[0].client_id: it is missing (register Carrel at the provider with the redirect address <public_url>hub/oidc/uni/callback)"},
		{"nobody may sign in", strings.Replace(provider, "everyone: true", "everyone: false", 1), "6: oidc.providers[0].everyone: nobody may sign in with this provider (set everyone: true, or"},
		{"no openid", provider + ("      scopes: [profile]\n"), "7: oidc.providers[0].scopes: the scope openid is missing"},
		{"allowed user", provider + ("      allowed_users: [a/b]\n"), "7: oidc.providers[0].allowed_users[0]: this is no user name"},
		{"administrator", provider + ("      admin_users: [ok, \"\"]\n"), "7: oidc.providers[0].admin_users[1]: this is no user name"},
		{"mail domain", provider + ("      allowed_email_domains: [\"*.example.org\"]\n"), "7: oidc.providers[0].allowed_email_domains[0]: this is no mail domain"},
	}
}

// spawnerFaults are those of the spawner and of images.
func spawnerFaults() []faultCase {
	return []faultCase{
		{"driver", "spawner:\n  driver: podman\n", "2: spawner.driver: there is no such driver (use docker)"},
		{"start timeout", "spawner:\n  start_timeout: 0s\n", "2: spawner.start_timeout: no server starts in no time"},
		{"share", "spawner:\n  sweep_max_percent: 101\n", "2: spawner.sweep_max_percent: a share is at most 100"},
		{"reconciling without end", "spawner:\n  reconcile_every: 0s\n", "2: spawner.reconcile_every: this is too often"},
		{"kind of home", "spawner:\n  docker:\n    home_kind: nfs\n", "3: spawner.docker.home_kind: there is no such kind of home (use auto, loop, volume or bind)"},
		{"homes nowhere", "spawner:\n  docker:\n    home_kind: bind\n", "2: spawner.docker.home_path: the path must be absolute and plain (write something like /srv/homes/{user})"},
		{"homes of all in one", "spawner:\n  docker:\n    home_kind: bind\n    home_path: /srv/homes\n", "4: spawner.docker.home_path: all people would have one directory"},
		{"homes by an unknown word", "spawner:\n  docker:\n    home_kind: bind\n    home_path: /srv/{user}/{group}\n", "4: spawner.docker.home_path: only {user} and {id} stand for something"},
		{"homes at the root", "spawner:\n  docker:\n    home_kind: bind\n    home_path: /{user}\n", "4: spawner.docker.home_path: homes would be in the root directory"},
		{"homes beside Docker's files", "spawner:\n  docker:\n    home_kind: bind\n    home_path: /var/lib/{user}\n", "4: spawner.docker.home_path: this would give the whole machine away"},
		{"homes in Carrel's files", "spawner:\n  docker:\n    home_kind: bind\n    home_path: /var/lib/carrel/homes/{user}\nstate_dir: /var/lib/carrel\n", "4: spawner.docker.home_path: this would give the whole machine away"},
		{"a place for homes of another kind", "spawner:\n  docker:\n    home_path: /srv/homes/{user}\n", "3: spawner.docker.home_path: homes of this home_kind are not there"},
		{"subnets", "spawner:\n  docker:\n    subnets: 10.201.0.0/24\n", "3: spawner.docker.subnets: this is no IPv4 network with room"},
		{"subnets of IPv6", "spawner:\n  docker:\n    subnets: fd00::/16\n", "3: spawner.docker.subnets: this is no IPv4 network"},
		{"resolver", "spawner:\n  docker:\n    dns: [1.1.1.1]\n", "3: spawner.docker.dns[0]: this is no address of a resolver (write 192.0.2.53:53)"},
		{"kernel image", "image:\n  name: Carrel/Kernel\n", "2: image.name: this is no name of an image"},
		{"base image", "image:\n  base: \"debian:\"\n", "2: image.base: this is no name of an image"},
	}
}

// tmpFaults are those of notebooks for visitors.
func tmpFaults() []faultCase {
	on := func(more string) string { return "tmp:\n  enabled: true\n" + more }
	return []faultCase{
		{"one origin", on("") + "origins: one-origin\n", "2: tmp.enabled: with origins: one-origin a visitor's notebook could act on the hub"},
		{"a certificate for each", on("") + "public_url: https://hub.example.org/\ntls:\n  acme:\n    directory: https://acme.example.org/\n    agree_to_terms: true\n", "2: tmp.enabled: each visitor has a host name of their own"},
		{"no such profile", on("  profile: none\n"), "3: tmp.profile: there is no such profile"},
		{"homes that are kept", on("  profile: small\n"), "3: tmp.profile: visitors' files must go with them"},
		{"a mount to leave things in", on("  profile: v\n") + "profiles:\n  - name: s\n  - name: v\n    home: none\n    mounts: [{source: /data, target: /data, writable: true}]\n", "3: tmp.profile: one visitor could leave something for the next"},
		{"a profile of some people", on("  profile: v\n") + "profiles:\n  - name: s\n  - name: v\n    home: none\n    users: [ada]\n", "3: tmp.profile: this profile is for some people"},
		{"nobody else's", on("  profile: v\n") + "profiles:\n  - name: v\n    home: none\n", "3: tmp.profile: there is no profile left"},
		{"a namesake", on("") + "profiles:\n  - name: visitor\n    home: none\n", "tmp.profile: a profile is called visitor already"},
		{"memory for nobody", on("  reserve: 1TiB\n"), "3: tmp.reserve: what is left of the machine's memory"},
		{"too old", "tmp:\n  age: 2d\n", "2: tmp.age: out of range"},
		{"for ever", "tmp:\n  extend: 24h\n  extensions: 8\n", "2: tmp.extend: with all extensions a visit would last over a week"},
		{"a count below none", "tmp:\n  max: -1\n", "2: tmp.max: "},
		{"no window", "tmp:\n  arrivals_window: 0s\n", "2: tmp.arrivals_window: it must last"},
		{"network", "tmp:\n  exempt_networks: [10.0.0.0]\n", "2: tmp.exempt_networks[0]: this is no network"},
		{"every origin", "tmp:\n  cors_origins: [\"*\"]\n", "2: tmp.cors_origins[0]: this is no origin"},
		{"an address for an origin", "tmp:\n  cors_origins: [\"https://a.example/\"]\n", "2: tmp.cors_origins[0]: this is no origin"},
		{"banned network", "tmp:\n  bans:\n    - network: bad.example.org\n", "3: tmp.bans[0].network: this is no network"},
		{"end of a ban", "tmp:\n  bans:\n    - network: 198.51.100.0/24\n      until: tomorrow\n", "4: tmp.bans[0].until: this is no time"},
		{"sibling without a slash", "tmp:\n  siblings: [\"https://two.example.org\"]\n", "2: tmp.siblings[0]: this is no public address"},
		{"a sibling's page", "tmp:\n  siblings: [\"https://two.example.org/?x=/\"]\n", "2: tmp.siblings[0]: this is no public address"},
		{"a sibling by a name and password", "tmp:\n  siblings: [\"https://u:p@two.example.org/\"]\n", "2: tmp.siblings[0]: this is no public address"},
		{"oneself for a sibling", "public_url: https://one.example.org/\ntmp:\n  siblings: [\"https://one.example.org/\"]\n", "3: tmp.siblings[0]: this is this deployment's own address"},
		{"no such captcha", "tmp:\n  captcha: {kind: riddle}\n", "2: tmp.captcha.kind: there is no such kind"},
		{"work for years", "tmp:\n  captcha: {kind: work, bits: 60}\n", "2: tmp.captcha.bits: out of range"},
		{"work by plain HTTP", "public_url: http://hub.example.org/\ntmp:\n  captcha: {kind: work}\n", "3: tmp.captcha.kind: browsers compute hashes on pages of HTTPS only"},
		{"unknown service", "tmp:\n  captcha: {kind: siteverify, service: ours, site_key: k, secret: s}\n", "2: tmp.captcha.service: this service is not known by name"},
		{"captcha without its secret", "tmp:\n  captcha: {kind: siteverify, service: turnstile, site_key: k}\n", "2: tmp.captcha.secret: it is missing"},
		{"captcha without its key", "tmp:\n  captcha: {kind: siteverify, service: turnstile, secret: s}\n", "2: tmp.captcha.site_key: it is missing"},
		{"captcha checked by plain HTTP", "tmp:\n  captcha: {kind: siteverify, service: turnstile, site_key: k, secret: s, verify_url: \"http://a.example/\"}\n", "2: tmp.captcha.verify_url: an HTTPS address is wanted"},
		{"a policy in a captcha's origin", "tmp:\n  captcha: {kind: siteverify, service: turnstile, site_key: k, secret: s, origins: [\"https://a.example; script-src *\"]}\n", "2: tmp.captcha.origins[0]: this is no origin"},
		{"no directory", "tmp:\n  files: notebooks\n", "2: tmp.files: this is no directory"},
		{"a picture that runs", "tmp:\n  image: /srv/a.svg\n", "2: tmp.image: this is no picture"},
	}
}

// limitFaults is attack 28 for what a profile is given.
func limitFaults() []faultCase {
	return []faultCase{
		{"no CPU", onProfile("    cpu: 0\n"), "3: profiles[0].cpu: a server needs some"},
		{"CPU beyond the machine", onProfile("    cpu: 17\n"), "3: profiles[0].cpu: this machine has 16 only (give less)"},
		{"CPU that is no number", onProfile("    cpu: NaN\n"), "3: profiles[0].cpu: a number from 0 on is wanted here"},
		{"CPU without end", onProfile("    cpu: .inf\n"), "3: profiles[0].cpu: a number from 0 on"},
		{"CPU to infinity", onProfile("    cpu: Inf\n"), "3: profiles[0].cpu: a number from 0 on"},
		{"negative CPU", onProfile("    cpu: -1\n"), "3: profiles[0].cpu: a number from 0 on"},
		{"CPU overflow", onProfile("    cpu: 1e309\n"), "3: profiles[0].cpu: a number from 0 on"},
		{"no memory", onProfile("    memory: 0\n"), "3: profiles[0].memory: a server needs 64MiB at least"},
		{"memory beyond the machine", onProfile("    memory: 65GiB\n"), "3: profiles[0].memory: this machine has 64GiB only (give less)"},
		{"negative memory", onProfile("    memory: -1GiB\n"), "3: profiles[0].memory: this is no size"},
		{"memory that is no number", onProfile("    memory: NaN\n"), "3: profiles[0].memory: this is no size"},
		{"memory overflow", onProfile("    memory: 1e309\n"), "3: profiles[0].memory: this is no size"},
		{"memory over 64 bits", onProfile("    memory: 99999999999GiB\n"), "3: profiles[0].memory: this is no size"},
		{"disk", onProfile("    disk: 1MiB\n"), "3: profiles[0].disk: a home needs 16MiB at least"},
		{"disk without end", onProfile("    disk: 17TiB\n"), "3: profiles[0].disk: a home holds 16TiB at most"},
		{"few inodes", onProfile("    inodes: 1\n"), "3: profiles[0].inodes: a home needs 64 at least"},
		{"many inodes", onProfile("    inodes: 4000000000\n"), "3: profiles[0].inodes: this is more than one for each KiB"},
		{"shm", onProfile("    shm: 1\n"), "3: profiles[0].shm: 1MiB is the least"},
		{"tmp", onProfile("    tmp: 1\n"), "3: profiles[0].tmp: 1MiB is the least"},
		{"few processes", onProfile("    pids: 1\n"), "3: profiles[0].pids: a server needs 32 at least"},
		{"many processes", onProfile("    pids: 4194305\n"), "3: profiles[0].pids: the kernel knows 4194304 at most"},
		{"few files", onProfile("    files: 255\n"), "3: profiles[0].files: out of range"},
		{"many files", onProfile("    files: 20001\n"), "3: profiles[0].files: out of range"},
	}
}

// profileFaults are those of the rest of a profile, and of culling.
func profileFaults() []faultCase {
	return []faultCase{
		{"no profile", "profiles: []\n", "1: profiles: there is none"},
		{"profile's name", "profiles:\n  - name: A b\n", "2: profiles[0].name: this is no name of a profile"},
		{"nameless profile", "profiles:\n  - title: A\n", "2: profiles[0].name: this is no name of a profile"},
		{"two profiles of one name", "profiles:\n  - name: a\n  - name: a\n", "3: profiles[1].name: two profiles have this name"},
		{"two defaults", "profiles:\n  - name: a\n    default: true\n  - name: b\n    default: true\n", "5: profiles[1].default: another profile is the default already"},
		{"profile's image", onProfile("    image: a b\n"), "3: profiles[0].image: this is no name of an image"},
		{"network", onProfile("    network: host\n"), "3: profiles[0].network: there is no such network (use none or open)"},
		{"relative home", onProfile("    home: jovyan\n"), "3: profiles[0].home: this is no path for a home"},
		{"home with dots", onProfile("    home: /home/../etc\n"), "3: profiles[0].home: this is no path for a home"},
		{"home at the root", onProfile("    home: /\n"), "3: profiles[0].home: this is no path for a home"},
		{"home of another kind", onProfile("    home_kind: loop\n"), "3: profiles[0].home_kind: there is no such kind of home for a profile"},
		{"no home, in memory", onProfile("    home: none\n    home_kind: tmpfs\n    disk: 64MiB\n"), "4: profiles[0].home_kind: there is no home"},
		{"a limit below what is kept ready", onProfile("    spare: 5\n    max: 3\n"), "4: profiles[0].max: it is less than spare"},
		{"a ceiling below the least", onProfile("    spare: 5\n    spare_max: 3\n"), "4: profiles[0].spare_max: it is less than spare"},
		{"no such day", onSpareAt("days: [monday]"), "8: profiles[0].spare_at[0].days[0]: there is no such day"},
		{"no time of the day", onSpareAt("from: noon"), "8: profiles[0].spare_at[0].from: this is no time of the day"},
		{"no end", onSpareAt("until: \"24:00\""), "8: profiles[0].spare_at[0].until: this is no time of the day"},
		{"no time zone", onSpareAt("time_zone: Mars/Olympus"), "8: profiles[0].spare_at[0].time_zone: there is no such time zone"},
		{"the machine's time zone", onSpareAt("time_zone: Local"), "8: profiles[0].spare_at[0].time_zone: there is no such time zone"},
		{"none to keep ready", onSpareAt("spare: 0"), "8: profiles[0].spare_at[0].spare: out of range"},
		{"a home as large as memory", onProfile("    home_kind: tmpfs\n    disk: 1GiB\n    memory: 1GiB\n"), "4: profiles[0].disk: a home in memory would take all of it"},
		{"home in /proc", onProfile("    home: /proc/self\n"), "3: profiles[0].home: this is no path for a home"},
		{"page", onProfile("    default_url: lab\n"), "3: profiles[0].default_url: this is no path"},
		{"page elsewhere", onProfile("    default_url: //evil.example\n"), "3: profiles[0].default_url: this is no path"},
		{"root", onProfile("    uid: 0\n"), "3: profiles[0].uid: servers do not run as root"},
		{"root's group", onProfile("    gid: 0\n"), "3: profiles[0].gid: servers do not run with root's group"},
		{"uid overflow", onProfile("    uid: 4294967296\n"), "3: profiles[0].uid: a whole number"},
		{"the proxy's uid", onProfile("    uid: 64998\n"), "3: profiles[0].uid: this is the proxy's user id"},
		{"variable's name", onProfile("    env:\n      \"A=B\": c\n"), "4: profiles[0].env.A=B: this is no name of a variable"},
		{"profile's people", onProfile("    users: [\"../etc\"]\n"), "3: profiles[0].users[0]: this is no user name"},
		{"relative mount", onMount("data", "/data"), "4: profiles[0].mounts[0].source: the path must be absolute and plain"},
		{"mount with dots", onMount("/data/../etc", "/data"), "4: profiles[0].mounts[0].source: the path must be absolute and plain"},
		{"mount of everything", onMount("/", "/data"), "4: profiles[0].mounts[0].source: this would give the whole machine away"},
		{"mount of Docker's socket", onMount("/var/run/docker.sock", "/data"), "4: profiles[0].mounts[0].source: this would give the whole machine away"},
		{"mount of what holds it", onMount("/var/run", "/data"), "4: profiles[0].mounts[0].source: this would give the whole machine away"},
		{"mount of /etc", onMount("/etc", "/data"), "4: profiles[0].mounts[0].source: this would give the whole machine away"},
		{"mount of all homes", "state_dir: /srv/carrel\n" + onMount("/srv/carrel/docker", "/data"), "5: profiles[0].mounts[0].source: this would give the whole machine away"},
		{"mount of what holds the key", "state_dir: /srv/carrel\n" + onMount("/srv", "/data"), "5: profiles[0].mounts[0].source: this would give the whole machine away"},
		{"mount over the root", onMount("/data", "/"), "5: profiles[0].mounts[0].target: the path must be absolute and plain"},
		{"mount over /proc", onMount("/data", "/proc/sys"), "5: profiles[0].mounts[0].target: a server needs this place for itself"},
		{"mount over the home", onMount("/data", "/home"), "5: profiles[0].mounts[0].target: the home is here"},
		{"two mounts at one place", onMount("/data", "/data") + "      - source: /other\n        target: /data\n", "profiles[0].mounts[0].target: two mounts have this place"},
		{"warning after the end", onProfile("    cull: {idle: 5m}\n"), "3: profiles[0].cull.warning: the warning would come before idle has begun (give less than idle)"},
		{"warning after the maximum age", onProfile("    cull: {max_age: 10m}\n"), "3: profiles[0].cull.warning: the warning would come before max_age has begun"},
		{"negative idle", onProfile("    cull: {idle: -5m}\n"), "3: profiles[0].cull.idle: this is no duration"},
		{"idle over 64 bits", onProfile("    cull: {idle: 9999999999h}\n"), "3: profiles[0].cull.idle: this is no duration"},
		{"rule for nobody", "cull_groups:\n  - cull: {idle: 1h}\n", "2: cull_groups[0].group: it is missing"},
		{"warning of a group", "cull_groups:\n  - group: a\n    cull: {idle: 5m}\n", "3: cull_groups[0].cull.warning: the warning would come before idle"},
	}
}
