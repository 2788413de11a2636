package hub

import "time"

// Observer is told what metrics are made of. Its methods return at once.
type Observer interface {
	// StartOver tells that a start which this process flew is over. The last step is how: "ready",
	// "failed" or "stopped"; steps are how long each before it took, in order of their begin.
	StartOver(last string, took time.Duration, steps []StepTime)
	// Culled tells that a server is stopped by a rule: "idle" or "age".
	Culled(rule string)
	// PauseOver tells what came of a pause: "paused", "objected" (it was in use) or "failed".
	PauseOver(outcome string)
	// WakeOver tells how long a paused server took to go on, and whether it does.
	WakeOver(took time.Duration, err error)
}

// VisitObserver is told what metrics of visits are made of. Its methods return at once. Each event is told
// at one hub.
type VisitObserver interface {
	// VisitBegan tells that a visitor was let in who waited so long in line.
	VisitBegan(waited time.Duration)
	// VisitOver tells that nothing of a visit is left, and why it ended.
	VisitOver(end VisitEnd)
	// VisitRefused tells that somebody was not taken in.
	VisitRefused(why VisitRefusal)
}

// VisitEnd is why a visit ended.
type VisitEnd string

// The ends.
const (
	EndDone   VisitEnd = "done"   // they said so
	EndClosed VisitEnd = "closed" // the last page was closed
	EndAge    VisitEnd = "age"
	EndServer VisitEnd = "server" // it ended by itself or unused, or never came up
	EndLine   VisitEnd = "line"   // they left the line
	EndOff    VisitEnd = "off"    // there are no visits any more
	EndAdmin  VisitEnd = "admin"  // an administrator said so
	EndLost   VisitEnd = "lost"   // nobody knew of it
)

// VisitEnds are all.
var VisitEnds = []VisitEnd{EndDone, EndClosed, EndAge, EndServer, EndLine, EndOff, EndAdmin, EndLost}

// VisitRefusal is why somebody was not taken in.
type VisitRefusal string

// The refusals.
const (
	RefusedBan      VisitRefusal = "ban"
	RefusedArrivals VisitRefusal = "arrivals" // too many of one network lately
	RefusedAtOnce   VisitRefusal = "at_once"  // too many of one network at once
	RefusedFull     VisitRefusal = "full"     // the line, too
	RefusedCaptcha  VisitRefusal = "captcha"
)

// VisitRefusals are all.
var VisitRefusals = []VisitRefusal{RefusedBan, RefusedArrivals, RefusedAtOnce, RefusedFull, RefusedCaptcha}

// StepTime is how long a step of a start took. A step can come more than once.
type StepTime struct {
	Step string
	Took time.Duration
}

// unobserved is the observer of a Manager that has none.
type unobserved struct{}

func (unobserved) StartOver(string, time.Duration, []StepTime) {}
func (unobserved) Culled(string)                               {}
func (unobserved) PauseOver(string)                            {}
func (unobserved) WakeOver(time.Duration, error)               {}
func (unobserved) VisitBegan(time.Duration)                    {}
func (unobserved) VisitOver(VisitEnd)                          {}
func (unobserved) VisitRefused(VisitRefusal)                   {}

// times is how long each step of a start took that ended at a time.
func (l *stepLog) times(end time.Time) []StepTime {
	var times []StepTime
	for i, s := range l.steps {
		until := end
		if i+1 < len(l.steps) {
			until = l.steps[i+1].began
		}
		if !s.Done {
			times = append(times, StepTime{s.Step, max(0, until.Sub(s.began))})
		}
	}
	return times
}

// QueueLength tells how many starts wait for their turn at this hub, and how many are at work.
func (m *Manager) QueueLength() (waiting, working int) {
	m.queue.mu.Lock()
	defer m.queue.mu.Unlock()
	return len(m.queue.line), m.queue.total
}
