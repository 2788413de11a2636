package proxy

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"carrel/hub"
)

// counting is a session store that counts what it is asked.
type counting struct {
	hub.SessionStore

	asked atomic.Int64
}

// Session implements [hub.SessionStore].
func (c *counting) Session(ctx context.Context, h hub.SecretHash) (hub.Session, error) {
	c.asked.Add(1)
	return c.SessionStore.Session(ctx, h)
}

// TestAStormOfTabs: after a restart of the proxy 5,000 tabs connect again whose server is gone, or who
// are signed out. That costs the hub nothing, and the store no more than one question a session.
func TestAStormOfTabs(t *testing.T) {
	const tabs, atOnce = 5000, 50
	w := newWorld(t, setup{})
	store := &counting{SessionStore: w.store}
	w.again(t, func(cfg *Config) { cfg.Sessions = store })
	w.start(false)
	carol, gone := w.person("carol"), w.person("dave")
	w.end(hub.SessionQuery{User: gone.user.Name})
	for _, c := range []struct {
		name   string
		who    *person
		status int
		asks   int64 // a session that is none is asked about again after a while
	}{{"no server", carol, http.StatusFailedDependency, 1}, {"signed out", gone, http.StatusForbidden, 60}} {
		t.Run(c.name, func(t *testing.T) {
			store.asked.Store(0)
			var wg sync.WaitGroup
			for range atOnce {
				wg.Go(func() {
					for range tabs / atOnce {
						if got, err := w.reconnect(c.who); err != nil || got != c.status {
							t.Errorf("%d, %v; want %d", got, err, c.status)
							return
						}
					}
				})
			}
			wg.Wait()
			if n := store.asked.Load(); n > c.asks {
				t.Errorf("%d tabs cost %d questions", tabs, n)
			}
			if n := len(w.hubGot.all()) + len(w.edgeGot.all()); n > 0 {
				t.Errorf("the hub was asked %d times", n)
			}
		})
	}
}

// reconnect is what a tab does, on a connection of its own.
func (w *world) reconnect(p *person) (status int, err error) {
	conn, err := w.dial(w.t.Context(), "", "")
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	user := p.user.Name.String()
	r := w.request("GET", w.url(user, "api/kernels/1/channels"), "", kinds["websocket"], w.as(p), ownOrigin(w, user))
	if err := r.Write(conn); err != nil {
		return 0, err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}
