package web

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"carrel/hub"
)

// rowsOf are the first cells of a table's rows.
func rowsOf(p answer) []string {
	var names []string
	for _, tr := range p.all("tr") {
		if attr(tr, "data-key") == "" {
			continue
		}
		for n := range tr.Descendants() {
			if n.Type == html.ElementNode && n.Data == "strong" {
				names = append(names, n.FirstChild.Data)
			}
		}
	}
	return names
}

func TestAdminServers(t *testing.T) {
	s := plainSite(t)
	furnish(s)
	now := time.Now()
	s.servers.put(hub.Server{Key: mustKey(t, "bob"), Phase: hub.Ready, Profile: "large", Started: now.Add(-50 * time.Hour)})
	s.servers.put(hub.Server{Key: mustKey(t, "root"), Phase: hub.Ready, Profile: "small", Started: now.Add(-10 * time.Minute)})
	s.servers.usage[mustKey(t, "bob")] = hub.Usage{Memory: 20 << 30, MemoryLimit: 32 << 30, CPUSeconds: 7.5}
	if err := s.store.RecordActivity(t.Context(), []hub.Activity{{Key: mustKey(t, "bob"), Last: now.Add(-5 * time.Minute)}}); err != nil {
		t.Fatal(err)
	}
	p := s.get("root", "/hub/admin")
	for _, want := range []string{"Running 3", "Starting 2", "CPUs busy 7.92", "Memory in use 21 GiB", "Kept ready 3 · 305 MiB", "default Large", "2 days", "5 min", "7.50", "20 GiB", "gpu Large", "waiting in line"} {
		if !strings.Contains(spaced(p), want) {
			t.Errorf("the table does not say %q:\n%s", want, spaced(p))
		}
	}
	if strings.Contains(p.text(), "gone-") || strings.Contains(p.text(), "old") {
		t.Error("a server that does not run is listed")
	}
	for query, want := range map[string]string{
		"":                                    "alice alice alice alice alice bob root",
		"?q=bob":                              "bob",
		"?q=WAITING":                          "alice",
		"?q=large+running":                    "bob",
		"?q=nobody":                           "",
		"?sort=since&q=running":               "bob alice root",
		"?sort=since&q=running&dir=down":      "root alice bob",
		"?sort=memory&q=running":              "bob alice root",
		"?sort=idle&q=running":                "alice root bob",
		"?sort=cpu&q=running":                 "bob alice root",
		"?sort=nonsense&page=99&dir=x&q=root": "root",
		"?page=-1&q=root":                     "root",
	} {
		if got := strings.Join(rowsOf(s.get("root", "/hub/admin"+query)), " "); got != want {
			t.Errorf("%q lists %q, want %q", query, got, want)
		}
	}
	if p := s.get("root", "/hub/admin"); strings.Contains(p.Body.String(), "http://bob.localhost") {
		t.Error("an administrator is led into a server that they may not open")
	}
	s.servers.policy.AdminAccess = true
	if p := s.get("root", "/hub/admin"); !strings.Contains(p.Body.String(), `href="http://bob.localhost:8000/user/bob/lab"`) {
		t.Error("an administrator is not led into a server that they may open")
	}
}

// spaced is a page's text with a space between elements.
func spaced(p answer) string {
	var words []string
	for n := range p.doc.Descendants() {
		if n.Type == html.TextNode {
			words = append(words, strings.Fields(n.Data)...)
		}
	}
	return strings.Join(words, " ")
}

func TestAdminPages(t *testing.T) {
	s := plainSite(t)
	s.person("root", admin)
	for i := range 250 {
		s.servers.put(hub.Server{Key: mustKey(t, fmt.Sprintf("p%03d", i)), Phase: hub.Ready, Started: time.Now(), Profile: "small"})
	}
	first, last := s.get("root", "/hub/admin"), s.get("root", "/hub/admin?page=3&sort=person&dir=down")
	if n := len(rowsOf(first)); n != perPage || rowsOf(first)[0] != "p000" || !strings.Contains(first.text(), "Page 1 of 3") {
		t.Errorf("the first page has %d rows: %s", n, first.text())
	}
	if n := len(rowsOf(last)); n != 50 || rowsOf(last)[49] != "p000" || !strings.Contains(last.text(), "Page 3 of 3") {
		t.Errorf("the last page has %d rows", n)
	}
	var next string
	for _, a := range first.all("a") {
		if attr(a, "rel") == "next" {
			next = attr(a, "href")
		}
	}
	if p := s.get("root", next); rowsOf(p)[0] != "p100" {
		t.Errorf("%s begins with %s", next, rowsOf(p)[0])
	}
}

func TestStopAll(t *testing.T) {
	s := plainSite(t)
	furnish(s)
	s.servers.put(hub.Server{Key: mustKey(t, "bob"), Phase: hub.Ready, Profile: "large"})
	if text := s.get("root", "/hub/admin/stop-all").text(); !strings.Contains(text, "Stop 4 servers?") {
		t.Errorf("the question:\n%s", text)
	}
	if text := s.get("root", "/hub/admin/stop-all?q=large").text(); !strings.Contains(text, "Stop 1 server?") || !strings.Contains(text, "all that fit “large”") {
		t.Errorf("the question:\n%s", text)
	}
	if p := s.post("root", "/hub/admin/stop-all", url.Values{"q": {"large"}}); p.Code != http.StatusSeeOther || !slices.Equal(s.servers.stops, []string{"bob: an administrator stopped it"}) {
		t.Errorf("%d, stops %q", p.Code, s.servers.stops)
	}
	s.post("root", "/hub/admin/stop-all", nil)
	slices.Sort(s.servers.stops)
	want := []string{"alice/begun: an administrator stopped it", "alice/queue: an administrator stopped it", "alice: an administrator stopped it", "bob: an administrator stopped it"}
	if !slices.Equal(s.servers.stops, want) {
		t.Errorf("stops %q, want %q", s.servers.stops, want)
	}
	if text := s.get("root", "/hub/admin/stop-all").text(); !strings.Contains(text, "There is nothing to stop") {
		t.Errorf("afterwards:\n%s", text)
	}
}

