//go:build integration

package web

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"carrel/hub"
	"carrel/internal/chromiumtest"
)

// served is a site that a real browser reaches, with a stand-in for every notebook.
func served(t *testing.T) *site {
	t.Helper()
	front := httptest.NewUnstartedServer(nil)
	t.Cleanup(front.Close)
	_, port, err := net.SplitHostPort(front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, hub.Subdomains, "http://localhost:"+port+"/", "")
	front.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.origins.Classify(r.Host).Notebooks {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, `<h1 id="notebook">`+r.Host+r.URL.Path+"</h1>")
			return
		}
		s.handler.ServeHTTP(w, r)
	})
	front.Start()
	return s
}

// browser is a real Chromium with a profile of its own; faults are what it complained of.
type browser struct {
	t    *testing.T
	site *site
	ctx  context.Context

	mu     sync.Mutex
	faults []string
}

func newBrowser(t *testing.T, s *site) *browser {
	t.Helper()
	opts := append(chromiumtest.Options(t, 1280, 900), chromedp.Flag("hide-scrollbars", true))
	alloc, stopAlloc := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, stop := chromedp.NewContext(alloc)
	b := &browser{t: t, site: s, ctx: ctx}
	t.Cleanup(func() {
		stop()
		stopAlloc()
	})
	chromedp.ListenTarget(ctx, b.hear)
	if err := chromedp.Run(ctx, log.Enable(), runtime.Enable(), network.Enable()); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	return b
}

// hear collects what the browser refuses or fails to run: content policy, scripts, addresses.
func (b *browser) hear(ev any) {
	fault := ""
	switch ev := ev.(type) {
	case *log.EventEntryAdded:
		if ev.Entry.Level == log.LevelError || ev.Entry.Level == log.LevelWarning {
			fault = ev.Entry.Text + " " + ev.Entry.URL
		}
	case *runtime.EventExceptionThrown:
		fault = ev.ExceptionDetails.Error()
	}
	if fault != "" {
		b.mu.Lock()
		b.faults = append(b.faults, fault)
		b.mu.Unlock()
	}
}

func (b *browser) noFaults() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.faults {
		b.t.Errorf("the browser says: %s", f)
	}
	b.faults = nil
}

// ignore forgets complaints that are what the test is about.
func (b *browser) ignore(part string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = slices.DeleteFunc(b.faults, func(f string) bool { return strings.Contains(f, part) })
}

func (b *browser) do(what string, actions ...chromedp.Action) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		var at, text string
		_ = chromedp.Run(b.ctx, chromedp.Location(&at), chromedp.Evaluate(`document.body.innerText`, &text))
		b.t.Fatalf("%s: %v; the browser is at %s:\n%s", what, err, at, text)
	}
}

// as gives the browser a person's session.
func (b *browser) as(who string) {
	b.t.Helper()
	b.do("take a session", chromedp.ActionFunc(func(ctx context.Context) error {
		if err := network.ClearBrowserCookies().Do(ctx); err != nil || who == "" {
			return err
		}
		name, secret := hub.CookieSession, b.site.secrets[who]
		if guest, ok := b.site.guests[who]; ok {
			name, secret = hub.CookieVisitor, guest
		}
		return network.SetCookie(b.site.origins.Cookie(name), secret.Reveal()).WithURL(b.site.origins.HubURL("")).WithHTTPOnly(true).WithSameSite(network.CookieSameSiteLax).Do(ctx)
	}))
}

func (b *browser) open(path string) {
	b.t.Helper()
	b.do("open "+path, chromedp.Navigate(b.site.origins.HubOrigin()+path), chromedp.WaitVisible("h1"))
}

// eval gives the value of an expression.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	var v T
	b.do("evaluate "+expression, chromedp.Evaluate(expression, &v))
	return v
}

// until waits for a condition in the page.
func (b *browser) until(what, condition string) {
	b.t.Helper()
	b.do(what, chromedp.Poll(condition, nil, chromedp.WithPollingInterval(50*time.Millisecond)))
}

