package web

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"

	"carrel/hub"
	"carrel/internal/httpx"
)

// stepTitles are the steps of a start in the order in which they are shown.
var stepTitles = [][2]string{
	{"queue", "Wait for a turn"}, {"image", "Get the image"}, {"create", "Prepare the home"}, {"start", "Start the container"},
	{"wait", "Wake Jupyter"}, {"kernel", "Try a kernel"}, {"ready", "Ready"},
}

type stepView struct{ Step, Title, State string }

type pendingView struct {
	Name, Message, Detail, ProgressURL, CancelURL, FailedURL string
	Wait, StatusURL                                          string // of a visitor's: how long it will take, and where that is told anew
	Percent                                                  int
	Steps                                                    []stepView
}

// pending shows how a start goes; without scripts it is fetched anew every two seconds.
func (w *Web) pending(rw http.ResponseWriter, r *http.Request, v visitor) error {
	key, err := w.target(r, v)
	if err != nil {
		return err
	}
	s, err := w.cfg.Servers.Server(r.Context(), key)
	if err != nil {
		return err
	}
	next := r.URL.Query().Get("next")
	switch {
	case s.Phase == hub.Ready || s.Phase == hub.Paused:
		redirect(rw, r, w.destination(v, s, next), http.StatusFound)
		return nil
	case !s.Coming():
		redirect(rw, r, w.withNext("spawn", key, next), http.StatusFound)
		return nil
	}
	view := pendingView{
		Name: name(key, v), ProgressURL: w.withNext("spawn-progress", key, next), CancelURL: w.path("stop/" + keyPath(key)),
		FailedURL: w.withNext("spawn", key, next),
	}
	return w.showPending(rw, r, v, s, view)
}

// showPending fills in how far the start of a server is.
func (w *Web) showPending(rw http.ResponseWriter, r *http.Request, v visitor, s hub.Server, view pendingView) error {
	p := w.told(r.Context(), s.Key)
	if p.Step == "" || p.Done { // another hub flies it, or the steps are those of the start before
		p = hub.Progress{Step: "queue", Message: "waiting for a turn", Percent: 5}
		if s.Phase == hub.Starting {
			p = hub.Progress{Step: "wait", Message: "the server is starting up", Percent: 40}
		}
	}
	view.Message, view.Detail, view.Percent = sentence(p.Message), plain(p.Detail), p.Percent
	state := "done"
	for _, t := range stepTitles {
		if t[0] == "kernel" && !w.cfg.Servers.Policy().KernelCheck {
			continue
		}
		step := stepView{t[0], t[1], state}
		if t[0] == p.Step {
			step.State, state = "now", "todo"
		}
		view.Steps = append(view.Steps, step)
	}
	f := v.frame("Starting "+view.Name, "home")
	f.Script, f.Refresh = "pending.js", "2"
	return w.render(rw, http.StatusOK, "pending", f, view)
}

// event is one step on the wire, with JupyterHub's names where it has them.
type event struct {
	Progress int      `json:"progress"`
	Message  string   `json:"message"`
	Step     string   `json:"step"`
	Detail   string   `json:"detail,omitempty"`
	Place    int      `json:"place,omitempty"`
	Ready    bool     `json:"ready,omitempty"`
	Failed   bool     `json:"failed,omitempty"`
	Open     string   `json:"open,omitempty"` // where it can be opened already
	URL      string   `json:"url,omitempty"`
	Remedy   string   `json:"remedy,omitempty"`
	Log      []string `json:"log,omitempty"`
}

const keepAlive = 15 * time.Second

// progress is the stream of events behind the page (the HTML standard's server-sent events). An
// event's id is its time, so that a browser that comes back is not told all again.
func (w *Web) progress(rw http.ResponseWriter, r *http.Request, v visitor) error {
	key, err := w.target(r, v)
	if err != nil {
		return err
	}
	return w.streamProgress(rw, r, v, key)
}

func (w *Web) streamProgress(rw http.ResponseWriter, r *http.Request, v visitor, key hub.ServerKey) error {
	seen, _ := strconv.ParseInt(r.Header.Get("Last-Event-ID"), 10, 64)
	steps := func(ctx context.Context) iter.Seq[hub.Progress] { return w.cfg.Servers.Progress(ctx, key) }
	return httpx.Stream(rw, r, "retry: 2000\n\n", keepAlive, steps, func(p hub.Progress) (string, bool, error) {
		id := p.At.UnixNano()
		if id <= seen && !p.Done {
			return "", false, nil
		}
		b, err := json.Marshal(w.event(r.Context(), v, key, p, r.URL.Query().Get("next")))
		return "id: " + strconv.FormatInt(id, 10) + "\ndata: " + string(b) + "\n\n", false, hub.Wrap(hub.Internal, "encode progress", err)
	})
}

func (w *Web) event(ctx context.Context, v visitor, key hub.ServerKey, p hub.Progress, next string) event {
	e := event{
		Progress: p.Percent, Message: plain(p.Message), Step: p.Step, Detail: plain(p.Detail), Place: p.Place,
		Ready: p.Done && !p.Failed || p.Open && v.User.IsVisitor(), Failed: p.Failed, Remedy: plain(p.Remedy), Log: logTail(p.Log),
	}
	e.Message = strings.TrimSuffix(sentence(e.Message), ".")
	if !e.Ready && !p.Open {
		return e
	}
	s, err := w.cfg.Servers.Server(ctx, key)
	if err != nil {
		s = hub.Server{Key: key}
	}
	if e.Open = w.destination(v, s, next); e.Ready {
		e.Open, e.URL = "", e.Open
	}
	return e
}
