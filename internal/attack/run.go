package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A suite is what is run of one package: its test program is built before the neighbour is measured, so
// that no compiler works beside it.
type suite struct {
	pkg   string
	tests []string // top-level ones
}

// suitesOf gathers the tests of some attacks, each once, by package in the order of the list.
func suitesOf(list []attack) (all []*suite) {
	for _, a := range list {
		for _, m := range a.tests {
			i := slices.IndexFunc(all, func(s *suite) bool { return s.pkg == m.pkg })
			if i < 0 {
				i, all = len(all), append(all, &suite{pkg: m.pkg})
			}
			for _, name := range m.names {
				if top, _, _ := strings.Cut(name, "/"); !slices.Contains(all[i].tests, top) {
					all[i].tests = append(all[i].tests, top)
				}
			}
		}
	}
	return all
}

func (s *suite) program(o options) string {
	return filepath.Join(o.logs, strings.ReplaceAll(s.pkg, "/", "-")+".test")
}

func (s *suite) build(ctx context.Context, o options) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "integration", "-o", s.program(o), "./"+s.pkg)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the tests of %s: %w\n%s", s.pkg, err, out)
	}
	return nil
}

// run runs the suite's tests one after another, as `go test -json` does, and takes in how each ended. That
// tests fail is no error: the table tells.
func (s *suite) run(ctx context.Context, o options, seen *outcomes, done func(string)) error {
	log, err := os.Create(strings.TrimSuffix(s.program(o), ".test") + ".json")
	if err != nil {
		return err
	}
	defer log.Close()
	// What the tests themselves do is no part of an attack, and what they start by Docker is not made nicer by this.
	cmd := exec.CommandContext(ctx, "nice", "-n", "10", "go", "tool", "test2json", "-t", "-p", s.pkg, s.program(o), "-test.v=test2json", "-test.paniconexit0",
		"-test.count=1", "-test.parallel=1", "-test.timeout=20m", "-test.run=^("+strings.Join(s.tests, "|")+")$")
	cmd.Dir, cmd.Stderr = filepath.FromSlash(s.pkg), log
	cmd.Env = append(os.Environ(), "CARREL_TEST_BINARY="+o.binary)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	readErr := seen.read(bufio.NewReader(io.TeeReader(stdout, log)), done)
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		err = nil // tests failed
	}
	return errors.Join(readErr, err)
}

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Time                                      time.Time
	Action, Package, Test, Output, Key, Value string
	Elapsed                                   float64
}

// test names one test, or a subtest.
type test struct{ pkg, name string }

// A span is when a test or subtest ran.
type span struct {
	Test     string `json:"test"`
	From, To time.Time
}

// outcomes are how tests ended, and what they told of what they saw.
type outcomes struct {
	ended map[test]string // pass, fail or skip
	told  map[test][]sight
	spans []span
}

// A sight is what a test saw of an attack. It tells by t.Attr("seen-4", "…"), of attack 4.
type sight struct {
	nr   int
	what string
}

func newOutcomes() *outcomes { return &outcomes{map[test]string{}, map[test][]sight{}, nil} }

// read takes in the events of one test program, and calls done with a line for each top-level test.
func (c *outcomes) read(r *bufio.Reader, done func(string)) error {
	for {
		line, err := r.ReadBytes('\n')
		var e event
		if json.Unmarshal(line, &e) == nil {
			c.add(e, done)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *outcomes) add(e event, done func(string)) {
	t := test{e.Package, e.Test}
	switch e.Action {
	case "attr":
		if nr, is := strings.CutPrefix(e.Key, "seen-"); is {
			n, _ := strconv.Atoi(nr) // 0, beyond the list, for any other word
			c.told[t] = append(c.told[t], sight{n, e.Value})
		}
	case "pass", "fail", "skip":
		if e.Test == "" {
			return
		}
		c.ended[t] = e.Action
		c.spans = append(c.spans, span{e.Package + " " + e.Test, e.Time.Add(-time.Duration(e.Elapsed * float64(time.Second))), e.Time})
		if !strings.Contains(e.Test, "/") {
			done(fmt.Sprintf("%-4s %-16s %-36s %6.1fs", e.Action, e.Package, e.Test, e.Elapsed))
		}
	}
}

// seen is what a test and its subtests told of an attack.
func (c *outcomes) seen(t test, nr int) (all []string) {
	for at, told := range c.told {
		if at.pkg != t.pkg || at.name != t.name && !strings.HasPrefix(at.name, t.name+"/") {
			continue
		}
		for _, s := range told {
			if s.nr == nr && !slices.Contains(all, s.what) {
				all = append(all, s.what)
			}
		}
	}
	slices.Sort(all)
	return all
}

// What a line of the table may be.
const (
	asExpected    = "as expected"
	notAsExpected = "NOT EXPECTED"
	elsewhere     = "not made here"
)

// verdict tells what was seen of an attack: it is as expected when every test of it passed, and each told what
// it saw, or another of the same attack did.
func (a attack) verdict(c *outcomes) (seen []string, state string) {
	if len(a.tests) == 0 {
		return []string{a.later}, elsewhere
	}
	state = asExpected
	for _, m := range a.tests {
		for _, name := range m.names {
			t := test{m.pkg, name}
			if ended := c.ended[t]; ended != "pass" {
				state = notAsExpected
				if ended == "" {
					ended = "did not run to its end"
				}
				seen = append(seen, fmt.Sprintf("%s %s: %s", m.pkg, name, ended))
				continue
			}
			seen = append(seen, c.seen(t, a.nr)...)
		}
	}
	if len(seen) == 0 {
		return []string{"no test told what it saw"}, notAsExpected
	}
	if a.later != "" {
		seen = append(seen, "("+a.later+")")
	}
	return seen, state
}