func TestAdminPeople(t *testing.T) {
	s := plainSite(t)
	furnish(s)
	p := s.get("root", "/hub/admin/people")
	for _, want := range []string{"People 3", "Signed in 3", "alice@example.org staff, <i>lab</i>", "1 browser 192.0.2.7", "administrator Ada Root", "Start a server for bob"} {
		if !strings.Contains(spaced(p), want) {
			t.Errorf("the table does not say %q:\n%s", want, spaced(p))
		}
	}
	if got := rowsOf(s.get("root", "/hub/admin/people?sort=servers")); got[0] != "alice" {
		t.Errorf("by servers: %v", got)
	}
	if got := rowsOf(s.get("root", "/hub/admin/people?q=lab")); len(got) != 1 || got[0] != "alice" {
		t.Errorf("by group: %v", got)
	}
	if p := s.post("root", "/hub/admin/sign-out/alice", url.Values{"back": {"//evil.example"}}); p.Code != http.StatusSeeOther || p.location() != "/hub/admin/people" {
		t.Errorf("sign-out: %d to %s", p.Code, p.location())
	}
	if p := s.get("alice", "/hub/home"); p.Code != http.StatusFound {
		t.Errorf("alice is still signed in: status %d", p.Code)
	}
	if p := s.get("bob", "/hub/home"); p.Code != http.StatusOK {
		t.Errorf("bob is signed out too: status %d", p.Code)
	}
	if text := spaced(s.get("root", "/hub/admin/people?q=alice")); !strings.Contains(text, "Signed in 2") || strings.Contains(text, "Sign out alice") {
		t.Errorf("afterwards:\n%s", text)
	}
}

func TestAdministrationOfVisitors(t *testing.T) {
	s := plainSite(t)
	s.person("root", admin)
	s.person("alice", nil)
	if p := s.get("root", "/hub/admin/visitors"); p.Code != http.StatusNotFound || strings.Contains(s.get("root", "/hub/admin").Body.String(), "admin/visitors") {
		t.Errorf("where there are none: status %d", p.Code)
	}
	s.letVisitorsIn(func(p *hub.VisitPolicy) {
		p.Bans = []hub.Ban{
			{Network: netip.MustParsePrefix("198.51.100.0/24"), Until: time.Now().Add(90*time.Minute + time.Second)},
			{Network: netip.MustParsePrefix("203.0.113.0/24"), Until: time.Now().Add(-time.Minute)}, {Network: netip.MustParsePrefix("2001:db8::/32")},
		}
	})
	one, two := s.guest("one", "192.0.2.1"), s.guest("two", "2001:db9:0:1::77")
	p := s.get("root", "/hub/admin/visitors")
	for _, want := range []string{one.Name.String(), two.Name.String(), "192.0.2.1/32", "2001:db9:0:1::/64", "1 of 1", "in line", "198.51.100.0/24", "for another 1 h 30 min", "2001:db8::/32", "for ever"} {
		if !strings.Contains(p.text(), want) {
			t.Errorf("%q is not shown: %s", want, p.text())
		}
	}
	if strings.Contains(p.text(), "203.0.113.0") || strings.Contains(p.text(), "::77") {
		t.Errorf("it shows a ban that is over, or more of an address than counts: %s", p.text())
	}
	if p := s.get("root", "/hub/admin/visitors?q="+two.Name.String()); strings.Contains(p.text(), one.Name.String()) || !strings.Contains(p.text(), two.Name.String()) {
		t.Errorf("the search finds %s", p.text())
	}
	end := "/hub/admin/end-visit/"
	for who, status := range map[string]int{"alice": http.StatusForbidden, "one": http.StatusFound, "": http.StatusFound} {
		posted := status
		if status == http.StatusFound { // a form leads nobody to the sign-in
			posted = http.StatusUnauthorized
		}
		if p := s.ask(who, "POST", end+one.Name.String(), nil, nil); p.Code != posted {
			t.Errorf("%q ends a visit: status %d", who, p.Code)
		}
		if p := s.get(who, "/hub/admin/visitors"); p.Code != status {
			t.Errorf("%q sees visitors: status %d", who, p.Code)
		}
	}
	if p := s.ask("root", "POST", end+"alice", nil, nil); p.Code != http.StatusNotFound {
		t.Errorf("a person's end: status %d", p.Code)
	}
	if now, err := s.store.Visit(t.Context(), one.Name); err != nil || now.Phase != hub.VisitOpen {
		t.Errorf("before it is ended the visit is %+v, %v", now, err)
	}
	if p := s.ask("root", "POST", end+one.Name.String(), url.Values{"back": {"//evil.example"}}, nil); p.Code != http.StatusSeeOther || p.location() != "/hub/admin/visitors" {
		t.Errorf("the end: status %d, to %s", p.Code, p.location())
	}
	if now, err := s.store.Visit(t.Context(), one.Name); err != nil || now.Phase != hub.VisitEnding || now.End != hub.EndAdmin {
		t.Errorf("after it the visit is %+v, %v", now, err)
	}
}
