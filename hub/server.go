package hub

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"
)

// MaxServerName is the longest server name, in bytes (as JupyterHub 6).
const MaxServerName = 30

// ServerName names one of a person's servers; the zero value is their default server. Only
// [ParseServerName] makes one.
type ServerName struct{ s string }

// jupytersOwn are the first segments below a server's path that Jupyter, its usual extensions and
// Carrel use. As "/user/alice/gpu/" is the server gpu, one of these names would take a part of the
// default server away.
var jupytersOwn = []string{
	"api", "bundler", "carrel", "consoles", "custom", "dask", "doc", "edit", "files", "git", "kernelspecs", "lab", "login",
	"logout", "lsp", "metrics", "nbclassic", "nbconvert", "nbextensions", "notebooks", "proxy", "retro", "static",
	"terminals", "tree", "user", "view", "voila",
}

// ParseServerName reads a server name: empty, or 1 to 30 of a–z, 0–9 and single hyphens, first and
// last no hyphen, and none that is part of every server's address. Errors are Invalid.
func ParseServerName(s string) (ServerName, error) {
	fail := func(what string) (ServerName, error) {
		return ServerName{}, &Error{
			Kind: Invalid, Op: "parse server name", Field: "server", Message: "this server name " + what,
			Remedy: "use at most 30 of a-z, 0-9 and single hyphens, first and last a letter or digit",
		}
	}
	if s == "" {
		return ServerName{}, nil
	}
	if len(s) > MaxServerName {
		return fail("is longer than 30 characters")
	}
	for i := range len(s) {
		switch c := s[i]; {
		case alphanumeric(c):
		case c == '-':
			if i == 0 || i == len(s)-1 || s[i-1] == '-' {
				return fail("has a hyphen at an end or two in a row")
			}
		default:
			return fail("holds a character that is not allowed")
		}
	}
	if slices.Contains(jupytersOwn, s) {
		return ServerName{}, &Error{
			Kind: Invalid, Op: "parse server name", Field: "server", Message: "the server name " + s + " is taken: pages of every server are at that address",
			Remedy: "choose another, such as " + s + "-1",
		}
	}
	return ServerName{s}, nil
}

// String is the name; empty for the default server.
func (n ServerName) String() string { return n.s }

// MarshalText gives the name, for JSON.
func (n ServerName) MarshalText() ([]byte, error) { return []byte(n.s), nil }

// UnmarshalText parses the name.
func (n *ServerName) UnmarshalText(b []byte) (err error) {
	*n, err = ParseServerName(string(b))
	return err
}

// ServerKey is a person's name and a server's: what everything about a server is filed under.
// It is comparable, and made from parsed names only.
type ServerKey struct {
	User   UserName   `json:"user"`
	Server ServerName `json:"server"`
}

// ParseServerKey parses both halves.
func ParseServerKey(user, server string) (ServerKey, error) {
	u, err := ParseUserName(user)
	if err != nil {
		return ServerKey{}, err
	}
	s, err := ParseServerName(server)
	if err != nil {
		return ServerKey{}, err
	}
	return ServerKey{u, s}, nil
}

// String is "alice" or "alice/gpu", for people and logs.
func (k ServerKey) String() string {
	if k.Server.s == "" {
		return k.User.s
	}
	return k.User.s + "/" + k.Server.s
}

// IsZero tells whether k names nothing.
func (k ServerKey) IsZero() bool { return k.User.IsZero() }

// Label is the key's injective form in [a-z0-9-]: the user's label, and for a named server "--" and
// the server's name (no user label holds "--").
func (k ServerKey) Label() string {
	if k.Server.s == "" {
		return k.User.Label()
	}
	return k.User.Label() + "--" + encodeLabel(k.Server.s, maxLabel)
}

// ParseServerLabel undoes [ServerKey.Label], except for user names so long that their label was cut.
func ParseServerLabel(label string) (ServerKey, bool) {
	user, server, named := strings.Cut(label, "--")
	name, ok := decodeLabel(user)
	if !ok {
		return ServerKey{}, false
	}
	s := ""
	if named {
		if s, ok = decodeLabel(server); !ok || s == "" {
			return ServerKey{}, false
		}
	}
	key, err := ParseServerKey(name, s)
	return key, err == nil && key.Label() == label
}

// Path is the server's path below the deployment's base path, JupyterHub's: "/user/alice/" or
// "/user/alice/gpu/". User names need no escaping in a path segment (RFC 3986, section 3.3).
func (k ServerKey) Path() string {
	if k.Server.s == "" {
		return "/user/" + k.User.s + "/"
	}
	return "/user/" + k.User.s + "/" + k.Server.s + "/"
}

// Generation counts the starts of one server; a generation's container name, token and route are
// its own. The first is 1.
type Generation uint64

// Phase is where a server is in its life.
type Phase string

// The phases.
const (
	Absent   Phase = "absent"   // nothing runs, nothing is asked for
	Queued   Phase = "queued"   // waits for its turn
	Starting Phase = "starting" // the driver is at work, or the server does not answer yet
	Ready    Phase = "ready"    // answers; its route is published
	Paused   Phase = "paused"   // frozen; the next request wakes it
	Stopping Phase = "stopping" // its route is gone; the driver is at work
	Failed   Phase = "failed"   // ended by itself or never came up; Reason says why
)

