package web

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"carrel/hub"
)

// adminServer is a row of the servers' table.
type adminServer struct {
	ID, Version, Person, FullName, Server, Profile, Who string
	phase
	Since, Idle, CPU, Memory string
	OpenURL, StopURL         string
	Usage                    *usageView

	started, used time.Time
	cores         float64
	memory        int64
	order         int
}

type adminServersView struct {
	listing
	Rows                   []adminServer
	StopAllURL             string
	RunningCount, Starting int
	CPU, Memory            string
	Slots                  string // kept ready; "" where none are
}

// serverColumns are the columns of the servers' table and how each sorts when it is first pressed.
var serverColumns = []column[adminServer]{
	{"Person", "person", func(a, b adminServer) int { return strings.Compare(a.Person+"/"+a.Server, b.Person+"/"+b.Server) }},
	{"Server", "server", func(a, b adminServer) int { return strings.Compare(a.Server, b.Server) }},
	{"State", "state", func(a, b adminServer) int { return cmp.Compare(a.order, b.order) }},
	{"Running", "since", func(a, b adminServer) int { return olderFirst(a.started, b.started) }},
	{"Idle", "idle", func(a, b adminServer) int { return olderFirst(a.used, b.used) }},
	{"CPU", "cpu", func(a, b adminServer) int { return cmp.Compare(b.cores, a.cores) }},
	{"Memory", "memory", func(a, b adminServer) int { return cmp.Compare(b.memory, a.memory) }},
}

// olderFirst puts times that are not known last.
func olderFirst(a, b time.Time) int {
	if a.IsZero() != b.IsZero() {
		return cmp.Compare(zeroLast(a), zeroLast(b))
	}
	return a.Compare(b)
}

func zeroLast(t time.Time) int {
	if t.IsZero() {
		return 1
	}
	return 0
}

func (w *Web) adminServers(rw http.ResponseWriter, r *http.Request, v visitor) error {
	rows, err := w.serverRows(r.Context(), v)
	if err != nil {
		return err
	}
	view := adminServersView{StopAllURL: w.path("admin/stop-all")}
	cores, memory := 0.0, int64(0)
	for _, row := range rows {
		cores, memory = cores+row.cores, memory+row.memory
		switch {
		case !row.started.IsZero():
			view.RunningCount++
		case row.Word == phases[hub.Queued].Word || row.Word == phases[hub.Starting].Word:
			view.Starting++
		}
	}
	view.CPU, view.Memory = coresText(cores), bytesText(memory)
	if stock, ok := w.cfg.Servers.SlotStock(); ok {
		view.Slots = fmt.Sprintf("%d · %s", stock.Ready, bytesText(stock.Memory))
	}
	q := r.URL.Query()
	rows = matching(rows, q.Get("q"))
	view.listing, view.Rows = list(w.listing("servers", "admin"), q, serverColumns, rows)
	if view.Query != "" {
		view.StopAllURL += "?" + url.Values{"q": {view.Query}}.Encode()
	}
	f := v.frame("Servers", "admin")
	f.Script, f.Wide = "admin.js", true
	return w.render(rw, http.StatusOK, "admin-servers", f, view)
}

// matching are the rows that hold every word of what is searched for.
func matching(rows []adminServer, query string) []adminServer {
	return slices.DeleteFunc(rows, func(row adminServer) bool {
		return !holds(query, row.Person, row.FullName, row.Server, row.Profile, row.Word)
	})
}

// holds tells whether each word of the query is in one of the texts.
func holds(query string, texts ...string) bool {
	all := strings.ToLower(strings.Join(texts, "\n"))
	for word := range strings.FieldsSeq(strings.ToLower(query)) {
		if !strings.Contains(all, word) {
			return false
		}
	}
	return true
}

