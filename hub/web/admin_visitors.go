package web

import (
	"cmp"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"carrel/hub"
)

// adminVisit is a row of the visitors' table.
type adminVisit struct {
	ID, Version, Visitor, Network, Path string
	phase
	Since, Left string
	EndURL      string

	arrived, expires time.Time
}

// banView is a network that is shut out.
type banView struct{ Network, Until string }

type adminVisitsView struct {
	listing
	Rows                    []adminVisit
	Open, Capacity, Waiting int
	Wait                    string
	Bans                    []banView
}

var visitColumns = []column[adminVisit]{
	{"Visitor", "visitor", func(a, b adminVisit) int { return strings.Compare(a.Visitor, b.Visitor) }},
	{"Network", "network", func(a, b adminVisit) int { return strings.Compare(a.Network, b.Network) }},
	{"State", "state", func(a, b adminVisit) int { return cmp.Compare(a.Word, b.Word) }},
	{"Here for", "since", func(a, b adminVisit) int { return olderFirst(a.arrived, b.arrived) }},
	{"Time left", "left", func(a, b adminVisit) int { return olderFirst(a.expires, b.expires) }},
}

var visitPhases = map[hub.VisitPhase]phase{
	hub.VisitWaiting: {Word: "in line", Tone: "off"}, hub.VisitOpen: {Word: "open", Tone: "good"}, hub.VisitEnding: {Word: "leaving", Tone: "warn"},
}

// adminVisitors shows who is here without an account: of each the network that the limits count, and
// nothing else that tells who they are.
func (w *Web) adminVisitors(rw http.ResponseWriter, r *http.Request, v visitor) error {
	if !w.visits() {
		return errNoVisits
	}
	all, err := w.cfg.Visits.All(r.Context())
	if err != nil {
		return err
	}
	stats, err := w.cfg.Visits.Stats(r.Context())
	if err != nil {
		return err
	}
	view := adminVisitsView{Open: stats.Open, Capacity: stats.Capacity, Waiting: stats.Waiting, Wait: waitText(stats.Wait), Bans: bansOf(w.cfg.Visits.Policy())}
	if stats.Waiting == 0 {
		view.Wait = ""
	}
	q := r.URL.Query()
	var rows []adminVisit
	for _, x := range all {
		row := w.visitRow(x)
		if holds(q.Get("q"), row.Visitor, row.Network, row.Path, row.Word) {
			rows = append(rows, row)
		}
	}
	view.listing, view.Rows = list(w.listing("visitors", "admin/visitors"), q, visitColumns, rows)
	f := v.frame("Visitors", "admin")
	f.Script, f.Wide = "admin.js", true
	return w.render(rw, http.StatusOK, "admin-visitors", f, view)
}

func (w *Web) visitRow(x hub.Visit) adminVisit {
	row := adminVisit{
		ID: "visit-" + x.Name.Label(), Version: string(x.Phase), Visitor: x.Name.String(), Network: x.From, Path: plain(x.Path), phase: visitPhases[x.Phase],
		Since: ago(x.Arrived), arrived: x.Arrived, expires: x.Expires,
	}
	if x.Phase == hub.VisitOpen {
		row.Left = span(time.Until(x.Expires))
	}
	if x.Phase != hub.VisitEnding {
		row.EndURL = w.path("admin/end-visit/" + x.Name.String())
	}
	return row
}

// bansOf are those in force.
func bansOf(p hub.VisitPolicy) (list []banView) {
	for _, b := range p.Bans {
		switch {
		case b.Until.IsZero():
			list = append(list, banView{b.Network.String(), "for ever"})
		case time.Now().Before(b.Until):
			list = append(list, banView{b.Network.String(), "for another " + span(time.Until(b.Until))})
		}
	}
	return list
}

// adminEndVisit ends one; everything of it is removed.
func (w *Web) adminEndVisit(rw http.ResponseWriter, r *http.Request, v visitor) error {
	name, err := hub.ParseUserName(r.PathValue("user"))
	if err != nil {
		return err
	}
	if !w.visits() || !name.IsVisitor() {
		return errNoVisits
	}
	if err := w.cfg.Visits.Expel(r.Context(), name); err != nil {
		return err
	}
	w.cfg.Logger.LogAttrs(r.Context(), slog.LevelInfo, "visit ended by administrator", slog.String("visitor", name.String()), slog.String("by", v.User.String()))
	redirect(rw, r, hub.LocalPath(r.PostFormValue("back"), w.path("admin"), w.path("admin/visitors")), http.StatusSeeOther)
	return nil
}
