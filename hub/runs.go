package hub

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"time"
)

const (
	// runLease is how long a run is taken to be under way after the last word of its hub.
	runLease = 12 * time.Second
	// runBeat is how often a hub says so, and looks whether somebody ended the run elsewhere.
	runBeat = 3 * time.Second
	// runSweep is how often what killed hubs left of runs is looked for.
	runSweep = 10 * time.Second
	// runRecord is how long the record of a run is kept that is not over: longer than one waits and takes.
	runRecord = 24 * time.Hour
	// listedRuns is how many records a listing reads at most.
	listedRuns = 200
)

// RunsConfig is what [NewRuns] needs; every field is required, but for Runner: without one nothing can be run.
type RunsConfig struct {
	Runner Runner
	Store  RunStore
	Leases Leases
	Policy func() Policy
	Logger *slog.Logger
}

// Runs has programs run: a limited number at once, the rest in a fair line. A run belongs to the hub that took
// it, which holds a lease on it meanwhile; what is left of one whose hub was killed is removed by any other, or
// the next, and its record says so.
type Runs struct {
	cfg   RunsConfig
	queue *startQueue
	wg    sync.WaitGroup

	mu      sync.Mutex
	closing bool
	here    map[RunID]*liveRun
	of      map[UserName]int // runs of a person's here
}

// liveRun is a run that is this hub's.
type liveRun struct {
	owner  UserName
	cancel context.CancelCauseFunc
	done   chan struct{}
	last   Run // once done
}

// NewRuns checks the configuration; it starts nothing.
func NewRuns(cfg RunsConfig) (*Runs, error) {
	if cfg.Store == nil || cfg.Leases == nil || cfg.Policy == nil || cfg.Logger == nil {
		return nil, Errorf(Internal, "make runs", "a part is missing")
	}
	m := &Runs{cfg: cfg, here: map[RunID]*liveRun{}, of: map[UserName]int{}}
	m.queue = newStartQueue(func() int { return m.Policy().Concurrent })
	m.queue.turns = true
	return m, nil
}

// Policy is the operator's policy as it stands; nothing is enabled where nothing can be run.
func (m *Runs) Policy() RunPolicy {
	p := m.cfg.Policy().Runs
	p.Enabled = p.Enabled && m.cfg.Runner != nil
	return p
}

// Run removes what killed hubs left until ctx ends; then it ends every run that is this hub's, and waits for them.
func (m *Runs) Run(ctx context.Context) error {
	tick := time.NewTicker(runSweep)
	defer tick.Stop()
	for m.cfg.Runner != nil && ctx.Err() == nil {
		m.sweep(ctx)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	<-ctx.Done()
	m.mu.Lock()
	m.closing = true
	for _, r := range m.here {
		r.cancel(errShutdown)
	}
	m.mu.Unlock()
	m.wg.Wait()
	return ctx.Err()
}

// sweep removes runs that are there and nobody's.
func (m *Runs) sweep(ctx context.Context) {
	for id, err := range m.cfg.Runner.RunsLeft(ctx) {
		if err == nil && !m.isHere(id) {
			err = m.sweepOne(ctx, id)
		}
		if err != nil && ctx.Err() == nil {
			m.cfg.Logger.WarnContext(ctx, "runs not swept; tried again later", "run", string(id), "error", err)
			return
		}
	}
}

func (m *Runs) sweepOne(ctx context.Context, id RunID) error {
	lease, err := m.cfg.Leases.Acquire(ctx, runLeaseName(id), runLease)
	if KindOf(err) == Conflict && err != nil {
		return nil // another hub's
	}
	if err != nil {
		return err
	}
	defer m.release(ctx, id, lease)
	if err := m.cfg.Runner.RemoveRun(ctx, id); err != nil {
		return err
	}
	m.cfg.Logger.InfoContext(ctx, "run removed that a hub left", "run", string(id))
	return nil
}

func runLeaseName(id RunID) string { return "run:" + string(id) }

// release gives a lease back, whatever became of the caller.
func (m *Runs) release(ctx context.Context, id RunID, lease Lease) {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), runLease)
	defer done()
	if err := lease.Release(ctx); err != nil {
		m.cfg.Logger.WarnContext(ctx, "lease of a run not given back; it ends by itself", "run", string(id), "error", err)
	}
}

func (m *Runs) isHere(id RunID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.here[id] != nil
}

