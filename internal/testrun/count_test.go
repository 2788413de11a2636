package main

import (
	"bufio"
	"slices"
	"strings"
	"testing"
)

// counted feeds lines of `go test -json` to a new count.
func counted(t *testing.T, lines ...string) *count {
	t.Helper()
	c := newCount()
	r := bufio.NewReader(strings.NewReader(strings.Join(lines, "\n") + "\n"))
	if err := c.read(r, func(string) {}); err != nil {
		t.Fatal(err)
	}
	return c
}

func ran(pkg, name, outcome string) string {
	run := `{"Action":"run","Package":"` + pkg + `","Test":"` + name + `"}` + "\n"
	if outcome == "" {
		return run
	}
	return run + `{"Action":"` + outcome + `","Package":"` + pkg + `","Test":"` + name + `"}`
}

func ended(pkg, outcome string) string { return `{"Action":"` + outcome + `","Package":"` + pkg + `"}` }

func TestTotals(t *testing.T) {
	for _, c := range []struct {
		name           string
		lines          []string
		passed, failed int
		skipped        int
	}{
		{"plain", []string{ran("p", "A", "pass"), ran("p", "B", "pass"), ended("p", "pass")}, 2, 0, 0},
		{"subtests count, their parent does not", []string{ran("p", "A", ""), ran("p", "A/x", "pass"), ran("p", "A/y", "pass"), ran("p", "A", "pass"), ended("p", "pass")}, 2, 0, 0},
		{"a failing subtest is one failure", []string{ran("p", "A", ""), ran("p", "A/x", "fail"), ran("p", "A/y", "pass"), ran("p", "A", "fail"), ended("p", "fail")}, 1, 1, 0},
		{"a parent that fails after its subtests", []string{ran("p", "A", ""), ran("p", "A/x", "pass"), ran("p", "A", "fail"), ended("p", "fail")}, 1, 1, 0},
		{"a package that does not build", []string{ended("p", "fail")}, 0, 1, 0},
		{"a leak found after every test passed", []string{ran("p", "A", "pass"), ended("p", "fail")}, 1, 1, 0},
		{"cut off by a panic or a timeout", []string{ran("p", "A", "pass"), ran("p", "B", ""), ended("p", "fail")}, 1, 1, 0},
		{"go test itself killed", []string{ran("p", "A", "")}, 0, 1, 0},
		{"run twice, counted once", []string{ran("p", "A", "pass"), ended("p", "pass"), ran("p", "A", "pass"), ended("p", "pass")}, 1, 0, 0},
		{"run twice, failed once", []string{ran("p", "A", "fail"), ended("p", "fail"), ran("p", "A", "pass"), ended("p", "pass")}, 0, 1, 0},
		{"skipped", []string{ran("p", "A", "skip"), ended("p", "pass")}, 0, 0, 1},
		{"same name in two packages", []string{ran("p", "A", "pass"), ran("q", "A", "pass"), ended("p", "pass"), ended("q", "pass")}, 2, 0, 0},
		{"a tool that prints no JSON", []string{"go: cannot find main module"}, 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			passed, failed, skipped := counted(t, c.lines...).totals()
			if passed != c.passed || failed != c.failed || len(skipped) != c.skipped {
				t.Errorf("%d passed, %d failed, %q skipped", passed, failed, skipped)
			}
		})
	}
}

func TestFailuresAreShown(t *testing.T) {
	c := counted(t,
		ran("p", "A", ""),
		`{"Action":"output","Package":"p","Test":"A","Output":"    a_test.go:1: want 1\n"}`,
		ran("p", "A", "fail"),
		`{"Action":"build-output","ImportPath":"q [q.test]","Output":"q.go:2: undefined: x\n"}`,
		`{"Action":"fail","Package":"q","FailedBuild":"q [q.test]"}`,
	)
	var b strings.Builder
	c.showFailures(&b, 10)
	for _, want := range []string{"want 1", "undefined: x", "--- p A"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in:\n%s", want, b.String())
		}
	}
}

func TestSkipsSayWhy(t *testing.T) {
	c := counted(t, ran("p", "A", ""),
		`{"Action":"output","Package":"p","Test":"A","Output":"    a_test.go:1: only on arm64\n"}`,
		`{"Action":"output","Package":"p","Test":"A","Output":"--- SKIP: A (0.00s)\n"}`,
		ran("p", "A", "skip"), ended("p", "pass"))
	if _, _, skipped := c.totals(); !slices.Equal(skipped, []string{"p A: a_test.go:1: only on arm64"}) {
		t.Errorf("%q", skipped)
	}
}

func TestSummary(t *testing.T) {
	for _, c := range []struct {
		name, last    string
		failed, lines []string
		code          int
	}{
		{"all well", "1 passed, 0 failed", nil, []string{ran("p", "A", "pass"), ended("p", "pass")}, 0},
		{"a step that runs no tests fails", "1 passed, 1 failed", []string{"lint"}, []string{ran("p", "A", "pass"), ended("p", "pass")}, 1},
		{"a test fails", "0 passed, 1 failed", []string{"unit"}, []string{ran("p", "A", "fail"), ended("p", "fail")}, 1},
		{"skips are told", "1 passed, 0 failed, 1 skipped", nil, []string{ran("p", "A", "pass"), ran("p", "B", "skip"), ended("p", "pass")}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b strings.Builder
			r := &runner{out: &b, count: counted(t, c.lines...)}
			if code := r.summary(c.failed, 0); code != c.code {
				t.Errorf("exit code %d", code)
			}
			lines := strings.Split(strings.TrimSpace(b.String()), "\n")
			if last := lines[len(lines)-1]; last != c.last {
				t.Errorf("last line %q, want %q", last, c.last)
			}
		})
	}
}

// What ran side by side counts as if it had run in turn.
func TestMerge(t *testing.T) {
	c := counted(t, ran("p", "A", "pass"), ran("p", "B", "fail"), ended("p", "fail"))
	c.merge(counted(t, ran("p", "A", "pass"), ran("p", "B", "pass"), ran("q", "C", "pass"), ended("p", "pass"), ended("q", "pass")))
	if passed, failed, _ := c.totals(); passed != 2 || failed != 1 {
		t.Errorf("%d passed, %d failed", passed, failed)
	}
}
