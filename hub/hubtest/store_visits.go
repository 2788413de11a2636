package hubtest

import (
	"context"
	"iter"
	"time"

	"carrel/hub"
)

// Visit implements [hub.VisitStore].
func (s *Store) Visit(ctx context.Context, name hub.UserName) (v hub.Visit, err error) {
	const op = "Visit"
	err = s.do(ctx, op, func() error {
		have, ok := s.visits[name]
		if !ok {
			return notFound(op)
		}
		v = copied(have)
		return nil
	})
	return v, err
}

// PutVisit implements [hub.VisitStore].
func (s *Store) PutVisit(ctx context.Context, v hub.Visit) (hub.Visit, error) {
	const op = "PutVisit"
	err := s.do(ctx, op, func() error {
		if s.visits[v.Name].Revision != v.Revision {
			return conflict(op, "this visit changed meanwhile")
		}
		s.revision++
		v.Revision = s.revision
		s.visits[v.Name] = copied(v)
		return nil
	})
	if err != nil {
		return hub.Visit{}, err
	}
	return copied(v), nil
}

// DeleteVisit implements [hub.VisitStore].
func (s *Store) DeleteVisit(ctx context.Context, v hub.Visit) error {
	const op = "DeleteVisit"
	return s.do(ctx, op, func() error {
		have, ok := s.visits[v.Name]
		if !ok || have.Revision != v.Revision {
			return conflict(op, "this visit changed meanwhile")
		}
		delete(s.visits, v.Name)
		return nil
	})
}

// Visits implements [hub.VisitStore].
func (s *Store) Visits(ctx context.Context) iter.Seq2[hub.Visit, error] {
	return yieldAll(ctx, s, "Visits", func() (all []hub.Visit) {
		for _, v := range s.visits {
			all = append(all, copied(v))
		}
		return all
	})
}

// CountArrival implements [hub.VisitStore].
func (s *Store) CountArrival(ctx context.Context, key string, window time.Duration) (n int, err error) {
	const op = "CountArrival"
	err = s.do(ctx, op, func() error {
		if err := endless(op, window); err != nil {
			return err
		}
		c, ok := s.arrivals[key]
		if !ok || !c.live() {
			c = kept[int]{until: time.Now().Add(window)}
		}
		c.value++
		s.arrivals[key], n = c, c.value
		return nil
	})
	return n, err
}
