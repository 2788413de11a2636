package docker

import (
	"context"

	"carrel/hub"
)

// Pause implements [hub.Pauser].
func (d *Driver) Pause(ctx context.Context, h hub.Handle) error {
	return d.freeze(ctx, h, true)
}

// Resume implements [hub.Pauser].
func (d *Driver) Resume(ctx context.Context, h hub.Handle) error {
	return d.freeze(ctx, h, false)
}

// freeze has a server's processes stand still, or go on. Docker takes it for a fault when they do
// already, and says so differently each way: what counts is how the container is afterwards.
func (d *Driver) freeze(ctx context.Context, h hub.Handle, frozen bool) error {
	name, err := d.open(h)
	if err != nil {
		return err
	}
	ctx, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	id, is, err := d.isFrozen(ctx, name)
	if err != nil || is == frozen {
		return err
	}
	if !frozen && d.homes.frozenFor(id) {
		return &hub.Error{Kind: hub.Unavailable, Op: "docker: resume container", Message: "this server stands still while its home is being exported", Remedy: "try again in a while"}
	}
	op, change := "resume container", d.api.on(ctx).ContainerUnpause
	if frozen {
		op, change = "pause container", d.api.on(ctx).ContainerPause
	}
	failure := change(ctx, id)
	if failure == nil {
		return nil
	}
	if _, is, err := d.isFrozen(ctx, name); err != nil || is == frozen {
		return err
	}
	return fail(op, failure)
}

// isFrozen finds a running server's container, and tells whether its processes stand still.
func (d *Driver) isFrozen(ctx context.Context, name string) (id string, frozen bool, err error) {
	c, err := d.api.on(ctx).ContainerInspect(ctx, name)
	if err != nil {
		return "", false, fail("find container", err)
	}
	if _, ours := d.read(c.Name, c.Config.Labels); !ours {
		return "", false, hub.Errorf(hub.NotFound, "docker: find container", "this server is gone")
	}
	if !c.State.Running {
		return "", false, hub.Errorf(hub.Conflict, "docker: find container", "this server does not run")
	}
	return c.ID, c.State.Paused, nil
}
