package redisstore

import (
	"context"
	"iter"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// Keys of servers: "server:<label>" and the index "servers"; "generation:<label>" a counter. Keys
// of routes: "route:<label>" and the index "routes"; "activity" a sorted set of server keys by unix
// milliseconds. A record's revision and a route's generation stand first in their values, where the
// scripts find them before any text of a person's.

// putServer: KEYS server, servers, channel; ARGV expected revision, value, label, event.
var putServer = redis.NewScript(`
local have = redis.call('GET', KEYS[1])
local rev = '0'
if have then rev = string.match(have, '"revision":(%d+)') end
if rev ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[3])
redis.call('PUBLISH', KEYS[3], ARGV[4])
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
	n, err := putServer.Run(ctx, s.rdb, []string{s.key("server", label), s.key("servers"), s.channel()},
		expected, value, label, encode(hub.Event{Kind: hub.ServerChanged, Key: x.Key, Server: &told})).Int()
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

// deleteServer: KEYS server, servers, activity, channel; ARGV expected revision, label, key, event.
var deleteServer = redis.NewScript(`
local have = redis.call('GET', KEYS[1])
if not have or string.match(have, '"revision":(%d+)') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[3])
redis.call('PUBLISH', KEYS[4], ARGV[4])
return 1`)

// DeleteServer implements [hub.ServerStore].
func (s *Store) DeleteServer(ctx context.Context, x hub.Server) error {
	label := x.Key.Label()
	n, err := deleteServer.Run(ctx, s.rdb, []string{s.key("server", label), s.key("servers"), s.key("activity"), s.channel()},
		strconv.FormatUint(x.Revision, 10), label, encode(x.Key), encode(hub.Event{Kind: hub.ServerChanged, Key: x.Key})).Int()
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

// putRoute: KEYS route, routes, channel; ARGV generation, value, label, event.
var putRoute = redis.NewScript(`
local have = redis.call('GET', KEYS[1])
if have and tonumber(string.match(have, '"generation":(%d+)')) > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[3])
redis.call('PUBLISH', KEYS[3], ARGV[4])
return 1`)

type storedRoute struct {
	Generation hub.Generation `json:"generation"`
	Route      hub.Route      `json:"route"`
}

// PutRoute implements [hub.RouteStore].
func (s *Store) PutRoute(ctx context.Context, r hub.Route) error {
	label := r.Key.Label()
	n, err := putRoute.Run(ctx, s.rdb, []string{s.key("route", label), s.key("routes"), s.channel()},
		uint64(r.Generation), encode(storedRoute{r.Generation, r}), label, encode(hub.Event{Kind: hub.RouteChanged, Key: r.Key, Route: &r})).Int()
	if err != nil {
		return s.fail("publish route", err)
	}
	if n == 0 {
		return conflict("publish route", "a newer start of this server has a route")
	}
	return nil
}

// deleteRoute: KEYS route, routes, channel; ARGV generation, label, event.
var deleteRoute = redis.NewScript(`
local have = redis.call('GET', KEYS[1])
if not have or tonumber(string.match(have, '"generation":(%d+)')) > tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('PUBLISH', KEYS[3], ARGV[3])
return 1`)

// DeleteRoute implements [hub.RouteStore].
func (s *Store) DeleteRoute(ctx context.Context, key hub.ServerKey, g hub.Generation) error {
	label := key.Label()
	err := deleteRoute.Run(ctx, s.rdb, []string{s.key("route", label), s.key("routes"), s.channel()},
		uint64(g), label, encode(hub.Event{Kind: hub.RouteChanged, Key: key})).Err()
	return s.fail("remove route", err)
}

// Routes implements [hub.RouteStore].
func (s *Store) Routes(ctx context.Context) iter.Seq2[hub.Route, error] {
	return func(yield func(hub.Route, error) bool) {
		for v, err := range list[storedRoute](ctx, s, "list routes", s.key("routes"), "route") {
			if !yield(v.Route, err) {
				return
			}
		}
	}
}

// RecordActivity implements [hub.RouteStore].
func (s *Store) RecordActivity(ctx context.Context, acts []hub.Activity) error {
	if len(acts) == 0 {
		return nil
	}
	_, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, a := range acts {
			p.ZAddGT(ctx, s.key("activity"), redis.Z{Score: float64(a.Last.UnixMilli()), Member: encode(a.Key)})
		}
		return nil
	})
	return s.fail("record activity", err)
}

// Activities implements [hub.RouteStore].
func (s *Store) Activities(ctx context.Context) iter.Seq2[hub.Activity, error] {
	return func(yield func(hub.Activity, error) bool) {
		entries, err := s.rdb.ZRangeWithScores(ctx, s.key("activity"), 0, -1).Result()
		if err != nil {
			yield(hub.Activity{}, s.fail("list activity", err))
			return
		}
		for _, z := range entries {
			member, _ := z.Member.(string)
			key, err := decode[hub.ServerKey]("list activity", member)
			if !yield(hub.Activity{Key: key, Last: time.UnixMilli(int64(z.Score))}, err) || err != nil {
				return
			}
		}
	}
}
