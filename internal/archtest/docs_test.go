package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTheThreatModelsNameRealTests: a page that says how an attack is tried is worth nothing once the
// test has another name.
func TestTheThreatModelsNameRealTests(t *testing.T) {
	root := filepath.Join("..", "..")
	there := map[string]bool{}
	form := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		raw, err := os.ReadFile(path)
		for _, m := range form.FindAllSubmatch(raw, -1) {
			there[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, least := range map[string]int{"threat-model-edge.md": 40, "threat-model.md": 30} {
		page, err := os.ReadFile(filepath.Join(root, "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		names := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllSubmatch(page, -1)
		if len(names) < least {
			t.Errorf("docs/%s names %d tests", name, len(names))
		}
		for _, m := range names {
			if !there[string(m[1])] {
				t.Errorf("docs/%s names %s, which there is not", name, m[1])
			}
		}
	}
}
