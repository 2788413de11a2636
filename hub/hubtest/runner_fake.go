package hubtest

import (
	"context"
	"iter"
	"maps"
	"slices"
	"sync"

	"carrel/hub"
)

// FakeRunner implements [hub.Runner] with nothing behind it. It starts no goroutine, so that it lives in a
// synctest bubble.
type FakeRunner struct {
	mu    sync.Mutex
	does  func(context.Context, hub.RunJob) (hub.RunResult, error)
	there map[hub.RunID]bool
	now   int
	most  int
	jobs  []hub.RunJob
}

// NewRunner makes one that runs everything at once, with the code for output.
func NewRunner() *FakeRunner {
	return &FakeRunner{there: map[hub.RunID]bool{}, does: func(_ context.Context, job hub.RunJob) (hub.RunResult, error) {
		return hub.RunResult{Status: hub.RunFinished, Stdout: job.Code, CPU: 1, PeakMemory: 1}, nil
	}}
}

// Does has programs do something else.
func (f *FakeRunner) Does(does func(context.Context, hub.RunJob) (hub.RunResult, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.does = does
}

// Jobs are those that began, in order, and how many were at work at once at the most.
func (f *FakeRunner) Jobs() (jobs []hub.RunJob, most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.jobs), f.most
}

// Leave has something of a run be there, as after a kill.
func (f *FakeRunner) Leave(id hub.RunID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.there[id] = true
}

// There lists what there is.
func (f *FakeRunner) There() []hub.RunID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.there))
}

// RunCode implements [hub.Runner].
func (f *FakeRunner) RunCode(ctx context.Context, job hub.RunJob) (hub.RunResult, error) {
	f.mu.Lock()
	does := f.does
	f.there[job.ID] = true
	f.jobs = append(f.jobs, job)
	f.now++
	f.most = max(f.most, f.now)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.now--
		delete(f.there, job.ID)
	}()
	job.Began()
	return does(ctx, job)
}

// RunsLeft implements [hub.Runner].
func (f *FakeRunner) RunsLeft(context.Context) iter.Seq2[hub.RunID, error] {
	return func(yield func(hub.RunID, error) bool) {
		for _, id := range f.There() {
			if !yield(id, nil) {
				return
			}
		}
	}
}

// RemoveRun implements [hub.Runner].
func (f *FakeRunner) RemoveRun(_ context.Context, id hub.RunID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.there, id)
	return nil
}
