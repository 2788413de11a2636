package proxy

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"maps"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"carrel/hub"
	"carrel/hub/hubtest"
)

// A chain knows what it heard of, and when something is missing.
func TestChain(t *testing.T) {
	var c chain
	hear := func(change, after string, whole bool) {
		t.Helper()
		if got := c.hear(hub.Event{Change: change, After: after}); got != whole {
			t.Errorf("%s after %s: whole is %v", change, after, got)
		}
	}
	reached := func(name string, want bool) {
		t.Helper()
		if got := c.reached(name); got != want {
			t.Errorf("reached %q: %v", name, got)
		}
	}
	reached("", false)
	hear("b", "a", true) // the first on this connection
	reached("a", true)   // which was there before
	reached("b", true)
	reached("c", false)
	hear("c", "b", true)
	hear("c", "c", true) // a script that ran twice
	reached("c", true)
	hear("e", "d", false)
	reached("d", false)
	reached("e", true)
	c.begin()
	reached("f", true) // nothing was heard: it begins here
	hear("f", "e", true)
	hear("g", "f", true)
	reached("e", false)
	for i := range 2 * chainKept {
		hear("n"+strconv.Itoa(i), c.last, true)
	}
	reached("g", false)
	reached("n"+strconv.Itoa(2*chainKept-1), true)
	c.begin()
	hear("", "", true)
	if !c.mixed() {
		t.Error("a change without a name was not noticed")
	}
	c.begin()
	if c.mixed() {
		t.Error("it counts after all began to be read")
	}
}

// lossy is a store whose events can be kept from a proxy, and that counts how often all is read.
type lossy struct {
	*hubtest.Store
	lose    atomic.Pointer[func(hub.Event) bool]
	unnamed atomic.Bool // as a hub of an earlier release tells
	mute    atomic.Bool // the last change may not be asked for
	reads   atomic.Int64
	onRead  atomic.Pointer[func()]
}

func (s *lossy) Subscribe(ctx context.Context) iter.Seq[hub.Event] {
	return func(yield func(hub.Event) bool) {
		for e := range s.Store.Subscribe(ctx) {
			if lose := s.lose.Load(); lose != nil && (*lose)(e) {
				continue
			}
			if s.unnamed.Load() {
				e.Change, e.After = "", ""
			}
			if !yield(e) {
				return
			}
		}
	}
}

func (s *lossy) Routes(ctx context.Context) iter.Seq2[hub.Route, error] {
	s.reads.Add(1)
	list := maps.Collect(s.Store.Routes(ctx))
	if f := s.onRead.Swap(nil); f != nil {
		(*f)()
	}
	return maps.All(list)
}

func (s *lossy) LastChange(ctx context.Context) (string, error) {
	if s.mute.Load() {
		return "", errors.New("NOPERM")
	}
	return s.Store.LastChange(ctx)
}

func (s *lossy) loses(f func(hub.Event) bool) { s.lose.Store(&f) }

func everything(hub.Event) bool { return true }
func nothing(hub.Event) bool    { return false }

// TestMissedChanges: a table that nothing says is out of date is not read again, and what was missed,
// however that came, is found within half a minute and a moment.
func TestMissedChanges(t *testing.T) {
	const soon, later = time.Second, routesEvery + 2*routesRetry + time.Second
	for _, c := range []struct {
		name   string
		do     func(t *testing.T, s *lossy, put func(name string, g hub.Generation))
		within time.Duration // until alice's route is the second
		reads  int64         // of everything, over 5 minutes, but for the first
	}{
		{"an event is heard", func(_ *testing.T, _ *lossy, put func(string, hub.Generation)) { put("alice", 2) }, soon, 0},
		{"many are heard", func(_ *testing.T, _ *lossy, put func(string, hub.Generation)) {
			for i := range 3 * chainKept {
				put("bob", hub.Generation(i+2))
				synctest.Wait()
			}
			put("alice", 2)
		}, soon, 0},
		{"one is lost, and nothing comes after it", func(_ *testing.T, s *lossy, put func(string, hub.Generation)) {
			s.loses(everything)
			put("alice", 2)
			synctest.Wait()
			s.loses(nothing)
		}, later, 1},
		{"one is lost, and the next tells", func(_ *testing.T, s *lossy, put func(string, hub.Generation)) {
			s.loses(everything)
			put("alice", 2)
			synctest.Wait()
			s.loses(nothing)
			put("bob", 2)
		}, soon, 1},
		{"a new connection", func(_ *testing.T, s *lossy, put func(string, hub.Generation)) {
			s.loses(func(e hub.Event) bool { return e.Kind != hub.Reset })
			put("alice", 2)
			s.Away(true)
			s.Away(false)
			synctest.Wait()
			s.loses(nothing)
		}, soon, 1},
		{"the store is wiped and filled again, and nobody told", func(_ *testing.T, s *lossy, put func(string, hub.Generation)) {
			s.loses(everything)
			s.Wipe()
			put("bob", 1)
			put("alice", 2)
			synctest.Wait()
			s.loses(nothing)
		}, later, 1},
		{"a change comes while all is read", func(_ *testing.T, s *lossy, put func(string, hub.Generation)) {
			f := func() { put("alice", 2); time.Sleep(time.Millisecond) }
			s.onRead.Store(&f)
			s.Away(true)
			s.Away(false)
		}, soon, 1},
		{"a change is lost while all is read", func(_ *testing.T, s *lossy, put func(string, hub.Generation)) {
			f := func() {
				put("bob", 2)
				time.Sleep(time.Millisecond)
				s.loses(everything)
				put("alice", 2)
				time.Sleep(time.Millisecond)
				s.loses(nothing)
			}
			s.onRead.Store(&f)
			s.Away(true)
			s.Away(false)
		}, later, 2},
		{"changes without names", func(_ *testing.T, s *lossy, put func(string, hub.Generation)) {
			s.unnamed.Store(true)
			put("alice", 2)
			synctest.Wait()
			s.unnamed.Store(false)
		}, soon, 1},
		{"the last change can't be asked for", func(_ *testing.T, s *lossy, put func(string, hub.Generation)) {
			s.mute.Store(true)
			s.loses(everything)
			put("alice", 2)
		}, later, 9},
	} {
		t.Run(c.name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { missed(t, c.do, c.within, c.reads) }) })
	}
}

