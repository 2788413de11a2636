package redisstore

import (
	"context"
	"iter"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// Keys of routes: "route:<label>" and the index "routes"; "activity" a sorted set of server keys by unix
// milliseconds. A route's generation stands first in its value, where the scripts find it before any
// text of a person's.

// putRoute: KEYS route, routes, channel, change; ARGV generation, value, label, event, change.
var putRoute = redis.NewScript(tell + `
local have = redis.call('GET', KEYS[1])
if have and tonumber(string.match(have, '"generation":(%d+)')) > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[3])
tell(KEYS[3], KEYS[4], ARGV[4], ARGV[5])
return 1`)

type storedRoute struct {
	Generation hub.Generation `json:"generation"`
	Route      hub.Route      `json:"route"`
}

// PutRoute implements [hub.RouteStore].
func (s *Store) PutRoute(ctx context.Context, r hub.Route) error {
	label := r.Key.Label()
	event := changed(hub.Event{Kind: hub.RouteChanged, Key: r.Key, Route: &r})
	n, err := putRoute.Run(ctx, s.rdb, []string{s.key("route", label), s.key("routes"), s.channel(), s.key("change")},
		uint64(r.Generation), encode(storedRoute{r.Generation, r}), label, encode(event), event.Change).Int()
	if err != nil {
		return s.fail("publish route", err)
	}
	if n == 0 {
		return conflict("publish route", "a newer start of this server has a route")
	}
	return nil
}

// deleteRoute: KEYS route, routes, channel, change; ARGV generation, label, event, change.
var deleteRoute = redis.NewScript(tell + `
local have = redis.call('GET', KEYS[1])
if not have or tonumber(string.match(have, '"generation":(%d+)')) > tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2])
tell(KEYS[3], KEYS[4], ARGV[3], ARGV[4])
return 1`)

// DeleteRoute implements [hub.RouteStore].
func (s *Store) DeleteRoute(ctx context.Context, key hub.ServerKey, g hub.Generation) error {
	label := key.Label()
	event := changed(hub.Event{Kind: hub.RouteChanged, Key: key})
	err := deleteRoute.Run(ctx, s.rdb, []string{s.key("route", label), s.key("routes"), s.channel(), s.key("change")},
		uint64(g), label, encode(event), event.Change).Err()
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
