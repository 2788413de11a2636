package hub

import (
	"context"
	"crypto/rand"
	"fmt"
	"iter"
	"strings"
	"time"
)

// RunID names a run: 26 of a-z and 2-7, random. Only [ParseRunID] and [Runs] make one.
type RunID string

// ParseRunID reads an id. What none can be is NotFound, as what there is not.
func ParseRunID(s string) (RunID, error) {
	if len(s) != 26 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz234567") != "" {
		return "", errNoRun
	}
	return RunID(s), nil
}

func newRunID() RunID { return RunID(strings.ToLower(rand.Text())) }

var errNoRun = &Error{Kind: NotFound, Op: "find run", Message: "there is no such run", Remedy: "results are kept for a while only; run the code again"}

// RunStatus is how far a run is, or what ended it. What ended it is what was seen from outside its
// container; nothing that the code prints has a part in it.
type RunStatus string

// The statuses. All but the first two are the end.
const (
	RunQueued   RunStatus = "queued"
	RunRunning  RunStatus = "running"
	RunFinished RunStatus = "finished"  // the program ended by itself; its exit code tells how
	RunCPUTime  RunStatus = "cpu_time"  // it used up its CPU time
	RunWallTime RunStatus = "wall_time" // it took too long
	RunMemory   RunStatus = "memory"    // it was killed for want of memory
	RunOutput   RunStatus = "output"    // it printed too much
	RunCanceled RunStatus = "canceled"  // somebody ended it
	RunFailed   RunStatus = "failed"    // it could not be run, which is our fault
)

// Over tells whether the status is the end.
func (s RunStatus) Over() bool { return s != RunQueued && s != RunRunning }

// RunLimits are a run's hard caps; none is zero.
type RunLimits struct {
	CPU       time.Duration `json:"cpu"`        // of all its processes together
	Wall      time.Duration `json:"wall"`       // from its start
	Memory    int64         `json:"memory"`     // bytes; what is in files counts, swap is off
	Processes int64         `json:"processes"`  // and threads
	FileSize  int64         `json:"file_size"`  // bytes of one file
	Disk      int64         `json:"disk"`       // bytes of all files, in memory
	Output    int64         `json:"output"`     // bytes of stdout and stderr together
	OpenFiles int64         `json:"open_files"` // of a process
	Stack     int64         `json:"stack"`      // bytes of a process's
}

// runLimits are the caps by the names that callers know them by: how many of ours one of theirs is, and the least
// with which a program runs at all.
var runLimits = []struct {
	name  string
	unit  float64
	least float64
	of    func(*RunLimits) *int64
}{
	{"cpu_seconds", float64(time.Second), 0.1, func(l *RunLimits) *int64 { return (*int64)(&l.CPU) }},
	{"wall_seconds", float64(time.Second), 0.1, func(l *RunLimits) *int64 { return (*int64)(&l.Wall) }},
	{"memory", 1, 32 << 20, func(l *RunLimits) *int64 { return &l.Memory }},
	{"processes", 1, 1, func(l *RunLimits) *int64 { return &l.Processes }},
	{"file_size", 1, 4096, func(l *RunLimits) *int64 { return &l.FileSize }},
	{"disk", 1, 1 << 20, func(l *RunLimits) *int64 { return &l.Disk }},
	{"output", 1, 1, func(l *RunLimits) *int64 { return &l.Output }},
	{"open_files", 1, 16, func(l *RunLimits) *int64 { return &l.OpenFiles }},
	{"stack", 1, 256 << 10, func(l *RunLimits) *int64 { return &l.Stack }},
}

// RunPolicy is what the operator decided about runs.
type RunPolicy struct {
	Enabled    bool
	Image      string
	CPUs       float64   // that one run has at once
	Default    RunLimits // where the caller names none
	Most       RunLimits // that a caller can name
	Concurrent int       // that run at once, at each hub
	PerPerson  int       // of one person at once at each hub, those in line included
	Line       int       // in line at each hub
	Kept       int       // results kept of one person
	Keep       time.Duration
}

// Limits are the default ones with those that the caller names in their place. Errors are Invalid, with the
// field, as "limits.memory".
func (p RunPolicy) Limits(asked map[string]float64) (RunLimits, error) {
	l, most := p.Default, p.Most
	known := 0
	for _, x := range runLimits {
		v, given := asked[x.name]
		if !given {
			continue
		}
		known++
		top := float64(*x.of(&most)) / x.unit
		if !(v >= x.least && v <= top) { // NaN is neither
			return RunLimits{}, &Error{
				Kind: Invalid, Op: "read limits", Field: "limits." + x.name, Message: "this limit is out of range",
				Remedy: fmt.Sprintf("give %v to %v, or leave it out", x.least, top),
			}
		}
		*x.of(&l) = int64(v * x.unit)
	}
	if known == len(asked) {
		return l, nil
	}
	for name := range asked {
		if !isRunLimit(name) {
			return RunLimits{}, &Error{Kind: Invalid, Op: "read limits", Field: "limits", Message: "there is no limit of one of these names", Remedy: "use " + runLimitNames()}
		}
	}
	return l, nil
}

func isRunLimit(name string) bool {
	for _, x := range runLimits {
		if x.name == name {
			return true
		}
	}
	return false
}

func runLimitNames() string {
	names := make([]string, len(runLimits))
	for i, x := range runLimits {
		names[i] = x.name
	}
	return strings.Join(names, ", ")
}

