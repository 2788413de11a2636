package hubtest

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carrel/hub"
)

func madeUser(user string) hub.User {
	now := time.Now().Round(0)
	return hub.User{
		ID: hub.UserID("u-" + user), Name: name(user), Identity: hub.Identity{Issuer: "https://login.example.org", Subject: user}, Provider: "institute",
		DisplayName: `A "person" — ` + user, Email: user + "@example.org", EmailVerified: true, Groups: []string{"staff"}, GroupsAt: now, Created: now, LastSeen: now,
	}
}

// Users tests that a store keeps the contract of [hub.UserStore].
func Users(t *testing.T, open func(testing.TB) hub.UserStore) {
	runAll(t, open, []testCase[hub.UserStore]{
		{"a person is bound and found", userBound},
		{"binding again updates all but id and creation", userBoundAgain},
		{"a name is not bound to another identity", userTaken},
		{"values are copies", userCopies},
		{"one of two identities gets the name", userRace},
		{"many bindings of one person at once all succeed", userCrowd},
		{"rebinding gives the name away", userRebound},
		{"a person is forgotten", userDeleted},
		{"everyone is listed by name", usersListed},
	})
}

func userBound(t *testing.T, s hub.UserStore) {
	u := madeUser("alice.b-c_d@example+x")
	_, err := s.User(t.Context(), u.Name)
	kind(t, err, hub.NotFound)
	got, err := s.BindUser(t.Context(), u)
	ok(t, err)
	same(t, got, u)
	got, err = s.User(t.Context(), u.Name)
	ok(t, err)
	same(t, got, u)
	_, err = s.User(t.Context(), name("alice"))
	kind(t, err, hub.NotFound)
}

func userBoundAgain(t *testing.T, s hub.UserStore) {
	u := madeUser("alice")
	_, err := s.BindUser(t.Context(), u)
	ok(t, err)
	next := u
	next.ID, next.Created = "another", u.Created.Add(time.Hour)
	next.DisplayName, next.Email, next.EmailVerified, next.Groups, next.Admin = "New", "", false, nil, true
	next.Provider, next.GroupsAt, next.LastSeen = "renamed", u.GroupsAt.Add(time.Hour), u.LastSeen.Add(time.Hour)
	got, err := s.BindUser(t.Context(), next)
	ok(t, err)
	want := next
	want.ID, want.Created = u.ID, u.Created
	same(t, got, want)
	got, err = s.User(t.Context(), u.Name)
	ok(t, err)
	same(t, got, want)
}

func userTaken(t *testing.T, s hub.UserStore) {
	u := madeUser("alice")
	_, err := s.BindUser(t.Context(), u)
	ok(t, err)
	for _, id := range []hub.Identity{{Issuer: u.Identity.Issuer, Subject: "other"}, {Issuer: "https://other.example.org", Subject: u.Identity.Subject}, {}} {
		other := u
		other.Identity, other.DisplayName = id, "impostor"
		_, err = s.BindUser(t.Context(), other)
		kind(t, err, hub.Conflict)
	}
	got, err := s.User(t.Context(), u.Name)
	ok(t, err)
	same(t, got, u)
}

func userCopies(t *testing.T, s hub.UserStore) {
	u := madeUser("alice")
	want := asJSON(t, u)
	bound, err := s.BindUser(t.Context(), u)
	ok(t, err)
	u.Groups[0] = "changed"
	if asJSON(t, bound) != want {
		t.Error("the bound record shares its groups with what was given")
	}
	bound.Groups[0] = "changed"
	for range 2 {
		got, err := s.User(t.Context(), u.Name)
		ok(t, err)
		if g := asJSON(t, got); g != want {
			t.Fatalf("got  %s\nwant %s", g, want)
		}
		got.Groups[0] = "changed"
	}
}

func userRace(t *testing.T, s hub.UserStore) {
	for i := range 20 {
		var winner sync.Map
		race(8, func(n int) {
			u := madeUser(fmt.Sprintf("user-%d", i))
			u.Identity.Subject = strconv.Itoa(n % 2)
			u.ID = hub.UserID(u.Identity.Subject)
			bound, err := s.BindUser(t.Context(), u)
			switch {
			case err == nil && bound.ID != u.ID:
				t.Errorf("%s was given the record of %s", u.ID, bound.ID)
			case err == nil:
				winner.Store(u.ID, true)
			case hub.KindOf(err) != hub.Conflict:
				t.Error(err)
			}
		})
		n := 0
		winner.Range(func(any, any) bool { n++; return true })
		if n != 1 {
			t.Fatalf("%d identities have the name", n)
		}
	}
}

