package api

import (
	"context"
	"encoding/json"
	"html"
	"iter"
	"net/http"
	"time"

	"carrel/hub"
	"carrel/internal/httpx"
)

// event is one step of a start in JupyterHub's form, with Carrel's fields beside.
type event struct {
	Progress    int      `json:"progress"` // percent
	Message     string   `json:"message"`
	HTMLMessage string   `json:"html_message"` // the same, safe in a page
	Ready       bool     `json:"ready,omitempty"`
	Failed      bool     `json:"failed,omitempty"`
	URL         string   `json:"url,omitempty"` // path, when ready
	Step        string   `json:"step,omitempty"`
	Place       int      `json:"place,omitempty"` // in the queue
	Remedy      string   `json:"remedy,omitempty"`
	Log         []string `json:"log,omitempty"` // the container's last lines, when failed
}

func (a *API) event(key hub.ServerKey, p hub.Progress) event {
	e := event{Progress: p.Percent, Message: p.Message, Step: p.Step, HTMLMessage: html.EscapeString(p.Message)}
	switch {
	case p.Done && p.Failed:
		e.Progress, e.Failed, e.Log, e.Remedy = 100, true, p.Log, p.Remedy
	case p.Done || p.Open: // who asks by program waits for no more than that
		e.Progress, e.Ready, e.URL = 100, true, a.cfg.Origins.ServerPath(key)
		link := html.EscapeString(e.URL)
		e.HTMLMessage = `Server ready at <a href="` + link + `">` + link + `</a>`
	default:
		e.Place = p.Place
	}
	return e
}

// keepAlive is how often a silent stream is written to, so that nothing between cuts it.
const keepAlive = 8 * time.Second

// progress is a stream of events (the HTML standard's server-sent events); it ends when the server
// can be opened, when the start failed, or when the caller goes away.
func (a *API) progress(w http.ResponseWriter, r *http.Request, c caller) error {
	key, err := c.target(r, hub.ScopeReadUsers, hub.ScopeServers)
	if err != nil {
		return err
	}
	if _, err := a.existing(r.Context(), key); err != nil {
		return err
	}
	steps := func(ctx context.Context) iter.Seq[hub.Progress] { return a.cfg.Servers.Progress(ctx, key) }
	return httpx.Stream(w, r, ": progress\n\n", keepAlive, steps, func(p hub.Progress) (string, bool, error) {
		e := a.event(key, p)
		b, err := json.Marshal(e)
		return "data: " + string(b) + "\n\n", e.Ready || e.Failed, hub.Wrap(hub.Internal, "encode progress", err)
	})
}
