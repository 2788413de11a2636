package api

import (
	"context"
	"net/http"
	"time"

	"carrel/hub"
	"carrel/internal/top"
)

// Meters tell what servers use at the moment.
type Meters interface {
	// Usage is a server's own; cores is how many it kept busy lately. False when it was not measured.
	Usage(key hub.ServerKey) (u hub.Usage, cores float64, ok bool)
	// Traffic is what the proxies of this host count, and how many told it; those that don't answer in
	// time are left out.
	Traffic(ctx context.Context) (by map[hub.ServerKey]hub.Traffic, proxies int)
}

// topFresh is how old an answer to "top" may be: whoever watches looks each second, and several may.
const topFresh = 500 * time.Millisecond

// Top serves what servers do at the moment to whoever asks, for a socket that operators alone reach.
func (a *API) Top() http.Handler {
	return a.cfg.Wrap(a.top)
}

// adminTop serves administrators, as it names everyone, and programs that may list people.
func (a *API) adminTop(w http.ResponseWriter, r *http.Request, c caller) error {
	if err := c.mayList("watch servers"); err != nil {
		return err
	}
	return a.top(w, r)
}

func (a *API) top(w http.ResponseWriter, r *http.Request) error {
	a.topMu.Lock()
	defer a.topMu.Unlock()
	if time.Since(a.topLast.Time) > topFresh {
		s, err := a.sample(r.Context())
		if err != nil {
			return err
		}
		a.topLast = s
	}
	return reply(w, http.StatusOK, a.topLast)
}

// sample is every server that is not stopped.
func (a *API) sample(ctx context.Context) (top.Sample, error) {
	last, err := a.activities(ctx)
	if err != nil {
		return top.Sample{}, err
	}
	traffic, proxies := a.cfg.Meters.Traffic(ctx)
	s := top.Sample{Time: time.Now(), Proxies: proxies, Servers: []top.Server{}}
	for rec, err := range a.cfg.Servers.Servers(ctx) {
		if err != nil {
			return top.Sample{}, err
		}
		if !rec.Phase.Active() {
			continue
		}
		t := traffic[rec.Key]
		used := last[rec.Key]
		if t.Last.After(used) {
			used = t.Last
		}
		one := top.Server{
			User: rec.Key.User.String(), Server: rec.Key.Server.String(), State: string(rec.Phase), Profile: rec.Profile,
			Started: orNull(rec.Started), LastActivity: orNull(used),
			Websockets: t.Websockets, Requests: t.Requests, Received: t.Received, Sent: t.Sent,
		}
		if u, cores, ok := a.cfg.Meters.Usage(rec.Key); ok {
			one.Cores, one.Memory = &cores, &u.Memory
		}
		s.Servers = append(s.Servers, one)
	}
	return s, nil
}
