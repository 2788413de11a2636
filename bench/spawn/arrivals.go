package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"carrel/internal/deployed"
	"carrel/internal/measured"
	"carrel/internal/program"
)

// crowd is how visitors come.
type crowd struct {
	PerMinute float64       `json:"arrivals_per_minute"`
	For       time.Duration `json:"for_ns"`
	Stay      time.Duration `json:"stay_ns"`
	Pool      int           `json:"pool"`
	Max       int           `json:"ceiling"`
}

// An arrival is one visitor's way from the click to the goodbye.
type arrival struct {
	N    int     `json:"n"`
	At   float64 `json:"at_seconds"` // of the click, since the first
	Name string  `json:"name"`
	foretold
	Waited float64 `json:"waited_seconds"` // from the click to JupyterLab's page
	Cell   float64 `json:"cell_seconds"`   // then, for a kernel's start and a cell
	Right  bool    `json:"told_right"`
	Error  string  `json:"error,omitempty"`
	double bool
}

// What is told counts as right when it was told early, and what was left to wait then was within a share of
// it, or within the step in which the shortest times are told. Who waits no longer than one such step may be told
// nothing.
const (
	toldWithin = 0.30
	toldStep   = 5.0 // seconds
	toldEarly  = 0.25
)

func (a arrival) right() bool { return a.within(toldStep) }

// within tells the same with another step.
func (a arrival) within(step float64) bool {
	if a.Error != "" {
		return false
	}
	if a.Shown == "" {
		return a.Waited <= toldStep
	}
	had := a.Waited - a.After
	return a.After <= max(toldStep, toldEarly*a.Waited) && math.Abs(a.Seconds-had) <= max(toldWithin*had, step)
}

// A crowdReport is the file that `spawn arrivals` writes.
type crowdReport struct {
	Started time.Time           `json:"started"`
	Machine string              `json:"machine"`
	Version string              `json:"version"`
	Crowd   crowd               `json:"crowd"`
	Before  deployed.Leftovers  `json:"before"`
	After   deployed.Leftovers  `json:"after"`
	Keys    map[string][2]int   `json:"keys_before_and_after"`
	Memory  []deployed.Flatness `json:"memory"`
	Faults  []string            `json:"faults"`
	All     []arrival           `json:"arrivals"`
	Samples []deployed.Sample   `json:"samples"`
}

// runArrivals has visitors come faster than the machine can serve them, and checks that each is served
// alone, waits as long as they were told, and leaves nothing.
func runArrivals(ctx context.Context, args []string, out io.Writer) (err error) {
	o := options{limits: limits{CPUs: 1, Memory: 512 << 20}}
	r := &crowdReport{Machine: machine()}
	flags := flag.NewFlagSet("spawn arrivals", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Float64Var(&r.Crowd.PerMinute, "rate", 60, "arrivals a minute")
	flags.DurationVar(&r.Crowd.For, "for", 5*time.Minute, "how long they come")
	flags.DurationVar(&r.Crowd.Stay, "stay", 20*time.Second, "how long each stays")
	flags.IntVar(&r.Crowd.Pool, "pool", 10, "servers kept ready")
	flags.IntVar(&r.Crowd.Max, "max", 40, "visitors with a notebook at once")
	flags.StringVar(&o.image, "image", "", "kernel image; empty: the one that carrel builds")
	flags.StringVar(&o.binary, "carrel", filepath.Join("bin", "carrel"), "the carrel to measure")
	flags.StringVar(&o.out, "o", filepath.Join("bin", "bench", "arrivals.json"), "file for every single arrival")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if r.Crowd.PerMinute <= 0 || r.Crowd.For < 10*time.Second || r.Crowd.Pool < 1 || r.Crowd.Max < 1 {
		return errors.New("give a rate, ten seconds or more, a pool and a ceiling")
	}
	work, err := workDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if o.image == "" {
		if o.image, err = ownImage(ctx, o.binary, out); err != nil {
			return err
		}
	}
	c := newCarrel(o, r.Crowd.Pool, filepath.Join(work, "carrel"))
	c.max = r.Crowd.Max
	defer func() {
		down, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Minute)
		defer cancel()
		err = errors.Join(err, c.down(down))
	}()
	if err := c.up(ctx, []string{"person01"}); err != nil {
		return err
	}
	r.Started, r.Version = time.Now(), c.version(ctx)
	if err := r.measure(ctx, c, out); err != nil {
		return err
	}
	if err := errors.Join(measured.Write(o.out, r), c.keepLog(filepath.Dir(o.out))); err != nil {
		return err
	}
	fmt.Fprintf(out, "every arrival is in %s\n", o.out)
	return r.print(out)
}