func userCrowd(t *testing.T, s hub.UserStore) {
	var failed atomic.Int32
	race(60, func(n int) {
		u := madeUser("alice")
		u.DisplayName = strconv.Itoa(n)
		if _, err := s.BindUser(t.Context(), u); err != nil {
			failed.Add(1)
			t.Log(err)
		}
	})
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of 60 failed", n)
	}
}

func userRebound(t *testing.T, s hub.UserStore) {
	u := madeUser("alice")
	_, err := s.BindUser(t.Context(), u)
	ok(t, err)
	next := madeUser("alice")
	next.ID, next.Identity = "another", hub.Identity{Issuer: "https://other.example.org", Subject: "other"}
	ok(t, s.Rebind(t.Context(), next))
	got, err := s.User(t.Context(), u.Name)
	ok(t, err)
	same(t, got, next)
	_, err = s.BindUser(t.Context(), u)
	kind(t, err, hub.Conflict)
	_, err = s.BindUser(t.Context(), next)
	ok(t, err)

	unseen := madeUser("bob")
	ok(t, s.Rebind(t.Context(), unseen))
	same(t, all(t, s.Users(t.Context())), []hub.User{next, unseen})
}

func userDeleted(t *testing.T, s hub.UserStore) {
	u := madeUser("alice")
	ok(t, s.DeleteUser(t.Context(), u.Name))
	_, err := s.BindUser(t.Context(), u)
	ok(t, err)
	for range 2 {
		ok(t, s.DeleteUser(t.Context(), u.Name))
		_, err = s.User(t.Context(), u.Name)
		kind(t, err, hub.NotFound)
	}
	if list := all(t, s.Users(t.Context())); len(list) > 0 {
		t.Errorf("listed still: %v", list)
	}
	other := madeUser("alice")
	other.ID, other.Identity.Subject = "other", "other"
	got, err := s.BindUser(t.Context(), other)
	ok(t, err)
	same(t, got, other)
}

