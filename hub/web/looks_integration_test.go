//go:build integration

package web

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"carrel/hub"
	"carrel/hub/devidp"
)

func scriptsOff() chromedp.Action { return emulation.SetScriptExecutionDisabled(true) }

// look is a page as a visitor meets it.
type look struct{ name, who, path string }

var looks = []look{
	{"sign-in", "", "/hub/login?choose=1"},
	{"home", "ada", "/hub/home"},
	{"home-first-visit", "bo", "/hub/home"},
	{"start", "bo", "/hub/spawn/bo?next=/user/bo/lab/tree/thesis/chapter-2.ipynb"},
	{"start-failed", "ada", "/hub/spawn/ada/genome"},
	{"progress", "ada", "/hub/spawn-pending/ada/field-notes"},
	{"admin-servers", "ada", "/hub/admin"},
	{"admin-people", "ada", "/hub/admin/people"},
	{"admin-visitors", "ada", "/hub/admin/visitors"},
	{"admin-stop-all", "ada", "/hub/admin/stop-all"},
	{"error", "bo", "/hub/admin"},
	{"visit", "", "/hub/tmp?path=chapter-3/soil-moisture.ipynb"},
	{"visit-open", "reader", "/hub/tmp"},
	{"visit-line", "latecomer", "/hub/tmp/wait"},
	{"signed-out", "", "/hub/signed-out"},
	{"demo-sign-in", "", "/hub/demo-provider/authorize?client_id=carrel&response_type=code&scope=openid&state=s&nonce=n" +
		"&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256&redirect_uri="},
}

