package hub

import (
	"context"
	"slices"
	"sync"
	"time"
)

// LinePlace is where somebody stands in line.
type LinePlace struct {
	N    int           // from 1; 0: not in line
	Wait time.Duration // how long it will take, as far as that can be told
}

// stays remembers how long visits were, with the removal of what they left.
type stays struct {
	mu   sync.Mutex
	mean time.Duration // of the last ones, the newest counting most; 0: none is over yet
}

func (s *stays) add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mean == 0 {
		s.mean = d
	}
	s.mean += (d - s.mean) / 8
}

// wait tells when the n-th place from now will be free: each visit is taken to last as long as they do
// lately, or as they may at most.
func (s *stays) wait(p VisitPolicy, all []Visit, n int, now time.Time) time.Duration {
	s.mu.Lock()
	stay := s.mean
	s.mu.Unlock()
	if stay == 0 || stay > p.Age {
		stay = p.Age
	}
	var ends []time.Duration
	for _, x := range all {
		if x.Phase != VisitWaiting {
			ends = append(ends, max(stay-now.Sub(x.Admitted), time.Second))
		}
	}
	for range p.Max - len(ends) {
		ends = append(ends, 0)
	}
	if len(ends) == 0 {
		return stay
	}
	slices.Sort(ends)
	// After a place is free its next visit lasts as long again.
	return ends[(n-1)%len(ends)] + time.Duration((n-1)/len(ends))*stay
}

// VisitStats is how many notebooks for visitors there are.
type VisitStats struct {
	Capacity, Open, Waiting int
	Image                   string
}

// Available is how many visitors would get one at once.
func (s VisitStats) Available() int { return max(0, s.Capacity-s.Open-s.Waiting) }

// Stats counts visits.
func (v *Visitors) Stats(ctx context.Context) (VisitStats, error) {
	policy := v.cfg.Manager.Policy()
	all, err := v.all(ctx)
	if err != nil {
		return VisitStats{}, err
	}
	s := VisitStats{Capacity: policy.Visits.Max, Waiting: len(line(all))}
	s.Open = len(all) - s.Waiting
	for _, p := range policy.Profiles {
		if p.Name == policy.Visits.Profile {
			s.Image = p.Image
		}
	}
	return s, nil
}
