package web

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"carrel/hub"
)

const adminPage = 100

// adminRow is a person with one of their servers, or with none.
type adminRow struct {
	User, Server, State, Tone, Since, Idle, CPU, Memory string
	StopURL, SignOutURL, key                            string
	Admin                                               bool
	SessionCount                                        int
	since, idle                                         time.Time
	cores                                               float64
	memory                                              int64
	running                                             bool
}

type adminColumn struct{ Title, URL, Sorted string }

type adminView struct {
	Self, Query, StopAllURL, PrevURL, NextURL string
	OnlyActive                                bool
	Total, SignedIn, RunningCount, Page       int
	StopAll                                   []string
	Columns                                   []adminColumn
	Rows                                      []adminRow
}

var errAdmins = &hub.Error{Kind: hub.Forbidden, Op: "administer", Message: "this page is for administrators", Remedy: "go to your own servers"}

// sorts are the columns by which the table can be ordered.
var sorts = map[string]func(a, b adminRow) int{
	"user":   func(a, b adminRow) int { return strings.Compare(a.User, b.User) },
	"since":  func(a, b adminRow) int { return b.since.Compare(a.since) },
	"idle":   func(a, b adminRow) int { return a.idle.Compare(b.idle) },
	"cpu":    func(a, b adminRow) int { return cmp.Compare(b.cores, a.cores) },
	"memory": func(a, b adminRow) int { return cmp.Compare(b.memory, a.memory) },
}

func (w *Web) admin(rw http.ResponseWriter, r *http.Request, v visitor) error {
	if !v.Admin {
		return errAdmins
	}
	q := r.URL.Query()
	view := adminView{Self: w.path("admin"), Query: q.Get("q"), OnlyActive: q.Get("active") == "1", StopAllURL: w.path("admin/stop")}
	rows, err := w.adminRows(r, &view)
	if err != nil {
		return err
	}
	by := q.Get("sort")
	order, ok := sorts[by]
	if !ok {
		by, order = "user", sorts["user"]
	}
	slices.SortStableFunc(rows, order)
	view.Page, _ = strconv.Atoi(q.Get("page"))
	view.Page = min(max(view.Page, 1), max(1, (len(rows)+adminPage-1)/adminPage))
	link := func(change func(url.Values)) string {
		to := url.Values{}
		for _, k := range []string{"q", "active", "sort"} {
			if q.Get(k) != "" {
				to.Set(k, q.Get(k))
			}
		}
		change(to)
		return view.Self + "?" + to.Encode()
	}
	for _, c := range [][2]string{{"Person", "user"}, {"Signed in", ""}, {"Server", ""}, {"State", ""}, {"Since", "since"}, {"Idle", "idle"}, {"CPU", "cpu"}, {"Memory", "memory"}, {"Do", ""}} {
		col := adminColumn{Title: c[0]}
		if c[1] != "" {
			col.URL = link(func(u url.Values) { u.Set("sort", c[1]) })
		}
		if c[1] == by {
			col.Sorted = "ascending"
		}
		view.Columns = append(view.Columns, col)
	}
	if view.Page > 1 {
		view.PrevURL = link(func(u url.Values) { u.Set("page", strconv.Itoa(view.Page-1)) })
	}
	if view.Page*adminPage < len(rows) {
		view.NextURL = link(func(u url.Values) { u.Set("page", strconv.Itoa(view.Page+1)) })
	}
	view.Rows = rows[(view.Page-1)*adminPage : min(view.Page*adminPage, len(rows))]
	for _, row := range view.Rows {
		if row.running {
			view.StopAll = append(view.StopAll, row.key)
		}
	}
	return w.render(rw, http.StatusOK, "admin", v.frame("Administration", "admin", "admin.js"), view)
}