var legal = map[Phase][]Phase{
	Absent:   {Queued, Starting},
	Queued:   {Starting, Stopping, Absent, Failed},
	Starting: {Ready, Failed, Stopping},
	Ready:    {Paused, Stopping, Failed},
	Paused:   {Ready, Stopping, Failed},
	Stopping: {Absent, Failed},
	Failed:   {Queued, Starting, Stopping, Absent},
}

// CanBecome tells whether a server may go from p to next.
func (p Phase) CanBecome(next Phase) bool { return slices.Contains(legal[p], next) }

// Active tells whether a server in this phase has, or is about to have, a container.
func (p Phase) Active() bool {
	return p == Queued || p == Starting || p == Ready || p == Paused || p == Stopping
}

// Coming tells whether a start is under way, be it that it ends an earlier server first.
func (s Server) Coming() bool {
	return s.Phase == Queued || s.Phase == Starting || s.Phase == Stopping && s.Intent == WantRunning
}

// Pending tells whether the phase changes by itself.
func (p Phase) Pending() bool { return p == Queued || p == Starting || p == Stopping }

// Handle is a driver's own note of what it started: opaque to everyone else, kept as it is, and
// enough for the driver to find the server again after a restart.
type Handle struct {
	Driver  string          `json:"driver"`
	Version int             `json:"version"`
	Data    json.RawMessage `json:"data,omitempty"`
}

// IsZero tells whether the handle holds nothing.
func (h Handle) IsZero() bool { return h.Driver == "" }

// Endpoint is where a server listens: "http://host:port" or "unix:///path". Only [ParseEndpoint]
// makes one.
type Endpoint struct{ s string }

// ParseEndpoint reads an endpoint; errors are Invalid.
func ParseEndpoint(s string) (Endpoint, error) {
	u, err := url.Parse(s)
	ok := err == nil && u.RawQuery == "" && u.Fragment == "" && u.User == nil
	switch {
	case ok && u.Scheme == "http" && u.Port() != "" && u.Hostname() != "" && strings.Trim(u.Path, "/") == "":
		return Endpoint{"http://" + u.Host}, nil
	case ok && u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/") && len(u.Path) <= 107:
		return Endpoint{"unix://" + u.Path}, nil
	}
	return Endpoint{}, &Error{
		Kind: Invalid, Op: "parse endpoint", Field: "endpoint", Message: "this is no endpoint",
		Remedy: "give http://host:port, or unix:///path of at most 107 bytes",
	}
}

// Network is what net.Dial wants: "tcp" or "unix".
func (e Endpoint) Network() string {
	if strings.HasPrefix(e.s, "unix://") {
		return "unix"
	}
	return "tcp"
}

// Address is what net.Dial wants: "host:port" or the socket's path.
func (e Endpoint) Address() string {
	_, a, _ := strings.Cut(e.s, "://")
	return a
}

// String is the endpoint as parsed.
func (e Endpoint) String() string { return e.s }

// IsZero tells whether there is no endpoint.
func (e Endpoint) IsZero() bool { return e.s == "" }

// MarshalText gives the endpoint, for JSON.
func (e Endpoint) MarshalText() ([]byte, error) { return []byte(e.s), nil }

// UnmarshalText parses the endpoint; an empty text is none.
func (e *Endpoint) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*e = Endpoint{}
		return nil
	}
	*e, err = ParseEndpoint(string(b))
	return err
}

// Intent is what is wanted of a server, written before anyone acts on it. A missing record is no
// intent: what runs is then adopted, never swept.
type Intent string

// The intents.
const (
	WantRunning Intent = "running"
	WantStopped Intent = "stopped"
)

// Server is the record of one server.
type Server struct {
	Key        ServerKey  `json:"key"`
	UserID     UserID     `json:"user_id"`
	Generation Generation `json:"generation"`
	Phase      Phase      `json:"phase"`
	Intent     Intent     `json:"intent"`
	Profile    string     `json:"profile"`
	SafeStart  bool       `json:"safe_start,omitempty"` // ignores the home's own configuration
	Handle     Handle     `json:"handle"`
	Leftover   bool       `json:"leftover,omitempty"` // it failed, and its container is still to be removed
	Endpoint   Endpoint   `json:"endpoint"`
	Reason     string     `json:"reason,omitempty"`   // why it failed or was stopped, for its owner
	LogTail    []string   `json:"log_tail,omitempty"` // the container's last lines, when it failed
	Since      time.Time  `json:"since"`              // when it entered Phase
	Started    time.Time  `json:"started"`            // when its start was over
	CullAt     time.Time  `json:"cull_at"`            // when it will be culled unless used; zero if no warning is out
	CullWhy    string     `json:"cull_why,omitempty"` // the rule behind CullAt, in words
	KeepUntil  time.Time  `json:"keep_until"`         // its owner asked to keep it till then
	Revision   uint64     `json:"revision"`           // counted by the store at each write; see ServerStore.PutServer
}
