package docker

import (
	"context"
	"os"
	"slices"
	"sync/atomic"

	"github.com/docker/docker/client"
)

// engine gives the client of Docker's interface, in the version that the daemon speaks. The client
// could find that out by itself, but does so with its first call, while others read the version: so
// each attempt has a client of its own, and the first that succeeds is everybody's.
type engine struct {
	opts    []client.Opt
	plain   *client.Client // of no particular version, while the daemon does not answer
	settled atomic.Pointer[client.Client]
}

func newEngine(host string) (*engine, error) {
	e := &engine{opts: []client.Opt{client.FromEnv}}
	if host != "" {
		e.opts = append(e.opts, client.WithHost(host))
	}
	var err error
	if e.plain, err = client.NewClientWithOpts(e.opts...); err != nil {
		return nil, err
	}
	if os.Getenv(client.EnvOverrideAPIVersion) != "" {
		e.settled.Store(e.plain)
	}
	return e, nil
}

// on gives the client for one call. When the daemon does not answer within ctx, it is one with which
// the call fails, too.
func (e *engine) on(ctx context.Context) *client.Client {
	if c := e.settled.Load(); c != nil {
		return c
	}
	c, err := client.NewClientWithOpts(append(slices.Clone(e.opts), client.WithAPIVersionNegotiation())...)
	if err != nil {
		return e.plain // with the same options it was made before
	}
	pinged, err := c.Ping(ctx)
	if err != nil {
		c.Close() // unused
		return e.plain
	}
	c.NegotiateAPIVersionPing(pinged)
	if !e.settled.CompareAndSwap(nil, c) {
		c.Close() // another was faster
	}
	return e.settled.Load()
}

// close ends idle connections.
func (e *engine) close() error {
	if c := e.settled.Load(); c != nil && c != e.plain {
		c.Close() // it never fails
	}
	return e.plain.Close()
}
