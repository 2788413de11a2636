// Package proxy is Carrel's data plane: every byte between browsers and notebooks passes here.
//
// It owns the one canonical path of a request, the sessions and tokens that let it through, the
// checks of origin that Jupyter's own are switched off for, the hygiene of headers both ways, the
// route table, websocket tunnels, and what counts as activity. It refuses to own any policy (access
// is hub.Access) and any page but errors: all else below <base>hub/ is the hub's, a process of
// more rights that this one reaches by a socket. It holds no Docker socket, and of the deployment's
// keys those of server tokens and edge cookies only.
package proxy

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"carrel/hub"
	"carrel/internal/front"
)

// Config is what the proxy needs.
type Config struct {
	Origins         hub.Origins
	Keyring         *hub.Keyring
	Sessions        hub.SessionStore
	Tickets         hub.TicketStore
	Tokens          hub.TokenStore
	Users           hub.UserStore
	Routes          hub.RouteStore
	Names           hub.ServerNames
	Changes         hub.Changes
	Events          hub.Events
	AdminAccess     bool           // administrators may open others' servers, where the origins let them
	TrustedProxies  []netip.Prefix // whose X-Forwarded-For counts
	EmbedOrigins    []string       // whose pages may use visitors' servers, by token
	StrictTransport string         // Strict-Transport-Security of every answer; empty: none
	Hub             hub.Endpoint   // the hub's pages
	Edge            hub.Endpoint   // the hub's edge API
	RedisGrace      time.Duration  // how long a known session is honoured with the store away
	PausePing       time.Duration  // how often browsers at paused servers are pinged; 0: every 25 s
	EventLoop       bool           // carry websockets between plain sockets by an event loop
	Access          AccessLog
	Version         string // shown in the metrics
	// Challenge is what an ACME server wants to read at a host for a token (HTTP-01); nil: nothing.
	Challenge func(ctx context.Context, host, token string) (string, bool)
	Drain     Drain
	Statics   string // directory of images' static files (see package statics); "": servers give them
	Ready     func() // called once requests are served; nil: nobody waits
	Logger    *slog.Logger
}

// Proxy serves. Run must be running for its routes and sessions to be true.
type Proxy struct {
	cfg      Config
	routes   routeTable
	names    nameTable
	chain    chain
	sessions *cache[hub.Session]
	tokens   *cache[permit]
	tunnels  tunnels
	loops    *loops // nil: it does not run
	pools    pools
	crowd    crowd
	statics  staticSets
	ready    atomic.Bool
	leaving  atomic.Bool   // answers are the last ones of their connections
	conns    atomic.Int64  // open connections but websockets
	handlers atomic.Int64  // requests at work
	reload   chan struct{} // asks for the routes to be read
	recheck  chan struct{} // asks for the tunnels' sessions to be looked at
	objects  chan *route   // to pauses of servers that are in use here
	metrics  *metrics
	percent  int // the collector's pace, where it was changed; see pace

	seenMu sync.Mutex
	seen   map[hub.SecretHash]time.Time // hub sessions in use that the store was not told of
}

// New checks the configuration; it starts nothing.
func New(cfg Config) (*Proxy, error) {
	if cfg.Keyring == nil || cfg.Sessions == nil || cfg.Tickets == nil || cfg.Tokens == nil || cfg.Users == nil ||
		cfg.Routes == nil || cfg.Names == nil || cfg.Changes == nil || cfg.Events == nil || cfg.Hub.IsZero() || cfg.Edge.IsZero() || cfg.Logger == nil {
		return nil, hub.Errorf(hub.Internal, "make proxy", "a part is missing")
	}
	cfg.PausePing = cmp.Or(cfg.PausePing, pausePing)
	p := &Proxy{
		cfg: cfg, reload: make(chan struct{}, 1), recheck: make(chan struct{}, 1), objects: make(chan *route, maxObjections), seen: map[hub.SecretHash]time.Time{},
	}
	p.sessions = newCache(cfg.RedisGrace, p.askSession)
	p.tokens = newCache(cfg.RedisGrace, p.askToken)
	p.crowd.exempt = p.trusted
	p.statics.dir = cfg.Statics
	p.metrics = newMetrics(p)
	return p, nil
}

