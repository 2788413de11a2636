package config

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

const docs = "../../docs"

// TestReference: docs/configuration.md is what the types say.
func TestReference(t *testing.T) {
	path := filepath.Join(docs, "configuration.md")
	if *update {
		if err := os.WriteFile(path, Reference(), 0o644); err != nil { // a page for everyone
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != string(Reference()) {
		t.Error("docs/configuration.md is not what the code says: go test ./internal/config -run Reference -update")
	}
}

func TestTheReferenceHoldsEveryField(t *testing.T) {
	text := string(Reference())
	eachLeaf(reflect.TypeFor[Config](), "", func(path string, f reflect.StructField) {
		section, at := strings.TrimSuffix(path, f.Tag.Get("yaml")), "\n| `"+f.Tag.Get("yaml")+"` |"
		switch {
		case f.Type.Kind() == reflect.Struct:
			section, at = path, markdown(f.Tag.Get("doc"))
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
			section, at = path+"[]", markdown(f.Tag.Get("doc"))
		}
		title := "## The deployment\n"
		if section = strings.TrimSuffix(section, "."); section != "" {
			title = "## `" + section + "`\n"
		}
		_, rest, ok := strings.Cut(text, title)
		rest, _, _ = strings.Cut(rest, "\n## ")
		if !ok || !strings.Contains(rest, at) || !strings.Contains(rest, markdown(f.Tag.Get("doc"))) {
			t.Errorf("%s is not in %q", path, title)
		}
	})
	for _, want := range []string{
		"| `redis_grace` | duration | `5m` | restart | `CARREL_PROXY_REDIS_GRACE` |", "| `memory` | size | `1GiB` | live | – |", "| `idle` | duration | `2h` | live | – |",
		"| `listen` | list of texts | `127.0.0.1:8000` | restart | `CARREL_LISTEN` |", "| `kernel_check` | true or false | `true` | live | `CARREL_SPAWNER_KERNEL_CHECK` |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(text, os.Getenv("HOME")+"/") {
		t.Error("the page depends on who makes it")
	}
}

var secretFile = regexp.MustCompile(`((?:secret|url)_file: )[^,}\s]+`)

// TestExamplesInTheDocs: each YAML block of the documentation is a configuration without faults. The
// files that it names are stood in for.
func TestExamplesInTheDocs(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(docs, "*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatal("no pages: ", err)
	}
	blocks := map[string]string{}
	for _, page := range pages {
		raw, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		rest := string(raw)
		for line := 0; ; {
			before, after, found := strings.Cut(rest, "\n```yaml\n")
			if !found {
				break
			}
			line += strings.Count(before, "\n") + 2
			block, tail, found := strings.Cut(after, "\n```")
			if !found {
				t.Fatalf("%s:%d: a block without an end", page, line)
			}
			blocks[filepath.Base(page)+" line "+strconv.Itoa(line)] = block
			line += strings.Count(block, "\n") + 1
			rest = tail
		}
	}
	samples, err := filepath.Glob("../../deploy/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range samples {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		blocks[filepath.Base(path)] = string(raw)
	}
	if len(blocks) < 10 {
		t.Errorf("only %d examples were found", len(blocks))
	}
	secret := write(t, "secret", "redis://user:password@redis.example.org/0")
	for where, block := range blocks {
		t.Run(where, func(t *testing.T) {
			sound(t, secretFile.ReplaceAllString(block, "${1}"+secret))
		})
	}
}
