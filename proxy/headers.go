package proxy

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"carrel/hub"
)

// hopByHop are headers of one connection (RFC 9110, section 7.6.1, and what came before it).
var hopByHop = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// ourCookies are names that no server hears of or sets, with and without prefix.
var ourCookies = func() map[string]bool {
	m := map[string]bool{}
	for _, n := range []string{hub.CookieSession, hub.CookieNotebook, hub.CookieTicket, hub.CookieSignIn, hub.CookieVisitor} {
		m[n], m["__Host-"+n], m["__Secure-"+n] = true, true, true
	}
	return m
}()

func isOurs(cookie string) bool {
	if ourCookies[cookie] {
		return true
	}
	name := strings.TrimPrefix(cookie, "__Host-")
	return strings.HasPrefix(name, hub.CookieSignIn+"-")
}

// spoofable are headers by which a client could tell a server who or where it is.
func spoofable(name string) bool {
	if name == "" || !strings.ContainsRune("xXfFtTrR", rune(name[0])) {
		return false // most are told by this
	}
	n := strings.ReplaceAll(strings.ToLower(name), "_", "-")
	switch n {
	case "forwarded", "x-real-ip", "x-scheme", "x-client-ip", "true-client-ip", "x-cluster-client-ip", "x-original-url", "x-rewrite-url", "x-remote-user", "remote-user":
		return true
	}
	return strings.HasPrefix(n, "x-forwarded-") || strings.HasPrefix(n, "x-carrel-") && n != pollHeader
}

// pollHeader tells the hub that no person made a request; its pages' scripts send it.
const pollHeader = "x-carrel-poll"

// dropHops drops what a server says of our connection to it.
func dropHops(h http.Header) {
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

func isIdentity(name string) bool {
	return name == "Host" || slices.Contains(identity, name)
}

// cleanRequest drops what no server behind us may hear: hop-by-hop headers and those that
// Connection names, before ours are set; spoofable ones in any spelling; our cookies.
func cleanRequest(h http.Header) {
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = http.CanonicalHeaderKey(strings.TrimSpace(name)); !isIdentity(name) {
				h.Del(name)
			}
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
	for name := range h {
		if spoofable(name) || strings.IndexByte(name, '_') >= 0 {
			delete(h, name)
		}
	}
}

// dropOurCookies keeps the person's other cookies as they were sent.
func dropOurCookies(h http.Header) {
	lines := h["Cookie"]
	h.Del("Cookie")
	for _, line := range lines {
		var kept []string
		for part := range strings.SplitSeq(line, ";") {
			name, _, _ := strings.Cut(strings.TrimSpace(part), "=")
			if part = strings.TrimSpace(part); part != "" && !isOurs(strings.TrimSpace(name)) {
				kept = append(kept, part)
			}
		}
		if len(kept) > 0 {
			h.Add("Cookie", strings.Join(kept, "; "))
		}
	}
}

// setForwarded tells whoever is behind us about the client (the de-facto X-Forwarded-* headers).
func (p *Proxy) setForwarded(h http.Header, r *http.Request) {
	scheme := "http"
	if p.cfg.Origins.Secure() {
		scheme = "https"
	}
	h["X-Forwarded-For"] = []string{p.client(r).String()}
	h["X-Forwarded-Proto"] = []string{scheme}
	h["X-Forwarded-Host"] = []string{r.Host}
}

// client is the address of whoever made the request: the peer's, or, behind trusted proxies, the
// last in X-Forwarded-For that is none of them.
func (p *Proxy) client(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	at, ok := parseHop(host)
	if !ok {
		return netip.IPv6Unspecified()
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && p.trusted(at); i-- {
		before, ok := parseHop(strings.TrimSpace(hops[i]))
		if !ok {
			break
		}
		at = before
	}
	return at
}

// parseHop reads an address as proxies write it: with a port or without, in brackets or without.
// Zones mean something on the proxy's own host only.
func parseHop(s string) (netip.Addr, bool) {
	at, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		with, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}, false
		}
		at = with.Addr()
	}
	return at.Unmap().WithZone(""), true
}

func (p *Proxy) trusted(a netip.Addr) bool {
	for _, t := range p.cfg.TrustedProxies {
		if t.Contains(a) {
			return true
		}
	}
	return false
}

// fromServers tells whether a server may send a header: not those by which it could reach beyond
// its own pages, to a whole origin or to a proxy.
func fromServers(name string) bool {
	switch name {
	case "Service-Worker-Allowed", "Clear-Site-Data", "Strict-Transport-Security", "Alt-Svc", "Public-Key-Pins", "Public-Key-Pins-Report-Only", "Set-Cookie2":
		return false
	}
	return !strings.HasPrefix(name, "X-Accel-") && !strings.HasPrefix(name, "X-Carrel-")
}

// maybeTrailer tells whether a server may send a header behind a body.
func maybeTrailer(name string) bool {
	return fromServers(http.CanonicalHeaderKey(name)) && !strings.EqualFold(name, "Set-Cookie")
}

// cleanTrailers is called when the body has been sent: what is in h then goes out as trailers.
func cleanTrailers(h http.Header) {
	for key := range h {
		if !maybeTrailer(strings.TrimPrefix(key, http.TrailerPrefix)) {
			delete(h, key)
		}
	}
}

// cleanRequestTrailers drops what would be dropped as a header, and what tells who asks: a server may
// take a trailer for a header.
func cleanRequestTrailers(h http.Header) {
	if len(h) == 0 {
		return
	}
	cleanRequest(h)
	for name := range h {
		if isIdentity(name) || strings.HasPrefix(name, "Content-") || strings.HasPrefix(name, "Sec-") {
			delete(h, name)
		}
	}
}

// cleanResponse keeps a server's answer within the server: headers that act on a whole origin or on
// proxies are dropped. Its cookies are for confineCookies.
func cleanResponse(h http.Header) {
	for name := range h {
		if !fromServers(name) {
			delete(h, name)
		}
	}
	h["X-Content-Type-Options"] = []string{"nosniff"}
	if h.Get("Referrer-Policy") == "" {
		h["Referrer-Policy"] = []string{"same-origin"}
	}
}

// confineCookies keeps a server's cookies below its own path and off our names.
func confineCookies(h http.Header, path string) {
	lines := h["Set-Cookie"]
	h.Del("Set-Cookie")
	for _, line := range lines {
		if kept, ok := confine(line, path); ok {
			h.Add("Set-Cookie", kept)
		}
	}
}

// confine rewrites a Set-Cookie line so that the cookie is the server's own: no Domain, a Path at or
// below path; false for what can't be (our names, prefixed names, no syntax).
func confine(line, path string) (string, bool) {
	c, err := http.ParseSetCookie(line)
	if err != nil || isOurs(c.Name) || prefixed(c.Name) {
		return "", false
	}
	c.Domain = ""
	if !strings.HasPrefix(c.Path, path) {
		c.Path = path
	}
	out := c.String()
	return out, out != ""
}

// prefixed tells whether a name has a prefix that browsers know, in whatever case.
func prefixed(name string) bool {
	lower := strings.ToLower(name)
	return strings.HasPrefix(lower, "__host-") || strings.HasPrefix(lower, "__secure-") || strings.HasPrefix(lower, "__http-")
}
