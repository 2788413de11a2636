package chp

import (
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
)

const health = "/_chp_healthz"

// servePublic answers everything that is not the API.
func (p *Proxy) servePublic(w http.ResponseWriter, r *http.Request) {
	upgrade := isUpgrade(r)
	if r.RequestURI == health && !upgrade {
		p.json(w, map[string]string{"status": "OK"})
		return
	}
	p.metrics.asked(upgrade)
	m, status := p.match(r)
	if status != 0 {
		p.fail(w, r, status, nil)
		return
	}
	if upgrade {
		p.tunnel(w, r, m)
		return
	}
	p.forward(w, r, m)
}

// isUpgrade is Node's notion of one: both headers are there.
func isUpgrade(r *http.Request) bool {
	return r.Header.Get("Upgrade") != "" && hasToken(r.Header["Connection"], "upgrade")
}

func hasToken(values []string, token string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// match is the route of a request, and what its server is to be asked.
type match struct {
	name string // of the route
	to   target
	at   location
}

// match finds the route. The path that is matched is the one that is forwarded.
func (p *Proxy) match(r *http.Request) (match, int) {
	at := normalise(origin(r.RequestURI))
	decoded, err := decode(at.path)
	if err != nil {
		return match{}, http.StatusInternalServerError // as the original
	}
	path := segments(decoded)
	if p.cfg.HostRouting {
		path = append([]string{hostname(r.Host)}, path...)
	}
	found, depth := p.find(path)
	if found == nil {
		return match{}, http.StatusNotFound
	}
	if found.broken != nil {
		p.cfg.Logger.ErrorContext(r.Context(), "The target can't be used", "route", found.path, "error", found.broken)
		return match{}, http.StatusInternalServerError
	}
	if p.cfg.HostRouting && depth > 0 {
		depth--
	}
	if p.cfg.NoIncludePrefix {
		at.path = afterPrefix(at.path, depth)
	}
	return match{found.path, found.target, found.target.join(at, !p.cfg.NoPrependPath)}, 0
}

// buffers are shared by all copies of bodies.
type buffers struct{ sync.Pool }

func (b *buffers) Get() []byte {
	if v, ok := b.Pool.Get().(*[]byte); ok {
		return *v
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(buf []byte) { b.Pool.Put(&buf) }

var bodyBuffers buffers

// forward sends a request on and its answer back.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request, m match) {
	log := &statusLog{ResponseWriter: w}
	var failure error
	relay := p.relay
	relay.Rewrite = func(pr *httputil.ProxyRequest) {
		pr.Out.URL = m.url()
		pr.Out.Host = pr.In.Host
		pr.Out.Trailer = nil
		for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
			if v := pr.In.Header[name]; v != nil {
				pr.Out.Header[name] = v
			}
		}
		if !p.cfg.NoXForward {
			setForwarded(pr.Out.Header, pr.In, "http")
			if pr.Out.Header.Get("X-Forwarded-Host") == "" {
				pr.Out.Header.Set("X-Forwarded-Host", pr.In.Host)
			}
		}
		p.introduce(pr.Out, m)
		if pr.Out.Body != nil {
			pr.Out.Body = &counted{pr.Out.Body, func() { p.used(m.name) }}
		}
	}
	relay.ModifyResponse = func(res *http.Response) error {
		p.metrics.answered(res.StatusCode)
		p.rewriteLocation(res, r, m)
		return nil
	}
	relay.ErrorHandler = func(_ http.ResponseWriter, _ *http.Request, err error) { failure = err }
	relay.ServeHTTP(log, r)
	switch {
	case failure != nil && r.Context().Err() != nil:
		panic(http.ErrAbortHandler) // nobody is there to be answered
	case failure != nil:
		p.fail(w, r, http.StatusServiceUnavailable, failure)
	case log.status < 300: // refusals don't make a server look used
		p.used(m.name)
	}
}

// url is what is asked of the server, by the letter.
func (m match) url() *url.URL {
	u := &url.URL{Scheme: m.to.scheme, Host: m.to.pooled(), RawQuery: m.at.query, Opaque: m.at.path}
	if strings.HasPrefix(m.at.path, "//") { // which an opaque URL takes for a host
		u.Opaque, u.RawPath = "", m.at.path
		u.Path, _ = url.PathUnescape(m.at.path) // it was decoded before
	}
	return u
}

// introduce sets what is the same for HTTP and websockets.
func (p *Proxy) introduce(out *http.Request, m match) {
	if p.cfg.ChangeOrigin {
		out.Host = m.to.host
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // or Go tells of itself
	}
	if cookies := out.Header["Cookie"]; len(cookies) > 1 { // many servers read the first only
		out.Header.Set("Cookie", strings.Join(cookies, "; "))
	}
	for name, value := range p.cfg.Headers {
		if strings.EqualFold(name, "Host") {
			out.Host = value
			continue
		}
		out.Header.Set(name, value)
	}
}

// setForwarded adds who asks to what the proxies in front have told.
func setForwarded(h http.Header, in *http.Request, proto string) {
	port := "80"
	if in.TLS != nil {
		proto += "s"
		port = "443"
	}
	if _, given, err := net.SplitHostPort(in.Host); err == nil {
		port = given
	}
	values := map[string]string{"X-Forwarded-Port": port, "X-Forwarded-Proto": proto}
	if address, _, err := net.SplitHostPort(in.RemoteAddr); err == nil { // a unix socket's has none
		values["X-Forwarded-For"] = address
	}
	for name, value := range values {
		if before := strings.Join(in.Header[name], ", "); before != "" {
			value = before + "," + value
		}
		h.Set(name, value)
	}
}

// rewriteLocation makes a server's redirect to itself one to us.
func (p *Proxy) rewriteLocation(res *http.Response, r *http.Request, m match) {
	if !p.cfg.AutoRewrite && p.cfg.ProtocolRewrite == "" {
		return
	}
	switch res.StatusCode {
	case http.StatusCreated, http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return
	}
	u, err := url.Parse(res.Header.Get("Location"))
	if err != nil || u.Host != m.to.host {
		return
	}
	if p.cfg.AutoRewrite {
		u.Host = r.Host
	}
	if p.cfg.ProtocolRewrite != "" {
		u.Scheme = p.cfg.ProtocolRewrite
	}
	res.Header.Set("Location", u.String())
}

// counted tells of every chunk that is read.
type counted struct {
	io.ReadCloser
	read func()
}

// Read implements [io.Reader].
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	if n > 0 {
		c.read()
	}
	return n, err
}
