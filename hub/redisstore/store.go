// Package redisstore keeps sessions, tickets, people, tokens, servers, routes, leases and events in
// Redis, through go-redis: every store contract of package hub, on one [Store].
//
// It owns the key layout and the scripts that make a change of several keys one step. Everything
// lies under one prefix; secrets come as hashes or sealed and are kept as such; lives are TTLs; a
// list is read through an index, never by scanning the keyspace; an event is published by the very
// script that makes the change, so no change goes untold. It refuses to own meaning: what a
// session may do is the hub's. Errors are translated here: NotFound, Conflict, or Unavailable for
// a Redis that can't be reached, loads, or is read-only.
//
// The layout is also where a proxy's rights end, as its user on the private Redis has them: it reads
// a hub session's record and can't write one. When a session was last used is a key of its own, and
// a notebook host's session another kind of key, which names a live hub session and a host and no
// more, so that neither makes anybody an administrator or undoes a sign-out. A proxy that was taken
// over can still act as whoever is signed in and passes through it, as it sees their cookies anyway,
// and, of hub sessions whose hash it knows, make notebook sessions, put off the end by disuse (to the
// absolute one at most), or have it come at once.
package redisstore

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"carrel/hub"
)

// Config says which Redis, and where in it.
type Config struct {
	// URL is redis://, unix:// or redis+sentinel://host:port,host:port/db?master=name, with an ACL
	// user and password in it where needed; rediss:// and rediss+sentinel:// are these with TLS.
	URL    string
	CA     []byte // PEM of the CA that signed the certificates of Redis and Sentinel; empty: the system's
	Prefix string // of every key and channel
	Logger *slog.Logger
}

// Store implements the store contracts of package hub. It is safe for concurrent use.
type Store struct {
	rdb    redis.UniversalClient
	prefix string
	logger *slog.Logger
	routes together
	// silence is how long a subscription may say nothing before it is asked whether it is there:
	// where a firewall forgets a connection, neither side is told.
	silence time.Duration
}

var (
	_ hub.SessionStore   = (*Store)(nil)
	_ hub.SessionUpdater = (*Store)(nil)
	_ hub.TicketStore    = (*Store)(nil)
	_ hub.UserStore      = (*Store)(nil)
	_ hub.TokenStore     = (*Store)(nil)
	_ hub.ServerStore    = (*Store)(nil)
	_ hub.ServerNames    = (*Store)(nil)
	_ hub.RouteStore     = (*Store)(nil)
	_ hub.Changes        = (*Store)(nil)
	_ hub.VisitStore     = (*Store)(nil)
	_ hub.RunStore       = (*Store)(nil)
	_ hub.Leases         = (*Store)(nil)
	_ hub.Events         = (*Store)(nil)
)

const (
	dialWithin = 2 * time.Second
	opWithin   = 2 * time.Second
	poolSize   = 64
)

// New reads the configuration and makes a client, which connects when it is first used.
func New(cfg Config) (*Store, error) {
	if cfg.Logger == nil || cfg.Prefix == "" {
		return nil, hub.Errorf(hub.Internal, "make redis store", "a part is missing")
	}
	opts, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	if len(cfg.CA) > 0 {
		if opts.TLSConfig == nil {
			return nil, &hub.Error{Kind: hub.Invalid, Op: "read redis.ca_file", Field: "redis.ca_file", Message: "redis.url asks for no TLS, so nothing would be checked by this CA", Remedy: "write rediss:// or rediss+sentinel:// in redis.url, or leave redis.ca_file out"}
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(cfg.CA) {
			return nil, &hub.Error{Kind: hub.Invalid, Op: "read redis.ca_file", Field: "redis.ca_file", Message: "the file holds no certificate", Remedy: "give a PEM file"}
		}
		opts.TLSConfig.RootCAs = pool
	}
	opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout, opts.PoolTimeout = dialWithin, opWithin, opWithin, opWithin
	opts.PoolSize, opts.ContextTimeoutEnabled = poolSize, true
	// Who waits is told soon. One more try bridges a connection that broke while it lay idle.
	opts.MaxRetries, opts.DialerRetries = 1, 1
	// A proxy's rights on Redis need no CLIENT command then.
	opts.DisableIdentity, opts.MaintNotificationsConfig = true, &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	logging.Disable() // go-redis logs, past any logger of ours, what it returns as errors too
	return &Store{rdb: redis.NewUniversalClient(opts), prefix: cfg.Prefix, logger: cfg.Logger, routes: together{turn: make(chan struct{}, 1)}, silence: 15 * time.Second}, nil
}

// Close ends the connections.
func (s *Store) Close() error { return s.rdb.Close() }

// Ping tells whether Redis answers.
func (s *Store) Ping(ctx context.Context) error {
	return s.fail("ping", s.rdb.Ping(ctx).Err())
}

// schema is the version of the key layout; the next release reads this one's.
const schema = "1"

// Check claims an empty store for this layout, or checks that it holds one that this release knows.
func (s *Store) Check(ctx context.Context) error {
	if err := s.rdb.SetNX(ctx, s.key("schema"), schema, 0).Err(); err != nil {
		return s.fail("check schema", err)
	}
	have, err := s.rdb.Get(ctx, s.key("schema")).Result()
	if err != nil {
		return s.fail("check schema", err)
	}
	if have != schema {
		return &hub.Error{Kind: hub.Invalid, Op: "check schema", Field: "redis.url", Message: "this Redis holds state of another release (layout " + have + ")", Remedy: "use the release that wrote it, or another redis.prefix"}
	}
	return nil
}

// Facts are what `carrel doctor` reports of a Redis.
type Facts struct {
	Version   string
	Evicts    bool // maxmemory-policy is other than noeviction: sessions can vanish
	Persisted bool // append-only file or snapshots are on
}

// Facts asks Redis about itself; what it may not be asked stays zero.
func (s *Store) Facts(ctx context.Context) (Facts, error) {
	info, err := s.rdb.Info(ctx, "server", "memory", "persistence").Result()
	if err != nil {
		return Facts{}, s.fail("ask about redis", err)
	}
	f := Facts{}
	for line := range strings.Lines(info) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch k {
		case "redis_version":
			f.Version = v
		case "maxmemory_policy":
			f.Evicts = v != "noeviction"
		case "aof_enabled":
			f.Persisted = v == "1"
		}
	}
	if save, err := s.rdb.ConfigGet(ctx, "save").Result(); err == nil && save["save"] != "" {
		f.Persisted = true
	}
	return f, nil
}

