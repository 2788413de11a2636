package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"carrel/internal/program"
	"carrel/internal/visitor"
)

// A guest is a browser of somebody without an account, which does what the pages' scripts do.
type guest struct {
	v    *visitor.Visitor
	tr   *http.Transport
	base string
	page visitor.Page // the notebook, once it is there

	began time.Time
	mu    sync.Mutex
	told  foretold
}

// What a guest was told while it waited, the first time that a page told it.
type foretold struct {
	Place   int     `json:"first_place"` // in line; 0: never in line
	Shown   string  `json:"shown"`       // "" when nothing ever was
	After   float64 `json:"shown_after_seconds"`
	Seconds float64 `json:"shown_seconds"`
}

func newGuest(base string) (*guest, error) {
	at, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	tr := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", at.Port())) // as browsers do with *.localhost
	}}
	v, err := visitor.New(base, tr)
	return &guest{v: v, tr: tr, base: base}, err
}

// come is the click, and everything until JupyterLab's page is there.
func (g *guest) come(ctx context.Context) (time.Duration, error) {
	ctx, done := context.WithTimeout(ctx, 15*time.Minute)
	defer done()
	g.began = time.Now()
	at, err := g.v.Send(ctx, http.MethodPost, g.base+"hub/tmp", url.Values{})
	for err == nil {
		switch {
		case at.Status != http.StatusOK:
			return 0, fmt.Errorf("%s: status %d: %.300s", at.URL, at.Status, at.Body)
		case strings.Contains(at.Body, "jupyter-config-data"):
			g.page = at
			return time.Since(g.began), nil
		case strings.Contains(at.Body, `id="line"`):
			g.hear(at.Body)
			at, err = g.stand(ctx)
		case strings.Contains(at.Body, `id="pending"`):
			g.hear(at.Body)
			at, err = g.follow(ctx)
		default:
			return 0, fmt.Errorf("the click led to %s: %.300s", at.URL, at.Body)
		}
	}
	return 0, err
}

var (
	placeIn = regexp.MustCompile(`id="place">(\d+)<`)
	waitIn  = regexp.MustCompile(`id="told">[^<]*<span id="wait">([^<]+)<`)
)

// hear takes in what a page shows.
func (g *guest) hear(page string) {
	if m := placeIn.FindStringSubmatch(page); m != nil && g.told.Place == 0 {
		g.told.Place, _ = strconv.Atoi(m[1]) // it is digits
	}
	if m := waitIn.FindStringSubmatch(page); m != nil {
		g.note(m[1])
	}
}

// note keeps the first time that was told.
func (g *guest) note(text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.told.Shown != "" || text == "" {
		return
	}
	g.told.Shown, g.told.After, g.told.Seconds = text, time.Since(g.began).Seconds(), toldSeconds(text)
}

// toldSeconds reads a time as the pages tell it, "about 1 minute 30 seconds"; 0 where it can't.
func toldSeconds(text string) (sum float64) {
	for _, m := range regexp.MustCompile(`(\d+) (minute|second)`).FindAllStringSubmatch(text, -1) {
		n, _ := strconv.ParseFloat(m[1], 64) // it is digits
		if m[2] == "minute" {
			n *= 60
		}
		sum += n
	}
	return sum
}

// status asks as the scripts of both pages do.
func (g *guest) status(ctx context.Context) (phase string, err error) {
	at, err := g.v.Send(ctx, http.MethodGet, g.base+"hub/tmp/status", nil)
	if err != nil {
		return "", err
	}
	var s struct{ Phase, Wait string }
	if err := json.Unmarshal([]byte(at.Body), &s); err != nil {
		return "", fmt.Errorf("in line: status %d from %s: %.200s", at.Status, at.URL, at.Body)
	}
	g.note(s.Wait)
	return s.Phase, nil
}

// stand waits in line as line.js does.
func (g *guest) stand(ctx context.Context) (visitor.Page, error) {
	for pause := time.Second; ; pause = 2 * time.Second {
		if err := program.Pause(ctx, pause); err != nil {
			return visitor.Page{}, err
		}
		phase, err := g.status(ctx)
		if err != nil {
			return visitor.Page{}, err
		}
		if phase != "waiting" {
			return g.v.Send(ctx, http.MethodGet, g.base+"hub/tmp/wait", nil)
		}
	}
}

// follow waits for the start as pending.js does.
func (g *guest) follow(ctx context.Context) (visitor.Page, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.base+"hub/tmp/progress", nil)
	if err != nil {
		return visitor.Page{}, err
	}
	req.Header.Set("Accept", "text/event-stream")
	res, err := g.v.HTTP.Do(req)
	if err != nil {
		return visitor.Page{}, err
	}
	defer res.Body.Close()
	asking, enough := context.WithCancel(ctx)
	var asked sync.WaitGroup
	asked.Go(func() {
		for program.Pause(asking, 5*time.Second) == nil {
			_, _ = g.status(asking) // as the script: tried again
		}
	})
	next, err := lastStep(res.Body)
	enough()
	asked.Wait()
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("progress: status %d", res.StatusCode)
	}
	if err != nil {
		return visitor.Page{}, err
	}
	if next == "" {
		next = g.base + "hub/tmp/wait"
	}
	return g.v.Send(ctx, http.MethodGet, next, nil)
}

// name is the visitor's, by the address of the notebook.
func (g *guest) name() string {
	_, after, _ := strings.Cut(g.page.URL.Path, "/user/")
	name, _, _ := strings.Cut(after, "/")
	return name
}

// use runs a cell that makes sure that this notebook is the guest's alone.
func (g *guest) use(ctx context.Context) error {
	home := g.page.URL.Scheme + "://" + g.page.URL.Host + "/user/" + g.name() + "/"
	at, err := g.v.Send(ctx, http.MethodPost, home+"api/kernels", nil)
	if err != nil {
		return err
	}
	id, err := kernelID(at.Status, []byte(at.Body))
	if err != nil {
		return err
	}
	d := websocket.Dialer{Jar: g.v.HTTP.Jar, NetDialContext: g.tr.DialContext, HandshakeTimeout: cellWithin}
	own := http.Header{"Origin": {g.page.URL.Scheme + "://" + g.page.URL.Host}}
	said, err := execute(ctx, d, home+"api/kernels/"+id+"/channels", own, `import os, pathlib
mark = pathlib.Path("mark-of-a-guest")
print(os.environ["JUPYTERHUB_USER"], mark.exists())
mark.write_text("mine") and None`)
	if err == nil && said != g.name()+" False" {
		err = &double{fmt.Sprintf("the notebook of %s says %q", g.name(), said)}
	}
	return err
}

// A double is a notebook that two had.
type double struct{ what string }

func (d *double) Error() string { return d.what }

// leave says that the guest is done.
func (g *guest) leave(ctx context.Context) error {
	defer g.tr.CloseIdleConnections()
	at, err := g.v.Send(ctx, http.MethodPost, g.base+"hub/tmp/leave", url.Values{})
	if err != nil {
		return err
	}
	if at.Status != http.StatusOK || !strings.Contains(at.URL.RawQuery, "ended=1") {
		return errors.New("after the goodbye the browser is at " + at.URL.String())
	}
	return nil
}
