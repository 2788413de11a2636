package redisstore

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"carrel/hub"
)

// TestIndexesForgetWhatIsOver: a person who signs in every day for years leaves no trail of it.
func TestIndexesForgetWhatIsOver(t *testing.T) {
	r := startMini(t)
	s := openStore(t, Config{URL: "redis://" + r.Addr()})
	parent := session("alice")
	must(t, s.CreateSession(t.Context(), parent))
	const n = 40
	over := time.Now().Add(4 * time.Second)
	for i := range n {
		x := session("alice")
		x.Expires = over
		must(t, s.CreateSession(t.Context(), x))
		c := session("alice")
		c.Parent, c.Host, c.Expires = parent.Hash, "alice.example.org", over
		must(t, s.CreateSession(t.Context(), c))
		must(t, s.CreateToken(t.Context(), hub.Token{ID: strconv.Itoa(i), Hash: hub.RandomSecret().Hash(), User: parent.User, Expires: over}))
	}
	must(t, s.CreateToken(t.Context(), hub.Token{ID: "endless", Hash: hub.RandomSecret().Hash(), User: parent.User}))
	for time.Now().Before(over.Add(50 * time.Millisecond)) {
		time.Sleep(10 * time.Millisecond)
	}
	const more = 5 // each drops twenty at most, so that none has to wait long
	for i := range more {
		must(t, s.CreateSession(t.Context(), session("alice")))
		c := session("alice")
		c.Parent, c.Host = parent.Hash, "alice.example.org"
		must(t, s.CreateSession(t.Context(), c))
		must(t, s.CreateToken(t.Context(), hub.Token{ID: fmt.Sprint("more", i), Hash: hub.RandomSecret().Hash(), User: parent.User, Expires: time.Now().Add(time.Hour)}))
	}
	for _, key := range r.Keys() {
		var have int
		switch kind := strings.TrimPrefix(key, s.prefix); {
		case kind == "sessions" || strings.HasPrefix(kind, "by-"), strings.HasPrefix(kind, "children:"), strings.HasPrefix(kind, "token-ends:"):
			members, err := r.ZMembers(key)
			must(t, err)
			have = len(members)
		case strings.HasPrefix(kind, "tokens:"):
			fields, err := r.HKeys(key)
			must(t, err)
			if have = len(fields); !slices.Contains(fields, "endless") {
				t.Error("a token without an end was forgotten")
			}
		default:
			continue
		}
		if have > more+1 {
			t.Errorf("%s holds %d members, %d of them over", key, have, have-more-1)
		}
	}
}

// TestIndexesLastAsLongAsWhatTheyFind, whatever order sessions of different lengths come in.
func TestIndexesLastAsLongAsWhatTheyFind(t *testing.T) {
	r := startMini(t)
	s := openStore(t, Config{URL: "redis://" + r.Addr()})
	for _, hours := range []int{1, 24, 2} {
		x := session("alice")
		x.Expires, x.Idle = time.Now().Add(time.Duration(hours)*time.Hour), time.Minute
		must(t, s.CreateSession(t.Context(), x))
	}
	for _, key := range r.Keys() {
		if kind := strings.TrimPrefix(key, s.prefix); kind != "sessions" && !strings.HasPrefix(kind, "by-") {
			continue
		}
		if ttl := r.TTL(key); ttl < 23*time.Hour || ttl > 25*time.Hour {
			t.Errorf("%s ends in %v", key, ttl)
		}
	}
}

// TestSignInDropsSessionsThatWentUnused: a session's record is there until its absolute end, unless
// somebody comes across it. Its person does.
func TestSignInDropsSessionsThatWentUnused(t *testing.T) {
	r := startMini(t)
	s := openStore(t, Config{URL: "redis://" + r.Addr()})
	used := session("alice")
	must(t, s.CreateSession(t.Context(), used))
	var unused []hub.Session
	for range 5 {
		x := session("alice")
		x.Idle = 700 * time.Millisecond
		must(t, s.CreateSession(t.Context(), x))
		unused = append(unused, x)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := 0
		for _, x := range unused {
			if r.Exists(s.key("seen", string(x.Hash))) {
				left++
			}
		}
		if left == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d are in use still", left)
		}
	}
	must(t, s.CreateSession(t.Context(), session("alice")))
	for _, x := range unused {
		if r.Exists(s.sessionKey(x)) {
			t.Errorf("%s is kept", x.Hash)
		}
	}
	if _, err := s.Session(t.Context(), used.Hash); err != nil {
		t.Error(err)
	}
	for _, index := range s.indexes(used) {
		if members, err := r.ZMembers(index); err != nil || len(members) != 2 {
			t.Errorf("%s names %d sessions, want 2: %v", index, len(members), err)
		}
	}
}

func TestListingDropsSessionsThatWentUnused(t *testing.T) {
	r := startMini(t)
	s := openStore(t, Config{URL: "redis://" + r.Addr()})
	x := session("alice")
	x.Idle = 700 * time.Millisecond
	must(t, s.CreateSession(t.Context(), x))
	kept := session("bob")
	must(t, s.CreateSession(t.Context(), kept))
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		n := 0
		for _, err := range s.Sessions(t.Context()) {
			must(t, err)
			n++
		}
		members, err := r.ZMembers(s.key("sessions"))
		must(t, err)
		if n == 1 && len(members) == 1 {
			if r.Exists(s.sessionKey(x)) {
				t.Error("its record is kept")
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d are listed, %d indexed", n, len(members))
		}
	}
}

func TestSchemaOfAnotherRelease(t *testing.T) {
	r := startMini(t)
	s := openStore(t, Config{URL: "redis://" + r.Addr()})
	for range 2 {
		must(t, s.Check(t.Context()))
	}
	must(t, r.Set(s.key("schema"), "99"))
	if err := s.Check(t.Context()); hub.KindOf(err) != hub.Invalid || err == nil {
		t.Errorf("got %v", err)
	}
	r.Close()
	if err := s.Check(t.Context()); hub.KindOf(err) != hub.Unavailable || err == nil {
		t.Errorf("got %v", err)
	}
}

// TestRunsLeaveNoTrail: whoever has a program run every minute for years leaves no trail of it, be it that nobody
// ever lists runs.
func TestRunsLeaveNoTrail(t *testing.T) {
	r := startMini(t)
	s := openStore(t, Config{URL: "redis://" + r.Addr()})
	alice := session("alice").User
	const n = 100
	for i := range n {
		run := hub.Run{ID: hub.RunID(fmt.Sprintf("run%d", i)), Owner: alice, Created: time.Now().Add(time.Duration(i-n) * time.Minute)}
		must(t, s.CreateRun(t.Context(), run, 5*time.Minute))
		must(t, s.UpdateRun(t.Context(), run, time.Millisecond))
	}
	for _, index := range []string{s.key("runs"), s.runsOf(alice)} {
		members, err := r.ZMembers(index)
		must(t, err)
		if len(members) > 11 || !slices.Contains(members, fmt.Sprintf("run%d", n-1)) {
			t.Errorf("%s holds %v", index, members)
		}
		if ttl := r.TTL(index); ttl <= 5*time.Minute || ttl > 10*time.Minute {
			t.Errorf("%s ends in %v", index, ttl)
		}
	}
}
