package hub

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// OriginMode is one of the three forms in which hub and notebooks share, or do not share, an origin.
type OriginMode string

// The forms.
const (
	Subdomains OriginMode = "subdomains" // each person's notebooks on a host of their own
	Paths      OriginMode = "paths"      // all notebooks on a second host or port, told apart by path
	OneOrigin  OriginMode = "one-origin" // JupyterHub's classic form: notebooks can act as their reader on the hub
)

// Origins knows where everything is: it makes every absolute address and classifies every Host
// header. It is pure. [NewOrigins] makes one.
type Origins struct {
	mode     OriginMode
	scheme   string
	hubHost  string // host or host:port, lower case, the scheme's default port left out
	base     string // "/" or "/carrel/"
	notebook string // Subdomains: the parent of the people's hosts; Paths: the notebooks' host
}

// NewOrigins reads the hub's public address (http or https, with an optional base path) and the
// notebooks' host: for Subdomains the domain under which people's hosts are, with its port
// ("localhost:8000"; empty: the hub's own host), for Paths the second host or port ("example.org:8443"). Errors are
// Invalid and name the field as in the configuration.
func NewOrigins(mode OriginMode, publicURL, notebookHost string) (Origins, error) {
	fail := func(field, message, remedy string) (Origins, error) {
		return Origins{}, &Error{Kind: Invalid, Op: "read origins", Field: field, Message: message, Remedy: remedy}
	}
	u, err := url.Parse(publicURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fail("public_url", "the public address is no http or https address", "give something like https://hub.example.org/ or https://example.org/carrel/")
	}
	base := "/" + strings.Trim(u.Path, "/") + "/"
	if base == "//" {
		base = "/"
	}
	o := Origins{mode: mode, scheme: u.Scheme, hubHost: canonicalHost(u.Host, u.Scheme), base: base, notebook: canonicalHost(notebookHost, u.Scheme)}
	switch {
	case u.Path != u.EscapedPath() || !plainPath(base):
		return fail("public_url", "the base path holds a character that is not allowed", "use letters, digits, - and _ in the path")
	case !plainHost(o.hubHost):
		return fail("public_url", "the public address has no plain host", "give a host name of letters, digits, - and dots, or an IP address, and a port if it needs one")
	case o.notebook != "" && !plainHost(o.notebook):
		return fail("notebook_host", "this is no host", "write notebooks.example.org or example.org:8443, without https://")
	}
	return o.inMode()
}

// inMode checks what the form of origins asks of the hosts.
func (o Origins) inMode() (Origins, error) {
	fail := func(field, message, remedy string) (Origins, error) {
		return Origins{}, &Error{Kind: Invalid, Op: "read origins", Field: field, Message: message, Remedy: remedy}
	}
	switch o.mode {
	case Subdomains:
		if o.notebook == "" {
			o.notebook = o.hubHost
		}
		if name := strings.Trim(hostname(o.notebook), "[]"); strings.Contains(name, ":") || strings.Trim(name, "0123456789.") == "" {
			return fail("notebook_host", "an IP address has no subdomains", "use a domain name, or origins: paths")
		}
	case Paths:
		if o.notebook == "" || o.notebook == o.hubHost {
			return fail("notebook_host", "with origins: paths the notebooks need a host or port other than the hub's", "give another host:port, such as the hub's with another port")
		}
	case OneOrigin:
		o.notebook = o.hubHost
	default:
		return fail("origins", "there is no such form of origins", "use subdomains, paths or one-origin")
	}
	return o, nil
}

// plainPath tells whether a path that begins and ends with a slash has plain segments only.
func plainPath(path string) bool {
	if path == "/" {
		return true
	}
	for seg := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if seg == "" || seg == "." || seg == ".." || strings.Trim(lowerASCII(seg), "abcdefghijklmnopqrstuvwxyz0123456789-_.~") != "" {
			return false
		}
	}
	return true
}

// plainHost tells whether a canonical host is a DNS name or an address, with a port or without.
func plainHost(host string) bool {
	name := hostname(host)
	if port := host[len(name):]; port != "" {
		if n, err := strconv.ParseUint(port[1:], 10, 16); err != nil || n == 0 || port[1] == '0' {
			return false
		}
	}
	if inner, ok := strings.CutPrefix(name, "["); ok {
		addr, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		return err == nil && addr.Is6() && addr.Zone() == ""
	}
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// canonicalHost lower-cases a Host value and drops the scheme's default port and a trailing dot.
func canonicalHost(host, scheme string) string {
	host = lowerASCII(host)
	port := ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host, port = host[:i], host[i:]
	}
	host = strings.TrimSuffix(host, ".")
	if scheme == "http" && port == ":80" || scheme == "https" && port == ":443" {
		port = ""
	}
	return host + port
}

