package hubtest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"carrel/hub"
)

// madeSession is a new session of a person, everything filled in.
func madeSession(user string) hub.Session {
	now := time.Now().Round(0)
	return hub.Session{
		Hash: hub.RandomSecret().Hash(), User: name(user), UserID: hub.UserID("u-" + user), Admin: true, Groups: []string{"staff", "a,b"},
		Provider: "institute", Identity: hub.Identity{Issuer: "https://login.example.org", Subject: user}, SID: "sid-" + string(hub.RandomSecret().Hash()[:8]),
		Created: now, LastSeen: now, Expires: now.Add(time.Hour), Idle: 30 * time.Minute,
		Tokens: []byte("sealed"), From: "192.0.2.1", Agent: `a "browser"\`,
	}
}

func madeChild(parent hub.Session, host string) hub.Session {
	return hub.Session{Hash: hub.RandomSecret().Hash(), Host: host, Created: time.Now().Round(0), Expires: parent.Expires}.Under(parent)
}

// SessionStore is all that a store does with sessions.
type SessionStore interface {
	hub.SessionStore
	hub.SessionUpdater
}

// Sessions tests that a store keeps the contract of [hub.SessionStore] and
// [hub.SessionUpdater].
func Sessions(t *testing.T, open func(testing.TB) SessionStore) {
	runAll(t, open, []testCase[SessionStore]{
		{"a session is found as it was made", sessionFound},
		{"values are copies", sessionCopies},
		{"a session that is over is not made", sessionOver},
		{"it ends at its end", sessionEnds},
		{"it ends when it is not used", sessionIdles},
		{"use keeps it", sessionUsed},
		{"an index outlives the idle time", sessionIndexed},
		{"a use moves the last one forwards", sessionTouched},
		{"an update changes what is kept", sessionUpdated},
		{"nobody who writes undoes another's work", sessionWriters},
		{"an ended one never comes back", sessionStaysEnded},
		{"queries end what matches and nothing else", sessionQueries},
		{"a query that names nothing ends nothing", sessionQueryEmpty},
		{"ending again ends nothing", sessionEndedTwice},
		{"each is ended once, whoever ends it", sessionEndRace},
		{"every live one is listed", sessionsListed},
	})
	runAll(t, open, []testCase[SessionStore]{
		{"children end with their parent", childrenEnd},
		{"a child is as its parent stands", childAsParent},
		{"a child ends alone", childEndsAlone},
		{"a child needs a parent", childOrphan},
		{"a child ends when its parent does by itself", childOutlives},
		{"no child is made while its parent ends", childRace},
		{"a logout by subject refuses sign-ins begun before it", tombSubject},
		{"a logout by session refuses sign-ins begun before it", tombSID},
		{"a logout by session and subject refuses and ends what has no session", tombNameless},
		{"only a query by identity leaves a tombstone", tombOthers},
		{"no session is made while its identity is logged out", tombRace},
	})
}

func sessionFound(t *testing.T, s SessionStore) {
	x := madeSession("alice")
	_, err := s.Session(t.Context(), x.Hash)
	kind(t, err, hub.NotFound)
	ok(t, s.CreateSession(t.Context(), x))
	got, err := s.Session(t.Context(), x.Hash)
	ok(t, err)
	same(t, got, x)
	least := hub.Session{Hash: hub.RandomSecret().Hash(), User: name("bob"), Expires: time.Now().Add(time.Hour).Round(0)}
	ok(t, s.CreateSession(t.Context(), least))
	got, err = s.Session(t.Context(), least.Hash)
	ok(t, err)
	same(t, got, least)
	_, err = s.Session(t.Context(), "")
	kind(t, err, hub.NotFound)
}

func sessionCopies(t *testing.T, s SessionStore) {
	x := madeSession("alice")
	want := asJSON(t, x)
	ok(t, s.CreateSession(t.Context(), x))
	x.Groups[0], x.Tokens[0] = "changed", 'X'
	for range 2 {
		got, err := s.Session(t.Context(), x.Hash)
		ok(t, err)
		if g := asJSON(t, got); g != want {
			t.Fatalf("got  %s\nwant %s", g, want)
		}
		got.Groups[0], got.Tokens[0] = "changed", 'X'
	}
	mine := []string{"staff"}
	ok(t, s.UpdateSession(t.Context(), x.Hash, func(x *hub.Session) { x.Groups, x.Tokens[0] = mine, 'n' }))
	mine[0] = "changed"
	got, err := s.Session(t.Context(), x.Hash)
	ok(t, err)
	if got.Groups[0] != "staff" || string(got.Tokens) != "nealed" {
		t.Fatalf("after an update: %v, %s", got.Groups, got.Tokens)
	}
}

func sessionOver(t *testing.T, s SessionStore) {
	x := madeSession("alice")
	x.Expires = time.Now().Add(-time.Second)
	kind(t, s.CreateSession(t.Context(), x), hub.Unauthenticated)
	x.Expires, x.LastSeen = time.Now().Add(time.Hour), time.Now().Add(-x.Idle)
	kind(t, s.CreateSession(t.Context(), x), hub.Unauthenticated)
	_, err := s.Session(t.Context(), x.Hash)
	kind(t, err, hub.NotFound)
}

func sessionEnds(t *testing.T, s SessionStore) {
	x := madeSession("alice")
	x.Expires = time.Now().Add(700 * time.Millisecond)
	ok(t, s.CreateSession(t.Context(), x))
	ok(t, s.TouchSession(t.Context(), x.Hash, time.Now().Add(time.Minute))) // use does not move the end
	endsAt(t, "the session", x.Expires, func() error {
		_, err := s.Session(t.Context(), x.Hash)
		return err
	})
	if list := all(t, s.Sessions(t.Context())); len(list) > 0 {
		t.Errorf("it is listed still: %v", list)
	}
	over(t, s, x.Hash)
	ended, err := s.EndSessions(t.Context(), hub.SessionQuery{User: x.User})
	ok(t, err)
	if len(ended) > 0 {
		t.Errorf("%v were ended, which were over", ended)
	}
}

func sessionIdles(t *testing.T, s SessionStore) {
	x := madeSession("alice")
	x.Idle = 700 * time.Millisecond
	ok(t, s.CreateSession(t.Context(), x))
	endsAt(t, "the session", x.LastSeen.Add(x.Idle), func() error {
		_, err := s.Session(t.Context(), x.Hash)
		return err
	})
	for _, q := range []hub.SessionQuery{{User: x.User}, {Identity: x.Identity}, {Hash: x.Hash}} {
		ended, err := s.EndSessions(t.Context(), q)
		ok(t, err)
		if len(ended) > 0 {
			t.Errorf("%v were ended, which were over", ended)
		}
	}
	if list := all(t, s.Sessions(t.Context())); len(list) > 0 {
		t.Errorf("it is listed still: %v", list)
	}
	over(t, s, x.Hash)
}

func sessionUsed(t *testing.T, s SessionStore) {
	x := madeSession("alice")
	x.Idle = 3 * time.Second // a busy machine may take long over the next lines
	ok(t, s.CreateSession(t.Context(), x))
	unused := x.LastSeen.Add(x.Idle)
	ok(t, s.TouchSession(t.Context(), x.Hash, x.LastSeen.Add(time.Minute)))
	ok(t, s.TouchSession(t.Context(), x.Hash, x.LastSeen)) // moves nothing back
	eventually(t, "time passes", func() bool { return time.Now().After(unused.Add(200 * time.Millisecond)) })
	_, err := s.Session(t.Context(), x.Hash)
	ok(t, err)
}

// sessionIndexed: a session that is used lives on past the idle time that it began with, and so must
// what finds it. Sign-out by provider or administrator would miss it otherwise.
func sessionIndexed(t *testing.T, s SessionStore) {
	x := madeSession("alice")
	x.Idle = 3 * time.Second
	ok(t, s.CreateSession(t.Context(), x))
	ok(t, s.TouchSession(t.Context(), x.Hash, x.LastSeen.Add(time.Minute)))
	long := x.Created.Add(x.Idle + 1500*time.Millisecond)
	eventually(t, "time passes", func() bool { return time.Now().After(long) })
	if list := all(t, s.Sessions(t.Context())); len(list) != 1 {
		t.Errorf("%d are listed, want 1", len(list))
	}
	ended, err := s.EndSessions(t.Context(), hub.SessionQuery{Identity: x.Identity})
	ok(t, err)
	same(t, ended, []hub.SecretHash{x.Hash})
}

// population is five sessions, by name.
func population(t *testing.T, s SessionStore) map[string]hub.Session {
	t.Helper()
	people := map[string]hub.Session{}
	for _, who := range []string{"alice", "alice again", "alice elsewhere", "bob", "eve"} {
		x := madeSession(who[:min(len(who), 5)])
		people[who] = x
	}
	elsewhere := people["alice elsewhere"] // the same subject and sid at another provider
	elsewhere.Identity.Issuer, elsewhere.SID = "https://other.example.org", people["alice"].SID
	people["alice elsewhere"] = elsewhere
	eve := people["eve"] // a name of her own and alice's account
	eve.Identity = people["alice"].Identity
	people["eve"] = eve
	for _, x := range people {
		ok(t, s.CreateSession(t.Context(), x))
	}
	return people
}

func sessionQueries(t *testing.T, s SessionStore) {
	for _, c := range []struct {
		name  string
		query func(p map[string]hub.Session) hub.SessionQuery
		ends  []string
	}{
		{"by hash", func(p map[string]hub.Session) hub.SessionQuery { return hub.SessionQuery{Hash: p["alice"].Hash} }, []string{"alice"}},
		{"by an unknown hash", func(map[string]hub.Session) hub.SessionQuery {
			return hub.SessionQuery{Hash: hub.RandomSecret().Hash()}
		}, nil},
		{"by user", func(p map[string]hub.Session) hub.SessionQuery { return hub.SessionQuery{User: p["alice"].User} }, []string{"alice", "alice again", "alice elsewhere"}},
		{"by user but one", func(p map[string]hub.Session) hub.SessionQuery {
			return hub.SessionQuery{User: p["alice"].User, Except: p["alice"].Hash}
		}, []string{"alice again", "alice elsewhere"}},
		{"by identity", func(p map[string]hub.Session) hub.SessionQuery {
			return hub.SessionQuery{Identity: p["alice"].Identity}
		}, []string{"alice", "alice again", "eve"}},
		{"by session", func(p map[string]hub.Session) hub.SessionQuery {
			return hub.SessionQuery{Identity: hub.Identity{Issuer: p["alice"].Identity.Issuer}, SID: p["alice"].SID}
		}, []string{"alice"}},
		{"by session and subject", func(p map[string]hub.Session) hub.SessionQuery {
			return hub.SessionQuery{Identity: p["alice"].Identity, SID: p["alice"].SID}
		}, []string{"alice"}},
		{"by session and another's subject", func(p map[string]hub.Session) hub.SessionQuery {
			return hub.SessionQuery{Identity: p["bob"].Identity, SID: p["alice"].SID}
		}, nil},
		{"by user and another's hash", func(p map[string]hub.Session) hub.SessionQuery {
			return hub.SessionQuery{User: p["bob"].User, Hash: p["alice"].Hash}
		}, nil},
		{"by user and identity", func(p map[string]hub.Session) hub.SessionQuery {
			return hub.SessionQuery{User: p["eve"].User, Identity: p["eve"].Identity}
		}, []string{"eve"}},
	} {
		people := population(t, s)
		ended, err := s.EndSessions(t.Context(), c.query(people))
		ok(t, err)
		for who, x := range people {
			_, err := s.Session(t.Context(), x.Hash)
			if told, want := slices.Contains(ended, x.Hash), slices.Contains(c.ends, who); told != want || (err != nil) != want {
				t.Errorf("%s: %s: told of %v, find: %v, want ended %v", c.name, who, told, err, want)
			}
		}
		if len(ended) != len(c.ends) {
			t.Errorf("%s: %d hashes were returned, want %d", c.name, len(ended), len(c.ends))
		}
		for _, x := range people {
			_, err := s.EndSessions(t.Context(), hub.SessionQuery{Hash: x.Hash})
			ok(t, err)
		}
		eventually(t, "the clock moves past the tombstones", pastNow())
	}
}

// pastNow tells whether a sign-in that begins at the time of the call would be after what happened
// before pastNow was called, for a store that counts milliseconds.
func pastNow() func() bool {
	now := time.Now()
	return func() bool { return time.Since(now) > 5*time.Millisecond }
}

func sessionQueryEmpty(t *testing.T, s SessionStore) {
	x := madeSession("alice")
	ok(t, s.CreateSession(t.Context(), x))
	for _, q := range []hub.SessionQuery{{}, {Except: "x"}, {Identity: hub.Identity{Issuer: x.Identity.Issuer}}} {
		if ended, err := s.EndSessions(t.Context(), q); err == nil || len(ended) > 0 {
			t.Errorf("%+v: ended %v, %v", q, ended, err)
		}
	}
	_, err := s.Session(t.Context(), x.Hash)
	ok(t, err)
}

func sessionEndedTwice(t *testing.T, s SessionStore) {
	x := madeSession("alice")
	ok(t, s.CreateSession(t.Context(), x))
	for i, want := range []int{1, 0} {
		ended, err := s.EndSessions(t.Context(), hub.SessionQuery{User: x.User})
		ok(t, err)
		if len(ended) != want {
			t.Errorf("call %d ended %v, want %d", i, ended, want)
		}
	}
}

func sessionEndRace(t *testing.T, s SessionStore) {
	for range 10 {
		var mu sync.Mutex
		times := map[hub.SecretHash]int{}
		for range 5 {
			x := madeSession("alice")
			ok(t, s.CreateSession(t.Context(), x))
			c := madeChild(x, "alice.example.org")
			ok(t, s.CreateSession(t.Context(), c))
			times[x.Hash], times[c.Hash] = 0, 0
		}
		race(4, func(int) {
			ended, err := s.EndSessions(t.Context(), hub.SessionQuery{User: name("alice")})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, h := range ended {
				times[h]++
			}
		})
		for h, n := range times {
			if n != 1 {
				t.Fatalf("%s was ended %d times", h, n)
			}
		}
	}
}

func sessionsListed(t *testing.T, s SessionStore) {
	var want []string
	for i := range 450 { // more than a page of any store
		x := madeSession(fmt.Sprintf("user-%d", i%7))
		ok(t, s.CreateSession(t.Context(), x))
		if i%10 == 0 {
			_, err := s.EndSessions(t.Context(), hub.SessionQuery{Hash: x.Hash})
			ok(t, err)
			continue
		}
		want = append(want, string(x.Hash))
	}
	var got []string
	for _, x := range all(t, s.Sessions(t.Context())) {
		got = append(got, string(x.Hash))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d sessions are listed, want %d", len(got), len(want))
	}
	stopsEarly(t, s.Sessions(t.Context()))
}
