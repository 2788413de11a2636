//go:build integration

package redisstore

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"carrel/hub"
	"carrel/hub/hubtest"
)

// TestRealStoreKeepsTheContracts on a Redis of many tenants, where each may touch its own keys alone.
func TestRealStoreKeepsTheContracts(t *testing.T) {
	r := startServer(t)
	admin := r.admin(t)
	var tenants atomic.Int64
	for form, address := range map[string]url.URL{
		"unix socket": {Scheme: "unix", Path: r.socket()},
		"TCP":         {Scheme: "redis", Host: "127.0.0.1:" + r.port},
	} {
		t.Run(form, func(t *testing.T) {
			hubtest.Stores(t, func(t testing.TB) (hubtest.FullStore, func()) {
				user, prefix := r.ownUser(t, admin, int(tenants.Add(1)))
				u := address
				u.User = url.UserPassword(user, "secret")
				cut := func() { do(t, admin, "CLIENT", "KILL", "USER", user) }
				return openStore(t, Config{URL: u.String(), Prefix: prefix}), cut
			})
		})
	}
}

// several is a store of which each call goes to another process's, as behind a load balancer.
type several struct {
	stores []*Store
	next   atomic.Uint64
}

func (s *several) pick() *Store { return s.stores[s.next.Add(1)%uint64(len(s.stores))] }

func TestSeveralStoresAreOne(t *testing.T) {
	r := startServer(t)
	var tenants atomic.Int64
	hubtest.Stores(t, func(t testing.TB) (hubtest.FullStore, func()) {
		prefix := fmt.Sprintf("carrel:%d:", tenants.Add(1))
		s := &several{}
		var subscribers []*forwarder
		for range 3 {
			f := forward(t, "127.0.0.1:"+r.port)
			subscribers = append(subscribers, f)
			s.stores = append(s.stores, openStore(t, Config{URL: "redis://" + f.addr(), Prefix: prefix}))
		}
		return s, func() {
			for _, f := range subscribers {
				f.cut()
			}
		}
	})
}

func TestTenantsAreApart(t *testing.T) {
	r := startServer(t)
	admin := r.admin(t)
	user, prefix := r.ownUser(t, admin, 1)
	theirs := "redis://" + user + ":secret@127.0.0.1:" + r.port
	s := openStore(t, Config{URL: theirs, Prefix: "carrel:2:"})
	for op, call := range hubtest.Calls(s) {
		if err := call(t.Context()); hub.KindOf(err) != hub.Unavailable || err == nil {
			t.Errorf("%s on another's keys: %v", op, err)
		}
	}
	if keys := do(t, admin, "KEYS", "*"); len(keys.([]any)) > 0 {
		t.Errorf("%v were written", keys)
	}
	own := openStore(t, Config{URL: theirs, Prefix: prefix})
	must(t, own.Check(t.Context()))
}

// unavailable tests that every call fails so, and soon.
func unavailable(t *testing.T, s *Store, soon time.Duration) {
	t.Helper()
	for op, call := range hubtest.Calls(s) {
		began := time.Now()
		err := call(t.Context())
		if err == nil || hub.KindOf(err) != hub.Unavailable {
			t.Errorf("%s: %v (%v)", op, err, hub.KindOf(err))
		}
		if d := time.Since(began); d > soon {
			t.Errorf("%s took %v to fail", op, d)
		}
	}
}

// follow collects events until the test ends.
func follow(t *testing.T, s *Store) <-chan hub.Event {
	t.Helper()
	events := make(chan hub.Event, 1000)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range s.Subscribe(ctx) {
			events <- e
		}
	}()
	t.Cleanup(func() { stop(); <-done })
	return events
}

func hear(t *testing.T, events <-chan hub.Event, want hub.EventKind) hub.Event {
	t.Helper()
	for timeout := time.After(within); ; {
		select {
		case e := <-events:
			if e.Kind == want {
				return e
			}
		case <-timeout:
			t.Fatalf("no %s was heard", want)
		}
	}
}