const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 75 * time.Second
	maxHeaderBytes = 32 << 10
	maxLoops       = 8   // each is good for some fifty thousand messages a second
	maxStreams     = 128 // requests at once on a connection of h2
)

// Run reads every route and name before it accepts, serves the listeners until ctx ends, then goes
// away as [Config.Drain] says, and records activity. See [ErrSucceeded].
func (p *Proxy) Run(ctx context.Context, listeners ...net.Listener) error {
	defer runtime.KeepAlive(reserve())
	carried, endLoops := p.startLoops(ctx)
	defer endLoops()
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	var loops sync.WaitGroup
	defer p.pools.close()
	defer loops.Wait()
	defer stopBackground()
	read := make(chan struct{})
	loops.Go(func() { p.followEvents(background) })
	loops.Go(func() { p.routesLoop(background, sync.OnceFunc(func() { close(read) })) })
	loops.Go(func() { p.activityLoop(background) })
	loops.Go(func() { p.recheckLoop(background) })
	loops.Go(func() { p.objectLoop(background) })
	loops.Go(func() { p.pingLoop(background) })
	select {
	case <-read:
	case <-ctx.Done():
		return ctx.Err()
	}
	server := p.server(p.Handler())
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		loops.Go(func() { failed <- server.Serve(p.strict(l)) }) //nolint:contextcheck // requests outlive ctx, until the drain's end
	}
	p.ready.Store(true)
	if p.cfg.Ready != nil {
		p.cfg.Ready()
	}
	var err error
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case err = <-failed:
	case err = <-carried:
	}
	p.drain(context.WithoutCancel(ctx), server, listeners, context.Cause(ctx) == ErrSucceeded) //nolint:errorlint // our own, given as it is
	return err
}

// startLoops has loops carry tunnels until end is called, which waits. That they fail before is told.
func (p *Proxy) startLoops(ctx context.Context) (failed <-chan error, end func()) {
	if !p.cfg.EventLoop {
		return nil, func() {}
	}
	s, err := newLoops(min(runtime.GOMAXPROCS(0), maxLoops))
	if err != nil {
		p.cfg.Logger.WarnContext(ctx, "websockets cost more: there is no event loop for them", "error", err)
		return nil, func() {}
	}
	p.loops = s
	ended := make(chan error, 1)
	var all sync.WaitGroup
	all.Go(func() { ended <- s.run() })
	return ended, func() { s.end(); all.Wait() }
}

// reserve is memory that is never written to, and so takes none. The collector counts it, and does not
// run dozens of times a second because next to nothing is alive.
func reserve() []byte { return make([]byte, 16<<20) }

// server makes the HTTP server that all listeners share.
func (p *Proxy) server(h http.Handler) *front.Server {
	return front.NewServer(&http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ConnContext: markRedirects, ErrorLog: slog.NewLogLogger(p.cfg.Logger.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: idleTimeout, PingTimeout: headerTimeout},
	})
}

// strict puts what net/http lacks in front of a listener, where the caller did not.
func (p *Proxy) strict(l net.Listener) net.Listener {
	f, ok := l.(*front.Listener)
	if !ok {
		f = front.New(l, front.Options{Logger: p.cfg.Logger})
	}
	f.Admit(p.admit)
	f.Faults(p.metrics.refused[refusedFraming].Inc)
	return f
}

// Handler serves one request after another.
func (p *Proxy) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.handlers.Add(1)
		defer p.handlers.Add(-1)
		began := time.Now()
		rec := newRecorder(w, r)
		rec.leaving = &p.leaving
		if p.cfg.StrictTransport != "" {
			rec.Header().Set("Strict-Transport-Security", p.cfg.StrictTransport)
		}
		r = guardBody(rec, r)
		abort, err := p.guarded(rec, r)
		if err != nil && !abort {
			p.refuse(rec, r, err)
		}
		rec.finish()
		p.done(r, rec, time.Since(began), err)
		if abort {
			panic(http.ErrAbortHandler) // the connection is cut: half an answer must not pass for a whole one
		}
	})
}

// done counts and logs a request that is over.
func (p *Proxy) done(r *http.Request, rec *recorder, took time.Duration, err error) {
	switch {
	case rec.status != 0:
	case err != nil:
		rec.status = statusClosed
	default:
		rec.status = http.StatusOK // as net/http says where a handler says nothing
	}
	if b, ok := r.Body.(*body); ok {
		p.metrics.received.Add(b.read())
	}
	p.metrics.answered(rec, took, err)
	p.log(r, rec, took, err)
}

