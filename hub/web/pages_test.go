package web

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"carrel/hub"
)

// furnish makes a house full of people and servers in every phase, with the nastiest words that
// each place can hold.
func furnish(s *site) {
	s.t.Helper()
	s.person("root", func(u *hub.User) { u.Admin, u.DisplayName = true, "Ada Root" })
	s.person("alice", func(u *hub.User) {
		u.DisplayName, u.Email, u.Groups = "<b>Alice</b> & Co\u202egnp.exe", "alice@example.org", []string{"staff", "<i>lab</i>"}
	})
	s.person("bob", nil)
	now := time.Now()
	for _, r := range []hub.Server{
		{Key: mustKey(s.t, "alice"), Phase: hub.Ready, Profile: "small", Started: now.Add(-3 * time.Hour), CullAt: now.Add(4 * time.Minute), CullWhy: `it has been idle for 1 h</p><script>alert(1)</script>`, Generation: 3},
		{Key: mustKey(s.t, "alice/gpu"), Phase: hub.Failed, Profile: "large", Reason: `exit code 1 <img src=x onerror=alert(1)>`, LogTail: []string{"\x1b[31mTraceback\x1b[0m \x00</pre><script>alert(2)</script>", "  indented"}},
		{Key: mustKey(s.t, "alice/queue"), Phase: hub.Queued, Profile: "small"},
		{Key: mustKey(s.t, "alice/begun"), Phase: hub.Starting, Profile: "small"},
		{Key: mustKey(s.t, "alice/ends"), Phase: hub.Stopping, Profile: "small"},
		{Key: mustKey(s.t, "alice/old"), Phase: hub.Absent, Profile: "gone-<b>", Reason: "you stopped it"},
	} {
		s.servers.put(r)
	}
	s.servers.usage[mustKey(s.t, "alice")] = hub.Usage{Memory: 700 << 20, MemoryLimit: 1 << 30, CPUSeconds: 0.42}
	s.servers.tell(mustKey(s.t, "alice/begun"), hub.Progress{Step: "image", Message: "Fetching the image", Detail: "<u>layer</u> 3 of 7", Percent: 15})
}

// everyPage is each page that there is, by name.
func everyPage(s *site) map[string]answer {
	s.t.Helper()
	s.letVisitorsIn(func(p *hub.VisitPolicy) {
		p.Page = hub.VisitPage{Title: "<b>Try</b>", Text: "One <script>alert(5)</script>\n\nTwo", Terms: "No <i>harm</i>", Image: "/nowhere.png"}
	})
	s.guest("open", "192.0.2.1")
	s.guest("next", "192.0.2.2")
	return map[string]answer{
		"login":        s.get("", "/hub/login?choose=1"),
		"signed-out":   s.get("", "/hub/signed-out"),
		"home":         s.get("alice", "/hub/home"),
		"home of none": s.get("bob", "/hub/home"),
		"bad name":     s.post("alice", "/hub/servers", url.Values{"server": {`"><script>alert(3)</script>`}}),
		"spawn":        s.get("bob", "/hub/spawn/bob?next=/user/bob/lab/tree/%3Cscript%3E.ipynb"),
		"spawn failed": s.get("alice", "/hub/spawn/alice/gpu"),
		"spawn other":  s.get("root", "/hub/spawn/bob"),
		"pending":      s.get("alice", "/hub/spawn-pending/alice/begun"),
		"servers":      s.get("root", "/hub/admin?q=%3Cb%3E&sort=memory"),
		"servers all":  s.get("root", "/hub/admin"),
		"people":       s.get("root", "/hub/admin/people"),
		"stop all":     s.get("root", "/hub/admin/stop-all"),
		"visit":        s.get("", "/hub/tmp?path=a/%3Cscript%3E.ipynb&ended=1"),
		"visit open":   s.get("open", "/hub/tmp?path=a/%3Cscript%3E.ipynb"),
		"visit starts": s.get("open", "/hub/tmp/wait?path=a/%3Cscript%3E.ipynb"),
		"visit waits":  s.get("next", "/hub/tmp/wait"),
		"forbidden":    s.get("bob", "/hub/admin"),
		"not found":    s.get("alice", "/hub/%3Cscript%3Ealert(4)%3C/script%3E"),
	}
}

