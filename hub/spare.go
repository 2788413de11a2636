package hub

import (
	"slices"
	"sync"
	"time"
)

// Spare is how many servers of a profile are kept ready for whoever wants one next.
type Spare struct {
	Always int         // at any time
	Max    int         // as many as starts came within ArrivalWindow, but no more than this; 0: no such growth
	At     []SpareTime // at given times
}

// SpareTime is a time of the day, on some days of the week, at which a number of servers is kept ready.
type SpareTime struct {
	Count       int
	Days        []time.Weekday // empty: every day. A time over midnight belongs to the day on which it begins.
	From, Until time.Duration  // since midnight by the wall clock there; Until is not after From: on the next day
	Zone        *time.Location
}

// ArrivalWindow is how long a start counts as a sign of the next.
const ArrivalWindow = 2 * time.Minute

// Any tells whether there is ever one.
func (s Spare) Any() bool { return s.Always > 0 || s.Max > 0 || len(s.At) > 0 }

// Wanted is how many are to be ready at a time, after so many starts within [ArrivalWindow].
func (s Spare) Wanted(now time.Time, arrivals int) int {
	n := max(s.Always, min(arrivals, s.Max))
	for _, at := range s.At {
		if at.covers(now) {
			n = max(n, at.Count)
		}
	}
	return n
}

// covers tells whether it is that time. Where clocks are put forward or back, what the wall clock shows counts.
func (s SpareTime) covers(now time.Time) bool {
	now = now.In(s.Zone)
	hour, minute, second := now.Clock()
	clock := time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute + time.Duration(second)*time.Second
	today, yesterday := s.on(now.Weekday()), s.on((now.Weekday()+6)%7)
	if s.From < s.Until {
		return today && s.From <= clock && clock < s.Until
	}
	return today && s.From <= clock || yesterday && clock < s.Until
}

func (s SpareTime) on(day time.Weekday) bool { return len(s.Days) == 0 || slices.Contains(s.Days, day) }

// arrivals remembers when starts of each profile came, in this process.
type arrivals struct {
	mu sync.Mutex
	at map[string][]time.Time // by profile, the oldest first
}

// mostArrivals is how many starts of a profile are remembered: no more servers than that are kept ready.
const mostArrivals = 1000

func (a *arrivals) add(profile string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at == nil {
		a.at = map[string][]time.Time{}
	}
	list := append(a.recent(profile, now), now)
	a.at[profile] = list[max(0, len(list)-mostArrivals):]
}

// count is how many came within [ArrivalWindow].
func (a *arrivals) count(profile string, now time.Time) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.recent(profile, now))
}

// recent is the part of a profile's list that counts still; a.mu is held.
func (a *arrivals) recent(profile string, now time.Time) []time.Time {
	list := a.at[profile]
	i, _ := slices.BinarySearchFunc(list, now.Add(-ArrivalWindow), time.Time.Compare)
	return list[i:]
}

// ClaimWindow is how long a claim of a slot counts. A person who stops and starts again and again would empty
// the pool, and have the machine make slots all the time: beyond mostClaims within it they start cold.
const ClaimWindow = 10 * time.Minute

const mostClaims = 20

// claims remembers who claimed a slot when, in this process.
type claims struct {
	mu sync.Mutex
	by map[UserID][]time.Time // the oldest first
}

// allow tells whether a person may claim a slot, which counts then.
func (c *claims) allow(id UserID, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[UserID][]time.Time{}
	}
	for other, list := range c.by {
		if now.Sub(list[len(list)-1]) >= ClaimWindow {
			delete(c.by, other)
		}
	}
	list := slices.DeleteFunc(c.by[id], func(at time.Time) bool { return now.Sub(at) >= ClaimWindow })
	if len(list) >= mostClaims {
		c.by[id] = list
		return false
	}
	c.by[id] = append(list, now)
	return true
}
