package redisstore

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// Keys of sessions: "session:<hash>" a hub session, until its absolute end; "seen:<hash>" when it was
// last used, which ends with its idle life: a session counts while both are there, so that a proxy,
// which may write the second alone, can touch a session and not change it. "child:<hash>" a notebook
// host's session, which says whose child it is and the rest is read there. Sorted sets of hashes as
// indexes, all scored by the latest end of life in unix milliseconds: "sessions", "by-user:<name>",
// "by-identity:<digest>", "by-sid:<digest>", "children:<parent>". "tomb:<digest>" a logout that
// sessions older than it heed.

func (s *Store) sessionKey(x hub.Session) string {
	if x.Parent != "" {
		return s.key("child", string(x.Hash))
	}
	return s.key("session", string(x.Hash))
}

// recordKeys are what has to be there for a hub session to count, in the order that [kept] reads them.
func (s *Store) recordKeys(h hub.SecretHash) []string {
	return []string{s.key("session", string(h)), s.key("seen", string(h))}
}

func (s *Store) indexes(x hub.Session) []string {
	if x.Parent != "" {
		return []string{s.key("children", string(x.Parent))}
	}
	keys := []string{s.key("sessions"), s.key("by-user", x.User.String()), s.key("by-identity", digest(x.Identity.Issuer, x.Identity.Subject))}
	if x.SID != "" {
		keys = append(keys, s.key("by-sid", digest(x.Identity.Issuer, x.SID)))
	}
	return keys
}

// life is how long a session lives from now if unused.
func life(x hub.Session, now time.Time) time.Duration {
	left := x.Expires.Sub(now)
	if x.Idle > 0 {
		left = min(left, x.LastSeen.Add(x.Idle).Sub(now))
	}
	return left
}

// use is what "seen:<hash>" holds: last use in unix microseconds, idle life in milliseconds (0:
// none), absolute end in unix milliseconds. The latter two are there for [touchSession] to reckon the
// key's life by; what counts is the record's.
func use(x hub.Session) string {
	idle := int64(0)
	if x.Idle > 0 {
		idle = max(x.Idle.Milliseconds(), 1)
	}
	return fmt.Sprintf("%d %d %d", x.LastSeen.UnixMicro(), idle, x.Expires.UnixMilli())
}

// kept puts a hub session together from the values of its two keys. Where the second alone is gone
// the session is as it was left, but not there.
func kept(op string, record, use any) (x hub.Session, there bool, err error) {
	raw, ok := record.(string)
	if !ok {
		return x, false, nil
	}
	if x, err = decode[hub.Session](op, raw); err != nil {
		return hub.Session{}, false, err
	}
	seen, _ := use.(string)
	first, _, _ := strings.Cut(seen, " ")
	micro, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return x, false, nil //nolint:nilerr // gone, or a proxy's scribble
	}
	if last := time.UnixMicro(micro); last.After(x.LastSeen) {
		x.LastSeen = last
	}
	return x, true, nil
}

// enter adds a hash to an index, which lives as long as a session in it can, whatever it is idle for
// meanwhile; what ended is dropped from it here, a part at a time.
const enter = `
local function enter(index, hash, ends, now, over)
  local old = redis.call('ZRANGE', index, 0, 19, 'WITHSCORES')
  for i = 1, #old, 2 do
    if tonumber(old[i + 1]) < tonumber(now) or over(old[i]) then redis.call('ZREM', index, old[i]) end
  end
  redis.call('ZADD', index, ends, hash)
  local last = redis.call('ZRANGE', index, -1, -1, 'WITHSCORES')[2]
  redis.call('PEXPIRE', index, string.format('%d', tonumber(last) - tonumber(now) + 1000))
end`

// createSession: KEYS session, seen, tombs and indexes; ARGV value, its ttl ms, use, its ttl ms,
// hash, latest end ms, created ms, number of tombs, now ms, session and seen key prefixes. Where a
// session that went unused is come across, its record goes: none ever comes back.
var createSession = redis.NewScript(enter + `
local tombs = tonumber(ARGV[8])
for i = 3, 2 + tombs do
  local at = redis.call('GET', KEYS[i])
  if at and tonumber(at) >= tonumber(ARGV[7]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
local function over(hash)
  if redis.call('EXISTS', ARGV[11] .. hash) == 1 then return false end
  redis.call('DEL', ARGV[10] .. hash)
  return true
end
for i = 3 + tombs, #KEYS do enter(KEYS[i], ARGV[5], ARGV[6], ARGV[9], over) end
return 1`)