// TestEveryPageIsSound checks what holds for all pages: language, one heading, labels, ids, nothing
// inline for the content policy to refuse, and that no foreign word became markup.
func TestEveryPageIsSound(t *testing.T) {
	s := plainSite(t)
	furnish(s)
	for name, p := range everyPage(s) {
		t.Run(name, func(t *testing.T) {
			if p.doc == nil {
				t.Fatalf("no page: status %d, %v", p.Code, p.Header())
			}
			if lang := attr(p.all("html")[0], "lang"); lang != "en" {
				t.Errorf("the language is %q", lang)
			}
			for tag, want := range map[string]int{"h1": 1, "main": 1, "title": 1, "style": 0, "b": 0, "i": 0, "u": 0, "iframe": 0} {
				if got := len(p.all(tag)); got != want {
					t.Errorf("%d <%s>, want %d", got, tag, want)
				}
			}
			checkElements(t, p)
			for _, bad := range []string{"\x00", "\x1b", "\u202e", "[31m"} {
				if strings.Contains(p.Body.String(), bad) {
					t.Errorf("the page holds %q", bad)
				}
			}
			checkHeaders(t, p.Header())
		})
	}
}

func checkElements(t *testing.T, p answer) {
	t.Helper()
	ids, labelled := map[string]int{}, map[string]bool{}
	for _, l := range p.all("label") {
		labelled[attr(l, "for")] = true
	}
	for n := range p.doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		if id := attr(n, "id"); id != "" {
			ids[id]++
		}
		for _, a := range n.Attr {
			if a.Key == "style" || strings.HasPrefix(a.Key, "on") {
				t.Errorf("<%s> has an inline %s", n.Data, a.Key)
			}
		}
		switch {
		case n.Data == "script" && (attr(n, "type") != "module" || !strings.HasPrefix(attr(n, "src"), "/hub/static/") || n.FirstChild != nil):
			t.Errorf("a script that is not a module of ours: %v", n.Attr)
		case n.Data == "input" && attr(n, "type") != "hidden" && !labelled[attr(n, "id")] && !within(n, "label"):
			t.Errorf("input %q has no label", attr(n, "name"))
		case n.Data == "progress" && attr(n, "aria-label") == "":
			t.Error("a bar has no name")
		case n.Data == "form" && strings.EqualFold(attr(n, "method"), "post") && !strings.HasPrefix(attr(n, "action"), "/hub/"):
			t.Errorf("a form leads to %q", attr(n, "action"))
		case n.Data == "a" && attr(n, "href") != "" && strings.HasPrefix(attr(n, "href"), "javascript:"):
			t.Errorf("a link leads to %q", attr(n, "href"))
		}
	}
	for id, n := range ids {
		if n > 1 {
			t.Errorf("id %q occurs %d times", id, n)
		}
	}
}

func within(n *html.Node, tag string) bool {
	for ; n != nil; n = n.Parent {
		if n.Type == html.ElementNode && n.Data == tag {
			return true
		}
	}
	return false
}

func checkHeaders(t *testing.T, h http.Header) {
	t.Helper()
	policy := h.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the content policy lacks %s: %s", want, policy)
		}
	}
	if strings.Contains(policy, "unsafe") {
		t.Errorf("the content policy allows what is unsafe: %s", policy)
	}
	for key, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "X-Frame-Options": "DENY", "Cache-Control": "no-store",
	} {
		if h.Get(key) != want {
			t.Errorf("%s is %q, want %q", key, h.Get(key), want)
		}
	}
}

