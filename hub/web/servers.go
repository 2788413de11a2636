package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"carrel/hub"
)

// serverView is one card of the home page.
type serverView struct {
	Label, Title, State, Tone, Reason                           string
	Profile, Since, SinceClock, CullAt, CullClock, CullWhy      string
	OpenURL, PendingURL, StopURL, StartURL, ExtendURL, UsageURL string
	Running, Pending, Stoppable, Startable, CanExtend           bool
	Usage                                                       *usageView
}

type usageView struct {
	Memory  string `json:"memory"`
	Limit   string `json:"limit"`
	CPU     string `json:"cpu"`
	Percent int    `json:"percent"`
}

// profileView is one choice of a start form.
type profileView struct {
	Name, Title, Description, Facts string
	Default                         bool
}

func bytesText(n int64) string { return units.BytesSize(float64(n)) }

func title(key hub.ServerKey, v visitor) string {
	switch {
	case key.User != v.User:
		return key.String()
	case key.Server.String() == "":
		return "My server"
	}
	return key.Server.String()
}

var states = map[hub.Phase][2]string{
	hub.Absent: {"not running", ""}, hub.Queued: {"waiting in line", "warn"}, hub.Starting: {"starting", "warn"}, hub.Ready: {"running", "good"},
	hub.Paused: {"paused", "good"}, hub.Stopping: {"stopping", "warn"}, hub.Failed: {"failed", "bad"},
}

func keyPath(key hub.ServerKey) string {
	if key.Server.String() == "" {
		return key.User.String()
	}
	return key.User.String() + "/" + key.Server.String()
}

func clock(t time.Time) string { return t.Local().Format("15:04 on 2 January") }

func (w *Web) serverView(s hub.Server, v visitor) serverView {
	state := states[s.Phase]
	p := keyPath(s.Key)
	sv := serverView{
		Label: s.Key.Label(), Title: title(s.Key, v), State: state[0], Tone: state[1], Profile: s.Profile,
		Since: s.Started.Format(time.RFC3339), SinceClock: clock(s.Started),
		OpenURL: w.cfg.Origins.ServerURL(s.Key, ""), PendingURL: w.path("spawn-pending/" + p), StopURL: w.path("stop/" + p),
		StartURL: w.path("spawn/" + p), ExtendURL: w.path("keep/" + p), UsageURL: w.path("usage/" + s.Key.Label()),
		Running: s.Phase == hub.Ready || s.Phase == hub.Paused, Pending: s.Phase == hub.Queued || s.Phase == hub.Starting,
		Startable: !s.Phase.Active(),
	}
	sv.Stoppable = sv.Running || sv.Pending
	if !sv.Running {
		sv.Reason = sentence(s.Reason)
	}
	if !s.CullAt.IsZero() && sv.Running {
		sv.CullAt, sv.CullClock, sv.CullWhy = s.CullAt.Format(time.RFC3339), clock(s.CullAt), s.CullWhy
		sv.CanExtend = w.cfg.Servers.Policy().CullRule(s.Profile, v.Groups).Extend > 0 && !strings.Contains(s.CullWhy, "maximum age")
	}
	if sv.Running {
		sv.Usage = w.usageView(s.Key)
	}
	return sv
}

func (w *Web) usageView(key hub.ServerKey) *usageView {
	u, cores, ok := w.cfg.Servers.Usage(key)
	if !ok {
		return nil
	}
	uv := &usageView{Memory: bytesText(u.Memory), Limit: bytesText(u.MemoryLimit), CPU: fmt.Sprintf("%.0f%% of a core", 100*cores)}
	if u.MemoryLimit > 0 {
		uv.Percent = int(100 * u.Memory / u.MemoryLimit)
	}
	return uv
}

func (w *Web) profiles(u hub.User) []profileView {
	var views []profileView
	def, err := w.cfg.Servers.Policy().Profile("", u.Name, u.Groups, u.Admin)
	if err != nil {
		return nil
	}
	for _, p := range w.cfg.Servers.Policy().Profiles {
		if !p.Allows(u.Name, u.Groups, u.Admin) {
			continue
		}
		facts := []string{strconv.FormatFloat(p.Limits.CPUs, 'f', -1, 64) + " CPU", bytesText(p.Limits.Memory) + " memory"}
		if p.Limits.Disk > 0 && p.Home != "" {
			facts = append(facts, bytesText(p.Limits.Disk)+" for files")
		}
		if p.Network == hub.NetworkNone {
			facts = append(facts, "no network")
		}
		views = append(views, profileView{p.Name, p.Title, p.Description, strings.Join(facts, ", "), p.Name == def.Name})
	}
	return views
}

