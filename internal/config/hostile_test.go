package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestHostileFilesAreBounded: each is refused, with a fault, in seconds and without a stack overflow,
// which would end the process.
func TestHostileFilesAreBounded(t *testing.T) {
	fill := func(s string) string { return strings.Repeat(s, (maxFile-64)/len(s)) }
	var bomb strings.Builder
	bomb.WriteString("a: &a [x, x, x, x, x, x, x, x, x]\n")
	for c := 'b'; c <= 'z'; c++ {
		bomb.WriteString(string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+string(c-1)+", ", 9) + "]\n")
	}
	var stairs strings.Builder
	for i := 0; stairs.Len() < maxFile-2000; i++ {
		stairs.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	var steps strings.Builder
	for i := 0; steps.Len() < maxFile-8000; i++ {
		steps.WriteString(strings.Repeat(" ", 2*(maxDepth-1)*i) + strings.Repeat("- ", maxDepth-1) + "\n")
	}
	for name, text := range map[string]string{
		"billion laughs": bomb.String(), "brackets": fill("["), "braces": fill("{"), "braces with keys": fill("{a: "), "list items": fill("- "), "complex keys": fill("? "),
		"stairs": stairs.String(), "steps": steps.String(), "one long line": fill("a"), "colons": fill(":"), "colons and spaces": fill(": "), "quotes": fill("'"), "double quotes": fill("\""),
		"commas": "a: [" + fill(",") + "]", "many fields": fill("a: b\n"), "newlines": "a: |\n" + fill(" \n"), "comments": "x: 1\n" + fill("#\n"),
		"list of many": "listen: [" + fill("a, ") + "]\n", "documents": fill("---\na: b\n"), "long key": fill("k") + ": v\n", "literals": fill("|\n"), "dashes": fill("-"), "percent": fill("%"),
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			_, faults := load(t, text)
			if len(faults) == 0 {
				t.Error("no fault")
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// FuzzLoad: whatever stands in a file, reading it ends, and what has no fault can be shown and read
// again as the same.
func FuzzLoad(f *testing.F) {
	for _, s := range []string{
		"", "deployment: a\n", string(Example()), provider, "profiles:\n  - name: a\n    env: {A: b}\n    mounts: [{source: /a, target: /b}]\n", "a: &x [*x]\n", "? a\n: b\n", "--- |\n a\n...\n---\n",
		"listen: [a, [b], {c: d}, ~]\n", "redis: {url: 'redis://u:p@h/0'}\n", "profiles: [{cpu: .nan}, {cpu: 1e309}, {memory: 0x10}]\n", "- - - a\n", "\"a\\u0000\": b\n", "a: >\n  b\n\n c\n", "demo: {people: [\"a\\x00\"]}\n", "%YAML 1.2\n---\na: b\n",
	} {
		f.Add(s)
	}
	dir := f.TempDir()
	path := filepath.Join(dir, "carrel.yaml")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "_file") {
			return // it would read files of this machine
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, faults := Load(path, nil, big)
		for _, x := range faults {
			if x.Message == "" || x.File == "" || x.Line < 0 || x.Line > strings.Count(text, "\n")+strings.Count(text, "\r")+2 {
				t.Errorf("%+v of %q", x, text)
			}
		}
		if len(faults) > 0 {
			return
		}
		w := writer{}
		w.fields(reflect.ValueOf(cfg).Elem(), "")
		if err := os.WriteFile(path, w.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		again, faults := Load(path, nil, big)
		if len(faults) > 0 {
			t.Fatalf("%q is written as\n%s\nwhich has %v", text, w.String(), faults)
		}
		w2 := writer{}
		w2.fields(reflect.ValueOf(again).Elem(), "")
		if w2.String() != w.String() {
			t.Errorf("%q is read again as another:\n%s\n%s", text, w.String(), w2.String())
		}
	})
}