// createChild: KEYS child, children; ARGV value, ttl ms, hash, latest end ms, now ms, parent's session
// and seen. Who names a key among a script's must have the right to write it.
var createChild = redis.NewScript(enter + `
if redis.call('EXISTS', ARGV[6], ARGV[7]) < 2 then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
enter(KEYS[2], ARGV[3], ARGV[4], ARGV[5], function() return false end)
return 1`)

// CreateSession implements [hub.SessionStore].
func (s *Store) CreateSession(ctx context.Context, x hub.Session) error {
	const op = "create session"
	now := time.Now()
	left := life(x, now)
	if left <= 0 {
		return hub.Errorf(hub.Unauthenticated, op, "the session is over already")
	}
	total, hash, ends := max(x.Expires.Sub(now).Milliseconds(), 1), string(x.Hash), x.Expires.UnixMilli()
	var made int
	var err error
	if x.Parent != "" {
		parent := s.recordKeys(x.Parent)
		made, err = createChild.Run(ctx, s.rdb, append([]string{s.sessionKey(x)}, s.indexes(x)...), encode(storedChild{x.Parent, x.Host, x.Created, x.Expires}),
			total, hash, ends, now.UnixMilli(), parent[0], parent[1]).Int()
	} else {
		tombs := s.tombs(x)
		keys := slices.Concat(s.recordKeys(x.Hash), tombs, s.indexes(x))
		made, err = createSession.Run(ctx, s.rdb, keys, encode(x), total, use(x), max(left.Milliseconds(), 1), hash, ends,
			x.Created.UnixMilli(), len(tombs), now.UnixMilli(), s.key("session")+":", s.key("seen")+":").Int()
	}
	switch {
	case err != nil:
		return s.fail(op, err)
	case made == 0:
		return &hub.Error{Kind: hub.Unauthenticated, Op: "redis: " + op, Message: "you were signed out meanwhile", Remedy: "sign in again"}
	}
	return nil
}

// storedChild is all that is kept of a notebook host's session, and all that is believed of it.
type storedChild struct {
	Parent  hub.SecretHash `json:"parent"`
	Host    string         `json:"host"`
	Created time.Time      `json:"created"`
	Expires time.Time      `json:"expires"`
}

// Session implements [hub.SessionStore].
func (s *Store) Session(ctx context.Context, h hub.SecretHash) (hub.Session, error) {
	const op = "find session"
	x, there, err := s.find(ctx, op, h)
	switch {
	case err != nil:
		return hub.Session{}, err
	case !there || !x.Live(time.Now()):
		return hub.Session{}, notFound(op, "session")
	}
	return x, nil
}

// find reads a session of either kind; see [kept].
func (s *Store) find(ctx context.Context, op string, h hub.SecretHash) (x hub.Session, there bool, err error) {
	values, err := s.rdb.MGet(ctx, append(s.recordKeys(h), s.key("child", string(h)))...).Result()
	if err != nil {
		return x, false, s.fail(op, err)
	}
	if raw, ok := values[2].(string); ok && values[0] == nil {
		return s.child(ctx, op, h, raw)
	}
	return kept(op, values[0], values[1])
}

// child reads a notebook host's session from its record and its parent, which can end without it, by
// disuse. One without a host would be taken for a hub session; what can't be read, no store wrote.
func (s *Store) child(ctx context.Context, op string, h hub.SecretHash, raw string) (hub.Session, bool, error) {
	c, err := decode[storedChild](op, raw)
	if err != nil || c.Parent == "" || c.Host == "" {
		return hub.Session{}, false, nil //nolint:nilerr // no session
	}
	values, err := s.rdb.MGet(ctx, s.recordKeys(c.Parent)...).Result()
	if err != nil {
		return hub.Session{}, false, s.fail(op, err)
	}
	parent, there, err := kept(op, values[0], values[1])
	if err != nil || !there {
		return hub.Session{}, false, err
	}
	return hub.Session{Hash: h, Host: c.Host, Created: c.Created, Expires: c.Expires}.Under(parent), true, nil
}

