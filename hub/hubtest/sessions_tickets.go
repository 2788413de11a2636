package hubtest

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"carrel/hub"
)

// TicketSessionStore keeps tickets, and the sessions that they are made from.
type TicketSessionStore interface {
	hub.TicketStore
	hub.SessionStore
}

// Tickets tests that a store keeps the contract of [hub.TicketStore].
func Tickets(t *testing.T, open func(testing.TB) TicketSessionStore) {
	runAll(t, open, []testCase[TicketSessionStore]{
		{"a ticket is taken once", ticketOnce},
		{"one of many takers gets it", ticketRace},
		{"it ends", ticketEnds},
		{"it ends with the session that it was made from", ticketParent},
		{"a ticket without a life is refused", ticketEndless},
		{"the first use is told from the others", onceFirst},
		{"one of many users is the first", onceRace},
		{"a use is forgotten at its end, and not before", onceEnds},
		{"a use without a life is refused", onceEndless},
	})
}

func madeTicket(t *testing.T, s TicketSessionStore) (hub.SecretHash, hub.Ticket) {
	t.Helper()
	x := madeSession("alice")
	ok(t, s.CreateSession(t.Context(), x))
	return hub.RandomSecret().Hash(), hub.Ticket{Parent: x.Hash, Host: "alice.example.org", Browser: hub.RandomSecret().Hash(), Next: `/lab?a="b"&c=\`}
}

func ticketOnce(t *testing.T, s TicketSessionStore) {
	h, ticket := madeTicket(t, s)
	h2, other := madeTicket(t, s)
	ok(t, s.PutTicket(t.Context(), h, ticket, time.Hour))
	ok(t, s.PutTicket(t.Context(), h2, other, time.Hour))
	got, err := s.TakeTicket(t.Context(), h)
	ok(t, err)
	same(t, got, ticket)
	for _, h := range []hub.SecretHash{h, hub.RandomSecret().Hash(), ""} {
		_, err = s.TakeTicket(t.Context(), h)
		kind(t, err, hub.NotFound)
	}
	got, err = s.TakeTicket(t.Context(), h2)
	ok(t, err)
	same(t, got, other)
}

func ticketRace(t *testing.T, s TicketSessionStore) {
	for range 20 {
		h, ticket := madeTicket(t, s)
		ok(t, s.PutTicket(t.Context(), h, ticket, time.Hour))
		var taken atomic.Int32
		race(8, func(int) {
			_, err := s.TakeTicket(t.Context(), h)
			switch {
			case err == nil:
				taken.Add(1)
			case hub.KindOf(err) != hub.NotFound:
				t.Error(err)
			}
		})
		if n := taken.Load(); n != 1 {
			t.Fatalf("%d took the ticket", n)
		}
	}
}

func ticketEnds(t *testing.T, s TicketSessionStore) {
	h, ticket := madeTicket(t, s)
	ok(t, s.PutTicket(t.Context(), h, ticket, 200*time.Millisecond))
	over := time.Now().Add(300 * time.Millisecond)
	eventually(t, "time passes", func() bool { return time.Now().After(over) })
	_, err := s.TakeTicket(t.Context(), h)
	kind(t, err, hub.NotFound)
}

func ticketParent(t *testing.T, s TicketSessionStore) {
	h, ticket := madeTicket(t, s)
	ok(t, s.PutTicket(t.Context(), h, ticket, time.Hour))
	_, err := s.EndSessions(t.Context(), hub.SessionQuery{Hash: ticket.Parent})
	ok(t, err)
	_, err = s.TakeTicket(t.Context(), h)
	kind(t, err, hub.NotFound)

	x := madeSession("alice") // which ends by disuse
	x.Idle = 700 * time.Millisecond
	ok(t, s.CreateSession(t.Context(), x))
	ok(t, s.PutTicket(t.Context(), h, hub.Ticket{Parent: x.Hash}, time.Hour))
	eventually(t, "the session is over", func() bool { _, err := s.Session(t.Context(), x.Hash); return err != nil })
	eventually(t, "time passes", func() bool { return time.Since(x.LastSeen.Add(x.Idle)) > clockSkew })
	_, err = s.TakeTicket(t.Context(), h)
	kind(t, err, hub.NotFound)
}

func ticketEndless(t *testing.T, s TicketSessionStore) {
	h, ticket := madeTicket(t, s)
	for _, ttl := range []time.Duration{0, -1, -time.Hour} {
		kind(t, s.PutTicket(t.Context(), h, ticket, ttl), hub.Invalid)
	}
	_, err := s.TakeTicket(t.Context(), h)
	kind(t, err, hub.NotFound)
}

func onceFirst(t *testing.T, s TicketSessionStore) {
	long := strings.Repeat("x", 10_000)
	for _, key := range []string{"", "a", "a:b", "b", "a\x00b", "a\n", "ä", "*", long, long + "y"} {
		for i, want := range []bool{true, false, false} {
			first, err := s.Once(t.Context(), key, time.Hour)
			ok(t, err)
			if first != want {
				t.Errorf("%.20q: use %d: first %v", key, i, first)
			}
		}
	}
}

func onceRace(t *testing.T, s TicketSessionStore) {
	for range 20 {
		key := string(hub.RandomSecret().Hash())
		var firsts atomic.Int32
		race(8, func(int) {
			first, err := s.Once(t.Context(), key, time.Hour)
			if err != nil {
				t.Error(err)
			}
			if first {
				firsts.Add(1)
			}
		})
		if n := firsts.Load(); n != 1 {
			t.Fatalf("%d were first", n)
		}
	}
}

func onceEnds(t *testing.T, s TicketSessionStore) {
	const ttl = 500 * time.Millisecond
	begin := time.Now()
	_, err := s.Once(t.Context(), "key", ttl)
	ok(t, err)
	endsAt(t, "the use", begin.Add(ttl), func() error {
		first, err := s.Once(t.Context(), "key", ttl)
		ok(t, err)
		if first {
			return &hub.Error{Kind: hub.NotFound}
		}
		return nil
	})
}

func onceEndless(t *testing.T, s TicketSessionStore) {
	for _, ttl := range []time.Duration{0, -1, -time.Hour} {
		_, err := s.Once(t.Context(), "key", ttl)
		kind(t, err, hub.Invalid)
	}
	first, err := s.Once(t.Context(), "key", time.Hour)
	ok(t, err)
	if !first {
		t.Error("a use that was refused was recorded")
	}
}
