// Command testrun is what `make test` runs: every check of the project in order, stopping at the
// first that fails.
//
// It owns the order of the steps, the finding of integration tests and fuzz targets (nothing is
// listed by hand), and the honest count at the end: each test that ran counts once, a test with
// subtests counts as its subtests, and a package that fails without a failing test counts as one
// failure. It refuses to own what a check checks, and the setting up of the machine: that is
// deploy/bootstrap's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, out io.Writer) int {
	flags := flag.NewFlagSet("testrun", flag.ContinueOnError)
	flags.SetOutput(out)
	only := flags.String("only", "", "run these steps only, separated by commas")
	fuzzTime := flags.Duration("fuzztime", 3*time.Second, "fuzz each target for this long")
	logs := flags.String("logs", filepath.Join("bin", "test"), "directory for the steps' full output")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if err := os.MkdirAll(*logs, 0o750); err != nil {
		fmt.Fprintln(out, err)
		return 1
	}
	r := &runner{out: out, logs: *logs, fuzzTime: *fuzzTime, count: newCount()}
	chosen, err := choose(r.steps(), *only)
	if err != nil {
		fmt.Fprintln(out, err)
		return 2
	}
	return r.all(ctx, chosen)
}

// A step is one kind of check. It returns a note for its line, and an error when it failed.
type step struct {
	name   string
	does   string
	run    func(context.Context) (string, error)
	beside bool // it runs beside the step before: the two together leave the machine idle less
}

// A runner runs steps and gathers what they counted.
type runner struct {
	logs     string
	fuzzTime time.Duration

	mu         sync.Mutex // of what follows: steps run side by side
	out        io.Writer
	count      *count
	notChecked []string
}

// Write writes to the output, whole.
func (r *runner) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Write(b)
}

// say writes a line, or several.
func (r *runner) say(format string, args ...any) { fmt.Fprintf(r, format+"\n", args...) }

// add takes in what a step counted.
func (r *runner) add(c *count) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count.merge(c)
}

// steps is the order of `make test`: what is quick and tells most comes first.
func (r *runner) steps() []step {
	return []step{
		{name: "format", does: "gofmt", run: r.format},
		{name: "build", does: "go build, bin/carrel", run: r.build},
		{name: "vet", does: "go vet, with and without integration tests", run: r.vet},
		{name: "unit", does: "unit and conformance tests, -race", run: r.unit},
		{name: "lint", does: "golangci-lint", run: r.lint},
		{name: "vuln", does: "govulncheck", run: r.vuln},
		{name: "engine", does: "real Docker, -race", run: r.engine},
		{name: "services", does: "real Redis, providers and browsers, -race", run: r.services, beside: true},
		{name: "e2e", does: "the whole, in a real browser", run: r.e2e},
		{name: "bench", does: "a few cold starts, timed", run: r.bench},
		{name: "fuzz", does: "every fuzz target, briefly", run: r.fuzz},
		{name: "soak", does: "thousands of clients while everything is killed and restarted, five minutes", run: r.soak, beside: true},
	}
}

func choose(all []step, only string) ([]step, error) {
	if only == "" {
		return all, nil
	}
	var chosen []step
	for name := range strings.SplitSeq(only, ",") {
		found := false
		for _, s := range all {
			if s.name == name {
				chosen, found = append(chosen, s), true
			}
		}
		if !found {
			return nil, fmt.Errorf("testrun: there is no step %q", name)
		}
	}
	return chosen, nil
}

// all runs the steps and prints a line for each; the last line it prints counts the tests.
func (r *runner) all(ctx context.Context, steps []step) int {
	start := time.Now()
	var failed []string
	for len(steps) > 0 && len(failed) == 0 {
		n := 1
		for n < len(steps) && steps[n].beside {
			n++
		}
		failed = r.together(ctx, steps[:n])
		steps = steps[n:]
	}
	return r.summary(failed, time.Since(start))
}

// together runs steps side by side, and gives the names of those that failed.
func (r *runner) together(ctx context.Context, steps []step) (failed []string) {
	var wg sync.WaitGroup
	bad := make([]bool, len(steps))
	for i, s := range steps {
		r.say("== %s: %s", s.name, s.does)
		wg.Go(func() { bad[i] = !r.one(ctx, s) })
	}
	wg.Wait()
	for i, s := range steps {
		if bad[i] {
			failed = append(failed, s.name)
		}
	}
	return failed
}

func (r *runner) one(ctx context.Context, s step) bool {
	begin := time.Now()
	note, err := s.run(ctx)
	took := time.Since(begin).Round(100 * time.Millisecond)
	if err == nil {
		r.say("== %s ok, %s%s", s.name, took, note)
		return true
	}
	var shown shownError
	if !errors.As(err, &shown) {
		r.say("%v", err)
	}
	r.say("== %s FAILED after %s; full output in %s", s.name, took, r.logs)
	return false
}

func (r *runner) summary(failedSteps []string, took time.Duration) int {
	passed, failed, skipped := r.count.totals()
	fmt.Fprintf(r.out, "\n%s in all\n", took.Round(time.Second))
	for _, s := range skipped {
		fmt.Fprintf(r.out, "skipped: %s\n", s)
	}
	for _, n := range r.notChecked {
		fmt.Fprintf(r.out, "NOT CHECKED: %s\n", n)
	}
	if n := len(failedSteps); n > 0 {
		fmt.Fprintf(r.out, "failed: %s; the steps after that did not run\n", strings.Join(failedSteps, ", "))
		failed = max(failed, n) // a failed step that runs no tests counts as one failure
	}
	line := fmt.Sprintf("%d passed, %d failed", passed, failed)
	if len(skipped) > 0 {
		line += fmt.Sprintf(", %d skipped", len(skipped))
	}
	fmt.Fprintln(r.out, line)
	if failed > 0 {
		return 1
	}
	return 0
}
