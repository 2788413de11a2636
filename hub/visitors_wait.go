package hub

import (
	"context"
	"slices"
	"time"
)

// LinePlace is what somebody who waits for a notebook can be told.
type LinePlace struct {
	N     int           // in line, from 1; 0: not in line
	Wait  time.Duration // until the notebook is there; 0: it is
	Known bool          // whether Wait can be told
}

// outlookFor is how long what is foreseen for all who wait is told to each of them.
const outlookFor = 500 * time.Millisecond

// An outlook is what all who wait can be told at one time.
type outlook struct {
	at     time.Time
	places map[UserName]LinePlace
	next   LinePlace // of somebody who would come now
}

// place finds what a visitor can be told. Many ask, so that all are told from one look at all visits.
func (v *Visitors) place(ctx context.Context, name UserName) (LinePlace, error) {
	o, err := v.look(ctx, func(o outlook) bool { _, there := o.places[name]; return there })
	return o.places[name], err
}

// look gives the last outlook, or a new one if that is too old or does not serve.
func (v *Visitors) look(ctx context.Context, serves func(outlook) bool) (outlook, error) {
	select {
	case v.looking <- struct{}{}:
		defer func() { <-v.looking }()
	case <-ctx.Done():
		return outlook{}, Wrap(Canceled, "look at the line", ctx.Err())
	}
	if !v.stale.Swap(false) && time.Since(v.seen.at) < outlookFor && serves(v.seen) {
		return v.seen, nil
	}
	all, err := v.all(ctx)
	if err != nil {
		return outlook{}, err
	}
	v.seen = v.pace.foresee(v.Policy(), all, time.Now())
	return v.seen, nil
}

// foresee plays the coming minutes through: those in line get the places that come free, one after the
// other, starts end as fast as they do lately, and notebooks are used as long as they are lately.
func (p *pace) foresee(policy VisitPolicy, all []Visit, now time.Time) outlook {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := outlook{at: now, places: map[UserName]LinePlace{}}
	course := &course{pace: p, now: now, ready: p.last}
	course.start, course.known = p.starts.middle()
	course.gap = p.gaps.mean()
	there := slices.DeleteFunc(slices.Clone(all), func(x Visit) bool { return x.Phase == VisitWaiting })
	slices.SortFunc(there, func(a, b Visit) int { return a.Admitted.Compare(b.Admitted) })
	for _, x := range there {
		o.places[x.Name] = course.goOn(x)
	}
	course.keep(policy.Max)
	for i, x := range line(all) {
		place := course.letIn()
		place.N = i + 1
		o.places[x.Name] = place
	}
	o.next = course.letIn()
	return o
}

// A course is how things are taken to go on.
type course struct {
	pace  *pace
	now   time.Time
	start time.Duration // what a start takes
	gap   time.Duration // in which no second start ends
	known bool          // whether anything is known of starts
	ready time.Time     // when the last of those before is ready
	free  []time.Time   // when each place comes free, the first first; unforeseen: the zero time, at the end
}

// goOn tells how long a visit that has a place waits yet, and notes when its place comes free.
func (c *course) goOn(x Visit) (place LinePlace) {
	s := c.pace.stages[x.Name]
	place.Known = true
	switch {
	case x.Phase == VisitEnding:
		purge, _ := c.pace.purges.middle()
		c.frees(latest(s.ending.Add(purge), c.now))
		return place
	case s.ready.IsZero():
		began := s.began
		if began.IsZero() {
			began = c.now // admitted just now
		}
		place.Wait, place.Known = c.raise(began).Sub(c.now), c.known
		if !c.known {
			place.Wait = 0
		}
		s.ready = c.ready
	}
	stay, known := c.pace.stays.beyond(max(0, c.now.Sub(s.ready)))
	if !known || !place.Known {
		c.frees(time.Time{})
		return place
	}
	end := s.ready.Add(stay)
	if purge, _ := c.pace.purges.middle(); x.Expires.Add(purge).Before(end) {
		end = x.Expires.Add(purge)
	}
	c.frees(latest(end, c.now))
	return place
}

// raise tells when a start that begins, or began, at a time ends, after all before it.
func (c *course) raise(began time.Time) time.Time {
	c.ready = latest(latest(began.Add(c.start), c.ready.Add(c.gap)), c.now)
	return c.ready
}

// letIn gives the next place that comes free to somebody, and tells how long they wait.
func (c *course) letIn() LinePlace {
	if !c.known || len(c.free) == 0 || c.free[0].IsZero() {
		return LinePlace{}
	}
	at := c.free[0]
	c.free = c.free[1:]
	place := LinePlace{Wait: c.raise(latest(at, c.now)).Sub(c.now), Known: true}
	if stay, known := c.pace.stays.beyond(0); known {
		c.frees(c.ready.Add(stay))
	} else {
		c.frees(time.Time{})
	}
	return place
}

// frees notes when a place comes free.
func (c *course) frees(at time.Time) {
	i := len(c.free)
	if !at.IsZero() {
		i, _ = slices.BinarySearchFunc(c.free, at, func(have, at time.Time) int {
			if have.IsZero() {
				return 1
			}
			return have.Compare(at)
		})
	}
	c.free = slices.Insert(c.free, i, at)
}

// keep makes as many places of them as there are.
func (c *course) keep(most int) {
	for len(c.free) < most {
		c.frees(c.now)
	}
	c.free = c.free[min(len(c.free), max(0, len(c.free)-most)):] // the first who go make room for nobody
}

// VisitStats is how many notebooks for visitors there are.
type VisitStats struct {
	Capacity, Open, Waiting int
	Wait                    LinePlace // of somebody who would come now
	Image                   string
}

// Available is how many visitors would get one at once.
func (s VisitStats) Available() int { return max(0, s.Capacity-s.Open-s.Waiting) }

// Stats counts visits.
func (v *Visitors) Stats(ctx context.Context) (VisitStats, error) {
	policy := v.cfg.Manager.Policy()
	o, err := v.look(ctx, func(outlook) bool { return true })
	if err != nil {
		return VisitStats{}, err
	}
	s := VisitStats{Capacity: policy.Visits.Max, Wait: o.next}
	for _, place := range o.places {
		if place.N > 0 {
			s.Waiting++
		}
	}
	s.Open = len(o.places) - s.Waiting
	for _, p := range policy.Profiles {
		if p.Name == policy.Visits.Profile {
			s.Image = p.Image
		}
	}
	return s, nil
}
