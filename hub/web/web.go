// Package web is the hub's pages for people: sign-in choice, home, start, progress, administration.
//
// It owns the routes below <base>hub/ that show HTML, the session middleware, the tickets that let
// a browser into a notebook's host, and the edge API by which the proxy asks about one server's
// coming stop. It refuses to own rules: who may do what is hub.Principal's and hub.Access's, what a
// start does is hub.Manager's, how people prove who they are is the sign-in adapter's.
package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"html/template"
	"io/fs"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"carrel/hub"
	"carrel/internal/httpx"
	"carrel/static"
	"carrel/templates"
)

// Servers is the part of hub.Manager that the pages use.
type Servers interface {
	Start(ctx context.Context, req hub.StartRequest) (hub.Server, error)
	Stop(ctx context.Context, key hub.ServerKey, why string) (hub.Server, error)
	Server(ctx context.Context, key hub.ServerKey) (hub.Server, error)
	Servers(ctx context.Context) iter.Seq2[hub.Server, error]
	Progress(ctx context.Context, key hub.ServerKey) iter.Seq[hub.Progress]
	Extend(ctx context.Context, key hub.ServerKey) (hub.Server, error)
	Usage(key hub.ServerKey) (u hub.Usage, cores float64, ok bool)
	Policy() hub.Policy
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

// Config is what the pages need; every field is required.
type Config struct {
	Origins    hub.Origins
	Sessions   hub.SessionStore
	Tickets    hub.TicketStore
	Users      hub.UserStore
	Activities hub.RouteStore
	Servers    Servers
	Auth       Auth
	FormAction string // origins that our forms may lead to, beside our own (CSP form-action)
	Logger     *slog.Logger
}

// Web serves the pages.
type Web struct {
	cfg    Config
	kit    httpx.Kit
	mux    *http.ServeMux
	pages  map[string]*template.Template
	assets map[string]asset // by name
}

// asset is a static file with the address that carries its hash.
type asset struct {
	url  string
	kind string
	body []byte
}

var pageNames = []string{"login", "signedout", "error", "home", "spawn", "pending", "admin"}

// New parses the templates and mounts the routes; it starts nothing.
func New(cfg Config) (*Web, error) {
	if cfg.Sessions == nil || cfg.Tickets == nil || cfg.Users == nil || cfg.Activities == nil || cfg.Servers == nil || cfg.Auth == nil || cfg.Logger == nil {
		return nil, hub.Errorf(hub.Internal, "make web", "a part is missing")
	}
	w := &Web{cfg: cfg, mux: http.NewServeMux(), pages: map[string]*template.Template{}, assets: map[string]asset{}}
	w.kit = httpx.Kit{Logger: cfg.Logger, Page: w.problem}
	for _, name := range pageNames {
		t, err := template.ParseFS(templates.Files, "layout.html", name+".html")
		if err != nil {
			return nil, hub.Wrap(hub.Internal, "parse page "+name, err)
		}
		w.pages[name] = t
	}
	if err := w.loadAssets(); err != nil {
		return nil, err
	}
	w.mount()
	return w, nil
}

func (w *Web) loadAssets() error {
	kinds := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
	names, err := fs.Glob(static.Files, "*.*")
	if err != nil {
		return hub.Wrap(hub.Internal, "list static files", err)
	}
	for _, name := range names {
		body, err := static.Files.ReadFile(name)
		if err != nil {
			return hub.Wrap(hub.Internal, "read static file", err)
		}
		sum := sha256.Sum256(body)
		w.assets[name] = asset{w.path("static/" + hex.EncodeToString(sum[:6]) + "/" + name), kinds[name[strings.LastIndexByte(name, '.'):]], body}
	}
	return nil
}

func (w *Web) mount() {
	for pattern, h := range map[string]httpx.HandlerFunc{
		"GET /{$}":                           w.root,
		"GET /login":                         w.login,
		"POST /logout":                       w.logout,
		"GET /signed-out":                    w.signedOut,
		"GET /health":                        w.health,
		"GET /static/{hash}/{name}":          w.static,
		"GET /home":                          w.person(w.home),
		"GET /usage/{label}":                 w.person(w.usage),
		"GET /ticket":                        w.person(w.ticket),
		"POST /servers":                      w.person(w.addServer),
		"GET /spawn/{user}":                  w.person(w.spawnPage),
		"GET /spawn/{user}/{server}":         w.person(w.spawnPage),
		"GET /spawn":                         w.person(w.ownSpawn),
		"POST /spawn/{user}":                 w.person(w.spawn),
		"POST /spawn/{user}/{server}":        w.person(w.spawn),
		"GET /spawn-pending/{user}":          w.person(w.pending),
		"GET /spawn-pending/{user}/{server}": w.person(w.pending),
		"GET /spawn-progress/{label}":        w.person(w.progress),
		"POST /stop/{user}":                  w.person(w.stop),
		"POST /stop/{user}/{server}":         w.person(w.stop),
		"POST /keep/{user}":                  w.person(w.keep),
		"POST /keep/{user}/{server}":         w.person(w.keep),
		"GET /admin":                         w.person(w.admin),
		"POST /admin/stop":                   w.person(w.adminStop),
		"POST /admin/sign-out/{user}":        w.person(w.adminSignOut),
		"GET /user-redirect/{rest...}":       w.person(w.userRedirect),
		"/": func(http.ResponseWriter, *http.Request) error {
			return &hub.Error{Kind: hub.NotFound, Op: "find page", Message: "there is no such page", Remedy: "go to your servers"}
		},
	} {
		w.mux.Handle(pattern, w.kit.Handle(h))
	}
}

// Handler serves paths relative to <base>hub: the caller strips the prefix. Unsafe requests must
// come from a page of the hub's own origin: notebooks are same-site, so cookies prove nothing.
func (w *Web) Handler() http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		httpx.SecurityHeaders(rw.Header(), w.cfg.FormAction)
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			r.Body = http.MaxBytesReader(rw, r.Body, 64<<10)
			if !w.ownOrigin(r) {
				w.kit.Handle(func(http.ResponseWriter, *http.Request) error {
					return &hub.Error{Kind: hub.Forbidden, Op: "check origin", Message: "this request came from another site's page", Remedy: "go back to your servers and try from there"}
				}).ServeHTTP(rw, r)
				return
			}
		}
		w.mux.ServeHTTP(rw, r)
	})
}