// guarded serves a request and makes an error of a panic; abort tells that there is no answer, or
// half of one: were it ended well, net/http would make a success of it.
func (p *Proxy) guarded(rec *recorder, r *http.Request) (abort bool, err error) {
	ctx := r.Context()
	defer func() {
		if v := recover(); v != nil {
			err = p.panicked(ctx, v)
			abort = rec.status != 0
		}
		abort = abort || err != nil && hub.KindOf(err) == hub.Canceled
	}()
	return false, p.serve(rec, r)
}

var errMisdirected = &statusError{http.StatusMisdirectedRequest, "this hub is not known by that name", "use the address that the hub printed; an administrator can set public_url"}

const (
	maxURL     = 8 << 10
	maxHeaders = 100 // lines
)

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) error {
	if err := withinLimits(r); err != nil {
		return err
	}
	path, err := canonical(r.URL)
	if err != nil {
		return err
	}
	if r.Context().Value(redirectKey{}) != nil {
		return p.toHTTPS(w, r)
	}
	base := p.cfg.Origins.Base()
	if path == base+"carrel-health" {
		return p.health(w)
	}
	place := p.cfg.Origins.Classify(r.Host)
	switch {
	case !place.Hub && !place.Notebooks:
		return errMisdirected
	case strings.HasPrefix(path, base+"user/"):
		return p.serveNotebook(w, r, place, path)
	case path == base+"carrel-enter" && place.Notebooks:
		return p.enter(w, r)
	case strings.HasPrefix(path, base+"hub/") && place.Hub:
		return p.serveHub(w, r)
	case place.Hub && (path == base+"api/spawn" || path == base+"api/spawn/" || path == base+"api/stats"): // tmpnb's
		query := ""
		if r.URL.Query().Get("hop") == "1" {
			query = "hop=1" // a sibling sent it here
		}
		return p.pass(w, r, p.cfg.Hub, func(out *http.Request) {
			out.URL.Path, out.URL.RawPath, out.URL.RawQuery = p.cfg.Origins.HubPath("api/tmpnb/"+strings.Trim(strings.TrimPrefix(path, base+"api/"), "/")), "", query
		}, nil)
	}
	to := p.doorway(place, path)
	if to == "" {
		return &statusError{http.StatusNotFound, "there is nothing here", "go to " + p.cfg.Origins.HubURL("home")}
	}
	http.Redirect(w, r, to, http.StatusFound) //nolint:gosec // a place of ours
	return nil
}

// withinLimits refuses what is longer than any browser's, or ambiguous.
func withinLimits(r *http.Request) error {
	if len(r.RequestURI) > maxURL {
		return &statusError{http.StatusRequestURITooLong, "the address is too long", "shorten it"}
	}
	// HTTP/1 is looked at by internal/front; net/http's h2 lets these through.
	if strings.IndexByte(r.RequestURI, ' ') >= 0 || len(r.Header["Content-Length"]) > 1 {
		return &statusError{http.StatusBadRequest, "this request can be read in two ways", "send it by a browser"}
	}
	lines := 0
	for _, values := range r.Header {
		lines += len(values)
	}
	if lines > maxHeaders {
		return &statusError{http.StatusRequestHeaderFieldsTooLarge, "there are too many headers", "send fewer"}
	}
	return nil
}

// doorway is where a path leads that is no page itself, or "".
func (p *Proxy) doorway(place hub.Place, path string) string {
	o := p.cfg.Origins
	base := o.Base()
	root := path == "/" || path == base || path+"/" == base
	switch {
	case place.Hub && (root || path == base+"hub"):
		return o.HubPath("")
	case place.Notebooks && strings.HasPrefix(path, base+"hub/"):
		return o.HubURL("home")
	case place.Notebooks && root:
		if key, ok := hub.ParseServerLabel(place.Label); ok {
			return o.ServerPath(hub.ServerKey{User: key.User})
		}
		return o.HubURL("home")
	}
	return ""
}

func (p *Proxy) health(w http.ResponseWriter) error {
	if !p.ready.Load() {
		return &statusError{http.StatusServiceUnavailable, "not ready", "try again"}
	}
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write([]byte(`{"status":"ok"}` + "\n"))
	return err
}
