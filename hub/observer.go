package hub

import "time"

// Observer is told what metrics are made of. Its methods return at once.
type Observer interface {
	// StartOver tells that a start which this process flew is over. The last step is how: "ready",
	// "failed" or "stopped"; steps are how long each before it took, in order of their begin.
	StartOver(last string, took time.Duration, steps []StepTime)
	// Culled tells that a server is stopped by a rule: "idle" or "age".
	Culled(rule string)
}

// StepTime is how long a step of a start took. A step can come more than once.
type StepTime struct {
	Step string
	Took time.Duration
}

// unobserved is the observer of a Manager that has none.
type unobserved struct{}

func (unobserved) StartOver(string, time.Duration, []StepTime) {}
func (unobserved) Culled(string)                               {}

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
