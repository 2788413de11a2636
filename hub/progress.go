package hub

import (
	"context"
	"iter"
	"slices"
	"sync"
	"time"
)

// stepBoard keeps the steps of each server's last start in this process, for those who wait.
type stepBoard struct {
	mu   sync.Mutex
	logs map[ServerKey]*stepLog
}

// stepLog holds one entry for each run of equal steps, the newest of the run: a pull tells its
// percent for minutes and takes no room.
type stepLog struct {
	steps   []numbered
	next    int           // number of the next step
	changed chan struct{} // closed and replaced at each step
}

type numbered struct {
	Progress
	n int
}

func newStepBoard() *stepBoard { return &stepBoard{logs: map[ServerKey]*stepLog{}} }

func (b *stepBoard) begin(key ServerKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if old := b.logs[key]; old != nil {
		close(old.changed)
	}
	b.logs[key] = &stepLog{changed: make(chan struct{})}
}

func (b *stepBoard) has(key ServerKey) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.logs[key] != nil
}

func (b *stepBoard) add(key ServerKey, p Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.logs[key]
	if l == nil {
		l = &stepLog{changed: make(chan struct{})}
		b.logs[key] = l
	}
	if p.At.IsZero() {
		p.At = time.Now()
	}
	last := len(l.steps) - 1
	if last >= 0 && p.Percent == 0 {
		p.Percent = l.steps[last].Percent
	}
	if last >= 0 && l.steps[last].Step == p.Step {
		l.steps = l.steps[:last]
	}
	l.steps = append(l.steps, numbered{p, l.next})
	l.next++
	close(l.changed)
	l.changed = make(chan struct{})
}

// follow yields the steps, then what comes, and ends after the last or when a new start begins.
func (b *stepBoard) follow(ctx context.Context, key ServerKey) iter.Seq[Progress] {
	return func(yield func(Progress) bool) {
		b.mu.Lock()
		l := b.logs[key]
		if l == nil {
			l = &stepLog{changed: make(chan struct{})}
			b.logs[key] = l
		}
		b.mu.Unlock()
		for seen := 0; ; {
			b.mu.Lock()
			fresh := slices.DeleteFunc(slices.Clone(l.steps), func(p numbered) bool { return p.n < seen })
			changed, replaced := l.changed, b.logs[key] != l
			seen = l.next
			b.mu.Unlock()
			for _, p := range fresh {
				if !yield(p.Progress) || p.Done {
					return
				}
			}
			if replaced {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}
}

// phaseProgress tells of a phase where the steps are not known.
func phaseProgress(s Server) Progress {
	p := Progress{At: s.Since}
	switch s.Phase {
	case Queued:
		p.Step, p.Message = "queue", "Waiting for a turn"
	case Starting:
		p.Step, p.Message, p.Percent = "wait", "Your server is starting up", 40
	case Ready, Paused:
		p.Step, p.Message, p.Percent, p.Done = "ready", "Your server is ready", 100, true
	case Failed:
		p.Step, p.Message, p.Log, p.Done, p.Failed = "failed", s.Reason, s.LogTail, true, true
	default:
		p.Step, p.Message, p.Done, p.Failed = "stopped", "This server is not running", true, true
	}
	return p
}