func usersListed(t *testing.T, s hub.UserStore) {
	want := []string{"a", "a+b", "a-b", "a.b", "a@b", "a_b", "ab", "0", "z"}
	for i := range 430 {
		want = append(want, fmt.Sprintf("user-%03d", i))
	}
	for i := range want {
		_, err := s.BindUser(t.Context(), madeUser(want[(i*7)%len(want)]))
		ok(t, err)
	}
	slices.Sort(want)
	var got []string
	for _, u := range all(t, s.Users(t.Context())) {
		got = append(got, u.Name.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %d names, want %d, in order: %v", len(got), len(want), slices.IsSorted(got))
	}
	stopsEarly(t, s.Users(t.Context()))
}

func madeToken(user, id string) hub.Token {
	now := time.Now().Round(0)
	return hub.Token{
		ID: id, Hash: hub.NewSecret(user + id).Hash(), User: name(user), UserID: hub.UserID("u-" + user), Note: `for "tests"`,
		Scopes: []hub.Scope{hub.ScopeSelf, "access:servers!server=alice/"}, Created: now, Expires: now.Add(time.Hour),
	}
}

// Tokens tests that a store keeps the contract of [hub.TokenStore].
func Tokens(t *testing.T, open func(testing.TB) hub.TokenStore) {
	runAll(t, open, []testCase[hub.TokenStore]{
		{"a token is found as it was made", tokenFound},
		{"values are copies", tokenCopies},
		{"it ends", tokenEnds},
		{"one that is over is not made", tokenOver},
		{"ids and secrets are one token's", tokenTwice},
		{"it is revoked by its owner's name and its id", tokenDeleted},
		{"it is revoked once", tokenDeleteRace},
		{"a person's own are listed", tokensListed},
	})
}

func tokenFound(t *testing.T, s hub.TokenStore) {
	x := madeToken("alice", "one")
	_, err := s.Token(t.Context(), x.Hash)
	kind(t, err, hub.NotFound)
	endless := madeToken("alice", "two")
	endless.Expires = time.Time{}
	for _, x := range []hub.Token{x, endless} {
		ok(t, s.CreateToken(t.Context(), x))
		got, err := s.Token(t.Context(), x.Hash)
		ok(t, err)
		same(t, got, x)
	}
}

func tokenCopies(t *testing.T, s hub.TokenStore) {
	x := madeToken("alice", "one")
	want := asJSON(t, x)
	ok(t, s.CreateToken(t.Context(), x))
	x.Scopes[0] = hub.ScopeAdminUsers
	for range 2 {
		got, err := s.Token(t.Context(), x.Hash)
		ok(t, err)
		if g := asJSON(t, got); g != want {
			t.Fatalf("got  %s\nwant %s", g, want)
		}
		got.Scopes[0] = hub.ScopeAdminUsers
		for _, listed := range all(t, s.Tokens(t.Context(), x.User)) {
			listed.Scopes[0] = hub.ScopeAdminUsers
		}
	}
}

func tokenEnds(t *testing.T, s hub.TokenStore) {
	x := madeToken("alice", "one")
	x.Expires = time.Now().Add(600 * time.Millisecond)
	ok(t, s.CreateToken(t.Context(), x))
	endsAt(t, "the token", x.Expires, func() error {
		_, err := s.Token(t.Context(), x.Hash)
		return err
	})
	if list := all(t, s.Tokens(t.Context(), x.User)); len(list) > 0 {
		t.Errorf("listed still: %v", list)
	}
	kind(t, s.DeleteToken(t.Context(), x.User, x.ID), hub.NotFound)
}

func tokenOver(t *testing.T, s hub.TokenStore) {
	x := madeToken("alice", "one")
	x.Expires = time.Now().Add(-time.Second)
	kind(t, s.CreateToken(t.Context(), x), hub.Invalid)
	if list := all(t, s.Tokens(t.Context(), x.User)); len(list) > 0 {
		t.Errorf("listed: %v", list)
	}
}

// tokenTwice: a token whose id was taken over by another could never be revoked.
func tokenTwice(t *testing.T, s hub.TokenStore) {
	x := madeToken("alice", "one")
	ok(t, s.CreateToken(t.Context(), x))
	sameID := madeToken("alice", "one")
	sameID.Hash = hub.RandomSecret().Hash()
	kind(t, s.CreateToken(t.Context(), sameID), hub.Conflict)
	_, err := s.Token(t.Context(), sameID.Hash)
	kind(t, err, hub.NotFound)
	sameHash := madeToken("bob", "two")
	sameHash.Hash = x.Hash
	kind(t, s.CreateToken(t.Context(), sameHash), hub.Conflict)
	got, err := s.Token(t.Context(), x.Hash)
	ok(t, err)
	same(t, got, x)
	same(t, all(t, s.Tokens(t.Context(), name("bob"))), []hub.Token(nil))
	ok(t, s.CreateToken(t.Context(), madeToken("bob", "one")))
}

func tokenDeleted(t *testing.T, s hub.TokenStore) {
	x, y, bobs := madeToken("alice", "one"), madeToken("alice", "two"), madeToken("bob", "one")
	for _, x := range []hub.Token{x, y, bobs} {
		ok(t, s.CreateToken(t.Context(), x))
	}
	kind(t, s.DeleteToken(t.Context(), name("alice"), "three"), hub.NotFound)
	kind(t, s.DeleteToken(t.Context(), name("carol"), "one"), hub.NotFound)
	ok(t, s.DeleteToken(t.Context(), name("alice"), "one"))
	_, err := s.Token(t.Context(), x.Hash)
	kind(t, err, hub.NotFound)
	kind(t, s.DeleteToken(t.Context(), name("alice"), "one"), hub.NotFound)
	same(t, all(t, s.Tokens(t.Context(), name("alice"))), []hub.Token{y})
	same(t, all(t, s.Tokens(t.Context(), name("bob"))), []hub.Token{bobs})
	ok(t, s.CreateToken(t.Context(), x)) // the id is free again
}

func tokenDeleteRace(t *testing.T, s hub.TokenStore) {
	for range 20 {
		ok(t, s.CreateToken(t.Context(), madeToken("alice", "one")))
		var n atomic.Int32
		race(4, func(int) {
			err := s.DeleteToken(t.Context(), name("alice"), "one")
			switch {
			case err == nil:
				n.Add(1)
			case hub.KindOf(err) != hub.NotFound:
				t.Error(err)
			}
		})
		if n.Load() != 1 {
			t.Fatalf("%d revoked it", n.Load())
		}
	}
}

func tokensListed(t *testing.T, s hub.TokenStore) {
	same(t, all(t, s.Tokens(t.Context(), name("alice"))), []hub.Token(nil))
	want := map[string]string{}
	for i := range 250 {
		x := madeToken("alice", strconv.Itoa(i))
		if i%3 == 0 {
			x.Expires = time.Time{}
		}
		ok(t, s.CreateToken(t.Context(), x))
		want[x.ID] = asJSON(t, x)
	}
	ok(t, s.CreateToken(t.Context(), madeToken("bob", "his")))
	for _, x := range all(t, s.Tokens(t.Context(), name("alice"))) {
		if want[x.ID] != asJSON(t, x) {
			t.Errorf("listed %s, want %s", asJSON(t, x), want[x.ID])
		}
		delete(want, x.ID)
	}
	if len(want) > 0 {
		t.Errorf("%d are not listed", len(want))
	}
	stopsEarly(t, s.Tokens(t.Context(), name("alice")))
}