func TestHomeTellsOfEveryServer(t *testing.T) {
	s := plainSite(t)
	furnish(s)
	p := s.get("alice", "/hub/home")
	text := p.text()
	for _, want := range []string{
		"My server running", "Small, for 3 h", "This server stops in 3 min, because it has been idle for 1 h</p><script>alert(1)</script>", "Keep it for 1 h more",
		"700 MiB of 1 GiB", "0.42 of 1 CPU", "gpu failed", "Exit code 1 <img src=x onerror=alert(1)>.", "Traceback </pre><script>alert(2)</script>", "Start again", "Safe start",
		"waiting in line", "starting", "stopping", "Last time: You stopped it.", "Add another server", "<b>Alice</b> & Cognp.exe",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("home does not say %q:\n%s", want, text)
		}
	}
	for _, want := range []string{"/hub/stop/alice", "/hub/keep/alice", "/hub/spawn/alice/gpu", "/hub/logout", "/hub/servers"} {
		if !slices.Contains(p.forms(), want) {
			t.Errorf("no form leads to %s: %v", want, p.forms())
		}
	}
	if len(p.all("noscript")) == 0 {
		t.Error("a browser without scripts is not told of what is under way")
	}
	bob := s.get("bob", "/hub/home")
	if text := bob.text(); !strings.Contains(text, "8 CPUs") || !strings.Contains(text, "no network") || !strings.Contains(text, "files are not kept") || strings.Contains(text, "Staff only") || strings.Contains(text, "Alice") {
		t.Errorf("bob's home:\n%s", text)
	}
	if !strings.Contains(text, "Choose something else") {
		t.Error("alice can't choose another profile")
	}
}

func TestKeepAndStop(t *testing.T) {
	s := plainSite(t)
	furnish(s)
	if p := s.post("alice", "/hub/keep/alice", nil); p.Code != http.StatusSeeOther || p.location() != "/hub/home" {
		t.Fatalf("keep: %d to %s", p.Code, p.location())
	}
	if text := s.get("alice", "/hub/home").text(); strings.Contains(text, "This server stops") {
		t.Error("the warning stays after keeping the server")
	}
	if p := s.post("alice", "/hub/stop/alice", nil); p.Code != http.StatusSeeOther || p.location() != "/hub/home" {
		t.Errorf("stop: %d to %s", p.Code, p.location())
	}
	if p := s.post("root", "/hub/stop/alice/gpu", url.Values{"back": {"/hub/admin?dir=up&sort=cpu"}}); p.location() != "/hub/admin?dir=up&sort=cpu" {
		t.Errorf("an administrator's stop leads to %s", p.location())
	}
	if want := []string{"alice: you stopped it", "alice/gpu: an administrator stopped it"}; !slices.Equal(s.servers.stops, want) {
		t.Errorf("stops %q, want %q", s.servers.stops, want)
	}
	// The last minute is told as such, and what age ends can't be kept.
	key := mustKey(t, "alice")
	s.servers.put(hub.Server{Key: key, Phase: hub.Ready, Profile: "small", Started: time.Now().Add(-24*time.Hour + 30*time.Second), CullAt: time.Now().Add(30 * time.Second), CullWhy: "it reached its maximum age of 24h0m0s"})
	p := s.get("alice", "/hub/home")
	if text := p.text(); !strings.Contains(text, "stops in less than a minute") || slices.Contains(p.forms(), "/hub/keep/alice") {
		t.Errorf("home of a server that is too old:\n%s", text)
	}
}

