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
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"carrel/hub"
)

// Config is what the proxy needs.
type Config struct {
	Origins        hub.Origins
	Keyring        *hub.Keyring
	Sessions       hub.SessionStore
	Tickets        hub.TicketStore
	Tokens         hub.TokenStore
	Users          hub.UserStore
	Routes         hub.RouteStore
	Events         hub.Events
	AdminAccess    bool           // administrators may open others' servers, where the origins let them
	TrustedProxies []netip.Prefix // whose X-Forwarded-For counts
	Hub            hub.Endpoint   // the hub's pages
	Edge           hub.Endpoint   // the hub's edge API
	RedisGrace     time.Duration  // how long a known session is honoured with the store away
	Logger         *slog.Logger
}

// Proxy serves. Run must be running for its routes and sessions to be true.
type Proxy struct {
	cfg      Config
	routes   routeTable
	sessions *sessionCache
	tunnels  tunnels
	pools    transports
	ready    atomic.Bool
}

// New checks the configuration; it starts nothing.
func New(cfg Config) (*Proxy, error) {
	if cfg.Keyring == nil || cfg.Sessions == nil || cfg.Tickets == nil || cfg.Tokens == nil || cfg.Users == nil ||
		cfg.Routes == nil || cfg.Events == nil || cfg.Hub.IsZero() || cfg.Edge.IsZero() || cfg.Logger == nil {
		return nil, hub.Errorf(hub.Internal, "make proxy", "a part is missing")
	}
	p := &Proxy{cfg: cfg}
	p.sessions = newSessionCache(cfg.Sessions, cfg.RedisGrace)
	return p, nil
}

const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 75 * time.Second
	maxHeaderBytes = 32 << 10
	drainTimeout   = 8 * time.Second
)

// Run reads every route before it accepts, serves the listeners until ctx ends, then stops in
// order: not ready, no new connections, requests finished, tunnels told that we go away, activity
// recorded.
func (p *Proxy) Run(ctx context.Context, listeners ...net.Listener) error {
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	var loops sync.WaitGroup
	first := make(chan struct{})
	loops.Go(func() { p.followEvents(background, first) })
	loops.Go(func() { p.activityLoop(background) })
	loops.Go(func() { p.recheckLoop(background) })
	defer loops.Wait()
	defer stopBackground()
	select {
	case <-first:
	case <-ctx.Done():
		return ctx.Err()
	}
	server := &http.Server{
		Handler: p.Handler(), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(p.cfg.Logger.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		loops.Go(func() { failed <- server.Serve(l) })
	}
	p.ready.Store(true)
	var err error
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case err = <-failed:
	}
	p.ready.Store(false)
	drain, done := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer done()
	if serr := server.Shutdown(drain); serr != nil {
		server.Close() //nolint:errcheck // what did not finish is cut
	}
	p.tunnels.cutAll(closeGoingAway, "the proxy is restarting")
	p.tunnels.wait(drain)
	p.flushActivity(context.WithoutCancel(ctx))
	return err
}

// followEvents keeps routes and sessions true; first is closed when the routes were read once.
func (p *Proxy) followEvents(ctx context.Context, first chan struct{}) {
	open := sync.OnceFunc(func() { close(first) })
	for e := range p.cfg.Events.Subscribe(ctx) {
		switch e.Kind {
		case hub.Reset:
			p.sessions.expire()
			if err := p.reloadRoutes(ctx); err != nil {
				p.cfg.Logger.WarnContext(ctx, "routes not read; those known stay", "error", err)
				continue
			}
			open()
			go p.recheckTunnels(ctx) // bounded by the lookups' deadlines; a second one does no harm
		case hub.SessionsEnded, hub.TokenRevoked:
			p.sessions.end(e.Sessions)
			p.tunnels.cutSessions(e.Sessions, "you were signed out")
		case hub.RouteChanged:
			p.applyRoute(e.Key, e.Route)
		}
	}
}

