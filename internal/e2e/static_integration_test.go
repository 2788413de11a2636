//go:build integration

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// awaitStatics waits until the kernel image's static files are kept, and gives their sizes, uncompressed.
func (d *deployment) awaitStatics() (sizes map[string]int64) {
	d.t.Helper()
	var kept []string
	eventually(d.t, 5*time.Minute, "the image's static files are kept", func() (ok bool) {
		kept, _ = filepath.Glob(filepath.Join(d.dir, "state", "static", "*", "index.json"))
		return len(kept) > 0
	})
	var index struct {
		Files map[string]struct{ Size int64 }
	}
	text, err := os.ReadFile(kept[0])
	if err == nil {
		err = json.Unmarshal(text, &index)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	sizes = map[string]int64{}
	for path, f := range index.Files {
		sizes[path] = f.Size
	}
	return sizes
}

// fromImage tells by a server's own mark who answered.
func fromImage(header func(string) string) bool {
	return !strings.HasPrefix(header("Server"), "TornadoServer") && header("Cross-Origin-Resource-Policy") == "same-origin"
}

// traffic counts what a browser fetches below a person's server.
type traffic struct {
	mu      sync.Mutex
	waiting map[network.RequestID]*fetched
	memory  map[network.RequestID]bool // answered from the browser's memory
	done    []fetched
}

type fetched struct {
	path   string
	static bool
	image  bool // the proxy answered it from the image
	cached bool // nobody was asked
	bytes  float64
}

// watch counts from now on.
func (b *browser) watch(person string) *traffic {
	b.t.Helper()
	c := &traffic{waiting: map[network.RequestID]*fetched{}, memory: map[network.RequestID]bool{}}
	chromedp.ListenTarget(b.ctx, func(event any) {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch e := event.(type) {
		case *network.EventResponseReceived:
			_, path, found := strings.Cut(e.Response.URL, "/user/"+person+"/")
			if !found {
				return
			}
			header := func(name string) string {
				for k, v := range e.Response.Headers {
					if strings.EqualFold(k, name) {
						return fmt.Sprint(v)
					}
				}
				return ""
			}
			path, _, _ = strings.Cut(path, "?")
			c.waiting[e.RequestID] = &fetched{
				path: path, static: strings.HasPrefix(path, "static/") || strings.HasPrefix(path, "lab/extensions/"), image: fromImage(header),
				cached: e.Response.FromDiskCache || c.memory[e.RequestID],
			}
		case *network.EventRequestServedFromCache:
			c.memory[e.RequestID] = true // the response is told of after this
		case *network.EventLoadingFinished:
			if f := c.waiting[e.RequestID]; f != nil {
				f.bytes = e.EncodedDataLength
				c.done = append(c.done, *f)
				delete(c.waiting, e.RequestID)
			}
		}
	})
	b.do("watch the network", 0, network.Enable())
	return c
}

// share is how much of a load came from where; it starts the next count.
type share struct {
	image, server, cached int // requests
	imageBytes            float64
	imageFiles            []string
	serverBytes           float64
	serverStatic          []string // static files that the server was asked for
	serverStaticBytes     float64
}

func (c *traffic) take() (s share) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.done {
		switch {
		case f.cached:
			s.cached++
		case f.image:
			s.image++
			s.imageBytes += f.bytes
			s.imageFiles = append(s.imageFiles, f.path)
		default:
			s.server++
			s.serverBytes += f.bytes
			if f.static {
				s.serverStatic = append(s.serverStatic, f.path)
				s.serverStaticBytes += f.bytes
			}
		}
	}
	c.done = nil
	return s
}

func (s share) String() string {
	return fmt.Sprintf("from the image %d requests, %.0f KiB; from the server %d requests, %.0f KiB, of static files %d, %.0f KiB; from the browser's cache %d",
		s.image, s.imageBytes/1024, s.server, s.serverBytes/1024, len(s.serverStatic), s.serverStaticBytes/1024, s.cached)
}

