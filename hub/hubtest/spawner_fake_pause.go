package hubtest

import (
	"context"
	"time"

	"carrel/hub"
)

// Pause implements [hub.Pauser].
func (f *FakeSpawner) Pause(ctx context.Context, h hub.Handle) error {
	return f.freeze(ctx, h, hub.Paused, AtPause, AtPaused)
}

// Resume implements [hub.Pauser].
func (f *FakeSpawner) Resume(ctx context.Context, h hub.Handle) error {
	return f.freeze(ctx, h, hub.Ready, AtResume, AtResumed)
}

// freeze takes a running container to a phase, Paused or Ready.
func (f *FakeSpawner) freeze(ctx context.Context, h hub.Handle, to hub.Phase, before, after Point) error {
	key := f.keyOf(h)
	if err := f.at(ctx, before, key); err != nil {
		return err
	}
	if err := f.freezeNow(h, to); err != nil {
		return err
	}
	return f.hook(ctx, after, key)
}

func (f *FakeSpawner) freezeNow(h hub.Handle, to hub.Phase) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	c, err := f.find(h)
	switch {
	case err != nil:
		return err
	case c == nil:
		return hub.Errorf(hub.NotFound, "fake spawner: pause", "this server is gone")
	case !c.runs():
		return hub.Errorf(hub.Conflict, "fake spawner: pause", "this server does not run")
	}
	c.count(f.m.cpu[c.spec.Key])
	c.phase, c.cpuAt = to, time.Now()
	return nil
}
