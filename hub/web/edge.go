package web

import (
	"encoding/json"
	"net/http"
	"strings"
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
	return mux
}

func (w *Web) notice(rw http.ResponseWriter, r *http.Request) error {
	key, ok := hub.ParseServerLabel(r.PathValue("label"))
	if !ok {
		return hub.Errorf(hub.NotFound, "tell notice", "there is no such server")
	}
	s, err := w.cfg.Servers.Server(r.Context(), key)
	if err == nil && r.Method == http.MethodPost {
		s, err = w.cfg.Servers.Extend(r.Context(), key)
	}
	if err != nil {
		return err
	}
	owner, err := w.cfg.Users.User(r.Context(), key.User)
	if err != nil && hub.KindOf(err) != hub.NotFound {
		return err
	}
	rule := w.cfg.Servers.Policy().CullRule(s.Profile, owner.Groups)
	n := notice{Now: time.Now(), Why: s.CullWhy, ExtendSeconds: int(rule.Extend.Seconds()), WarningSeconds: int(rule.Warning.Seconds())}
	n.CanExtend = rule.Extend > 0 && !strings.Contains(s.CullWhy, "maximum age")
	if !s.CullAt.IsZero() {
		n.CullAt = &s.CullAt
	}
	rw.Header().Set("Content-Type", "application/json")
	rw.Header().Set("Cache-Control", "no-store")
	return hub.Wrap(hub.Canceled, "send notice", json.NewEncoder(rw).Encode(n))
}
