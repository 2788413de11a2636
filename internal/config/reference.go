package config

import (
	"fmt"
	"reflect"
	"strings"
)

const referenceHead = `# Configuration

One YAML file, given with ` + "`--config`" + ` or in ` + "`CARREL_CONFIG`" + `. Every field may be left out; an empty file, or
none, is a working configuration for one machine. This page is made from the code: ` + "`go test ./internal/config -run Reference -update`" + `.

| command | |
| --- | --- |
| ` + "`carrel config example`" + ` | prints a file with every field, its meaning and its default |
| ` + "`carrel config check`" + ` | lists every fault with file, line, field and remedy |
| ` + "`carrel config show`" + ` | prints what is in force, without secrets |

- **Reading is strict.** A field that does not exist, is set twice or has a value of another type is
  a fault; with faults nothing starts. Anchors, aliases and tags are not read.
- **The environment goes over the file**: ` + "`CARREL_REDIS_URL`" + ` is ` + "`redis.url`" + `. Lists of texts are separated
  by commas. Lists of anything else (providers, profiles, cull groups) are set in the file alone.
- **Secrets** are best kept in files of their own, mode 0600: ` + "`redis.url_file`, `client_secret_file`" + `.
- **Change.** What is marked *live* counts as soon as the file is saved, or on SIGHUP: cull rules for
  servers that run, all else for what starts from then on. A file with faults changes nothing and is
  told of in the log. What is not *live* waits for a restart.
- **Durations** are written ` + "`90s`, `30m`, `2h` or `14d`; **sizes** `512MiB` or `2GiB`" + ` (powers of 1024).

`

// section is a table of fields that belong together.
type section struct {
	path, doc string
	value     reflect.Value
	live      bool
	inList    bool
}

// Reference is docs/configuration.md.
func Reference() []byte {
	var b strings.Builder
	b.WriteString(referenceHead)
	queue := []section{{value: reflect.ValueOf(Default()).Elem()}}
	for len(queue) > 0 {
		s := queue[0]
		queue = append(writeSection(&b, s), queue[1:]...)
	}
	return []byte(strings.TrimRight(b.String(), "\n") + "\n")
}

// writeSection writes one table, and returns the sections below it.
func writeSection(b *strings.Builder, s section) (below []section) {
	title := "The deployment"
	if s.path != "" {
		title = "`" + s.path + "`"
	}
	fmt.Fprintf(b, "## %s\n\n", title)
	if s.doc != "" {
		fmt.Fprintf(b, "%s\n\n", markdown(s.doc))
	}
	var rows strings.Builder
	for i := range s.value.NumField() {
		f, v := s.value.Type().Field(i), s.value.Field(i)
		path := join(s.path, f.Tag.Get("yaml"))
		live := s.live || f.Tag.Get("reload") == "live"
		sub := section{path: path, doc: f.Tag.Get("doc"), value: v, live: live, inList: s.inList}
		switch {
		case f.Type.Kind() == reflect.Struct:
			below = append(below, sub)
			continue
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
			sub.path, sub.value, sub.inList = path+"[]", newItem(f.Type.Elem()), true
			below = append(below, sub)
			continue
		}
		reload := "restart"
		if live {
			reload = "live"
		}
		env := "–"
		if !s.inList && settable(f.Type) {
			env = "`" + envName(path) + "`"
		}
		fmt.Fprintf(&rows, "| `%s` | %s | %s | %s | %s | %s |\n", f.Tag.Get("yaml"), typeName(f.Type), defaultText(path, v), reload, env, markdown(f.Tag.Get("doc")))
	}
	if rows.Len() > 0 {
		b.WriteString("| field | type | default | change | environment | meaning |\n| --- | --- | --- | --- | --- | --- |\n" + rows.String() + "\n")
	}
	return below
}

// markdown keeps a text from being read as a tag or as the end of a cell.
func markdown(text string) string { return strings.NewReplacer("|", `\|`, "<", `\<`).Replace(text) }

func typeName(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Duration]():
		return "duration"
	case reflect.TypeFor[Size]():
		return "size"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "whole number"
	case reflect.Float64:
		return "number"
	case reflect.Slice:
		return "list of texts"
	case reflect.Map:
		return "names with texts"
	default:
		return "text"
	}
}

func defaultText(path string, v reflect.Value) string {
	if path == "state_dir" { // Default's depends on who asks
		return "`/var/lib/carrel`; for others than root `~/.local/share/carrel`"
	}
	text := fmt.Sprint(v.Interface())
	if v.Kind() == reflect.Slice && v.Len() > 0 {
		text = strings.Join(v.Interface().([]string), ", ") //nolint:forcetypeassert // lists of structs are sections
	}
	if text == "" || text == "[]" || text == "map[]" {
		return "–"
	}
	return "`" + text + "`"
}
