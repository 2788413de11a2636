package redisstore

import (
	"context"
	"iter"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// Keys of sessions: "session:<hash>" the session, with its life as TTL; "child:<hash>" the same for
// sessions of notebook hosts, apart so that a proxy's rights can end there; sorted sets of hashes as
// indexes, all scored by the latest end of life in unix milliseconds: "sessions", "by-user:<name>",
// "by-identity:<digest>", "by-sid:<digest>", "children:<parent>"; "tomb:<digest>" a logout that
// sessions older than it heed.

// tombLife is longer than a sign-in can take: 10 minutes, begun by a clock that may be one ahead.
const tombLife = 15 * time.Minute

func (s *Store) sessionKey(x hub.Session) string {
	if x.Parent != "" {
		return s.key("child", string(x.Hash))
	}
	return s.key("session", string(x.Hash))
}

// guardKey is what has to live for the session to: its parent, or itself.
func (s *Store) guardKey(x hub.Session) string {
	if x.Parent != "" {
		return s.key("session", string(x.Parent))
	}
	return s.sessionKey(x)
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

// createSession: KEYS session, guard, tombs and indexes; ARGV value, ttl ms, hash, latest end ms,
// created ms, number of tombs, now ms. An index lives as long as a session in it can, whatever it
// is idle for meanwhile; what ended is dropped from it here, a part at a time.
var createSession = redis.NewScript(`
local tombs = tonumber(ARGV[6])
if KEYS[2] ~= KEYS[1] and redis.call('EXISTS', KEYS[2]) == 0 then return 'orphan' end
for i = 3, 2 + tombs do
  local at = redis.call('GET', KEYS[i])
  if at and tonumber(at) >= tonumber(ARGV[5]) then return 'ended' end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
for i = 3 + tombs, #KEYS do
  local old = redis.call('ZRANGE', KEYS[i], 0, 19, 'WITHSCORES')
  for j = 1, #old, 2 do
    if tonumber(old[j + 1]) < tonumber(ARGV[7]) then redis.call('ZREM', KEYS[i], old[j]) end
  end
  redis.call('ZADD', KEYS[i], ARGV[4], ARGV[3])
  local last = redis.call('ZRANGE', KEYS[i], -1, -1, 'WITHSCORES')[2]
  redis.call('PEXPIRE', KEYS[i], string.format('%d', tonumber(last) - tonumber(ARGV[7]) + 1000))
end
return 'ok'`)

// CreateSession implements [hub.SessionStore].
func (s *Store) CreateSession(ctx context.Context, x hub.Session) error {
	now := time.Now()
	left := life(x, now)
	if left <= 0 {
		return hub.Errorf(hub.Unauthenticated, "create session", "the session is over already")
	}
	var tombs []string
	if x.Parent == "" {
		tombs = s.tombs(x.Identity, x.SID)
	}
	keys := append(append([]string{s.sessionKey(x), s.guardKey(x)}, tombs...), s.indexes(x)...)
	got, err := createSession.Run(ctx, s.rdb, keys, encode(x), max(left.Milliseconds(), 1), string(x.Hash),
		x.Expires.UnixMilli(), x.Created.UnixMilli(), len(tombs), now.UnixMilli()).Text()
	switch {
	case err != nil:
		return s.fail("create session", err)
	case got != "ok":
		return &hub.Error{Kind: hub.Unauthenticated, Op: "redis: create session", Message: "you were signed out meanwhile", Remedy: "sign in again"}
	}
	return nil
}

// tombs are the keys of the logouts that concern an identity or a provider's session.
func (s *Store) tombs(id hub.Identity, sid string) []string {
	var keys []string
	if id.Subject != "" {
		keys = append(keys, s.key("tomb", digest("sub", id.Issuer, id.Subject)))
	}
	if sid != "" {
		keys = append(keys, s.key("tomb", digest("sid", id.Issuer, sid)))
	}
	return keys
}

// Session implements [hub.SessionStore].
func (s *Store) Session(ctx context.Context, h hub.SecretHash) (hub.Session, error) {
	const op = "find session"
	values, err := s.rdb.MGet(ctx, s.key("session", string(h)), s.key("child", string(h))).Result()
	if err != nil {
		return hub.Session{}, s.fail(op, err)
	}
	for _, v := range values {
		raw, ok := v.(string)
		if !ok {
			continue
		}
		x, err := decode[hub.Session](op, raw)
		if err != nil {
			return hub.Session{}, err
		}
		if !x.Live(time.Now()) {
			return hub.Session{}, notFound(op, "session")
		}
		if err := s.guarded(ctx, op, x); err != nil {
			return hub.Session{}, err
		}
		return x, nil
	}
	return hub.Session{}, notFound(op, "session")
}

// guarded is NotFound when the session's parent is over, as that can end without it, by disuse.
func (s *Store) guarded(ctx context.Context, op string, x hub.Session) error {
	if x.Parent == "" {
		return nil
	}
	n, err := s.rdb.Exists(ctx, s.guardKey(x)).Result()
	if err == nil && n == 0 {
		return notFound(op, "session")
	}
	return s.fail(op, err)
}

// updateSession writes only over what is there. KEYS session, guard; ARGV value, ttl ms.
var updateSession = redis.NewScript(`
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`)

// UpdateSession implements [hub.SessionStore].
func (s *Store) UpdateSession(ctx context.Context, x hub.Session) error {
	left := life(x, time.Now())
	if left <= 0 {
		return notFound("update session", "session")
	}
	n, err := updateSession.Run(ctx, s.rdb, []string{s.sessionKey(x), s.guardKey(x)}, encode(x), max(left.Milliseconds(), 1)).Int()
	if err != nil {
		return s.fail("update session", err)
	}
	if n == 0 {
		return notFound("update session", "session")
	}
	return nil
}

// endSession ends one session with its children and tells of it, unless it ended meanwhile. KEYS
// session, children, channel, indexes; ARGV hash, child key prefix.
var endSession = redis.NewScript(`
if redis.call('DEL', KEYS[1]) == 0 then return {} end
local ended = {ARGV[1]}
for _, child in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  redis.call('DEL', ARGV[2] .. child)
  ended[#ended + 1] = child
end
redis.call('DEL', KEYS[2])
for i = 4, #KEYS do redis.call('ZREM', KEYS[i], ARGV[1]) end
redis.call('PUBLISH', KEYS[3], cjson.encode({kind = 'sessions-ended', sessions = ended}))
return ended`)

// EndSessions implements [hub.SessionStore]. A query by identity leaves its tombstone first, so a
// session that is being created just then either is found here or finds it. When it fails on the
// way, what was ended is ended and told of, and asking again ends the rest.
func (s *Store) EndSessions(ctx context.Context, q hub.SessionQuery) ([]hub.SecretHash, error) {
	const op = "end sessions"
	if err := s.bury(ctx, q); err != nil {
		return nil, s.fail(op, err)
	}
	candidates, err := s.candidates(ctx, q)
	if err != nil {
		return nil, err
	}
	var ended []hub.SecretHash
	for _, h := range candidates {
		x, err := s.Session(ctx, h)
		if err != nil && hub.KindOf(err) == hub.NotFound {
			continue
		}
		if err != nil {
			return ended, err
		}
		if !matches(x, q) {
			continue
		}
		keys := append([]string{s.sessionKey(x), s.key("children", string(h)), s.channel()}, s.indexes(x)...)
		hashes, err := endSession.Run(ctx, s.rdb, keys, string(h), s.key("child")+":").StringSlice()
		if err != nil {
			return ended, s.fail(op, err)
		}
		for _, e := range hashes {
			ended = append(ended, hub.SecretHash(e))
		}
	}
	return ended, nil
}

// bury leaves the tombstone of a query by identity; where the query names the provider's session,
// of that one alone.
func (s *Store) bury(ctx context.Context, q hub.SessionQuery) error {
	if q.Identity.Issuer == "" {
		return nil
	}
	id := q.Identity
	if q.SID != "" {
		id.Subject = ""
	}
	for _, k := range s.tombs(id, q.SID) {
		if err := s.rdb.Set(ctx, k, time.Now().UnixMilli(), tombLife).Err(); err != nil {
			return err
		}
	}
	return nil
}

// candidates finds the hashes that a query may concern, by its narrowest index.
func (s *Store) candidates(ctx context.Context, q hub.SessionQuery) ([]hub.SecretHash, error) {
	var index string
	switch {
	case q.Hash != "":
		return []hub.SecretHash{q.Hash}, nil
	case q.SID != "":
		index = s.key("by-sid", digest(q.Identity.Issuer, q.SID))
	case q.Identity.Subject != "":
		index = s.key("by-identity", digest(q.Identity.Issuer, q.Identity.Subject))
	case !q.User.IsZero():
		index = s.key("by-user", q.User.String())
	default:
		return nil, hub.Errorf(hub.Internal, "end sessions", "the query names nothing")
	}
	members, err := s.rdb.ZRange(ctx, index, 0, -1).Result()
	if err != nil {
		return nil, s.fail("end sessions", err)
	}
	hashes := make([]hub.SecretHash, len(members))
	for i, m := range members {
		hashes[i] = hub.SecretHash(m)
	}
	return hashes, nil
}

func matches(x hub.Session, q hub.SessionQuery) bool {
	return (q.Hash == "" || x.Hash == q.Hash) && (q.User.IsZero() || x.User == q.User) &&
		(q.Identity.Issuer == "" || x.Identity.Issuer == q.Identity.Issuer) &&
		(q.Identity.Subject == "" || x.Identity.Subject == q.Identity.Subject) &&
		(q.SID == "" || x.SID == q.SID) && (q.Except == "" || x.Hash != q.Except)
}

// Sessions implements [hub.SessionStore]; sessions of notebook hosts are not among them. Hashes
// whose session is over are dropped from the index: none ever comes back.
func (s *Store) Sessions(ctx context.Context) iter.Seq2[hub.Session, error] {
	return func(yield func(hub.Session, error) bool) {
		index := s.key("sessions")
		over := func(hashes []string) { s.rdb.ZRem(ctx, index, hashes) } // the next listing's comes again
		for x, err := range list[hub.Session](ctx, s, "list sessions", index, "session", over) {
			if err == nil && !x.Live(time.Now()) {
				continue
			}
			if !yield(x, err) {
				return
			}
		}
	}
}
