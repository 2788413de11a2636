package archtest

import (
	"go/ast"
	"go/doc"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	maxFileLines     = 600
	maxFunctionLines = 100
)

func TestFilesFitAReadersHead(t *testing.T) {
	for _, s := range sources(t) {
		if s.lines > maxFileLines {
			t.Errorf("%s has %d lines, %d at most: which of its parts could be read alone?", s.name, s.lines, maxFileLines)
		}
	}
}

func TestFunctionsFitAScreenOrTwo(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := s.fset.Position(fn.End()).Line - s.fset.Position(fn.Pos()).Line + 1; n > maxFunctionLines {
				t.Errorf("%s: %s has %d lines, %d at most", s.name, fn.Name.Name, n, maxFunctionLines)
			}
		}
	}
}

// TestPackagesSayWhatTheyAre: what a package owns, and what it refuses to own, takes two sentences.
func TestPackagesSayWhatTheyAre(t *testing.T) {
	said := map[string]string{}
	hasCode := map[string]bool{}
	for _, s := range sources(t) {
		path := s.pkg.path()
		if s.test && hasCode[path] {
			continue
		}
		hasCode[path] = hasCode[path] || !s.test
		if s.file.Doc != nil {
			if other := said[path]; other != "" && !s.test {
				t.Errorf("%s has a package comment beside the one that begins %q: keep one", s.name, firstWords(other))
			}
			said[path] = s.file.Doc.Text()
		}
	}
	for _, p := range packages(t) {
		text := said[p.path()]
		if sentences(text) < 2 {
			t.Errorf("package %s has no comment of two sentences or more: say what it owns and what it refuses to own", p.path())
		}
		if want := "Package " + p.Name + " "; p.Name != "main" && text != "" && !strings.HasPrefix(text, want) {
			t.Errorf("the comment of %s begins %q, not %q", p.path(), firstWords(text), want)
		}
	}
}

func firstWords(s string) string {
	return strings.Join(strings.Fields(s)[:min(4, len(strings.Fields(s)))], " ")
}

func sentences(text string) int {
	n := 0
	for rest := strings.TrimSpace(text); rest != ""; n++ {
		// go/doc knows where a first sentence ends.
		first := new(doc.Package).Synopsis(rest)
		if first == "" {
			break
		}
		rest = afterSentence(rest, first)
	}
	return n
}

// afterSentence is what follows the synopsis in a text whose white space it has folded.
func afterSentence(text, synopsis string) string {
	words := len(strings.Fields(synopsis))
	fields := strings.Fields(text)
	return strings.Join(fields[min(words, len(fields)):], " ")
}

func TestNoPackageIsADrawer(t *testing.T) {
	drawers := []string{"util", "utils", "common", "helper", "helpers", "misc", "shared", "lib", "base", "types"}
	for _, p := range packages(t) {
		if base := filepath.Base(p.ImportPath); slices.Contains(drawers, p.Name) || slices.Contains(drawers, base) {
			t.Errorf("package %s is named for nothing that it does", p.path())
		}
	}
}

func TestNothingHappensAtImport(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function: construct what it makes where it is used", s.name)
			}
		}
	}
}

func TestCommentsPromiseNothing(t *testing.T) {
	for _, s := range sources(t) {
		for _, group := range s.file.Comments {
			for _, c := range group.List {
				word := strings.TrimLeft(c.Text, "/* ")
				if strings.HasPrefix(word, "TODO") || strings.HasPrefix(word, "FIXME") || strings.HasPrefix(word, "XXX") {
					t.Errorf("%s: %s: a promise belongs on an issue", s.fset.Position(c.Pos()), firstWords(word))
				}
			}
		}
	}
}

func TestContextsAreNotKept(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			st, ok := n.(*ast.StructType)
			if !ok {
				return true
			}
			for _, f := range st.Fields.List {
				if sel, ok := f.Type.(*ast.SelectorExpr); ok && sel.Sel.Name == "Context" {
					if x, ok := sel.X.(*ast.Ident); ok && x.Name == "context" {
						t.Errorf("%s: a struct keeps a context: pass it", s.fset.Position(f.Pos()))
					}
				}
			}
			return true
		})
	}
}
