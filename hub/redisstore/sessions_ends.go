package redisstore

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// tombLife is longer than a sign-in can take: 10 minutes, begun by a clock that may be one ahead.
const tombLife = 15 * time.Minute

// tombs are the keys of the logouts that a session heeds: its subject's, and its provider's
// session's, or that of what the provider's session is not known of.
func (s *Store) tombs(x hub.Session) []string {
	id := x.Identity
	keys := []string{s.tomb("sub", id.Issuer, id.Subject)}
	if x.SID != "" {
		return append(keys, s.tomb("sid", id.Issuer, x.SID))
	}
	return append(keys, s.tomb("no sid", id.Issuer, id.Subject))
}

func (s *Store) tomb(parts ...string) string { return s.key("tomb", digest(parts...)) }

// endSession ends one session with its children and tells of it, unless it ended meanwhile. What a
// proxy made of the children's index keeps no session from ending and being told of. KEYS session, seen, children, channel, indexes; ARGV hash, child key prefix.
var endSession = redis.NewScript(`
if redis.call('DEL', KEYS[1]) == 0 then return {} end
local ended = {ARGV[1]}
local children = redis.pcall('ZRANGE', KEYS[3], 0, -1)
if children.err then children = {} end
for _, child in ipairs(children) do
  redis.call('DEL', ARGV[2] .. child)
  ended[#ended + 1] = child
end
redis.call('DEL', KEYS[2], KEYS[3])
for i = 5, #KEYS do redis.call('ZREM', KEYS[i], ARGV[1]) end
redis.call('PUBLISH', KEYS[4], cjson.encode({kind = 'sessions-ended', sessions = ended}))
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
		x, there, err := s.find(ctx, op, h)
		if err != nil {
			return ended, err
		}
		if x.Hash == "" || !q.Matches(x) {
			continue
		}
		keys := append([]string{s.sessionKey(x), s.key("seen", string(h)), s.key("children", string(h)), s.channel()}, s.indexes(x)...)
		hashes, err := endSession.Run(ctx, s.rdb, keys, string(h), s.key("child")+":").StringSlice()
		if err != nil {
			return ended, s.fail(op, err)
		}
		if !there || !x.Live(time.Now()) {
			continue // it was over; were its record left, a proxy could say that it had been in use
		}
		for _, e := range hashes {
			ended = append(ended, hub.SecretHash(e))
		}
	}
	return ended, nil
}

// bury leaves the tombstones of a query by identity: for all of the subject's, or where the query
// names the provider's session, for that and what may belong to it.
func (s *Store) bury(ctx context.Context, q hub.SessionQuery) error {
	id := q.Identity
	if id.Issuer == "" {
		return nil
	}
	var tombs []string
	if q.SID != "" {
		tombs = append(tombs, s.tomb("sid", id.Issuer, q.SID))
	}
	if id.Subject != "" && q.SID != "" {
		tombs = append(tombs, s.tomb("no sid", id.Issuer, id.Subject))
	} else if id.Subject != "" {
		tombs = append(tombs, s.tomb("sub", id.Issuer, id.Subject))
	}
	for _, k := range tombs {
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
	case q.Identity.Subject != "": // with a sid too: what has none is in no other index
		index = s.key("by-identity", digest(q.Identity.Issuer, q.Identity.Subject))
	case q.SID != "":
		index = s.key("by-sid", digest(q.Identity.Issuer, q.SID))
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