// own lists a person's servers, the default one first, whether it ever ran or not.
func (w *Web) own(r *http.Request, v visitor) ([]hub.Server, error) {
	def, err := w.cfg.Servers.Server(r.Context(), hub.ServerKey{User: v.User})
	if err != nil {
		return nil, err
	}
	servers := []hub.Server{def}
	for s, err := range w.cfg.Servers.Servers(r.Context()) {
		if err != nil {
			return nil, err
		}
		if s.Key.User == v.User && s.Key.Server.String() != "" {
			servers = append(servers, s)
		}
	}
	sort.Slice(servers[1:], func(i, j int) bool { return servers[i+1].Key.Server.String() < servers[j+1].Key.Server.String() })
	return servers, nil
}

func (w *Web) home(rw http.ResponseWriter, r *http.Request, v visitor) error {
	servers, err := w.own(r, v)
	if err != nil {
		return err
	}
	view := struct {
		Servers  []serverView
		Profiles []profileView
		MayAdd   bool
		AddURL   string
	}{Profiles: w.profiles(v.user), MayAdd: w.cfg.Servers.Policy().MaxPerUser != 1, AddURL: w.path("servers")}
	for _, s := range servers {
		view.Servers = append(view.Servers, w.serverView(s, v))
	}
	return w.render(rw, http.StatusOK, "home", v.frame("My servers", "home", "home.js"), view)
}

func (w *Web) usage(rw http.ResponseWriter, r *http.Request, v visitor) error {
	key, ok := hub.ParseServerLabel(r.PathValue("label"))
	if !ok || !v.Can(hub.ScopeServers, key.User) {
		return hub.Errorf(hub.NotFound, "show usage", "there is no such server of yours")
	}
	u := w.usageView(key)
	if u == nil {
		return hub.Errorf(hub.NotFound, "show usage", "this server was not measured yet")
	}
	rw.Header().Set("Content-Type", "application/json")
	return hub.Wrap(hub.Canceled, "send usage", json.NewEncoder(rw).Encode(u))
}

func (w *Web) ownSpawn(rw http.ResponseWriter, r *http.Request, v visitor) error {
	http.Redirect(rw, r, w.path("spawn/"+v.User.String()), http.StatusFound)
	return nil
}

// spawnPage offers a start, with what went wrong the last time; what runs already is opened.
func (w *Web) spawnPage(rw http.ResponseWriter, r *http.Request, v visitor) error {
	key, err := w.target(r.Context(), r, v)
	if err != nil {
		return err
	}
	s, err := w.cfg.Servers.Server(r.Context(), key)
	if err != nil {
		return err
	}
	next := w.nextOf(key, r.URL.Query().Get("next"))
	switch {
	case s.Phase == hub.Ready || s.Phase == hub.Paused:
		http.Redirect(rw, r, next, http.StatusFound)
		return nil
	case s.Phase.Pending() && s.Phase != hub.Stopping:
		http.Redirect(rw, r, w.pendingURL(key, next), http.StatusFound)
		return nil
	}
	owner, err := w.cfg.Users.User(r.Context(), key.User)
	if err != nil {
		return err
	}
	view := struct {
		Title, Reason, StartURL, Next string
		Failed                        bool
		Log                           []string
		Profiles                      []profileView
	}{
		strings.ToLower(title(key, v)[:1]) + title(key, v)[1:], sentence(s.Reason), w.path("spawn/" + keyPath(key)), r.URL.Query().Get("next"),
		s.Phase == hub.Failed, s.LogTail, w.profiles(owner),
	}
	return w.render(rw, http.StatusOK, "spawn", v.frame("Start", "home"), view)
}

// nextOf is where a browser goes once the server is ready: a page of that server, absolute.
func (w *Web) nextOf(key hub.ServerKey, text string) string {
	path := hub.LocalPath(text, w.cfg.Origins.ServerPath(key), w.cfg.Origins.ServerPath(key))
	return w.cfg.Origins.ServerOrigin(key.User) + path
}

func (w *Web) pendingURL(key hub.ServerKey, next string) string {
	u, err := url.Parse(next)
	if err != nil {
		return w.path("spawn-pending/" + keyPath(key))
	}
	return w.path("spawn-pending/"+keyPath(key)) + "?next=" + url.QueryEscape(u.RequestURI())
}

func (w *Web) spawn(rw http.ResponseWriter, r *http.Request, v visitor) error {
	key, err := w.target(r.Context(), r, v)
	if err != nil {
		return err
	}
	return w.start(rw, r, v, key)
}

