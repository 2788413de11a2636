package redisstore

import (
	"context"
	"iter"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// Keys of runs: "run:<id>", a hash of "record" and "output" which ends by itself; "runs", an index of all, and
// "runs-of:<label>", of a person's, both by the time of creation. An id stays in the indexes until a listing finds
// that its record is gone, or it can't be there any more. None of them is a proxy's.

// runOutput is kept apart from its record, which listings read without it.
type runOutput struct {
	Stdout []byte `json:"stdout"`
	Stderr []byte `json:"stderr"`
}

// fields are the two fields of a run's hash, with their names.
func fields(r hub.Run) []any {
	out := encode(runOutput{r.Result.Stdout, r.Result.Stderr})
	r.Result.Stdout, r.Result.Stderr = nil, nil
	return []any{"record", encode(r), "output", out}
}

// createRun: KEYS run, runs, runs-of; ARGV ttl ms, id, created ms, fields. What was created twice as long ago as
// a new record lives is over: it lives so long at most before its end, and after it.
var createRun = redis.NewScript(`
if redis.call('EXISTS', KEYS[1]) == 1 then
  if redis.call('HGET', KEYS[1], 'record') ~= ARGV[5] then return 0 end
else
  redis.call('HSET', KEYS[1], unpack(ARGV, 4))
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
for i = 2, 3 do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', ARGV[3] - 2 * ARGV[1])
  redis.call('ZADD', KEYS[i], ARGV[3], ARGV[2])
  redis.call('PEXPIRE', KEYS[i], 2 * ARGV[1])
end
return 1`)

// CreateRun implements [hub.RunStore]. That go-redis sent it twice, as the first answer was lost, is no conflict.
func (s *Store) CreateRun(ctx context.Context, r hub.Run, ttl time.Duration) error {
	const op = "write run"
	ms, err := millis(op, ttl)
	if err != nil {
		return err
	}
	keys := []string{s.key("run", string(r.ID)), s.key("runs"), s.runsOf(r.Owner)}
	n, err := createRun.Run(ctx, s.rdb, keys, append([]any{ms, string(r.ID), r.Created.UnixMilli()}, fields(r)...)...).Int()
	if err != nil {
		return s.fail(op, err)
	}
	if n == 0 {
		return conflict(op, "this run is there already")
	}
	return nil
}

func (s *Store) runsOf(owner hub.UserName) string {
	if owner.IsZero() {
		return s.key("runs")
	}
	return s.key("runs-of", owner.Label())
}

// updateRun: KEYS run; ARGV ttl ms, fields.
var updateRun = redis.NewScript(`
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return redis.call('PEXPIRE', KEYS[1], ARGV[1])`)

// UpdateRun implements [hub.RunStore].
func (s *Store) UpdateRun(ctx context.Context, r hub.Run, ttl time.Duration) error {
	const op = "change run"
	ms, err := millis(op, ttl)
	if err != nil {
		return err
	}
	n, err := updateRun.Run(ctx, s.rdb, []string{s.key("run", string(r.ID))}, append([]any{ms}, fields(r)...)...).Int()
	if err != nil {
		return s.fail(op, err)
	}
	if n == 0 {
		return notFound(op, "run")
	}
	return nil
}

// Run implements [hub.RunStore].
func (s *Store) Run(ctx context.Context, id hub.RunID) (hub.Run, error) {
	const op = "find run"
	have, err := s.rdb.HGetAll(ctx, s.key("run", string(id))).Result()
	if err != nil {
		return hub.Run{}, s.fail(op, err)
	}
	if len(have) == 0 {
		return hub.Run{}, notFound(op, "run")
	}
	r, err := decode[hub.Run](op, have["record"])
	if err != nil {
		return hub.Run{}, err
	}
	out, err := decode[runOutput](op, have["output"])
	r.Result.Stdout, r.Result.Stderr = out.Stdout, out.Stderr
	return r, err
}

// DeleteRun implements [hub.RunStore]. The indexes find out by themselves.
func (s *Store) DeleteRun(ctx context.Context, id hub.RunID) error {
	const op = "delete run"
	n, err := s.rdb.Del(ctx, s.key("run", string(id))).Result()
	if err != nil {
		return s.fail(op, err)
	}
	if n == 0 {
		return notFound(op, "run")
	}
	return nil
}

// Runs implements [hub.RunStore].
func (s *Store) Runs(ctx context.Context, owner hub.UserName) iter.Seq2[hub.Run, error] {
	const op = "list runs"
	return func(yield func(hub.Run, error) bool) {
		index := s.runsOf(owner)
		ids, err := s.rdb.ZRevRange(ctx, index, 0, -1).Result()
		if err != nil {
			yield(hub.Run{}, s.fail(op, err))
			return
		}
		for _, id := range ids {
			r, err := s.runRecord(ctx, id)
			if err != nil && hub.KindOf(err) == hub.NotFound {
				if err = s.fail(op, s.rdb.ZRem(ctx, index, id).Err()); err == nil {
					continue
				}
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// runRecord reads a record without its output.
func (s *Store) runRecord(ctx context.Context, id string) (hub.Run, error) {
	const op = "list runs"
	raw, err := s.rdb.HGet(ctx, s.key("run", id), "record").Result()
	if err != nil {
		return hub.Run{}, s.fail(op, err)
	}
	return decode[hub.Run](op, raw)
}
