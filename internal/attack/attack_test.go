package main

import (
	"bufio"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestEveryAttackHasItsTests: what the list names is there, in the package that it says, and tells what it sees.
func TestEveryAttackHasItsTests(t *testing.T) {
	root := filepath.Join("..", "..")
	for _, a := range attacks {
		if len(a.tests) == 0 && a.later == "" {
			t.Errorf("nothing makes %d, %s, and nobody says why", a.nr, a.name)
		}
		tells := len(a.tests) == 0
		for _, m := range a.tests {
			var source strings.Builder
			files, err := filepath.Glob(filepath.Join(root, m.pkg, "*_test.go"))
			if err != nil || len(files) == 0 {
				t.Fatalf("%s has no tests: %v", m.pkg, err)
			}
			for _, f := range files {
				b, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				source.Write(b)
			}
			for _, name := range m.names {
				top, _, _ := strings.Cut(name, "/")
				if !regexp.MustCompile(`(?m)^func ` + top + `\(`).MatchString(source.String()) {
					t.Errorf("%s has no %s, which is to make %s", m.pkg, top, a.name)
				}
			}
			tells = tells || strings.Contains(source.String(), `"seen-`)
		}
		if !tells {
			t.Errorf("no test tells what it sees of %d, %s", a.nr, a.name)
		}
	}
}

func TestNumbersAreOnce(t *testing.T) {
	seen := map[int]bool{}
	for _, a := range attacks {
		if a.nr > 0 && seen[a.nr] {
			t.Errorf("%d is there twice", a.nr)
		}
		seen[a.nr] = true
	}
	for nr := 1; nr <= 31; nr++ {
		if !seen[nr] {
			t.Errorf("%d is missing", nr)
		}
	}
}

const stream = `{"Time":"2026-01-02T03:04:05Z","Action":"run","Package":"p","Test":"TestA"}
{"Action":"attr","Package":"p","Test":"TestA","Key":"seen-4","Value":"EAGAIN"}
{"Action":"attr","Package":"p","Test":"TestA/sub","Key":"seen-4","Value":"EPERM"}
{"Action":"attr","Package":"p","Test":"TestA","Key":"seen-5","Value":"something else"}
rubbish
{"Action":"pass","Package":"p","Test":"TestA/sub"}
{"Time":"2026-01-02T03:04:09Z","Action":"pass","Package":"p","Test":"TestA","Elapsed":4}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"skip","Package":"p","Test":"TestC"}
{"Action":"pass","Package":"p","Test":"TestMute"}`

func TestVerdicts(t *testing.T) {
	c := newOutcomes()
	if err := c.read(bufio.NewReader(strings.NewReader(stream)), func(string) {}); err != nil {
		t.Fatal(err)
	}
	if s := c.spans[1]; s.To.Sub(s.From) != 4*time.Second || s.Test != "p TestA" {
		t.Errorf("it ran from %v to %v", s.From, s.To)
	}
	for name, x := range map[string]struct {
		nr    int
		tests []made
		later string
		state string
		seen  []string
	}{
		"passed":        {4, []made{{"p", []string{"TestA"}}}, "", asExpected, []string{"EAGAIN", "EPERM"}},
		"a subtest":     {4, []made{{"p", []string{"TestA/sub"}}}, "", asExpected, []string{"EPERM"}},
		"mute beside":   {5, []made{{"p", []string{"TestA", "TestMute"}}}, "", asExpected, []string{"something else"}},
		"partly made":   {5, []made{{"p", []string{"TestA"}}}, "runs come later", asExpected, []string{"something else", "(runs come later)"}},
		"mute":          {4, []made{{"p", []string{"TestMute"}}}, "", notAsExpected, []string{"no test told what it saw"}},
		"failed":        {4, []made{{"p", []string{"TestA", "TestB"}}}, "", notAsExpected, []string{"EAGAIN", "EPERM", "p TestB: fail"}},
		"skipped":       {4, []made{{"p", []string{"TestC"}}}, "", notAsExpected, []string{"p TestC: skip"}},
		"did not run":   {4, []made{{"p", []string{"TestD"}}}, "", notAsExpected, []string{"p TestD: did not run to its end"}},
		"other package": {4, []made{{"q", []string{"TestA"}}}, "", notAsExpected, []string{"q TestA: did not run to its end"}},
		"not made":      {4, nil, "comes later", elsewhere, []string{"comes later"}},
	} {
		seen, state := attack{nr: x.nr, tests: x.tests, later: x.later}.verdict(c)
		if state != x.state || !slices.Equal(seen, x.seen) {
			t.Errorf("%s: %s, %q", name, state, seen)
		}
	}
}

func TestJudgement(t *testing.T) {
	begin := time.Now()
	of := func(quiet, attacked float64, fault string) *beside {
		var all []sample
		for i := range 100 {
			all = append(all, sample{begin.Add(time.Duration(i-101) * time.Second), quiet, ""}, sample{begin.Add(time.Duration(i+1) * time.Second), attacked, fault})
		}
		slices.SortFunc(all, func(a, b sample) int { return a.At.Compare(b.At) })
		return judge(all, begin)
	}
	for name, x := range map[string]struct {
		b    *beside
		want bool
	}{
		"as quick":         {of(0.01, 0.01, ""), true},
		"twice":            {of(0.01, 0.02, ""), true},
		"more":             {of(0.01, 0.021, ""), false},
		"without answers":  {of(0.01, 0.01, "closed"), false},
		"nothing measured": {judge(nil, begin), false},
	} {
		if got := x.b.holds(); got != x.want {
			t.Errorf("%s: %v, %+v", name, got, x.b.Attack)
		}
	}
	b := of(0.01, 0.02, "")
	b.blame([]span{{"p TestA", begin.Add(-time.Hour), begin}, {"p TestB", begin, begin.Add(time.Hour)}, {"p TestC", begin.Add(-time.Hour), begin.Add(-time.Hour)}})
	if len(b.ByTest) != 2 || b.ByTest[0].Name != "p TestB" || b.ByTest[0].Max != 0.02 || b.ByTest[1].Answers != 100 {
		t.Errorf("%+v", b.ByTest)
	}
}

func TestEachTestRunsOnce(t *testing.T) {
	all := suitesOf([]attack{{tests: []made{{"p", []string{"TestA", "TestB/x"}}}}, {tests: []made{{"q", []string{"TestA"}}, {"p", []string{"TestB", "TestA"}}}}})
	if len(all) != 2 || !slices.Equal(all[0].tests, []string{"TestA", "TestB"}) || !slices.Equal(all[1].tests, []string{"TestA"}) {
		t.Errorf("%+v", all)
	}
}
