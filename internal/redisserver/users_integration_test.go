//go:build integration

package redisserver

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
	"carrel/hub/redisstore"
)

// TestTheProxyMayServe: all that the store asks of Redis for a proxy.
func TestTheProxyMayServe(t *testing.T) {
	dir := place(t)
	r := run(t, dir)
	r.await(t)
	open := func(address string) *redisstore.Store {
		s, err := redisstore.New(redisstore.Config{URL: address, Prefix: "carrel:test:", Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	ctx, now := t.Context(), time.Now()
	h, p := open(r.HubURL()), open(r.ProxyURL())
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	name, _ := hub.ParseUserName("alice")
	key := hub.ServerKey{User: name}
	endpoint, _ := hub.ParseEndpoint("http://10.0.0.1:8888")
	user, err := h.BindUser(ctx, hub.User{ID: "ida", Name: name, Identity: hub.Identity{Issuer: "i", Subject: "s"}})
	must("bind", err)
	session := hub.Session{Hash: hub.RandomSecret().Hash(), User: name, UserID: user.ID, Created: now, LastSeen: now, Expires: now.Add(time.Hour), Identity: user.Identity}
	must("hub's session", h.CreateSession(ctx, session))
	ticket := hub.RandomSecret().Hash()
	must("ticket", h.PutTicket(ctx, ticket, hub.Ticket{Parent: session.Hash, Host: "alice.localhost"}, time.Minute))
	token := hub.RandomSecret().Hash()
	must("token", h.CreateToken(ctx, hub.Token{ID: "t", Hash: token, User: name, UserID: user.ID, Expires: now.Add(time.Hour)}))
	must("route", h.PutRoute(ctx, hub.Route{Key: key, Generation: 1, Endpoint: endpoint}))

	heard := make(chan hub.Event, 100)
	listening, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for e := range p.Subscribe(listening) {
			heard <- e
		}
		close(heard)
	}()
	await := func(kind hub.EventKind) {
		t.Helper()
		for {
			select {
			case e := <-heard:
				if e.Kind == kind {
					return
				}
			case <-time.After(within):
				t.Fatal("never heard of ", kind)
			}
		}
	}
	await(hub.Reset)
	must("ping", p.Ping(ctx))
	_, err = p.Session(ctx, session.Hash)
	must("session", err)
	_, err = p.User(ctx, name)
	must("user", err)
	_, err = p.Token(ctx, token)
	must("token", err)
	_, err = p.TakeTicket(ctx, ticket)
	must("take ticket", err)
	child := session
	child.Hash, child.Parent, child.Host = hub.RandomSecret().Hash(), session.Hash, "alice.localhost"
	must("child session", p.CreateSession(ctx, child))
	_, err = p.Session(ctx, child.Hash)
	must("find it", err)
	must("touch", p.TouchSession(ctx, session.Hash, now.Add(time.Second)))
	must("activity", p.RecordActivity(ctx, []hub.Activity{{Key: key, Last: now}}))
	routes := 0
	for _, err := range p.Routes(ctx) {
		must("routes", err)
		routes++
	}
	if routes != 1 {
		t.Errorf("%d routes", routes)
	}
	must("another route", h.PutRoute(ctx, hub.Route{Key: key, Generation: 2, Endpoint: endpoint}))
	await(hub.RouteChanged)
	if _, err := h.EndSessions(ctx, hub.SessionQuery{User: name}); err != nil {
		t.Error(err)
	}
	await(hub.SessionsEnded)
}

// do sends a command that is written with spaces.
func do(t *testing.T, c *redis.Client, command string) error {
	t.Helper()
	args := []any{}
	for _, a := range strings.Fields(command) {
		args = append(args, a)
	}
	ctx, done := context.WithTimeout(t.Context(), within)
	defer done()
	return c.Do(ctx, args...).Err()
}

// TestTheProxyMayDoNothingElse, nor may nobody do anything, nor the hub rewire the server.
func TestTheProxyMayDoNothingElse(t *testing.T) {
	dir := place(t)
	r := run(t, dir)
	r.await(t)
	c := dial(t, r.ProxyURL())
	for _, command := range []string{
		"FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "CONFIG GET *", "CONFIG SET dir /tmp", "SHUTDOWN NOSAVE", "DEBUG SLEEP 0", "ACL LIST", "ACL SETUSER proxy +@all", "MODULE LIST", "REPLICAOF 127.0.0.1 1", "SAVE", "BGREWRITEAOF", "MONITOR",
		"CLIENT LIST", "CLIENT KILL TYPE normal", "CLIENT PAUSE 1000", "CLIENT UNPAUSE", "CLIENT NO-EVICT on", "CLIENT REPLY OFF", "INFO", "COMMAND DOCS", "FUNCTION LIST", "SCRIPT FLUSH", "SCRIPT KILL", "SWAPDB 0 1", "SELECT 1", "MIGRATE 127.0.0.1 1 k 0 1", "SLOWLOG GET", "LATENCY RESET", "PSUBSCRIBE *",
		"SUBSCRIBE other", "PUBLISH carrel:test:events x",
		"SET carrel:test:user:alice {}", "SET carrel:test:token:x {}", "SET carrel:test:route:alice {}", "GET carrel:test:tomb:x", "SET carrel:test:session:x {}", "PEXPIRE carrel:test:session:x 1", "DEL carrel:test:session:x", "DEL carrel:test:child:x", "GET carrel:test:server:alice", "SET carrel:test:server:alice {}", "GET carrel:test:lease:x", "GET carrel:test:schema", "GET other:key", "SET other:key x",
		"EVAL return(redis.call('KEYS','*')) 0", "EVAL return(redis.call('SET','carrel:test:user:alice','{}')) 0", "EVAL return(redis.call('SET','carrel:test:session:x','{}')) 0", "EVAL return(redis.call('PUBLISH','carrel:test:events','x')) 0",
	} {
		if err := do(t, c, command); !refused(err) {
			t.Errorf("%s: %v", command, err)
		}
	}
	for name, o := range map[string]*redis.Options{
		"nobody": {}, "wrong password": {Username: "proxy", Password: "hub-password"}, "default": {Username: "default", Password: ""}, "no such user": {Username: "root", Password: "x"},
	} {
		o.Network, o.Addr, o.MaxRetries = "unix", filepath.Join(dir, "run", "redis.sock"), -1
		n := redis.NewClient(o)
		if err := n.Get(t.Context(), "carrel:test:schema").Err(); err == nil || errors.Is(err, redis.Nil) {
			t.Errorf("%s may read: %v", name, err)
		}
		n.Close()
	}
	a := dial(t, r.HubURL())
	for _, command := range []string{"REPLICAOF 127.0.0.1 1", "SLAVEOF 127.0.0.1 1", "MODULE LOAD /tmp/x.so", "DEBUG SLEEP 0", "ACL SETUSER x +@all"} {
		if err := do(t, a, command); !refused(err) {
			t.Errorf("the hub may %s: %v", command, err)
		}
	}
}

// refused tells whether Redis did not let a command be run, by a user's rights or by its own settings.
func refused(err error) bool {
	for _, reason := range []string{"NOPERM", "The user executing the script can't", "command not allowed"} {
		if err != nil && strings.Contains(err.Error(), reason) {
			return true
		}
	}
	return false
}
