// Package chp is a stand-in for configurable-http-proxy, so that a JupyterHub can have Carrel's
// binary in front of it: the same REST API, the same choice of route, the same headers.
//
// It owns the routing table that the API fills, forwarding of HTTP and websockets by it, what counts
// as activity of a route, and the pages shown in place of a failed server's. It refuses to own any
// authentication of people (the JupyterHub behind it does that), any policy, and any part of
// Carrel's own data plane, which is package proxy; neither knows the other. The table is in memory, where
// JupyterHub fills it again when it finds it empty, or a copy of one in Redis that several proxies share.
//
// Where configurable-http-proxy hangs, forgets or contradicts itself, this package answers instead:
// a DELETE without a path gets 400, one path is matched and forwarded ("//host/x" is not matched as
// "/x"), a path that can't be decoded gets 400 or 500, and --no-include-prefix takes away as many
// bytes as the prefix has in the request, however they are encoded.
package chp

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"sync/atomic"
	"time"

	"carrel/hub"
)

// Config is what the proxy needs; its fields are configurable-http-proxy's options.
type Config struct {
	AuthToken     hub.Secret // of the REST API; none leaves it open
	DefaultTarget string     // of the route "/"
	ErrorTarget   string     // asked for the page of an error, as {target}/{status}?url=…
	ErrorPath     string     // or: a directory of {status}.html and error.html

	HostRouting     bool
	NoXForward      bool
	NoIncludePrefix bool
	NoPrependPath   bool
	ChangeOrigin    bool
	AutoRewrite     bool
	ProtocolRewrite string
	Headers         map[string]string // set on what goes to servers

	Timeout          time.Duration // a client that neither sends nor takes anything
	ProxyTimeout     time.Duration // a server that does neither
	KeepAliveTimeout time.Duration

	TLS       *tls.Config // of the public side
	APITLS    *tls.Config
	ClientTLS *tls.Config // towards servers
	Redirect  string      // the port that plain HTTP is sent on to

	Redis   hub.Secret // the address of one that keeps the routes, or none
	Metrics bool       // are counted, and served where there is a listener for them

	Logger *slog.Logger
}

const (
	headerTimeout    = 60 * time.Second
	maxHeader        = 32 << 10
	defaultKeepAlive = 5 * time.Second
	apiTimeout       = 60 * time.Second
)

// Proxy serves one routing table.
type Proxy struct {
	cfg     Config
	routes  table
	relay   httputil.ReverseProxy // what every forwarding has in common
	dialer  dialer
	tunnels tunnels
	public  atomic.Pointer[tls.Config] // and may be replaced
	api     atomic.Pointer[tls.Config]
	metrics *metrics // or nil
	store   *store   // or nil
}

