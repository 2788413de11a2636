package hubtest

import (
	"context"
	"iter"
	"time"

	"carrel/hub"
)

// tomb is a logout that sessions made before it heed: all of a subject's, those of a provider's
// session, or those of a subject's that have no sid.
type tomb struct {
	issuer, subject, sid string
	nameless             bool
}

func tombsOf(x hub.Session) []tomb {
	tombs := []tomb{{issuer: x.Identity.Issuer, subject: x.Identity.Subject}}
	if x.SID != "" {
		return append(tombs, tomb{issuer: x.Identity.Issuer, sid: x.SID})
	}
	return append(tombs, tomb{issuer: x.Identity.Issuer, subject: x.Identity.Subject, nameless: true})
}

// live finds a session that counts; one that was made from another is as that one stands.
func (s *Store) live(h hub.SecretHash) (hub.Session, bool) {
	x, ok := s.sessions[h]
	if !ok || x.Parent == "" {
		return x, ok && x.Live(time.Now())
	}
	parent, ok := s.live(x.Parent)
	if !ok || parent.Parent != "" || x.Host == "" {
		return hub.Session{}, false
	}
	x = x.Under(parent)
	return x, x.Live(time.Now())
}

// CreateSession implements [hub.SessionStore].
func (s *Store) CreateSession(ctx context.Context, x hub.Session) error {
	const op = "CreateSession"
	return s.do(ctx, op, func() error {
		ended := !x.Live(time.Now())
		if x.Parent != "" {
			parent, ok := s.live(x.Parent)
			ended = ended || !ok || parent.Parent != ""
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

// TouchSession implements [hub.SessionStore].
func (s *Store) TouchSession(ctx context.Context, h hub.SecretHash, at time.Time) error {
	const op = "TouchSession"
	return s.do(ctx, op, func() error {
		x, ok := s.live(h)
		if !ok || x.Parent != "" {
			return notFound(op)
		}
		if at.After(x.LastSeen) {
			x.LastSeen = at
			s.sessions[h] = copied(x)
		}
		return nil
	})
}

// UpdateSession implements [hub.SessionUpdater].
func (s *Store) UpdateSession(ctx context.Context, h hub.SecretHash, change func(*hub.Session)) error {
	const op = "UpdateSession"
	return s.do(ctx, op, func() error {
		x, ok := s.live(h)
		if !ok || x.Parent != "" {
			return notFound(op)
		}
		changed := copied(x)
		change(&changed)
		x.Groups, x.Admin, x.Tokens = changed.Groups, changed.Admin, changed.Tokens
		s.sessions[h] = copied(x)
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
		for h := range s.sessions {
			if x, ok := s.live(h); ok && q.Matches(x) {
				ended = append(ended, s.end(h)...)
			}
		}
		return nil
	})
	return ended, err
}

// bury leaves the tombstone of a query by identity.
func (s *Store) bury(q hub.SessionQuery) {
	id := q.Identity
	if id.Issuer == "" {
		return
	}
	if q.SID != "" {
		s.tombs[tomb{issuer: id.Issuer, sid: q.SID}] = time.Now()
	}
	if id.Subject != "" {
		s.tombs[tomb{issuer: id.Issuer, subject: id.Subject, nameless: q.SID != ""}] = time.Now()
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