// missed has a proxy's loops follow a store to which do happens.
func missed(t *testing.T, do func(*testing.T, *lossy, func(string, hub.Generation)), within time.Duration, reads int64) {
	t.Helper()
	s := &lossy{Store: hubtest.NewStore()}
	put := func(name string, g hub.Generation) {
		r := hubRoute(serverKey(t, name, ""), endpoint(t, "http://127.0.0.1:1"))
		r.Generation = g
		must(t, s.PutRoute(t.Context(), r))
	}
	put("alice", 1)
	put("bob", 1)
	p := watcher(t, s)
	began := time.Now()
	do(t, s, put)
	alice := serverKey(t, "alice", "")
	for synctest.Wait(); p.routes.get(alice) == nil || p.routes.get(alice).Generation != 2; synctest.Wait() {
		if time.Since(began) > within {
			t.Fatalf("alice's route is %+v after %v", p.routes.get(alice), within)
		}
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(5*time.Minute - time.Since(began))
	synctest.Wait()
	if n := s.reads.Load() - 1; n != reads {
		t.Errorf("everything was read %d times more, want %d", n, reads)
	}
	time.Sleep(routesWhole)
	if n := s.reads.Load() - 1; n <= reads {
		t.Errorf("nothing was read for %v", routesWhole)
	}
}

// watcher is a proxy of which only the loops run that follow the store, until the test ends.
func watcher(t *testing.T, s *lossy) *Proxy {
	t.Helper()
	p := &Proxy{
		cfg:    Config{Routes: s, Names: s, Changes: s, Events: s, Logger: slog.New(slog.DiscardHandler)},
		reload: make(chan struct{}, 1), recheck: make(chan struct{}, 1),
	}
	p.sessions, p.tokens = newCache[hub.Session](0, nil), newCache[permit](0, nil)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	read, ended := make(chan struct{}, 100), make(chan struct{}, 2)
	go func() { p.followEvents(ctx); ended <- struct{}{} }()
	go func() {
		p.routesLoop(ctx, func() {
			select {
			case read <- struct{}{}:
			default:
			}
		})
		ended <- struct{}{}
	}()
	t.Cleanup(func() { stop(); <-ended; <-ended })
	<-read
	return p
}

// TestServersThatAreLost: a name whose event was missed is found too, and a route that the store lost is
// kept for its minute, and no longer.
func TestServersThatAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &lossy{Store: hubtest.NewStore()}
		key := serverKey(t, "alice", "gpu")
		must(t, s.PutRoute(t.Context(), hubRoute(key, endpoint(t, "http://127.0.0.1:1"))))
		p := watcher(t, s)
		s.loses(everything)
		_, err := s.PutServer(t.Context(), hub.Server{Key: key})
		must(t, err)
		time.Sleep(routesEvery + time.Second)
		synctest.Wait()
		if !p.names.known(key) {
			t.Error("the name is not known")
		}
		s.Wipe()
		began := time.Now()
		for p.routes.known(key) {
			time.Sleep(time.Second)
			synctest.Wait()
			if time.Since(began) > missingGrace+2*routesEvery {
				t.Fatal("a route that is no more is never forgotten")
			}
		}
		if kept := time.Since(began); kept < missingGrace {
			t.Errorf("it was forgotten after %v", kept)
		}
	})
}
