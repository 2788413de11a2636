package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Fault is one thing that is wrong with a configuration.
type Fault struct {
	File    string // or "environment"
	Line    int    // 0 where there is none
	Field   string // as "profiles[0].memory"
	Message string
	Remedy  string
}

// String is the fault in a line.
func (f Fault) String() string {
	at := f.File
	if f.Line > 0 {
		at += ":" + strconv.Itoa(f.Line)
	}
	s := at + ": " + f.Field + ": " + f.Message
	if f.Field == "" {
		s = at + ": " + f.Message
	}
	if f.Remedy != "" {
		s += " (" + f.Remedy + ")"
	}
	return s
}

// loader collects faults and where each field was set.
type loader struct {
	file   string
	faults []Fault
	lines  map[string]int
}

func (l *loader) fault(line int, field, message, remedy string) {
	l.faults = append(l.faults, Fault{l.file, line, field, message, remedy})
}

// Load reads a file, the environment over it (env is os.Environ's form), and secrets from files,
// and checks the result. An empty path is a configuration of defaults. With faults the
// configuration is not to be used.
func Load(path string, env []string, machine Machine) (*Config, []Fault) {
	cfg := Default()
	l := &loader{file: path, lines: map[string]int{}}
	if path != "" {
		l.readFile(cfg, path)
	}
	l.readEnv(cfg, env)
	if len(l.faults) == 0 {
		l.readSecrets(cfg)
	}
	for _, f := range cfg.Validate(machine) {
		f.File, f.Line = path, l.lineOf(f.Field)
		if f.File == "" {
			f.File = "defaults"
		}
		if !l.told(f.Field) {
			l.faults = append(l.faults, f)
		}
	}
	return cfg, l.faults
}

// told tells whether a field has a fault already: one is enough.
func (l *loader) told(field string) bool {
	for _, f := range l.faults {
		if f.Field == field {
			return true
		}
	}
	return false
}

// lineOf is the line of a field, or of what it is in.
func (l *loader) lineOf(field string) int {
	for field != "" {
		if n, ok := l.lines[field]; ok {
			return n
		}
		field = field[:max(strings.LastIndexAny(field, ".["), 0)]
	}
	return 0
}

func (l *loader) readFile(cfg *Config, path string) {
	raw, err := os.ReadFile(path) //nolint:gosec // the operator's own choice
	if errors.Is(err, fs.ErrNotExist) {
		l.fault(0, "", "there is no such file", "carrel config example > "+path+" makes one")
		return
	}
	if err != nil {
		l.fault(0, "", "the file can't be read: "+err.Error(), "run as a user who may read it")
		return
	}
	doc, err := parser.ParseBytes(raw, 0)
	if err != nil {
		l.fault(0, "", "this is no YAML: "+strings.TrimSpace(err.Error()), "")
		return
	}
	for _, d := range doc.Docs {
		if d.Body != nil {
			l.read(d.Body, reflect.ValueOf(cfg).Elem(), "")
		}
	}
}

// read sets v from a node, by v's type; every fault is kept and reading goes on.
func (l *loader) read(n ast.Node, v reflect.Value, field string) {
	line := n.GetToken().Position.Line
	if _, seen := l.lines[field]; !seen {
		l.lines[field] = line
	}
	if n.Type() == ast.NullType {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		l.readStruct(n, v, field)
	case reflect.Slice:
		seq, ok := n.(*ast.SequenceNode)
		if !ok {
			l.fault(line, field, "a list is wanted here", "write [a, b], or a line with - for each")
			return
		}
		list := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
		for i, item := range seq.Values {
			if p, ok := list.Index(i).Addr().Interface().(*Profile); ok {
				*p = profile("", "", "", 1, 1<<30, 2<<30, false)
			}
			l.read(item, list.Index(i), fmt.Sprintf("%s[%d]", field, i))
		}
		v.Set(list)
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		for _, kv := range entries(n) {
			value := reflect.New(v.Type().Elem()).Elem()
			l.read(kv.Value, value, join(field, kv.Key.String()))
			m.SetMapIndex(reflect.ValueOf(keyText(kv)), value)
		}
		v.Set(m)
	default:
		scalar, ok := n.(ast.ScalarNode)
		if !ok {
			l.fault(line, field, "a single value is wanted here", "")
			return
		}
		if err := setScalar(v, scalarText(scalar)); err != nil {
			l.fault(line, field, err.Error(), "")
		}
	}
}

