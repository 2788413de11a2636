package hub

import (
	"slices"
	"sync"
	"time"
)

// pace is how fast notebooks for visitors come and go lately. A hub learns it by looking at all visits
// again and again, so that what other hubs do counts too.
type pace struct {
	mu     sync.Mutex
	looked time.Time
	last   time.Time // when a notebook was ready, the last time
	stages map[UserName]stage
	starts lately // from when a start was at work until its notebook was ready
	gaps   lately // from one notebook to the next, while somebody waited for theirs
	stays  lately // from when it was ready until nothing was left of it
	purges lately // from the end until nothing was left
}

// stage is how far a visit is.
type stage struct {
	admitted, ready, ending time.Time
	began                   time.Time // when its start was at work, or when it might have been
}

// see notes what changed since the last look. servers are those of all visits that are open.
func (p *pace) see(now time.Time, all []Visit, servers map[UserName]Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := p.looked.IsZero()
	stages := map[UserName]stage{}
	var ready []stage
	for _, x := range all {
		if x.Phase == VisitWaiting {
			continue
		}
		s, known := p.stages[x.Name]
		if !known {
			s.admitted, s.began = x.Admitted, latest(x.Admitted, p.looked)
		}
		server := servers[x.Name]
		switch up := server.Phase == Ready || server.Phase == Paused; {
		case x.Phase == VisitEnding && s.ending.IsZero():
			s.ending = now
		case up && s.ready.IsZero():
			if s.ready = server.Started; !first {
				ready = append(ready, s)
			}
		case server.Phase == Starting:
			s.began = server.Since
		case !up:
			s.began = now
		}
		stages[x.Name] = s
	}
	p.count(ready, stages)
	for name, s := range p.stages {
		if _, there := stages[name]; there {
			continue
		}
		if !s.ready.IsZero() {
			p.stays.add(now.Sub(s.ready))
		}
		if !s.ending.IsZero() {
			p.purges.add(now.Sub(s.ending))
		}
	}
	p.stages, p.looked = stages, now
}

// count notes that notebooks are ready.
func (p *pace) count(ready []stage, all map[UserName]stage) {
	slices.SortFunc(ready, func(a, b stage) int { return a.ready.Compare(b.ready) })
	for _, s := range ready {
		p.starts.add(s.ready.Sub(s.began))
		busy := false // whether somebody waited for theirs ever since the last one
		for _, o := range all {
			busy = busy || !o.admitted.After(p.last) && o.ending.IsZero() && (o.ready.IsZero() || !o.ready.Before(s.ready))
		}
		if busy {
			p.gaps.add(s.ready.Sub(p.last))
		}
		p.last = latest(p.last, s.ready)
	}
}

// lately holds the last few of some lengths of time, the newest last.
type lately []time.Duration

// Few enough to follow what changes, and enough that one does not count for much.
const (
	fewStarts = 9
	manyGaps  = 24
)

func (l *lately) add(d time.Duration) {
	*l = append((*l)[max(0, len(*l)-manyGaps+1):], max(0, d))
}

// middle is the median of the last few; false without any.
func (l lately) middle() (time.Duration, bool) {
	if len(l) == 0 {
		return 0, false
	}
	few := slices.Sorted(slices.Values(l[max(0, len(l)-fewStarts):]))
	return few[len(few)/2], true
}

// mean is that of all; of many the longest is taken for as long as the second. It is no median, for
// notebooks that are ready in bursts have most gaps short. 0 with less than three.
func (l lately) mean() (sum time.Duration) {
	if len(l) < 3 {
		return 0
	}
	s := slices.Sorted(slices.Values(l))
	if len(s) >= fewStarts {
		s[len(s)-1] = s[len(s)-2]
	}
	for _, d := range s {
		sum += d
	}
	return sum / time.Duration(len(s))
}

// beyond is the median of those that are longer than what has passed, and a little more than that where
// none is; false without any.
func (l lately) beyond(passed time.Duration) (time.Duration, bool) {
	var longer []time.Duration
	for _, d := range l {
		if d > passed {
			longer = append(longer, d)
		}
	}
	switch {
	case len(l) == 0:
		return 0, false
	case len(longer) == 0:
		return passed + passed/8 + time.Second, true
	}
	slices.Sort(longer)
	return longer[len(longer)/2], true
}