// quiet waits until a page has fetched what it wants at first.
func (c *traffic) quiet(t *testing.T) {
	t.Helper()
	last, since := -1, time.Now()
	eventually(t, time.Minute, "the page fetches no more static files", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		n := 0
		for _, f := range c.done {
			if f.static {
				n++
			}
		}
		if n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > 3*time.Second
	})
}

// fewStatic is how many static files a server may still be asked for: those whose names say nothing of
// their content, as icons and the notice's script.
const fewStatic = 4

// Nearly all that JupyterLab loads comes from the image's copy, in a real browser: at a first visit, at
// a second, and at another person's.
func TestBrowserStaticFiles(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: "spawner:\n  kernel_check: false\n"})
	sizes := d.awaitStatics()
	check := func(what string, s share) {
		t.Helper()
		t.Logf("%s: %s", what, s)
		if len(s.serverStatic) > fewStatic {
			t.Errorf("%s: the server was asked for %d static files: %s", what, len(s.serverStatic), s.serverStatic)
		}
	}
	for _, name := range []string{"alice", "bob"} {
		b := d.browser()
		b.start()
		b.signIn(d, name)
		c := b.watch(name)
		b.do("start", 2*time.Minute, chromedp.WaitVisible(startButton), chromedp.Click(startButton), chromedp.WaitVisible(pythonCard))
		c.quiet(t)
		cold := c.take()
		check(name+", cold", cold)
		plain := int64(0)
		for _, path := range cold.imageFiles {
			plain += sizes[path]
		}
		t.Logf("what came from the image is %d KiB uncompressed, as servers send it", plain/1024)
		if static := cold.imageBytes + cold.serverStaticBytes; cold.image < 20 || cold.imageBytes < 0.8*static {
			t.Errorf("%.0f %% of the static bytes, and %d files, came from the image", 100*cold.imageBytes/static, cold.image)
		}
		if name != "alice" {
			continue
		}
		b.do("reload", 2*time.Minute, chromedp.Reload(), chromedp.WaitVisible(pythonCard))
		c.quiet(t)
		warm := c.take()
		check(name+", warm", warm)
		if warm.cached < 20 || warm.image > 0 {
			t.Errorf("the browser asked again for what never changes: %s", warm)
		}
	}
}

var mainScript = regexp.MustCompile(`static/lab/main\.[0-9a-f]{16,}\.js`)

// A home whose JupyterLab is not the image's gets its own files, though they have the image's names.
func TestStaticFilesOfTheHome(t *testing.T) {
	t.Parallel()
	d := deploy(t, options{extra: "spawner:\n  kernel_check: false\n"})
	d.awaitStatics()
	alice := d.person("alice")
	alice.signIn()
	alice.start("")
	get := func() page {
		t.Helper()
		found := mainScript.FindString(alice.visit(alice.notebook("lab")).body)
		if found == "" {
			t.Fatal("the page names no main script")
		}
		return alice.do(http.MethodGet, alice.notebook(found), nil, http.Header{"Sec-Fetch-Site": {"same-origin"}})
	}
	if got := get(); got.status != http.StatusOK || !fromImage(got.header.Get) {
		t.Fatalf("the image's file: %d %v", got.status, got.header)
	}
	alice.newKernel().run(`
import glob, os, shutil
own = os.path.expanduser("~/own")
shutil.copytree("/usr/local/share/jupyter/lab/static", own, copy_function=shutil.copyfile)
for name in glob.glob(own + "/main.*.js"):
    open(name, "a").write("\n// patched at home\n")
os.makedirs(os.path.expanduser("~/.jupyter"), exist_ok=True)
open(os.path.expanduser("~/.jupyter/jupyter_lab_config.py"), "w").write(f"c.LabApp.static_dir = {own!r}\n")
`)
	alice.stop()
	alice.start("")
	if got := get(); got.status != http.StatusOK || fromImage(got.header.Get) || !strings.HasSuffix(got.body, "// patched at home\n") {
		t.Errorf("the home's file: %d %v, which ends with %q", got.status, got.header, got.body[max(0, len(got.body)-100):])
	}
}