// measure is the whole run between the first click and the last trace.
func (r *crowdReport) measure(ctx context.Context, c *carrel, out io.Writer) error {
	// One visitor before all has every file and key made that is made once.
	if first := (crowd{}).visit(ctx, c.base); first.Error != "" {
		return errors.New(first.Error)
	}
	if err := c.settle(ctx); err != nil {
		return err
	}
	if err := c.emptied(ctx, 0); err != nil {
		return err
	}
	before, err := c.count(ctx)
	if err != nil {
		return err
	}
	if r.Before, err = c.Count(ctx); err != nil {
		return err
	}
	r.Before.Keys = sum(before)
	watched, enough := context.WithCancel(ctx)
	var watching sync.WaitGroup
	begun := time.Now()
	watching.Go(func() { r.Samples = c.watch(watched, begun) })
	defer watching.Wait()
	defer enough()
	fmt.Fprintf(out, "%s\n%.0f arrivals a minute for %v, each staying %v; %d servers kept ready, at most %d\nbefore: %v\n", r.Version, r.Crowd.PerMinute, r.Crowd.For, r.Crowd.Stay, r.Crowd.Pool, r.Crowd.Max, r.Before)
	r.All = r.Crowd.come(ctx, c.base, out)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	after, err := r.purged(ctx, c, before)
	if err != nil {
		return err
	}
	enough()
	watching.Wait()
	r.Keys = map[string][2]int{}
	for kind := range maps.Keys(after) {
		r.Keys[kind] = [2]int{before[kind], after[kind]}
	}
	r.judge()
	return nil
}

// purged waits until no more is there than before, and gives what Redis keeps then.
func (r *crowdReport) purged(ctx context.Context, c *carrel, before map[string]int) (map[string]int, error) {
	for end := time.Now().Add(3 * time.Minute); ; {
		after, err := c.count(ctx)
		if err != nil {
			return nil, err
		}
		if r.After, err = c.Count(ctx); err != nil {
			return nil, err
		}
		r.After.Keys = sum(after)
		if r.clean(before, after) || time.Now().After(end) {
			return after, nil
		}
		if err := program.Pause(ctx, time.Second); err != nil {
			return nil, err
		}
	}
}

// clean tells whether nothing is more than it was, and as many servers wait.
func (r *crowdReport) clean(before, after map[string]int) bool {
	for kind, n := range after {
		if n > before[kind] {
			return false
		}
	}
	have, had := r.After, r.Before
	return have.Containers == had.Containers && have.Networks <= had.Networks && have.Volumes <= had.Volumes && have.Mounts <= had.Mounts && have.Loops <= had.Loops && have.Files <= had.Files && have.Processes <= had.Processes
}

func sum(kinds map[string]int) (n int) {
	for v := range maps.Values(kinds) {
		n += v
	}
	return n
}

// come has everybody come, each at their time, and waits for the last goodbye.
func (w crowd) come(ctx context.Context, base string, out io.Writer) []arrival {
	n := int(w.PerMinute * w.For.Minutes())
	all := make([]arrival, n)
	var there sync.WaitGroup
	begun := time.Now()
	for i := range n {
		due := begun.Add(time.Duration(float64(i) * float64(time.Minute) / w.PerMinute))
		if program.Pause(ctx, time.Until(due)) != nil {
			break
		}
		there.Go(func() {
			all[i] = w.visit(ctx, base)
			all[i].N, all[i].At = i, due.Sub(begun).Seconds()
			all[i].Right = all[i].right()
			if a := all[i]; a.Error != "" {
				fmt.Fprintf(out, "WRONG arrival %d: %s\n", i, strings.ReplaceAll(a.Error, "\n", "; "))
			}
		})
	}
	there.Wait()
	return all
}

// visit is one arrival.
func (w crowd) visit(ctx context.Context, base string) (a arrival) {
	g, err := newGuest(base)
	if err != nil {
		a.Error = err.Error()
		return a
	}
	waited, err := g.come(ctx)
	a.foretold, a.Waited = g.told, waited.Seconds()
	if err != nil {
		a.Error = err.Error()
		return a
	}
	a.Name = g.name()
	opened := time.Now()
	if err = g.use(ctx); err == nil {
		a.Cell = time.Since(opened).Seconds()
		err = program.Pause(ctx, time.Until(opened.Add(w.Stay)))
	}
	var d *double
	a.double = errors.As(err, &d)
	if err = errors.Join(err, g.leave(ctx)); err != nil {
		a.Error = err.Error()
	}
	return a
}
