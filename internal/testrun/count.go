package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action, Package, Test, Output string
	ImportPath, FailedBuild       string
	Elapsed                       float64
}

// test names one test; an empty name is the package itself.
type test struct{ pkg, name string }

// A count gathers the outcome of every test over several runs of go test.
type count struct {
	outcome  map[test]string // run, pass, fail or skip; each test once, fail wins
	parent   map[test]bool   // has subtests, which count in its stead
	packages map[string]string
	output   map[test][]string
}

// slow is from how many seconds on a test gets a line of its own, so that a long step shows life.
const slow = 5

func newCount() *count {
	return &count{map[test]string{}, map[test]bool{}, map[string]string{}, map[test][]string{}}
}

// read takes in the output of one `go test -json` and calls done with a line for each package
// that had tests, and for each slow test.
func (c *count) read(r *bufio.Reader, done func(string)) error {
	started := map[string]int{}
	for {
		line, err := r.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				e = event{Action: "output", Output: string(line)} // what a broken tool prints
			}
			c.add(e, started, done)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("go test: %w", err)
		}
	}
}

func (c *count) add(e event, started map[string]int, done func(string)) {
	t := test{e.Package, e.Test}
	switch e.Action {
	case "output":
		c.output[t] = append(c.output[t], e.Output)
	case "build-output":
		t = test{e.ImportPath, ""}
		c.output[t] = append(c.output[t], e.Output)
	case "run":
		started[e.Package]++
		if c.outcome[t] == "" {
			c.outcome[t] = "run"
		}
		for p := e.Test; strings.Contains(p, "/"); {
			p = p[:strings.LastIndex(p, "/")]
			c.parent[test{e.Package, p}] = true
		}
	case "pass", "fail", "skip":
		if e.Test != "" {
			if c.outcome[t] != "fail" {
				c.outcome[t] = e.Action
			}
			if e.Elapsed >= slow && !strings.Contains(e.Test, "/") {
				done(fmt.Sprintf("%-4s   %-38s %6.1fs", e.Action, e.Test, e.Elapsed))
			}
			return
		}
		if c.packages[e.Package] != "fail" {
			c.packages[e.Package] = e.Action
		}
		if e.FailedBuild != "" {
			// An import path such as "carrel/hub [carrel/hub.test]" is where the compiler's words are.
			c.output[t] = append(c.output[t], c.output[test{e.FailedBuild, ""}]...)
		}
		if started[e.Package] > 0 || e.Action == "fail" {
			done(fmt.Sprintf("%-4s %-40s %6.1fs", e.Action, e.Package, e.Elapsed))
		}
	}
}

// merge takes in what another counted.
func (c *count) merge(d *count) {
	for t, outcome := range d.outcome {
		if c.outcome[t] != "fail" {
			c.outcome[t] = outcome
		}
	}
	for pkg, outcome := range d.packages {
		if c.packages[pkg] != "fail" {
			c.packages[pkg] = outcome
		}
	}
	maps.Copy(c.parent, d.parent)
	for t, lines := range d.output {
		c.output[t] = append(c.output[t], lines...)
	}
}

// totals counts each test once. A test with subtests counts as those, unless it failed and none of
// them did; a package that failed although none of its tests did (it does not build, it leaks, it
// was killed) counts as one failure.
func (c *count) totals() (passed, failed int, skipped []string) {
	for t, outcome := range c.outcome {
		switch {
		case outcome == "pass" && !c.parent[t]:
			passed++
		case outcome == "skip" && !c.parent[t]:
			skipped = append(skipped, t.pkg+" "+t.name+": "+c.reason(t))
		}
	}
	slices.Sort(skipped)
	return passed, len(c.failures()), skipped
}

// reason is what a skipped test said.
func (c *count) reason(t test) string {
	for _, line := range slices.Backward(c.output[t]) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			return line
		}
	}
	return "no reason given"
}

// failures lists what counts as a failure, sorted.
func (c *count) failures() []test {
	blamed := map[test]bool{} // parents of a failure, which it stands for
	bad := map[test]bool{}
	for t, outcome := range c.outcome {
		unfinished := outcome == "run" && c.packages[t.pkg] != "pass"
		if outcome != "fail" && !unfinished {
			continue
		}
		bad[t] = true
		blamed[test{t.pkg, ""}] = true
		for p := t.name; strings.Contains(p, "/"); {
			p = p[:strings.LastIndex(p, "/")]
			blamed[test{t.pkg, p}] = true
		}
	}
	for pkg, outcome := range c.packages {
		if outcome == "fail" {
			bad[test{pkg, ""}] = true
		}
	}
	maps.DeleteFunc(bad, func(t test, _ bool) bool { return blamed[t] })
	return slices.SortedFunc(maps.Keys(bad), func(a, b test) int {
		return cmp.Or(strings.Compare(a.pkg, b.pkg), strings.Compare(a.name, b.name))
	})
}

// showFailures prints what each failure said, at most n lines of each.
func (c *count) showFailures(w io.Writer, n int) {
	for _, t := range c.failures() {
		fmt.Fprintf(w, "\n--- %s %s\n", t.pkg, t.name)
		lines := c.output[t]
		if top, _, sub := strings.Cut(t.name, "/"); sub {
			lines = append(slices.Clone(c.output[test{t.pkg, top}]), lines...)
		}
		if t.name != "" && c.outcome[t] == "run" {
			lines = append(slices.Clone(lines), c.output[test{t.pkg, ""}]...) // the panic that cut it off
		}
		if len(lines) > n {
			fmt.Fprintf(w, "(%d lines before these are in the log)\n", len(lines)-n)
			lines = lines[len(lines)-n:]
		}
		fmt.Fprint(w, strings.Join(lines, ""))
	}
	fmt.Fprintln(w)
}
