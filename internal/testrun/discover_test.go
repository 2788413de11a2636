package main

import (
	"os"
	"path/filepath"
	"slices"
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