func TestRedisComesAndGoes(t *testing.T) {
	r := startServer(t, "appendfsync always")
	s := openStore(t, Config{URL: r.url()})
	x := session("alice")
	must(t, s.CreateSession(t.Context(), x))
	events := follow(t, s)
	hear(t, events, hub.Reset)

	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		r.end(sig)
		unavailable(t, s, 3*time.Second)
		r.start(t)
		until(t, "Redis is back", func() bool { return s.Ping(t.Context()) == nil })
		hear(t, events, hub.Reset)
		if _, err := s.Session(t.Context(), x.Hash); err != nil {
			t.Errorf("after %v: %v", sig, err)
		}
		// The scripts are gone with the process, and are sent anew.
		must(t, s.PutRoute(t.Context(), hub.Route{Key: hub.ServerKey{User: x.User}, Generation: 1}))
		hear(t, events, hub.RouteChanged)
	}

	r.end(syscall.SIGKILL)
	must(t, os.RemoveAll(filepath.Join(r.dir, "appendonlydir")))
	r.start(t)
	hear(t, events, hub.Reset)
	_, err := s.Session(t.Context(), x.Hash)
	if hub.KindOf(err) != hub.NotFound {
		t.Errorf("after everything was lost: %v", err)
	}
	for y, err := range s.Sessions(t.Context()) {
		t.Errorf("after everything was lost: %v, %v", y, err)
	}
	must(t, s.CreateSession(t.Context(), x))
}

func TestRedisIsWipedUnderUs(t *testing.T) {
	r := startServer(t)
	s := openStore(t, Config{URL: r.url()})
	key := hub.ServerKey{User: session("alice").User}
	written, err := s.PutServer(t.Context(), hub.Server{Key: key})
	must(t, err)
	l, err := s.Acquire(t.Context(), "name", time.Hour)
	must(t, err)
	do(t, r.admin(t), "FLUSHALL")
	if _, err := s.PutServer(t.Context(), written); hub.KindOf(err) != hub.Conflict || err == nil {
		t.Errorf("a record that is gone is overwritten: %v", err)
	}
	if err := l.Extend(t.Context(), time.Hour); hub.KindOf(err) != hub.Conflict || err == nil {
		t.Errorf("a lease that is gone is extended: %v", err)
	}
	again, err := s.PutServer(t.Context(), hub.Server{Key: key})
	must(t, err)
	if again.Revision == written.Revision {
		t.Error("a revision of before is given again")
	}
	if g, err := s.NextGeneration(t.Context(), key, 41); err != nil || g != 42 {
		t.Errorf("what runs still has generation 41, and the next is %d, %v", g, err)
	}
}

// TestRedisHangs: a stopped process accepts connections and says nothing.
func TestRedisHangs(t *testing.T) {
	r := startServer(t)
	s := openStore(t, Config{URL: r.url()})
	must(t, s.Ping(t.Context()))
	must(t, r.cmd.Process.Signal(syscall.SIGSTOP))
	defer r.cmd.Process.Signal(syscall.SIGCONT)
	for name, bound := range map[string]time.Duration{"a deadline": 300 * time.Millisecond, "none": time.Hour} {
		ctx, done := context.WithTimeout(t.Context(), bound)
		began := time.Now()
		err := s.Ping(ctx)
		done()
		if hub.KindOf(err) != hub.Unavailable || err == nil {
			t.Errorf("with %s: %v", name, err)
		}
		if d := time.Since(began); d > min(bound, 3*opWithin)+2*time.Second {
			t.Errorf("with %s: %v", name, d)
		}
	}
	must(t, r.cmd.Process.Signal(syscall.SIGCONT))
	until(t, "Redis answers again", func() bool { return s.Ping(t.Context()) == nil })
}

