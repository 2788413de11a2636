package config

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// eachLeaf visits every field that there can be, those of lists' items too, by its path with [] for
// an item.
func eachLeaf(t reflect.Type, field string, do func(string, reflect.StructField)) {
	for f := range t.Fields() {
		path := join(field, f.Tag.Get("yaml"))
		do(path, f)
		switch {
		case f.Type.Kind() == reflect.Struct:
			eachLeaf(f.Type, path, do)
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
			eachLeaf(f.Type.Elem(), path+"[]", do)
		}
	}
}

func TestEveryFieldIsDescribed(t *testing.T) {
	eachLeaf(reflect.TypeFor[Config](), "", func(path string, f reflect.StructField) {
		if f.Tag.Get("yaml") == "" || !strings.HasSuffix(f.Tag.Get("doc"), ".") && !strings.HasSuffix(f.Tag.Get("doc"), ":") {
			t.Errorf("%s (%s): no name, or a meaning that is no sentence", path, f.Name)
		}
		if r := f.Tag.Get("reload"); r != "" && r != "live" {
			t.Errorf("%s: reload %q", path, r)
		}
		if f.Type.Kind() == reflect.Map && f.Type != reflect.TypeFor[map[string]string]() {
			t.Errorf("%s: a map that nobody writes", path)
		}
		if name := strings.ToLower(f.Name); (strings.Contains(name, "secret") || strings.Contains(name, "password")) && !strings.HasSuffix(name, "file") && f.Tag.Get("secret") != "yes" {
			t.Errorf("%s would be shown", path)
		}
	})
}

// TestTheExampleIsTheDefaults: what `carrel config example` prints is what an empty file does.
func TestTheExampleIsTheDefaults(t *testing.T) {
	if diff := cmp.Diff(Default(), sound(t, string(Example())), cmp.Transformer("empty", func(s []string) []string { return append([]string{}, s...) }),
		cmp.Transformer("none", func(m map[string]string) int { return len(m) }), cmp.Transformer("mounts", func(m []Mount) int { return len(m) }), cmp.Transformer("times", func(s []SpareAt) int { return len(s) }),
		cmp.Transformer("bans", func(b []Ban) int { return len(b) }), cmp.Transformer("groups", func(g []Group) int { return len(g) }), cmp.Transformer("providers", func(p []Provider) int { return len(p) })); diff != "" {
		t.Error(diff)
	}
}

// TestTheExampleHoldsEveryField, each below its meaning, those of empty lists' items in comments.
func TestTheExampleHoldsEveryField(t *testing.T) {
	var lines []string
	for line := range strings.Lines(string(Example())) {
		lines = append(lines, strings.TrimLeft(strings.TrimSpace(line), "# "))
	}
	eachLeaf(reflect.TypeFor[Config](), "", func(path string, f reflect.StructField) {
		for i, line := range lines {
			if strings.HasPrefix(line, f.Tag.Get("yaml")+":") && i > 0 && lines[i-1] == f.Tag.Get("doc") {
				return
			}
		}
		t.Errorf("%s is not there with its meaning", path)
	})
}

// TestTheSampleItemsAreSound: with their comment signs removed they are read.
func TestTheSampleItemsAreSound(t *testing.T) {
	text := string(Example())
	for _, c := range []struct{ list, indent string }{{"  providers: []", "  # "}, {"cull_groups: []", "# "}} {
		_, rest, ok := strings.Cut(text, c.list+"\n")
		if !ok {
			t.Fatalf("no %s", c.list)
		}
		var item strings.Builder
		if c.list[0] == ' ' {
			item.WriteString("oidc:\n")
		}
		item.WriteString(strings.TrimSuffix(c.list, " []") + "\n")
		skip := true
		for line := range strings.Lines(rest) {
			text, ok := strings.CutPrefix(line, c.indent)
			if !ok {
				break
			}
			if !skip {
				item.WriteString(strings.TrimSuffix(c.indent, "# ") + text)
			}
			skip = false
		}
		b := item.String()
		_, faults := load(t, b)
		for _, f := range faults {
			if strings.Contains(f.Message, "no such field") || strings.Contains(f.Message, "wanted here") || strings.Contains(f.Message, "YAML") {
				t.Errorf("%s: %v in\n%s", c.list, f, b)
			}
		}
		if len(faults) == 0 || strings.Count(b, "\n") < 10 {
			t.Errorf("%s: the sample has no field to fill in:\n%s", c.list, b)
		}
	}
}

// TestShowHidesSecrets fills every text there is with a secret, and with an address that holds one.
func TestShowHidesSecrets(t *testing.T) {
	const secret = "hunter2"
	for form, value := range map[string]string{
		"plain": secret, "address": "https://user:hunter2@host.example.org/p", "address with a query": "redis://host?password=hunter2", "list of addresses": "redis+sentinel://:hunter2@a:1,b:2/0?master=m", "no address": "x://user:hunter2@[",
	} {
		cfg := Default()
		cfg.OIDC.Providers, cfg.CullGroups = []Provider{{}}, []Group{{}}
		cfg.Profiles = cfg.Profiles[:1]
		cfg.Profiles[0].Env = map[string]string{"API_TOKEN": value, "DB_PASSWORD": value, "MY_SECRET": value}
		cfg.Profiles[0].Mounts, cfg.Profiles[0].SpareAt = []Mount{{}}, []SpareAt{{}}
		n := fill(reflect.ValueOf(cfg).Elem(), func(f reflect.StructField) string {
			if f.Tag.Get("secret") != "" || form == "address" {
				return value
			}
			return "shown"
		})
		text := string(cfg.Show())
		if strings.Contains(text, secret) {
			t.Errorf("%s: shown:\n%s", form, grep(text, secret))
		}
		if n < 30 || strings.Count(text, "\"shown\"")+strings.Count(text, "\"https://user:xxxxx@host.example.org/p\"") < 25 || !strings.Contains(text, hidden) {
			t.Errorf("%s: of %d texts too few are shown:\n%s", form, n, text)
		}
		if _, faults := load(t, text); has(faults, "YAML") || has(faults, "no such field") {
			t.Errorf("%s: what is shown is no configuration: %v", form, faults)
		}
	}
}

// fill sets every text that is found, and counts them.
func fill(v reflect.Value, value func(reflect.StructField) string) (n int) {
	for i := range v.NumField() {
		f := v.Field(i)
		switch {
		case f.Kind() == reflect.Struct:
			n += fill(f, value)
		case f.Kind() == reflect.String:
			f.SetString(value(v.Type().Field(i)))
			n++
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.String:
			f.Set(reflect.ValueOf([]string{value(v.Type().Field(i))}))
			n++
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
			for j := range f.Len() {
				n += fill(f.Index(j), value)
			}
		}
	}
	return n
}

func grep(text, what string) string {
	var found strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, what) {
			found.WriteString(line)
		}
	}
	return found.String()
}

func TestShowLeavesTheConfigurationAlone(t *testing.T) {
	cfg := sound(t, provider+"      client_secret: s\nredis:\n  url: redis://u:p@redis.example.org/0\n")
	if text := string(cfg.Show()); !strings.Contains(text, "redis://u:xxxxx@redis.example.org/0") {
		t.Errorf("the address without its password is not shown: %s", grep(text, "redis"))
	}
	if cfg.OIDC.Providers[0].ClientSecret != "s" || cfg.Redis.URL != "redis://u:p@redis.example.org/0" {
		t.Error("showing changes what is shown")
	}
}
