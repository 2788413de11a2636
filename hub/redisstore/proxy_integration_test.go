//go:build integration

package redisstore

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
	"carrel/internal/redisserver"
)

// private starts the Redis that carrel starts for itself, and gives the hub's store, the proxy's,
// and a client with the proxy's rights.
func private(t *testing.T) (hubs, proxys *Store, raw *redis.Client) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "rs-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	const prefix = "carrel:private:"
	server, err := redisserver.New(redisserver.Config{
		Dir: filepath.Join(dir, "data"), SocketDir: filepath.Join(dir, "run"), GID: os.Getgid(), Prefix: prefix,
		Hub: hub.RandomSecret(), Proxy: hub.RandomSecret(), Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	must(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- server.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() { stop(); <-done })
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	case <-time.After(within):
		t.Fatal("the private Redis does not answer")
	}
	options, err := redis.ParseURL(server.ProxyURL())
	must(t, err)
	raw = redis.NewClient(options)
	t.Cleanup(func() { raw.Close() })
	return openStore(t, Config{URL: server.HubURL(), Prefix: prefix}), openStore(t, Config{URL: server.ProxyURL(), Prefix: prefix}), raw
}

// TestProxyRights: the proxy stands where strangers' bytes come in. Its user may do what carrying
// requests takes, and nothing else.
func TestProxyRights(t *testing.T) {
	hubs, proxys, raw := private(t)
	ctx := t.Context()
	secrets := used(t, hubs)
	hash := func(name string) hub.SecretHash { return hub.NewSecret(secrets[name]).Hash() }
	alice := session("alice").User
	key := hub.ServerKey{User: alice}
	t.Run("are enough", func(t *testing.T) { enoughRights(t, hubs, proxys, hash) })
	standing := session("carol")
	must(t, hubs.CreateSession(ctx, standing))
	t.Run("are no more", func(t *testing.T) {
		for name, call := range map[string]func() error{
			"make people":       func() error { _, err := proxys.BindUser(ctx, hub.User{Name: session("mallory").User}); return err },
			"rebind people":     func() error { return proxys.Rebind(ctx, hub.User{Name: alice, Admin: true}) },
			"forget people":     func() error { return proxys.DeleteUser(ctx, alice) },
			"make tokens":       func() error { return proxys.CreateToken(ctx, hub.Token{ID: "x", Hash: "x", User: alice}) },
			"revoke tokens":     func() error { return proxys.DeleteToken(ctx, alice, "endless") },
			"read servers":      func() error { _, err := proxys.Server(ctx, key); return err },
			"write servers":     func() error { _, err := proxys.PutServer(ctx, hub.Server{Key: key}); return err },
			"count starts":      func() error { _, err := proxys.NextGeneration(ctx, key, 0); return err },
			"publish routes":    func() error { return proxys.PutRoute(ctx, hub.Route{Key: key, Generation: 99}) },
			"remove routes":     func() error { return proxys.DeleteRoute(ctx, key, 99) },
			"take leases":       func() error { _, err := proxys.Acquire(ctx, "x", time.Minute); return err },
			"use up sign-ins":   func() error { _, err := proxys.Once(ctx, "x", time.Minute); return err },
			"sign people out":   func() error { _, err := proxys.EndSessions(ctx, hub.SessionQuery{User: alice}); return err },
			"list sessions":     func() error { return first(proxys.Sessions(ctx)) },
			"list people":       func() error { return first(proxys.Users(ctx)) },
			"list servers":      func() error { return first(proxys.Servers(ctx)) },
			"list tokens":       func() error { return first(proxys.Tokens(ctx, alice)) },
			"make hub sessions": func() error { return proxys.CreateSession(ctx, session("mallory")) },
			"change hub sessions": func() error {
				return proxys.UpdateSession(ctx, standing.Hash, func(x *hub.Session) { x.Admin = true })
			},
		} {
			if err := call(); err == nil || !strings.Contains(err.Error(), "permission") {
				t.Errorf("a proxy may %s: %v", name, err)
			}
		}
		for _, command := range []string{
			"KEYS *", "SCAN 0", "RANDOMKEY", "FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET dir /tmp", "SHUTDOWN", "ACL LIST", "ACL WHOAMI",
			"MONITOR", "REPLICAOF 127.0.0.1 1", "MODULE LIST", "SAVE", "BGSAVE", "BGREWRITEAOF", "SCRIPT FLUSH", "SCRIPT KILL", "FUNCTION LIST", "INFO", "DBSIZE", "CLIENT LIST", "CLIENT PAUSE 1", "CLIENT KILL TYPE pubsub",
			"PUBLISH carrel:private:events x", "SUBSCRIBE other", "PSUBSCRIBE *", "GET carrel:other:user:alice", "SET carrel:private:user:alice x", "SET other x",
			"DEL carrel:private:users", "GET carrel:private:tomb:x", "ZADD carrel:private:routes 0 x", "ZADD carrel:private:servers 0 x", "SET carrel:private:change x", "GETDEL carrel:private:change", "ZREM carrel:private:servers alice", "GET carrel:private:server:alice", "SET carrel:private:session:x y", "GETDEL carrel:private:session:x", "PEXPIRE carrel:private:session:x 1", "ZADD carrel:private:sessions 1 x", "DEL carrel:private:seen:x", "GET carrel:private:schema", "MIGRATE 127.0.0.1 1 x 0 1", "RESTORE x 0 y", "SWAPDB 0 1", "SELECT 1", "SORT x", "OBJECT ENCODING x",
		} {
			var args []any
			for _, word := range strings.Fields(command) {
				args = append(args, word)
			}
			if err := raw.Do(ctx, args...).Err(); err == nil || !strings.Contains(err.Error(), "NOPERM") {
				t.Errorf("a proxy may %s: %v", command, err)
			}
		}
		// What a command may not touch a script may not either.
		if err := raw.Eval(ctx, `return redis.call('SET', 'carrel:private:user:alice', 'x')`, nil).Err(); err == nil || !strings.Contains(err.Error(), "can't access") {
			t.Errorf("a proxy's script may write people: %v", err)
		}
	})
}

