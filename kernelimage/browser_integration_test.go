//go:build integration

package kernelimage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carrel/internal/chromiumtest"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

const basePath = "/user/alice/"

// edge stands where the proxy stands: it adds the server's token, and answers notices as the hub does.
type edge struct {
	server *httptest.Server

	mu      sync.Mutex
	absent  bool // the hub has no notices
	cullAt  time.Time
	refuse  bool // the hub does not agree
	asked   int
	origins []string // of those who asked to keep it
}

func (e *edge) notice(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked++
	if e.absent {
		http.NotFound(w, r)
		return
	}
	if r.Method == http.MethodPost {
		e.origins = append(e.origins, r.Header.Get("Origin"))
		if e.refuse {
			http.Error(w, "no", http.StatusConflict)
			return
		}
		e.cullAt = time.Time{}
	}
	answer := map[string]any{"now": time.Now().UTC(), "cull_at": nil, "why": "nobody used it for 55 minutes", "can_extend": true, "extend_seconds": 3600, "warning_seconds": 300}
	if !e.cullAt.IsZero() {
		answer["cull_at"] = e.cullAt.UTC()
	}
	b, err := json.Marshal(answer)
	if err != nil {
		panic(err) // of plain values
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(b)
}

func (e *edge) set(change func(*edge)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(e)
}

// docker runs Docker's command line, which the container of a browser's test needs for its network.
func dockerCommand(t *testing.T, args ...string) string {
	t.Helper()
	var errs bytes.Buffer
	cmd := exec.Command("docker", args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("docker %s: %v: %s", args[0], err, errs.String())
	}
	return strings.TrimSpace(string(out))
}

// newEdge starts a server of the image with an edge in front of it.
func newEdge(t *testing.T, env ...string) *edge {
	t.Helper()
	args := []string{
		"run", "--detach", "--read-only", "--tmpfs", "/tmp", "--tmpfs", "/home/jovyan:uid=1000,gid=1000,mode=0755",
		"--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "1g",
		"--env", "CARREL_TOKEN=the-servers-own", "--env", "CARREL_BASE_URL=" + basePath, "--env", "CARREL_HUB_URL=http://hub.example/hub/home",
	}
	for _, e := range env {
		args = append(args, "--env", e)
	}
	id := dockerCommand(t, append(args, image(t), "carrel-server", "--LabApp.expose_app_in_browser=True")...)
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := exec.Command("docker", "logs", "--tail", "40", id).CombinedOutput()
			t.Logf("the server said:\n%s", logs)
		}
		_ = exec.Command("docker", "rm", "--force", "--volumes", id).Run()
	})
	address := dockerCommand(t, "inspect", "--format", "{{.NetworkSettings.IPAddress}}", id)
	target := &url.URL{Scheme: "http", Host: address + ":8888"}
	e := &edge{}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host
		r.Out.Header.Set("Authorization", "token the-servers-own")
		r.Out.Header.Del("Cookie")
	}}
	mux := http.NewServeMux()
	mux.Handle("/", proxy)
	mux.HandleFunc(basePath+"carrel/notice", e.notice)
	e.server = httptest.NewServer(mux)
	t.Cleanup(e.server.Close)
	deadline := time.Now().Add(60 * time.Second)
	for {
		if res, err := http.Get(e.server.URL + basePath + "api"); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return e
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the server does not answer")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// browser opens a page of a real Chromium; what the page complains of fails the test.
func browser(t *testing.T) context.Context {
	t.Helper()
	ctx, cancelAll := chromedp.NewExecAllocator(t.Context(), chromiumtest.Options(t, 1280, 800)...)
	ctx, cancel := chromedp.NewContext(ctx)
	ctx, cancelTimeout := context.WithTimeout(ctx, 3*time.Minute)
	var over atomic.Bool // what a page complains of when it is closed under its requests is nobody's fault
	t.Cleanup(func() {
		over.Store(true)
		cancelTimeout()
		cancel()
		cancelAll()
	})
	chromedp.ListenTarget(ctx, func(event any) {
		if over.Load() {
			return
		}
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			t.Errorf("the page threw %s", e.ExceptionDetails.Error())
		case *runtime.EventConsoleAPICalled:
			if e.Type != runtime.APITypeError {
				return
			}
			for _, a := range e.Args {
				if strings.Contains(string(a.Value)+a.Description, "carrel") {
					t.Errorf("the page complained: %s %s", a.Value, a.Description)
				}
			}
		}
	})
	return ctx
}

