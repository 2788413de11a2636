//go:build integration

package e2e

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/gorilla/websocket"
)

// An open tab alone keeps no server, a kernel that computes does without a tab, and whoever is
// warned in JupyterLab can keep theirs.
func TestCulling(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: peopleNamed(3) + `
spawner:
  kernel_check: false
profiles:
  - {name: short, default: true, title: Short, cpu: 1, memory: 512MiB, disk: 64MiB, network: none, cull: {idle: 70s, warning: 45s, extend: 10m, busy_max: 1h}}
`})
	idle, busy, keeper := d.person("person0"), d.person("person1"), d.person("person2")
	for _, p := range []*person{idle, busy, keeper} {
		p.signIn()
		p.start("")
	}
	began := time.Now()
	b := d.browser()
	b.start()
	b.signIn(d, "person2")
	b.open(keeper.notebook("lab"), pythonCard)

	k := busy.newKernel()
	k.send(computing)
	k.conn.Close()
	stopTab := openTab(t, idle)
	defer stopTab()

	eventually(t, 90*time.Second, "the home page warns", func() bool { return strings.Contains(idle.visit("/hub/home").body, "This server stops") })
	const notices = `[...document.querySelectorAll('.Toastify__toast')].map(e => e.innerText).join('\n')`
	b.do("the warning in JupyterLab", 90*time.Second, chromedp.Poll(`/will be stopped/.test(`+notices+`)`, nil, chromedp.WithPollingInterval(200*time.Millisecond), chromedp.WithPollingTimeout(0)))
	b.do("keep the server", 30*time.Second,
		chromedp.Evaluate(`[...document.querySelectorAll('.Toastify__toast button')].find(b => b.innerText === 'Keep my server').click()`, nil),
		chromedp.Poll(`/stays for another 10 minutes/.test(`+notices+`)`, nil))

	eventually(t, 2*time.Minute, "the idle server with an open tab ends", func() bool { return !idle.runs() })
	if after := time.Since(began); after < 70*time.Second {
		t.Errorf("it ended after %s", after)
	}
	eventually(t, 30*time.Second, "the home page says why", func() bool { return strings.Contains(idle.visit("/hub/home").body, "it has been idle for") })
	for time.Since(began) < 150*time.Second { // the others' time is up too, if they were idle
		if !busy.runs() || !keeper.runs() {
			t.Fatalf("after %s: the busy one runs: %v, the kept one: %v", time.Since(began), busy.runs(), keeper.runs())
		}
		time.Sleep(2 * time.Second)
	}
}

// computing is a cell that never ends, uses as much of a core as counts, and leaves other tests the rest.
const computing = "import time\nwhile True: sum(range(100000)); time.sleep(.01)"

// runs tells whether the person's default server is there.
func (p *person) runs() bool {
	p.t.Helper()
	_, user := p.api(http.MethodGet, "/users/"+p.name, "")
	return user["server"] != nil
}

// send has the kernel execute code and waits for nothing but its beginning.
func (k *kernel) send(code string) {
	k.t.Helper()
	_, err := k.try(code, 3*time.Second)
	if err == nil {
		k.t.Fatalf("%q is over already", code)
	}
}

// openTab does what an open tab of JupyterLab does by itself: a kernel's websocket with its pings,
// and polls. The function returned ends it.
func openTab(t *testing.T, p *person) func() {
	t.Helper()
	k := p.newKernel()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(5 * time.Second):
			}
			k.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second))
			for _, path := range []string{"api/kernels", "api/sessions", "api/terminals"} {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.notebook(path), nil)
				if err != nil {
					continue
				}
				req.Header.Set("Sec-Fetch-Site", "same-origin")
				if res, err := p.http.Do(req); err == nil {
					res.Body.Close()
				}
			}
		}
	}()
	return func() { cancel(); <-done }
}