// enoughRights: all that carrying requests takes.
func enoughRights(t *testing.T, hubs, proxys *Store, hash func(string) hub.SecretHash) {
	t.Helper()
	ctx := t.Context()
	alice := session("alice").User
	key := hub.ServerKey{User: alice}
	named, err := hub.ParseServerKey("alice", "gpu")
	must(t, err)
	must(t, proxys.Ping(ctx))
	events := follow(t, proxys)
	hear(t, events, hub.Reset)
	parent, err := proxys.Session(ctx, hash("alice's session"))
	must(t, err)
	child, err := proxys.Session(ctx, hash("alice's notebook session"))
	must(t, err)
	must(t, proxys.TouchSession(ctx, parent.Hash, time.Now()))
	ticket, err := proxys.TakeTicket(ctx, hash("alice's ticket, waiting"))
	must(t, err)
	entered := child
	entered.Hash, entered.Parent = hub.RandomSecret().Hash(), ticket.Parent
	must(t, proxys.CreateSession(ctx, entered))
	_, err = proxys.Token(ctx, hash("alice's short token"))
	must(t, err)
	_, err = proxys.User(ctx, alice)
	must(t, err)
	n := 0
	for _, err := range proxys.Routes(ctx) {
		must(t, err)
		n++
	}
	if n != 2 {
		t.Errorf("%d routes are seen, want 2", n)
	}
	names := 0
	for _, err := range proxys.ServerLabels(ctx) {
		must(t, err)
		names++
	}
	if names != 2 {
		t.Errorf("%d servers' names are seen, want 2", names)
	}
	must(t, proxys.RecordActivity(ctx, []hub.Activity{{Key: key, Last: time.Now()}}))
	must(t, hubs.PutRoute(ctx, hub.Route{Key: key, Generation: 7}))
	hear(t, events, hub.RouteChanged)
	_, err = hubs.PutServer(ctx, hub.Server{Key: named})
	must(t, err)
	e := hear(t, events, hub.ServerChanged)
	if last, err := proxys.LastChange(ctx); err != nil || last == "" || last != e.Change {
		t.Errorf("the last change is %q (%v), and that of the last event %q", last, err, e.Change)
	}
	ended, err := hubs.EndSessions(ctx, hub.SessionQuery{Hash: parent.Hash})
	must(t, err)
	if len(ended) != 3 {
		t.Errorf("%d sessions ended with alice's, want 3", len(ended))
	}
	hear(t, events, hub.SessionsEnded)
}

