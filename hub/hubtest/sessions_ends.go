package hubtest

import (
	"slices"
	"testing"
	"time"

	"carrel/hub"
)

func childrenEnd(t *testing.T, s SessionStore) {
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
		_, err = s.Session(t.Context(), c.Hash)
		ok(t, err)
	}
}

func childEndsAlone(t *testing.T, s SessionStore) {
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

func childOrphan(t *testing.T, s SessionStore) {
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
func childOutlives(t *testing.T, s SessionStore) {
	x := madeSession("alice")
	x.Idle = 700 * time.Millisecond
	ok(t, s.CreateSession(t.Context(), x))
	c := madeChild(x, "alice.example.org")
	c.Idle = time.Hour // says it itself
	ok(t, s.CreateSession(t.Context(), c))
	endsAt(t, "the child", x.LastSeen.Add(x.Idle), func() error {
		_, err := s.Session(t.Context(), c.Hash)
		return err
	})
	over(t, s, x.Hash)
	late := madeChild(x, "alice.example.org")
	late.Idle = 0
	kind(t, s.CreateSession(t.Context(), late), hub.Unauthenticated)
}

// childAsParent: who can make a notebook host's session, as proxies can, makes nobody anything that
// they are not, and what they are is as it is now.
func childAsParent(t *testing.T, s SessionStore) {
	x := madeSession("alice")
	x.Admin = false
	ok(t, s.CreateSession(t.Context(), x))
	c := madeChild(x, "alice.example.org")
	forged := c
	forged.User, forged.UserID, forged.Admin, forged.Groups = name("root"), "u-root", true, []string{"admins"}
	forged.LastSeen, forged.Expires, forged.Idle = x.LastSeen.Add(time.Hour), x.Expires.Add(time.Hour), 0
	ok(t, s.CreateSession(t.Context(), forged))
	find := func() hub.Session {
		got, err := s.Session(t.Context(), c.Hash)
		ok(t, err)
		return got
	}
	same(t, find(), c)
	kind(t, s.UpdateSession(t.Context(), c.Hash, func(x *hub.Session) { x.Admin = true }), hub.NotFound)
	kind(t, s.TouchSession(t.Context(), c.Hash, time.Now()), hub.NotFound)

	at := x.LastSeen.Truncate(time.Microsecond).Add(time.Minute)
	ok(t, s.TouchSession(t.Context(), x.Hash, at))
	ok(t, s.UpdateSession(t.Context(), x.Hash, func(x *hub.Session) { x.Groups, x.Admin = []string{"new"}, true }))
	c.LastSeen, c.Groups, c.Admin = at, []string{"new"}, true
	same(t, find(), c)

	grandchild := madeChild(c, "alice.example.org") // a notebook host's session is nobody's parent
	kind(t, s.CreateSession(t.Context(), grandchild), hub.Unauthenticated)
	bare := madeChild(x, "")
	_ = s.CreateSession(t.Context(), bare) // refused or not, it must not pass for a hub session
	_, err := s.Session(t.Context(), bare.Hash)
	kind(t, err, hub.NotFound)
}

func childRace(t *testing.T, s SessionStore) {
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

func tombSubject(t *testing.T, s SessionStore) {
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

func tombSID(t *testing.T, s SessionStore) {
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

// tombNameless: some providers name the session at sign-out, and at sign-in do not.
func tombNameless(t *testing.T, s SessionStore) {
	before := time.Now().Add(-time.Minute)
	nameless := func(user string, at time.Time) hub.Session {
		x := begun(user, at)
		x.SID = ""
		return x
	}
	x, named, bob := nameless("alice", before), begun("alice", before), nameless("bob", before)
	for _, x := range []hub.Session{x, named, bob} {
		ok(t, s.CreateSession(t.Context(), x))
	}
	ended, err := s.EndSessions(t.Context(), hub.SessionQuery{Identity: hub.Identity{Issuer: x.Identity.Issuer}, SID: "unknown"})
	ok(t, err)
	if len(ended) > 0 {
		t.Errorf("%v were ended by a sid alone", ended)
	}
	ended, err = s.EndSessions(t.Context(), hub.SessionQuery{Identity: x.Identity, SID: "unknown"})
	ok(t, err)
	same(t, ended, []hub.SecretHash{x.Hash})
	after := time.Now().Add(10 * time.Millisecond)
	kind(t, s.CreateSession(t.Context(), nameless("alice", before)), hub.Unauthenticated)
	ok(t, s.CreateSession(t.Context(), begun("alice", before))) // it has a sid, and another one
	ok(t, s.CreateSession(t.Context(), nameless("bob", before)))
	ok(t, s.CreateSession(t.Context(), nameless("alice", after)))
}

func tombOthers(t *testing.T, s SessionStore) {
	x := begun("alice", time.Now().Add(-time.Minute))
	for _, q := range []hub.SessionQuery{{User: x.User}, {Hash: x.Hash}} {
		_, err := s.EndSessions(t.Context(), q)
		ok(t, err)
	}
	ok(t, s.CreateSession(t.Context(), x))
}

func tombRace(t *testing.T, s SessionStore) {
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
