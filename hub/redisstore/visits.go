package redisstore

import (
	"context"
	"iter"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// Keys of visits: "visit:<label>" and the index "visits"; "arrivals:<digest>" a counter that ends by
// itself. None of them is a proxy's.

// putVisit: KEYS visit, visits; ARGV expected revision, value, label.
var putVisit = redis.NewScript(revision + `
if revision(KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[3])
return 1`)

type storedVisit struct {
	Revision uint64    `json:"revision"`
	Visit    hub.Visit `json:"visit"`
}

// Visit implements [hub.VisitStore].
func (s *Store) Visit(ctx context.Context, name hub.UserName) (hub.Visit, error) {
	v, err := get[storedVisit](ctx, s, "find visit", s.key("visit", name.Label()))
	return v.Visit, err
}

// PutVisit implements [hub.VisitStore].
func (s *Store) PutVisit(ctx context.Context, v hub.Visit) (hub.Visit, error) {
	expected, label := v.Revision, v.Name.Label()
	v.Revision = successor(expected)
	value := encode(storedVisit{v.Revision, v})
	if err := s.swap(ctx, putVisit, "write visit", "this visit changed meanwhile", []string{s.key("visit", label), s.key("visits")}, expected, value, label); err != nil {
		return hub.Visit{}, err
	}
	stored, err := decode[storedVisit]("write visit", value)
	return stored.Visit, err
}

// deleteVisit: KEYS visit, visits; ARGV expected revision, label.
var deleteVisit = redis.NewScript(revision + `
if revision(KEYS[1]) ~= ARGV[1] or redis.call('DEL', KEYS[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[2])
return 1`)

// DeleteVisit implements [hub.VisitStore].
func (s *Store) DeleteVisit(ctx context.Context, v hub.Visit) error {
	label := v.Name.Label()
	return s.swap(ctx, deleteVisit, "delete visit", "this visit changed meanwhile", []string{s.key("visit", label), s.key("visits")}, v.Revision, label)
}

// Visits implements [hub.VisitStore].
func (s *Store) Visits(ctx context.Context) iter.Seq2[hub.Visit, error] {
	return func(yield func(hub.Visit, error) bool) {
		for v, err := range list[storedVisit](ctx, s, "list visits", s.key("visits"), "visit") {
			if !yield(v.Visit, err) {
				return
			}
		}
	}
}

// countArrival: KEYS counter; ARGV window ms.
var countArrival = redis.NewScript(`
local n = redis.call('INCR', KEYS[1])
if n == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return n`)

// CountArrival implements [hub.VisitStore].
func (s *Store) CountArrival(ctx context.Context, key string, window time.Duration) (int, error) {
	const op = "count arrival"
	ms, err := millis(op, window)
	if err != nil {
		return 0, err
	}
	n, err := countArrival.Run(ctx, s.rdb, []string{s.key("arrivals", digest(key))}, ms).Int()
	return n, s.fail(op, err)
}