// TestProxyForges: what a proxy that was taken over writes where it may makes nobody anybody else, and
// brings nobody back who was signed out.
func TestProxyForges(t *testing.T) {
	hubs, proxys, raw := private(t)
	ctx := t.Context()
	x := session("alice")
	x.Idle = time.Minute
	must(t, hubs.CreateSession(ctx, x))
	admin := session("root")
	admin.Admin = true
	write := func(kind string, h hub.SecretHash, value string) {
		t.Helper()
		must(t, raw.Set(ctx, "carrel:private:"+kind+":"+string(h), value, time.Hour).Err())
	}
	forgery := func(change func(*hub.Session)) string {
		f := admin
		change(&f)
		return encode(f)
	}
	far := fmt.Sprintf("%d 0 %d", time.Now().Add(time.Hour).UnixMicro(), time.Now().AddDate(1, 0, 0).UnixMilli())
	for name, value := range map[string]string{
		"a session of nobody's": forgery(func(f *hub.Session) { f.Parent, f.Host = "", "alice.example.org" }),
		"a session of no host":  forgery(func(f *hub.Session) { f.Parent = x.Hash }),
		"a child of no session": forgery(func(f *hub.Session) { f.Parent, f.Host = "unknown", "alice.example.org" }),
		"a child of itself":     `{"parent":"h","host":"alice.example.org"}`,
		"something else":        `[]`,
		"what is no JSON":       `{`,
		"a child with a long life": forgery(func(f *hub.Session) {
			f.Parent, f.Host, f.Expires = x.Hash, "alice.example.org", f.Expires.AddDate(1, 0, 0)
		}),
	} {
		write("child", "h", value)
		write("seen", "h", far)
		for who, s := range map[string]*Store{"the hub": hubs, "a proxy": proxys} {
			got, err := s.Session(ctx, "h")
			if err == nil && (got.User != x.User || got.Admin || got.Host != "alice.example.org" || got.Parent != x.Hash || got.Expires.After(x.Expires)) {
				t.Errorf("%s: %s finds %+v", name, who, got)
			}
			if found := name == "a child with a long life"; found != (err == nil) {
				t.Errorf("%s: %s finds it: %v", name, who, err)
			}
		}
	}
	for _, value := range []string{"", "x", "1", "99999999999999999999999 0 0", far} {
		write("seen", x.Hash, value)
		got, err := hubs.Session(ctx, x.Hash)
		if err == nil && (got.Admin || got.User != x.User || !got.Expires.Equal(x.Expires)) {
			t.Errorf("last used %q: %+v", value, got)
		}
		if err := hubs.TouchSession(ctx, x.Hash, time.Now()); err != nil && hub.KindOf(err) != hub.NotFound {
			t.Errorf("last used %q: %v", value, err)
		}
	}
	// A sign-out finds what is hidden from it, and is told in spite of everything.
	y := session("alice")
	must(t, hubs.CreateSession(ctx, y))
	write("seen", x.Hash, "hidden")
	write("children", y.Hash, "no set")
	ended, err := hubs.EndSessions(ctx, hub.SessionQuery{User: x.User})
	must(t, err)
	if len(ended) != 1 || ended[0] != y.Hash {
		t.Errorf("%v ended, want %s", ended, y.Hash)
	}
	write("seen", x.Hash, far)
	write("seen", y.Hash, far)
	for _, h := range []hub.SecretHash{x.Hash, y.Hash, "h"} {
		if _, err := hubs.Session(ctx, h); hub.KindOf(err) != hub.NotFound {
			t.Errorf("%s is back: %v", h, err)
		}
	}
	for y, err := range hubs.Sessions(ctx) {
		t.Errorf("listed: %v, %v", y, err)
	}
}