func (p *Proxy) reloadRoutes(ctx context.Context) error {
	next := map[hub.ServerKey]hub.Route{}
	for r, err := range p.cfg.Routes.Routes(ctx) {
		if err != nil {
			return err
		}
		next[r.Key] = r
	}
	// A store that came back empty lost its routes; the hub restores them within seconds from what
	// runs, and until then those known are as right as any.
	if len(next) == 0 && p.routes.size() > 0 {
		return errors.New("the store has no routes although some were known")
	}
	p.routes.replace(next)
	return nil
}

func (p *Proxy) applyRoute(key hub.ServerKey, r *hub.Route) {
	if r == nil {
		p.routes.remove(key)
		p.tunnels.cutRoute(key, 0, "the server was stopped")
		return
	}
	p.routes.put(*r)
	p.tunnels.cutRoute(key, r.Generation, "the server was started anew")
}

// recheckLoop looks again at the sessions of open tunnels, whose life may be over.
func (p *Proxy) recheckLoop(ctx context.Context) {
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.recheckTunnels(ctx)
		}
	}
}

func (p *Proxy) recheckTunnels(ctx context.Context) {
	for _, h := range p.tunnels.sessions() {
		_, err := p.sessions.get(ctx, h)
		if err == nil || hub.KindOf(err) != hub.NotFound {
			continue
		}
		if _, err := p.cfg.Tokens.Token(ctx, h); err != nil && hub.KindOf(err) == hub.NotFound {
			p.tunnels.cutSessions([]hub.SecretHash{h}, "your session is over")
		}
	}
}

// Handler serves one request after another.
func (p *Proxy) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		rec := &recorder{ResponseWriter: w}
		err := p.serve(rec, r)
		if err != nil {
			p.refuse(rec, r, err)
		}
		p.log(r, rec, time.Since(began), err)
	})
}

const (
	maxURL     = 8 << 10
	maxHeaders = 100
)

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) error {
	if len(r.RequestURI) > maxURL {
		return &statusError{http.StatusRequestURITooLong, "the address is too long", "shorten it"}
	}
	if len(r.Header) > maxHeaders {
		return &statusError{http.StatusRequestHeaderFieldsTooLarge, "there are too many headers", "send fewer"}
	}
	path, err := canonical(r.URL)
	if err != nil {
		return err
	}
	base := p.cfg.Origins.Base()
	if path == base+"carrel-health" {
		return p.health(w)
	}
	place := p.cfg.Origins.Classify(r.Host)
	if !place.Hub && !place.Notebooks {
		return &statusError{http.StatusMisdirectedRequest, "this hub is not known by that name", "use the address that the hub printed; an administrator can set public_url"}
	}
	switch {
	case strings.HasPrefix(path, base+"user/"):
		return p.serveNotebook(w, r, place, path)
	case path == base+"carrel-enter" && place.Notebooks:
		return p.enter(w, r)
	case strings.HasPrefix(path, base+"hub/") && place.Hub:
		return p.serveHub(w, r)
	case place.Hub && (path == "/" || path == base || path+"/" == base || path == base+"hub"):
		http.Redirect(w, r, p.cfg.Origins.HubPath(""), http.StatusFound)
		return nil
	case place.Notebooks && strings.HasPrefix(path, base+"hub/"):
		http.Redirect(w, r, p.cfg.Origins.HubURL("home"), http.StatusFound)
		return nil
	case place.Notebooks && (path == "/" || path == base):
		to := p.cfg.Origins.HubURL("home")
		if key, ok := hub.ParseServerLabel(place.Label); ok {
			to = p.cfg.Origins.ServerPath(hub.ServerKey{User: key.User})
		}
		http.Redirect(w, r, to, http.StatusFound)
		return nil
	}
	return &statusError{http.StatusNotFound, "there is nothing here", "go to " + p.cfg.Origins.HubURL("home")}
}

func (p *Proxy) health(w http.ResponseWriter) error {
	if !p.ready.Load() {
		return &statusError{http.StatusServiceUnavailable, "not ready", "try again"}
	}
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write([]byte(`{"status":"ok"}` + "\n"))
	return err
}
