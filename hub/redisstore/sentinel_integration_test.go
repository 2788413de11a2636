//go:build integration

package redisstore

import (
	"fmt"
	"net/url"
	"syscall"
	"testing"
	"time"

	"carrel/hub"
	"carrel/hub/hubtest"
)

// watched is a Redis and its replica under a Sentinel.
type watched struct{ master, replica, sentinel *server }

const aclUser = `user carrel on >secret ~carrel:* &carrel:* +@all -@dangerous +info`

func startWatched(t *testing.T, ca *authority) watched {
	t.Helper()
	start := func(lines ...string) *server {
		port := freePort()
		if ca == nil {
			lines = append(lines, "port "+port)
		} else {
			lines = append(lines, ca.lines(t, "127.0.0.1", port)...)
		}
		r := newServer(t, append(lines, aclUser, "repl-diskless-sync-delay 0")...)
		r.port = port
		r.start(t)
		return r
	}
	w := watched{master: start("appendfsync always")}
	w.replica = start("replicaof 127.0.0.1 " + w.master.port)
	admin := w.replica.admin(t)
	until(t, "the replica is in step", func() bool {
		role, ok := do(t, admin, "ROLE").([]any)
		return ok && len(role) > 3 && role[3] == "connected"
	})
	w.sentinel = newServer(t)
	w.sentinel.sentinel = true
	w.sentinel.lines = []string{
		"bind 127.0.0.1", "dir " + w.sentinel.dir, "logfile " + w.sentinel.dir + "/log", "requirepass watch",
		"sentinel monitor main 127.0.0.1 " + w.master.port + " 1", "sentinel down-after-milliseconds main 700", "sentinel failover-timeout main 5000",
	}
	if ca == nil {
		w.sentinel.lines = append(w.sentinel.lines, "port "+w.sentinel.port)
	} else {
		w.sentinel.lines = append(w.sentinel.lines, ca.lines(t, "127.0.0.1", w.sentinel.port)...)
	}
	w.sentinel.start(t)
	if ca == nil { // it would look for replicas every ten seconds
		do(t, w.sentinel.sentinelAdmin(t), "SENTINEL", "DEBUG", "INFO-PERIOD", "200")
	}
	return w
}

// url names a dead Sentinel first: one of several may be away.
func (w watched) url(scheme, dead string) string {
	return fmt.Sprintf("%s://carrel:secret@127.0.0.1:%s,127.0.0.1:%s/0?%s", scheme, dead, w.sentinel.port,
		url.Values{"master": {"main"}, "sentinel_password": {"watch"}}.Encode())
}

// TestSentinel kills the master: the store is away until the replica was promoted, and goes on with
// what had reached it.
func TestSentinel(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for scheme, c := range map[string]struct {
		tls *authority
		pem []byte
	}{"redis+sentinel": {}, "rediss+sentinel": {ca, ca.pem}} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			w := startWatched(t, c.tls)
			s := openStore(t, Config{URL: w.url(scheme, freePort()), CA: c.pem})
			until(t, "the store answers", func() bool { return s.Ping(t.Context()) == nil })
			x := session("alice")
			must(t, s.CreateSession(t.Context(), x))
			events := follow(t, s)
			hear(t, events, hub.Reset)
			until(t, "the replica has it", func() bool {
				n, err := w.replica.admin(t).Exists(t.Context(), s.sessionKey(x)).Result()
				return err == nil && n == 1
			})

			w.master.end(syscall.SIGKILL)
			if err := s.Ping(t.Context()); err == nil || hub.KindOf(err) != hub.Unavailable {
				t.Errorf("with the master dead: %v", err)
			}
			began := time.Now()
			key := hub.ServerKey{User: x.User}
			until(t, "the store can be written to", func() bool { return s.PutRoute(t.Context(), hub.Route{Key: key, Generation: 1}) == nil })
			t.Logf("away for %v", time.Since(began))
			hear(t, events, hub.Reset)
			got, err := s.Session(t.Context(), x.Hash)
			must(t, err)
			if got.User != x.User {
				t.Errorf("the session is %v's", got.User)
			}
			must(t, s.PutRoute(t.Context(), hub.Route{Key: key, Generation: 2}))
			for e := hear(t, events, hub.RouteChanged); e.Route.Generation != 2; {
				e = hear(t, events, hub.RouteChanged)
			}
		})
	}
}

// TestSentinelHandsOver: the old master lives on as a replica, to which we must not stay connected.
func TestSentinelHandsOver(t *testing.T) {
	w := startWatched(t, nil)
	s := openStore(t, Config{URL: w.url("redis+sentinel", freePort())})
	events := follow(t, s)
	hear(t, events, hub.Reset)
	admin := w.sentinel.sentinelAdmin(t)
	until(t, "Sentinel knows the replica and hands over", func() bool { return admin.Do(t.Context(), "SENTINEL", "FAILOVER", "main").Err() == nil })
	until(t, "the roles changed", func() bool {
		role, ok := do(t, w.replica.admin(t), "ROLE").([]any)
		old, known := do(t, w.master.admin(t), "ROLE").([]any)
		return ok && known && role[0] == "master" && old[0] == "slave"
	})
	key := hub.ServerKey{User: session("alice").User}
	until(t, "the store can be written to", func() bool { return s.PutRoute(t.Context(), hub.Route{Key: key, Generation: 1}) == nil })
	for op, call := range hubtest.Calls(s) {
		if err := call(t.Context()); hub.KindOf(err) == hub.Unavailable && err != nil {
			t.Errorf("%s: %v", op, err)
		}
	}
	until(t, "events are heard", func() bool {
		must(t, s.PutRoute(t.Context(), hub.Route{Key: key, Generation: 2}))
		select {
		case e := <-events:
			return e.Route != nil && e.Route.Generation == 2
		case <-time.After(time.Second):
			return false
		}
	})
}

func TestSentinelIsAway(t *testing.T) {
	s := openStore(t, Config{URL: "redis+sentinel://127.0.0.1:" + freePort() + "/0?master=main"})
	unavailable(t, s, 3*time.Second)
	w := startWatched(t, nil)
	for name, address := range map[string]string{
		"an unknown master": "redis+sentinel://127.0.0.1:" + w.sentinel.port + "?master=other&sentinel_password=watch",
		"no password":       "redis+sentinel://carrel:secret@127.0.0.1:" + w.sentinel.port + "?master=main",
		"a wrong password":  "redis+sentinel://carrel:secret@127.0.0.1:" + w.sentinel.port + "?master=main&sentinel_password=wrong",
		"TLS of none":       "rediss+sentinel://carrel:secret@127.0.0.1:" + w.sentinel.port + "?master=main&sentinel_password=watch",
	} {
		if err := openStore(t, Config{URL: address}).Ping(t.Context()); err == nil || hub.KindOf(err) != hub.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
}
