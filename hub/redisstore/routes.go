package redisstore

import (
	"context"
	"iter"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// Keys of routes: "route:<label>" and the index "routes"; "activity" a sorted set of server keys by unix
// milliseconds. A route's generation stands first in its value, where the scripts find it before any
// text of a person's.

type storedRoute struct {
	Generation hub.Generation `json:"generation"`
	Route      hub.Route      `json:"route"`
}

// PutRoute implements [hub.RouteStore].
func (s *Store) PutRoute(ctx context.Context, r hub.Route) error {
	return s.changeRoute(ctx, "publish route", r.Generation, encode(storedRoute{r.Generation, r}), hub.Event{Kind: hub.RouteChanged, Key: r.Key, Route: &r})
}

// DeleteRoute implements [hub.RouteStore].
func (s *Store) DeleteRoute(ctx context.Context, key hub.ServerKey, g hub.Generation) error {
	return s.changeRoute(ctx, "remove route", g, "", hub.Event{Kind: hub.RouteChanged, Key: key})
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
		for page := range slices.Chunk(acts, pageSize) {
			latest := make(map[string]float64, len(page))
			for _, a := range page {
				member := encode(a.Key)
				latest[member] = max(latest[member], float64(a.Last.UnixMilli()))
			}
			members := make([]redis.Z, 0, len(page))
			for member, at := range latest {
				members = append(members, redis.Z{Score: at, Member: member})
			}
			p.ZAddArgs(ctx, s.key("activity"), redis.ZAddArgs{GT: true, Members: members})
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
