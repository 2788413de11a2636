package redisstore

import (
	"context"
	"iter"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// Keys of servers: "server:<label>" and the index "servers"; "generation:<label>" a counter.

// putServer: KEYS server, servers, channel, change; ARGV expected revision, value, label, event, change.
var putServer = redis.NewScript(tell + revision + `
if revision(KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[3])
tell(KEYS[3], KEYS[4], ARGV[4], ARGV[5])
return 1`)

// PutServer implements [hub.ServerStore].
func (s *Store) PutServer(ctx context.Context, x hub.Server) (hub.Server, error) {
	expected, label := x.Revision, x.Key.Label()
	x.Revision = successor(expected)
	told := x
	told.LogTail = nil
	value := encode(storedServer{x.Revision, x})
	event := changed(hub.Event{Kind: hub.ServerChanged, Key: x.Key, Server: &told})
	keys := []string{s.key("server", label), s.key("servers"), s.channel(), s.key("change")}
	if err := s.swap(ctx, putServer, "write server", "this server's record changed meanwhile", keys, expected, value, label, encode(event), event.Change); err != nil {
		return hub.Server{}, err
	}
	stored, err := decode[storedServer]("write server", value) // nothing of x's own
	return stored.Server, err
}

type storedServer struct {
	Revision uint64     `json:"revision"`
	Server   hub.Server `json:"server"`
}

// Server implements [hub.ServerStore].
func (s *Store) Server(ctx context.Context, key hub.ServerKey) (hub.Server, error) {
	v, err := get[storedServer](ctx, s, "find server", s.key("server", key.Label()))
	return v.Server, err
}

// deleteServer: KEYS server, servers, activity, channel, change and, to be forgotten too, generation; ARGV
// expected revision, label, key, event, change.
var deleteServer = redis.NewScript(tell + revision + `
if revision(KEYS[1]) ~= ARGV[1] or redis.call('DEL', KEYS[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[3])
tell(KEYS[4], KEYS[5], ARGV[4], ARGV[5])
if KEYS[6] then redis.call('DEL', KEYS[6]) end
return 1`)

// DeleteServer implements [hub.ServerStore].
func (s *Store) DeleteServer(ctx context.Context, x hub.Server) error {
	label := x.Key.Label()
	event := changed(hub.Event{Kind: hub.ServerChanged, Key: x.Key})
	keys := []string{s.key("server", label), s.key("servers"), s.key("activity"), s.channel(), s.key("change")}
	if x.Key.User.IsVisitor() {
		keys = append(keys, s.key("generation", label))
	}
	return s.swap(ctx, deleteServer, "delete server", "this server's record changed meanwhile", keys, x.Revision, label, encode(x.Key), encode(event), event.Change)
}

// nextGeneration: KEYS counter; ARGV least.
var nextGeneration = redis.NewScript(`
if tonumber(redis.call('GET', KEYS[1]) or '0') < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1]) end
return redis.call('INCR', KEYS[1])`)

// NextGeneration implements [hub.ServerStore].
func (s *Store) NextGeneration(ctx context.Context, key hub.ServerKey, least hub.Generation) (hub.Generation, error) {
	n, err := nextGeneration.Run(ctx, s.rdb, []string{s.key("generation", key.Label())}, uint64(least)).Uint64()
	return hub.Generation(n), s.fail("count start", err)
}

// Servers implements [hub.ServerStore].
func (s *Store) Servers(ctx context.Context) iter.Seq2[hub.Server, error] {
	return func(yield func(hub.Server, error) bool) {
		for v, err := range list[storedServer](ctx, s, "list servers", s.key("servers"), "server") {
			if !yield(v.Server, err) {
				return
			}
		}
	}
}

// ServerLabels implements [hub.ServerNames]. The index is a proxy's to read, the records are not.
func (s *Store) ServerLabels(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		labels, err := s.rdb.ZRange(ctx, s.key("servers"), 0, -1).Result()
		if err != nil {
			yield("", s.fail("list servers' names", err))
			return
		}
		for _, l := range labels {
			if !yield(l, nil) {
				return
			}
		}
	}
}
