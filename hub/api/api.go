// Package api is the hub's REST interface for programs, in the shape of JupyterHub's (its OpenAPI
// document, version 6): whoami, people, servers with their progress, and tokens.
//
// It owns the routes below <base>hub/api/, the JSON models, and the authentication of programs: a
// token in the Authorization header ("token T" or "Bearer T"), or the session cookie of a page of
// the hub's own origin. It refuses to own any rule: who may do what is hub.Principal's, what a
// start does is hub.Manager's. As JupyterHub does, it answers 403 and not 401 to a bad token,
// since its clients take 401 for a fault of the hub.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"carrel/hub"
)

// Version is the version of JupyterHub's API that this one follows.
const Version = "6.0.0"

// maxBody caps a request's body, in bytes.
const maxBody = 64 << 10

// Servers is the part of hub.Manager that the API uses.
type Servers interface {
	Start(ctx context.Context, req hub.StartRequest) (hub.Server, error)
	Stop(ctx context.Context, key hub.ServerKey, why string) (hub.Server, error)
	Server(ctx context.Context, key hub.ServerKey) (hub.Server, error)
	Servers(ctx context.Context) iter.Seq2[hub.Server, error]
	Progress(ctx context.Context, key hub.ServerKey) iter.Seq[hub.Progress]
}

// Config is what the API needs; every field is required.
type Config struct {
	Origins  hub.Origins
	Servers  Servers
	Sessions hub.SessionStore
	Tokens   hub.TokenStore
	Users    hub.UserStore
	Routes   hub.RouteStore
	Logger   *slog.Logger
	// Wrap turns a handler that returns errors into one that logs and renders them.
	Wrap func(func(http.ResponseWriter, *http.Request) error) http.Handler
}

// API serves the routes.
type API struct {
	cfg Config
	mux *http.ServeMux
}

// New checks the configuration and mounts the routes; it starts nothing.
func New(cfg Config) (*API, error) {
	if cfg.Servers == nil || cfg.Sessions == nil || cfg.Tokens == nil || cfg.Users == nil || cfg.Routes == nil || cfg.Logger == nil || cfg.Wrap == nil {
		return nil, hub.Errorf(hub.Internal, "make api", "a part is missing")
	}
	a := &API{cfg: cfg, mux: http.NewServeMux()}
	for pattern, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /{$}":                                    a.version,
		"GET /health":                                 a.health,
		"GET /user":                                   a.authed(a.whoami),
		"GET /users":                                  a.authed(a.listUsers),
		"GET /users/{name}":                           a.authed(a.getUser),
		"POST /users/{name}/activity":                 a.authed(a.postActivity),
		"POST /users/{name}/server":                   a.authed(a.startServer),
		"DELETE /users/{name}/server":                 a.authed(a.stopServer),
		"GET /users/{name}/server/progress":           a.authed(a.progress),
		"GET /users/{name}/servers/{server}":          a.authed(a.getServer),
		"POST /users/{name}/servers/{server}":         a.authed(a.startServer),
		"DELETE /users/{name}/servers/{server}":       a.authed(a.stopServer),
		"GET /users/{name}/servers/{server}/progress": a.authed(a.progress),
		"GET /users/{name}/tokens":                    a.authed(a.listTokens),
		"POST /users/{name}/tokens":                   a.authed(a.createToken),
		"DELETE /users/{name}/tokens/{id}":            a.authed(a.deleteToken),
		"/": func(http.ResponseWriter, *http.Request) error {
			return hub.Errorf(hub.NotFound, "api", "there is no such call")
		},
	} {
		a.mux.Handle(pattern, cfg.Wrap(h))
	}
	return a, nil
}

// ServeHTTP serves paths relative to <base>hub/api: the caller strips the prefix.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-JupyterHub-Version", Version)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	a.mux.ServeHTTP(w, r)
}

// caller is who makes a call.
type caller struct {
	hub.Principal
	user hub.User
}