func (w *Web) start(rw http.ResponseWriter, r *http.Request, v visitor, key hub.ServerKey) error {
	if _, err := w.cfg.Servers.Start(r.Context(), hub.StartRequest{Key: key, By: v.Principal, Profile: r.PostFormValue("profile"), SafeStart: r.PostFormValue("safe") == "1"}); err != nil {
		return err
	}
	http.Redirect(rw, r, w.pendingURL(key, w.nextOf(key, r.PostFormValue("next"))), http.StatusSeeOther)
	return nil
}

func (w *Web) addServer(rw http.ResponseWriter, r *http.Request, v visitor) error {
	key, err := hub.ParseServerKey(v.User.String(), strings.TrimSpace(r.PostFormValue("server")))
	if err != nil {
		return err
	}
	http.Redirect(rw, r, w.path("spawn/"+keyPath(key)), http.StatusSeeOther)
	return nil
}

// pending shows how a start goes; without scripts it is fetched anew every two seconds.
func (w *Web) pending(rw http.ResponseWriter, r *http.Request, v visitor) error {
	key, err := w.target(r.Context(), r, v)
	if err != nil {
		return err
	}
	s, err := w.cfg.Servers.Server(r.Context(), key)
	if err != nil {
		return err
	}
	ready := w.nextOf(key, r.URL.Query().Get("next"))
	failed := w.path("spawn/"+keyPath(key)) + "?next=" + url.QueryEscape(r.URL.Query().Get("next"))
	if !s.Phase.Active() {
		http.Redirect(rw, r, failed, http.StatusFound)
		return nil
	}
	view := struct {
		Heading, Message, ProgressURL, ReadyURL, FailedURL, CancelURL string
		Percent                                                       int
		Steps                                                         []string
		Ready                                                         bool
	}{
		Heading: "Starting " + strings.ToLower(title(key, v)[:1]) + title(key, v)[1:], Message: "Your server is " + states[s.Phase][0] + ".",
		ProgressURL: w.path("spawn-progress/" + key.Label()), ReadyURL: ready, FailedURL: failed, CancelURL: w.path("stop/" + keyPath(key)),
		Percent: 5, Ready: s.Phase == hub.Ready,
	}
	f := v.frame("Starting", "home", "pending.js")
	f.Refresh = "2"
	if view.Ready {
		f.Refresh = "0; url=" + ready
	}
	return w.render(rw, http.StatusOK, "pending", f, view)
}

// progress is the event stream behind the page.
func (w *Web) progress(rw http.ResponseWriter, r *http.Request, v visitor) error {
	key, ok := hub.ParseServerLabel(r.PathValue("label"))
	if !ok || !v.Can(hub.ScopeServers, key.User) {
		return hub.Errorf(hub.NotFound, "show progress", "there is no such server of yours")
	}
	rw.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(rw)
	for p := range w.cfg.Servers.Progress(r.Context(), key) {
		b, err := json.Marshal(map[string]any{
			"step": p.Step, "message": p.Message, "detail": p.Detail, "progress": p.Percent, "place": p.Place,
			"ready": p.Done && !p.Failed, "failed": p.Failed,
		})
		if err != nil {
			return hub.Wrap(hub.Internal, "encode progress", err)
		}
		if _, err := fmt.Fprintf(rw, "data: %s\n\n", b); err != nil {
			return hub.Wrap(hub.Canceled, "send progress", err)
		}
		if err := rc.Flush(); err != nil {
			return hub.Wrap(hub.Canceled, "send progress", err)
		}
	}
	return nil
}

func (w *Web) stop(rw http.ResponseWriter, r *http.Request, v visitor) error {
	key, err := w.target(r.Context(), r, v)
	if err != nil {
		return err
	}
	why := "you stopped it"
	if key.User != v.User {
		why = "an administrator stopped it"
	}
	if _, err := w.cfg.Servers.Stop(r.Context(), key, why); err != nil {
		return err
	}
	w.settle(r, key)
	to := "home"
	if r.PostFormValue("back") == "admin" {
		to = "admin"
	}
	http.Redirect(rw, r, w.path(to), http.StatusSeeOther)
	return nil
}

// settle gives a stop a moment, so that the page that follows shows its end.
func (w *Web) settle(r *http.Request, key hub.ServerKey) {
	for range 60 {
		s, err := w.cfg.Servers.Server(r.Context(), key)
		if err != nil || !s.Phase.Active() {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (w *Web) keep(rw http.ResponseWriter, r *http.Request, v visitor) error {
	key, err := w.target(r.Context(), r, v)
	if err != nil {
		return err
	}
	if _, err := w.cfg.Servers.Extend(r.Context(), key); err != nil {
		return err
	}
	http.Redirect(rw, r, w.path("home"), http.StatusSeeOther)
	return nil
}
