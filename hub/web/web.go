// Package web is the hub's pages for people: sign-in choice, home, start, progress, administration.
//
// It owns the routes below <base>hub/ that show HTML, the session middleware, the tickets that let
// a browser into a notebook's host, and the edge API by which the proxy asks about one server's
// coming stop, and has a paused one woken. It refuses to own rules: who may do what is hub.Principal's and hub.Access's, what a
// start does is hub.Manager's, how people prove who they are is the sign-in adapter's.
package web

import (
	"context"
	"html/template"
	"io"
	"iter"
	"log/slog"
	"net/http"

	"carrel/hub"
	"carrel/internal/httpx"
)

// Servers is the part of hub.Manager that the pages use.
type Servers interface {
	Start(ctx context.Context, req hub.StartRequest) (hub.Server, error)
	Stop(ctx context.Context, key hub.ServerKey, why string) (hub.Server, error)
	Server(ctx context.Context, key hub.ServerKey) (hub.Server, error)
	Servers(ctx context.Context) iter.Seq2[hub.Server, error]
	Progress(ctx context.Context, key hub.ServerKey) iter.Seq[hub.Progress]
	Extend(ctx context.Context, key hub.ServerKey) (hub.Server, error)
	Wake(ctx context.Context, key hub.ServerKey) (hub.Server, error)
	Usage(key hub.ServerKey) (u hub.Usage, cores float64, ok bool)
	SlotStock() (hub.SlotStock, bool)
	Archive(ctx context.Context, key hub.ServerKey, w io.Writer) error
	Policy() hub.Policy
}

// Activities is the part of hub.RouteStore that the pages use.
type Activities interface {
	Activities(ctx context.Context) iter.Seq2[hub.Activity, error]
}

// Provider is one way to sign in.
type Provider struct{ Name, Title string }

// Auth is the sign-in adapter, as the pages see it.
type Auth interface {
	Providers() []Provider
	// LoginPath is where a browser begins to sign in, and comes back to next from.
	LoginPath(provider, next string) string
	// EndSessionURL is where the provider signs the person out too; false where it can't.
	EndSessionURL(ctx context.Context, s hub.Session) (string, bool)
}

// Config is what the pages need; every field is required down to Logger.
type Config struct {
	Origins    hub.Origins
	Sessions   hub.SessionStore
	Tickets    hub.TicketStore
	Users      hub.UserStore
	Activities Activities
	Servers    Servers
	Auth       Auth
	Logger     *slog.Logger

	Visits       Visits                     // nil: there are none
	Tokens       hub.TokenStore             // for visits; nil: none is taken over
	ClientAddr   func(*http.Request) string // where a request came from, for visits
	Siblings     Siblings                   // where visitors are sent when all is taken here; nil: nowhere
	FormAction   string                     // origins that our forms may lead to, beside our own (CSP form-action)
	Title        string                     // what the site calls itself; empty: Carrel
	Announcement string                     // shown on every page of who is signed in, as plain text
}

// Web serves the pages.
type Web struct {
	cfg    Config
	kit    httpx.Kit
	mux    *http.ServeMux
	csrf   *http.CrossOriginProtection
	pages  map[string]*template.Template
	assets map[string]asset // by name
}

// New parses the templates and mounts the routes; it starts nothing.
func New(cfg Config) (*Web, error) {
	if cfg.Sessions == nil || cfg.Tickets == nil || cfg.Users == nil || cfg.Activities == nil || cfg.Servers == nil || cfg.Auth == nil || cfg.Logger == nil || cfg.Origins.Base() == "" {
		return nil, hub.Errorf(hub.Internal, "make web", "a part is missing")
	}
	if cfg.Title == "" {
		cfg.Title = "Carrel"
	}
	w := &Web{cfg: cfg, mux: http.NewServeMux(), csrf: http.NewCrossOriginProtection()}
	w.kit = httpx.Kit{Logger: cfg.Logger, Page: w.problem}
	// Behind a proxy the Host that we see need not be the one in the browser's Origin.
	if err := w.csrf.AddTrustedOrigin(cfg.Origins.HubOrigin()); err != nil {
		return nil, hub.Wrap(hub.Internal, "trust own origin", err)
	}
	var err error
	if w.pages, err = parsePages(); err != nil {
		return nil, err
	}
	if w.assets, err = loadAssets(cfg.Origins.HubPath("static/")); err != nil {
		return nil, err
	}
	w.mount()
	return w, nil
}

