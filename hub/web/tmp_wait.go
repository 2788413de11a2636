package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"carrel/hub"
)

type lineView struct {
	Place               int
	Wait                string
	StatusURL, LeaveURL string
}

// wait leads from the click to the notebook: the line, the start, the page.
func (w *Web) wait(rw http.ResponseWriter, r *http.Request, v visitor, visit hub.Visit, place hub.LinePlace) error {
	path, err := notebookPath(r.URL.Query().Get("path"))
	if err != nil {
		return err
	}
	if visit.Phase == hub.VisitWaiting {
		f := frame{Title: "Waiting for a notebook", Script: "line.js", Refresh: "5"}
		return w.render(rw, http.StatusOK, "tmp-line", f, lineView{place.N, waitText(place), w.path("tmp/status"), w.path("tmp/leave")})
	}
	s, err := w.cfg.Servers.Server(r.Context(), visit.Key())
	if err != nil {
		return err
	}
	next := w.notebookURL(visit.Key(), path)
	switch {
	case s.Phase == hub.Ready || s.Phase == hub.Paused:
		redirect(rw, r, w.destination(v, s, next), http.StatusFound)
		return nil
	case s.Coming() || s.Revision == 0: // it was let in just now
		view := pendingView{Name: "your notebook", Wait: waitText(place), StatusURL: w.path("tmp/status"), CancelURL: w.path("tmp/leave"), FailedURL: w.path("tmp?ended=1")}
		view.ProgressURL = w.path("tmp/progress")
		if next != "" {
			view.ProgressURL += "?next=" + url.QueryEscape(next)
		}
		return w.showPending(rw, r, v, s, view)
	}
	redirect(rw, r, w.path("tmp?ended=1"), http.StatusFound)
	return nil
}

// notebookURL is the page of a server that shows a notebook; "" for none.
func (w *Web) notebookURL(key hub.ServerKey, path string) string {
	if path == "" {
		return ""
	}
	if w.cfg.Visits.Policy().Copied {
		return w.cfg.Origins.ServerPath(key) + "carrel/open?path=" + url.QueryEscape(path)
	}
	return w.cfg.Origins.ServerPath(key) + "lab/tree/" + (&url.URL{Path: path}).EscapedPath()
}

// waitText is a time for whoever waits, in steps that grow with it; "" where it is unknown.
func waitText(place hub.LinePlace) string {
	if !place.Known {
		return ""
	}
	step := time.Second
	for _, s := range []struct{ from, step time.Duration }{{20 * time.Second, 5 * time.Second}, {time.Minute, 10 * time.Second}, {2 * time.Minute, 30 * time.Second}, {5 * time.Minute, time.Minute}} {
		if place.Wait >= s.from {
			step = s.step
		}
	}
	d := max(shortestWait, place.Wait.Round(step))
	minutes, seconds := int(d/time.Minute), int(d%time.Minute/time.Second)
	switch {
	case minutes == 0:
		return fmt.Sprintf("about %d seconds", seconds)
	case seconds == 0:
		return "about " + count(minutes, "minute", "minutes")
	}
	return fmt.Sprintf("about %s %d seconds", count(minutes, "minute", "minutes"), seconds)
}

// shortestWait is what is told of anything shorter.
const shortestWait = 5 * time.Second

// status tells the waiting page's script how far it is.
func (w *Web) status(rw http.ResponseWriter, _ *http.Request, _ visitor, visit hub.Visit, place hub.LinePlace) error {
	answer := struct {
		Phase       hub.VisitPhase `json:"phase"`
		Place       int            `json:"place,omitempty"`
		Wait        string         `json:"wait,omitempty"`
		WaitSeconds *float64       `json:"wait_seconds,omitempty"` // none where it can't be told
	}{Phase: visit.Phase, Place: place.N, Wait: waitText(place)}
	if place.Known {
		s := place.Wait.Round(100 * time.Millisecond).Seconds()
		answer.WaitSeconds = &s
	}
	rw.Header().Set("Content-Type", "application/json")
	return hub.Wrap(hub.Canceled, "send status", json.NewEncoder(rw).Encode(answer))
}

func (w *Web) tmpProgress(rw http.ResponseWriter, r *http.Request, v visitor, visit hub.Visit, _ hub.LinePlace) error {
	return w.streamProgress(rw, r, v, visit.Key())
}
