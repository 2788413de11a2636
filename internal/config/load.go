package config

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Fault is one thing that is wrong with a configuration.
type Fault struct {
	File    string // or "environment"
	Line    int    // 0 where there is none
	Field   string // as "profiles[0].memory"; the variable's name where it came from the environment
	Message string // never shows a value: it may be a secret
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

// loader collects faults, and remembers where each field was set.
type loader struct {
	file   string
	faults []Fault
	lines  map[string]int    // by field
	vars   map[string]string // variables of the environment, by the field that they set
	told   map[string]bool   // fields with a fault: one is enough
}

// Load reads a file, the environment over it (env is os.Environ's form), and secrets from files,
// and checks the result. An empty path is a configuration of defaults, which is made to fit the
// machine. With faults the configuration is not to be used.
func Load(path string, env []string, machine Machine) (*Config, []Fault) {
	cfg := Default()
	l := &loader{file: path, lines: map[string]int{}, vars: map[string]string{}, told: map[string]bool{}}
	if path != "" {
		l.readFile(cfg, path)
	}
	l.readEnv(cfg, env)
	if _, given := l.lines["profiles"]; !given {
		cfg.fit(machine)
	}
	l.readSecrets(cfg)
	for _, f := range cfg.Validate(machine) {
		if !l.known(f.Field) {
			l.fault(l.lineOf(f.Field), f.Field, f.Message, f.Remedy)
		}
	}
	slices.SortStableFunc(l.faults, func(a, b Fault) int { return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line) })
	return cfg, l.faults
}

// fit lowers the default profiles to what the machine has.
func (c *Config) fit(m Machine) {
	for i := range c.Profiles {
		p := &c.Profiles[i]
		if m.Memory > 0 {
			p.Memory = min(p.Memory, Size(m.Memory>>20<<20))
		}
		if m.CPUs > 0 {
			p.CPU = min(p.CPU, float64(m.CPUs))
		}
	}
}

// fault keeps a fault of a field, naming the variable that set it where one did.
func (l *loader) fault(line int, field, message, remedy string) {
	l.told[field] = true
	f := Fault{l.file, line, field, message, remedy}
	for at := field; at != ""; at = parent(at) {
		if name, ok := l.vars[at]; ok {
			f.File, f.Line, f.Field = "environment", 0, name
			break
		}
	}
	if f.File == "" {
		f.File = "defaults"
	}
	l.faults = append(l.faults, f)
}

// known tells whether a field, or what it is in, has a fault already.
func (l *loader) known(field string) bool {
	for ; field != ""; field = parent(field) {
		if l.told[field] {
			return true
		}
	}
	return false
}

// lineOf is the line of a field, or of what it is in.
func (l *loader) lineOf(field string) int {
	for ; field != ""; field = parent(field) {
		if n, ok := l.lines[field]; ok {
			return n
		}
	}
	return 0
}

// parent is what a field is in: "a" of "a.b" and of "a[0]".
func parent(field string) string { return field[:max(strings.LastIndexAny(field, ".["), 0)] }

func join(field, name string) string {
	if field == "" {
		return name
	}
	return field + "." + name
}