func (w *Web) mount() {
	for pattern, h := range map[string]httpx.HandlerFunc{
		"GET /{$}":                            w.root,
		"GET /login":                          w.login,
		"POST /logout":                        w.logout,
		"GET /signed-out":                     w.signedOut,
		"GET /health":                         w.health,
		"GET /static/{hash}/{name}":           w.static,
		"GET /home":                           w.person(w.home),
		"GET /ticket":                         w.anyTicket,
		"GET /tmp":                            w.open(w.tmp),
		"POST /tmp":                           w.open(w.come),
		"GET /tmp/challenge":                  w.open(w.challenge),
		"GET /tmp/wait":                       w.guested(w.wait),
		"GET /tmp/status":                     w.guested(w.status),
		"GET /tmp/progress":                   w.guested(w.tmpProgress),
		"POST /tmp/leave":                     w.open(w.leave),
		"GET /tmp/download":                   w.guested(w.download),
		"GET /tmp/image":                      w.open(w.picture),
		"POST /servers":                       w.person(w.addServer),
		"GET /spawn":                          w.person(w.ownSpawn),
		"GET /spawn/{user}":                   w.person(w.spawnPage),
		"GET /spawn/{user}/{server}":          w.person(w.spawnPage),
		"POST /spawn/{user}":                  w.person(w.spawn),
		"POST /spawn/{user}/{server}":         w.person(w.spawn),
		"GET /spawn-pending/{user}":           w.person(w.pending),
		"GET /spawn-pending/{user}/{server}":  w.person(w.pending),
		"GET /spawn-progress/{user}":          w.person(w.progress),
		"GET /spawn-progress/{user}/{server}": w.person(w.progress),
		"POST /stop/{user}":                   w.person(w.stop),
		"POST /stop/{user}/{server}":          w.person(w.stop),
		"POST /keep/{user}":                   w.person(w.keep),
		"POST /keep/{user}/{server}":          w.person(w.keep),
		"GET /user-redirect/{rest...}":        w.person(w.userRedirect),
		"GET /admin":                          w.admin(w.adminServers),
		"GET /admin/people":                   w.admin(w.adminPeople),
		"GET /admin/stop-all":                 w.admin(w.adminAskStopAll),
		"POST /admin/stop-all":                w.admin(w.adminStopAll),
		"POST /admin/sign-out/{user}":         w.admin(w.adminSignOut),
		"GET /admin/visitors":                 w.admin(w.adminVisitors),
		"POST /admin/end-visit/{user}":        w.admin(w.adminEndVisit),
		"/":                                   w.unknown,
	} {
		w.mux.Handle(pattern, w.kit.Handle(h))
	}
}

// maxForm caps a form's bytes: the largest of ours holds a path and three words.
const maxForm = 16 << 10

// Handler serves paths relative to <base>hub: the caller strips the prefix. Unsafe requests must
// come from a page of the hub's own origin: notebooks are same-site, so cookies prove nothing.
func (w *Web) Handler() http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		httpx.SecurityHeaders(rw.Header(), w.cfg.FormAction)
		rw.Header().Set("Cache-Control", "no-store")
		r = r.WithContext(context.WithValue(r.Context(), seenKey{}, &seen{}))
		if err := w.fromOurselves(r); err != nil {
			w.kit.Handle(func(http.ResponseWriter, *http.Request) error { return err }).ServeHTTP(rw, r)
			return
		}
		w.mux.ServeHTTP(rw, r)
	})
}

// fromOurselves refuses what another origin's page sends: unsafe methods always, and of the safe
// ones all but a person's own navigation, so that no page elsewhere learns what ours would load.
func (w *Web) fromOurselves(r *http.Request) error {
	site, origin := r.Header.Get("Sec-Fetch-Site"), r.Header.Get("Origin")
	var ok bool
	switch {
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		ok = site == "" || site == "none" || site == "same-origin" || r.Header.Get("Sec-Fetch-Mode") == "navigate"
	case origin != "":
		ok = origin == w.cfg.Origins.HubOrigin() && w.csrf.Check(r) == nil
	default:
		ok = site == "same-origin"
	}
	if ok {
		return nil
	}
	return &hub.Error{Kind: hub.Forbidden, Op: "check origin", Message: "this request came from another site's page", Remedy: "go back to your servers and try from there"}
}

// unknown answers for what no route serves; a page that is there for another method gets 405.
func (w *Web) unknown(rw http.ResponseWriter, r *http.Request) error {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := w.mux.Handler(other); pattern != "/" {
			rw.Header().Set("Allow", method)
			return &httpx.Failure{Status: http.StatusMethodNotAllowed, Err: &hub.Error{Kind: hub.Invalid, Op: "find page", Message: "this address is for a button on another page", Remedy: "go to your servers and use the button there"}}
		}
	}
	return &hub.Error{Kind: hub.NotFound, Op: "find page", Message: "there is no such page", Remedy: "check the address, or go to your servers"}
}

// RenderError answers with an error of another adapter's, in the hub's clothes.
func (w *Web) RenderError(rw http.ResponseWriter, r *http.Request, err error) {
	httpx.SecurityHeaders(rw.Header(), w.cfg.FormAction)
	w.kit.Handle(func(http.ResponseWriter, *http.Request) error { return err }).ServeHTTP(rw, r)
}

// redirect leads on. Every address that gets here was made by hub.Origins, cleaned by hub.LocalPath,
// is a sibling's that the operator named, or comes from the sign-in adapter; TestNext and its neighbours hold us to that.
func redirect(rw http.ResponseWriter, r *http.Request, to string, status int) {
	http.Redirect(rw, r, to, status) //nolint:gosec // G710: see above
}

func (w *Web) path(page string) string { return w.cfg.Origins.HubPath(page) }

func (w *Web) health(rw http.ResponseWriter, _ *http.Request) error {
	rw.Header().Set("Content-Type", "application/json")
	_, err := rw.Write([]byte(`{"status":"ok"}` + "\n"))
	return hub.Wrap(hub.Canceled, "send health", err)
}