func (s *Store) key(parts ...string) string { return s.prefix + strings.Join(parts, ":") }

// digest makes a fixed-length key part of what may hold anything.
func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// fail translates an error of Redis. What it says may hold values, so only its kind is kept for
// people, and the text for the log.
func (s *Store) fail(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case isNil(err):
		return &hub.Error{Kind: hub.NotFound, Op: "redis: " + op, Message: "there is no such thing"}
	case errors.Is(err, context.Canceled):
		return hub.Wrap(hub.Canceled, "redis: "+op, err)
	}
	return &hub.Error{Kind: hub.Unavailable, Op: "redis: " + op, Message: "the session store can't be reached", Remedy: "try again in a few seconds", Err: err}
}

// isNil tells whether Redis itself said that there is nothing. A Sentinel's "I know of no such
// master" is wrapped and means something else: taken for it, everybody would be signed out.
func isNil(err error) bool {
	return err == redis.Nil //nolint:errorlint // see above
}

func notFound(op, what string) error {
	return &hub.Error{Kind: hub.NotFound, Op: "redis: " + op, Message: "there is no such " + what}
}

func conflict(op, message string) error {
	return &hub.Error{Kind: hub.Conflict, Op: "redis: " + op, Message: message, Remedy: "try again"}
}

// revision is the Lua function that gives the revision of the record under a key, as text; 0: there is none.
// It stands first in a record's value, where the function finds it before any text of a person's.
const revision = `
local function revision(key)
  local have = redis.call('GET', key)
  return have and string.match(have, '"revision":(%d+)') or '0'
end`

// successor is the revision after another. A record's first is the time, so that whoever holds one that was
// deleted meanwhile does not take the next of its name for it.
func successor(r uint64) uint64 {
	if r == 0 {
		r = uint64(time.Now().UnixMicro())
	}
	return r + 1
}

// swap runs a script that changes a record if its revision is the expected one, its first argument, and says 0
// if it is not: then the error is a Conflict with a message.
func (s *Store) swap(ctx context.Context, script *redis.Script, op, message string, keys []string, expected uint64, args ...any) error {
	n, err := script.Run(ctx, s.rdb, keys, append([]any{strconv.FormatUint(expected, 10)}, args...)...).Int()
	if err != nil {
		return s.fail(op, err)
	}
	if n == 0 {
		return conflict(op, message)
	}
	return nil
}

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own types
	}
	return string(b)
}

func decode[T any](op, raw string) (T, error) {
	var v T
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		return v, hub.Wrap(hub.Internal, "redis: "+op+": decode", err)
	}
	return v, nil
}

// get reads one JSON value.
func get[T any](ctx context.Context, s *Store, op, key string) (T, error) {
	raw, err := s.rdb.Get(ctx, key).Result()
	if err != nil {
		var zero T
		return zero, s.fail(op, err)
	}
	return decode[T](op, raw)
}

// pageSize is how many values a listing reads at a time.
const pageSize = 200

// list yields the values of kind that an index names, in the index's order. Values and their index
// change in one step, so a member without a value is one that ended.
func list[T any](ctx context.Context, s *Store, op, index, kind string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		members, err := s.rdb.ZRange(ctx, index, 0, -1).Result()
		if err != nil {
			var zero T
			yield(zero, s.fail(op, err))
			return
		}
		values[T](ctx, s, op, members, kind)(yield)
	}
}

// values yields those values of kind that are there, reading them in pages.
func values[T any](ctx context.Context, s *Store, op string, members []string, kind string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		for page := range slices.Chunk(members, pageSize) {
			keys := make([]string, len(page))
			for i, m := range page {
				keys[i] = s.key(kind, m)
			}
			found, err := s.rdb.MGet(ctx, keys...).Result()
			if err != nil {
				yield(zero, s.fail(op, err))
				return
			}
			for _, raw := range found {
				text, ok := raw.(string)
				if !ok {
					continue
				}
				if v, err := decode[T](op, text); !yield(v, err) || err != nil {
					return
				}
			}
		}
	}
}

// Forget removes every key under the prefix: the deployment is taken down.
func (s *Store) Forget(ctx context.Context) error {
	keys := s.rdb.Scan(ctx, 0, escapeGlob(s.prefix)+"*", 1000).Iterator()
	for keys.Next(ctx) {
		if err := s.rdb.Unlink(ctx, keys.Val()).Err(); err != nil {
			return s.fail("forget", err)
		}
	}
	return s.fail("forget", keys.Err())
}

// escapeGlob makes text stand for itself in a pattern of Redis's.
func escapeGlob(text string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`, "]", `\]`).Replace(text)
}
