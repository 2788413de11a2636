package hubtest

import (
	"context"
	"sync"
	"time"

	"carrel/hub"
)

// Mood is how a fake Jupyter server takes the hub's questions.
type Mood struct {
	Deaf    bool              // it accepts connections and answers nothing, until the caller gives up
	Broken  bool              // it answers with an error at once
	After   time.Duration     // it answers only so long after it was first asked
	State   hub.NotebookState // of its kernels and terminals
	NoState bool              // it does not tell its state
	StateIn time.Duration     // how long it takes to tell
	Kernel  error             // what becomes of a kernel that is tried

	KernelIn time.Duration // how long that takes
}

// FakeNotebook is a [hub.Notebook] that asks the running containers of a [FakeSpawner]: where none
// listens, and to a wrong token or base path, nothing answers.
type FakeNotebook struct {
	at func(hub.Endpoint) (hub.Spec, bool)

	mu     sync.Mutex
	moods  map[hub.ServerKey]Mood
	first  map[hub.Endpoint]time.Time // when each was first asked whether it answers
	asked  map[hub.ServerKey]int      // for its state
	kernel map[hub.ServerKey]int      // kernels tried
}

var _ hub.Notebook = (*FakeNotebook)(nil)

// NewNotebook makes the client of a driver's servers.
func NewNotebook(of *FakeSpawner) *FakeNotebook {
	return &FakeNotebook{
		at: of.Listening, moods: map[hub.ServerKey]Mood{}, first: map[hub.Endpoint]time.Time{},
		asked: map[hub.ServerKey]int{}, kernel: map[hub.ServerKey]int{},
	}
}

// Set changes a server's mood.
func (n *FakeNotebook) Set(key hub.ServerKey, m Mood) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.moods[key] = m
}

// Asked is how often a server was asked for its state, and Kernels how many kernels were tried in it.
func (n *FakeNotebook) Asked(key hub.ServerKey) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[key]
}

// Kernels is how many kernels were tried in a server.
func (n *FakeNotebook) Kernels(key hub.ServerKey) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.kernel[key]
}

// reach finds the server behind a target, in its mood.
func (n *FakeNotebook) reach(ctx context.Context, t hub.Target) (hub.ServerKey, Mood, error) {
	refused := func(message string) (hub.ServerKey, Mood, error) {
		return hub.ServerKey{}, Mood{}, hub.Errorf(hub.Unavailable, "ask fake server", "%s", message)
	}
	if err := ctx.Err(); err != nil {
		return hub.ServerKey{}, Mood{}, hub.Wrap(hub.Canceled, "ask fake server", err)
	}
	spec, there := n.at(t.Endpoint)
	if !there {
		return refused("connection refused")
	}
	n.mu.Lock()
	m := n.moods[spec.Key]
	n.mu.Unlock()
	switch {
	case spec.Token.Reveal() != t.Token.Reveal():
		return refused("wrong token")
	case spec.BasePath != t.BasePath:
		return refused("wrong base path")
	case m.Deaf:
		<-ctx.Done()
		return hub.ServerKey{}, Mood{}, hub.Wrap(hub.Canceled, "ask fake server", ctx.Err())
	case m.Broken:
		return refused("it answered with status 500")
	}
	return spec.Key, m, nil
}

// Answers implements [hub.Notebook].
func (n *FakeNotebook) Answers(ctx context.Context, t hub.Target) error {
	_, m, err := n.reach(ctx, t)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.first[t.Endpoint].IsZero() {
		n.first[t.Endpoint] = time.Now()
	}
	if time.Since(n.first[t.Endpoint]) < m.After {
		return hub.Errorf(hub.Unavailable, "ask fake server", "connection refused")
	}
	return nil
}

// Busy implements [hub.Notebook].
func (n *FakeNotebook) Busy(ctx context.Context, t hub.Target) (hub.NotebookState, error) {
	key, m, err := n.reach(ctx, t)
	if err != nil {
		return hub.NotebookState{}, err
	}
	n.mu.Lock()
	n.asked[key]++
	n.mu.Unlock()
	if err := wait(ctx, m.StateIn); err != nil {
		return hub.NotebookState{}, err
	}
	if m.NoState {
		return hub.NotebookState{}, hub.Errorf(hub.Unavailable, "ask fake server", "it answered with status 403")
	}
	return m.State, nil
}

// TryKernel implements [hub.Notebook].
func (n *FakeNotebook) TryKernel(ctx context.Context, t hub.Target) error {
	key, m, err := n.reach(ctx, t)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.kernel[key]++
	n.mu.Unlock()
	if err := wait(ctx, m.KernelIn); err != nil {
		return err
	}
	return m.Kernel
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return hub.Wrap(hub.Canceled, "ask fake server", ctx.Err())
	}
}