// serverRows joins servers with their owners and activity.
func (w *Web) serverRows(ctx context.Context, v visitor) ([]adminServer, error) {
	names := map[hub.UserName]string{}
	for u, err := range w.cfg.Users.Users(ctx) {
		if err != nil {
			return nil, err
		}
		names[u.Name] = plain(u.DisplayName)
	}
	used := map[hub.ServerKey]time.Time{}
	for a, err := range w.cfg.Activities.Activities(ctx) {
		if err != nil {
			return nil, err
		}
		used[a.Key] = a.Last
	}
	var rows []adminServer
	for s, err := range w.cfg.Servers.Servers(ctx) {
		if err != nil {
			return nil, err
		}
		if s.Phase != hub.Absent {
			rows = append(rows, w.serverRow(s, names[s.Key.User], used[s.Key], v))
		}
	}
	return rows, nil
}

var phaseOrder = []hub.Phase{hub.Ready, hub.Paused, hub.Starting, hub.Queued, hub.Stopping, hub.Failed}

func (w *Web) serverRow(s hub.Server, fullName string, used time.Time, v visitor) adminServer {
	row := adminServer{
		ID: "server-" + s.Key.Label(), Person: s.Key.User.String(), FullName: fullName, Server: s.Key.Server.String(), Who: name(s.Key, visitor{}),
		Profile: profileTitle(w.profile(s.Profile)),
		phase:   phases[s.Phase], order: slices.Index(phaseOrder, s.Phase), Version: fmt.Sprintf("%s %d", s.Phase, s.Generation),
	}
	if row.FullName == row.Person {
		row.FullName = ""
	}
	if s.Key.User.IsVisitor() {
		row.FullName = hub.VisitorUser(s.Key.User).DisplayName
	}
	if s.Phase.Active() && s.Phase != hub.Stopping {
		row.StopURL = w.path("stop/" + keyPath(s.Key))
	}
	if s.Phase != hub.Ready && s.Phase != hub.Paused {
		return row
	}
	if to := w.destination(v, s, ""); to != w.path("admin") {
		row.OpenURL = to
	}
	if used.Before(s.Started) {
		used = s.Started
	}
	row.started, row.Since, row.used, row.Idle = s.Started, ago(s.Started), used, ago(used)
	if u, cores, ok := w.cfg.Servers.Usage(s.Key); ok {
		row.Usage, row.cores, row.memory = w.usageOf(s), cores, max(0, u.Memory)
		row.CPU, row.Memory = coresText(cores), bytesText(u.Memory)
	}
	return row
}

