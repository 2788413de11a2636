// Package api is the hub's REST interface for programs, in the shape of JupyterHub's (its OpenAPI
// document, version 6): whoami, people, servers with their progress, and tokens; and, Carrel's own, what
// servers do at the moment, and runs of code.
//
// It owns the routes below <base>hub/api/, the JSON models, and the authentication of programs: a
// token in the Authorization header ("token T" or "Bearer T"), or the session cookie of a page of
// the hub's own origin. It refuses to own any rule: who may do what is hub.Principal's, what a
// start does is hub.Manager's. As JupyterHub does, it answers 403 and not 401 to a bad token,
// since its clients take 401 for a fault of the hub.
//
// Where it means to differ from JupyterHub: a start is idempotent (no 400 for a server that runs),
// unknown fields are refused, and only a person manages their tokens, an administrator does not.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"carrel/hub"
	"carrel/internal/httpx"
	"carrel/internal/top"
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
	Pause(ctx context.Context, key hub.ServerKey) (hub.Server, error)
	Wake(ctx context.Context, key hub.ServerKey) (hub.Server, error)
}

// Config is what the API needs; every field is required, but for those of visits.
type Config struct {
	Origins  hub.Origins
	Servers  Servers
	Sessions hub.SessionStore
	Tokens   hub.TokenStore
	Users    hub.UserStore
	Routes   hub.RouteStore
	Meters   Meters
	Logger   *slog.Logger
	// Visits are notebooks for visitors, nil where there are none; VisitOrigins the origins whose pages may
	// open them; ClientAddr tells where a request came from.
	Visits       Visits
	VisitOrigins []string
	Runs         Runs     // of code; nil: none
	Siblings     Siblings // where visitors are pointed to when all is taken here; nil: nowhere
	ClientAddr   func(*http.Request) string
	// Wrap turns a handler that returns errors into one that logs and renders them.
	Wrap func(func(http.ResponseWriter, *http.Request) error) http.Handler
}

// API serves the routes.
type API struct {
	cfg  Config
	mux  *http.ServeMux
	none http.Handler // for paths that mux would redirect

	topMu   sync.Mutex // also keeps those who watch from asking all at once
	topLast top.Sample
}

// New checks the configuration and mounts the routes; it starts nothing.
func New(cfg Config) (*API, error) {
	if cfg.Servers == nil || cfg.Sessions == nil || cfg.Tokens == nil || cfg.Users == nil || cfg.Routes == nil || cfg.Meters == nil || cfg.Logger == nil || cfg.Wrap == nil {
		return nil, hub.Errorf(hub.Internal, "make api", "a part is missing")
	}
	a := &API{cfg: cfg, mux: http.NewServeMux()}
	for pattern, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /{$}":                                    a.version,
		"GET /health":                                 a.health,
		"GET /user":                                   a.authed(a.whoami),
		"GET /top":                                    a.authed(a.adminTop),
		"GET /users":                                  a.authed(a.listUsers),
		"GET /users/{name}":                           a.authed(a.getUser),
		"POST /users/{name}/activity":                 a.authed(a.postActivity),
		"POST /users/{name}/server":                   a.authed(a.startServer),
		"DELETE /users/{name}/server":                 a.authed(a.stopServer),
		"GET /users/{name}/server/progress":           a.authed(a.progress),
		"POST /users/{name}/server/pause":             a.authed(a.pauseServer),
		"POST /users/{name}/server/wake":              a.authed(a.wakeServer),
		"GET /users/{name}/servers/{server}":          a.authed(a.getServer),
		"POST /users/{name}/servers/{server}":         a.authed(a.startServer),
		"DELETE /users/{name}/servers/{server}":       a.authed(a.stopServer),
		"GET /users/{name}/servers/{server}/progress": a.authed(a.progress),
		"POST /users/{name}/servers/{server}/pause":   a.authed(a.pauseServer),
		"POST /users/{name}/servers/{server}/wake":    a.authed(a.wakeServer),
		"GET /users/{name}/tokens":                    a.authed(a.listTokens),
		"POST /users/{name}/tokens":                   a.authed(a.createToken),
		"GET /users/{name}/tokens/{id}":               a.authed(a.getToken),
		"DELETE /users/{name}/tokens/{id}":            a.authed(a.deleteToken),
		"/":                                           a.nothing,
	} {
		a.mux.Handle(pattern, cfg.Wrap(h))
	}
	a.mountVisits()
	a.mountRuns()
	a.none = cfg.Wrap(func(http.ResponseWriter, *http.Request) error { return errNoCall })
	return a, nil
}

// ServeHTTP serves paths relative to <base>hub/api: the caller strips the prefix.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-JupyterHub-Version", Version)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if p := r.URL.Path; p != "/" && path.Clean(p) != strings.TrimSuffix(p, "/") {
		a.none.ServeHTTP(w, r) // the mux would answer a path with two readings by a redirect
		return
	}
	a.mux.ServeHTTP(w, r)
}

var errNoCall = hub.Errorf(hub.NotFound, "api", "there is no such call")