func hostname(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		return host[:i]
	}
	return host
}

// Mode is the form.
func (o Origins) Mode() OriginMode { return o.mode }

// Base is the base path, "/" or "/carrel/".
func (o Origins) Base() string { return o.base }

// Secure tells whether browsers reach us by HTTPS.
func (o Origins) Secure() bool { return o.scheme == "https" }

// HubOrigin is the origin of the hub's pages, as in an Origin header.
func (o Origins) HubOrigin() string { return o.scheme + "://" + o.hubHost }

// HubPath is the path of a hub page: HubPath("home") is "/hub/home".
func (o Origins) HubPath(page string) string { return o.base + "hub/" + page }

// HubURL is the absolute address of a hub page.
func (o Origins) HubURL(page string) string { return o.HubOrigin() + o.HubPath(page) }

// Host is the Host header value under which a person's notebooks are served.
func (o Origins) Host(u UserName) string {
	if o.mode == Subdomains {
		return u.Label() + "." + o.notebook
	}
	return o.notebook
}

// ServerOrigin is the origin of a person's notebooks.
func (o Origins) ServerOrigin(u UserName) string { return o.scheme + "://" + o.Host(u) }

// ServerPath is a server's base path, the same in every form: "/user/alice/" below Base.
func (o Origins) ServerPath(k ServerKey) string { return o.base + k.Path()[1:] }

// ServerURL is the absolute address of a page of a server; page has no leading slash.
func (o Origins) ServerURL(k ServerKey, page string) string {
	return o.ServerOrigin(k.User) + o.ServerPath(k) + page
}

// AdminAccess tells whether administrators may open other people's servers: never on an origin
// that people's notebooks share, since a notebook would then act as the administrator.
func (o Origins) AdminAccess(allowed bool) bool { return allowed && o.mode == Subdomains }

// Place is what a Host header names.
type Place struct {
	Hub       bool   // the hub's pages
	Notebooks bool   // notebooks of Label, or of anyone where Label is empty
	Label     string // the user label in Subdomains
}

// Classify tells what a Host header names; the zero Place is an unknown host.
func (o Origins) Classify(host string) Place {
	host = canonicalHost(host, o.scheme)
	switch {
	case o.mode == OneOrigin && host == o.hubHost:
		return Place{Hub: true, Notebooks: true}
	case host == o.hubHost:
		return Place{Hub: true}
	case o.mode == Paths && host == o.notebook:
		return Place{Notebooks: true}
	case o.mode == Subdomains:
		if label, ok := strings.CutSuffix(host, "."+o.notebook); ok && label != "" && !strings.Contains(label, ".") {
			return Place{Notebooks: true, Label: label}
		}
	}
	return Place{}
}

// Names of our cookies, before the prefix that [Origins.Cookie] adds.
const (
	CookieSession  = "carrel-session"  // the hub's, on the hub's host
	CookieNotebook = "carrel-notebook" // a notebook host's own session
	CookieVisitor  = "carrel-visitor"  // a visitor's, on the hub's host
	CookieTicket   = "carrel-ticket"   // binds a ticket to the browser that asked for it
	CookieSignIn   = "carrel-sign-in"  // sealed state of a sign-in under way
)

// Cookie is a cookie's full name: on HTTPS with the __Host- prefix (RFC 6265bis, section 4.1.3),
// which no other host, path or script without HTTPS can set.
func (o Origins) Cookie(name string) string {
	if o.Secure() {
		return "__Host-" + name
	}
	return name
}

// LocalPath cleans a "next" address: a path on our own host below base, or fallback for anything
// that a browser could read as another origin.
func LocalPath(next, base, fallback string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || !strings.HasPrefix(next, base) || strings.HasPrefix(next, "//") {
		return fallback
	}
	for i := range len(next) {
		if c := next[i]; c <= ' ' || c == '\\' || c >= 0x7f {
			return fallback
		}
	}
	for _, seg := range strings.Split(u.Path, "/") {
		if seg == ".." || seg == "." || strings.ContainsAny(seg, "\\\x00") {
			return fallback
		}
	}
	if strings.HasPrefix(u.Path, "//") {
		return fallback
	}
	return next
}
