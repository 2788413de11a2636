package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"carrel/hub"
	"carrel/internal/httpx"
)

// serverModel is JupyterHub's "Server".
type serverModel struct {
	Name         string         `json:"name"`
	Ready        bool           `json:"ready"`
	Stopped      bool           `json:"stopped"`
	Pending      *string        `json:"pending"` // "spawn", "stop" or null
	URL          string         `json:"url"`     // path
	FullURL      string         `json:"full_url"`
	ProgressURL  string         `json:"progress_url"`
	Started      *time.Time     `json:"started"`
	LastActivity *time.Time     `json:"last_activity"`
	UserOptions  map[string]any `json:"user_options"`
	Reason       string         `json:"reason,omitempty"` // Carrel's own: why it ended
	Paused       bool           `json:"paused,omitempty"` // Carrel's own: it is ready, and frozen until it is used
}

// userModel is JupyterHub's "User".
type userModel struct {
	Kind         string                 `json:"kind"`
	Name         string                 `json:"name"`
	Admin        bool                   `json:"admin"`
	Groups       []string               `json:"groups"`
	Server       *string                `json:"server"` // the default server's path when it is ready
	Pending      *string                `json:"pending"`
	Created      time.Time              `json:"created"`
	LastActivity *time.Time             `json:"last_activity"`
	Servers      map[string]serverModel `json:"servers"`
}

// selfModel is what whoami answers.
type selfModel struct {
	userModel

	Scopes    []hub.Scope `json:"scopes"`
	TokenID   *string     `json:"token_id"`   // null for a session
	SessionID *string     `json:"session_id"` // null: ours are nobody's business
}

func (a *API) server(s hub.Server, last time.Time) serverModel {
	m := serverModel{
		Name: s.Key.Server.String(), Ready: s.Phase == hub.Ready || s.Phase == hub.Paused,
		Stopped: !s.Phase.Active(), Pending: pending(s),
		URL: a.cfg.Origins.ServerPath(s.Key), FullURL: a.cfg.Origins.ServerURL(s.Key, ""),
		ProgressURL: a.cfg.Origins.HubPath("api/users/" + s.Key.User.String() + "/server/progress"),
		UserOptions: map[string]any{"profile": s.Profile}, Reason: s.Reason, Paused: s.Phase == hub.Paused,
	}
	if s.Key.Server.String() != "" {
		m.ProgressURL = a.cfg.Origins.HubPath("api/users/" + s.Key.User.String() + "/servers/" + s.Key.Server.String() + "/progress")
	}
	m.Started, m.LastActivity = orNull(s.Started), orNull(last)
	return m
}

func pending(s hub.Server) *string {
	word := ""
	switch {
	case s.Coming():
		word = "spawn"
	case s.Phase == hub.Stopping:
		word = "stop"
	default:
		return nil
	}
	return &word
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// activities reads when each server was last used.
func (a *API) activities(ctx context.Context) (map[hub.ServerKey]time.Time, error) {
	last := map[hub.ServerKey]time.Time{}
	for act, err := range a.cfg.Routes.Activities(ctx) {
		if err != nil {
			return nil, err
		}
		last[act.Key] = act.Last
	}
	return last, nil
}

// people makes the models of users with their servers, as JupyterHub those that are stopped only
// when asked for.
func (a *API) people(r *http.Request, users []hub.User) ([]userModel, error) {
	stopped := r.URL.Query().Has("include_stopped_servers")
	last, err := a.activities(r.Context())
	if err != nil {
		return nil, err
	}
	index := make(map[hub.UserName]*userModel, len(users))
	models := make([]userModel, len(users))
	for i, u := range users {
		models[i] = userModel{Kind: "user", Name: u.Name.String(), Admin: u.Admin, Groups: append([]string{}, u.Groups...), Created: u.Created, Servers: map[string]serverModel{}}
		models[i].LastActivity = orNull(u.LastSeen)
		index[u.Name] = &models[i]
	}
	for s, err := range a.cfg.Servers.Servers(r.Context()) {
		if err != nil {
			return nil, err
		}
		m := index[s.Key.User]
		if m == nil || !s.Phase.Active() && !stopped {
			continue
		}
		sm := a.server(s, last[s.Key])
		m.Servers[sm.Name] = sm
		if sm.Name == "" {
			m.Pending = sm.Pending
			if sm.Ready {
				m.Server = &sm.URL
			}
		}
	}
	return models, nil
}

func (a *API) whoami(w http.ResponseWriter, r *http.Request, c caller) error {
	models, err := a.people(r, []hub.User{c.user})
	if err != nil {
		return err
	}
	self := selfModel{userModel: models[0], Scopes: c.Scopes}
	if c.tokenID != "" {
		self.TokenID = &c.tokenID
	}
	if c.Scopes == nil {
		self.Scopes = []hub.Scope{hub.ScopeSelf}
		if c.Admin {
			self.Scopes = expand([]hub.Scope{hub.ScopeSelf, hub.ScopeAccessServers, hub.ScopeAdminServers, hub.ScopeAdminUsers})
		}
	}
	return reply(w, http.StatusOK, self)
}

func (a *API) getUser(w http.ResponseWriter, r *http.Request, c caller) error {
	key, err := c.target(r, hub.ScopeReadUsers)
	if err != nil {
		return err
	}
	user, err := a.cfg.Users.User(r.Context(), key.User)
	if err != nil {
		return err
	}
	models, err := a.people(r, []hub.User{user})
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, models[0])
}