func (w *Web) ownOrigin(r *http.Request) bool {
	if origin := r.Header.Get("Origin"); origin != "" {
		return origin == w.cfg.Origins.HubOrigin()
	}
	return r.Header.Get("Sec-Fetch-Site") == "same-origin"
}

// RenderError answers with an error of another adapter's, in the hub's clothes.
func (w *Web) RenderError(rw http.ResponseWriter, r *http.Request, err error) {
	httpx.SecurityHeaders(rw.Header(), w.cfg.FormAction)
	w.kit.Handle(func(http.ResponseWriter, *http.Request) error { return err }).ServeHTTP(rw, r)
}

func (w *Web) path(page string) string { return w.cfg.Origins.HubPath(page) }

// visitor is who looks at a page.
type visitor struct {
	hub.Principal
	session hub.Session
	user    hub.User
}

// person finds the visitor before h runs; nobody is led to sign in, and back.
func (w *Web) person(h func(http.ResponseWriter, *http.Request, visitor) error) httpx.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) error {
		v, err := w.visitor(r)
		if err != nil && hub.KindOf(err) == hub.Unauthenticated && httpx.WantsPage(r) && r.Method == http.MethodGet {
			http.Redirect(rw, r, w.loginURL(w.cfg.Origins.Base()+"hub"+r.URL.RequestURI()), http.StatusFound)
			return nil
		}
		if err != nil {
			return err
		}
		rw.Header().Set("Cache-Control", "no-store")
		return h(rw, r, v)
	}
}

var errNobody = &hub.Error{Kind: hub.Unauthenticated, Op: "authenticate", Message: "you are not signed in", Remedy: "sign in"}

