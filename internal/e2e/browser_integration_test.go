//go:build integration

package e2e

import (
	"cmp"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"carrel/internal/chromiumtest"

	"github.com/chromedp/cdproto/input"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/gorilla/websocket"
)

// browser is a real Chromium with a profile of its own.
type browser struct {
	t   *testing.T
	ctx context.Context
}

func (d *deployment) browser() *browser {
	d.t.Helper()
	opts := append(chromiumtest.Options(d.t, 1280, 900), chromedp.Flag("ignore-certificate-errors", true))
	alloc, stopAlloc := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, stop := chromedp.NewContext(alloc)
	b := &browser{d.t, ctx}
	chromedp.ListenTarget(ctx, func(ev any) {
		// JupyterLab asks before a page goes that is not saved, and the kernel's word on its language may come after a save.
		if _, ok := ev.(*cdppage.EventJavascriptDialogOpening); ok {
			go chromedp.Run(ctx, cdppage.HandleJavaScriptDialog(true))
		}
	})
	d.t.Cleanup(func() {
		if d.t.Failed() {
			b.report()
		}
		stop()
		stopAlloc()
	})
	return b
}

// awaited has an evaluation wait for its promise.
func awaited(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }

// do runs actions within a time, 30 s where it is 0.
func (b *browser) do(what string, within time.Duration, actions ...chromedp.Action) {
	b.t.Helper()
	within = cmp.Or(within, 30*time.Second)
	ctx, cancel := context.WithTimeout(b.ctx, within)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

// open loads a page and waits until something is seen on it.
func (b *browser) open(address, selector string) {
	b.t.Helper()
	b.do("open "+address, time.Minute, chromedp.Navigate(address), chromedp.WaitVisible(selector))
}

// start opens the browser itself, which a first action's deadline must not end with it.
func (b *browser) start() {
	b.t.Helper()
	if err := chromedp.Run(b.ctx); err != nil {
		b.t.Fatalf("start chromium: %v", err)
	}
}

// report tells where the browser stands when a test failed.
func (b *browser) report() {
	if chromedp.FromContext(b.ctx).Browser == nil {
		return // it did not start
	}
	ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
	defer cancel()
	var at, text string
	if err := chromedp.Run(ctx, chromedp.Location(&at), chromedp.Evaluate(`document.body.innerText.slice(0, 1500)`, &text)); err == nil {
		b.t.Logf("the browser is at %s:\n%s", at, text)
	}
	var shot []byte
	if err := chromedp.Run(ctx, chromedp.CaptureScreenshot(&shot)); err == nil {
		if f, err := os.CreateTemp("", "carrel-e2e-*.png"); err == nil {
			f.Write(shot)
			f.Close()
			b.t.Logf("screenshot: %s", f.Name())
		}
	}
}

// signIn fills in the demo provider's form.
func (b *browser) signIn(d *deployment, name string) {
	b.t.Helper()
	b.do("sign in", 60*time.Second,
		chromedp.Navigate(d.url+"/hub/login"),
		chromedp.WaitVisible(`input[type="password"]`),
		chromedp.SendKeys(`input[name="username"]`, name),
		chromedp.SendKeys(`input[type="password"]`, d.people[name]+kb.Enter),
		chromedp.WaitVisible(`a[href*="/hub/logout"], form[action*="/hub/logout"]`),
	)
}

// textOf waits until the selector's text satisfies ok.
func (b *browser) waitText(what, selector string, within time.Duration, want string) {
	b.t.Helper()
	var text string
	deadline := time.Now().Add(within)
	for time.Now().Before(deadline) {
		ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
		err := chromedp.Run(ctx, chromedp.Evaluate(`Array.from(document.querySelectorAll('`+selector+`')).map(e => e.innerText).join("\n")`, &text))
		cancel()
		if err == nil && strings.Contains(text, want) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	b.t.Fatalf("%s: %s reads %q, want %q", what, selector, text, want)
}

const (
	startButton  = `form[action*="/hub/spawn/"] button[type="submit"]`
	stopButton   = `form[action*="/hub/stop/"] button[type="submit"]`
	pythonCard   = `.jp-LauncherCard[data-category="Notebook"]`
	renameDialog = `.jp-Dialog button.jp-mod-accept`
	cell         = `.jp-Notebook .jp-CodeCell .cm-content`
)

// startAndCompute goes from the home page to a cell's output.
func (b *browser) startAndCompute() {
	b.t.Helper()
	b.do("start", 2*time.Minute,
		chromedp.WaitVisible(startButton),
		chromedp.Click(startButton),
		chromedp.WaitVisible(pythonCard),
	)
	b.do("open a notebook", time.Minute,
		chromedp.Click(pythonCard),
		chromedp.WaitVisible(cell),
	)
	b.compute()
}

// compute runs a cell in the notebook that is open.
func (b *browser) compute() {
	b.t.Helper()
	b.waitText("the kernel is idle", ".jp-Notebook-ExecutionIndicator, .jp-NotebookKernelStatus, .jp-StatusBar-Middle, #jp-bottom-panel", 60*time.Second, "Idle")
	b.do("run a cell", time.Minute,
		chromedp.Click(cell),
		chromedp.ActionFunc(func(ctx context.Context) error { return input.InsertText("print(6*7)").Do(ctx) }),
		chromedp.KeyEvent(kb.Enter, chromedp.KeyModifiers(input.ModifierShift)),
	)
	b.waitText("the cell's output", ".jp-OutputArea-output", time.Minute, "42")
}

// save saves a new notebook.
func (b *browser) save() {
	b.t.Helper()
	b.do("save", 30*time.Second,
		chromedp.KeyEvent("s", chromedp.KeyModifiers(input.ModifierCtrl)),
		chromedp.WaitVisible(renameDialog), chromedp.Click(renameDialog), // it asks for a name at the first time
	)
}

// A person's first day in a real browser: sign in, start, compute, reload, stop, start again, and
// find the notebook as they left it.
func TestBrowserMainJob(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{})
	b := d.browser()
	b.start()
	b.signIn(d, "alice")
	b.startAndCompute()
	b.save()
	alice := d.person("alice")
	alice.signIn()
	alice.enter()
	eventually(t, 20*time.Second, "the notebook is saved with its output", func() bool {
		status, body := alice.jupyter("GET", "api/contents/Untitled.ipynb", "")
		return status == 200 && strings.Contains(string(body), "42")
	})
	b.do("reload", time.Minute, chromedp.Reload(), chromedp.WaitVisible(cell))
	b.waitText("the output after a reload", ".jp-OutputArea-output", time.Minute, "42")

	b.do("stop", time.Minute,
		chromedp.Navigate(d.url+"/hub/home"),
		chromedp.WaitVisible(stopButton),
		chromedp.Click(stopButton),
		chromedp.WaitVisible(startButton),
	)
	b.do("start again", 2*time.Minute, chromedp.Click(startButton), chromedp.WaitVisible(`.jp-DirListing-item[title*="Untitled.ipynb"]`))
}

// An administrator stops a person's server on the admin page, while that person's tab is open.
func TestBrowserAdministrator(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{})
	alice := d.person("alice")
	alice.signIn()
	alice.start("")
	k := alice.newKernel()
	b := d.browser()
	b.start()
	b.signIn(d, "admin")
	b.do("open the admin page", time.Minute, chromedp.Navigate(d.url+"/hub/admin"), chromedp.WaitVisible(`#stop-server-alice`))
	b.waitText("the row tells of memory", `[data-key="server-alice"]`, time.Minute, "MiB")
	b.do("stop it", time.Minute, chromedp.Click(`#stop-server-alice`))
	eventually(t, time.Minute, "alice's server is gone", func() bool { return !alice.runs() })
	b.do("the row is gone", time.Minute, chromedp.WaitNotPresent(`#stop-server-alice`))
	k.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	for {
		if _, _, err := k.conn.ReadMessage(); err != nil {
			if !websocket.IsCloseError(err, websocket.CloseGoingAway, websocket.ClosePolicyViolation) {
				t.Errorf("alice's kernel websocket ended with %v", err)
			}
			break
		}
	}
	eventually(t, time.Minute, "alice is told who stopped her server", func() bool { return strings.Contains(alice.visit("/hub/home").body, "admin") })
}
