package hubtest

import (
	"fmt"
	"testing"
	"time"

	"carrel/hub"
)

// over tests that nothing brings a session back.
func over(t *testing.T, s SessionStore, h hub.SecretHash) {
	t.Helper()
	kind(t, s.TouchSession(t.Context(), h, time.Now().Add(time.Minute)), hub.NotFound)
	kind(t, s.UpdateSession(t.Context(), h, func(x *hub.Session) { x.Expires = time.Now().Add(time.Hour) }), hub.NotFound)
	_, err := s.Session(t.Context(), h)
	kind(t, err, hub.NotFound)
}

// sessionTouched: last use is what moves, and nothing else.
func sessionTouched(t *testing.T, s SessionStore) {
	x := madeSession("alice")
	ok(t, s.CreateSession(t.Context(), x))
	for _, c := range []struct{ at, want time.Duration }{{time.Minute, time.Minute}, {time.Second, time.Minute}, {-time.Hour, time.Minute}, {2 * time.Minute, 2 * time.Minute}} {
		begun := x.Created.Truncate(time.Microsecond)
		ok(t, s.TouchSession(t.Context(), x.Hash, begun.Add(c.at)))
		want := x
		want.LastSeen = begun.Add(c.want)
		got, err := s.Session(t.Context(), x.Hash)
		ok(t, err)
		same(t, got, want)
		same(t, all(t, s.Sessions(t.Context())), []hub.Session{want})
	}
	endless := madeSession("bob")
	endless.Idle = 0
	ok(t, s.CreateSession(t.Context(), endless))
	ok(t, s.TouchSession(t.Context(), endless.Hash, time.Now()))
	_, err := s.Session(t.Context(), endless.Hash)
	ok(t, err)
	kind(t, s.TouchSession(t.Context(), hub.RandomSecret().Hash(), time.Now()), hub.NotFound)
}

func sessionUpdated(t *testing.T, s SessionStore) {
	x := madeSession("alice")
	ok(t, s.CreateSession(t.Context(), x))
	ok(t, s.UpdateSession(t.Context(), x.Hash, func(o *hub.Session) {
		same(t, *o, x)
		*o = madeSession("mallory")
		o.Groups, o.Admin, o.Tokens, o.Expires = []string{"other"}, false, []byte("new"), x.Expires.Add(time.Hour)
	}))
	x.Groups, x.Admin, x.Tokens = []string{"other"}, false, []byte("new")
	got, err := s.Session(t.Context(), x.Hash)
	ok(t, err)
	same(t, got, x)
	same(t, all(t, s.Sessions(t.Context())), []hub.Session{x})
	kind(t, s.UpdateSession(t.Context(), hub.RandomSecret().Hash(), func(*hub.Session) { t.Error("nothing is there to change") }), hub.NotFound)
}

// sessionWriters: of many who change a session and many who use it, none undoes what another did. A
// lost refresh token signs a person out.
func sessionWriters(t *testing.T, s SessionStore) {
	x := madeSession("alice")
	x.Groups = nil
	ok(t, s.CreateSession(t.Context(), x))
	last := x.Created.Truncate(time.Microsecond)
	const each = 10
	race(8, func(n int) {
		for i := range each {
			var err error
			if n%2 == 0 {
				group := fmt.Sprint(n, " ", i)
				err = s.UpdateSession(t.Context(), x.Hash, func(x *hub.Session) { x.Groups = append(x.Groups, group) })
			} else {
				err = s.TouchSession(t.Context(), x.Hash, last.Add(time.Duration(n*i)*time.Second))
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
	got, err := s.Session(t.Context(), x.Hash)
	ok(t, err)
	if len(got.Groups) != 4*each {
		t.Errorf("%d of %d changes are left", len(got.Groups), 4*each)
	}
	if used := got.LastSeen.Sub(last); used != 7*(each-1)*time.Second {
		t.Errorf("the last use is %v after the first", used)
	}
}

func sessionStaysEnded(t *testing.T, s SessionStore) {
	for i := range 20 {
		x := madeSession("alice")
		ok(t, s.CreateSession(t.Context(), x))
		race(4, func(n int) {
			if n == 0 {
				if _, err := s.EndSessions(t.Context(), hub.SessionQuery{Hash: x.Hash}); err != nil {
					t.Error(err)
				}
				return
			}
			err := s.TouchSession(t.Context(), x.Hash, time.Now().Add(time.Minute))
			if n == 1 {
				err = s.UpdateSession(t.Context(), x.Hash, func(x *hub.Session) { x.Admin = false })
			}
			if err != nil && hub.KindOf(err) != hub.NotFound {
				t.Error(err)
			}
		})
		if _, err := s.Session(t.Context(), x.Hash); err == nil {
			t.Fatalf("round %d: it came back", i)
		}
		over(t, s, x.Hash)
	}
}
