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
	name string
	does string
	run  func(context.Context) (string, error)
}

// A runner runs steps and gathers what they counted.
type runner struct {
	out        io.Writer
	logs       string
	fuzzTime   time.Duration
	count      *count
	notChecked []string
}

// steps is the order of `make test`: what is quick and tells most comes first.
func (r *runner) steps() []step {
	return []step{
		{"format", "gofmt", r.format},
		{"build", "go build, bin/carrel", r.build},
		{"vet", "go vet, with and without integration tests", r.vet},
		{"unit", "unit and conformance tests, -race", r.unit},
		{"lint", "golangci-lint", r.lint},
		{"vuln", "govulncheck", r.vuln},
		{"integration", "real Docker, Redis and providers, -race", r.integration},
		{"e2e", "the whole, in a real browser", r.e2e},
		{"bench", "a few cold starts, timed", r.bench},
		{"fuzz", "every fuzz target, briefly", r.fuzz},
		{"soak", "thousands of clients while everything is killed and restarted, five minutes", r.soak},
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
	start, failed := time.Now(), ""
	for _, s := range steps {
		fmt.Fprintf(r.out, "== %s: %s\n", s.name, s.does)
		begin := time.Now()
		note, err := s.run(ctx)
		took := time.Since(begin).Round(100 * time.Millisecond)
		if err != nil {
			var shown shownError
			if !errors.As(err, &shown) {
				fmt.Fprintln(r.out, err)
			}
			fmt.Fprintf(r.out, "== %s FAILED after %s; full output in %s\n", s.name, took, r.logs)
			failed = s.name
			break
		}
		fmt.Fprintf(r.out, "== %s ok, %s%s\n", s.name, took, note)
	}
	return r.summary(failed, time.Since(start))
}

func (r *runner) summary(failedStep string, took time.Duration) int {
	passed, failed, skipped := r.count.totals()
	fmt.Fprintf(r.out, "\n%s in all\n", took.Round(time.Second))
	for _, s := range skipped {
		fmt.Fprintf(r.out, "skipped: %s\n", s)
	}
	for _, n := range r.notChecked {
		fmt.Fprintf(r.out, "NOT CHECKED: %s\n", n)
	}
	if failedStep != "" {
		fmt.Fprintf(r.out, "step %s failed; the steps after it did not run\n", failedStep)
		failed = max(failed, 1) // a failed step that runs no tests counts as one failure
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
