package archtest

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "carrel"

// A pkg is a package as the go command lists it; paths are relative to the module.
type pkg struct {
	ImportPath, Dir, Name              string
	GoFiles, CgoFiles                  []string
	TestGoFiles, XTestGoFiles          []string
	EmbedFiles                         []string
	Imports, TestImports, XTestImports []string
	IgnoredGoFiles                     []string
	ForTest                            string
	Standard                           bool
	DepsErrors                         []struct{ Err string }
	Module                             *struct{ Path string }
	Error                              *struct{ Err string }
}

// path is the import path without the module's: "hub/web"; "." for the root.
func (p pkg) path() string { return local(p.ImportPath) }

func local(importPath string) string {
	if importPath == module {
		return "."
	}
	return strings.TrimPrefix(importPath, module+"/")
}

func ours(importPath string) bool {
	return importPath == module || strings.HasPrefix(importPath, module+"/")
}

// tree is every package of the module, integration tests included.
var tree = sync.OnceValues(func() ([]pkg, error) { return list("-tags", "integration", module+"/...") })

func list(args ...string) ([]pkg, error) {
	cmd := exec.Command("go", append([]string{"list", "-json"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, errors.New("go list: " + err.Error() + "\n" + stderr.String())
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
}

func packages(t *testing.T) []pkg {
	t.Helper()
	all, err := tree()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 5 {
		t.Fatalf("only %d packages were found: is this the project's tree?", len(all))
	}
	return all
}

// A source is one parsed file.
type source struct {
	pkg   pkg
	name  string // "hub/server.go"
	test  bool
	file  *ast.File
	fset  *token.FileSet
	lines int
}

// sources are all files of the module that people write.
var parsed = sync.OnceValues(func() ([]source, error) {
	all, err := tree()
	if err != nil {
		return nil, err
	}
	var files []source
	for _, p := range all {
		seen := map[string]bool{}
		for _, f := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			seen[f] = true
		}
		for _, f := range slices.Concat(p.GoFiles, p.CgoFiles) {
			seen[f] = false
		}
		for _, name := range slices.Sorted(maps.Keys(seen)) {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			if ast.IsGenerated(file) {
				continue
			}
			files = append(files, source{
				pkg: p, name: p.path() + "/" + name, test: seen[name], file: file, fset: fset,
				lines: fset.File(file.FileStart).LineCount(),
			})
		}
	}
	return files, nil
})

func sources(t *testing.T) []source {
	t.Helper()
	files, err := parsed()
	if err != nil {
		t.Fatal(err)
	}
	return files
}
