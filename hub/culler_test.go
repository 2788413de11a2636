package hub

import (
	"testing"
	"time"
)

func TestDecide(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	rule := CullRule{Idle: time.Hour, Warning: 5 * time.Minute, MaxAge: 24 * time.Hour, Extend: time.Hour}
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, c := range []struct {
		name      string
		rec       Server
		rule      CullRule
		idleSince time.Time
		at        time.Time
		stop      bool
	}{
		{"in use", Server{Started: ago(2 * time.Hour)}, rule, ago(time.Minute), time.Time{}, false},
		{"warned in time", Server{Started: ago(2 * time.Hour)}, rule, ago(56 * time.Minute), now.Add(5 * time.Minute), false},
		{"never warned: the full warning, however idle", Server{Started: ago(9 * time.Hour)}, rule, ago(8 * time.Hour), now.Add(5 * time.Minute), false},
		{"warning still runs", Server{Started: ago(9 * time.Hour), CullAt: now.Add(time.Minute)}, rule, ago(8 * time.Hour), now.Add(time.Minute), false},
		{"warning over", Server{Started: ago(9 * time.Hour), CullAt: ago(time.Second)}, rule, ago(8 * time.Hour), ago(time.Second), true},
		{"used after the warning", Server{Started: ago(9 * time.Hour), CullAt: ago(time.Second)}, rule, ago(time.Second), time.Time{}, false},
		{"kept by its owner", Server{Started: ago(9 * time.Hour), KeepUntil: now.Add(30 * time.Minute)}, rule, ago(8 * time.Hour), time.Time{}, false},
		{"too old although in use", Server{Started: ago(25 * time.Hour), CullAt: ago(time.Second)}, rule, ago(time.Second), ago(time.Second), true},
		{"old age is not put off by keeping", Server{Started: ago(25 * time.Hour), CullAt: ago(time.Second), KeepUntil: now.Add(time.Hour)}, rule, now, ago(time.Second), true},
		{"no rules", Server{Started: ago(900 * time.Hour)}, CullRule{}, ago(800 * time.Hour), time.Time{}, false},
		{"no warning wanted", Server{Started: ago(9 * time.Hour)}, CullRule{Idle: time.Hour}, ago(2 * time.Hour), now, true},
	} {
		v := decide(c.rec, c.rule, c.idleSince, now.Add(-10*time.Hour), now)
		if !v.at.Equal(c.at) || v.stop != c.stop {
			t.Errorf("%s: at %v, stop %v; want %v, %v", c.name, v.at, v.stop, c.at, c.stop)
		}
	}
}

func TestDecidePause(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	rule := CullRule{Pause: 30 * time.Minute, Idle: 2 * time.Hour, Warning: 10 * time.Minute}
	ready := Server{Phase: Ready, Started: ago(9 * time.Hour), Since: ago(9 * time.Hour)}
	woken := ready
	woken.Since = ago(30 * time.Second)
	paused := woken
	paused.Phase = Paused
	over := ready
	over.CullAt = ago(time.Second)
	for name, c := range map[string]struct {
		rec  Server
		rule CullRule
		idle time.Duration
		want bool
	}{
		"in use":                               {ready, rule, 29 * time.Minute, false},
		"idle":                                 {ready, rule, 30 * time.Minute, true},
		"a warning is out":                     {ready, rule, 115 * time.Minute, true},
		"it is to be stopped":                  {over, rule, 3 * time.Hour, false},
		"paused already":                       {paused, rule, time.Hour, false},
		"just woken by what is no use":         {woken, rule, time.Hour, false},
		"no rule":                              {ready, CullRule{Idle: 2 * time.Hour}, time.Hour, false},
		"woken, of a profile that is in haste": {woken, CullRule{Pause: 20 * time.Second}, time.Hour, true},
	} {
		if v := decide(c.rec, c.rule, ago(c.idle), ago(10*time.Hour), now); v.pause != c.want {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// An outage is not idleness: after a gap every clock starts anew.
func TestWatchClock(t *testing.T) {
	var w watchClock
	t0 := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	steps := []struct {
		after time.Duration
		saw   bool
		since time.Duration
	}{
		{0, true, 0},
		{cullEvery, true, 0},
		{2 * cullEvery, true, 0},
		{2*cullEvery + time.Hour, true, 2*cullEvery + time.Hour},
		{3*cullEvery + time.Hour, true, 2*cullEvery + time.Hour},
		{4*cullEvery + time.Hour, false, 4*cullEvery + time.Hour},
		{5*cullEvery + time.Hour, true, 4*cullEvery + time.Hour},
	}
	for _, s := range steps {
		if got := w.tick(t0.Add(s.after), s.saw); !got.Equal(t0.Add(s.since)) {
			t.Errorf("after %v: observed since %v, want %v", s.after, got.Sub(t0), s.since)
		}
	}
}