func TestSpawnPage(t *testing.T) {
	s := plainSite(t)
	furnish(s)
	s.servers.tell(mustKey(t, "alice/gpu"), hub.Progress{Step: "failed", Failed: true, Done: true, Remedy: "read its last lines below"})
	for path, want := range map[string]string{
		"/hub/spawn/alice": "http://alice.localhost:8000/user/alice/lab",
		"/hub/spawn/alice?next=/user/alice/tree/a%2520b":  "http://alice.localhost:8000/user/alice/tree/a%20b",
		"/hub/spawn/alice?next=/user/bob/lab":             "http://alice.localhost:8000/user/alice/lab",
		"/hub/spawn/alice?next=//evil.example/user/alice": "http://alice.localhost:8000/user/alice/lab",
		"/hub/spawn/alice/queue?next=/user/alice/queue/x": "/hub/spawn-pending/alice/queue?next=%2Fuser%2Falice%2Fqueue%2Fx",
		"/hub/spawn-pending/alice":                        "http://alice.localhost:8000/user/alice/lab",
		"/hub/spawn-pending/alice/gpu?next=/user/alice/x": "/hub/spawn/alice/gpu",
		"/hub/spawn": "/hub/spawn/alice",
	} {
		if p := s.get("alice", path); p.Code != http.StatusFound || p.location() != want {
			t.Errorf("%s: %d to %s, want %s", path, p.Code, p.location(), want)
		}
	}
	failed := s.get("alice", "/hub/spawn/alice/gpu")
	for _, want := range []string{"The last start did not work.", "Read its last lines below.", "Start again", "Safe start", "indented", "Staff only"} {
		if !strings.Contains(failed.text(), want) {
			t.Errorf("the start page does not say %q:\n%s", want, failed.text())
		}
	}
	var chosen []string
	for _, n := range failed.all("input") {
		for _, a := range n.Attr {
			if a.Key == "checked" {
				chosen = append(chosen, attr(n, "value"))
			}
		}
	}
	if !slices.Equal(chosen, []string{"large"}) {
		t.Errorf("chosen are %q, want the profile of the last start", chosen)
	}
	if text := s.get("bob", "/hub/spawn/bob?next=/user/bob/lab/tree/a%2520b.ipynb").text(); !strings.Contains(text, "you go on to lab/tree/a b.ipynb.") {
		t.Errorf("the start page does not say where it leads:\n%s", text)
	}
	if p := s.get("root", "/hub/spawn/nobody"); p.Code != http.StatusNotFound || !strings.Contains(p.text(), "nobody") && !strings.Contains(p.text(), "Nobody of this name") {
		t.Errorf("the server of nobody: %d %s", p.Code, p.text())
	}
}

func TestSpawn(t *testing.T) {
	s := plainSite(t)
	furnish(s)
	p := s.post("bob", "/hub/spawn/bob", url.Values{"profile": {"large"}, "safe": {"1"}, "next": {"/user/bob/lab/tree/x.ipynb"}})
	if p.Code != http.StatusSeeOther || p.location() != "/hub/spawn-pending/bob?next=%2Fuser%2Fbob%2Flab%2Ftree%2Fx.ipynb" {
		t.Fatalf("%d to %s", p.Code, p.location())
	}
	if got := s.servers.starts[0]; got.Key != mustKey(t, "bob") || got.Profile != "large" || !got.SafeStart || got.By.User != got.Key.User {
		t.Errorf("start %+v", got)
	}
	if p := s.post("bob", "/hub/spawn/bob", url.Values{"next": {"https://evil.example/"}}); p.location() != "/hub/spawn-pending/bob" {
		t.Errorf("a foreign next leads to %s", p.location())
	}
	for _, c := range []struct {
		err    error
		status int
		says   string
	}{
		{&hub.Error{Kind: hub.TooMany, Message: "you run as many servers as you may", Remedy: "stop one of your servers"}, 429, "You run as many servers as you may. Stop one of your servers."},
		{&hub.Error{Kind: hub.Forbidden, Message: "you may not use the profile staff"}, 403, "You may not use the profile staff."},
		{&hub.Error{Kind: hub.Unavailable, Op: "redis", Err: errSecret}, 503, "does not answer just now"},
		{errSecret, 500, "Something went wrong on our side."},
	} {
		s.servers.fault = c.err
		p := s.post("bob", "/hub/spawn/bob/b", url.Values{"profile": {"small"}})
		if p.Code != c.status || !strings.Contains(p.text(), c.says) || strings.Contains(p.Body.String(), "hunter2") {
			t.Errorf("%v: %d\n%s", c.err, p.Code, p.text())
		}
	}
}

