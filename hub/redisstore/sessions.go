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
// indexes, all scored by the end of life: "sessions", "by-user:<name>", "by-identity:<digest>",
// "by-sid:<digest>", "children:<parent>"; "tomb:<digest>" a logout that sessions older than it heed.

const tombLife = 10 * time.Minute

func (s *Store) sessionKey(x hub.Session) string {
	if x.Parent != "" {
		return s.key("child", string(x.Hash))
	}
	return s.key("session", string(x.Hash))
}

func (s *Store) indexes(x hub.Session) []string {
	keys := []string{s.key("sessions"), s.key("by-user", x.User.String()), s.key("by-identity", digest(x.Identity.Issuer, x.Identity.Subject))}
	if x.SID != "" {
		keys = append(keys, s.key("by-sid", digest(x.Identity.Issuer, x.SID)))
	}
	if x.Parent != "" {
		return []string{s.key("children", string(x.Parent))}
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

// createSession: KEYS session, guard (the parent's session, or ""), tombs and indexes;
// ARGV value, ttl ms, hash, expiry, created ms, number of tombs.
var createSession = redis.NewScript(`
local tombs = tonumber(ARGV[6])
if KEYS[2] ~= KEYS[1] and redis.call('EXISTS', KEYS[2]) == 0 then return 'orphan' end
for i = 3, 2 + tombs do
  local at = redis.call('GET', KEYS[i])
  if at and tonumber(at) >= tonumber(ARGV[5]) then return 'ended' end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
for i = 3 + tombs, #KEYS do
  redis.call('ZADD', KEYS[i], ARGV[4], ARGV[3])
  local left = redis.call('PTTL', KEYS[i])
  if left < tonumber(ARGV[2]) * 2 then redis.call('PEXPIRE', KEYS[i], tonumber(ARGV[2]) * 2) end
end
return 'ok'`)

// CreateSession implements [hub.SessionStore].
func (s *Store) CreateSession(ctx context.Context, x hub.Session) error {
	left := life(x, time.Now())
	if left <= 0 {
		return hub.Errorf(hub.Unauthenticated, "create session", "the session is over already")
	}
	own := s.sessionKey(x)
	keys := []string{own, own}
	if x.Parent != "" {
		keys[1] = s.key("session", string(x.Parent))
	}
	var tombs []string
	if x.Parent == "" {
		tombs = s.tombs(hub.SessionQuery{Identity: x.Identity, SID: x.SID})
	}
	keys = append(append(keys, tombs...), s.indexes(x)...)
	got, err := createSession.Run(ctx, s.rdb, keys, encode(x), max(left.Milliseconds(), 1), string(x.Hash), x.Expires.Unix(), x.Created.UnixMilli(), len(tombs)).Text()
	switch {
	case err != nil:
		return s.fail("create session", err)
	case got != "ok":
		return &hub.Error{Kind: hub.Unauthenticated, Op: "redis: create session", Message: "you were signed out meanwhile", Remedy: "sign in again"}
	}
	return nil
}

// tombs are the keys of the logouts that concern an identity or a provider's session.
func (s *Store) tombs(q hub.SessionQuery) []string {
	var keys []string
	if q.Identity.Subject != "" {
		keys = append(keys, s.key("tomb", digest("sub", q.Identity.Issuer, q.Identity.Subject)))
	}
	if q.SID != "" {
		keys = append(keys, s.key("tomb", digest("sid", q.Identity.Issuer, q.SID)))
	}
	return keys
}

// Session implements [hub.SessionStore].
func (s *Store) Session(ctx context.Context, h hub.SecretHash) (hub.Session, error) {
	values, err := s.rdb.MGet(ctx, s.key("session", string(h)), s.key("child", string(h))).Result()
	if err != nil {
		return hub.Session{}, s.fail("find session", err)
	}
	for i, kind := range []string{"session", "child"} {
		if values[i] != nil {
			x, err := get[hub.Session](ctx, s, "find session", s.key(kind, string(h)))
			if err == nil && !x.Live(time.Now()) {
				return hub.Session{}, notFound("find session", "session")
			}
			return x, err
		}
	}
	return hub.Session{}, notFound("find session", "session")
}

// updateSession writes only over what is there. KEYS session; ARGV value, ttl ms.
var updateSession = redis.NewScript(`
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`)

// UpdateSession implements [hub.SessionStore].
func (s *Store) UpdateSession(ctx context.Context, x hub.Session) error {
	left := life(x, time.Now())
	if left <= 0 {
		return notFound("update session", "session")
	}
	n, err := updateSession.Run(ctx, s.rdb, []string{s.sessionKey(x)}, encode(x), max(left.Milliseconds(), 1)).Int()
	if err != nil {
		return s.fail("update session", err)
	}
	if n == 0 {
		return notFound("update session", "session")
	}
	return nil
}

// endSession ends one session with its children and tells of it. KEYS session, children, channel,
// indexes; ARGV hash, child key prefix.
var endSession = redis.NewScript(`
local ended = {ARGV[1]}
for _, child in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  redis.call('DEL', ARGV[2] .. child)
  ended[#ended + 1] = child
end
redis.call('DEL', KEYS[1], KEYS[2])
for i = 4, #KEYS do redis.call('ZREM', KEYS[i], ARGV[1]) end
redis.call('PUBLISH', KEYS[3], cjson.encode({kind = 'sessions-ended', sessions = ended}))
return ended`)

// EndSessions implements [hub.SessionStore]. A query by identity leaves its tombstone first, so a
// session that is being created just then either is found here or finds it.
func (s *Store) EndSessions(ctx context.Context, q hub.SessionQuery) ([]hub.SecretHash, error) {
	if q.Identity.Issuer != "" {
		var keys []string
		if q.SID != "" {
			keys = s.tombs(hub.SessionQuery{Identity: hub.Identity{Issuer: q.Identity.Issuer}, SID: q.SID})
		} else {
			keys = s.tombs(hub.SessionQuery{Identity: q.Identity})
		}
		for _, k := range keys {
			if err := s.rdb.Set(ctx, k, time.Now().UnixMilli(), tombLife).Err(); err != nil {
				return nil, s.fail("end sessions", err)
			}
		}
	}
	candidates, err := s.candidates(ctx, q)
	if err != nil {
		return nil, err
	}
	var ended []hub.SecretHash
	for _, h := range candidates {
		x, err := s.Session(ctx, h)
		if hub.KindOf(err) == hub.NotFound && err != nil {
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
			return ended, s.fail("end sessions", err)
		}
		for _, e := range hashes {
			ended = append(ended, hub.SecretHash(e))
		}
	}
	return ended, nil
}

// candidates finds the hashes that a query may concern, by its narrowest index.
func (s *Store) candidates(ctx context.Context, q hub.SessionQuery) ([]hub.SecretHash, error) {
	index := ""
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

// Sessions implements [hub.SessionStore]; sessions of notebook hosts are not among them.
func (s *Store) Sessions(ctx context.Context) iter.Seq2[hub.Session, error] {
	return func(yield func(hub.Session, error) bool) {
		list(ctx, s, "list sessions", s.key("sessions"), func(m string) string { return s.key("session", m) }, yield)
	}
}

// PutTicket implements [hub.TicketStore].
func (s *Store) PutTicket(ctx context.Context, h hub.SecretHash, t hub.Ticket, ttl time.Duration) error {
	return s.fail("keep ticket", s.rdb.Set(ctx, s.key("ticket", string(h)), encode(t), ttl).Err())
}

// TakeTicket implements [hub.TicketStore].
func (s *Store) TakeTicket(ctx context.Context, h hub.SecretHash) (hub.Ticket, error) {
	raw, err := s.rdb.GetDel(ctx, s.key("ticket", string(h))).Bytes()
	if err != nil {
		return hub.Ticket{}, s.fail("take ticket", err)
	}
	return decode[hub.Ticket]("take ticket", raw)
}

// Once implements [hub.TicketStore].
func (s *Store) Once(ctx context.Context, key string, ttl time.Duration) (bool, error) {
	first, err := s.rdb.SetNX(ctx, s.key("once", digest(key)), 1, ttl).Result()
	return first, s.fail("record single use", err)
}
