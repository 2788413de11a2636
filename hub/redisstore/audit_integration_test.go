//go:build integration

package redisstore

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// used is a store after a day's work, of which some is over and most still there.
func used(t *testing.T, s *Store) (secrets map[string]string) {
	t.Helper()
	ctx := t.Context()
	ring, err := hub.NewKeyring("test", []byte(strings.Repeat("k", 32)))
	must(t, err)
	secrets = map[string]string{"refresh token": "provider-refresh-token", "deployment key": strings.Repeat("k", 32)}
	fresh := func(name string) hub.SecretHash {
		x := hub.RandomSecret()
		secrets[name] = x.Reveal()
		return x.Hash()
	}
	for i, user := range []string{"alice", "bob"} {
		x := session(user)
		x.Hash, x.Idle = fresh(user+"'s session"), 10*time.Minute
		x.Tokens = []byte(ring.Seal([]byte(secrets["refresh token"]), string(x.Hash)))
		must(t, s.CreateSession(ctx, x))
		c := x
		c.Hash, c.Parent, c.Host, c.Tokens = fresh(user+"'s notebook session"), x.Hash, user+".example.org", nil
		must(t, s.CreateSession(ctx, c))
		must(t, s.TouchSession(ctx, x.Hash, time.Now()))
		must(t, s.UpdateSession(ctx, x.Hash, func(x *hub.Session) { x.Groups = []string{"staff"} }))
		for _, state := range []string{"waiting", "taken"} {
			h := fresh(user + "'s ticket, " + state)
			must(t, s.PutTicket(ctx, h, hub.Ticket{Parent: x.Hash, Host: c.Host, Browser: fresh(user + "'s browser, " + state), Next: "/lab"}, time.Minute))
			if state == "taken" {
				_, err := s.TakeTicket(ctx, h)
				must(t, err)
			}
		}
		secrets[user+"'s state"] = "oidc-state-" + user
		_, err := s.Once(ctx, secrets[user+"'s state"], time.Minute)
		must(t, err)
		u, err := s.BindUser(ctx, hub.User{ID: ring.UserID(x.Identity), Name: x.User, Identity: x.Identity})
		must(t, err)
		must(t, s.CreateToken(ctx, hub.Token{ID: "short", Hash: fresh(user + "'s short token"), User: u.Name, Expires: time.Now().Add(time.Hour)}))
		must(t, s.CreateToken(ctx, hub.Token{ID: "endless", Hash: fresh(user + "'s endless token"), User: u.Name}))
		key := hub.ServerKey{User: u.Name}
		g, err := s.NextGeneration(ctx, key, 0)
		must(t, err)
		secrets[user+"'s server token"] = ring.ServerToken(key, g).Reveal()
		_, err = s.PutServer(ctx, hub.Server{Key: key, Generation: g, Phase: hub.Ready})
		must(t, err)
		must(t, s.PutRoute(ctx, hub.Route{Key: key, Generation: g}))
		must(t, s.RecordActivity(ctx, []hub.Activity{{Key: key, Last: time.Now()}}))
		_, err = s.Acquire(ctx, "server/"+key.Label(), time.Minute)
		must(t, err)
		if i == 1 {
			_, err := s.EndSessions(ctx, hub.SessionQuery{Identity: x.Identity, SID: x.SID})
			must(t, err)
			_, err = s.EndSessions(ctx, hub.SessionQuery{Identity: x.Identity})
			must(t, err)
		}
	}
	visitor := hub.RandomSecret()
	secrets["visitor's session"] = visitor.Reveal()
	_, err = s.PutVisit(ctx, hub.Visit{Name: ring.Visitor(visitor), Phase: hub.VisitWaiting})
	must(t, err)
	_, err = s.CountArrival(ctx, "192.0.2.7/32", time.Minute)
	must(t, err)
	must(t, s.Check(ctx))
	return secrets
}

// contents is everything that a key holds, as text.
func contents(t *testing.T, c *redis.Client, key string) string {
	t.Helper()
	switch kind := do(t, c, "TYPE", key); kind {
	case "string":
		return fmt.Sprint(do(t, c, "GET", key))
	case "zset":
		return fmt.Sprint(do(t, c, "ZRANGE", key, 0, -1, "WITHSCORES"))
	case "hash":
		return fmt.Sprint(do(t, c, "HGETALL", key))
	default:
		t.Fatalf("%s is a %v, which no part of the layout is", key, kind)
		return ""
	}
}