// Submit takes a run in, and returns its record, which is queued. Errors: Invalid, with the field; NotFound where
// runs are off; TooMany when the person has too many, or the line is full; Unavailable when the hub is closing.
func (m *Runs) Submit(ctx context.Context, by Principal, spec RunSpec) (Run, error) {
	p := m.Policy()
	if !p.Enabled {
		return Run{}, &Error{Kind: NotFound, Op: "take run", Message: "code is not run here", Remedy: "an administrator can set runs.enabled"}
	}
	if err := spec.check(); err != nil {
		return Run{}, err
	}
	r := Run{ID: newRunID(), Owner: by.User, OwnerID: by.UserID, Limits: spec.Limits, Created: time.Now().UTC(), Result: RunResult{Status: RunQueued, CPU: -1, PeakMemory: -1}}
	live, runCtx, err := m.enter(ctx, p, r)
	if err != nil {
		return Run{}, err
	}
	lease, err := m.cfg.Leases.Acquire(ctx, runLeaseName(r.ID), runLease)
	if err == nil {
		if err = m.cfg.Store.CreateRun(ctx, r, runRecord); err != nil {
			m.release(ctx, r.ID, lease)
		}
	}
	if err != nil {
		m.leave(r.ID, live, r)
		return Run{}, Wrap(Unavailable, "take run", err)
	}
	m.forgetOldest(ctx, p, r.Owner)
	job := RunJob{RunSpec: spec, ID: r.ID, Image: p.Image, CPUs: p.CPUs}
	go func() { // joined by Run, through m.wg
		defer m.leave(r.ID, live, r)
		live.last = m.fly(runCtx, live, lease, r, job)
	}()
	return r, nil
}

// enter counts a run in.
func (m *Runs) enter(ctx context.Context, p RunPolicy, r Run) (*liveRun, context.Context, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	tooMany := func(message string) (*liveRun, context.Context, error) {
		return nil, nil, &Error{Kind: TooMany, Op: "take run", Message: message, Remedy: "try again in a moment"}
	}
	switch {
	case m.closing:
		return nil, nil, errClosing()
	case m.of[r.Owner] >= p.PerPerson:
		return tooMany("you have as many runs under way as one person may")
	case len(m.here) >= p.Concurrent+p.Line:
		return tooMany("too many runs are waiting")
	}
	runCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	live := &liveRun{owner: r.Owner, cancel: cancel, done: make(chan struct{}), last: r}
	m.here[r.ID] = live
	m.of[r.Owner]++
	m.wg.Add(1)
	return live, runCtx, nil
}

// leave counts a run out.
func (m *Runs) leave(id RunID, live *liveRun, r Run) {
	live.cancel(nil)
	m.mu.Lock()
	delete(m.here, id)
	if m.of[r.Owner]--; m.of[r.Owner] <= 0 {
		delete(m.of, r.Owner)
	}
	m.mu.Unlock()
	close(live.done)
	m.wg.Done()
}

// forgetOldest keeps a person's results from filling the store.
func (m *Runs) forgetOldest(ctx context.Context, p RunPolicy, owner UserName) {
	have := 0
	for old, err := range m.cfg.Store.Runs(ctx, owner) {
		if err == nil {
			if have++; have <= p.Kept || !old.Result.Status.Over() {
				continue
			}
			err = m.cfg.Store.DeleteRun(ctx, old.ID)
		}
		if err != nil && KindOf(err) != NotFound {
			m.cfg.Logger.WarnContext(ctx, "old results not forgotten; they end by themselves", "user", owner.String(), "error", err)
			return
		}
	}
}

// fly brings a run to its end, and gives the record of it.
func (m *Runs) fly(ctx context.Context, live *liveRun, lease Lease, r Run, job RunJob) Run {
	beatCtx, stop := context.WithCancel(ctx)
	var beating sync.WaitGroup
	beating.Go(func() { m.beat(beatCtx, live, lease, job.ID) })
	r = m.work(ctx, r, job)
	stop()
	beating.Wait()
	r.Ended = time.Now().UTC()
	saveCtx, done := context.WithTimeout(context.WithoutCancel(ctx), runLease)
	defer done()
	m.save(saveCtx, r, m.Policy().Keep)
	m.release(ctx, r.ID, lease)
	m.cfg.Logger.InfoContext(ctx, "run", "run", string(r.ID), "user", r.Owner.String(), "status", string(r.Result.Status), "exit_code", r.Result.ExitCode, "cpu", r.Result.CPU, "wall", r.Result.Wall)
	return r
}

// save writes a record; one that was deleted stays so.
func (m *Runs) save(ctx context.Context, r Run, ttl time.Duration) {
	if err := m.cfg.Store.UpdateRun(ctx, r, ttl); err != nil && KindOf(err) != NotFound {
		m.cfg.Logger.WarnContext(ctx, "run not recorded", "run", string(r.ID), "error", err)
	}
}

