package hubtest

import (
	"context"
	"iter"
	"slices"
	"time"

	"carrel/hub"
)

// CreateRun implements [hub.RunStore].
func (s *Store) CreateRun(ctx context.Context, r hub.Run, ttl time.Duration) error {
	const op = "CreateRun"
	return s.do(ctx, op, func() error {
		if err := endless(op, ttl); err != nil {
			return err
		}
		if s.runs[r.ID].live() {
			return conflict(op, "this run is there already")
		}
		s.runs[r.ID] = kept[hub.Run]{copied(r), time.Now().Add(ttl)}
		return nil
	})
}

// UpdateRun implements [hub.RunStore].
func (s *Store) UpdateRun(ctx context.Context, r hub.Run, ttl time.Duration) error {
	const op = "UpdateRun"
	return s.do(ctx, op, func() error {
		if err := endless(op, ttl); err != nil {
			return err
		}
		if !s.runs[r.ID].live() {
			return notFound(op)
		}
		s.runs[r.ID] = kept[hub.Run]{copied(r), time.Now().Add(ttl)}
		return nil
	})
}

// Run implements [hub.RunStore].
func (s *Store) Run(ctx context.Context, id hub.RunID) (r hub.Run, err error) {
	const op = "Run"
	err = s.do(ctx, op, func() error {
		have := s.runs[id]
		if !have.live() {
			return notFound(op)
		}
		r = copied(have.value)
		return nil
	})
	return r, err
}

// DeleteRun implements [hub.RunStore].
func (s *Store) DeleteRun(ctx context.Context, id hub.RunID) error {
	const op = "DeleteRun"
	return s.do(ctx, op, func() error {
		if !s.runs[id].live() {
			return notFound(op)
		}
		delete(s.runs, id)
		return nil
	})
}

// Runs implements [hub.RunStore].
func (s *Store) Runs(ctx context.Context, owner hub.UserName) iter.Seq2[hub.Run, error] {
	return yieldAll(ctx, s, "Runs", func() (all []hub.Run) {
		for _, r := range s.runs {
			if r.live() && (owner.IsZero() || r.value.Owner == owner) {
				r := copied(r.value)
				r.Result.Stdout, r.Result.Stderr = nil, nil
				all = append(all, r)
			}
		}
		slices.SortFunc(all, func(a, b hub.Run) int { return b.Created.Compare(a.Created) })
		return all
	})
}