const (
	pageDefault = 50
	pageMax     = 200
	pageType    = "application/jupyterhub-pagination+json"
)

// mayList tells whether a caller may see everyone at once.
func (c caller) mayList(op string) error {
	if !c.Admin || c.Scopes != nil && !slices.Contains(c.Scopes, hub.ScopeReadUsers) {
		return &hub.Error{Kind: hub.Forbidden, Op: op, Message: "only administrators may list people", Remedy: "use an administrator's token with the scope read:users"}
	}
	return nil
}

// listUsers answers an administrator with a page of people, by offset and limit, of those whose name
// holds name_filter and whose servers are in state.
func (a *API) listUsers(w http.ResponseWriter, r *http.Request, c caller) error {
	if err := c.mayList("list users"); err != nil {
		return err
	}
	offset, err := queryInt(r, "offset", 0, 0, 1<<31-1)
	if err != nil {
		return err
	}
	paged := strings.Contains(r.Header.Get("Accept"), pageType)
	most := pageMax
	if paged {
		most = pageDefault
	}
	limit, err := queryInt(r, "limit", most, 1, pageMax)
	if err != nil {
		return err
	}
	models, err := a.selected(r)
	if err != nil {
		return err
	}
	total := len(models)
	models = models[min(offset, total):min(offset+limit, total)]
	if !paged {
		return reply(w, http.StatusOK, models)
	}
	type position struct {
		Offset int `json:"offset"`
		Limit  int `json:"limit"`
		Total  int `json:"total"`
		Next   any `json:"next"`
	}
	p := position{Offset: offset, Limit: limit, Total: total}
	if next := offset + limit; next < total {
		q := r.URL.Query()
		q.Set("offset", strconv.Itoa(next))
		q.Set("limit", strconv.Itoa(limit))
		p.Next = map[string]any{"offset": next, "limit": limit, "url": a.cfg.Origins.HubURL("api/users?" + q.Encode())}
	}
	return reply(w, http.StatusOK, map[string]any{"items": models, "_pagination": p})
}

// selected are the models of those whom a listing asks for, by name.
func (a *API) selected(r *http.Request) ([]userModel, error) {
	query := r.URL.Query()
	state, name := query.Get("state"), query.Get("name_filter")
	if state != "" && state != "active" && state != "inactive" && state != "ready" {
		return nil, &hub.Error{Kind: hub.Invalid, Op: "list users", Field: "state", Message: "there is no such state", Remedy: "use active, inactive or ready"}
	}
	users := []hub.User{}
	for u, err := range a.cfg.Users.Users(r.Context()) {
		if err != nil {
			return nil, err
		}
		if strings.Contains(u.Name.String(), name) {
			users = append(users, u)
		}
	}
	models, err := a.people(r, users)
	if err != nil || state == "" {
		return models, err
	}
	return slices.DeleteFunc(models, func(m userModel) bool {
		active, ready := false, false
		for _, s := range m.Servers {
			active, ready = active || !s.Stopped, ready || s.Ready
		}
		return state == "active" && !active || state == "inactive" && active || state == "ready" && !ready
	}), nil
}

// queryInt reads a number of the query; one that is over most counts as most.
func queryInt(r *http.Request, name string, otherwise, least, most int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least {
		return 0, &hub.Error{Kind: hub.Invalid, Op: "read query", Field: name, Message: fmt.Sprintf("%s is no whole number from %d on", name, least), Remedy: "leave it out, or give a number"}
	}
	return min(n, most), nil
}

func (a *API) getServer(w http.ResponseWriter, r *http.Request, c caller) error {
	key, err := c.target(r, hub.ScopeReadUsers, hub.ScopeServers)
	if err != nil {
		return err
	}
	s, err := a.existing(r.Context(), key)
	if err != nil {
		return err
	}
	last, err := a.activities(r.Context())
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, a.server(s, last[key]))
}

// existing is a server of a person who is known here; a named one must have been started before.
func (a *API) existing(ctx context.Context, key hub.ServerKey) (hub.Server, error) {
	if _, err := a.cfg.Users.User(ctx, key.User); err != nil {
		return hub.Server{}, err
	}
	s, err := a.cfg.Servers.Server(ctx, key)
	if err == nil && s.Generation == 0 && key.Server.String() != "" {
		return s, hub.Errorf(hub.NotFound, "find server", "there is no such server")
	}
	return s, err
}

