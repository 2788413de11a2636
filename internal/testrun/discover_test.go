package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFunctionsIn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x_test.go")
	src := `package x
import "testing"
func TestMain(m *testing.M) {}
func TestOne(t *testing.T) {}
func TestingHelper() {}
type s struct{}
func (s) TestMethod(t *testing.T) {}
func FuzzParse(f *testing.F) {}
`
	if err := os.WriteFile(path, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	for prefix, want := range map[string][]string{"Test": {"TestOne"}, "Fuzz": {"FuzzParse"}} {
		got, err := functionsIn(path, prefix)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", prefix, got, err)
		}
	}
}

func TestChooseKeepsToKnownSteps(t *testing.T) {
	all := (&runner{}).steps()
	if got, err := choose(all, ""); err != nil || len(got) != len(all) {
		t.Errorf("everything: %d steps, %v", len(got), err)
	}
	if got, err := choose(all, "lint,fuzz"); err != nil || len(got) != 2 || got[0].name != "lint" {
		t.Errorf("two: %v, %v", got, err)
	}
	if _, err := choose(all, "lnit"); err == nil {
		t.Error("a step that does not exist was accepted")
	}
}

func TestKinds(t *testing.T) {
	for want, p := range map[kind]listed{
		engineTests:  {ImportPath: "carrel/kernelimage", XTestImports: []string{"testing", "carrel/spawner/docker"}},
		serviceTests: {ImportPath: "carrel/hub/web", TestImports: []string{"carrel/hub"}},
		browserTests: {ImportPath: "carrel/internal/e2e"},
	} {
		if got := (found{pkg: p.ImportPath, driver: p.driver()}).kind(); got != want {
			t.Errorf("%s: %v, want %v", p.ImportPath, got, want)
		}
	}
	if !(listed{ImportPath: "carrel/spawner/docker"}).driver() {
		t.Error("the driver itself starts containers")
	}
}

// A step that fails does not keep the one beside it from ending, and those after both do not run.
func TestStepsSideBySide(t *testing.T) {
	var out strings.Builder
	r := &runner{out: &out, count: newCount()}
	first := make(chan struct{})
	ok := func(context.Context) (string, error) { return "", nil }
	code := r.all(t.Context(), []step{
		{name: "a", run: func(context.Context) (string, error) { <-first; return "", nil }},
		{name: "b", run: func(context.Context) (string, error) { close(first); return "", errors.New("a fault") }, beside: true},
		{name: "c", run: ok},
	})
	said := out.String()
	if code != 1 || !strings.Contains(said, "== a ok") || !strings.Contains(said, "== b FAILED") || strings.Contains(said, "== c") {
		t.Errorf("code %d:\n%s", code, said)
	}
	if !strings.HasSuffix(said, "0 passed, 1 failed\n") {
		t.Errorf("the last line is another:\n%s", said)
	}
}
