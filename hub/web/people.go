package web

import (
	"cmp"
	"net/http"
	"strings"
	"time"

	"carrel/hub"
)

// adminPerson is a row of the people's table.
type adminPerson struct {
	ID, Version, Person, FullName, Email, Provider, Groups string
	Admin                                                  bool
	Sessions, Servers                                      int
	SessionsText, Seen, From                               string
	SignOutURL, StartURL                                   string

	seen time.Time
}

type adminPeopleView struct {
	listing
	Rows            []adminPerson
	Total, SignedIn int
}

var personColumns = []column[adminPerson]{
	{"Person", "person", func(a, b adminPerson) int { return strings.Compare(a.Person, b.Person) }},
	{"Account", "account", func(a, b adminPerson) int { return strings.Compare(a.Provider+"/"+a.Email, b.Provider+"/"+b.Email) }},
	{"Signed in", "sessions", func(a, b adminPerson) int { return cmp.Compare(b.Sessions, a.Sessions) }},
	{"Servers", "servers", func(a, b adminPerson) int { return cmp.Compare(b.Servers, a.Servers) }},
	{"Last seen", "seen", func(a, b adminPerson) int { return olderFirst(b.seen, a.seen) }},
}

func (w *Web) adminPeople(rw http.ResponseWriter, r *http.Request, v visitor) error {
	rows, err := w.personRows(r)
	if err != nil {
		return err
	}
	view := adminPeopleView{Total: len(rows)}
	q := r.URL.Query()
	var found []adminPerson
	for _, row := range rows {
		state := ""
		if row.Sessions > 0 {
			view.SignedIn++
			state = "signed in"
		}
		if holds(q.Get("q"), row.Person, row.FullName, row.Email, row.Provider, row.Groups, state) {
			found = append(found, row)
		}
	}
	view.listing, view.Rows = list(w.listing("people", "admin/people"), q, personColumns, found)
	f := v.frame("People", "admin")
	f.Script, f.Wide = "admin.js", true
	return w.render(rw, http.StatusOK, "admin-people", f, view)
}

// personRows joins people with their sessions and servers.
func (w *Web) personRows(r *http.Request) ([]adminPerson, error) {
	type signedIn struct {
		count int
		last  hub.Session
	}
	sessions := map[hub.UserName]signedIn{}
	for s, err := range w.cfg.Sessions.Sessions(r.Context()) {
		if err != nil {
			return nil, err
		}
		if s.Parent != "" || !s.Live(time.Now()) {
			continue // those of notebooks' hosts are made from one of the hub's
		}
		in := sessions[s.User]
		in.count++
		if s.LastSeen.After(in.last.LastSeen) {
			in.last = s
		}
		sessions[s.User] = in
	}
	servers := map[hub.UserName]int{}
	for s, err := range w.cfg.Servers.Servers(r.Context()) {
		if err != nil {
			return nil, err
		}
		if s.Phase.Active() {
			servers[s.Key.User]++
		}
	}
	var rows []adminPerson
	for u, err := range w.cfg.Users.Users(r.Context()) {
		if err != nil {
			return nil, err
		}
		in := sessions[u.Name]
		row := adminPerson{
			ID: "person-" + u.Name.Label(), Person: u.Name.String(), FullName: plain(u.DisplayName), Email: plain(u.Email), Provider: plain(u.Provider),
			Groups: plain(strings.Join(u.Groups, ", ")), Admin: u.Admin, Sessions: in.count, Servers: servers[u.Name], From: plain(in.last.From), seen: u.LastSeen,
			StartURL: w.path("spawn/" + u.Name.String()),
		}
		if in.last.LastSeen.After(row.seen) {
			row.seen = in.last.LastSeen
		}
		if !row.seen.IsZero() {
			row.Seen = ago(row.seen) + " ago"
		}
		if row.FullName == row.Person {
			row.FullName = ""
		}
		if in.count > 0 {
			row.SignOutURL = w.path("admin/sign-out/" + u.Name.String())
		}
		row.SessionsText = count(in.count, "browser", "browsers")
		row.Version = map[bool]string{true: "in", false: "out"}[in.count > 0]
		rows = append(rows, row)
	}
	return rows, nil
}
