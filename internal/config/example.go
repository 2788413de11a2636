package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Example is a commented file that says what an empty one does.
func Example() []byte {
	var b strings.Builder
	b.WriteString("# Carrel's configuration: every field with its default. An empty file does the same.\n# Any single value can be set by the environment too: CARREL_REDIS_URL is redis.url.\n\n")
	writeStruct(&b, reflect.ValueOf(Default()).Elem(), "", false)
	return []byte(b.String())
}

// writeStruct writes fields with their meaning above; secrets are masked where hide is set.
func writeStruct(b *strings.Builder, v reflect.Value, indent string, hide bool) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		fmt.Fprintf(b, "%s# %s\n", indent, f.Tag.Get("doc"))
		value := v.Field(i)
		if hide && f.Tag.Get("secret") != "" && value.String() != "" {
			value = reflect.ValueOf("(hidden)")
		}
		writeField(b, f.Tag.Get("yaml"), value, indent, hide)
		if indent == "" {
			b.WriteString("\n")
		}
	}
}

func writeField(b *strings.Builder, name string, v reflect.Value, indent string, hide bool) {
	switch {
	case v.Kind() == reflect.Struct:
		fmt.Fprintf(b, "%s%s:\n", indent, name)
		writeStruct(b, v, indent+"  ", hide)
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct && v.Len() > 0:
		fmt.Fprintf(b, "%s%s:\n", indent, name)
		for i := range v.Len() {
			fmt.Fprintf(b, "%s  -\n", indent)
			writeStruct(b, v.Index(i), indent+"    ", hide)
		}
	case v.Kind() == reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = strconv.Quote(fmt.Sprint(v.Index(i).Interface()))
		}
		fmt.Fprintf(b, "%s%s: [%s]\n", indent, name, strings.Join(items, ", "))
	case v.Kind() == reflect.Map && v.Len() == 0:
		fmt.Fprintf(b, "%s%s: {}\n", indent, name)
	case v.Kind() == reflect.Map:
		fmt.Fprintf(b, "%s%s:\n", indent, name)
		for it := v.MapRange(); it.Next(); {
			fmt.Fprintf(b, "%s  %s: %s\n", indent, strconv.Quote(it.Key().String()), strconv.Quote(it.Value().String()))
		}
	case v.Kind() == reflect.String:
		fmt.Fprintf(b, "%s%s: %s\n", indent, name, strconv.Quote(v.String()))
	default:
		fmt.Fprintf(b, "%s%s: %v\n", indent, name, v.Interface())
	}
}

// Show is the configuration in force, without its secrets.
func (c *Config) Show() []byte {
	shown := *c
	if shown.Redis.URL != "" {
		shown.Redis.URL = "(hidden)"
	}
	var b strings.Builder
	writeStruct(&b, reflect.ValueOf(&shown).Elem(), "", true)
	return []byte(b.String())
}

// Reference is docs/configuration.md.
func Reference() []byte {
	var b strings.Builder
	b.WriteString("# Configuration\n\nOne YAML file, given with `--config`; `carrel config example` prints it whole, `carrel config check` lists its faults. " +
		"A single value can be set by the environment: `CARREL_REDIS_URL` is `redis.url`. Fields marked *live* count as soon as the file is saved; the others at the next start.\n\n" +
		"Durations are written `90s`, `30m`, `2h` or `14d`; sizes `512MiB` or `2GiB`.\n\n| field | default | |\n| --- | --- | --- |\n")
	writeRows(&b, reflect.ValueOf(Default()).Elem(), "")
	return []byte(b.String())
}

func writeRows(b *strings.Builder, v reflect.Value, field string) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		path, value := join(field, f.Tag.Get("yaml")), v.Field(i)
		doc := f.Tag.Get("doc")
		if f.Tag.Get("reload") == "live" {
			doc += " *(live)*"
		}
		switch {
		case value.Kind() == reflect.Struct:
			fmt.Fprintf(b, "| `%s` | | %s |\n", path, doc)
			writeRows(b, value, path)
		case value.Kind() == reflect.Slice && value.Type().Elem().Kind() == reflect.Struct:
			fmt.Fprintf(b, "| `%s` | | %s |\n", path, doc)
			item := reflect.New(value.Type().Elem()).Elem()
			if p, ok := item.Addr().Interface().(*Profile); ok {
				*p = profile("", "", "", 1, 1<<30, 2<<30, false)
			}
			writeRows(b, item, path+"[]")
		case path == "state_dir":
			fmt.Fprintf(b, "| `%s` | `/var/lib/carrel`; for others than root `~/.local/share/carrel` | %s |\n", path, doc)
		default:
			text := fmt.Sprint(value.Interface())
			if text == "" || text == "[]" || text == "map[]" {
				text = "–"
			} else {
				text = "`" + text + "`"
			}
			fmt.Fprintf(b, "| `%s` | %s | %s |\n", path, text, doc)
		}
	}
}
