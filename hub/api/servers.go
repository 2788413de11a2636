package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"carrel/hub"
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
	Scopes       []hub.Scope            `json:"scopes,omitempty"` // whoami only
}

func (a *API) server(s hub.Server, last time.Time) serverModel {
	m := serverModel{
		Name: s.Key.Server.String(), Ready: s.Phase == hub.Ready || s.Phase == hub.Paused,
		Stopped: !s.Phase.Active(), Pending: pending(s.Phase),
		URL: a.cfg.Origins.ServerPath(s.Key), FullURL: a.cfg.Origins.ServerURL(s.Key, ""),
		ProgressURL: a.cfg.Origins.HubPath("api/users/" + s.Key.User.String() + "/server/progress"),
		UserOptions: map[string]any{"profile": s.Profile}, Reason: s.Reason,
	}
	if s.Key.Server.String() != "" {
		m.ProgressURL = a.cfg.Origins.HubPath("api/users/" + s.Key.User.String() + "/servers/" + s.Key.Server.String() + "/progress")
	}
	m.Started, m.LastActivity = orNull(s.Started), orNull(last)
	return m
}

func pending(p hub.Phase) *string {
	word := ""
	switch p {
	case hub.Queued, hub.Starting:
		word = "spawn"
	case hub.Stopping:
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
func (a *API) activities(r *http.Request) (map[hub.ServerKey]time.Time, error) {
	last := map[hub.ServerKey]time.Time{}
	for act, err := range a.cfg.Routes.Activities(r.Context()) {
		if err != nil {
			return nil, err
		}
		last[act.Key] = act.Last
	}
	return last, nil
}

// people makes the models of users, with their servers where want says so.
func (a *API) people(r *http.Request, users []hub.User) ([]userModel, error) {
	last, err := a.activities(r)
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
		if m == nil || !s.Phase.Active() {
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
	models[0].Scopes = c.Scopes
	if c.Scopes == nil {
		models[0].Scopes = []hub.Scope{hub.ScopeSelf}
	}
	return reply(w, http.StatusOK, models[0])
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
)

// listUsers answers an administrator with a page of people, by offset and limit.
func (a *API) listUsers(w http.ResponseWriter, r *http.Request, c caller) error {
	if !c.Admin || !c.Can(hub.ScopeReadUsers, c.User) {
		return &hub.Error{Kind: hub.Forbidden, Op: "list users", Message: "only administrators may list people"}
	}
	offset, err := queryInt(r, "offset", 0, 1<<31-1)
	if err != nil {
		return err
	}
	limit, err := queryInt(r, "limit", pageDefault, pageMax)
	if err != nil {
		return err
	}
	users := make([]hub.User, 0, limit)
	i := 0
	for u, err := range a.cfg.Users.Users(r.Context()) {
		if err != nil {
			return err
		}
		if i >= offset && len(users) < limit {
			users = append(users, u)
		}
		i++
	}
	models, err := a.people(r, users)
	if err != nil {
		return err
	}
	if r.Header.Get("Accept") != "application/jupyterhub-pagination+json" {
		return reply(w, http.StatusOK, models)
	}
	type position struct {
		Offset int `json:"offset"`
		Limit  int `json:"limit"`
		Total  int `json:"total"`
		Next   any `json:"next"`
	}
	p := position{Offset: offset, Limit: limit, Total: i}
	if next := offset + limit; next < i {
		p.Next = map[string]any{"offset": next, "limit": limit, "url": a.cfg.Origins.HubURL(fmt.Sprintf("api/users?offset=%d&limit=%d", next, limit))}
	}
	return reply(w, http.StatusOK, map[string]any{"items": models, "_pagination": p})
}

func queryInt(r *http.Request, name string, otherwise, most int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, &hub.Error{Kind: hub.Invalid, Op: "read query", Field: name, Message: name + " is no number from 0 on", Remedy: "leave it out, or give a number"}
	}
	return min(n, most), nil
}

func (a *API) getServer(w http.ResponseWriter, r *http.Request, c caller) error {
	key, err := c.target(r, hub.ScopeReadUsers)
	if err != nil {
		return err
	}
	s, err := a.cfg.Servers.Server(r.Context(), key)
	if err != nil {
		return err
	}
	last, err := a.activities(r)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, a.server(s, last[key]))
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
	if err := decode(r, &options); err != nil {
		return err
	}
	s, err := a.cfg.Servers.Start(r.Context(), hub.StartRequest{Key: key, By: c.Principal, Profile: options.Profile, SafeStart: options.SafeStart})
	if err != nil {
		return err
	}
	if s.Phase == hub.Ready {
		return reply(w, http.StatusCreated, a.server(s, time.Time{}))
	}
	return reply(w, http.StatusAccepted, a.server(s, time.Time{}))
}

// stopServer answers 204 when the server is gone and 202 while it stops.
func (a *API) stopServer(w http.ResponseWriter, r *http.Request, c caller) error {
	key, err := c.target(r, hub.ScopeServers)
	if err != nil {
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

// postActivity is what a JupyterHub single-user server sends; times never go back, nor over now.
func (a *API) postActivity(w http.ResponseWriter, r *http.Request, c caller) error {
	key, err := c.target(r, "users:activity")
	if err != nil {
		return err
	}
	var body struct {
		LastActivity time.Time `json:"last_activity"`
		Servers      map[string]struct {
			LastActivity time.Time `json:"last_activity"`
		} `json:"servers"`
	}
	if err := decode(r, &body); err != nil {
		return err
	}
	var acts []hub.Activity
	for name, s := range body.Servers {
		k, err := hub.ParseServerKey(key.User.String(), name)
		if err != nil {
			return err
		}
		if s.LastActivity.After(time.Now().Add(59 * time.Minute)) {
			return &hub.Error{Kind: hub.Invalid, Op: "record activity", Field: "last_activity", Message: "this activity lies in the future", Remedy: "set the server's clock"}
		}
		acts = append(acts, hub.Activity{Key: k, Last: s.LastActivity})
	}
	if err := a.cfg.Routes.RecordActivity(r.Context(), acts); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// progress is an event stream in JupyterHub's form, with Carrel's fields beside.
func (a *API) progress(w http.ResponseWriter, r *http.Request, c caller) error {
	key, err := c.target(r, hub.ScopeReadUsers)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	for p := range a.cfg.Servers.Progress(r.Context(), key) {
		event := map[string]any{"progress": p.Percent, "message": p.Message, "step": p.Step}
		switch {
		case p.Done && p.Failed:
			event["failed"], event["log"], event["remedy"] = true, p.Log, p.Remedy
		case p.Done:
			event["ready"], event["url"] = true, a.cfg.Origins.ServerPath(key)
		case p.Place > 0:
			event["place"] = p.Place
		}
		b, err := json.Marshal(event)
		if err != nil {
			return hub.Wrap(hub.Internal, "encode progress", err)
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", b); err != nil {
			return hub.Wrap(hub.Canceled, "send progress", err)
		}
		if err := rc.Flush(); err != nil {
			return hub.Wrap(hub.Canceled, "send progress", err)
		}
	}
	return nil
}
