package config

import (
	"bytes"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Example is a commented file that says what an empty one does.
func Example() []byte {
	var w writer
	w.WriteString("# Carrel's configuration: every field with its default. An empty file does the same.\n# Any single value can be set by the environment too: CARREL_REDIS_URL is redis.url.\n\n")
	w.fields(reflect.ValueOf(Default()).Elem(), "")
	return w.Bytes()
}

// Show is the configuration in force, without its secrets.
func (c *Config) Show() []byte {
	w := writer{hide: true}
	w.fields(reflect.ValueOf(c).Elem(), "")
	return w.Bytes()
}

// writer writes YAML with each field's meaning above it.
type writer struct {
	bytes.Buffer

	hide bool // secrets
}

const hidden = "(hidden)"

// secretName tells of variables that hold a secret by the look of their names.
var secretName = regexp.MustCompile(`(?i)secret|token|passw|passphrase|credential|key|auth`)

func (w *writer) fields(v reflect.Value, indent string) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		fmt.Fprintf(w, "%s# %s\n", indent, f.Tag.Get("doc"))
		w.field(f.Tag.Get("yaml"), v.Field(i), indent, f.Tag.Get("secret"))
		if indent == "" {
			w.WriteString("\n")
		}
	}
}

func (w *writer) field(name string, v reflect.Value, indent, secret string) {
	switch {
	case v.Kind() == reflect.Struct:
		fmt.Fprintf(w, "%s%s:\n", indent, name)
		w.fields(v, indent+"  ")
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct && v.Len() > 0:
		fmt.Fprintf(w, "%s%s:\n", indent, name)
		for i := range v.Len() {
			fmt.Fprintf(w, "%s  -\n", indent)
			w.fields(v.Index(i), indent+"    ")
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		fmt.Fprintf(w, "%s%s: []\n", indent, name)
		if !w.hide {
			w.sample(v.Type().Elem(), indent)
		}
	case v.Kind() == reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = w.text(v.Index(i).String(), secret)
		}
		fmt.Fprintf(w, "%s%s: [%s]\n", indent, name, strings.Join(items, ", "))
	case v.Kind() == reflect.Map && v.Len() == 0:
		fmt.Fprintf(w, "%s%s: {}\n", indent, name)
	case v.Kind() == reflect.Map:
		fmt.Fprintf(w, "%s%s:\n", indent, name)
		m := v.Interface().(map[string]string) //nolint:forcetypeassert // the only kind of map, as a test proves
		for _, k := range slices.Sorted(maps.Keys(m)) {
			fmt.Fprintf(w, "%s  %s: %s\n", indent, strconv.Quote(k), w.text(m[k], secretName.FindString(k)))
		}
	case v.Kind() == reflect.String:
		fmt.Fprintf(w, "%s%s: %s\n", indent, name, w.text(v.String(), secret))
	default:
		fmt.Fprintf(w, "%s%s: %v\n", indent, name, v.Interface())
	}
}

// sample shows, in comments, what an item of an empty list looks like.
func (w *writer) sample(t reflect.Type, indent string) {
	var item writer
	item.fields(newItem(t), "    ")
	fmt.Fprintf(w, "%s# An item of it, with its defaults:\n%s#   -\n", indent, indent)
	for line := range strings.Lines(item.String()) {
		w.WriteString(indent + "# " + line)
	}
}

// text quotes a value as YAML and Go alike read it.
func (w *writer) text(s, secret string) string {
	if w.hide {
		s = public(s, secret)
	}
	return strconv.Quote(s)
}

// public is what may be shown of a value: of an address all but its password, of a secret nothing.
func public(s, secret string) string {
	_, rest, address := strings.Cut(s, "://")
	u, err := url.Parse(s)
	clear := address && err == nil && u.RawQuery == "" && u.Fragment == ""
	switch {
	case s == "":
		return s
	case secret != "" && secret != "url":
		return hidden
	case clear && u.User != nil:
		return u.Redacted()
	case strings.Contains(rest, "@"), secret == "url" && !clear:
		return hidden
	}
	return s
}
