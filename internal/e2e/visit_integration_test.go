//go:build integration

package e2e

import (
	"archive/zip"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/storage"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// visitsOn lets two visitors in at once.
const visitsOn = `
tmp: {enabled: true, max: 2, per_address: 0, arrivals_per_address: 0}
profiles:
  - {name: small, default: true, memory: 512MiB, disk: 64MiB}
`

// guest is a visitor with cookies of their own, whose name is known once they have a notebook.
func (d *deployment) guest() *person {
	d.t.Helper()
	p := d.person("")
	at := p.post("/hub/tmp", url.Values{})
	for end := time.Now().Add(2 * time.Minute); strings.Contains(at.url.Path, "/hub/tmp/wait") && time.Now().Before(end); at = p.visit("/hub/tmp/wait") {
		time.Sleep(200 * time.Millisecond)
	}
	name, _, ok := strings.Cut(strings.TrimPrefix(at.url.Path, "/user/"), "/")
	if !ok || at.status != http.StatusOK || !strings.HasPrefix(name, "visitor-") {
		d.t.Fatalf("the click ended at %s with status %d:\n%.1000s", at.url, at.status, at.body)
	}
	p.name = name
	return p
}

// left counts what there is of visitors on this machine: containers, and mounts and files of this deployment.
func (d *deployment) left() string {
	d.t.Helper()
	out, err := exec.Command("docker", "ps", "-a", "--filter", "label=dev.carrel.deployment="+d.name, "--format", "{{.Names}}").Output()
	if err != nil {
		d.t.Fatal(err)
	}
	servers := 0
	for name := range strings.FieldsSeq(string(out)) {
		if !strings.Contains(name, "-slot-") {
			servers++
		}
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		d.t.Fatal(err)
	}
	return fmt.Sprintf("%d servers, %d mounts", servers, strings.Count(string(mounts), d.dir))
}

// nobodysHere waits until nothing runs that the start of the deployment made, and gives what there is.
func (d *deployment) nobodysHere() string {
	d.t.Helper()
	eventually(d.t, 2*time.Minute, "the start's own containers are gone", func() bool { return strings.HasPrefix(d.left(), "0 servers") })
	return d.left()
}

// A visitor's stay in a real browser: one click, JupyterLab, a cell; a reload finds it, a second tab is the
// same; "I am done", and nothing is left.
func TestVisitInABrowser(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: visitsOn})
	before := d.nobodysHere()
	b := d.browser()
	b.start()
	b.do("one click", 2*time.Minute,
		chromedp.Navigate(d.url+"/hub/tmp"), chromedp.Click(`form[action="/hub/tmp"] button`, chromedp.NodeVisible),
		chromedp.WaitVisible(pythonCard), chromedp.Click(pythonCard), chromedp.WaitVisible(cell))
	b.compute()
	b.save()
	eventually(t, 30*time.Second, "it is saved", func() (saved bool) { // else the page asks before it goes
		b.do("look", 0, chromedp.Evaluate(`fetch(location.pathname.split("/lab")[0] + "/api/contents/Untitled.ipynb").then((r) => r.text()).then((s) => s.includes("42"))`, &saved, awaited))
		return saved
	})
	var at string
	b.do("reload", time.Minute, chromedp.Reload(), chromedp.WaitVisible(cell), chromedp.Location(&at))
	b.waitText("the output after a reload", ".jp-OutputArea-output", time.Minute, "42")
	if u, err := url.Parse(at); err != nil || !strings.HasPrefix(u.Host, "visitor-") {
		t.Errorf("the notebook is at %s", at)
	}
	b.do("say goodbye", time.Minute,
		chromedp.Navigate(d.url+"/hub/tmp"), chromedp.Click(`form[action="/hub/tmp/leave"] button`, chromedp.NodeVisible), chromedp.WaitVisible(`form[action="/hub/tmp"]`))
	eventually(t, 30*time.Second, "nothing is left", func() bool { return d.left() == before })
	b.do("the old address", time.Minute, chromedp.Navigate(at), chromedp.WaitVisible(`form[action="/hub/tmp"]`))
}