// sample is an ordinary afternoon.
func sample(t *testing.T) *site {
	s := served(t)
	s.auth.providers = []Provider{{"uni", "University of Ostwald"}, {"lab", "Institute for Soil Science"}, {"orcid", "ORCID"}}
	s.servers.policy.AdminAccess = true
	s.servers.policy.Profiles = []hub.Profile{
		{Name: "small", Title: "Reading desk", Description: "For courses, plots and light work.", Default: true, Home: "/home/jovyan", Network: hub.NetworkOpen, Limits: hub.Limits{CPUs: 1, Memory: 2 << 30, Disk: 10 << 30}, Cull: hub.CullRule{Idle: time.Hour, Extend: time.Hour, Warning: 10 * time.Minute}, DefaultURL: "/lab"},
		{Name: "large", Title: "Large table", Description: "For data that does not fit on a laptop.", Home: "/home/jovyan", Network: hub.NetworkOpen, Limits: hub.Limits{CPUs: 8, Memory: 32 << 30, Disk: 10 << 30}, DefaultURL: "/lab"},
		{Name: "exam", Title: "Exam room", Description: "Cut off from the network; files are not kept.", Network: hub.NetworkNone, Limits: hub.Limits{CPUs: 0.5, Memory: 512 << 20}, DefaultURL: "/lab"},
	}
	now := time.Now()
	s.person("ada", func(u *hub.User) {
		u.Admin, u.DisplayName, u.Email, u.Groups = true, "Ada Thorne", "ada.thorne@ostwald.example", []string{"staff", "soil"}
	})
	s.person("bo", func(u *hub.User) { u.DisplayName, u.Email = "Bo Lindqvist", "bo@ostwald.example" })
	type row struct {
		key, profile, name string
		phase              hub.Phase
		up, idle           time.Duration
		memory, cpu        float64
	}
	for _, r := range []row{
		{"ada", "large", "", hub.Ready, 5*time.Hour + 12*time.Minute, 53 * time.Minute, 21.4, 0.08},
		{"ada/field-notes", "small", "", hub.Starting, 0, 0, 0, 0},
		{"ada/genome", "large", "", hub.Failed, 0, 0, 0, 0},
		{"constance.featherstonehaugh-moreau", "small", "Constance Featherstonehaugh-Moreau", hub.Ready, 26 * time.Hour, time.Minute, 1.1, 0.61},
		{"dmitri", "large", "Dmitri Orlov", hub.Ready, 40 * time.Minute, 2 * time.Minute, 29.8, 7.94},
		{"esi", "small", "Esi Boateng", hub.Queued, 0, 0, 0, 0},
		{"farid", "exam", "Farid Rahmani", hub.Ready, 9 * time.Minute, time.Minute, .2, 0.02},
		{"grace", "small", "Grace Okafor", hub.Stopping, 0, 0, 0, 0},
	} {
		if r.name != "" {
			s.person(r.key, func(u *hub.User) { u.DisplayName, u.Provider, u.Email = r.name, "uni", r.key+"@ostwald.example" })
		}
		key := mustKey(t, r.key)
		rec := hub.Server{Key: key, Phase: r.phase, Profile: r.profile, Generation: 1}
		if r.phase == hub.Ready {
			rec.Started = now.Add(-r.up)
			limit := s.web.profile(r.profile).Limits.Memory
			s.servers.use(key, hub.Usage{Memory: int64(r.memory * (1 << 30)), MemoryLimit: limit, CPUSeconds: r.cpu})
			if err := s.store.RecordActivity(t.Context(), []hub.Activity{{Key: key, Last: now.Add(-r.idle)}}); err != nil {
				t.Fatal(err)
			}
		}
		s.servers.put(rec)
	}
	s.letVisitorsIn(func(p *hub.VisitPolicy) {
		p.Max, p.Line, p.Age = 2, 9, 40*time.Minute
		p.Bans = []hub.Ban{
			{Network: netip.MustParsePrefix("198.51.100.0/24"), Until: time.Now().Add(24 * time.Hour)},
			{Network: netip.MustParsePrefix("2001:db8:bad::/48")},
		}
		p.Page = hub.VisitPage{
			Title: "Soil and water", Text: "The figures of our article, in a notebook of your own: change the rain, and see what the soil does.\n\nThere is nothing to install and no account to make.",
			Terms: "For reading and trying out. No mining, no attacks, nothing unlawful; we stop what gets in the way of others.",
		}
	})
	for n, name := range []string{"reader", "other", "early", "latecomer"} {
		s.guest(name, fmt.Sprintf("192.0.2.%d", n))
	}
	mine, failed := s.servers.servers[mustKey(t, "ada")], s.servers.servers[mustKey(t, "ada/genome")]
	mine.CullAt, mine.CullWhy = now.Add(7*time.Minute+30*time.Second), "it has been idle for 53 minutes"
	s.servers.policy.Profiles[1].Cull = s.servers.policy.Profiles[0].Cull
	failed.Reason = "the server ended by itself: exit code 1"
	failed.LogTail = []string{
		"[I 14:02:11 ServerApp] jupyterlab | extension was successfully linked.", "[C 14:02:11 ServerApp] Bad config encountered during initialization:",
		"    The 'port' trait of a ServerApp instance expected an int, not the str 'eight'.",
	}
	s.servers.put(mine)
	s.servers.put(failed)
	s.servers.tell(mustKey(t, "ada/genome"), hub.Progress{Step: "failed", Failed: true, Done: true, Remedy: "read its last lines below; if your own configuration or an extension is at fault, use safe start"})
	s.servers.tell(mustKey(t, "ada/field-notes"), hub.Progress{Step: "image", Message: "Fetching the image", Detail: "layer 5 of 9, 412 MB of 1.1 GB", Percent: 9, At: now})
	return s
}