// TestRedisRefuses: what Redis can't do for now is Unavailable, whatever its reason.
func TestRedisRefuses(t *testing.T) {
	key := hub.ServerKey{User: session("alice").User}
	write := func(s *Store) error { return s.PutRoute(t.Context(), hub.Route{Key: key, Generation: 1}) }
	read := func(s *Store) error {
		for _, err := range s.Routes(t.Context()) {
			return err
		}
		return nil
	}
	t.Run("a replica", func(t *testing.T) {
		r := startServer(t, "replicaof 127.0.0.1 "+freePort())
		s := openStore(t, Config{URL: r.url()})
		if err := write(s); err == nil || hub.KindOf(err) != hub.Unavailable {
			t.Errorf("write: %v", err)
		}
		must(t, read(s))
	})
	t.Run("a replica that lost its master", func(t *testing.T) {
		r := startServer(t, "replicaof 127.0.0.1 "+freePort(), "replica-serve-stale-data no")
		unavailable(t, openStore(t, Config{URL: r.url()}), 5*time.Second)
	})
	t.Run("out of memory", func(t *testing.T) {
		r := startServer(t)
		s := openStore(t, Config{URL: r.url()})
		must(t, write(s))
		do(t, r.admin(t), "CONFIG", "SET", "maxmemory", "1")
		if err := write(s); err == nil || hub.KindOf(err) != hub.Unavailable {
			t.Errorf("write: %v", err)
		}
		must(t, read(s))
	})
	t.Run("busy with a script", func(t *testing.T) {
		r := startServer(t, "busy-reply-threshold 50")
		admin := r.admin(t)
		go admin.Eval(context.WithoutCancel(t.Context()), "while true do end", nil) // ends with the server
		s := openStore(t, Config{URL: r.url()})
		until(t, "Redis is busy", func() bool { return s.Ping(t.Context()) != nil })
		if err := write(s); err == nil || hub.KindOf(err) != hub.Unavailable || strings.Contains(hub.FieldOf(err), "redis") {
			t.Errorf("write: %v", err)
		}
	})
	t.Run("too many clients", func(t *testing.T) {
		r := startServer(t, "maxclients 1")
		admin := r.admin(t)
		do(t, admin, "PING") // keeps its connection
		unavailable(t, openStore(t, Config{URL: r.url()}), 5*time.Second)
	})
}

func TestRedisLoads(t *testing.T) {
	r := startServer(t, "appendonly no")
	s := openStore(t, Config{URL: r.url()})
	for i := range 60 {
		must(t, s.Rebind(t.Context(), hub.User{Name: session(fmt.Sprintf("user-%d", i)).User}))
	}
	do(t, r.admin(t), "SAVE")
	r.end(syscall.SIGKILL)
	r.lines = append(r.lines, "key-load-delay 50000", "loading-process-events-interval-bytes 1024")
	must(t, os.Remove(filepath.Join(r.dir, "conf")))
	r.start(t)
	err := s.Ping(t.Context())
	if err == nil || hub.KindOf(err) != hub.Unavailable || !strings.Contains(err.Error(), "LOADING") {
		t.Fatalf("while Redis loads: %v", err)
	}
	until(t, "Redis is ready", func() bool { return s.Ping(t.Context()) == nil })
	n := 0
	for _, err := range s.Users(t.Context()) {
		must(t, err)
		n++
	}
	if n != 60 {
		t.Errorf("%d people are there, want 60", n)
	}
}

func TestFacts(t *testing.T) {
	for name, c := range map[string]struct {
		lines []string
		want  Facts
	}{
		"kept":      {nil, Facts{Persisted: true}},
		"forgetful": {[]string{"appendonly no"}, Facts{}},
		"snapshots": {[]string{"appendonly no", "save 60 1"}, Facts{Persisted: true}},
		"evicting":  {[]string{"maxmemory-policy allkeys-lru"}, Facts{Persisted: true, Evicts: true}},
	} {
		t.Run(name, func(t *testing.T) {
			r := startServer(t, c.lines...)
			got, err := openStore(t, Config{URL: r.url()}).Facts(t.Context())
			must(t, err)
			if !strings.Contains(got.Version, ".") {
				t.Errorf("version %q", got.Version)
			}
			if got.Version = ""; got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}
