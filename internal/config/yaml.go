package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// A file's bounds, far beyond any real one: the parser recurses, and its time grows faster than the
// file.
const (
	maxFile  = 64 << 10 // bytes
	maxDepth = 32       // of brackets, and of list items on one line
)

func (l *loader) readFile(cfg *Config, path string) {
	raw, err := readAtMost(path, maxFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.fault(0, "", "there is no such file", "carrel config example > "+path+" makes one")
		return
	case errors.Is(err, errTooLarge):
		l.fault(0, "", "the file is larger than 64KiB", "this is no configuration of Carrel's")
		return
	case err != nil:
		l.fault(0, "", "the file can't be read: "+err.Error(), "run as a user who may read it")
		return
	}
	doc, line, err := parse(string(raw))
	if err != nil {
		l.fault(line, "", err.Error(), "carrel config example shows the form")
		return
	}
	read := false
	for _, d := range doc.Docs {
		if d.Body == nil || d.Body.Type() == ast.CommentType {
			continue
		}
		if read {
			l.fault(lineOf(d.Body), "", "the file holds more than one document", "keep one, and remove the lines with ---")
			return
		}
		read = true
		l.read(d.Body, reflect.ValueOf(cfg).Elem(), "")
	}
}

var errTooLarge = errors.New("too large")

// readAtMost reads a file, which may be a pipe, of at most limit bytes.
func readAtMost(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path) // the operator's own choice
	if err != nil {
		return nil, err
	}
	defer f.Close() // it was read only
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = errTooLarge
	}
	return raw, err
}

// parse makes a tree, or gives the line of what is wrong. No message shows the file's content.
func parse(text string) (doc *ast.File, line int, err error) {
	defer func() {
		if recover() != nil { // the parser knows inputs that it can't bear
			doc, line, err = nil, 0, errors.New("this is no YAML")
		}
	}()
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return nil, 0, errors.New("this is no text in UTF-8")
	}
	tokens := lexer.Tokenize(text)
	if line, err := refuse(tokens); err != nil {
		return nil, line, err
	}
	doc, err = parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	var where yaml.Error
	if errors.As(err, &where) {
		if t := where.GetToken(); t != nil {
			line = t.Position.Line
		}
		err = errors.New("this is no YAML: " + where.GetMessage())
	} else if err != nil {
		err = errors.New("this is no YAML")
	}
	return doc, line, err
}

// refuse finds what a configuration needs none of: references, by which a short file can stand for
// a long one, and nesting without end.
func refuse(tokens token.Tokens) (line int, err error) {
	depth, items := 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			items = 0
		}
		line = t.Position.Line
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			return line, errors.New("anchors and aliases (& and *) are not read: write the value out, in quotes if it begins so")
		case token.TagType, token.DirectiveType, token.MappingKeyType:
			return line, errors.New("tags, directives and complex keys (!, % and ?) are not read: put the value in quotes if it begins so")
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType:
			items++
		default:
		}
		if depth > maxDepth || items > maxDepth {
			return line, errors.New("this is nested too deeply")
		}
	}
	return 0, nil
}

func lineOf(n ast.Node) int {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 0
}

// read sets v from a node, by v's type; every fault is kept and reading goes on. Nothing (null)
// leaves the default.
func (l *loader) read(n ast.Node, v reflect.Value, field string) {
	line := lineOf(n)
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
		l.readList(n, v, field)
	case reflect.Map:
		l.readMap(n, v, field)
	default:
		scalar, ok := n.(ast.ScalarNode)
		if !ok {
			l.fault(line, field, "a single value is wanted here", "write "+leaf(field)+": value")
			return
		}
		if err := setScalar(v, scalarText(scalar)); err != nil {
			l.fault(line, field, err.Error(), "")
		}
	}
}

// leaf is a field's own name.
func leaf(field string) string {
	name := field[strings.LastIndexByte(field, '.')+1:]
	name, _, _ = strings.Cut(name, "[")
	return name
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

// entries are a mapping's; ok is false for anything else.
func entries(n ast.Node) (kvs []*ast.MappingValueNode, ok bool) {
	switch m := n.(type) {
	case *ast.MappingNode:
		return m.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{m}, true
	}
	return nil, false
}

func (l *loader) readList(n ast.Node, v reflect.Value, field string) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		l.fault(lineOf(n), field, "a list is wanted here", "write [a, b], or a line with - for each")
		return
	}
	list := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, item := range seq.Values {
		list.Index(i).Set(newItem(v.Type().Elem()))
		l.read(item, list.Index(i), fmt.Sprintf("%s[%d]", field, i))
	}
	v.Set(list)
}

// newItem is an item of a list with the defaults of every field that a file leaves out.
func newItem(t reflect.Type) reflect.Value {
	v := reflect.New(t)
	switch item := v.Interface().(type) {
	case *Profile:
		*item = profile("", "", "", 1, 1<<30, 2<<30, false)
	case *Group:
		item.Cull = defaultCull()
	}
	return v.Elem()
}

func (l *loader) readMap(n ast.Node, v reflect.Value, field string) {
	kvs, ok := entries(n)
	if !ok {
		l.fault(lineOf(n), field, "names with values are wanted here", "write NAME: value, indented")
		return
	}
	m := reflect.MakeMap(v.Type())
	for _, kv := range kvs {
		name, value := keyText(kv), reflect.New(v.Type().Elem()).Elem()
		path := join(field, name)
		if m.MapIndex(reflect.ValueOf(name)).IsValid() {
			l.fault(lineOf(kv.Key), path, "this name is set twice", "keep one of them")
			continue
		}
		l.lines[path] = lineOf(kv.Key)
		l.read(kv.Value, value, path)
		m.SetMapIndex(reflect.ValueOf(name), value)
	}
	v.Set(m)
}

func (l *loader) readStruct(n ast.Node, v reflect.Value, field string) {
	kvs, ok := entries(n)
	if !ok {
		l.fault(lineOf(n), field, "fields are wanted here", "write name: value, indented")
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
		name, line := keyText(kv), lineOf(kv.Key)
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
		if d := editDistance(name, n, distance); d < distance {
			best, distance = n, d
		}
	}
	if best == "" {
		return "carrel config example lists them all"
	}
	return "did you mean " + best + "?"
}

// editDistance is Levenshtein's, or some number from limit on where the lengths alone differ so much.
func editDistance(a, b string, limit int) int {
	if d := len(a) - len(b); d >= limit || -d >= limit {
		return limit
	}
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

// setScalar sets a value from its text; with an error it stays as it is.
func setScalar(v reflect.Value, text string) error {
	switch p := v.Addr().Interface().(type) {
	case *Duration:
		return set(p, text, ParseDuration)
	case *Size:
		return set(p, text, ParseSize)
	}
	switch v.Kind() {
	case reflect.String:
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return errors.New("text without NUL, in UTF-8, is wanted here")
		}
		v.SetString(text)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return errors.New("true or false is wanted here")
		}
		v.SetBool(text == "true")
	case reflect.Int:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 || n > maxInt {
			return errors.New("a whole number from 0 on is wanted here")
		}
		v.SetInt(n)
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || !(f >= 0 && f < 1e6) { // NaN is neither
			return errors.New("a number from 0 on is wanted here")
		}
		v.SetFloat(f)
	default:
		return errors.New("this field can't be set to a single value")
	}
	return nil
}

// maxInt is the largest whole number in a file: user ids and ext4's inode counts go no further.
const maxInt = 1<<32 - 1

func set[T any](into *T, text string, parse func(string) (T, error)) error {
	v, err := parse(text)
	if err == nil {
		*into = v
	}
	return err
}