// startServer answers 201 when the server is up and 202 while it starts; unlike JupyterHub's it is
// idempotent, so a second call while it runs is no error.
func (a *API) startServer(w http.ResponseWriter, r *http.Request, c caller) error {
	key, err := c.target(r, hub.ScopeServers)
	if err != nil {
		return err
	}
	var options struct {
		Profile   string `json:"profile"`
		SafeStart bool   `json:"safe_start"`
	}
	if err := decode(w, r, &options); err != nil {
		return err
	}
	s, err := a.cfg.Servers.Start(r.Context(), hub.StartRequest{Key: key, By: c.Principal, Profile: options.Profile, SafeStart: options.SafeStart})
	if err != nil {
		return err
	}
	if s.Phase == hub.Ready || s.Phase == hub.Paused {
		return reply(w, http.StatusCreated, a.server(s, time.Time{}))
	}
	return reply(w, http.StatusAccepted, a.server(s, time.Time{}))
}

// pauseServer freezes a ready server and answers with what became of it: one that is in use goes on.
func (a *API) pauseServer(w http.ResponseWriter, r *http.Request, c caller) error {
	return a.change(w, r, c, a.cfg.Servers.Pause)
}

// wakeServer has a paused server go on, and answers when it does. Its use would wake it, too.
func (a *API) wakeServer(w http.ResponseWriter, r *http.Request, c caller) error {
	return a.change(w, r, c, a.cfg.Servers.Wake)
}

// change does something to a server that is there.
func (a *API) change(w http.ResponseWriter, r *http.Request, c caller, do func(context.Context, hub.ServerKey) (hub.Server, error)) error {
	key, err := c.target(r, hub.ScopeServers)
	if err != nil {
		return err
	}
	if _, err := a.existing(r.Context(), key); err != nil {
		return err
	}
	s, err := do(r.Context(), key)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, a.server(s, time.Time{}))
}

// stopServer answers 204 when the server is gone and 202 while it stops.
func (a *API) stopServer(w http.ResponseWriter, r *http.Request, c caller) error {
	key, err := c.target(r, hub.ScopeServers)
	if err != nil {
		return err
	}
	var body struct {
		Remove bool `json:"remove"` // JupyterHub's; here the record of a stopped server goes by itself after a week
	}
	if err := decode(w, r, &body); err != nil {
		return err
	}
	if _, err := a.existing(r.Context(), key); err != nil {
		return err
	}
	s, err := a.cfg.Servers.Stop(r.Context(), key, "stopped by "+c.User.String())
	if err != nil {
		return err
	}
	if s.Phase.Active() {
		return reply(w, http.StatusAccepted, a.server(s, time.Time{}))
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// maxAhead is how far a server's clock may go before the hub's, as at JupyterHub.
const maxAhead = 59 * time.Minute

// postActivity is what a JupyterHub single-user server sends; times never go back, nor over now. Its
// faults are 400, as its clients expect.
func (a *API) postActivity(w http.ResponseWriter, r *http.Request, c caller) error {
	key, err := c.target(r, scopeActivity)
	if err != nil {
		return err
	}
	var body struct {
		LastActivity time.Time `json:"last_activity"`
		Servers      map[string]struct {
			LastActivity time.Time `json:"last_activity"`
		} `json:"servers"`
	}
	if err := decode(w, r, &body); err != nil {
		return err
	}
	bad := func(field, message, remedy string) error {
		return &httpx.Failure{Status: http.StatusBadRequest, Err: &hub.Error{Kind: hub.Invalid, Op: "record activity", Field: field, Message: message, Remedy: remedy}}
	}
	now, acts := time.Now(), make([]hub.Activity, 0, len(body.Servers))
	for name, s := range body.Servers {
		k, err := hub.ParseServerKey(key.User.String(), name)
		if err != nil {
			return bad("servers", "this is no name of a server", "use the name that the server was started with")
		}
		known, err := a.existing(r.Context(), k)
		if err != nil && hub.KindOf(err) != hub.NotFound {
			return err
		}
		if err != nil || known.Generation == 0 {
			return bad("servers", "there is no server of this name", "use the name that the server was started with")
		}
		if s.LastActivity.After(now.Add(maxAhead)) {
			return bad("last_activity", "this activity lies in the future", "set the server's clock")
		}
		if s.LastActivity.After(now) {
			s.LastActivity = now
		}
		acts = append(acts, hub.Activity{Key: k, Last: s.LastActivity})
	}
	if body.LastActivity.After(now.Add(maxAhead)) {
		return bad("last_activity", "this activity lies in the future", "set the server's clock")
	}
	if err := a.cfg.Routes.RecordActivity(r.Context(), acts); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}