// work waits for a turn and has the driver run the program.
func (m *Runs) work(ctx context.Context, r Run, job RunJob) Run {
	done, err := m.queue.wait(ctx, r.Owner, func(int) {})
	if err != nil {
		return m.failed(ctx, r, err)
	}
	defer done()
	var began time.Time
	job.Began = func() { began = time.Now().UTC() }
	r.Started, r.Result.Status = time.Now().UTC(), RunRunning
	m.save(ctx, r, runRecord)
	result, err := m.cfg.Runner.RunCode(ctx, job)
	if !began.IsZero() {
		r.Started = began
	}
	if err != nil {
		return m.failed(ctx, r, err)
	}
	r.Result = result
	return r
}

// Why a run's context was cancelled.
var (
	errRunEnded = errors.New("somebody ended the run")
	errRunLost  = errors.New("the lease on the run was lost")
)

// failed is the record of a run that did not come to an end of its own.
func (m *Runs) failed(ctx context.Context, r Run, err error) Run {
	r.Result = RunResult{Status: RunFailed, CPU: -1, PeakMemory: -1}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errRunEnded):
		r.Result.Status = RunCanceled
	case errors.Is(cause, errShutdown):
		r.Why = "the hub was stopped meanwhile; run it again"
	default:
		r.Why, _ = Public(err)
		if r.Why == "" {
			r.Why = "something went wrong on our side"
		}
		m.cfg.Logger.ErrorContext(ctx, "run failed", "run", string(r.ID), "error", errors.Join(err, cause))
	}
	return r
}

// beat holds the lease until ctx ends. A run that was deleted, or whose lease was lost, ends.
func (m *Runs) beat(ctx context.Context, live *liveRun, lease Lease, id RunID) {
	tick := time.NewTicker(runBeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := lease.Extend(ctx, runLease); err != nil && KindOf(err) == Conflict {
			live.cancel(errRunLost)
			return
		}
		if _, err := m.cfg.Store.Run(ctx, id); err != nil && KindOf(err) == NotFound {
			live.cancel(errRunEnded)
			return
		}
	}
}

// Await waits until a run of this hub's is over, or ctx ends, and gives its record as it is then.
func (m *Runs) Await(ctx context.Context, id RunID) (Run, error) {
	m.mu.Lock()
	live := m.here[id]
	m.mu.Unlock()
	if live == nil {
		return m.record(context.WithoutCancel(ctx), id)
	}
	select {
	case <-live.done:
		return live.last, nil
	case <-ctx.Done():
		return m.record(context.WithoutCancel(ctx), id)
	}
}

// Result gives a person's run; NotFound for another's.
func (m *Runs) Result(ctx context.Context, by Principal, id RunID) (Run, error) {
	r, err := m.record(ctx, id)
	if err != nil {
		return Run{}, err
	}
	if !r.isOf(by) {
		return Run{}, errNoRun
	}
	return r, nil
}

func (r Run) isOf(p Principal) bool { return r.Owner == p.User && r.OwnerID == p.UserID }

// record reads a record. One whose hub was killed says so from now on.
func (m *Runs) record(ctx context.Context, id RunID) (Run, error) {
	r, err := m.cfg.Store.Run(ctx, id)
	if err != nil && KindOf(err) == NotFound {
		return Run{}, errNoRun
	}
	if err != nil || r.Result.Status.Over() || m.isHere(id) {
		return r, err
	}
	lease, err := m.cfg.Leases.Acquire(ctx, runLeaseName(id), runLease)
	if err != nil && KindOf(err) == Conflict {
		return r, nil
	}
	if err != nil {
		return Run{}, err
	}
	defer m.release(ctx, id, lease)
	if r, err = m.cfg.Store.Run(ctx, id); err != nil || r.Result.Status.Over() { // it came to its end just now
		return r, err
	}
	r.Ended, r.Result.Status, r.Why = time.Now().UTC(), RunFailed, "the hub that had it was killed; run it again"
	m.save(ctx, r, m.Policy().Keep)
	return r, nil
}

// Listed yields a person's runs, or everybody's for the zero name, the newest first and not too many.
func (m *Runs) Listed(ctx context.Context, owner UserName) iter.Seq2[Run, error] {
	return func(yield func(Run, error) bool) {
		n := 0
		for r, err := range m.cfg.Store.Runs(ctx, owner) {
			if n++; n > listedRuns || !yield(r, err) {
				return
			}
		}
	}
}

// End ends a run, wherever it is, and forgets it. Who may end everybody's says so by all; NotFound for what is
// another's else.
func (m *Runs) End(ctx context.Context, by Principal, all bool, id RunID) error {
	r, err := m.cfg.Store.Run(ctx, id)
	if err != nil && KindOf(err) == NotFound || err == nil && !all && !r.isOf(by) {
		return errNoRun
	}
	if err != nil {
		return err
	}
	m.mu.Lock()
	live := m.here[id]
	m.mu.Unlock()
	if live != nil {
		live.cancel(errRunEnded)
	}
	if err := m.cfg.Store.DeleteRun(ctx, id); err != nil && KindOf(err) != NotFound {
		return err
	}
	return nil
}
