package kernelimage

import (
	"encoding/json"
	"regexp"
	"strings"

	"carrel/hub"
)

// Environment is what an image offers to a notebook.
type Environment struct {
	Python   string            `json:"python"`
	System   string            `json:"system"`
	Packages map[string]string `json:"packages"` // Python packages and their versions
}

// environmentProgram asks Python itself, so that it works in images without pip.
const environmentProgram = `
import importlib.metadata as m, json, platform
system = ""
try:
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
except OSError:
    pass
print(json.dumps({"python": platform.python_version(), "system": system,
    "packages": {d.metadata["Name"]: d.version for d in m.distributions() if d.metadata["Name"]}}, sort_keys=True))
`

// EnvironmentCommand prints an image's [Environment] when it runs in it. It works in any image that
// has a python3, and reads nothing of the home.
func EnvironmentCommand() []string { return []string{"python3", "-I", "-c", environmentProgram} }

const maxEnvironment = 256 << 10

var version = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+!_-]{0,63}$`)

// ParseEnvironment reads what EnvironmentCommand printed, or an image's label. The image wrote it,
// so that nothing in it is believed but its shape.
func ParseEnvironment(text []byte) (Environment, error) {
	bad := func(format string, args ...any) (Environment, error) {
		return Environment{}, hub.Errorf(hub.Invalid, "read image environment", format, args...)
	}
	if len(text) > maxEnvironment {
		return bad("the image's environment is %d bytes long", len(text))
	}
	var e Environment
	if err := json.Unmarshal(text, &e); err != nil {
		return bad("the image's environment is no JSON: %w", err)
	}
	if !version.MatchString(e.Python) {
		return bad("the image's environment names no Python version")
	}
	for name, v := range e.Packages {
		if !version.MatchString(name) || !version.MatchString(v) {
			return bad("the image's environment has a package %q of version %q", name, v)
		}
	}
	e.System = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, e.System)
	return e, nil
}

// labelContext is a context that adds the environment to an image as a label.
func labelContext(image string, e Environment) (string, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return "", hub.Wrap(hub.Internal, "write image environment", err)
	}
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`).Replace(string(text))
	return "FROM " + image + "\nLABEL " + EnvironmentLabel + "=\"" + quoted + "\"\n", nil
}
