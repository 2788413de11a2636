package hubtest

import (
	"context"
	"iter"
	"time"

	"carrel/hub"
)

// tomb is a logout that sessions made before it heed.
type tomb struct{ issuer, subject, sid string }

func tombsOf(x hub.Session) []tomb {
	tombs := []tomb{{issuer: x.Identity.Issuer, subject: x.Identity.Subject}}
	if x.SID != "" {
		tombs = append(tombs, tomb{issuer: x.Identity.Issuer, sid: x.SID})
	}
	return tombs
}

// live finds a session that counts; one that was made from another ends with it.
func (s *Store) live(h hub.SecretHash) (hub.Session, bool) {
	x, ok := s.sessions[h]
	if !ok || !x.Live(time.Now()) {
		return hub.Session{}, false
	}
	if x.Parent != "" {
		if _, ok := s.live(x.Parent); !ok {
			return hub.Session{}, false
		}
	}
	return x, true
}

// CreateSession implements [hub.SessionStore].
func (s *Store) CreateSession(ctx context.Context, x hub.Session) error {
	const op = "CreateSession"
	return s.do(ctx, op, func() error {
		ended := !x.Live(time.Now())
		if x.Parent != "" {
			_, ok := s.live(x.Parent)
			ended = ended || !ok
		} else {
			for _, t := range tombsOf(x) {
				at, ok := s.tombs[t]
				ended = ended || ok && !at.Before(x.Created)
			}
		}
		if ended {
			return &hub.Error{Kind: hub.Unauthenticated, Op: op, Message: "you were signed out meanwhile", Remedy: "sign in again"}
		}
		s.sessions[x.Hash] = copied(x)
		return nil
	})
}

// Session implements [hub.SessionStore].
func (s *Store) Session(ctx context.Context, h hub.SecretHash) (found hub.Session, err error) {
	const op = "Session"
	err = s.do(ctx, op, func() error {
		x, ok := s.live(h)
		if !ok {
			return notFound(op)
		}
		found = copied(x)
		return nil
	})
	return found, err
}

// UpdateSession implements [hub.SessionStore].
func (s *Store) UpdateSession(ctx context.Context, x hub.Session) error {
	const op = "UpdateSession"
	return s.do(ctx, op, func() error {
		if _, ok := s.live(x.Hash); !ok || !x.Live(time.Now()) {
			return notFound(op)
		}
		s.sessions[x.Hash] = copied(x)
		return nil
	})
}

// EndSessions implements [hub.SessionStore].
func (s *Store) EndSessions(ctx context.Context, q hub.SessionQuery) (ended []hub.SecretHash, err error) {
	const op = "EndSessions"
	err = s.do(ctx, op, func() error {
		if q.Hash == "" && q.User.IsZero() && q.Identity.Subject == "" && q.SID == "" {
			return hub.Errorf(hub.Internal, op, "the query names nothing")
		}
		s.bury(q)
		for h, x := range s.sessions {
			if _, ok := s.live(h); !ok || !matches(x, q) {
				continue
			}
			ended = append(ended, s.end(h)...)
		}
		return nil
	})
	return ended, err
}

// bury leaves the tombstone of a query by identity.
func (s *Store) bury(q hub.SessionQuery) {
	switch {
	case q.Identity.Issuer == "":
	case q.SID != "":
		s.tombs[tomb{issuer: q.Identity.Issuer, sid: q.SID}] = time.Now()
	case q.Identity.Subject != "":
		s.tombs[tomb{issuer: q.Identity.Issuer, subject: q.Identity.Subject}] = time.Now()
	}
}

// end removes a session with its children, and tells of it.
func (s *Store) end(h hub.SecretHash) []hub.SecretHash {
	ended := []hub.SecretHash{h}
	for child, x := range s.sessions {
		if x.Parent == h {
			ended = append(ended, child)
		}
	}
	for _, e := range ended {
		delete(s.sessions, e)
	}
	s.tell(hub.Event{Kind: hub.SessionsEnded, Sessions: ended})
	return ended
}

func matches(x hub.Session, q hub.SessionQuery) bool {
	if q.Hash == "" && x.Parent != "" {
		return false // it ends with its parent
	}
	return (q.Hash == "" || x.Hash == q.Hash) && (q.User.IsZero() || x.User == q.User) &&
		(q.Identity.Issuer == "" || x.Identity.Issuer == q.Identity.Issuer) &&
		(q.Identity.Subject == "" || x.Identity.Subject == q.Identity.Subject) &&
		(q.SID == "" || x.SID == q.SID) && (q.Except == "" || x.Hash != q.Except)
}

// Sessions implements [hub.SessionStore]; sessions of notebook hosts are not among them.
func (s *Store) Sessions(ctx context.Context) iter.Seq2[hub.Session, error] {
	return yieldAll(ctx, s, "Sessions", func() (all []hub.Session) {
		for h := range s.sessions {
			if x, ok := s.live(h); ok && x.Parent == "" {
				all = append(all, copied(x))
			}
		}
		return all
	})
}

// PutTicket implements [hub.TicketStore].
func (s *Store) PutTicket(ctx context.Context, h hub.SecretHash, t hub.Ticket, ttl time.Duration) error {
	const op = "PutTicket"
	return s.do(ctx, op, func() error {
		if err := endless(op, ttl); err != nil {
			return err
		}
		s.tickets[h] = kept[hub.Ticket]{t, time.Now().Add(ttl)}
		return nil
	})
}

// TakeTicket implements [hub.TicketStore].
func (s *Store) TakeTicket(ctx context.Context, h hub.SecretHash) (t hub.Ticket, err error) {
	const op = "TakeTicket"
	err = s.do(ctx, op, func() error {
		k, ok := s.tickets[h]
		delete(s.tickets, h)
		if _, signedIn := s.live(k.value.Parent); !ok || !k.live() || !signedIn {
			return notFound(op)
		}
		t = k.value
		return nil
	})
	return t, err
}

// Once implements [hub.TicketStore].
func (s *Store) Once(ctx context.Context, key string, ttl time.Duration) (first bool, err error) {
	const op = "Once"
	err = s.do(ctx, op, func() error {
		if err := endless(op, ttl); err != nil {
			return err
		}
		if first = !time.Now().Before(s.once[key]); first {
			s.once[key] = time.Now().Add(ttl)
		}
		return nil
	})
	return first, err
}