// TestLiveHome: the page follows what happens, and takes nobody's focus, choice or typing away.
func TestLiveHome(t *testing.T) {
	s := served(t)
	s.person("alice", nil)
	key, other := mustKey(t, "alice"), mustKey(t, "alice/gpu")
	s.servers.put(hub.Server{Key: key, Phase: hub.Ready, Profile: "small", Generation: 1, Started: time.Now().Add(-time.Hour)})
	s.servers.put(hub.Server{Key: other, Phase: hub.Ready, Profile: "small", Generation: 1, Started: time.Now()})
	s.servers.use(key, hub.Usage{Memory: 100 << 20, MemoryLimit: 1 << 30, CPUSeconds: 0.1})
	b := newBrowser(t, s)
	b.as("alice")
	b.open("/hub/home")
	b.do("focus", chromedp.Focus("#stop-server-alice"), chromedp.Evaluate(`window.kept = document.getElementById("stop-server-alice"); true`, nil))
	s.servers.use(key, hub.Usage{Memory: 900 << 20, MemoryLimit: 1 << 30, CPUSeconds: 0.9})
	b.until("the figures are new", `document.querySelector('[data-text=memory]').textContent === "900 MiB" && document.querySelector('[data-value=memory]').value === 87`)
	if !eval[bool](b, `document.activeElement === window.kept && window.kept.isConnected`) {
		t.Error("the focused button was replaced although nothing but figures changed")
	}
	s.servers.put(hub.Server{Key: key, Phase: hub.Ready, Profile: "small", Generation: 1, Started: time.Now().Add(-time.Hour), CullAt: time.Now().Add(9 * time.Minute), CullWhy: "it has been idle"})
	b.until("the warning", `document.querySelector("#keep-server-alice")`)
	if id := eval[string](b, `document.activeElement.id`); id != "stop-server-alice" {
		t.Errorf("the focus went to %q", id)
	}
	b.do("keep it", chromedp.Click("#keep-server-alice"), chromedp.WaitNotPresent("#keep-server-alice"))

	b.do("begin to type", chromedp.Click("summary"), chromedp.SendKeys("#new-server", "thes"))
	s.servers.put(hub.Server{Key: key, Phase: hub.Absent})
	b.until("it is told that the server ended", `document.getElementById("say").textContent === "My server is not running" && document.querySelectorAll("#live .profile").length === 3`)
	b.do("choose", chromedp.Click(`input[value="large"]`))
	s.servers.put(hub.Server{Key: other, Phase: hub.Failed, Reason: "out of memory"})
	b.until("the other one's end", `document.querySelector('#live').innerText.includes("Out of memory.")`)
	if !eval[bool](b, `document.querySelector('input[value="large"]').checked && document.getElementById("new-server").value === "thes"`) {
		t.Error("a choice or what was typed is lost")
	}
	b.noFaults()
	// Signed out elsewhere: the page does not stay.
	if _, err := s.store.EndSessions(t.Context(), hub.SessionQuery{User: key.User}); err != nil {
		t.Fatal(err)
	}
	b.do("the sign-in page", chromedp.WaitVisible(".choices"))
}

// TestLiveStart: from the button to the notebook's own origin, step by step, and the way of a failure.
func TestLiveStart(t *testing.T) {
	s := served(t)
	s.person("alice", nil)
	key := mustKey(t, "alice")
	b := newBrowser(t, s)
	b.as("alice")
	b.open("/hub/spawn/alice?next=/user/alice/lab/tree/x.ipynb")
	b.do("start with the keyboard", chromedp.Focus(`input[value="small"]`), chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(kb.Enter), chromedp.WaitVisible("#steps, .steps"))
	if got := s.servers.starts; len(got) != 1 || got[0].Profile != "large" {
		t.Fatalf("starts %+v", got)
	}
	s.servers.tell(key, hub.Progress{Step: "queue", Message: "Waiting for a turn: place 3 in line", Place: 3, At: time.Now()})
	b.until("the place", `document.getElementById("message").textContent === "Waiting for a turn: place 3 in line."`)
	s.servers.tell(key, hub.Progress{Step: "image", Message: "Fetching the image", Detail: "layer 3 of 7", Percent: 15, At: time.Now()})
	b.until("the pull", `document.getElementById("bar").value === 15 && document.getElementById("detail").textContent === "layer 3 of 7" && document.querySelector('[data-step=queue]').dataset.state === "done"`)
	s.servers.put(hub.Server{Key: key, Phase: hub.Ready, Profile: "large", Started: time.Now()})
	s.servers.tell(key, hub.Progress{Step: "kernel", Message: "Asking a kernel to compute", Percent: 90, Open: true, At: time.Now()})
	b.until("it can be opened", `!document.getElementById("open").hidden && document.getElementById("open").href === "`+s.origins.ServerOrigin(key.User)+`/user/alice/lab/tree/x.ipynb"`)
	s.servers.tell(key, hub.Progress{Step: "ready", Message: "Your server is ready", Percent: 100, Done: true, At: time.Now()})
	b.do("arrive", chromedp.WaitVisible("#notebook"))
	if at := eval[string](b, `location.href`); at != s.origins.ServerOrigin(key.User)+"/user/alice/lab/tree/x.ipynb" {
		t.Errorf("the browser is at %s", at)
	}
	b.noFaults()

	bad := mustKey(t, "alice/bad")
	s.servers.put(hub.Server{Key: bad, Phase: hub.Starting, Profile: "small"})
	b.open("/hub/spawn-pending/alice/bad")
	s.servers.put(hub.Server{Key: bad, Phase: hub.Failed, Profile: "small", Reason: "exit code 3", LogTail: []string{"boom"}})
	s.servers.tell(bad, hub.Progress{Step: "failed", Message: "exit code 3", Remedy: "use safe start", Done: true, Failed: true, At: time.Now()})
	b.do("the failure", chromedp.WaitVisible(`[role="alert"]`), chromedp.WaitVisible("pre"))
	if text := eval[string](b, `document.querySelector("main").innerText`); !strings.Contains(text, "boom") || !strings.Contains(text, "Use safe start.") {
		t.Errorf("the page says\n%s", text)
	}
	b.do("safe start", chromedp.Click(`button[name="safe"]`), chromedp.WaitVisible(".steps"))
	if got := s.servers.starts[len(s.servers.starts)-1]; !got.SafeStart || got.Key != bad {
		t.Errorf("start %+v", got)
	}
	b.noFaults()
}

