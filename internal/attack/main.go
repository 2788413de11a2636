// Command attack is what `make attack` runs: every attack of the project's list that concerns
// containers, network and inputs is really made, while a neighbour's kernel is asked again and again,
// and a table tells what was expected and what was seen.
//
// It owns the list, with the tests that make each attack (list.go), the neighbour, and the verdict: a
// line is as expected only if every test of its ran, passed and told what it saw. It refuses to make
// an attack itself: each is a test in the package that owns the defence.
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
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"carrel/internal/measured"
)

// options say what is run, and how long the neighbour is watched before.
type options struct {
	binary string
	logs   string
	only   *regexp.Regexp // of attacks, by number or name
	quiet  time.Duration
	every  time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "attack:", err)
		os.Exit(1)
	}
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("attack", flag.ContinueOnError)
	flags.StringVar(&o.binary, "carrel", "bin/carrel", "the carrel to try")
	flags.StringVar(&o.logs, "logs", filepath.Join("bin", "attack"), "directory for the tests' full output, and everything measured")
	only := flags.String("only", "", "make those attacks only whose number or name matches this expression, such as '^(4|6)$' or bomb")
	flags.DurationVar(&o.quiet, "quiet", time.Minute, "how long the neighbour is measured before the first attack")
	flags.DurationVar(&o.every, "every", 500*time.Millisecond, "how often the neighbour's kernel is asked")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.every < 50*time.Millisecond || o.quiet < 20*o.every {
		return o, errors.New("the neighbour is asked every 50 ms at most, and twenty times in its quiet time at least")
	}
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, err
	}
	for _, path := range []*string{&o.binary, &o.logs} {
		if *path, err = filepath.Abs(*path); err != nil {
			return o, err
		}
	}
	return o, os.MkdirAll(o.logs, 0o750)
}

// errNotAsExpected is told by the table already.
var errNotAsExpected = errors.New("not everything is as expected")

func command(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	var chosen []attack
	for _, a := range attacks {
		if o.only.MatchString(a.name) || a.nr > 0 && o.only.MatchString(strconv.Itoa(a.nr)) {
			chosen = append(chosen, a)
		}
	}
	for _, s := range suitesOf(chosen) {
		fmt.Fprintf(out, "building the attacks of %s\n", s.pkg)
		if err := s.build(ctx, o); err != nil {
			return err
		}
	}
	n, err := settle(ctx, o, out)
	if err == nil {
		err = besides(ctx, o, n, chosen, out)
	} else {
		err = fmt.Errorf("the neighbour: %w", err)
	}
	return errors.Join(err, n.leave(context.WithoutCancel(ctx)))
}

// besides makes the attacks beside the neighbour, and judges.
func besides(ctx context.Context, o options, n *neighbour, chosen []attack, out io.Writer) error {
	fmt.Fprintf(out, "the neighbour's quiet time, %v\n", o.quiet)
	watch := n.watch(ctx, o.every)
	if err := wait(ctx, o.quiet); err != nil {
		watch.end()
		return err
	}
	begin := time.Now()
	seen := newOutcomes()
	for _, s := range suitesOf(chosen) {
		if err := s.run(ctx, o, seen, func(line string) { fmt.Fprintf(out, "   %s\n", line) }); err != nil {
			watch.end()
			return err
		}
	}
	beside := judge(watch.end(), begin)
	beside.blame(seen.spans)
	good := table(out, chosen, seen)
	good = beside.tell(out) && good
	if err := measured.Write(filepath.Join(o.logs, "neighbour.json"), beside); err != nil {
		return err
	}
	if !good {
		return errNotAsExpected
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// table prints a line for each attack, and tells whether all are as expected.
func table(out io.Writer, chosen []attack, seen *outcomes) bool {
	good, made, later := true, 0, 0
	for _, a := range chosen {
		what, state := a.verdict(seen)
		nr := "+"
		if a.nr > 0 {
			nr = strconv.Itoa(a.nr)
		}
		fmt.Fprintf(out, "\n%2s  %-14s %s\n    expected       %s\n    seen           %s\n", nr, state, a.name, a.expected, strings.Join(what, "\n                   "))
		switch state {
		case asExpected:
			made++
		case elsewhere:
			later++
		case notAsExpected:
			good = false
		}
	}
	fmt.Fprintf(out, "\n%d attacks: %d as expected, %d NOT, %d not made here\n", len(chosen), made, len(chosen)-made-later, later)
	return good
}