// adminRows joins people, sessions, servers and activity, and counts them.
func (w *Web) adminRows(r *http.Request, view *adminView) ([]adminRow, error) {
	ctx := r.Context()
	sessions := map[hub.UserName]int{}
	for s, err := range w.cfg.Sessions.Sessions(ctx) {
		if err != nil {
			return nil, err
		}
		sessions[s.User]++
	}
	used := map[hub.ServerKey]time.Time{}
	for a, err := range w.cfg.Activities.Activities(ctx) {
		if err != nil {
			return nil, err
		}
		used[a.Key] = a.Last
	}
	servers := map[hub.UserName][]hub.Server{}
	for s, err := range w.cfg.Servers.Servers(ctx) {
		if err != nil {
			return nil, err
		}
		if s.Phase != hub.Absent {
			servers[s.Key.User] = append(servers[s.Key.User], s)
		}
		if s.Phase == hub.Ready {
			view.RunningCount++
		}
	}
	view.SignedIn = len(sessions)
	var rows []adminRow
	for u, err := range w.cfg.Users.Users(ctx) {
		if err != nil {
			return nil, err
		}
		view.Total++
		if !strings.Contains(u.Name.String(), strings.ToLower(view.Query)) && !strings.Contains(strings.ToLower(u.DisplayName), strings.ToLower(view.Query)) {
			continue
		}
		if len(servers[u.Name]) == 0 && !view.OnlyActive {
			rows = append(rows, w.personRow(u, sessions[u.Name]))
		}
		for _, s := range servers[u.Name] {
			rows = append(rows, w.serverRow(u, sessions[u.Name], s, used[s.Key]))
		}
	}
	return rows, nil
}

func (w *Web) personRow(u hub.User, sessions int) adminRow {
	row := adminRow{User: u.Name.String(), Admin: u.Admin, SessionCount: sessions}
	if sessions > 0 {
		row.SignOutURL = w.path("admin/sign-out/" + u.Name.String())
	}
	return row
}

func (w *Web) serverRow(u hub.User, sessions int, s hub.Server, used time.Time) adminRow {
	row := w.personRow(u, sessions)
	row.key, row.State, row.Tone = s.Key.Label(), states[s.Phase][0], states[s.Phase][1]
	row.Server = s.Key.Server.String()
	if row.Server == "" {
		row.Server = "default"
	}
	row.Server += " (" + s.Profile + ")"
	row.running = s.Phase.Active() && s.Phase != hub.Stopping
	if row.running {
		row.StopURL = w.path("stop/" + keyPath(s.Key))
	}
	if s.Phase == hub.Ready {
		row.since, row.Since = s.Started, ago(s.Started)
		if used.Before(s.Started) {
			used = s.Started
		}
		row.idle, row.Idle = used, ago(used)
	}
	if usage, cores, ok := w.cfg.Servers.Usage(s.Key); ok && row.running {
		row.cores, row.memory = cores, usage.Memory
		row.CPU, row.Memory = fmt.Sprintf("%.0f%%", 100*cores), bytesText(usage.Memory)
	}
	return row
}

// ago says how long ago a time was, roughly.
func ago(t time.Time) string {
	switch d := time.Since(t); {
	case d < time.Minute:
		return "under 1 min"
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}

// adminStop stops the servers that a page showed.
func (w *Web) adminStop(rw http.ResponseWriter, r *http.Request, v visitor) error {
	if !v.Admin {
		return errAdmins
	}
	if err := r.ParseForm(); err != nil {
		return hub.Errorf(hub.Invalid, "read form", "the form can't be read")
	}
	for _, label := range r.PostForm["server"] {
		key, ok := hub.ParseServerLabel(label)
		if !ok {
			return &hub.Error{Kind: hub.Invalid, Op: "stop servers", Field: "server", Message: "there is no such server", Remedy: "load the page again"}
		}
		if _, err := w.cfg.Servers.Stop(r.Context(), key, "an administrator stopped it"); err != nil {
			return err
		}
	}
	http.Redirect(rw, r, w.path("admin"), http.StatusSeeOther)
	return nil
}

// adminSignOut ends every session of a person; what they run goes on.
func (w *Web) adminSignOut(rw http.ResponseWriter, r *http.Request, v visitor) error {
	if !v.Admin {
		return errAdmins
	}
	name, err := hub.ParseUserName(r.PathValue("user"))
	if err != nil {
		return err
	}
	ended, err := w.cfg.Sessions.EndSessions(r.Context(), hub.SessionQuery{User: name})
	if err != nil {
		return err
	}
	w.cfg.Logger.InfoContext(r.Context(), "signed out by administrator", "user", name.String(), "by", v.User.String(), "sessions", len(ended))
	http.Redirect(rw, r, w.path("admin"), http.StatusSeeOther)
	return nil
}
