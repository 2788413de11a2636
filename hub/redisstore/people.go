package redisstore

import (
	"context"
	"iter"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// Keys of people: "user:<name>", indexed by the sorted set "users" (all scores 0, so by name).
// Keys of tokens: "token:<hash>" with its life as TTL, the hash "tokens:<name>" from public id to
// token hash, and the sorted set "token-ends:<name>" of the ids that end, by when.

// putUser writes a person if nothing else did meanwhile. KEYS user, users; ARGV value, what was
// there ("" for nothing), name.
var putUser = redis.NewScript(`
local have = redis.call('GET', KEYS[1])
if (have or '') ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], 0, ARGV[3])
return 1`)

// BindUser implements [hub.UserStore]. Somebody's change is through at each turn, so turns end.
func (s *Store) BindUser(ctx context.Context, u hub.User) (hub.User, error) {
	const op = "bind user"
	for {
		raw, err := s.rdb.Get(ctx, s.key("user", u.Name.String())).Result()
		if err != nil && !isNil(err) {
			return hub.User{}, s.fail(op, err)
		}
		next := u
		if raw != "" {
			old, err := decode[hub.User](op, raw)
			if err != nil {
				return hub.User{}, err
			}
			if old.Identity != u.Identity {
				return hub.User{}, &hub.Error{Kind: hub.Conflict, Op: "redis: " + op, Message: "this name belongs to someone else here", Remedy: "ask an administrator to rebind the name, or to choose another username claim"}
			}
			next.ID, next.Created = old.ID, old.Created
		}
		value := encode(next)
		n, err := putUser.Run(ctx, s.rdb, []string{s.key("user", u.Name.String()), s.key("users")}, value, raw, u.Name.String()).Int()
		if err != nil {
			return hub.User{}, s.fail(op, err)
		}
		if n == 1 {
			return decode[hub.User](op, value) // nothing of u's own
		}
	}
}

// User implements [hub.UserStore].
func (s *Store) User(ctx context.Context, name hub.UserName) (hub.User, error) {
	return get[hub.User](ctx, s, "find user", s.key("user", name.String()))
}

// Rebind implements [hub.UserStore].
func (s *Store) Rebind(ctx context.Context, u hub.User) error {
	_, err := s.rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, s.key("user", u.Name.String()), encode(u), 0)
		p.ZAdd(ctx, s.key("users"), redis.Z{Member: u.Name.String()})
		return nil
	})
	return s.fail("rebind user", err)
}

// DeleteUser implements [hub.UserStore].
func (s *Store) DeleteUser(ctx context.Context, name hub.UserName) error {
	_, err := s.rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Del(ctx, s.key("user", name.String()))
		p.ZRem(ctx, s.key("users"), name.String())
		return nil
	})
	return s.fail("delete user", err)
}

// Users implements [hub.UserStore].
func (s *Store) Users(ctx context.Context) iter.Seq2[hub.User, error] {
	return list[hub.User](ctx, s, "list users", s.key("users"), "user")
}

// createToken: KEYS token, tokens, token-ends; ARGV value, ttl ms (0: endless), id, hash, end ms,
// now ms. What is over is dropped from the indexes here, a part at a time.
var createToken = redis.NewScript(`
local old = redis.call('ZRANGE', KEYS[3], 0, 19, 'WITHSCORES')
for i = 1, #old, 2 do
  if tonumber(old[i + 1]) < tonumber(ARGV[6]) then
    redis.call('HDEL', KEYS[2], old[i])
    redis.call('ZREM', KEYS[3], old[i])
  end
end
if redis.call('EXISTS', KEYS[1]) == 1 or redis.call('HSETNX', KEYS[2], ARGV[3], ARGV[4]) == 0 then return 0 end
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  redis.call('ZADD', KEYS[3], ARGV[5], ARGV[3])
end
return 1`)

// CreateToken implements [hub.TokenStore].
func (s *Store) CreateToken(ctx context.Context, t hub.Token) error {
	const op = "create token"
	now, ttl := time.Now(), int64(0)
	if !t.Expires.IsZero() {
		if !t.Live(now) {
			return hub.Errorf(hub.Invalid, "redis: "+op, "the token is over already")
		}
		ttl = max(t.Expires.Sub(now).Milliseconds(), 1)
	}
	keys := []string{s.key("token", string(t.Hash)), s.key("tokens", t.User.String()), s.key("token-ends", t.User.String())}
	n, err := createToken.Run(ctx, s.rdb, keys, encode(t), ttl, t.ID, string(t.Hash), t.Expires.UnixMilli(), now.UnixMilli()).Int()
	if err != nil {
		return s.fail(op, err)
	}
	if n == 0 {
		return conflict(op, "there is a token of this id or secret")
	}
	return nil
}

// Token implements [hub.TokenStore].
func (s *Store) Token(ctx context.Context, h hub.SecretHash) (hub.Token, error) {
	t, err := get[hub.Token](ctx, s, "find token", s.key("token", string(h)))
	if err == nil && !t.Live(time.Now()) {
		return hub.Token{}, notFound("find token", "token")
	}
	return t, err
}

// deleteToken: KEYS tokens, token-ends, channel; ARGV id, token key prefix.
var deleteToken = redis.NewScript(`
local hash = redis.call('HGET', KEYS[1], ARGV[1])
if not hash then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('DEL', ARGV[2] .. hash) == 0 then return 0 end
redis.call('PUBLISH', KEYS[3], cjson.encode({kind = 'token-revoked', sessions = {hash}}))
return 1`)

// DeleteToken implements [hub.TokenStore].
func (s *Store) DeleteToken(ctx context.Context, user hub.UserName, id string) error {
	keys := []string{s.key("tokens", user.String()), s.key("token-ends", user.String()), s.channel()}
	n, err := deleteToken.Run(ctx, s.rdb, keys, id, s.key("token")+":").Int()
	if err != nil {
		return s.fail("delete token", err)
	}
	if n == 0 {
		return notFound("delete token", "token")
	}
	return nil
}

// Tokens implements [hub.TokenStore].
func (s *Store) Tokens(ctx context.Context, user hub.UserName) iter.Seq2[hub.Token, error] {
	const op = "list tokens"
	return func(yield func(hub.Token, error) bool) {
		hashes, err := s.rdb.HVals(ctx, s.key("tokens", user.String())).Result()
		if err != nil {
			yield(hub.Token{}, s.fail(op, err))
			return
		}
		for t, err := range values[hub.Token](ctx, s, op, hashes, "token") {
			if err == nil && !t.Live(time.Now()) {
				continue
			}
			if !yield(t, err) {
				return
			}
		}
	}
}
