package redisstore

import (
	"log/slog"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"carrel/hub/hubtest"
)

// startMini starts a miniredis whose time passes as ours does.
func startMini(t testing.TB) *miniredis.Miniredis {
	t.Helper()
	r := miniredis.RunT(t)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for last := time.Now(); ; {
			select {
			case <-stop:
				return
			case now := <-tick.C:
				r.FastForward(now.Sub(last))
				last = now
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
	})
	return r
}

func openStore(t testing.TB, cfg Config) *Store {
	t.Helper()
	if cfg.Prefix == "" {
		cfg.Prefix = "carrel:test:"
	}
	cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStoreKeepsTheContracts(t *testing.T) {
	hubtest.Stores(t, func(t testing.TB) (hubtest.FullStore, func()) {
		r := startMini(t)
		cut := func() {
			r.Close()
			if err := r.Restart(); err != nil {
				t.Error(err)
			}
		}
		return openStore(t, Config{URL: "redis://" + r.Addr()}), cut
	})
}