// New checks the configuration; it starts nothing.
func New(cfg Config) (*Proxy, error) {
	if cfg.Logger == nil {
		return nil, hub.Errorf(hub.Internal, "make proxy", "a part is missing")
	}
	if cfg.ErrorTarget != "" && cfg.ErrorPath != "" {
		return nil, &hub.Error{Kind: hub.Invalid, Op: "make proxy", Message: "there are both --error-target and --error-path", Remedy: "give one of them"}
	}
	if cfg.ErrorTarget != "" {
		if _, err := parseTarget(cfg.ErrorTarget); err != nil {
			return nil, &hub.Error{Kind: hub.Invalid, Op: "make proxy", Field: "--error-target", Message: "this is no address", Remedy: "give http://host:port/path", Err: err}
		}
	}
	if cfg.KeepAliveTimeout == 0 {
		cfg.KeepAliveTimeout = defaultKeepAlive
	}
	p := &Proxy{cfg: cfg, routes: table{hosts: cfg.HostRouting}, dialer: dialer{idle: cfg.ProxyTimeout}}
	p.Secure(cfg.TLS, cfg.APITLS, cfg.ClientTLS)
	if cfg.Metrics {
		p.metrics = newMetrics()
	}
	p.relay = httputil.ReverseProxy{
		Transport: p.dialer.transport(), BufferPool: &bodyBuffers, FlushInterval: -1,
		ErrorLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}
	if cfg.DefaultTarget != "" {
		if _, err := parseTarget(cfg.DefaultTarget); err != nil {
			return nil, &hub.Error{Kind: hub.Invalid, Op: "make proxy", Field: "--default-target", Message: "this is no address", Remedy: "give http://host:port", Err: err}
		}
		p.routes.add("/", routeData{}, cfg.DefaultTarget)
		p.used("/")
	}
	if !cfg.Redis.IsZero() {
		var err error
		if p.store, err = newStore(cfg.Redis, &p.routes, cfg.Logger); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Load reads the routes that are kept in Redis, where they are. The default target is put there
// unless another one is. It must come before Run, and is [hub.Unavailable] without Redis.
func (p *Proxy) Load(ctx context.Context) error {
	if p.store == nil {
		return nil
	}
	root := p.routes.get("/")
	err := p.store.sync(ctx)
	if err == nil && root != nil {
		if err = p.store.put(ctx, "/", root.data, root.last.Load(), true); err == nil {
			err = p.store.refresh(ctx, "/")
		}
	}
	if err != nil {
		return &hub.Error{Kind: hub.Unavailable, Op: "load routes", Field: "--redis-url", Message: "Redis does not answer", Remedy: "start it, or correct its address", Err: err}
	}
	return nil
}

// add sets a route, which is activity of it, and gives its name.
func (p *Proxy) add(ctx context.Context, path string, data routeData, to string) (string, error) {
	path = named(path)
	if p.store == nil {
		p.routes.add(path, data, to)
	} else if err := p.store.add(ctx, path, data); err != nil {
		return path, err
	}
	p.used(path)
	return path, nil
}

// remove forgets a route and tells whether there was one.
func (p *Proxy) remove(ctx context.Context, path string) (bool, error) {
	if p.store == nil {
		return p.routes.remove(path), nil
	}
	return p.store.remove(ctx, clean(path))
}

// Listeners are the sockets that a proxy serves; Redirect and Metrics may be missing.
type Listeners struct{ Public, API, Redirect, Metrics net.Listener }

// Run serves until the context ends, and then drops everything at once, as the original does: its
// callers start the next one on the same ports.
func (p *Proxy) Run(ctx context.Context, l Listeners) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	public := p.server(http.HandlerFunc(p.servePublic))
	api := p.server(http.HandlerFunc(p.serveAPI))
	api.ReadTimeout = apiTimeout
	servers := map[*http.Server]net.Listener{
		public: withTLS(idleListener{l.Public, p.cfg.Timeout}, &p.public),
		api:    withTLS(l.API, &p.api),
	}
	if l.Redirect != nil {
		servers[p.server(http.HandlerFunc(p.redirect))] = l.Redirect
	}
	if l.Metrics != nil && p.metrics != nil {
		metrics := p.server(http.HandlerFunc(p.metrics.serve))
		metrics.ReadTimeout = apiTimeout
		servers[metrics] = l.Metrics
	}
	ended := make(chan error, len(servers))
	var wg sync.WaitGroup
	if p.store != nil {
		wg.Go(func() { p.store.run(ctx) })
	}
	for srv, l := range servers {
		wg.Go(func() { ended <- srv.Serve(l) })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
	}
	stop()
	for srv := range servers {
		srv.Close() //nolint:errcheck // everything is dropped
	}
	p.tunnels.closeAll()
	wg.Wait()
	p.dialer.transport().CloseIdleConnections()
	if err != nil {
		return hub.Wrap(hub.Internal, "serve", err)
	}
	return ctx.Err()
}

func (p *Proxy) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: p.cfg.KeepAliveTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog:     slog.NewLogLogger(p.cfg.Logger.Handler(), slog.LevelDebug),
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // no HTTP/2, as the original
	}
}

func withTLS(l net.Listener, cfg *atomic.Pointer[tls.Config]) net.Listener {
	if cfg.Load() == nil {
		return l
	}
	return tlsListener{l, cfg}
}

// tlsListener secures each connection by what counts when it comes.
type tlsListener struct {
	net.Listener
	cfg *atomic.Pointer[tls.Config]
}

// Accept implements [net.Listener].
func (l tlsListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tls.Server(c, l.cfg.Load()), nil
}

// Secure replaces the configurations of TLS: of the public side, of the REST API, and towards servers.
// Connections that are open go on by what they began with. A side that began without TLS stays so.
func (p *Proxy) Secure(public, api, client *tls.Config) {
	p.public.Store(public)
	p.api.Store(api)
	p.dialer.tls.Store(client)
	p.dialer.transport().CloseIdleConnections() // which would vouch for servers by the old authorities
}

// redirect sends plain HTTP to where TLS is.
func (p *Proxy) redirect(w http.ResponseWriter, r *http.Request) {
	host := hostname(r.Host)
	if host == "" {
		text(w, http.StatusBadRequest, "This server is HTTPS-only on port "+p.cfg.Redirect+
			", but an HTTP request was made and the host could not be determined from the request.")
		return
	}
	if p.cfg.Redirect != "443" {
		host = host + ":" + p.cfg.Redirect
	}
	// Not http.Redirect, which cleans the path.
	w.Header().Set("Location", "https://"+host+origin(r.RequestURI))
	w.WriteHeader(http.StatusMovedPermanently)
}

// text answers with a line for people.
func text(w http.ResponseWriter, status int, message string) {
	if message == "" {
		message = http.StatusText(status)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(message)) //nolint:gosec // it is plain text, and the client may be gone
}