// TestWithoutScripts: a start goes through with scripts switched off.
func TestWithoutScripts(t *testing.T) {
	s := served(t)
	s.person("alice", nil)
	key := mustKey(t, "alice")
	b := newBrowser(t, s)
	b.as("alice")
	b.do("switch scripts off", scriptsOff())
	b.open("/hub/home")
	b.do("start", chromedp.Click(`#start-server-alice`), chromedp.WaitVisible(".steps"))
	s.servers.put(hub.Server{Key: key, Phase: hub.Ready, Profile: "small", Started: time.Now()})
	b.do("arrive", chromedp.WaitVisible("#notebook"))
	b.noFaults()
}

// TestANotebookCannotActOnTheHub: attack 32. Its page is same-site, with the reader's cookie.
func TestANotebookCannotActOnTheHub(t *testing.T) {
	s := served(t)
	s.person("alice", nil)
	s.servers.put(hub.Server{Key: mustKey(t, "alice"), Phase: hub.Ready, Profile: "small", Started: time.Now()})
	b := newBrowser(t, s)
	b.as("alice")
	b.do("open the notebook", chromedp.Navigate(s.origins.ServerURL(mustKey(t, "alice"), "lab")), chromedp.WaitVisible("#notebook"))
	hubAt := s.origins.HubURL("")
	for what, script := range map[string]string{
		"a script's post":  `fetch("` + hubAt + `stop/alice", {method: "POST", mode: "no-cors", credentials: "include"}).catch(() => {})`,
		"reading the page": `fetch("` + hubAt + `home", {credentials: "include"}).then((r) => r.text()).catch(() => "")`,
		"a frame":          `new Promise((done) => { const f = document.createElement("iframe"); f.src = "` + hubAt + `home"; f.onload = () => done(""); document.body.append(f); })`,
		"a hidden form":    `new Promise((done) => { const f = document.createElement("iframe"); f.name = "x"; document.body.append(f); const m = document.createElement("form"); m.method = "post"; m.target = "x"; m.action = "` + hubAt + `stop/alice"; document.body.append(m); m.submit(); setTimeout(done, 500); })`,
	} {
		var got any
		b.do(what, chromedp.Evaluate(`(async () => { const r = await `+script+`; return typeof r === "string" ? r : ""; })()`, &got, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
		if got != "" {
			t.Errorf("%s gave %v", what, got)
		}
	}
	if len(s.servers.stops) > 0 {
		t.Errorf("the notebook stopped its reader's server: %v", s.servers.stops)
	}
}

// TestWorkInABrowser: the landing page's script does the work that is asked for, within our own policy, and
// leads into the line; a captcha's script from elsewhere may run there too.
func TestWorkInABrowser(t *testing.T) {
	t.Parallel()
	s := served(t)
	s.letVisitorsIn(func(p *hub.VisitPolicy) {
		p.Max, p.Captcha = 0, hub.CaptchaPolicy{Kind: hub.CaptchaWork, Bits: 12}
	})
	b := newBrowser(t, s)
	b.do("work and click", chromedp.Navigate(s.origins.HubURL("tmp")), chromedp.Click("#come button", chromedp.NodeVisible), chromedp.WaitVisible("#line"))
	b.noFaults()

	widget := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		w.Header().Set("Cross-Origin-Resource-Policy", "cross-origin")
		fmt.Fprint(w, `document.querySelector(".h-captcha").innerHTML = '<input type="hidden" name="answer-here" value="' + document.querySelector(".h-captcha").dataset.sitekey + '">solved'`)
	}))
	t.Cleanup(widget.Close)
	other := served(t)
	other.letVisitorsIn(func(p *hub.VisitPolicy) {
		p.Captcha = hub.CaptchaPolicy{Kind: hub.CaptchaSite, Widget: hub.CaptchaWidget{Script: widget.URL + "/api.js", Class: "h-captcha", SiteKey: "key", Field: "answer-here", Origins: []string{widget.URL}}}
	})
	var text string
	b.do("a captcha", chromedp.Navigate(other.origins.HubURL("tmp")), chromedp.WaitReady(".h-captcha input"), chromedp.Text(".h-captcha", &text))
	if text != "solved" {
		t.Errorf("the captcha shows %q", text)
	}
	b.noFaults()
}
