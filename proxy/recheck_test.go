package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"carrel/hub"
)

// TestTunnelsWithRedisAway: an open websocket is honoured for the grace and no longer; who was signed
// out meanwhile is cut as soon as the store answers, be it that it first says that it is loading.
func TestTunnelsWithRedisAway(t *testing.T) {
	const answering, loading, over = 0, 1, 2
	for _, c := range []struct {
		name  string
		steps []int // of the store, each for a minute
		last  int   // minutes after which the tunnel is still open
		code  int   // it ends with, up to two seconds later; 0: it goes on
	}{
		{"a short outage", []int{loading, loading, answering, answering, answering, answering, answering, answering}, 8, 0},
		{"a long one", []int{loading, loading, loading, loading, loading, loading, loading, loading}, 5, closeTryAgain},
		{"the grace counts from the last answer", []int{answering, answering, loading, loading, loading, loading, loading, loading, loading}, 7, closeTryAgain},
		{"signed out meanwhile", []int{loading, loading, over, over}, 2, closePolicy},
		{"signed out, and nothing was missed", []int{answering, over, over}, 1, closePolicy},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var state atomic.Int64
				state.Store(answering)
				p := &Proxy{cfg: Config{Logger: slog.New(slog.DiscardHandler)}, recheck: make(chan struct{}, 1)}
				ask := func(_ context.Context, h hub.SecretHash) (hub.Session, error) {
					switch state.Load() {
					case loading:
						return hub.Session{}, hub.Wrap(hub.Unavailable, "ask", errors.New("LOADING"))
					case over:
						return hub.Session{}, hub.Errorf(hub.NotFound, "ask", "there is none")
					}
					return hub.Session{Hash: h, Expires: time.Now().Add(time.Hour)}, nil
				}
				p.sessions, p.tokens = newCache(5*time.Minute, ask), newCache[permit](0, nil)
				front, _ := net.Pipe()
				back, _ := net.Pipe()
				tunnel := newLive(front, back, credential{hash: "alice"}, &route{})
				if _, err := p.bySession(t.Context(), "alice"); err != nil {
					t.Fatal(err)
				}
				p.tunnels.add(tunnel)
				ctx, stop := context.WithCancel(t.Context())
				go p.recheckLoop(ctx)
				began := time.Now()
				var ended time.Duration
				for _, s := range c.steps {
					state.Store(int64(s))
					if s == over { // Redis is there again, or tells
						p.sessions.expire()
						p.recheck <- struct{}{}
					}
					for range 60 {
						time.Sleep(time.Second)
						synctest.Wait()
						if ended == 0 && tunnel.ending() != nil {
							ended = time.Since(began)
						}
					}
				}
				stop()
				last := time.Duration(c.last) * time.Minute
				if c.code == 0 {
					if ended != 0 {
						t.Errorf("it was cut after %v", ended)
					}
					return
				}
				if ended == 0 {
					t.Fatal("it goes on")
				}
				// The last answer may be half a minute from before the outage.
				if ended < last-recheckEvery || ended > last+2*time.Second {
					t.Errorf("it was cut after %v, want %v", ended, last)
				}
				if code := binary.BigEndian.Uint16(tunnel.ending()[2:]); int(code) != c.code {
					t.Errorf("the code is %d, want %d", code, c.code)
				}
			})
		})
	}
}
