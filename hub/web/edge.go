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
}

// Edge serves the edge API, to be reached by proxies alone: whoever asks has been authorised for
// the server by the proxy.
func (w *Web) Edge() http.Handler {
	kit := httpx.Kit{Logger: w.cfg.Logger}
	mux := http.NewServeMux()
	mux.Handle("GET /notice/{label}", kit.Handle(w.notice))
	mux.Handle("POST /notice/{label}", kit.Handle(w.notice))
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
	owner, err := w.cfg.Users.User(r.Context(), s.Key.User)
	if err != nil && hub.KindOf(err) != hub.NotFound {
		return err
	}
	rule := w.cfg.Servers.Policy().CullRule(s.Profile, owner.Groups)
	n := notice{Now: time.Now(), Why: plain(s.CullWhy), ExtendSeconds: int(rule.Extend.Seconds()), WarningSeconds: int(rule.Warning.Seconds()), CanExtend: keepable(s, rule)}
	if !s.CullAt.IsZero() {
		n.CullAt = &s.CullAt
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
