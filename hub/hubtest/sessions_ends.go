package hubtest

import (
	"slices"
	"testing"
	"time"

	"carrel/hub"
)

func childrenEnd(t *testing.T, s hub.SessionStore) {
	for by, query := range map[string]func(hub.Session) hub.SessionQuery{
		"hash":     func(x hub.Session) hub.SessionQuery { return hub.SessionQuery{Hash: x.Hash} },
		"user":     func(x hub.Session) hub.SessionQuery { return hub.SessionQuery{User: x.User} },
		"identity": func(x hub.Session) hub.SessionQuery { return hub.SessionQuery{Identity: x.Identity} },
		"sid":      func(x hub.Session) hub.SessionQuery { return hub.SessionQuery{Identity: x.Identity, SID: x.SID} },
	} {
		eventually(t, "the clock moves past the tombstones", pastNow())
		x, other := madeSession("alice"), madeSession("bob")
		ok(t, s.CreateSession(t.Context(), x))
		ok(t, s.CreateSession(t.Context(), other))
		a, b, c := madeChild(x, "alice.example.org"), madeChild(x, "bob.example.org"), madeChild(other, "bob.example.org")
		for _, child := range []hub.Session{a, b, c} {
			ok(t, s.CreateSession(t.Context(), child))
			got, err := s.Session(t.Context(), child.Hash)
			ok(t, err)
			same(t, got, child)
		}
		ended, err := s.EndSessions(t.Context(), query(x))
		ok(t, err)
		want := []hub.SecretHash{x.Hash, a.Hash, b.Hash}
		slices.Sort(want)
		slices.Sort(ended)
		if !slices.Equal(ended, want) {
			t.Errorf("by %s: ended %v, want %v", by, ended, want)
		}
		for _, h := range want {
			_, err := s.Session(t.Context(), h)
			kind(t, err, hub.NotFound)
		}
		kind(t, s.UpdateSession(t.Context(), a), hub.NotFound)
		_, err = s.Session(t.Context(), c.Hash)
		ok(t, err)
	}
}

func childEndsAlone(t *testing.T, s hub.SessionStore) {
	x := madeSession("alice")
	ok(t, s.CreateSession(t.Context(), x))
	a, b := madeChild(x, "alice.example.org"), madeChild(x, "bob.example.org")
	ok(t, s.CreateSession(t.Context(), a))
	ok(t, s.CreateSession(t.Context(), b))
	ended, err := s.EndSessions(t.Context(), hub.SessionQuery{Hash: a.Hash})
	ok(t, err)
	same(t, ended, []hub.SecretHash{a.Hash})
	_, err = s.Session(t.Context(), a.Hash)
	kind(t, err, hub.NotFound)
	for _, h := range []hub.SecretHash{x.Hash, b.Hash} {
		_, err := s.Session(t.Context(), h)
		ok(t, err)
	}
}

func childOrphan(t *testing.T, s hub.SessionStore) {
	x := madeSession("alice")
	kind(t, s.CreateSession(t.Context(), madeChild(x, "alice.example.org")), hub.Unauthenticated)
	ok(t, s.CreateSession(t.Context(), x))
	_, err := s.EndSessions(t.Context(), hub.SessionQuery{Hash: x.Hash})
	ok(t, err)
	c := madeChild(x, "alice.example.org")
	kind(t, s.CreateSession(t.Context(), c), hub.Unauthenticated)
	_, err = s.Session(t.Context(), c.Hash)
	kind(t, err, hub.NotFound)
}

// childOutlives: both are written when either is used, but one of the writes can fail.
func childOutlives(t *testing.T, s hub.SessionStore) {
	x := madeSession("alice")
	x.Idle = 700 * time.Millisecond
	ok(t, s.CreateSession(t.Context(), x))
	c := madeChild(x, "alice.example.org")
	c.Idle = time.Hour
	ok(t, s.CreateSession(t.Context(), c))
	endsAt(t, "the child", x.LastSeen.Add(x.Idle), func() error {
		_, err := s.Session(t.Context(), c.Hash)
		return err
	})
	c.LastSeen = time.Now()
	kind(t, s.UpdateSession(t.Context(), c), hub.NotFound)
}

