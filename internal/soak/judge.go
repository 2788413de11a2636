package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// A finding is an answer that must never be given, whatever is going on. A breach is one that
// reached the wrong person: it ends the run.
type finding struct {
	what   string
	breach bool
}

func (f *finding) Error() string { return f.what }

func wrongf(format string, args ...any) error { return &finding{what: fmt.Sprintf(format, args...)} }
func breachf(format string, args ...any) error {
	return &finding{what: "BREACH: " + fmt.Sprintf(format, args...), breach: true}
}

// settle is how long after a part answers again its failures are still forgiven.
const settle = 2 * time.Second

// A trouble is a time in which a part of the deployment was disturbed on purpose.
type trouble struct {
	scope string
	from  time.Time
	to    time.Time // zero: it goes on
}

// A tally counts the outcomes of one kind of action.
type tally struct {
	OK      int `json:"ok"`
	Excused int `json:"excused"` // an honest failure while what it needs was disturbed
	Wrong   int `json:"wrong"`
}

// A judge hears of every outcome, and of every disturbance before it is made.
type judge struct {
	stop context.CancelFunc // ends the run

	mu       sync.Mutex
	troubles []*trouble
	tallies  map[string]*tally
	findings []string
	more     int // findings beyond those kept
	excuses  map[string]int
}

func newJudge(stop context.CancelFunc) *judge {
	return &judge{stop: stop, tallies: map[string]*tally{}, excuses: map[string]int{}}
}

// disturb begins a trouble of several parts; the function returned ends it.
func (j *judge) disturb(scopes ...string) (over func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var mine []*trouble
	for _, s := range scopes {
		t := &trouble{scope: s, from: time.Now()}
		mine, j.troubles = append(mine, t), append(j.troubles, t)
	}
	return func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		for _, t := range mine {
			t.to = time.Now().Add(settle)
		}
	}
}

// troubled tells whether one of the parts was disturbed at any time since.
func (j *judge) troubled(since time.Time, scopes []string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, t := range slices.Backward(j.troubles) {
		if (t.to.IsZero() || t.to.After(since)) && slices.Contains(scopes, t.scope) {
			return true
		}
	}
	return false
}

const maxFindings = 200

// record takes the outcome of an action that began at a time and needed some parts. It tells
// whether the action failed, for whatever reason.
func (j *judge) record(action string, began time.Time, err error, scopes ...string) (failed bool) {
	var f *finding
	is := errors.As(err, &f)
	excused := err != nil && !is && j.troubled(began, scopes)
	j.mu.Lock()
	defer j.mu.Unlock()
	t := j.tallies[action]
	if t == nil {
		t = &tally{}
		j.tallies[action] = t
	}
	switch {
	case err == nil:
		t.OK++
		return false
	case excused:
		t.Excused++
		j.excuses[reason(err)]++
		return true
	}
	t.Wrong++
	what := strings.ReplaceAll(err.Error(), "\n", "; ")
	j.keep(fmt.Sprintf("%s %s: %s (took %v; needed %v)", time.Now().Format("15:04:05.000"), action, what, time.Since(began).Round(time.Millisecond), scopes))
	if is && f.breach {
		j.stop()
	}
	return true
}

// find adds a finding that is no client's.
func (j *judge) find(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.keep(time.Now().Format("15:04:05.000 ") + fmt.Sprintf(format, args...))
}

// keep is called with the lock held.
func (j *judge) keep(what string) {
	if len(j.findings) >= maxFindings {
		j.more++
		return
	}
	j.findings = append(j.findings, what)
	fmt.Println("WRONG", what)
}

// reason is an excused failure's kind, without what differs each time.
func reason(err error) string {
	var r *refused
	if errors.As(err, &r) {
		return fmt.Sprintf("status %d: %s", r.status, r.message)
	}
	if inner := errors.Unwrap(err); inner != nil {
		return reason(inner)
	}
	return fmt.Sprintf("%.60s", err.Error())
}

// A row is an action's tally with its name.
type row struct {
	Action string `json:"action"`
	tally
}

func (j *judge) rows() []row {
	j.mu.Lock()
	defer j.mu.Unlock()
	var rows []row
	for name, t := range j.tallies {
		rows = append(rows, row{name, *t})
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(a.Action, b.Action) })
	return rows
}