func TestAddServer(t *testing.T) {
	s := plainSite(t)
	s.person("alice", nil)
	if p := s.post("alice", "/hub/servers", url.Values{"server": {" gpu-2 "}}); p.Code != http.StatusSeeOther || p.location() != "/hub/spawn/alice/gpu-2" {
		t.Errorf("%d to %s", p.Code, p.location())
	}
	for _, bad := range []string{"", "Upper", "../x", "a/b", "progress\n", strings.Repeat("a", 31), "-a", "a--b", "é"} {
		p := s.post("alice", "/hub/servers", url.Values{"server": {bad}})
		if bad == "progress\n" {
			if p.location() != "/hub/spawn/alice/progress" {
				t.Errorf("%q: %d to %s", bad, p.Code, p.location())
			}
			continue
		}
		if p.Code != http.StatusUnprocessableEntity || !strings.Contains(p.text(), "This server n") {
			t.Errorf("%q: %d to %s\n%s", bad, p.Code, p.location(), p.text())
		}
	}
	s.servers.policy.MaxPerUser = 1
	if text := s.get("alice", "/hub/home").text(); strings.Contains(text, "Add another") {
		t.Error("another server is offered to who may run one")
	}
}

func TestPendingWithoutScripts(t *testing.T) {
	s := plainSite(t)
	furnish(s)
	p := s.get("alice", "/hub/spawn-pending/alice/begun?next=/user/alice/begun/lab")
	if p.Code != http.StatusOK || !strings.Contains(p.Body.String(), `<noscript><meta http-equiv="refresh" content="2"></noscript>`) {
		t.Errorf("%d\n%s", p.Code, p.Body)
	}
	if text := p.text(); !strings.Contains(text, "Fetching the image. 15%15% <u>layer</u> 3 of 7") || !strings.Contains(text, "Wait for a turn done Get the image under way Prepare the home") {
		t.Errorf("the page says\n%s", text)
	}
	if !slices.Contains(p.forms(), "/hub/stop/alice/begun") {
		t.Errorf("the start can't be cancelled: %v", p.forms())
	}
	if at := attr(p.all("section")[0], "data-progress"); at != "/hub/spawn-progress/alice/begun?next=%2Fuser%2Falice%2Fbegun%2Flab" {
		t.Errorf("the steps are at %s", at)
	}
	s.servers.policy.KernelCheck = false
	if text := s.get("alice", "/hub/spawn-pending/alice/begun").text(); strings.Contains(text, "Try a kernel") {
		t.Error("a step is shown that will not come")
	}
}

func TestErrorPages(t *testing.T) {
	s := plainSite(t)
	furnish(s)
	for _, c := range []struct {
		who, method, path string
		status            int
		says              string
	}{
		{"alice", "GET", "/hub/nonsense", 404, "There is no such page."},
		{"alice", "GET", "/hub/stop/alice", 405, "This address is for a button on another page."},
		{"alice", "POST", "/hub/home", 405, ""},
		{"bob", "GET", "/hub/admin", 403, "This page is for administrators."},
		{"bob", "GET", "/hub/spawn/alice", 403, "This server is someone else’s"},
		{"", "POST", "/hub/spawn/alice", 401, "You are not signed in."},
		{"alice", "GET", "/hub/spawn/..%2f..%2fetc", 422, "begins or ends with a sign"},
		{"alice", "GET", "/hub/static/000/carrel.css", 404, "There is no such file."},
	} {
		p := s.ask(c.who, c.method, c.path, nil, nil)
		if p.Code != c.status || !strings.Contains(strings.ReplaceAll(p.text(), "'", "’"), c.says) {
			t.Errorf("%s %s: %d, want %d and %q\n%s", c.method, c.path, p.Code, c.status, c.says, p.text())
		}
		if signedIn := slices.Contains(p.forms(), "/hub/logout"); signedIn != (c.who != "" && c.says != "There is no such page." && c.status != 405 && !strings.Contains(c.says, "file")) {
			t.Errorf("%s %s: the page knows who is signed in: %v", c.method, c.path, signedIn)
		}
	}
}
