package redisstore

import (
	"context"
	"encoding/json"
	"iter"
	"time"

	"github.com/redis/go-redis/v9"

	"carrel/hub"
)

// Keys of people: "user:<name>", indexed by the sorted set "users" (all scores 0, so by name).
// Keys of tokens: "token:<hash>" with its life as TTL, and the hash "tokens:<name>" from public id
// to token hash.

func decode[T any](op string, raw []byte) (T, error) {
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, hub.Wrap(hub.Internal, "redis: "+op+": decode", err)
	}
	return v, nil
}

// putUser writes a person if nothing else did meanwhile. KEYS user, users; ARGV value, what was
// there ("" for nothing), name.
var putUser = redis.NewScript(`
local have = redis.call('GET', KEYS[1])
if (have or '') ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], 0, ARGV[3])
return 1`)

// BindUser implements [hub.UserStore].
func (s *Store) BindUser(ctx context.Context, u hub.User) (hub.User, error) {
	for range 20 {
		raw, err := s.rdb.Get(ctx, s.key("user", u.Name.String())).Result()
		if err != nil && err != redis.Nil { //nolint:errorlint // go-redis returns it bare
			return hub.User{}, s.fail("bind user", err)
		}
		next := u
		if raw != "" {
			old, err := decode[hub.User]("bind user", []byte(raw))
			if err != nil {
				return hub.User{}, err
			}
			if old.Identity != u.Identity {
				return hub.User{}, &hub.Error{Kind: hub.Conflict, Op: "bind user", Message: "this name belongs to someone else here", Remedy: "ask an administrator to rebind the name, or to choose another username claim"}
			}
			next.ID, next.Created = old.ID, old.Created
		}
		n, err := putUser.Run(ctx, s.rdb, []string{s.key("user", u.Name.String()), s.key("users")}, encode(next), raw, u.Name.String()).Int()
		if err != nil {
			return hub.User{}, s.fail("bind user", err)
		}
		if n == 1 {
			return next, nil
		}
	}
	return hub.User{}, conflict("bind user", "this person is being changed by many at once")
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
	return func(yield func(hub.User, error) bool) {
		list(ctx, s, "list users", s.key("users"), func(m string) string { return s.key("user", m) }, yield)
	}
}

// CreateToken implements [hub.TokenStore].
func (s *Store) CreateToken(ctx context.Context, t hub.Token) error {
	ttl := time.Duration(0)
	if !t.Expires.IsZero() {
		if ttl = time.Until(t.Expires); ttl <= 0 {
			return hub.Errorf(hub.Invalid, "create token", "the token is over already")
		}
	}
	_, err := s.rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, s.key("token", string(t.Hash)), encode(t), ttl)
		p.HSet(ctx, s.key("tokens", t.User.String()), t.ID, string(t.Hash))
		return nil
	})
	return s.fail("create token", err)
}

// Token implements [hub.TokenStore].
func (s *Store) Token(ctx context.Context, h hub.SecretHash) (hub.Token, error) {
	t, err := get[hub.Token](ctx, s, "find token", s.key("token", string(h)))
	if err == nil && !t.Live(time.Now()) {
		return hub.Token{}, notFound("find token", "token")
	}
	return t, err
}

// deleteToken: KEYS tokens of the person, channel; ARGV id, token key prefix.
var deleteToken = redis.NewScript(`
local hash = redis.call('HGET', KEYS[1], ARGV[1])
if not hash then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('DEL', ARGV[2] .. hash)
redis.call('PUBLISH', KEYS[2], cjson.encode({kind = 'token-revoked', sessions = {hash}}))
return 1`)

// DeleteToken implements [hub.TokenStore].
func (s *Store) DeleteToken(ctx context.Context, user hub.UserName, id string) error {
	n, err := deleteToken.Run(ctx, s.rdb, []string{s.key("tokens", user.String()), s.channel()}, id, s.key("token")+":").Int()
	if err != nil {
		return s.fail("delete token", err)
	}
	if n == 0 {
		return notFound("delete token", "token")
	}
	return nil
}

// Tokens implements [hub.TokenStore]; ids whose token is over are dropped.
func (s *Store) Tokens(ctx context.Context, user hub.UserName) iter.Seq2[hub.Token, error] {
	return func(yield func(hub.Token, error) bool) {
		ids, err := s.rdb.HGetAll(ctx, s.key("tokens", user.String())).Result()
		if err != nil {
			yield(hub.Token{}, s.fail("list tokens", err))
			return
		}
		for id, hash := range ids {
			t, err := s.Token(ctx, hub.SecretHash(hash))
			if err != nil && hub.KindOf(err) == hub.NotFound {
				s.rdb.HDel(ctx, s.key("tokens", user.String()), id)
				continue
			}
			if !yield(t, err) || err != nil {
				return
			}
		}
	}
}
