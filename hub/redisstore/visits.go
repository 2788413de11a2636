package redisstore

import (
	"context"
	"iter"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// Keys of visits: "visit:<label>" and the index "visits"; "arrivals:<digest>" a counter that ends by
// itself. None of them is a proxy's.

// putVisit: KEYS visit, visits; ARGV expected revision, value, label.
var putVisit = redis.NewScript(`
local have = redis.call('GET', KEYS[1])
local rev = '0'
if have then rev = string.match(have, '"revision":(%d+)') end
if rev ~= ARGV[1] then return 0 end
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
	expected, label := strconv.FormatUint(v.Revision, 10), v.Name.Label()
	if v.Revision == 0 {
		v.Revision = uint64(time.Now().UnixMicro()) // no successor of a deleted one has its revision
	}
	v.Revision++
	value := encode(storedVisit{v.Revision, v})
	n, err := putVisit.Run(ctx, s.rdb, []string{s.key("visit", label), s.key("visits")}, expected, value, label).Int()
	if err != nil {
		return hub.Visit{}, s.fail("write visit", err)
	}
	if n == 0 {
		return hub.Visit{}, conflict("write visit", "this visit changed meanwhile")
	}
	stored, err := decode[storedVisit]("write visit", value)
	return stored.Visit, err
}

// deleteVisit: KEYS visit, visits; ARGV expected revision, label.
var deleteVisit = redis.NewScript(`
local have = redis.call('GET', KEYS[1])
if not have or string.match(have, '"revision":(%d+)') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2])
return 1`)

// DeleteVisit implements [hub.VisitStore].
func (s *Store) DeleteVisit(ctx context.Context, v hub.Visit) error {
	label := v.Name.Label()
	n, err := deleteVisit.Run(ctx, s.rdb, []string{s.key("visit", label), s.key("visits")}, strconv.FormatUint(v.Revision, 10), label).Int()
	if err != nil {
		return s.fail("delete visit", err)
	}
	if n == 0 {
		return conflict("delete visit", "this visit changed meanwhile")
	}
	return nil
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