// demonstrate puts the demo provider beside the pages, and gives what a sign-in there must lead back to.
func demonstrate(t *testing.T, s *site) (redirectURI string) {
	t.Helper()
	people, _, err := devidp.LoadPeople(filepath.Join(t.TempDir(), "people.json"), []string{"ada"})
	if err != nil {
		t.Fatal(err)
	}
	redirectURI = s.origins.HubURL("oidc/demo/callback")
	idp, err := devidp.New(devidp.Config{
		Issuer: s.origins.HubURL("demo-provider"), People: people, Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler),
		Clients: []devidp.Client{{ID: "carrel", Secret: hub.RandomSecret(), RedirectURIs: []string{redirectURI}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.handler.(*http.ServeMux).Handle("/hub/demo-provider/", idp)
	return redirectURI
}

// axe is npm's axe-core, which looks for barriers.
func axe(t *testing.T) string {
	dir := filepath.Join("testdata", "axe")
	path := filepath.Join(dir, "node_modules", "axe-core", "axe.min.js")
	if _, err := os.Stat(path); err != nil {
		c := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("npm ci: %v\n%s", err, out)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestLooks opens every page in light and dark, on a desk and on a phone: nothing overflows, axe
// finds no barrier, the browser nothing to refuse. With CARREL_SCREENSHOTS=1 it takes the pictures
// of docs/screenshots anew.
func TestLooks(t *testing.T) {
	s, script := sample(t), axe(t)
	callback := url.QueryEscape(demonstrate(t, s))
	b := newBrowser(t, s)
	for _, l := range looks {
		b.as(l.who)
		for _, scheme := range []string{"light", "dark"} {
			for _, width := range []int64{1280, 360} {
				name := fmt.Sprintf("%s-%s-%d", l.name, scheme, width)
				t.Run(name, func(t *testing.T) {
					b.t = t
					b.do("set the stage", emulation.SetDeviceMetricsOverride(width, 800, 1, width < 500),
						emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}))
					path := l.path
					if strings.HasSuffix(path, "redirect_uri=") {
						path += callback
					}
					b.open(path)
					b.do("open what is folded", chromedp.Evaluate(`for (const d of document.querySelectorAll("main details")) d.open = true; true`, nil))
					if over := eval[string](b, overflow); over != "" {
						t.Errorf("wider than the window: %s", over)
					}
					for _, v := range violations(b, script) {
						t.Errorf("axe: %s", v)
					}
					if os.Getenv("CARREL_SCREENSHOTS") != "" {
						b.picture(name, width)
					}
					if l.name == "error" {
						b.ignore("status of 403")
					}
					b.noFaults()
				})
			}
		}
	}
}

// overflow names what sticks out of the window, or of the box that should hold it.
const overflow = `(() => {
	const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
	const out = [...document.querySelectorAll("body *")].filter((e) => !e.closest(".sr, .skip, thead") && e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5);
	return wide > 0 || out.length ? wide + "px " + out.map((e) => e.tagName + "." + e.className).join(" ") : "";
})()`

func violations(b *browser, script string) []string {
	b.t.Helper()
	var raw string
	b.do("run axe", chromedp.Evaluate(script+"; true", nil), chromedp.Evaluate(`axe.run(document, {resultTypes: ["violations", "incomplete"]}).then((r) => JSON.stringify(r.violations.map((v) => v.id + ": " + v.help + ": " + v.nodes.map((n) => n.target + " " + n.failureSummary).join("; "))))`,
		&raw, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	var list []string
	if err := json.Unmarshal([]byte(raw), &list); err != nil {
		b.t.Fatal(err)
	}
	return list
}

const maxPicture = 150 << 10

// picture keeps the whole page as a PNG of few colours.
func (b *browser) picture(name string, width int64) {
	b.t.Helper()
	var shot []byte
	b.do("take a picture", chromedp.ActionFunc(func(ctx context.Context) error {
		var height float64
		if err := chromedp.Evaluate(`document.body.scrollHeight`, &height).Do(ctx); err != nil {
			return err
		}
		if err := emulation.SetDeviceMetricsOverride(width, int64(max(height, 640)), 1, width < 500).Do(ctx); err != nil {
			return err
		}
		var err error
		shot, err = page.CaptureScreenshot().WithFormat(page.CaptureScreenshotFormatPng).Do(ctx)
		return err
	}))
	src, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		b.t.Fatal(err)
	}
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, fewColours(src)); err != nil {
		b.t.Fatal(err)
	}
	if out.Len() > maxPicture {
		b.t.Errorf("the picture has %d bytes, %d at most", out.Len(), maxPicture)
	}
	dir := filepath.Join("..", "..", "docs", "screenshots")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), out.Bytes(), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// fewColours is a picture of at most 256 colours, the most frequent ones: pages have few.
func fewColours(src image.Image) image.Image {
	counts := map[color.RGBA]int{}
	for y := src.Bounds().Min.Y; y < src.Bounds().Max.Y; y++ {
		for x := src.Bounds().Min.X; x < src.Bounds().Max.X; x++ {
			counts[color.RGBAModel.Convert(src.At(x, y)).(color.RGBA)]++
		}
	}
	var palette color.Palette
	for len(palette) < 256 && len(counts) > 0 {
		var most color.RGBA
		for c, n := range counts {
			if n > counts[most] {
				most = c
			}
		}
		palette = append(palette, most)
		delete(counts, most)
	}
	dst := image.NewPaletted(src.Bounds(), palette)
	draw.Draw(dst, dst.Bounds(), src, src.Bounds().Min, draw.Src)
	return dst
}