// nothing answers what no route takes.
func (a *API) nothing(w http.ResponseWriter, r *http.Request) error {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		probe := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := a.mux.Handler(probe); strings.Contains(pattern, " ") {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		return errNoCall
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	return &httpx.Failure{Status: http.StatusMethodNotAllowed, Err: hub.Errorf(hub.Invalid, "api", "this call takes %s only", strings.Join(allowed, " and "))}
}

// caller is who makes a call.
type caller struct {
	hub.Principal

	user    hub.User
	tokenID string // "" for a session
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

// For serves h to administrators and to programs with a scope of theirs.
func (a *API) For(scope hub.Scope, h http.Handler) http.Handler {
	return a.cfg.Wrap(a.authed(func(w http.ResponseWriter, r *http.Request, c caller) error {
		if !c.Can(scope, hub.UserName{}) {
			return &hub.Error{Kind: hub.Forbidden, Op: "authorise call", Message: "your credentials do not allow this", Remedy: "use an administrator's token with the scope " + string(scope)}
		}
		w.Header().Set("Cache-Control", "no-store")
		h.ServeHTTP(w, r)
		return nil
	}))
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
		who := tok.Principal(user)
		who.Scopes = expand(who.Scopes)
		return caller{who, user, tok.ID}, nil
	}
	return a.visitor(r)
}

// visitor is the caller by a page of the hub's.
func (a *API) visitor(r *http.Request) (caller, error) {
	cookie, err := r.Cookie(a.cfg.Origins.Cookie(hub.CookieSession))
	if err != nil {
		return caller{}, errNobody
	}
	if !a.fromOwnPage(r) {
		return caller{}, &hub.Error{Kind: hub.Forbidden, Op: "authenticate call", Message: "this call came from another site's page", Remedy: "use a token"}
	}
	s, err := a.cfg.Sessions.Session(r.Context(), hub.NewSecret(cookie.Value).Hash())
	if err != nil {
		return caller{}, orNobody(err)
	}
	if s.Host != "" || !s.Live(time.Now()) {
		return caller{}, errNobody
	}
	user, err := a.cfg.Users.User(r.Context(), s.User)
	if err != nil || user.ID != s.UserID {
		return caller{}, orNobody(err)
	}
	return caller{s.Principal(), user, ""}, nil
}

// fromOwnPage tells whether a cookie-bearing call is made by a page of the hub's own origin:
// notebooks are same-site with it, so the cookie alone proves nothing. What a form of any site could
// send is not taken either.
func (a *API) fromOwnPage(r *http.Request) bool {
	origin, site := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")
	if origin != "" && origin != a.cfg.Origins.HubOrigin() {
		return false
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return site == "" || site == "same-origin" || site == "none"
	}
	if site != "" && site != "same-origin" || site == "" && origin == "" {
		return false
	}
	form := r.Header.Get("Content-Type")
	kind, _, err := mime.ParseMediaType(form)
	return form == "" || err == nil && kind == "application/json"
}

// orNobody keeps a store that can't be reached apart from a credential that is not known.
func orNobody(err error) error {
	if hub.KindOf(err) == hub.Unavailable && err != nil {
		return err
	}
	return errNobody
}

// scopeActivity is JupyterHub's for what a single-user server reports.
const scopeActivity hub.Scope = "users:activity"

// held are the scopes that an administrator's scope holds, as at JupyterHub.
var held = map[string][]hub.Scope{
	string(hub.ScopeAdminUsers): {hub.ScopeReadUsers, scopeActivity}, string(hub.ScopeAdminServers): {hub.ScopeServers},
}

// expand adds to scopes what they hold, with the same filter.
func expand(scopes []hub.Scope) []hub.Scope {
	all := append([]hub.Scope{}, scopes...)
	for _, s := range scopes {
		plain, filter, filtered := strings.Cut(string(s), "!")
		for _, h := range held[plain] {
			if filtered {
				h += hub.Scope("!" + filter)
			}
			all = append(all, h)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// target parses the path's server and checks that the caller may do any of scopes to it. What is
// another's is the same 403 whether it is there or not.
func (c caller) target(r *http.Request, scopes ...hub.Scope) (hub.ServerKey, error) {
	key, err := hub.ParseServerKey(r.PathValue("name"), r.PathValue("server"))
	if err != nil {
		return hub.ServerKey{}, err
	}
	if !slices.ContainsFunc(scopes, func(s hub.Scope) bool { return c.Can(s, key.User) }) {
		return hub.ServerKey{}, &hub.Error{Kind: hub.Forbidden, Op: "authorise call", Message: "your credentials do not allow this", Remedy: "use a token with the scope " + string(scopes[0])}
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

// decode reads an optional JSON object, strictly: 400 for what is no JSON, 413 for too much of it,
// 422 for fields that the call does not take.
func decode(w http.ResponseWriter, r *http.Request, into any) error {
	return decodeUpTo(w, r, maxBody, into)
}

// decodeUpTo is decode for a body of so many bytes at most.
func decodeUpTo(w http.ResponseWriter, r *http.Request, most int64, into any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, most))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		if err = dec.Decode(&struct{}{}); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.Join(&json.SyntaxError{}, err) // more than one value
	}
	fault := &hub.Error{Kind: hub.Invalid, Op: "read body", Field: "body", Message: "the body is not the JSON object that this call takes", Remedy: "see the API's documentation", Err: err}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		fault.Message, fault.Remedy = "the body is too large", fmt.Sprintf("send at most %d KiB", most>>10)
		return &httpx.Failure{Status: http.StatusRequestEntityTooLarge, Err: fault}
	}
	if _, ok := errors.AsType[*json.SyntaxError](err); ok || errors.Is(err, io.ErrUnexpectedEOF) {
		fault.Message = "the body is no JSON"
		return &httpx.Failure{Status: http.StatusBadRequest, Err: fault}
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
		fault.Field, fault.Message = wrong.Field, wrong.Field+" has a value of the wrong type or out of range"
	}
	return fault
}

func (a *API) version(w http.ResponseWriter, _ *http.Request) error {
	return reply(w, http.StatusOK, map[string]string{"version": Version})
}

func (a *API) health(w http.ResponseWriter, _ *http.Request) error {
	return reply(w, http.StatusOK, map[string]string{"status": "ok"})
}
