package web

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

// letVisitorsIn opens the site, for one at a time.
func (s *site) letVisitorsIn(change func(*hub.VisitPolicy)) {
	s.servers.policy.Profiles = append(s.servers.policy.Profiles, hub.Profile{Name: "visitor", Title: "Visitor", Visitors: true, DefaultURL: "/lab"})
	s.servers.policy.Visits = hub.VisitPolicy{
		Enabled: true, Profile: "visitor", Max: 1, Line: 2, Age: time.Hour, Extend: time.Hour, Extensions: 1, Grace: time.Minute, ArrivalsIn: time.Hour,
		Page: hub.VisitPage{Title: "Try it", Text: "A notebook.\n\nOf your own."},
	}
	if change != nil {
		change(&s.servers.policy.Visits)
	}
}

// guest takes somebody in, whom the site knows by name from then on.
func (s *site) guest(name, from string) hub.Visit {
	s.t.Helper()
	visit, secret, err := s.visits.Come(s.t.Context(), netip.MustParseAddr(from), "", "")
	if err != nil {
		s.t.Fatal(err)
	}
	s.guests[name] = secret
	return visit
}

// cookie is one that an answer sets.
func (p answer) cookie(name string) *http.Cookie {
	for _, c := range p.Result().Cookies() {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func TestVisitByClicks(t *testing.T) {
	s := plainSite(t)
	for _, path := range []string{"/hub/tmp", "/hub/tmp/wait", "/hub/tmp/status", "/hub/tmp/image"} {
		if p := s.get("", path); p.Code != http.StatusNotFound {
			t.Errorf("switched off, %s: status %d", path, p.Code)
		}
	}
	if p := s.post("", "/hub/tmp", nil); p.Code != http.StatusNotFound {
		t.Errorf("switched off, the click: status %d", p.Code)
	}
	s.letVisitorsIn(nil)
	if p := s.get("", "/hub/tmp"); p.Code != http.StatusOK || !slices.Contains(p.forms(), "/hub/tmp") || !strings.Contains(p.text(), "yours for 1 h") || len(s.servers.starts) > 0 {
		t.Fatalf("the landing page: status %d, %s", p.Code, p.text())
	}
	p := s.post("", "/hub/tmp", url.Values{"path": {"chem/a b.ipynb"}})
	c := p.cookie("carrel-visitor")
	if p.Code != http.StatusSeeOther || p.location() != "/hub/tmp/wait?path=chem%2Fa+b.ipynb" || c == nil || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.MaxAge != 0 {
		t.Fatalf("the click: status %d, to %s, %+v", p.Code, p.location(), c)
	}
	s.guests["eve"] = hub.NewSecret(c.Value)
	if len(s.servers.starts) != 1 || s.servers.starts[0].Profile != "visitor" {
		t.Fatalf("starts: %+v", s.servers.starts)
	}
	key := s.servers.starts[0].Key
	if p := s.get("eve", p.location()); p.Code != http.StatusOK || !strings.Contains(p.text(), "Starting your notebook") || len(p.all("nav")) > 0 {
		t.Errorf("while it starts: status %d, %s", p.Code, p.text())
	}
	if again := s.post("eve", "/hub/tmp", nil); again.Code != http.StatusSeeOther || again.cookie("carrel-visitor") != nil || len(s.servers.starts) != 1 {
		t.Errorf("a second click: status %d, %d starts", again.Code, len(s.servers.starts))
	}
	s.servers.put(hub.Server{Key: key, Phase: hub.Ready, Profile: "visitor", Generation: 1, Revision: 2})
	want := s.origins.ServerURL(key, "lab/tree/chem/a%20b.ipynb")
	if p := s.get("eve", "/hub/tmp/wait?path=chem/a+b.ipynb"); p.Code != http.StatusFound || p.location() != want {
		t.Errorf("when it is ready: status %d, to %s, want %s", p.Code, p.location(), want)
	}
	if p := s.get("eve", "/hub/tmp"); !strings.Contains(p.text(), "has a notebook open") || slices.Contains(p.forms(), "/hub/tmp") {
		t.Errorf("with a notebook the landing page says %s", p.text())
	}
	p = s.post("eve", "/hub/tmp/leave", nil)
	if c := p.cookie("carrel-visitor"); p.Code != http.StatusSeeOther || p.location() != "/hub/tmp?ended=1" || c == nil || c.MaxAge >= 0 {
		t.Errorf("the goodbye: status %d, to %s, %+v", p.Code, p.location(), c)
	}
	if p := s.get("eve", "/hub/tmp/wait"); p.Code != http.StatusSeeOther || p.location() != "/hub/tmp?ended=1" {
		t.Errorf("after the goodbye: status %d, to %s", p.Code, p.location())
	}
}

func TestWaitText(t *testing.T) {
	for wait, want := range map[time.Duration]string{
		0: "about 5 seconds", 3 * time.Second: "about 5 seconds", 7600 * time.Millisecond: "about 8 seconds", 19 * time.Second: "about 19 seconds", 22 * time.Second: "about 20 seconds", 23 * time.Second: "about 25 seconds",
		58 * time.Second: "about 1 minute", 66 * time.Second: "about 1 minute 10 seconds", 110 * time.Second: "about 1 minute 50 seconds",
		2 * time.Minute: "about 2 minutes", 136 * time.Second: "about 2 minutes 30 seconds", 5*time.Minute + 40*time.Second: "about 6 minutes", 2 * time.Hour: "about 120 minutes",
	} {
		if got := waitText(hub.LinePlace{Wait: wait, Known: true}); got != want {
			t.Errorf("%v: %q, want %q", wait, got, want)
		}
	}
	if got := waitText(hub.LinePlace{N: 3}); got != "" {
		t.Errorf("of what nobody knows it says %q", got)
	}
}

func TestVisitorsInLine(t *testing.T) {
	s := plainSite(t)
	s.letVisitorsIn(nil)
	s.guest("first", "192.0.2.1")
	s.guest("second", "192.0.2.2")
	s.guest("third", "192.0.2.3")
	if p := s.get("third", "/hub/tmp/wait"); p.Code != http.StatusOK || !strings.Contains(p.text(), "Your place is 2") || len(p.all("meta")) < 3 {
		t.Errorf("the line: status %d, %s", p.Code, p.text())
	}
	var status struct {
		Phase string
		Place int
		Wait  string
	}
	script := http.Header{"Sec-Fetch-Mode": {"cors"}, "Accept": {"application/json"}}
	if p := s.ask("third", "GET", "/hub/tmp/status", nil, script); json.Unmarshal(p.Body.Bytes(), &status) != nil || status.Phase != "waiting" || status.Place != 2 || status.Wait != "" || strings.Contains(p.Body.String(), `"wait":`) || strings.Contains(p.Body.String(), "wait_seconds") {
		t.Errorf("the script is told %s", p.Body)
	}
	if p := s.get("third", "/hub/tmp/wait"); !strings.Contains(p.Body.String(), `id="told" hidden`) {
		t.Errorf("the page tells a time that nobody knows: %s", p.text())
	}
	if p := s.ask("", "GET", "/hub/tmp/status", nil, script); p.Code != http.StatusUnauthorized {
		t.Errorf("nobody's script: status %d", p.Code)
	}
	p := s.ask("", "POST", "/hub/tmp", nil, http.Header{"X-Forwarded-For": {"192.0.2.4"}})
	if p.Code != http.StatusServiceUnavailable || !strings.Contains(p.text(), "line is full") || p.Header().Get("Retry-After") == "" || p.cookie("carrel-visitor") != nil {
		t.Errorf("beyond the line: status %d, %s", p.Code, p.text())
	}
}

// TestVisitorsHaveNoAccount: no page of people's opens with a visitor's session, however it is carried.
func TestVisitorsHaveNoAccount(t *testing.T) {
	s := plainSite(t)
	furnish(s)
	s.letVisitorsIn(nil)
	s.guest("open", "192.0.2.1")
	s.secrets["open"] = s.guests["open"] // the visitor's own secret in the cookie of people
	for _, path := range []string{"/hub/home", "/hub/spawn", "/hub/admin", "/hub/user-redirect/lab", "/hub/spawn/alice"} {
		if p := s.get("open", path); p.Code != http.StatusFound || !strings.HasPrefix(p.location(), "/hub/login?") {
			t.Errorf("%s: status %d, to %s", path, p.Code, p.location())
		}
	}
	s.guests["alice"] = s.secrets["alice"] // and the other way round
	delete(s.secrets, "alice")
	if p := s.get("alice", "/hub/tmp/wait"); p.Code != http.StatusSeeOther || p.location() != "/hub/tmp?ended=1" {
		t.Errorf("alice as a visitor: status %d, to %s", p.Code, p.location())
	}
}

func TestVisitorsTicket(t *testing.T) {
	s := plainSite(t)
	s.letVisitorsIn(func(p *hub.VisitPolicy) { p.Max = 2 })
	s.person("alice", nil)
	one, other := s.guest("one", "192.0.2.1"), s.guest("other", "192.0.2.2")
	ask := func(who string, name hub.UserName) answer {
		q := url.Values{"host": {s.origins.Host(name)}, "browser": {strings.Repeat("ab", 32)}, "next": {s.origins.ServerPath(hub.ServerKey{User: name}) + "lab"}}
		return s.get(who, "/hub/ticket?"+q.Encode())
	}
	if p := ask("one", one.Name); p.Code != http.StatusFound || !strings.HasPrefix(p.location(), s.origins.ServerOrigin(one.Name)+"/carrel-enter?ticket=") {
		t.Errorf("for one's own: status %d, to %s", p.Code, p.location())
	}
	if p := ask("one", other.Name); p.Code != http.StatusForbidden {
		t.Errorf("for another's: status %d", p.Code)
	}
	if p := ask("alice", one.Name); p.Code != http.StatusSeeOther || p.location() != "/hub/tmp?ended=1" {
		t.Errorf("for a person: status %d, to %s", p.Code, p.location())
	}
	if p := ask("one", mustKey(t, "alice").User); p.Code != http.StatusFound || !strings.HasPrefix(p.location(), "/hub/login?") {
		t.Errorf("for a person's server: status %d, to %s", p.Code, p.location())
	}
}

func TestPathsOfLinks(t *testing.T) {
	s := plainSite(t)
	s.letVisitorsIn(nil)
	for path, ok := range map[string]bool{
		"a.ipynb": true, "chem/a b.ipynb": true, "ü/é.ipynb": true, "a%2Fb.ipynb": true,
		"../x": false, "a/../../x": false, "/etc/passwd": false, "a//b": false, "a/": false, "a\\b": false, "a\x00b": false, "//evil.example": false, "./a": false, strings.Repeat("x", 600): false,
	} {
		status := http.StatusOK
		if !ok {
			status = http.StatusUnprocessableEntity
		}
		if p := s.get("", "/hub/tmp?path="+url.QueryEscape(path)); p.Code != status {
			t.Errorf("%q: status %d, want %d", path, p.Code, status)
		}
	}
}

func TestPicture(t *testing.T) {
	s := plainSite(t)
	name := filepath.Join(t.TempDir(), "a.png")
	s.letVisitorsIn(func(p *hub.VisitPolicy) { p.Page.Image = name })
	for _, c := range []struct {
		content string
		status  int
	}{{"\x89PNG\r\n\x1a\n....", 200}, {"<script>alert(1)</script>", 404}, {"\x89PNG\r\n\x1a\n" + strings.Repeat("x", 3<<20), 404}} {
		if err := os.WriteFile(name, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if p := s.get("", "/hub/tmp/image"); p.Code != c.status || c.status == 200 && p.Header().Get("Content-Type") != "image/png" {
			t.Errorf("%.10q: status %d, %s", c.content, p.Code, p.Header().Get("Content-Type"))
		}
	}
}

// TestTokenInAddress: a browser without a visit takes over the one whose token it is given; any other word
// leads to where visits begin, and a browser that has a visit keeps it.
func TestTokenInAddress(t *testing.T) {
	s := plainSite(t)
	s.letVisitorsIn(func(p *hub.VisitPolicy) { p.Max = 2 })
	one, other := s.guest("one", "192.0.2.1"), s.guest("other", "192.0.2.2")
	token := hub.RandomSecret()
	if err := s.store.CreateToken(t.Context(), hub.Token{ID: "t", Hash: token.Hash(), User: one.Name, UserID: hub.VisitorUser(one.Name).ID, Created: time.Now(), Expires: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	ask := func(who string, name hub.UserName, token string) answer {
		q := url.Values{"host": {s.origins.Host(name)}, "browser": {strings.Repeat("ab", 32)}, "next": {s.origins.ServerPath(hub.ServerKey{User: name}) + "?a=b&token=" + token}}
		return s.get(who, "/hub/ticket?"+q.Encode())
	}
	p := ask("", one.Name, token.Reveal())
	if c := p.cookie("carrel-visitor"); p.Code != http.StatusFound || !strings.HasPrefix(p.location(), s.origins.ServerOrigin(one.Name)+"/carrel-enter?ticket=") || c == nil || strings.Contains(p.location(), token.Reveal()) {
		t.Errorf("with the token: status %d, to %s", p.Code, p.location())
	}
	at, err := url.Parse(p.location())
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := s.store.TakeTicket(t.Context(), hub.NewSecret(at.Query().Get("ticket")).Hash())
	if err != nil || strings.Contains(ticket.Next, "token") || !strings.HasSuffix(ticket.Next, "?a=b") {
		t.Errorf("the ticket leads to %q, %v", ticket.Next, err)
	}
	for _, c := range []struct {
		who    string
		name   hub.UserName
		token  string
		status int
	}{{"", one.Name, "wrong", 303}, {"", other.Name, token.Reveal(), 303}, {"other", one.Name, token.Reveal(), 403}, {"one", one.Name, "wrong", 302}} {
		if p := ask(c.who, c.name, c.token); p.Code != c.status || p.cookie("carrel-visitor") != nil {
			t.Errorf("%+v: status %d, to %s", c, p.Code, p.location())
		}
	}
}

func TestDownload(t *testing.T) {
	s := plainSite(t)
	s.letVisitorsIn(nil)
	x := s.guest("one", "192.0.2.1")
	if p := s.get("one", "/hub/tmp/download"); p.Code != http.StatusConflict {
		t.Errorf("before it runs: status %d", p.Code)
	}
	s.servers.put(hub.Server{Key: x.Key(), Phase: hub.Ready, Profile: "visitor", Generation: 1, Revision: 2})
	p := s.get("one", "/hub/tmp/download")
	if p.Code != http.StatusOK || p.Body.String() != "PK of "+x.Name.String() || p.Header().Get("Content-Type") != "application/zip" || p.Header().Get("Content-Disposition") != `attachment; filename="my-work.zip"` {
		t.Errorf("status %d, %v, %s", p.Code, p.Header(), p.Body)
	}
	if p := s.get("", "/hub/tmp/download"); p.Code != http.StatusSeeOther {
		t.Errorf("for nobody: status %d", p.Code)
	}
	s.servers.fault = hub.Errorf(hub.Unavailable, "archive", "it does not answer")
	if p := s.get("one", "/hub/tmp/download"); p.Code != http.StatusServiceUnavailable || p.Header().Get("Content-Disposition") != "" {
		t.Errorf("when it fails: status %d, %v", p.Code, p.Header())
	}
}

// TestStayIsTold to the page of a visitor's server, and what the page has to tell is heard.
func TestStayIsTold(t *testing.T) {
	s := plainSite(t)
	s.letVisitorsIn(nil)
	x := s.guest("one", "192.0.2.1")
	edge := s.web.Edge()
	ask := func(method, path string) (answer, stay) {
		t.Helper()
		p := answer{ResponseRecorder: httptest.NewRecorder()}
		edge.ServeHTTP(p, httptest.NewRequestWithContext(t.Context(), method, path+x.Key().Label(), nil))
		var n notice
		if p.Code == http.StatusOK {
			if err := json.Unmarshal(p.Body.Bytes(), &n); err != nil || n.Visit == nil {
				t.Fatalf("%s %s: %s, %v", method, path, p.Body, err)
			}
			return p, *n.Visit
		}
		return p, stay{}
	}
	_, first := ask("GET", "/notice/")
	if !first.EndsAt.Equal(x.Expires) || !first.CanExtend || first.ExtendSeconds != 3600 || first.DownloadURL != s.origins.HubURL("tmp/download") || first.DoneURL != s.origins.HubURL("tmp") {
		t.Errorf("the stay is %+v", first)
	}
	if p, _ := ask("POST", "/leave/"); p.Code != http.StatusNoContent {
		t.Errorf("a goodbye: status %d", p.Code)
	}
	if now, err := s.store.Visit(t.Context(), x.Name); err != nil || now.Left.IsZero() {
		t.Errorf("after the goodbye the visit is %+v, %v", now, err)
	}
	ask("GET", "/notice/")
	if now, err := s.store.Visit(t.Context(), x.Name); err != nil || !now.Left.IsZero() {
		t.Errorf("after a reload the visit is %+v, %v", now, err)
	}
	ask("POST", "/leave/")
	if p, _ := ask("POST", "/back/"); p.Code != http.StatusNoContent {
		t.Errorf("a page that is back: status %d", p.Code)
	}
	if now, err := s.store.Visit(t.Context(), x.Name); err != nil || !now.Left.IsZero() {
		t.Errorf("with a page that is back the visit is %+v, %v", now, err)
	}
	if _, more := ask("POST", "/more/"); !more.EndsAt.Equal(x.Expires.Add(time.Hour)) || more.CanExtend {
		t.Errorf("with more time the stay is %+v", more)
	}
	if p, _ := ask("POST", "/more/"); p.Code != http.StatusForbidden {
		t.Errorf("with still more: status %d", p.Code)
	}
}

// TestSiblings: who finds all notebooks taken is sent to a sibling with room, by the link or by the click, once;
// two that are full send nobody to and fro.
func TestSiblings(t *testing.T) {
	one, two := plainSite(t), newSite(t, hub.Subdomains, "http://localhost:9000/", "")
	one.sibling, two.sibling = two, one
	for _, s := range []*site{one, two} {
		s.letVisitorsIn(nil)
	}
	stays := func(s *site, who, path string) answer {
		t.Helper()
		p := s.get(who, path)
		if p.Code != http.StatusOK || len(p.all("form")) == 0 {
			t.Errorf("%s at %s: status %d, to %s", path, s.origins.HubOrigin(), p.Code, p.location())
		}
		return p
	}
	stays(one, "", "/hub/tmp?path=a/b.ipynb") // there is room
	one.guest("first", "192.0.2.1")
	const there = "http://localhost:9000/hub/tmp?hop=1&path=a%2Fb.ipynb"
	if p := one.get("", "/hub/tmp?path=a/b.ipynb"); p.Code != http.StatusFound || p.location() != there {
		t.Errorf("the link: status %d, to %s", p.Code, p.location())
	}
	if p := one.ask("", "POST", "/hub/tmp", url.Values{"path": {"a/b.ipynb"}}, nil); p.Code != http.StatusSeeOther || p.location() != there || p.cookie("carrel-visitor") != nil {
		t.Errorf("the click: status %d, to %s", p.Code, p.location())
	}
	if !slices.Equal(one.took, []bool{false, true}) {
		t.Errorf("the link and the click took places there: %v", one.took)
	}
	stays(one, "first", "/hub/tmp")
	stays(one, "", "/hub/tmp?ended=1")
	if p := one.get("", "/hub/tmp?path=../x"); p.Code != http.StatusUnprocessableEntity {
		t.Errorf("a bad link: status %d", p.Code)
	}

	// The one that was sent here keeps that mark by the form, and stays also when this one is full by then.
	two.guest("second", "192.0.2.2")
	if p := stays(two, "", strings.TrimPrefix(there, two.origins.HubOrigin())); !strings.Contains(p.Body.String(), `name="hop" value="1"`) {
		t.Errorf("the form forgets the hop: %s", p.Body)
	}
	p := two.ask("", "POST", "/hub/tmp", url.Values{"path": {"a/b.ipynb"}, "hop": {"1"}}, http.Header{"X-Forwarded-For": {"192.0.2.3"}})
	if p.Code != http.StatusSeeOther || !strings.HasPrefix(p.location(), "/hub/tmp/wait") {
		t.Errorf("the second click: status %d, to %s", p.Code, p.location())
	}
	stays(one, "", "/hub/tmp?path=a/b.ipynb") // nobody has room: the line is here
}

// TestWorkAtTheDoor: the page has the script do the work; without it, or twice with the same, nobody is let in.
func TestWorkAtTheDoor(t *testing.T) {
	s := plainSite(t)
	s.letVisitorsIn(func(p *hub.VisitPolicy) {
		p.Max, p.Captcha = 2, hub.CaptchaPolicy{Kind: hub.CaptchaWork, Bits: 8}
	})
	p := s.get("", "/hub/tmp")
	if !strings.Contains(p.Body.String(), `data-challenge="/hub/tmp/challenge"`) || !strings.Contains(p.Body.String(), "tmp-work.js") {
		t.Errorf("the page asks for no work: %s", p.Body)
	}
	at := http.Header{"X-Forwarded-For": {"192.0.2.1"}}
	come := func(form url.Values, header http.Header) answer { return s.ask("", "POST", "/hub/tmp", form, header) }
	if p := come(nil, at); p.Code != http.StatusForbidden || p.cookie("carrel-visitor") != nil || !strings.Contains(p.text(), "work") {
		t.Errorf("without work: status %d, %s", p.Code, p.text())
	}
	p = s.ask("", "GET", "/hub/tmp/challenge", nil, http.Header{"X-Forwarded-For": {"192.0.2.1"}, "Sec-Fetch-Mode": {"cors"}, "Accept": {"application/json"}})
	var c hub.Challenge
	if err := json.Unmarshal(p.Body.Bytes(), &c); err != nil || c.Bits != 8 || p.Header().Get("Cache-Control") != "no-store" {
		t.Fatalf("the work is %s, %v", p.Body, err)
	}
	answer, err := hub.Work(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	form := url.Values{"challenge": {c.Text}, "answer": {answer}}
	if p := come(form, http.Header{"X-Forwarded-For": {"192.0.2.9"}}); p.Code != http.StatusForbidden {
		t.Errorf("somebody else's work: status %d", p.Code)
	}
	if p := come(form, at); p.Code != http.StatusSeeOther || p.cookie("carrel-visitor") == nil {
		t.Errorf("with work: status %d, %s", p.Code, p.text())
	}
	if p := come(form, at); p.Code != http.StatusForbidden || !strings.Contains(p.text(), "used before") {
		t.Errorf("with the same work: status %d, %s", p.Code, p.text())
	}
}

// TestCaptchaAtTheDoor: the service's script is let into the landing page, and into no other.
func TestCaptchaAtTheDoor(t *testing.T) {
	s := plainSite(t)
	s.letVisitorsIn(func(p *hub.VisitPolicy) {
		p.Captcha = hub.CaptchaPolicy{Kind: hub.CaptchaSite, Widget: hub.CaptchaWidget{
			Script: "https://captcha.example/api.js", Class: "h-captcha", SiteKey: `k"<>`, Field: "h-captcha-response", Origins: []string{"https://captcha.example"},
		}}
	})
	p := s.get("", "/hub/tmp")
	policy := p.Header().Get("Content-Security-Policy")
	if !strings.Contains(p.Body.String(), `<div class="h-captcha" data-sitekey="k&#34;&lt;&gt;"></div>`) || !strings.Contains(p.Body.String(), `src="https://captcha.example/api.js"`) {
		t.Errorf("the page shows no captcha: %s", p.Body)
	}
	if !strings.Contains(policy, "script-src 'self' https://captcha.example;") || !strings.Contains(policy, "frame-src https://captcha.example;") || strings.Contains(policy, "unsafe") {
		t.Errorf("the landing page's policy is %s", policy)
	}
	for _, other := range []string{"/hub/login", "/hub/tmp?path=../x", "/hub/tmp/status", "/hub/home"} {
		if policy := s.get("", other).Header().Get("Content-Security-Policy"); strings.Contains(policy, "captcha.example") {
			t.Errorf("the policy of %s is %s", other, policy)
		}
	}
	s.guest("inside", "192.0.2.1")
	if p := s.get("inside", "/hub/tmp"); strings.Contains(p.Header().Get("Content-Security-Policy"), "captcha.example") || strings.Contains(p.Body.String(), "captcha.example") {
		t.Errorf("who has a notebook is shown no captcha, and the policy is %s", p.Header().Get("Content-Security-Policy"))
	}
	// The hub of this test has no service that could say yes.
	if p := s.ask("", "POST", "/hub/tmp", url.Values{"h-captcha-response": {"x"}}, nil); p.Code != http.StatusForbidden || p.cookie("carrel-visitor") != nil {
		t.Errorf("unchecked: status %d", p.Code)
	}
}