// Kinds of keys, by whether each ends by itself.
var (
	ending  = []string{"session", "seen", "child", "ticket", "once", "lease", "tomb", "sessions", "by-user", "by-identity", "by-sid", "children", "arrivals"}
	staying = []string{"user", "users", "tokens", "token-ends", "server", "servers", "generation", "route", "routes", "activity", "schema", "change", "visit", "visits"}
	either  = []string{"token"} // as its owner wished
)

func TestNothingSecretNothingEndless(t *testing.T) {
	r := startServer(t, "appendfsync always")
	admin := r.admin(t)
	s := openStore(t, Config{URL: r.url(), Prefix: "carrel:audited:"})
	secrets := used(t, s)

	seen := map[string]bool{}
	iter := admin.Scan(t.Context(), 0, "*", 1000).Iterator()
	for iter.Next(t.Context()) {
		key := iter.Val()
		kind, ok := strings.CutPrefix(key, s.prefix)
		if !ok {
			t.Errorf("%s is not under the prefix", key)
		}
		kind, _, _ = strings.Cut(kind, ":")
		seen[kind] = true
		text := key + " " + contents(t, admin, key)
		for name, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s shows %s", key, name)
			}
		}
		ttl := admin.PTTL(t.Context(), key).Val()
		switch {
		case slices.Contains(ending, kind) && (ttl <= 0 || ttl > 61*time.Minute):
			t.Errorf("%s ends in %v", key, ttl)
		case slices.Contains(staying, kind) && ttl > 0:
			t.Errorf("%s would be forgotten in %v", key, ttl)
		case !slices.Contains(slices.Concat(ending, staying, either), kind):
			t.Errorf("%s is of no known kind: say whether it ends", key)
		}
	}
	must(t, iter.Err())
	for _, kind := range slices.Concat(ending, staying, either) {
		if !seen[kind] {
			t.Errorf("no key of kind %s was made, so none was looked at", kind)
		}
	}
	if ttl := admin.PTTL(t.Context(), s.key("token", string(hub.NewSecret(secrets["alice's short token"]).Hash()))).Val(); ttl <= 0 {
		t.Errorf("a token with an end stays: %v", ttl)
	}

	// Redis's files hold every command that changed anything, arguments and all.
	size := 0
	must(t, filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		size += len(b)
		for name, secret := range secrets {
			if strings.Contains(string(b), secret) {
				t.Errorf("%s shows %s", filepath.Base(path), name)
			}
		}
		return err
	}))
	if size < 10_000 {
		t.Errorf("Redis wrote %d bytes: is the log of commands among them?", size)
	}
}

// TestEverythingForgottenGoesAway: when people and sessions are gone, what ends by itself ends.
func TestEverythingForgottenGoesAway(t *testing.T) {
	r := startServer(t)
	admin := r.admin(t)
	s := openStore(t, Config{URL: r.url(), Prefix: "carrel:audited:"})
	used(t, s)
	keys := do(t, admin, "KEYS", "*").([]any)
	ctx := context.WithoutCancel(t.Context())
	for _, key := range keys {
		if ttl := admin.PTTL(ctx, fmt.Sprint(key)).Val(); ttl > 0 {
			admin.PExpire(ctx, fmt.Sprint(key), time.Millisecond) // its time comes
		}
	}
	until(t, "what has an end is gone", func() bool {
		for _, key := range do(t, admin, "KEYS", "*").([]any) {
			kind, _, _ := strings.Cut(strings.TrimPrefix(fmt.Sprint(key), s.prefix), ":")
			if !slices.Contains(slices.Concat(staying, either), kind) {
				return false
			}
		}
		return true
	})
	for x, err := range s.Sessions(ctx) {
		t.Errorf("listed: %v, %v", x, err)
	}
	for x, err := range s.Tokens(ctx, session("alice").User) {
		if err != nil || x.ID != "endless" {
			t.Errorf("listed: %v, %v", x, err)
		}
	}
	must(t, s.CreateSession(ctx, session("alice")))
}