// stoppable are the servers that "stop all" would end: those that the search shows and that run or
// are about to.
func (w *Web) stoppable(ctx context.Context, v visitor, query string) ([]hub.ServerKey, error) {
	rows, err := w.serverRows(ctx, v)
	if err != nil {
		return nil, err
	}
	var keys []hub.ServerKey
	for _, row := range matching(rows, query) {
		key, err := hub.ParseServerKey(row.Person, row.Server)
		if err == nil && row.StopURL != "" {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// adminAskStopAll asks once more, with the number, before many people lose what they compute.
func (w *Web) adminAskStopAll(rw http.ResponseWriter, r *http.Request, v visitor) error {
	query := r.URL.Query().Get("q")
	keys, err := w.stoppable(r.Context(), v, query)
	if err != nil {
		return err
	}
	view := struct {
		Query, Servers, StopURL, BackURL string
		Count                            int
	}{query, count(len(keys), "server", "servers"), w.path("admin/stop-all"), w.path("admin") + "?" + url.Values{"q": {query}}.Encode(), len(keys)}
	return w.render(rw, http.StatusOK, "stop-all", v.frame("Stop all servers", "admin"), view)
}

// adminStopAll stops what the search finds, several at a time, and goes on past those that fail.
func (w *Web) adminStopAll(rw http.ResponseWriter, r *http.Request, v visitor) error {
	keys, err := w.stoppable(r.Context(), v, r.PostFormValue("q"))
	if err != nil {
		return err
	}
	w.cfg.Logger.InfoContext(r.Context(), "stop all", "by", v.User.String(), "servers", len(keys))
	var g errgroup.Group
	g.SetLimit(8)
	ctx := r.Context()
	for _, key := range keys {
		g.Go(func() error { return w.stopOne(ctx, key) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	redirect(rw, r, w.path("admin"), http.StatusSeeOther)
	return nil
}

func (w *Web) stopOne(ctx context.Context, key hub.ServerKey) error {
	_, err := w.cfg.Servers.Stop(ctx, key, "an administrator stopped it")
	if err != nil {
		w.cfg.Logger.WarnContext(ctx, "stop all: not stopped", "server", key.String(), "error", err)
	}
	return err
}

// adminSignOut ends every session of a person; what they run goes on.
func (w *Web) adminSignOut(rw http.ResponseWriter, r *http.Request, v visitor) error {
	name, err := hub.ParseUserName(r.PathValue("user"))
	if err != nil {
		return err
	}
	ended, err := w.cfg.Sessions.EndSessions(r.Context(), hub.SessionQuery{User: name})
	if err != nil {
		return err
	}
	w.cfg.Logger.LogAttrs(r.Context(), slog.LevelInfo, "signed out by administrator", slog.String("user", name.String()), slog.String("by", v.User.String()), slog.Int("sessions", len(ended)))
	redirect(rw, r, hub.LocalPath(r.PostFormValue("back"), w.path("admin"), w.path("admin/people")), http.StatusSeeOther)
	return nil
}

const perPage = 100

// column is a column of a table of rows T.
type column[T any] struct {
	Title, ID string
	compare   func(a, b T) int
}

// heading is a column's head as shown; Sorted is "ascending", "descending" or "".
type heading struct{ Title, URL, Sorted string }

// listing is what every table of the administration has: a search, headings that sort, and pages.
type listing struct {
	Here                          string // "servers", "people" or "visitors"
	Action, ServersURL, PeopleURL string
	VisitorsURL                   string // "" where there are none
	Self                          string // this very view of it, to come back to
	Query, Sort, Dir              string
	Headings                      []heading
	Page, Pages                   int
	PrevURL, NextURL              string
}

func (w *Web) listing(here, page string) listing {
	l := listing{Here: here, Action: w.path(page), ServersURL: w.path("admin"), PeopleURL: w.path("admin/people")}
	if w.visits() {
		l.VisitorsURL = w.path("admin/visitors")
	}
	return l
}

// list sorts rows and cuts the page that q asks for.
func list[T any](l listing, q url.Values, columns []column[T], rows []T) (listing, []T) {
	l.Query, l.Sort, l.Dir = plain(q.Get("q")), columns[0].ID, "up"
	if q.Get("dir") == "down" {
		l.Dir = "down"
	}
	by := columns[0]
	for _, c := range columns {
		if c.ID == q.Get("sort") {
			by, l.Sort = c, c.ID
		}
	}
	slices.SortStableFunc(rows, func(a, b T) int {
		if l.Dir == "down" {
			return by.compare(b, a)
		}
		return by.compare(a, b)
	})
	link := func(sort, dir string, page int) string {
		to := url.Values{"sort": {sort}, "dir": {dir}}
		if l.Query != "" {
			to.Set("q", l.Query)
		}
		if page > 1 {
			to.Set("page", strconv.Itoa(page))
		}
		return l.Action + "?" + to.Encode()
	}
	for _, c := range columns {
		h := heading{c.Title, link(c.ID, "up", 1), ""}
		if c.ID == l.Sort {
			h.Sorted = map[string]string{"up": "ascending", "down": "descending"}[l.Dir]
			h.URL = link(c.ID, map[string]string{"up": "down", "down": "up"}[l.Dir], 1)
		}
		l.Headings = append(l.Headings, h)
	}
	l.Pages = max(1, (len(rows)+perPage-1)/perPage)
	l.Page, _ = strconv.Atoi(q.Get("page"))
	l.Page = min(max(l.Page, 1), l.Pages)
	if l.Page > 1 {
		l.PrevURL = link(l.Sort, l.Dir, l.Page-1)
	}
	if l.Page < l.Pages {
		l.NextURL = link(l.Sort, l.Dir, l.Page+1)
	}
	l.Self = link(l.Sort, l.Dir, l.Page)
	return l, rows[(l.Page-1)*perPage : min(l.Page*perPage, len(rows))]
}
