package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// found is a package with the tests of one kind in it.
type found struct {
	pkg, dir string
	tests    []string
	driver   bool // it is a driver of containers, or imports one
}

type listed struct {
	ImportPath, Dir           string
	TestGoFiles, XTestGoFiles []string
	TestImports, XTestImports []string
}

// driver tells whether the package is a driver of containers, or its tests import one.
func (p listed) driver() bool {
	return slices.ContainsFunc(append(slices.Concat(p.TestImports, p.XTestImports), p.ImportPath), func(path string) bool {
		return strings.HasPrefix(path, "carrel/spawner/")
	})
}

// A kind is what tests need.
type kind int

const (
	serviceTests kind = iota
	engineTests       // they start containers by a driver of their own
	browserTests      // they drive the whole, and want the machine for themselves
)

func (f found) kind() kind {
	switch {
	case strings.Contains(f.pkg, "/e2e"):
		return browserTests
	case f.driver:
		return engineTests
	}
	return serviceTests
}

// list asks the go command for the packages' test files.
func list(ctx context.Context, args ...string) ([]listed, error) {
	args = append([]string{"list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles,TestImports,XTestImports"}, args...)
	cmd := exec.CommandContext(ctx, "go", append(args, "./...")...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil, fmt.Errorf("go list: %w\n%s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("go list: %w", err)
	}
	var pkgs []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		pkgs = append(pkgs, p)
	}
}

// integrationTests finds the tests in the files that only the build tag "integration" brings in.
func integrationTests(ctx context.Context) ([]found, error) {
	plain, err := list(ctx)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, p := range plain {
		for _, f := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			known[filepath.Join(p.Dir, f)] = true
		}
	}
	tagged, err := list(ctx, "-tags", "integration")
	if err != nil {
		return nil, err
	}
	return functions(tagged, "Test", func(path string) bool { return !known[path] })
}

// fuzzTargets finds every fuzz target that needs no build tag.
func fuzzTargets(ctx context.Context) ([]found, error) {
	pkgs, err := list(ctx)
	if err != nil {
		return nil, err
	}
	return functions(pkgs, "Fuzz", func(string) bool { return true })
}

// functions finds the test functions with a prefix in the wanted files.
func functions(pkgs []listed, prefix string, wanted func(path string) bool) ([]found, error) {
	var all []found
	for _, p := range pkgs {
		f := found{pkg: p.ImportPath, dir: p.Dir, driver: p.driver()}
		for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			path := filepath.Join(p.Dir, name)
			if !wanted(path) {
				continue
			}
			names, err := functionsIn(path, prefix)
			if err != nil {
				return nil, err
			}
			f.tests = append(f.tests, names...)
		}
		if len(f.tests) > 0 {
			all = append(all, f)
		}
	}
	return all, nil
}

func functionsIn(path, prefix string) ([]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range file.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, prefix) && fn.Name.Name != "TestMain" && len(fn.Type.Params.List) == 1 {
			names = append(names, fn.Name.Name)
		}
	}
	return names, nil
}