// touchSession: KEYS seen; ARGV last use µs, now ms. See [use].
var touchSession = redis.NewScript(`
local last, idle, ends = string.match(redis.call('GET', KEYS[1]) or '', '^(%-?%d+) (%d+) (%d+)$')
if not last then return 0 end
if tonumber(last) >= tonumber(ARGV[1]) then return 1 end
local left = tonumber(ends) - tonumber(ARGV[2])
if idle ~= '0' then left = math.min(left, math.floor(ARGV[1] / 1000) + tonumber(idle) - tonumber(ARGV[2])) end
if left <= 0 then return 0 end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. idle .. ' ' .. ends, 'PX', string.format('%d', left))
return 1`)

// TouchSession implements [hub.SessionStore].
func (s *Store) TouchSession(ctx context.Context, h hub.SecretHash, at time.Time) error {
	const op = "record use of session"
	n, err := touchSession.Run(ctx, s.rdb, []string{s.key("seen", string(h))}, at.UnixMicro(), time.Now().UnixMilli()).Int()
	if err != nil {
		return s.fail(op, err)
	}
	if n == 0 {
		return notFound(op, "session")
	}
	return nil
}

// updateSession writes only over what was read. KEYS session; ARGV value, what was there.
var updateSession = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'KEEPTTL')
return 1`)

// UpdateSession implements [hub.SessionUpdater]. Somebody's change is through at each turn, so turns end.
func (s *Store) UpdateSession(ctx context.Context, h hub.SecretHash, change func(*hub.Session)) error {
	const op = "update session"
	for {
		keys := s.recordKeys(h)
		values, err := s.rdb.MGet(ctx, keys...).Result()
		if err != nil {
			return s.fail(op, err)
		}
		x, there, err := kept(op, values[0], values[1])
		if err != nil {
			return err
		}
		if !there || !x.Live(time.Now()) {
			return notFound(op, "session")
		}
		changed := x
		change(&changed)
		x.Groups, x.Admin, x.Tokens = changed.Groups, changed.Admin, changed.Tokens
		n, err := updateSession.Run(ctx, s.rdb, keys[:1], encode(x), values[0]).Int()
		if err != nil {
			return s.fail(op, err)
		}
		if n == 1 {
			return nil
		}
	}
}

// Sessions implements [hub.SessionStore]. What is over is dropped, record and all: none ever comes back.
func (s *Store) Sessions(ctx context.Context) iter.Seq2[hub.Session, error] {
	const op = "list sessions"
	return func(yield func(hub.Session, error) bool) {
		members, err := s.rdb.ZRange(ctx, s.key("sessions"), 0, -1).Result()
		if err != nil {
			yield(hub.Session{}, s.fail(op, err))
			return
		}
		for page := range slices.Chunk(members, pageSize) {
			var keys, gone []string
			for _, h := range page {
				keys = append(keys, s.recordKeys(hub.SecretHash(h))...)
			}
			values, err := s.rdb.MGet(ctx, keys...).Result()
			if err != nil {
				yield(hub.Session{}, s.fail(op, err))
				return
			}
			for i, h := range page {
				x, there, err := kept(op, values[2*i], values[2*i+1])
				if err == nil && !there {
					gone = append(gone, h)
				}
				if err == nil && (!there || !x.Live(time.Now())) {
					continue
				}
				if !yield(x, err) || err != nil {
					return
				}
			}
			s.drop(ctx, gone)
		}
	}
}

// drop forgets sessions that went unused; what fails comes again with the next listing.
func (s *Store) drop(ctx context.Context, hashes []string) {
	if len(hashes) == 0 {
		return
	}
	keys := make([]string, len(hashes))
	for i, h := range hashes {
		keys[i] = s.key("session", h)
	}
	s.rdb.Unlink(ctx, keys...)
	s.rdb.ZRem(ctx, s.key("sessions"), hashes)
}
