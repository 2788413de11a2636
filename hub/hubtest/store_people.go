package hubtest

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"time"

	"carrel/hub"
)

// BindUser implements [hub.UserStore].
func (s *Store) BindUser(ctx context.Context, u hub.User) (bound hub.User, err error) {
	const op = "BindUser"
	err = s.do(ctx, op, func() error {
		next := copied(u)
		if old, ok := s.users[u.Name]; ok {
			if old.Identity != u.Identity {
				return conflict(op, "this name belongs to someone else here")
			}
			next.ID, next.Created = old.ID, old.Created
		}
		s.users[u.Name] = next
		bound = copied(next)
		return nil
	})
	return bound, err
}

// User implements [hub.UserStore].
func (s *Store) User(ctx context.Context, name hub.UserName) (u hub.User, err error) {
	const op = "User"
	err = s.do(ctx, op, func() error {
		have, ok := s.users[name]
		if !ok {
			return notFound(op)
		}
		u = copied(have)
		return nil
	})
	return u, err
}

// Rebind implements [hub.UserStore].
func (s *Store) Rebind(ctx context.Context, u hub.User) error {
	return s.do(ctx, "Rebind", func() error {
		s.users[u.Name] = copied(u)
		return nil
	})
}

// DeleteUser implements [hub.UserStore].
func (s *Store) DeleteUser(ctx context.Context, name hub.UserName) error {
	return s.do(ctx, "DeleteUser", func() error {
		delete(s.users, name)
		return nil
	})
}

// Users implements [hub.UserStore].
func (s *Store) Users(ctx context.Context) iter.Seq2[hub.User, error] {
	return yieldAll(ctx, s, "Users", func() (all []hub.User) {
		for _, u := range s.users {
			all = append(all, copied(u))
		}
		slices.SortFunc(all, func(a, b hub.User) int { return cmp.Compare(a.Name.String(), b.Name.String()) })
		return all
	})
}

// CreateToken implements [hub.TokenStore].
func (s *Store) CreateToken(ctx context.Context, t hub.Token) error {
	const op = "CreateToken"
	return s.do(ctx, op, func() error {
		if !t.Live(time.Now()) {
			return hub.Errorf(hub.Invalid, op, "the token is over already")
		}
		_, sameID := s.owned(t.User, t.ID)
		if have, ok := s.tokens[t.Hash]; sameID || ok && have.Live(time.Now()) {
			return conflict(op, "there is a token of this id or secret")
		}
		s.tokens[t.Hash] = copied(t)
		return nil
	})
}

// owned finds a person's live token by its public id.
func (s *Store) owned(user hub.UserName, id string) (hub.Token, bool) {
	for _, t := range s.tokens {
		if t.User == user && t.ID == id && t.Live(time.Now()) {
			return t, true
		}
	}
	return hub.Token{}, false
}

// Token implements [hub.TokenStore].
func (s *Store) Token(ctx context.Context, h hub.SecretHash) (t hub.Token, err error) {
	const op = "Token"
	err = s.do(ctx, op, func() error {
		have, ok := s.tokens[h]
		if !ok || !have.Live(time.Now()) {
			return notFound(op)
		}
		t = copied(have)
		return nil
	})
	return t, err
}

// DeleteToken implements [hub.TokenStore].
func (s *Store) DeleteToken(ctx context.Context, user hub.UserName, id string) error {
	const op = "DeleteToken"
	return s.do(ctx, op, func() error {
		t, ok := s.owned(user, id)
		if !ok {
			return notFound(op)
		}
		delete(s.tokens, t.Hash)
		s.tell(hub.Event{Kind: hub.TokenRevoked, Sessions: []hub.SecretHash{t.Hash}})
		return nil
	})
}

// Tokens implements [hub.TokenStore].
func (s *Store) Tokens(ctx context.Context, user hub.UserName) iter.Seq2[hub.Token, error] {
	return yieldAll(ctx, s, "Tokens", func() (all []hub.Token) {
		for _, t := range s.tokens {
			if t.User == user && t.Live(time.Now()) {
				all = append(all, copied(t))
			}
		}
		return all
	})
}
