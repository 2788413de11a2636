package chp

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// Where the routes are in Redis: data and activity by path, a mark of this very store, and a channel
// of paths that changed.
const (
	keyRoutes   = "configproxy:routes"
	keyActivity = "configproxy:activity"
	keyEpoch    = "configproxy:epoch"
	changes     = "configproxy:changes"

	redisTimeout  = 3 * time.Second
	flushEvery    = time.Second
	silence       = 5 * time.Second // on the channel, before Redis is asked for a sign of life
	redisRetry    = 200 * time.Millisecond
	flushAtOnce   = 1000
	leaveTheStore = time.Second
)

// ARGV: path, data, milliseconds, channel, and "keep" where a route that is there must stay.
var putScript = redis.NewScript(`
if ARGV[5] == 'keep' and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if tonumber(ARGV[3]) > tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0') then redis.call('HSET', KEYS[2], ARGV[1], ARGV[3]) end
redis.call('PUBLISH', ARGV[4], ARGV[1])
return 1`)

var removeScript = redis.NewScript(`
local n = redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
if n == 1 then redis.call('PUBLISH', ARGV[2], ARGV[1]) end
return n`)

// ARGV: path, milliseconds, and so on. Activity only grows, and that of a route that is gone is nothing.
var activityScript = redis.NewScript(`
for i = 1, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 and tonumber(ARGV[i+1]) > tonumber(redis.call('HGET', KEYS[2], ARGV[i]) or '0') then
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i+1])
  end
end
return redis.call('GET', KEYS[3]) or ''`)

var storeKeys = []string{keyRoutes, keyActivity, keyEpoch}

// store keeps a table the same as the one in Redis, which other proxies share. Changes go to Redis
// first and are read back; requests are answered from the table alone.
type store struct {
	db     *redis.Client
	routes *table
	log    *slog.Logger

	mu    sync.Mutex // one read at a time, so that none is overtaken by an older one
	epoch string
}

// newStore connects to nothing yet.
func newStore(address hub.Secret, routes *table, log *slog.Logger) (*store, error) {
	opts, err := redis.ParseURL(address.Reveal())
	if err != nil { // which may hold the password
		return nil, &hub.Error{Kind: hub.Invalid, Op: "make proxy", Field: "--redis-url", Message: "this is no address of a Redis", Remedy: "give redis://[user:password@]host:port/number, rediss:// for TLS, or unix:///path"}
	}
	opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout = redisTimeout, redisTimeout, redisTimeout
	opts.ContextTimeoutEnabled, opts.MaxRetries = true, 1
	return &store{db: redis.NewClient(opts), routes: routes, log: log}, nil
}

// put sets a route for every proxy; with keep one that is there stays.
func (s *store) put(ctx context.Context, path string, data routeData, last int64, keep bool) error {
	b, err := encode(data)
	if err != nil {
		return err
	}
	mode := "replace"
	if keep {
		mode = "keep"
	}
	return putScript.Run(ctx, s.db, storeKeys, path, b, last, changes, mode).Err()
}

// add sets a route and takes it over from Redis.
func (s *store) add(ctx context.Context, path string, data routeData) error {
	ctx, done := context.WithTimeout(ctx, redisTimeout)
	defer done()
	if err := s.put(ctx, path, data, time.Now().UnixMilli(), false); err != nil {
		return err
	}
	return s.refresh(ctx, path)
}

func (s *store) remove(ctx context.Context, path string) (bool, error) {
	ctx, done := context.WithTimeout(ctx, redisTimeout)
	defer done()
	n, err := removeScript.Run(ctx, s.db, storeKeys, path, changes).Int()
	if err != nil {
		return false, err
	}
	return n == 1, s.refresh(ctx, path)
}

// refresh reads one route.
func (s *store) refresh(ctx context.Context, path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, err := s.db.HGet(ctx, keyRoutes, path).Result()
	if errors.Is(err, redis.Nil) {
		s.routes.remove(path)
		return nil
	}
	if err != nil {
		return err
	}
	last, err := s.db.HGet(ctx, keyActivity, path).Int64()
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	s.apply(ctx, path, data, last)
	return nil
}

// apply takes over what Redis holds for a route.
func (s *store) apply(ctx context.Context, path, raw string, last int64) {
	var data routeData
	var to string
	if json.Unmarshal([]byte(raw), &data) != nil || json.Unmarshal(data["target"], &to) != nil {
		s.log.ErrorContext(ctx, "A route in Redis can't be understood", "route", path)
		return
	}
	s.routes.put(path, data, to, last)
}