func do(ctx context.Context, t *testing.T, what string, actions ...chromedp.Action) {
	t.Helper()
	if err := chromedp.Run(ctx, actions...); err != nil {
		var text string
		var shot []byte
		_ = chromedp.Run(ctx, chromedp.Evaluate(`(window.said ? 'the terminal said ' + JSON.stringify(window.said) + '\n' : '') + document.body.innerText.slice(0, 1500)`, &text), chromedp.CaptureScreenshot(&shot))
		if path := os.Getenv("CARREL_SCREENSHOTS"); path != "" {
			_ = os.WriteFile(path+"/"+t.Name()+".png", shot, 0o600)
		}
		t.Fatalf("%s: %v; the page shows:\n%s", what, err, text)
	}
}

// until waits for an expression to hold in the page.
func until(expression string) chromedp.Action {
	return chromedp.Poll(expression, nil, chromedp.WithPollingInterval(100*time.Millisecond), chromedp.WithPollingTimeout(60*time.Second))
}

const notices = `[...document.querySelectorAll('.Toastify__toast')].map(e => e.innerText).join('\n')`

func TestNoticeIsShownAndServerKept(t *testing.T) {
	e, ctx := newEdge(t), browser(t)
	e.set(func(e *edge) { e.cullAt = time.Now().Add(5 * time.Minute) })
	do(ctx, t, "the warning", chromedp.Navigate(e.server.URL+basePath+"lab"),
		until(`/will be stopped in [45] minutes: nobody used it for 55 minutes/.test(`+notices+`)`))
	var role string
	var top int
	do(ctx, t, "the warning's shape",
		chromedp.Evaluate(`document.querySelector('.Toastify__toast [role], .Toastify__toast[role]')?.getAttribute('role') ?? ''`, &role),
		chromedp.Evaluate(`document.querySelectorAll('.Toastify__toast').length`, &top))
	if role != "alert" && role != "status" {
		t.Errorf("screen readers don't hear of the notice: its role is %q", role)
	}
	if top != 1 {
		t.Errorf("%d notices are shown, want 1", top)
	}
	do(ctx, t, "keeping the server",
		chromedp.Evaluate(`[...document.querySelectorAll('.Toastify__toast button')].find(b => b.innerText === 'Keep my server').click()`, nil),
		until(`/stays for another 60 minutes/.test(`+notices+`)`),
		until(`!/will be stopped/.test(`+notices+`)`))
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.origins) != 1 || e.origins[0] != e.server.URL {
		t.Errorf("the hub was asked to keep it by %q, want once by %s", e.origins, e.server.URL)
	}
}

func TestNoticeThatIsClosedStaysClosed(t *testing.T) {
	e, ctx := newEdge(t), browser(t)
	e.set(func(e *edge) { e.cullAt = time.Now().Add(4 * time.Minute) })
	do(ctx, t, "closing the warning", chromedp.Navigate(e.server.URL+basePath+"lab"),
		until(`/will be stopped/.test(`+notices+`)`),
		chromedp.Evaluate(`document.querySelector('.jp-Notification-Toast-Close').click()`, nil), // it still moves
		until(`!/will be stopped/.test(`+notices+`)`))
	before := e.asks()
	wake := chromedp.Evaluate(`document.dispatchEvent(new Event('visibilitychange'))`, nil)
	do(ctx, t, "the next answer", wake, chromedp.ActionFunc(func(ctx context.Context) error { return e.waitAsks(ctx, before+1) }), chromedp.Sleep(1500*time.Millisecond))
	var shown string
	do(ctx, t, "the page", chromedp.Evaluate(notices, &shown))
	if strings.Contains(shown, "will be stopped") {
		t.Error("a notice that was closed came back")
	}
	// The server was used meanwhile, and is idle again: that is another warning.
	e.set(func(e *edge) { e.cullAt = time.Time{} })
	before = e.asks()
	do(ctx, t, "an answer without a warning", wake, chromedp.ActionFunc(func(ctx context.Context) error { return e.waitAsks(ctx, before+1) }), chromedp.Sleep(300*time.Millisecond))
	e.set(func(e *edge) { e.cullAt = time.Now().Add(20 * time.Second); e.refuse = true })
	do(ctx, t, "a new warning", wake, until(`/will be stopped in about (15|30) seconds/.test(`+notices+`)`),
		chromedp.Evaluate(`[...document.querySelectorAll('.Toastify__toast button')].find(b => b.innerText === 'Keep my server').click()`, nil),
		until(`/did not agree/.test(`+notices+`)`))
}