// Named gives the limits by the names that callers know them by.
func (l RunLimits) Named() map[string]float64 {
	named := map[string]float64{}
	for _, x := range runLimits {
		named[x.name] = float64(*x.of(&l)) / x.unit
	}
	return named
}

// Above tells which limit is above another's, by its name; "" when none is.
func (l RunLimits) Above(most RunLimits) string {
	for _, x := range runLimits {
		if *x.of(&l) > *x.of(&most) {
			return x.name
		}
	}
	return ""
}

// TooSmall tells which limit is too small for any program to run, by its name; "" when none is.
func (l RunLimits) TooSmall() string {
	for _, x := range runLimits {
		if float64(*x.of(&l)) < x.least*x.unit {
			return x.name
		}
	}
	return ""
}

// RunSpec is a program that somebody wants to have run.
type RunSpec struct {
	Code   []byte // Python
	Argv   []string
	Stdin  []byte
	Limits RunLimits
}

// Caps of a [RunSpec], in bytes; of arguments in their number too.
const (
	MaxRunCode  = 512 << 10
	MaxRunStdin = 512 << 10
	maxRunArgs  = 128
	maxRunArgv  = 64 << 10
)

// check tells what is wrong with a spec, limits aside.
func (s RunSpec) check() error {
	bad := func(field, message, remedy string) error {
		return &Error{Kind: Invalid, Op: "read run", Field: field, Message: message, Remedy: remedy}
	}
	switch {
	case len(s.Code) == 0:
		return bad("code", "there is no code", "send the text of a Python program")
	case len(s.Code) > MaxRunCode:
		return bad("code", "the code is too long", fmt.Sprintf("send %d KiB at most", MaxRunCode>>10))
	case len(s.Stdin) > MaxRunStdin:
		return bad("stdin", "the input is too long", fmt.Sprintf("send %d KiB at most", MaxRunStdin>>10))
	case len(s.Argv) > maxRunArgs:
		return bad("argv", "there are too many arguments", fmt.Sprintf("send %d at most", maxRunArgs))
	}
	size := 0
	for _, a := range s.Argv {
		size += len(a)
		if strings.ContainsRune(a, 0) {
			return bad("argv", "an argument holds a NUL, which no program can be given", "leave it out")
		}
	}
	if size > maxRunArgv {
		return bad("argv", "the arguments are too long", fmt.Sprintf("send %d KiB at most", maxRunArgv>>10))
	}
	return nil
}

// RunResult is what came of a run.
type RunResult struct {
	Status     RunStatus     `json:"status"`
	ExitCode   int           `json:"exit_code"` // where Status is finished; 128 and more: of a signal, as shells tell it
	Stdout     []byte        `json:"stdout"`
	Stderr     []byte        `json:"stderr"`
	StdoutCut  bool          `json:"stdout_cut"`
	StderrCut  bool          `json:"stderr_cut"`
	CPU        time.Duration `json:"cpu"` // negative: not known, as is the next but one
	Wall       time.Duration `json:"wall"`
	PeakMemory int64         `json:"peak_memory"` // bytes, what is in files included
}

// Run is a record of one.
type Run struct {
	ID      RunID     `json:"id"`
	Owner   UserName  `json:"owner"`
	OwnerID UserID    `json:"owner_id"` // a name can change hands
	Limits  RunLimits `json:"limits"`
	Created time.Time `json:"created"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	Result  RunResult `json:"result"`
	Why     string    `json:"why,omitempty"` // of RunFailed, for people
}

// RunJob is all that a driver needs to run a program.
type RunJob struct {
	RunSpec

	ID    RunID
	Image string
	CPUs  float64 // at once
	Began func()  // called when the program starts; must not block
}

// Runner is implemented by drivers that can run a program by itself: in walls of its own, without a network, a
// home or a secret, and with nothing left of it afterwards. Methods are safe for concurrent use, and their
// errors are those of [Spawner].
type Runner interface {
	// RunCode runs a program to its end, and removes all that it made. Its status is Finished or the limit
	// that ended it. When ctx ends first the program is killed, and the error is ctx's.
	RunCode(ctx context.Context, job RunJob) (RunResult, error)
	// RunsLeft yields every run of this deployment that something is there of, whoever began it.
	RunsLeft(ctx context.Context) iter.Seq2[RunID, error]
	// RemoveRun kills a run, if it runs, and removes what there is of it; it succeeds when nothing is.
	RemoveRun(ctx context.Context, id RunID) error
}

// RunStore keeps records of runs for a while.
type RunStore interface {
	// CreateRun adds a record for at most ttl; Conflict when there is another of this id, Invalid when ttl is 0
	// or less.
	CreateRun(ctx context.Context, r Run, ttl time.Duration) error
	// UpdateRun replaces a record, and keeps it for ttl from now; NotFound when it was deleted or is over:
	// a record never comes back. Invalid when ttl is 0 or less.
	UpdateRun(ctx context.Context, r Run, ttl time.Duration) error
	// Run finds a record; NotFound.
	Run(ctx context.Context, id RunID) (Run, error)
	// DeleteRun forgets a record; NotFound when there is none.
	DeleteRun(ctx context.Context, id RunID) error
	// Runs yields a person's records, or everybody's for the zero name, the newest first, each without what
	// the program printed.
	Runs(ctx context.Context, owner UserName) iter.Seq2[Run, error]
}