func (w *Web) visitor(r *http.Request) (visitor, error) {
	c, err := r.Cookie(w.cfg.Origins.Cookie(hub.CookieSession))
	if err != nil {
		return visitor{}, errNobody
	}
	s, err := w.cfg.Sessions.Session(r.Context(), hub.NewSecret(c.Value).Hash())
	switch {
	case err != nil && hub.KindOf(err) != hub.NotFound:
		return visitor{}, err
	case err != nil || s.Host != "" || !s.Live(time.Now()):
		return visitor{}, errNobody
	}
	u, err := w.cfg.Users.User(r.Context(), s.User)
	switch {
	case err != nil && hub.KindOf(err) != hub.NotFound:
		return visitor{}, err
	case err != nil || u.ID != s.UserID:
		return visitor{}, errNobody
	}
	w.touch(r.Context(), s)
	return visitor{s.Principal(), s, u}, nil
}

// touch records, at most once a minute, that the session is in use.
func (w *Web) touch(ctx context.Context, s hub.Session) {
	if now := time.Now(); now.Sub(s.LastSeen) > time.Minute {
		s.LastSeen = now
		_ = w.cfg.Sessions.UpdateSession(ctx, s) // the next page's comes again
	}
}

// frame is what layout.html shows around every page.
type frame struct {
	Title   string
	Here    string
	User    string
	Admin   bool
	Refresh string // seconds, for browsers without scripts
	Scripts []string
	Body    template.HTML
	w       *Web
}

// Static is the address of a static file.
func (f frame) Static(name string) string { return f.w.assets[name].url }

// Path is the address of a page.
func (f frame) Path(page string) string { return f.w.path(page) }

// render shows a page: the whole is made before a byte is sent.
func (w *Web) render(rw http.ResponseWriter, status int, name string, f frame, view any) error {
	var body, whole bytes.Buffer
	t := w.pages[name]
	if err := t.ExecuteTemplate(&body, name+".html", view); err != nil {
		return hub.Wrap(hub.Internal, "render "+name, err)
	}
	f.Body, f.w = template.HTML(body.String()), w //nolint:gosec // made by html/template just now
	if err := t.ExecuteTemplate(&whole, "layout", f); err != nil {
		return hub.Wrap(hub.Internal, "render "+name, err)
	}
	rw.Header().Set("Content-Type", "text/html; charset=utf-8")
	rw.WriteHeader(status)
	_, err := rw.Write(whole.Bytes())
	return hub.Wrap(hub.Canceled, "send page", err)
}

func (v visitor) frame(title, here string, scripts ...string) frame {
	return frame{Title: title, Here: here, User: v.User.String(), Admin: v.Admin, Scripts: scripts}
}

// problem shows an error to a person.
func (w *Web) problem(rw http.ResponseWriter, _ *http.Request, p httpx.Problem) {
	view := struct {
		Status                           int
		Message, Remedy, Home, RequestID string
	}{p.Status, sentence(p.Message), sentence(p.Remedy), w.path("home"), ""}
	if p.Status >= 500 {
		view.RequestID = p.RequestID
	}
	if err := w.render(rw, p.Status, "error", frame{Title: view.Message}, view); err != nil {
		w.cfg.Logger.Error("error page not shown", "error", err)
	}
}

// sentence makes a message of ours one.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	s = strings.ToUpper(s[:1]) + s[1:]
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

func (w *Web) static(rw http.ResponseWriter, r *http.Request) error {
	a, ok := w.assets[r.PathValue("name")]
	if !ok || !strings.Contains(a.url, "/"+r.PathValue("hash")+"/") {
		return hub.Errorf(hub.NotFound, "find static file", "there is no such file")
	}
	rw.Header().Set("Content-Type", a.kind)
	rw.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, err := rw.Write(a.body)
	return hub.Wrap(hub.Canceled, "send file", err)
}

func (w *Web) health(rw http.ResponseWriter, _ *http.Request) error {
	rw.Header().Set("Content-Type", "application/json")
	_, err := rw.Write([]byte(`{"status":"ok"}` + "\n"))
	return hub.Wrap(hub.Canceled, "send health", err)
}
