//go:build integration

package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

const thebeVersion = "0.9.3"

// article is a page of another site: plain HTML, one cell, and thebe, which is told where its kernel is.
const article = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Soil and water</title>
<link rel="stylesheet" href="/thebe/thebe.css"><script src="/thebe/index.js"></script></head>
<body><h1>Soil and water</h1><p>Six times seven is:</p>
<pre data-executable="true" data-language="python">print("it is", 6 * 7)</pre>
<p id="said"></p>
<script>
addEventListener("load", async () => {
  try {
    const answer = await fetch("HUB/hub/api/tmp", { method: "POST" });
    const { url, token, message } = await answer.json();
    if (!answer.ok) throw new Error(message);
    window.visit = { url, token };
    await thebe.bootstrap({
      useBinder: false, requestKernel: true, kernelOptions: { kernelName: "python3" },
      serverSettings: { baseUrl: url, wsUrl: url.replace(/^http/, "ws"), token, appendToken: true },
    });
    document.getElementById("said").textContent = "ready";
  } catch (err) {
    document.getElementById("said").textContent = String(err);
  }
});
</script></body></html>`

// A plain page of another site runs its cell by thebe on a notebook of ours; when it says that it is done
// nothing is left. A site that nobody named gets nothing.
func TestThebe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pack := exec.Command("npm", "pack", "thebe@"+thebeVersion, "--silent", "--pack-destination", dir)
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("npm pack: %v\n%s", err, out)
	}
	if out, err := exec.Command("tar", "-xzf", filepath.Join(dir, "thebe-"+thebeVersion+".tgz"), "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	hub := ""
	pages := http.NewServeMux()
	pages.Handle("/thebe/", http.StripPrefix("/thebe/", http.FileServer(http.Dir(filepath.Join(dir, "package", "lib")))))
	pages.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, strings.ReplaceAll(article, "HUB", hub))
	})
	named, other := httptest.NewServer(pages), httptest.NewServer(pages)
	t.Cleanup(named.Close)
	t.Cleanup(other.Close)
	d := deploy(t, options{extra: strings.Replace(visitsOn, "{enabled: true", fmt.Sprintf("{enabled: true, cors_origins: [%q]", named.URL), 1)})
	hub = d.url
	before := d.nobodysHere()

	b := d.browser()
	b.start()
	b.do("open the article", time.Minute, chromedp.Navigate(named.URL+"/"))
	b.waitText("the kernel is there", "#said", 2*time.Minute, "ready")
	b.do("run the cell", time.Minute, chromedp.Click(".thebe-run-button", chromedp.NodeVisible))
	b.waitText("the cell's output", ".thebe-output, .jp-OutputArea-output", time.Minute, "it is 42")
	b.do("say that it is done", time.Minute, chromedp.Evaluate(`fetch("`+d.url+`/hub/api/tmp", { method: "DELETE", headers: { Authorization: "token " + visit.token } }).then((r) => r.status)`, nil, awaited))
	eventually(t, 30*time.Second, "nothing is left", func() bool { return d.left() == before })

	b.do("open it at another site", time.Minute, chromedp.Navigate(other.URL+"/"))
	b.waitText("it is refused", "#said", time.Minute, "Failed to fetch")
	if left := d.left(); left != before {
		t.Errorf("for a site that nobody named there are %s", left)
	}
}

// tmpnb's calls, as its clients make them: the path leads a browser to a notebook.
func TestTmpnbsCalls(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: strings.Replace(visitsOn, "max: 2", "max: 1", 1)})
	p := d.person("")
	if at := p.do(http.MethodGet, d.url+"/api/stats", nil, nil); at.status != http.StatusOK || !strings.Contains(at.body, `"available":1,"capacity":1`) {
		t.Errorf("stats: status %d, %s", at.status, at.body)
	}
	spawned := p.do(http.MethodPost, d.url+"/api/spawn", nil, nil)
	_, path, ok := strings.Cut(spawned.body, `{"url":"`)
	path, _, ended := strings.Cut(path, `"}`)
	if spawned.status != http.StatusOK || !ok || !ended {
		t.Fatalf("spawn: status %d, %s", spawned.status, spawned.body)
	}
	if full := p.do(http.MethodPost, d.url+"/api/spawn/", nil, nil); full.status != http.StatusTooManyRequests || strings.TrimSpace(full.body) != `{"status":"full"}` {
		t.Errorf("when it is full: status %d, %s", full.status, full.body)
	}
	at := p.visit(path)
	if at.status != http.StatusOK || !strings.Contains(at.body, "jupyter-config-data") || strings.Contains(at.url.String(), "token") {
		t.Fatalf("the path leads to %s with status %d", at.url, at.status)
	}
	p.name, _, _ = strings.Cut(strings.TrimPrefix(at.url.Path, "/user/"), "/")
	if out := p.newKernel().run("print(6*7)"); out != "42" {
		t.Errorf("the first cell gives %q", out)
	}
}