// authed finds the caller before h runs; nobody gets further without one.
func (a *API) authed(h func(http.ResponseWriter, *http.Request, caller) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		c, err := a.caller(r)
		if err != nil {
			return err
		}
		return h(w, r, c)
	}
}

var errNobody = &hub.Error{Kind: hub.Forbidden, Op: "authenticate call", Message: "missing or invalid credentials", Remedy: "send a live token as \"Authorization: token …\""}

func (a *API) caller(r *http.Request) (caller, error) {
	ctx := r.Context()
	if scheme, value, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok {
		if !strings.EqualFold(scheme, "token") && !strings.EqualFold(scheme, "bearer") {
			return caller{}, errNobody
		}
		tok, err := a.cfg.Tokens.Token(ctx, hub.NewSecret(strings.TrimSpace(value)).Hash())
		if err != nil {
			return caller{}, orNobody(err)
		}
		user, err := a.cfg.Users.User(ctx, tok.User)
		if err != nil || user.ID != tok.UserID || !tok.Live(time.Now()) {
			return caller{}, orNobody(err)
		}
		return caller{tok.Principal(user), user}, nil
	}
	cookie, err := r.Cookie(a.cfg.Origins.Cookie(hub.CookieSession))
	if err != nil {
		return caller{}, errNobody
	}
	if !a.fromOwnPage(r) {
		return caller{}, &hub.Error{Kind: hub.Forbidden, Op: "authenticate call", Message: "this call came from another site's page", Remedy: "use a token"}
	}
	s, err := a.cfg.Sessions.Session(ctx, hub.NewSecret(cookie.Value).Hash())
	if err != nil {
		return caller{}, orNobody(err)
	}
	if s.Host != "" || !s.Live(time.Now()) {
		return caller{}, errNobody
	}
	user, err := a.cfg.Users.User(ctx, s.User)
	if err != nil {
		return caller{}, orNobody(err)
	}
	return caller{s.Principal(), user}, nil
}

// fromOwnPage tells whether a cookie-bearing call is made by a page of the hub's own origin:
// notebooks are same-site with it, so the cookie alone proves nothing.
func (a *API) fromOwnPage(r *http.Request) bool {
	if origin := r.Header.Get("Origin"); origin != "" {
		return origin == a.cfg.Origins.HubOrigin()
	}
	site := r.Header.Get("Sec-Fetch-Site")
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return site == "" || site == "same-origin" || site == "none"
	}
	return site == "same-origin"
}

// orNobody keeps a store that can't be reached apart from a credential that is not known.
func orNobody(err error) error {
	if hub.KindOf(err) == hub.Unavailable && err != nil {
		return err
	}
	return errNobody
}

// target parses the path's server and checks that the caller may do scope to it. What is another's
// is 404 to those who may not know of it.
func (c caller) target(r *http.Request, scope hub.Scope) (hub.ServerKey, error) {
	key, err := hub.ParseServerKey(r.PathValue("name"), r.PathValue("server"))
	if err != nil {
		return hub.ServerKey{}, err
	}
	if !c.Can(scope, key.User) {
		return hub.ServerKey{}, &hub.Error{Kind: hub.Forbidden, Op: "authorise call", Message: "your credentials do not allow this", Remedy: "use a token with the scope " + string(scope)}
	}
	return key, nil
}

func reply(w http.ResponseWriter, status int, body any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		return hub.Wrap(hub.Canceled, "write answer", err)
	}
	return nil
}

// decode reads an optional JSON object, strictly.
func decode(r *http.Request, into any) error {
	dec := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	return &hub.Error{Kind: hub.Invalid, Op: "read body", Field: "body", Message: "the body is not the JSON object that this call takes: " + err.Error(), Remedy: "see the API's documentation"}
}

func (a *API) version(w http.ResponseWriter, _ *http.Request) error {
	return reply(w, http.StatusOK, map[string]string{"version": Version})
}

func (a *API) health(w http.ResponseWriter, _ *http.Request) error {
	return reply(w, http.StatusOK, map[string]string{"status": "ok"})
}
