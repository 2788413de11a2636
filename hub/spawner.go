package hub

import (
	"context"
	"iter"
	"time"
)

// Spec is all that a driver needs to start a server. It is a value: drivers keep no part of it but
// what a [Handle] holds.
type Spec struct {
	Key        ServerKey
	Generation Generation
	UserID     UserID // keys the home
	Profile    string
	Image      string
	Command    []string // empty: the driver's default for Jupyter images
	Limits     Limits
	Network    NetworkMode
	Env        map[string]string
	Mounts     []Mount
	UID, GID   int
	Home       string // mount point of the home in the server; "" for none
	HomeKind   HomeKind
	BasePath   string // the server's base_url, as "/user/alice/"
	Origin     string // the origin that pages of the server are served from, as "https://alice.example.org"
	Token      Secret // the server's own token; see [Keyring.ServerToken]
	HubURL     string // where the hub's pages are for the person's browser
	DefaultURL string
	SafeStart  bool           // ignore configuration found in the home
	Progress   func(Progress) // never nil; must not block
}

// Progress is a step of a start, for the person who waits.
type Progress struct {
	Step    string    `json:"step"`              // queue, image, create, start, wait, kernel, ready, failed, stopped
	Message string    `json:"message"`           // for people
	Percent int       `json:"percent,omitempty"` // of the whole start, 0 to 100
	Place   int       `json:"place,omitempty"`   // in the queue, from 1
	Detail  string    `json:"detail,omitempty"`  // such as "layer 3 of 7"
	Log     []string  `json:"log,omitempty"`     // the container's last lines, on failure
	Remedy  string    `json:"remedy,omitempty"`
	Open    bool      `json:"open,omitempty"` // the server can be opened already; what follows is only told
	Done    bool      `json:"done,omitempty"` // the last of this start
	Failed  bool      `json:"failed,omitempty"`
	At      time.Time `json:"at"`
}

// Usage is what a server uses now. Negative values are unknown.
type Usage struct {
	CPUSeconds  float64   `json:"cpu_seconds"` // since its start
	Memory      int64     `json:"memory"`      // bytes, without reclaimable cache
	MemoryLimit int64     `json:"memory_limit"`
	PIDs        int64     `json:"pids"`
	At          time.Time `json:"at"`
}

// Status is what a driver knows of one server.
type Status struct {
	Key        ServerKey
	Generation Generation
	UserID     UserID
	Profile    string
	Handle     Handle
	Phase      Phase    // Starting, Ready (runs; whether it answers is the hub's to find out), Paused, Failed (ended) or Absent (authoritatively gone)
	Endpoint   Endpoint // zero unless it runs
	Reason     string   // why it ended, for people: "out of memory", "exit code 1"
	Created    time.Time
	Image      string // what it was made from, by a name that never means anything else, as "sha256:…"; "" where there is none
}

// Spawner starts and stops servers on one kind of machine. Methods are safe for concurrent use,
// honour ctx, run side by side, and return errors of a [Kind]: Unavailable when the backend can't
// be reached, Invalid when the Spec can't be met (Field names what), Conflict for a name taken by
// something that is not ours.
type Spawner interface {
	// Start creates and starts the server and returns as soon as it runs; it does not wait for it
	// to answer. It is idempotent per key and generation: a second call finds the first's server.
	// When ctx ends before the server runs, what was made is removed again.
	Start(ctx context.Context, spec Spec) (Handle, error)
	// Inspect tells how the server is. A server that is authoritatively gone is Absent with a nil
	// error; not being able to tell is an Unavailable error.
	Inspect(ctx context.Context, h Handle) (Status, error)
	// Stop ends the server and removes what was made for it, but for the home. It waits up to grace
	// before it kills. It succeeds when the server is already gone.
	Stop(ctx context.Context, h Handle, grace time.Duration) error
	// List yields every server that carries this deployment's authentic labels, running or ended.
	List(ctx context.Context) iter.Seq2[Status, error]
}

// Logs is implemented by drivers that can show a server's output.
type Logs interface {
	// Logs gives the last n lines, oldest first, cut to 400 bytes each, control characters removed.
	Logs(ctx context.Context, h Handle, n int) ([]string, error)
}

// Watcher is implemented by drivers that tell of ended servers at once.
type Watcher interface {
	// Watch yields the status of servers that ended, until ctx ends or the stream breaks; the
	// consumer then lists and watches anew.
	Watch(ctx context.Context) iter.Seq2[Status, error]
}

// Meter is implemented by drivers that can say what a server uses.
type Meter interface {
	Usage(ctx context.Context, h Handle) (Usage, error)
}

// Pauser is implemented by drivers that can freeze a server: its processes keep their memory and get
// no CPU, its [Phase] is Paused, it listens where it did and answers nothing. A frozen server is
// stopped, listed and inspected as any other.
type Pauser interface {
	// Pause freezes a server; it succeeds when it is frozen already. NotFound when it is gone, Conflict
	// when it does not run.
	Pause(ctx context.Context, h Handle) error
	// Resume has a frozen server go on; it succeeds when it is not frozen. Its errors are Pause's.
	Resume(ctx context.Context, h Handle) error
}

// Slots is implemented by drivers that can have servers wait, started and nobody's, for whoever
// wants one next.
type Slots interface {
	// KeepSlots has so many slots wait of each shape, and no others: it makes those that are missing,
	// one after the other until each is ready, and removes what nobody wants. One call at a time. It is
	// Invalid where servers of a shape can't be made ahead.
	KeepSlots(ctx context.Context, wants []SlotWant) error
	// ClaimSlot makes a slot that waits the spec's server, as Start does; NotFound when there is none,
	// and after any other error none was made.
	ClaimSlot(ctx context.Context, spec Spec) (Handle, error)
	// SlotStock tells how many slots are ready, and what they take.
	SlotStock(ctx context.Context) (SlotStock, error)
}

// SlotStock is what waits for whoever comes next.
type SlotStock struct {
	Ready  int
	Memory int64 // bytes that they use
}

// SlotWant is how many slots of a kind of server are to wait. What tells one person's server from
// another's is no part of the shape.
type SlotWant struct {
	Shape Spec
	Spare int
}

// Binding ties a user name to the identity that first signed in with it and to the id that keys the
// home. It is kept in the user store, and beside the home so that it outlives a wiped store.
type Binding struct {
	Name     UserName `json:"name"`
	UserID   UserID   `json:"user_id"`
	Identity Identity `json:"identity"`
}

// Bindings keeps a [Binding] beside each home.
type Bindings interface {
	// Binding finds a name's binding; NotFound when there is none.
	Binding(ctx context.Context, name UserName) (Binding, error)
	// Bind writes one, replacing what is there; it is durable when the call returns.
	Bind(ctx context.Context, b Binding) error
}

// Notebook is the hub's client of a person's Jupyter server. The server is hostile: clients follow
// no redirect, cap headers and bodies and have deadlines.
type Notebook interface {
	// Answers makes one request and tells whether the server answers below its base path.
	Answers(ctx context.Context, t Target) error
	// Busy asks for the state of kernels and terminals.
	Busy(ctx context.Context, t Target) (NotebookState, error)
	// TryKernel starts a kernel, has it compute, and shuts it down.
	TryKernel(ctx context.Context, t Target) error
}

// Target is where and how the hub reaches a server.
type Target struct {
	Endpoint Endpoint
	BasePath string
	Token    Secret
}

// NotebookState is what a server says of its kernels and terminals.
type NotebookState struct {
	Kernels      int
	BusyKernels  int
	Terminals    int
	LastActivity time.Time // of kernels and terminals, as the server claims; zero if none
}
