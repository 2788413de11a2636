package redisstore

import (
	"context"
	"iter"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// Keys of servers: "server:<label>" and the index "servers"; "generation:<label>" a counter. A record's
// revision stands first in its value, where the scripts find it before any text of a person's.

// putServer: KEYS server, servers, channel, change; ARGV expected revision, value, label, event, change.
var putServer = redis.NewScript(tell + `
local have = redis.call('GET', KEYS[1])
local rev = '0'
if have then rev = string.match(have, '"revision":(%d+)') end
if rev ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[3])
tell(KEYS[3], KEYS[4], ARGV[4], ARGV[5])
return 1`)

// PutServer implements [hub.ServerStore]. A record's first revision is the time, so that whoever
// holds one that was deleted meanwhile does not take its successor for it.
func (s *Store) PutServer(ctx context.Context, x hub.Server) (hub.Server, error) {
	expected := strconv.FormatUint(x.Revision, 10)
	if x.Revision == 0 {
		x.Revision = uint64(time.Now().UnixMicro())
	}
	x.Revision++
	label := x.Key.Label()
	told := x
	told.LogTail = nil
	value := encode(storedServer{x.Revision, x})
	event := changed(hub.Event{Kind: hub.ServerChanged, Key: x.Key, Server: &told})
	n, err := putServer.Run(ctx, s.rdb, []string{s.key("server", label), s.key("servers"), s.channel(), s.key("change")},
		expected, value, label, encode(event), event.Change).Int()
	if err != nil {
		return hub.Server{}, s.fail("write server", err)
	}
	if n == 0 {
		return hub.Server{}, conflict("write server", "this server's record changed meanwhile")
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
var deleteServer = redis.NewScript(tell + `
local have = redis.call('GET', KEYS[1])
if not have or string.match(have, '"revision":(%d+)') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
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
	n, err := deleteServer.Run(ctx, s.rdb, keys,
		strconv.FormatUint(x.Revision, 10), label, encode(x.Key), encode(event), event.Change).Int()
	if err != nil {
		return s.fail("delete server", err)
	}
	if n == 0 {
		return conflict("delete server", "this server's record changed meanwhile")
	}
	return nil
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
