package hub

import (
	"context"
	"slices"
	"sync"
	"time"
)

// stepBoard keeps the steps of the starts that this process flies, and for a while of those that
// it flew, for those who wait.
type stepBoard struct {
	observer Observer

	mu   sync.Mutex
	logs map[ServerKey]*stepLog
}

// stepLog holds one entry for each run of equal steps, the newest of the run: a pull tells its
// percent for minutes and takes no room.
type stepLog struct {
	generation Generation
	began      time.Time
	steps      []numbered
	next       int           // number of the next step
	changed    chan struct{} // closed and replaced at each step
}

// keepSteps is how long the steps of a start that is over can be read.
const keepSteps = 10 * time.Minute

type numbered struct {
	Progress
	n     int
	began time.Time // of the run
}

func newStepBoard(o Observer) *stepBoard {
	return &stepBoard{observer: o, logs: map[ServerKey]*stepLog{}}
}

// begin opens the log of a start, in place of an earlier one.
func (b *stepBoard) begin(key ServerKey, g Generation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, l := range b.logs {
		if last, over := l.last(); over && time.Since(last.At) > keepSteps {
			delete(b.logs, k)
		}
	}
	b.replace(key, &stepLog{generation: g, began: time.Now(), changed: make(chan struct{})})
}

// drop forgets a start that this process flies no more.
func (b *stepBoard) drop(key ServerKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.replace(key, nil)
}

func (b *stepBoard) replace(key ServerKey, l *stepLog) {
	if old := b.logs[key]; old != nil {
		close(old.changed)
	}
	if b.logs[key] = l; l == nil {
		delete(b.logs, key)
	}
}

// renumber says that a start's generation turned out to be another.
func (b *stepBoard) renumber(key ServerKey, g Generation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.logs[key]; l != nil {
		l.generation = g
	}
}

// last gives the last step, and whether it ends the start; the board's mutex is held.
func (l *stepLog) last() (p Progress, over bool) {
	if len(l.steps) == 0 {
		return Progress{}, false
	}
	p = l.steps[len(l.steps)-1].Progress
	return p, p.Done
}

// tells whether the steps of a start that is over say how its server is now.
func (b *stepBoard) tells(s Server) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.logs[s.Key]
	if l == nil || l.generation != s.Generation {
		return false
	}
	last, over := l.last()
	return over && last.Failed == (s.Phase == Failed || s.Phase == Absent) && !s.Phase.Pending()
}

func (b *stepBoard) add(key ServerKey, p Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.logs[key]
	if l == nil {
		return // a driver's step for a start that was given up
	}
	if p.At.IsZero() {
		p.At = time.Now()
	}
	last := len(l.steps) - 1
	if last >= 0 && p.Percent == 0 {
		p.Percent = l.steps[last].Percent
	}
	began := p.At
	if last >= 0 && l.steps[last].Step == p.Step {
		began = l.steps[last].began
		l.steps = l.steps[:last]
	}
	l.steps = append(l.steps, numbered{p, l.next, began})
	if p.Done {
		b.observer.StartOver(p.Step, p.At.Sub(l.began), l.times(p.At))
	}
	l.next++
	close(l.changed)
	l.changed = make(chan struct{})
}

// follow yields the steps, then what comes. It is true when nothing more is to be told: after the
// last step, at the end of ctx, or when yield wants no more; false when the log was given up.
func (b *stepBoard) follow(ctx context.Context, key ServerKey, yield func(Progress) bool) bool {
	b.mu.Lock()
	l := b.logs[key]
	b.mu.Unlock()
	if l == nil {
		return false
	}
	for seen := 0; ; {
		b.mu.Lock()
		fresh := slices.DeleteFunc(slices.Clone(l.steps), func(p numbered) bool { return p.n < seen })
		changed, replaced := l.changed, b.logs[key] != l
		seen = l.next
		b.mu.Unlock()
		for _, p := range fresh {
			if !yield(p.Progress) || p.Done {
				return true
			}
		}
		if replaced {
			return false
		}
		select {
		case <-ctx.Done():
			return true
		case <-changed:
		}
	}
}

// phaseProgress tells of a phase where the steps are not known.
func phaseProgress(s Server) Progress {
	p := Progress{At: s.Since}
	switch s.Phase {
	case Stopping:
		if s.Intent == WantRunning {
			p.Step, p.Message, p.Percent = "queue", "Ending your earlier server", 5
			break
		}
		p.Step, p.Message, p.Done, p.Failed = "stopped", "This server is being stopped", true, true
	case Queued:
		p.Step, p.Message = "queue", "Waiting for a turn"
	case Starting:
		p.Step, p.Message, p.Percent = "wait", "Your server is starting up", 40
	case Ready, Paused:
		p.Step, p.Message, p.Percent, p.Done = "ready", "Your server is ready", 100, true
	case Failed:
		p.Step, p.Message, p.Log, p.Done, p.Failed = "failed", s.Reason, s.LogTail, true, true
	case Absent:
		p.Step, p.Message, p.Done, p.Failed = "stopped", "This server is not running", true, true
	}
	return p
}