func scalarText(n ast.ScalarNode) string {
	if s, ok := n.(*ast.StringNode); ok {
		return s.Value
	}
	if s, ok := n.(*ast.LiteralNode); ok {
		return s.Value.Value
	}
	return n.GetToken().Value
}

func keyText(kv *ast.MappingValueNode) string { return kv.Key.GetToken().Value }

func entries(n ast.Node) []*ast.MappingValueNode {
	switch m := n.(type) {
	case *ast.MappingNode:
		return m.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{m}
	}
	return nil
}

func join(field, name string) string {
	if field == "" {
		return name
	}
	return field + "." + name
}

func (l *loader) readStruct(n ast.Node, v reflect.Value, field string) {
	kvs := entries(n)
	if kvs == nil {
		l.fault(n.GetToken().Position.Line, field, "fields are wanted here", "write name: value, indented")
		return
	}
	known := map[string]reflect.Value{}
	var names []string
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("yaml")
		known[name] = v.Field(i)
		names = append(names, name)
	}
	seen := map[string]bool{}
	for _, kv := range kvs {
		name, line := keyText(kv), kv.Key.GetToken().Position.Line
		path := join(field, name)
		target, ok := known[name]
		switch {
		case !ok:
			l.fault(line, path, "there is no such field", suggest(name, names))
		case seen[name]:
			l.fault(line, path, "this field is set twice", "keep one of them")
		default:
			seen[name] = true
			l.lines[path] = line
			l.read(kv.Value, target, path)
		}
	}
}

// suggest names the field that was likely meant.
func suggest(name string, names []string) string {
	best, distance := "", 4
	for _, n := range names {
		if d := editDistance(name, n); d < distance {
			best, distance = n, d
		}
	}
	if best == "" {
		return "carrel config example lists them all"
	}
	return "did you mean " + best + "?"
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			prev, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, prev+cost)
		}
	}
	return row[len(b)]
}

// setScalar sets a value from its text.
func setScalar(v reflect.Value, text string) error {
	switch p := v.Addr().Interface().(type) {
	case *Duration:
		d, err := ParseDuration(text)
		*p = d
		return err
	case *Size:
		s, err := ParseSize(text)
		*p = s
		return err
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return errors.New("true or false is wanted here")
		}
		v.SetBool(b)
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return errors.New("a whole number from 0 on is wanted here")
		}
		v.SetInt(int64(n))
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || !(f >= 0 && f < 1e6) {
			return errors.New("a number from 0 on is wanted here")
		}
		v.SetFloat(f)
	default:
		return errors.New("this field can't be set to a single value")
	}
	return nil
}

// envPrefix begins the names of environment variables: CARREL_REDIS_URL is redis.url.
const envPrefix = "CARREL_"

// readEnv sets scalars and lists of strings (comma-separated) from the environment.
func (l *loader) readEnv(cfg *Config, env []string) {
	known := map[string]reflect.Value{}
	eachField(reflect.ValueOf(cfg).Elem(), "", func(field string, v reflect.Value, _ reflect.StructField) {
		known[envPrefix+strings.ToUpper(strings.ReplaceAll(field, ".", "_"))] = v
	})
	file := l.file
	l.file = "environment"
	defer func() { l.file = file }()
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		v, ok := known[name]
		if !ok {
			continue
		}
		if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.String {
			v.Set(reflect.ValueOf(strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })))
		} else if err := setScalar(v, value); err != nil {
			l.fault(0, name, err.Error(), "")
		}
	}
}

// eachField visits every field that is no list of structs, by its path.
func eachField(v reflect.Value, field string, do func(string, reflect.Value, reflect.StructField)) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		path := join(field, f.Tag.Get("yaml"))
		if f.Type.Kind() == reflect.Struct {
			eachField(v.Field(i), path, do)
			continue
		}
		do(path, v.Field(i), f)
	}
}

// readSecrets reads the files that hold secrets.
func (l *loader) readSecrets(cfg *Config) {
	read := func(field, path string, into *string) {
		if path == "" {
			return
		}
		raw, err := os.ReadFile(path) //nolint:gosec // the operator's own choice
		if err != nil {
			l.fault(l.lineOf(field), field, "the file can't be read", "check that "+path+" is there and readable by carrel")
			return
		}
		*into = strings.TrimSpace(string(raw))
	}
	read("redis.url_file", cfg.Redis.URLFile, &cfg.Redis.URL)
	for i := range cfg.OIDC.Providers {
		p := &cfg.OIDC.Providers[i]
		read(fmt.Sprintf("oidc.providers[%d].client_secret_file", i), p.ClientSecretFile, &p.ClientSecret)
	}
}
