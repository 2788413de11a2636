package hub

import (
	"slices"
	"time"
)

// NetworkMode is what a server may reach.
type NetworkMode string

// The modes. NetworkFiltered is reserved for allow-lists.
const (
	NetworkNone NetworkMode = "none" // nothing
	NetworkOpen NetworkMode = "open" // the outside, but no private, metadata or host address
)

// HomeKind is where a server's home is.
type HomeKind string

// The kinds.
const (
	HomeKept  HomeKind = ""      // on the machine's disk, a person's own, as the driver keeps homes
	HomeTmpfs HomeKind = "tmpfs" // in the server's memory: empty at each start, and gone with the server
)

// Limits are a server's hard caps. Bytes are bytes; zero means the driver's default.
type Limits struct {
	CPUs   float64 `json:"cpus"`   // cores; 0.5 is half of one
	Memory int64   `json:"memory"` // bytes; swap is off
	Disk   int64   `json:"disk"`   // bytes of the home
	Inodes int64   `json:"inodes"` // files in the home
	Shm    int64   `json:"shm"`    // bytes of /dev/shm
	Tmp    int64   `json:"tmp"`    // bytes of /tmp and of each other writable tmpfs
	PIDs   int64   `json:"pids"`   // processes and threads
	Files  int64   `json:"files"`  // open files a process
}

// Mount is an operator's path made visible to a server.
type Mount struct {
	Source   string `json:"source"` // absolute, on the host
	Target   string `json:"target"` // absolute, in the server
	Writable bool   `json:"writable,omitempty"`
}

// Profile is a kind of server that people can choose: the resolved policy of one entry of
// `profiles` in the configuration.
type Profile struct {
	Name        string            `json:"name"`
	Title       string            `json:"title"`
	Description string            `json:"description,omitempty"`
	Default     bool              `json:"default,omitempty"`
	Image       string            `json:"image"`
	Command     []string          `json:"command,omitempty"` // empty: our arguments to the image's jupyter
	Limits      Limits            `json:"limits"`
	Network     NetworkMode       `json:"network"`
	Env         map[string]string `json:"env,omitempty"`
	Mounts      []Mount           `json:"mounts,omitempty"`
	UID         int               `json:"uid"`
	GID         int               `json:"gid"`
	Home        string            `json:"home"` // where the home is mounted; "" for a server without one
	HomeKind    HomeKind          `json:"home_kind,omitempty"`
	Users       []string          `json:"users,omitempty"`  // who may use it: user names …
	Groups      []string          `json:"groups,omitempty"` // … or groups; both empty: everyone
	Cull        CullRule          `json:"cull"`
	DefaultURL  string            `json:"default_url"`        // "/lab"
	Visitors    bool              `json:"visitors,omitempty"` // for visitors, and nobody else
	Max         int               `json:"-"`                  // servers of it at once, those that wait included; 0: no limit
	Spare       Spare             `json:"-"`                  // servers that wait, started, for whoever wants one next
}

// CullRule says when a server of a profile is paused or ends by itself; zero durations switch a rule off.
type CullRule struct {
	Pause   time.Duration `json:"pause"`    // frozen when unused for so long
	Idle    time.Duration `json:"idle"`     // unused for so long
	MaxAge  time.Duration `json:"max_age"`  // this long after its start, used or not
	Warning time.Duration `json:"warning"`  // told so long before
	BusyMax time.Duration `json:"busy_max"` // a busy kernel keeps its server no longer than this after the last use
	Extend  time.Duration `json:"extend"`   // what one press of "keep it" gives
}

// Allows tells whether the person may use the profile.
func (p Profile) Allows(name UserName, groups []string, admin bool) bool {
	if p.Visitors || name.IsVisitor() {
		return p.Visitors && name.IsVisitor()
	}
	if admin || len(p.Users) == 0 && len(p.Groups) == 0 {
		return true
	}
	return slices.Contains(p.Users, name.String()) ||
		slices.ContainsFunc(p.Groups, func(g string) bool { return slices.Contains(groups, g) })
}

// Policy is what the operator decided, as it stands now; a reload of the configuration swaps it.
type Policy struct {
	Profiles       []Profile
	AdminAccess    bool // administrators may open other people's servers
	MaxPerUser     int  // servers one person may run at once
	ConcurrentMax  int  // starts at work at once, at each hub; the rest wait in the queue
	StartTimeout   time.Duration
	StopGrace      time.Duration
	MachineMemory  int64 // bytes; a profile beyond it is refused
	KernelCheck    bool  // ask a kernel for an answer at each start
	GroupCulls     []GroupCull
	RedisGrace     time.Duration
	SweepAfter     time.Duration // how long an orphan that is meant to be stopped is left alone
	SweepMaxShare  float64       // a sweep of more than this share of all servers stops and says so
	ReconcileEvery time.Duration
	Visits         VisitPolicy
	Runs           RunPolicy
}

// GroupCull overrides a profile's rule for the members of a group; the first that matches wins.
type GroupCull struct {
	Group string
	Rule  CullRule
}

// Profile finds a profile by name; an empty name finds the first that the person may use, the one
// marked default before others. Errors are Invalid or Forbidden.
func (p Policy) Profile(name string, user UserName, groups []string, admin bool) (Profile, error) {
	var first *Profile
	for i := range p.Profiles {
		c := &p.Profiles[i]
		allowed := c.Allows(user, groups, admin)
		if name != "" && c.Name == name {
			if !allowed {
				return Profile{}, &Error{Kind: Forbidden, Op: "choose profile", Field: "profile", Message: "you may not use the profile " + name, Remedy: "choose another profile, or ask an administrator"}
			}
			return *c, nil
		}
		if allowed && (first == nil || c.Default && !first.Default) {
			first = c
		}
	}
	if name == "" && first != nil {
		return *first, nil
	}
	if name == "" {
		return Profile{}, &Error{Kind: Forbidden, Op: "choose profile", Field: "profile", Message: "no profile is open to you", Remedy: "ask an administrator"}
	}
	return Profile{}, &Error{Kind: Invalid, Op: "choose profile", Field: "profile", Message: "there is no such profile", Remedy: "choose one of those on the home page"}
}

// CullRule is the rule for a person's server of a profile.
func (p Policy) CullRule(profile string, groups []string) CullRule {
	for _, g := range p.GroupCulls {
		if slices.Contains(groups, g.Group) {
			return g.Rule
		}
	}
	for _, c := range p.Profiles {
		if c.Name == profile {
			return c.Cull
		}
	}
	return CullRule{}
}
