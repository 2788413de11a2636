package web

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"carrel/hub"
	"carrel/internal/httpx"
)

// notice is what a page of a server is told of the server's coming stop.
type notice struct {
	Now            time.Time  `json:"now"`
	CullAt         *time.Time `json:"cull_at"`
	Why            string     `json:"why"`
	CanExtend      bool       `json:"can_extend"`
	ExtendSeconds  int        `json:"extend_seconds"`
	WarningSeconds int        `json:"warning_seconds"`
	Visit          *stay      `json:"visit,omitempty"`
}

// stay is what the page of a visitor's server is told of the visit.
type stay struct {
	EndsAt        time.Time `json:"ends_at"`
	CanExtend     bool      `json:"can_extend"`
	ExtendSeconds int       `json:"extend_seconds"`
	DownloadURL   string    `json:"download_url"`
	DoneURL       string    `json:"done_url"`
}

// Edge serves the edge API, to be reached by proxies alone: whoever asks has been authorised for
// the server by the proxy.
func (w *Web) Edge() http.Handler {
	kit := httpx.Kit{Logger: w.cfg.Logger}
	mux := http.NewServeMux()
	mux.Handle("GET /notice/{label}", kit.Handle(w.notice))
	mux.Handle("POST /notice/{label}", kit.Handle(w.notice))
	mux.Handle("POST /more/{label}", kit.Handle(w.more))
	mux.Handle("POST /leave/{label}", kit.Handle(w.closed))
	mux.Handle("POST /back/{label}", kit.Handle(w.back))
	mux.Handle("POST /wake/{label}", kit.Handle(w.wake))
	mux.Handle("/", kit.Handle(func(http.ResponseWriter, *http.Request) error {
		return hub.Errorf(hub.NotFound, "edge", "there is no such call")
	}))
	return mux
}

// wake has a paused server go on, and answers when it does.
func (w *Web) wake(rw http.ResponseWriter, r *http.Request) error {
	s, err := w.labelled(r.Context(), r.PathValue("label"))
	if err == nil {
		_, err = w.cfg.Servers.Wake(r.Context(), s.Key)
	}
	if err != nil {
		return err
	}
	rw.WriteHeader(http.StatusNoContent)
	return nil
}

func (w *Web) notice(rw http.ResponseWriter, r *http.Request) error {
	s, err := w.labelled(r.Context(), r.PathValue("label"))
	if err == nil && r.Method == http.MethodPost {
		s, err = w.cfg.Servers.Extend(r.Context(), s.Key)
	}
	if err != nil {
		return err
	}
	return w.tellNotice(rw, r, s)
}

func (w *Web) tellNotice(rw http.ResponseWriter, r *http.Request, s hub.Server) error {
	owner, err := w.cfg.Users.User(r.Context(), s.Key.User)
	if err != nil && hub.KindOf(err) != hub.NotFound {
		return err
	}
	rule := w.cfg.Servers.Policy().CullRule(s.Profile, owner.Groups)
	n := notice{Now: time.Now(), Why: plain(s.CullWhy), ExtendSeconds: int(rule.Extend.Seconds()), WarningSeconds: int(rule.Warning.Seconds()), CanExtend: keepable(s, rule)}
	if !s.CullAt.IsZero() {
		n.CullAt = &s.CullAt
	}
	if n.Visit, err = w.stayOf(r.Context(), s.Key.User); err != nil {
		return err
	}
	rw.Header().Set("Content-Type", "application/json")
	rw.Header().Set("Cache-Control", "no-store")
	return hub.Wrap(hub.Canceled, "send notice", json.NewEncoder(rw).Encode(n))
}

// labelled finds a server by its label; that of a very long name can't be read back, and is looked for.
func (w *Web) labelled(ctx context.Context, label string) (hub.Server, error) {
	if key, ok := hub.ParseServerLabel(label); ok {
		return w.cfg.Servers.Server(ctx, key)
	}
	for s, err := range w.cfg.Servers.Servers(ctx) {
		if err != nil {
			return hub.Server{}, err
		}
		if s.Key.Label() == label {
			return s, nil
		}
	}
	return hub.Server{}, hub.Errorf(hub.NotFound, "find server", "there is no such server")
}

// stayOf tells of a visit, which has a page open: this one asks. Of people it tells nothing.
func (w *Web) stayOf(ctx context.Context, name hub.UserName) (*stay, error) {
	if !name.IsVisitor() || w.cfg.Visits == nil {
		return nil, nil //nolint:nilnil // there is no visit, and nothing wrong
	}
	visit, err := w.cfg.Visits.Back(ctx, name)
	if err != nil {
		return nil, err
	}
	p := w.cfg.Visits.Policy()
	o := w.cfg.Origins
	return &stay{visit.Expires, visit.Extensible(p), int(p.Extend.Seconds()), o.HubURL("tmp/download"), o.HubURL("tmp")}, nil
}

// more gives a visit more time.
func (w *Web) more(rw http.ResponseWriter, r *http.Request) error {
	s, err := w.labelled(r.Context(), r.PathValue("label"))
	if err == nil && w.cfg.Visits != nil {
		_, err = w.cfg.Visits.Extend(r.Context(), s.Key.User)
	}
	if err != nil {
		return err
	}
	return w.tellNotice(rw, r, s)
}

// closed hears that a page of a visit was closed; another one that is open says so soon.
func (w *Web) closed(rw http.ResponseWriter, r *http.Request) error {
	s, err := w.labelled(r.Context(), r.PathValue("label"))
	if err == nil && w.cfg.Visits != nil && s.Key.User.IsVisitor() {
		err = w.cfg.Visits.Away(r.Context(), s.Key.User)
	}
	if err != nil {
		return err
	}
	rw.WriteHeader(http.StatusNoContent)
	return nil
}

// back hears that a page of a visit is there, after another was closed.
func (w *Web) back(rw http.ResponseWriter, r *http.Request) error {
	s, err := w.labelled(r.Context(), r.PathValue("label"))
	if err == nil {
		_, err = w.stayOf(r.Context(), s.Key.User)
	}
	if err != nil {
		return err
	}
	rw.WriteHeader(http.StatusNoContent)
	return nil
}