// A link names a notebook of the operator's: it opens in a copy, with what lies beside it. The page tells how
// long it stays, gives more time and all files; when it is closed, nothing is left a moment later.
func TestVisitFromALink(t *testing.T) {
	t.Parallel()
	files := t.TempDir()
	for name, text := range map[string]string{
		"chem/intro.ipynb": `{"cells":[{"cell_type":"code","execution_count":null,"id":"a","metadata":{},"outputs":[],"source":"print(open(\"table.csv\").read())"}],"metadata":{"kernelspec":{"display_name":"Python 3","language":"python","name":"python3"}},"nbformat":4,"nbformat_minor":5}`,
		"chem/table.csv":   "six,seven", "other/secret.csv": "of another article",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(files, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(files, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for dir := files; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d := deploy(t, options{extra: `
tmp: {enabled: true, max: 1, profile: article, files: /srv/articles, leave_grace: 30s, extend: 30m, extensions: 1}
profiles:
  - {name: small, default: true, memory: 512MiB, disk: 64MiB}
  - {name: article, memory: 512MiB, disk: 64MiB, home_kind: tmpfs, network: none, mounts: [{source: ` + files + `, target: /srv/articles}]}
`})
	before := d.nobodysHere()
	b := d.browser()
	b.start()
	b.do("follow the link", 2*time.Minute,
		chromedp.Navigate(d.url+"/hub/tmp?path=chem/intro.ipynb"), chromedp.Click(`form[action="/hub/tmp"] button`, chromedp.NodeVisible), chromedp.WaitVisible(cell))
	b.waitText("the time that is left", "#carrel-stay", time.Minute, "60 min left")
	b.waitText("the kernel is idle", ".jp-StatusBar-Middle, #jp-bottom-panel", time.Minute, "Idle")
	b.do("run the cell", time.Minute, chromedp.Click(cell), chromedp.KeyEvent(kb.Enter, chromedp.KeyModifiers(input.ModifierShift)))
	b.waitText("the cell reads what lies beside it", ".jp-OutputArea-output", time.Minute, "six,seven")
	b.do("more time", time.Minute, chromedp.Click(`#carrel-stay button`))
	b.waitText("it is more", "#carrel-stay", time.Minute, "90 min left")

	var at string
	b.do("where it is", 0, chromedp.Location(&at))
	me := d.person("")
	var cookies []*network.Cookie
	b.do("take the cookies", 0, chromedp.ActionFunc(func(ctx context.Context) (err error) {
		cookies, err = storage.GetCookies().Do(ctx)
		return err
	}))
	hub, err := url.Parse(d.url)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cookies {
		if c.Domain == "localhost" {
			me.http.Jar.SetCookies(hub, []*http.Cookie{{Name: c.Name, Value: c.Value}})
		}
	}
	work := me.visit("/hub/tmp/download")
	z, err := zip.NewReader(strings.NewReader(work.body), int64(len(work.body)))
	if err != nil {
		t.Fatalf("the download: status %d, %v", work.status, err)
	}
	var names []string
	for _, f := range z.File {
		names = append(names, f.Name)
	}
	if got := strings.Join(names, " "); got != "chem/intro.ipynb chem/table.csv" {
		t.Errorf("the download holds %s", got)
	}
	b.do("reload", time.Minute, chromedp.Reload(), chromedp.WaitVisible(cell))
	b.waitText("the time after a reload", "#carrel-stay", time.Minute, "min left")
	b.do("close it", time.Minute, chromedp.Navigate("about:blank"))
	eventually(t, 90*time.Second, "nothing is left", func() bool { return d.left() == before })
}

// A visitor comes to their own notebook alone, and is nobody anywhere else.
func TestVisitorsAreWalled(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: visitsOn})
	one, other, alice := d.guest(), d.guest(), d.person("alice")
	alice.signIn()
	if out := one.newKernel().run("print(6*7)"); out != "42" {
		t.Errorf("the first cell gives %q", out)
	}
	for _, p := range []*person{other, alice, d.person("")} {
		if at := p.visit(one.notebook("lab")); at.status == http.StatusOK && strings.Contains(at.body, "jupyter-config-data") {
			t.Errorf("%q opens a visitor's notebook", p.name)
		}
		if status, _ := p.jupyterAt(one, "api/contents"); status != http.StatusUnauthorized && status != http.StatusForbidden {
			t.Errorf("%q calls a visitor's server: status %d", p.name, status)
		}
	}
	if status, _ := one.api(http.MethodGet, "/user", ""); status != http.StatusForbidden {
		t.Errorf("a visitor calls the REST interface: status %d", status)
	}
	if at := one.visit("/hub/home"); !strings.Contains(at.url.Path, "demo-provider") && !strings.Contains(at.url.Path, "/hub/login") {
		t.Errorf("a visitor's home page is %s", at.url)
	}
	if out := one.newKernel().run(`import urllib.request
try: print(urllib.request.urlopen("http://1.1.1.1/", timeout=3).status)
except OSError as e: print("none")`); out != "none" {
		t.Errorf("the network: %q", out)
	}
}

// jupyterAt is a call to another's server, as a script of its own page would make it.
func (p *person) jupyterAt(other *person, path string) (int, string) {
	p.t.Helper()
	at := p.do(http.MethodGet, other.notebook(path), nil, http.Header{"Origin": {other.origin()}, "Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Mode": {"cors"}})
	return at.status, at.body
}

// The second visitor finds nothing of the first: no file, variable, process, history or cookie.
func TestNextVisitorFindsNothing(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: strings.Replace(visitsOn, "max: 2", "max: 1", 1)})
	before := d.nobodysHere()
	first := d.guest()
	const mark = "crl-mark-of-the-first"
	k := first.newKernel()
	out := k.run(`
import os, pathlib, subprocess, sys
mark = "` + mark + `"
for d in [os.path.expanduser("~"), "/tmp", "/dev/shm", "/run", os.path.expanduser("~/.ipython"), os.path.expanduser("~/.local/lib")]:
    try:
        os.makedirs(d, exist_ok=True)
        pathlib.Path(d, mark).write_text(mark)
    except OSError as e:
        print("not in", d)
os.environ["MARK"] = mark
get_ipython().run_line_magic("config", "HistoryManager.db_cache_size = 1")
subprocess.Popen(["python3", "-c", "import time; time.sleep(600)", mark], start_new_session=True)
print("left")`)
	if !strings.HasSuffix(out, "left") {
		t.Fatalf("the first leaves %q", out)
	}
	k.run("'" + mark + "' and None")
	address, _ := url.Parse(first.notebook(""))
	cookies := first.http.Jar.Cookies(address)
	hubAddress, _ := url.Parse(d.url)
	hubCookies := first.http.Jar.Cookies(hubAddress)
	first.post("/hub/tmp/leave", url.Values{})
	eventually(t, 30*time.Second, "the first is gone", func() bool { return d.left() == before })

	second := d.guest()
	if second.name == first.name {
		t.Error("both have one name")
	}
	found := second.newKernel().run(`
import os, subprocess
mark = "` + mark[:8] + `" + "` + mark[8:] + `"
for top in ["/home", "/tmp", "/dev/shm", "/run", "/var", "/opt", "/etc", "/root", "/srv", "/mnt"]:
    for d, dirs, names in os.walk(top):
        for n in dirs + names:
            if mark in n: print("file", os.path.join(d, n))
        for n in names:
            try:
                if mark.encode() in open(os.path.join(d, n), "rb").read(1 << 22): print("in", os.path.join(d, n))
            except OSError: pass
if mark in str(dict(os.environ)): print("environment")
for p in os.listdir("/proc"):
    if p.isdigit():
        for n in ("cmdline", "environ"):
            try:
                if int(p) != os.getpid() and mark.encode() in open(f"/proc/{p}/{n}", "rb").read(): print("process", p, n)
            except OSError: pass
for x in get_ipython().history_manager.get_tail(1000, include_latest=False):
    if mark in str(x): print("history", x[:2])
print("done")`)
	if found != "done" {
		t.Errorf("the second finds:\n%s", found)
	}
	// With all that the first one's browser held, the second's notebook does not open, nor the first's.
	thief := d.person("")
	thief.http.Jar.SetCookies(hubAddress, hubCookies)
	for _, p := range []*person{first, second} {
		at, _ := url.Parse(p.notebook(""))
		thief.http.Jar.SetCookies(at, cookies)
		if status, _ := thief.jupyterAt(p, "api/contents"); status == http.StatusOK {
			t.Errorf("the first one's cookies open %s", p.name)
		}
	}
	if at := thief.visit("/hub/tmp/wait"); at.url.Path != "/hub/tmp" {
		t.Errorf("the first one's cookie is led to %s", at.url)
	}
}

// A visitor gets a server that waited, with a home in memory of its own, which the next one has anew.
func TestVisitorsGetWhatWaits(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: `
tmp: {enabled: true, max: 1, profile: article, per_address: 0}
profiles:
  - {name: small, default: true, memory: 512MiB, disk: 64MiB}
  - {name: article, memory: 512MiB, disk: 48MiB, home_kind: tmpfs, network: none, spare: 1}
`})
	for n := range 2 {
		d.slotsReady(n + 1)
		began := time.Now()
		v := d.guest()
		t.Logf("from the click to JupyterLab's page in %v", time.Since(began))
		if claimed := strings.Count(d.output(), "slot claimed"); claimed != n+1 {
			t.Errorf("%d servers that waited were taken by visitor %d", claimed, n)
		}
		out := v.newKernel().run(`import os, pathlib; s = os.statvfs("."); p = pathlib.Path("mine.txt"); print(os.getcwd(), s.f_blocks * s.f_frsize >> 20, p.exists()); p.write_text("mine")`)
		if !strings.HasPrefix(out, "/home/jovyan 48 False") {
			t.Errorf("visitor %d finds %q", n, out)
		}
		v.post("/hub/tmp/leave", url.Values{})
		d.nobodysHere()
	}
}