func (e *edge) asks() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked
}

func (e *edge) waitAsks(ctx context.Context, n int) error {
	for e.asks() < n {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the page asked %d times, want %d", e.asks(), n)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

func TestHubWithoutNoticesIsLeftAlone(t *testing.T) {
	e := newEdge(t)
	e.set(func(e *edge) { e.absent = true })
	ctx := browser(t)
	do(ctx, t, "the menu", chromedp.Navigate(e.server.URL+basePath+"lab"),
		until(`window.jupyterapp?.commands.hasCommand('carrel:hub') && window.jupyterapp.commands.hasCommand('carrel:stop')`),
		chromedp.ActionFunc(func(ctx context.Context) error { return e.waitAsks(ctx, 1) }),
		chromedp.Sleep(500*time.Millisecond),
		chromedp.Evaluate(`document.dispatchEvent(new Event('visibilitychange'))`, nil),
		chromedp.Sleep(1500*time.Millisecond))
	if n := e.asks(); n != 1 {
		t.Errorf("the page asked %d times for notices that there are not", n)
	}
	var labels, opened string
	do(ctx, t, "the way to the hub",
		chromedp.Evaluate(`window.open = (url, target, features) => { window.opened = [url, target, features].join(' ') }; 0`, nil),
		chromedp.Evaluate(`window.jupyterapp.commands.execute('carrel:hub').then(() => window.opened)`, &opened, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }),
		chromedp.WaitVisible(`#jp-MainMenu`, chromedp.ByQuery),
		chromedp.Click(`//*[@id="jp-MainMenu"]//*[text()="File"]`, chromedp.BySearch),
		until(`document.querySelector('.lm-Menu')?.innerText.includes('Stop My Server')`),
		chromedp.Evaluate(`document.querySelector('.lm-Menu').innerText`, &labels))
	if opened != "http://hub.example/hub/home _blank noopener" {
		t.Errorf("the hub's home page is opened as %q", opened)
	}
	if !strings.Contains(labels, "Hub Home") {
		t.Errorf("the File menu has no way to the hub: %q", labels)
	}
}

// TestCellAndTerminalRun drives a notebook and a terminal as a person does, through websockets.
func TestCellAndTerminalRun(t *testing.T) {
	for name, env := range map[string][]string{"usual": nil, "safe": {"CARREL_SAFE_START=1"}} {
		t.Run(name, func(t *testing.T) {
			e := newEdge(t, env...)
			ctx := browser(t)
			await := func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }
			do(ctx, t, "a cell", chromedp.Navigate(e.server.URL+basePath+"lab"),
				until(`Boolean(window.jupyterapp?.commands.hasCommand('notebook:create-new'))`),
				chromedp.Evaluate(`(async () => {
					const app = window.jupyterapp;
					await app.restored;
					window.panel = await app.commands.execute('notebook:create-new', { kernelName: 'python3' });
					await window.panel.sessionContext.ready;
					window.panel.content.activeCell.model.sharedModel.setSource("print(6*7)\nimport os; print('token:', [k for k, v in os.environ.items() if 'the-servers-own' in v])");
					await app.commands.execute('notebook:run-cell');
				})()`, nil, await),
				until(`/42\s+token: \[\]/.test(document.querySelector('.jp-OutputArea-output')?.innerText ?? '')`))
			do(ctx, t, "a terminal",
				chromedp.Evaluate(`(async () => {
					const session = await window.jupyterapp.serviceManager.terminals.startNew();
					window.said = '';
					session.messageReceived.connect((_, m) => { if (m.type === 'stdout') window.said += m.content[0]; });
					session.send({ type: 'stdin', content: ['echo $((6*7)) $0 $PWD\r'] });
				})()`, nil, await),
				until(`/42 \/bin\/bash \/home\/jovyan/.test(window.said)`))
		})
	}
}
