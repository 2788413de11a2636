package proxy

import (
	"encoding/json"
	"net/http"
	"time"

	"carrel/hub"
)

// Traffic serves what went by each server's routes, one [hub.Traffic] a line; servers that nobody asked
// for anything are left out. It names people, and so is for the hub alone.
func (p *Proxy) Traffic() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		enc := json.NewEncoder(w)
		for key, r := range p.routes.all() {
			if r.stats.requests.Load() == 0 {
				continue
			}
			if enc.Encode(r.traffic(key)) != nil {
				return // whoever asked is gone
			}
		}
	})
}

func (r *route) traffic(key hub.ServerKey) hub.Traffic {
	t := hub.Traffic{
		Key: key, Requests: r.stats.requests.Load(), Received: r.stats.received.Load(), Sent: r.stats.sent.Load(),
		Websockets: r.stats.tunnels.Load(),
	}
	if used := r.stats.used.Load(); used > 0 {
		t.Last = time.Unix(0, used)
	}
	return t
}

// countBody has what comes of a request's body counted as the route's.
func countBody(r *http.Request, rt *route) {
	if b, ok := r.Body.(*body); ok {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.stats = rt.stats
	}
}