func childRace(t *testing.T, s hub.SessionStore) {
	for range 20 {
		x := madeSession("alice")
		ok(t, s.CreateSession(t.Context(), x))
		children := make([]hub.Session, 4)
		for i := range children {
			children[i] = madeChild(x, "alice.example.org")
		}
		race(len(children)+1, func(i int) {
			if i == len(children) {
				if _, err := s.EndSessions(t.Context(), hub.SessionQuery{Hash: x.Hash}); err != nil {
					t.Error(err)
				}
				return
			}
			if err := s.CreateSession(t.Context(), children[i]); err != nil && hub.KindOf(err) != hub.Unauthenticated {
				t.Error(err)
			}
		})
		for _, c := range children {
			if _, err := s.Session(t.Context(), c.Hash); err == nil {
				t.Fatal("a child outlived its parent")
			}
		}
	}
}

// begun is a sign-in of the person that began at a time.
func begun(user string, at time.Time) hub.Session {
	x := madeSession(user)
	x.Created = at
	return x
}

func tombSubject(t *testing.T, s hub.SessionStore) {
	before := time.Now().Add(-time.Minute)
	x := begun("alice", before)
	ended, err := s.EndSessions(t.Context(), hub.SessionQuery{Identity: x.Identity}) // nothing matches yet
	ok(t, err)
	if len(ended) != 0 {
		t.Errorf("%v were ended", ended)
	}
	after := time.Now().Add(10 * time.Millisecond)
	kind(t, s.CreateSession(t.Context(), x), hub.Unauthenticated)
	_, err = s.Session(t.Context(), x.Hash)
	kind(t, err, hub.NotFound)

	other := begun("alice", before)
	other.Identity.Issuer = "https://other.example.org"
	ok(t, s.CreateSession(t.Context(), other))
	ok(t, s.CreateSession(t.Context(), begun("bob", before)))
	ok(t, s.CreateSession(t.Context(), begun("alice", after)))
	kind(t, s.CreateSession(t.Context(), begun("alice", before)), hub.Unauthenticated)
}

func tombSID(t *testing.T, s hub.SessionStore) {
	before := time.Now().Add(-time.Minute)
	x := begun("alice", before)
	_, err := s.EndSessions(t.Context(), hub.SessionQuery{Identity: hub.Identity{Issuer: x.Identity.Issuer}, SID: x.SID})
	ok(t, err)
	after := time.Now().Add(10 * time.Millisecond)
	kind(t, s.CreateSession(t.Context(), x), hub.Unauthenticated)
	ok(t, s.CreateSession(t.Context(), begun("alice", before))) // another browser, another sid
	elsewhere := x
	elsewhere.Identity.Issuer = "https://other.example.org"
	ok(t, s.CreateSession(t.Context(), elsewhere))
	again := begun("alice", after)
	again.SID = x.SID
	ok(t, s.CreateSession(t.Context(), again))

	y := begun("bob", before)
	_, err = s.EndSessions(t.Context(), hub.SessionQuery{Identity: y.Identity, SID: y.SID})
	ok(t, err)
	kind(t, s.CreateSession(t.Context(), y), hub.Unauthenticated)
	ok(t, s.CreateSession(t.Context(), begun("bob", before))) // another browser of the same person stays
}

func tombOthers(t *testing.T, s hub.SessionStore) {
	x := begun("alice", time.Now().Add(-time.Minute))
	for _, q := range []hub.SessionQuery{{User: x.User}, {Hash: x.Hash}} {
		_, err := s.EndSessions(t.Context(), q)
		ok(t, err)
	}
	ok(t, s.CreateSession(t.Context(), x))
}

func tombRace(t *testing.T, s hub.SessionStore) {
	for i := range 30 {
		x := begun("alice", time.Now())
		q := hub.SessionQuery{Identity: x.Identity}
		if i%2 == 1 {
			q.SID = x.SID
		}
		race(2, func(n int) {
			if n == 0 {
				if _, err := s.EndSessions(t.Context(), q); err != nil {
					t.Error(err)
				}
				return
			}
			if err := s.CreateSession(t.Context(), x); err != nil && hub.KindOf(err) != hub.Unauthenticated {
				t.Error(err)
			}
		})
		if _, err := s.Session(t.Context(), x.Hash); err == nil {
			t.Fatalf("round %d: a session outlived its logout", i)
		}
		eventually(t, "the clock moves past the tombstone", pastNow())
	}
}