// sync reads everything. A store that was emptied since the last time gets back what is known here.
func (s *store) sync(ctx context.Context) error {
	ctx, done := context.WithTimeout(ctx, 2*redisTimeout)
	defer done()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.db.SetNX(ctx, keyEpoch, rand.Text(), 0).Err(); err != nil {
		return err
	}
	epoch, err := s.db.Get(ctx, keyEpoch).Result()
	if err != nil {
		return err
	}
	if s.epoch != "" && s.epoch != epoch {
		s.log.WarnContext(ctx, "Redis has lost its routes; it gets those known here")
		for path, r := range s.routes.list(time.Time{}) {
			if err := s.put(ctx, path, r.data, r.last.Load(), true); err != nil {
				return err
			}
		}
	}
	var routes, activity *redis.MapStringStringCmd
	if _, err := s.db.TxPipelined(ctx, func(tx redis.Pipeliner) error {
		routes, activity = tx.HGetAll(ctx, keyRoutes), tx.HGetAll(ctx, keyActivity)
		return nil
	}); err != nil {
		return err
	}
	s.epoch = epoch
	for path := range s.routes.list(time.Time{}) {
		if _, ok := routes.Val()[path]; !ok {
			s.routes.remove(path)
		}
	}
	for path, data := range routes.Val() {
		last, _ := strconv.ParseInt(activity.Val()[path], 10, 64) // what is no number is none
		s.apply(ctx, path, data, last)
	}
	return nil
}

// flush tells Redis of activity here; it syncs where the store is another than before.
func (s *store) flush(ctx context.Context) error {
	args, told := []any{}, map[*route]int64{}
	send := func() error {
		epoch, err := activityScript.Run(ctx, s.db, storeKeys, args...).Text()
		if err != nil {
			return err
		}
		for r, last := range told {
			r.told.Store(last)
		}
		args, told = args[:0], map[*route]int64{}
		s.mu.Lock()
		same := epoch == s.epoch
		s.mu.Unlock()
		if !same {
			return s.sync(ctx)
		}
		return nil
	}
	for path, r := range s.routes.list(time.Time{}) {
		last := r.last.Load()
		if last <= r.told.Load() {
			continue
		}
		args, told[r] = append(args, path, last), last
		if len(told) == flushAtOnce {
			if err := send(); err != nil {
				return err
			}
		}
	}
	return send()
}

// gather takes over activity that other proxies saw. Without Redis what is known here has to do.
func (s *store) gather(ctx context.Context) {
	ctx, done := context.WithTimeout(ctx, redisTimeout)
	defer done()
	err := s.flush(ctx)
	var all map[string]string
	if err == nil {
		all, err = s.db.HGetAll(ctx, keyActivity).Result()
	}
	if err != nil {
		s.log.WarnContext(ctx, "Redis is away: activity at other proxies is not known", "error", err)
		return
	}
	for path, r := range s.routes.list(time.Time{}) {
		if last, err := strconv.ParseInt(all[path], 10, 64); err == nil {
			r.seen(last)
		}
	}
}

// run follows the changes of others, and tells of activity, until the context ends.
func (s *store) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { s.follow(ctx) })
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			if err := s.flush(ctx); err != nil && ctx.Err() == nil {
				s.log.DebugContext(ctx, "Activity not told to Redis", "error", err)
			}
		}
	}
	wg.Wait()
	last, done := context.WithTimeout(context.WithoutCancel(ctx), leaveTheStore)
	defer done()
	if err := s.flush(last); err != nil {
		s.log.WarnContext(ctx, "The last activity was not told to Redis", "error", err)
	}
	_ = s.db.Close() // it is the end
}

func (s *store) follow(ctx context.Context) {
	for away := false; ctx.Err() == nil; {
		err := s.listen(ctx, func() {
			if away {
				s.log.InfoContext(ctx, "Redis is back")
			}
			away = false
		})
		if ctx.Err() != nil {
			return
		}
		if !away {
			s.log.WarnContext(ctx, "Redis is away: known routes go on, and none can be changed", "error", err)
			away = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(redisRetry):
		}
	}
}

// listen follows one subscription until it breaks; everything is read once it stands.
func (s *store) listen(ctx context.Context, up func()) error {
	sub := s.db.Subscribe(ctx, changes)
	defer sub.Close()                                          //nolint:errcheck // it is left
	stop := context.AfterFunc(ctx, func() { _ = sub.Close() }) // it does not heed a context while it waits
	defer stop()
	for quiet := 0; ; {
		got, err := sub.ReceiveTimeout(ctx, silence)
		if timeout, ok := errors.AsType[interface {
			error
			Timeout() bool
		}](err); ok && timeout.Timeout() && quiet == 0 && ctx.Err() == nil {
			quiet++
			err = sub.Ping(ctx)
		}
		if err != nil {
			return err
		}
		switch got := got.(type) {
		case *redis.Subscription:
			if err := s.sync(ctx); err != nil {
				return err
			}
			up()
		case *redis.Message:
			if err := s.refresh(ctx, got.Payload); err != nil {
				return err
			}
		case nil:
			continue
		}
		quiet = 0
	}
}
