package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/netip"
	"strconv"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"carrel/hub"
)

const handleVersion = 1

// note is what a handle holds: the name finds everything else.
type note struct {
	Name string `json:"name"`
}

func (d *Driver) handle(name string) hub.Handle {
	b, err := json.Marshal(note{name})
	if err != nil {
		panic(err) // a string
	}
	return hub.Handle{Driver: Name, Version: handleVersion, Data: b}
}

func open(h hub.Handle) (string, error) {
	var n note
	if h.Driver != Name || h.Version != handleVersion || json.Unmarshal(h.Data, &n) != nil || n.Name == "" {
		return "", hub.Errorf(hub.Invalid, "read handle", "this server was not started by this driver")
	}
	return n.Name, nil
}

// Start implements [hub.Spawner].
func (d *Driver) Start(ctx context.Context, spec hub.Spec) (hub.Handle, error) {
	name := d.containerName(spec.Key, spec.Generation)
	if found, err := d.adoptOwn(ctx, name); found || err != nil {
		return d.handle(name), err
	}
	img, err := d.ensureImage(ctx, spec.Image, spec.Progress)
	if err != nil {
		return hub.Handle{}, err
	}
	spec.Progress(hub.Progress{Step: "create", Message: "Setting up your home and your walls", Percent: 20})
	id, err := d.create(ctx, name, spec, img)
	if err != nil {
		return hub.Handle{}, err
	}
	spec.Progress(hub.Progress{Step: "start", Message: "Starting the container", Percent: 30})
	startCtx, done := context.WithTimeout(ctx, createTimeout)
	defer done()
	if err := d.api.ContainerStart(startCtx, id, container.StartOptions{}); err != nil {
		d.discard(ctx, name)
		return hub.Handle{}, fail("start container", err)
	}
	return d.handle(name), nil
}

// adoptOwn finds the container of an earlier call for the same generation, and starts it if that
// call got no further. A name taken by something that is not ours is a Conflict.
func (d *Driver) adoptOwn(ctx context.Context, name string) (bool, error) {
	c, err := d.api.ContainerInspect(ctx, name)
	if isNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fail("look for container", err)
	}
	if _, ours := d.read(c.Name, c.Config.Labels); !ours {
		return false, &hub.Error{Kind: hub.Conflict, Op: "docker: create container", Message: "the name of this server's container is taken by something else", Remedy: "an administrator must remove the container " + name}
	}
	if c.State.Status == container.StateCreated {
		return true, fail("start container", d.api.ContainerStart(ctx, c.ID, container.StartOptions{}))
	}
	return true, nil
}

// create makes everything that the container needs, and the container; when a step fails, what was
// made is removed.
func (d *Driver) create(ctx context.Context, name string, spec hub.Spec, img imageFacts) (string, error) {
	ctx, done := context.WithTimeout(ctx, createTimeout)
	defer done()
	net, err := d.networks.ensure(ctx, spec.Network)
	if err != nil {
		return "", err
	}
	profile, err := seccompProfile()
	if err != nil {
		return "", err
	}
	addr, err := d.addrs.take(net.prefix, func() ([]netip.Addr, error) { return d.addressesInUse(ctx) })
	if err != nil {
		return "", err
	}
	home, err := d.homes.open(ctx, spec)
	if err != nil {
		d.addrs.giveBack(addr)
		return "", err
	}
	cfg, host, ends := walls(wants{
		spec: spec, image: img, network: net.name, address: addr, resolvConf: net.resolvConf, home: home, seccomp: profile,
		labels: d.labels(name, spec, addr.String(), d.homes.label(spec)),
	})
	made, err := d.api.ContainerCreate(ctx, cfg, host, ends, nil, name)
	if err != nil {
		d.addrs.giveBack(addr)
		d.homes.close(context.WithoutCancel(ctx), d, spec.UserID)
		return "", fail("create container", err)
	}
	return made.ID, nil
}

// discard removes a container that did not start; the caller's context may be over.
func (d *Driver) discard(ctx context.Context, name string) {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer done()
	if err := d.Stop(ctx, d.handle(name), 0); err != nil {
		d.cfg.Logger.ErrorContext(ctx, "container not removed", "container", name, "error", err)
	}
}

// Inspect implements [hub.Spawner].
func (d *Driver) Inspect(ctx context.Context, h hub.Handle) (hub.Status, error) {
	name, err := open(h)
	if err != nil {
		return hub.Status{}, err
	}
	ctx, done := context.WithTimeout(ctx, 10*time.Second)
	defer done()
	c, err := d.api.ContainerInspect(ctx, name)
	if isNotFound(err) {
		return hub.Status{Handle: h, Phase: hub.Absent}, nil
	}
	if err != nil {
		return hub.Status{}, fail("inspect container", err)
	}
	st, ours := d.status(c)
	if !ours {
		return hub.Status{Handle: h, Phase: hub.Absent}, nil
	}
	return st, nil
}

// status reads an inspected container; false for what is not ours.
func (d *Driver) status(c container.InspectResponse) (hub.Status, bool) {
	id, ours := d.read(c.Name, c.Config.Labels)
	if !ours {
		return hub.Status{}, false
	}
	st := hub.Status{Key: id.key, Generation: id.gen, UserID: id.userID, Profile: id.profile, Handle: d.handle(c.Name[1:])}
	st.Created, _ = time.Parse(time.RFC3339Nano, c.Created)
	switch {
	case c.State.Paused:
		st.Phase = hub.Paused
	case c.State.Running:
		st.Phase = hub.Ready
	case c.State.Status == container.StateCreated:
		st.Phase = hub.Starting
	default:
		st.Phase, st.Reason = hub.Failed, endReason(c)
	}
	if st.Phase == hub.Ready || st.Phase == hub.Paused {
		if addr, err := netip.ParseAddr(id.address); err == nil {
			st.Endpoint, _ = hub.ParseEndpoint("http://" + netip.AddrPortFrom(addr, port).String())
		}
	}
	return st, true
}

// endReason says in words why a container ended.
func endReason(c container.InspectResponse) string {
	switch {
	case c.State.OOMKilled:
		limit := int64(0)
		if c.HostConfig != nil {
			limit = c.HostConfig.Memory
		}
		return fmt.Sprintf("out of memory (its limit is %d MiB)", limit>>20)
	case c.State.Error != "":
		return "Docker could not run it"
	case c.State.ExitCode == 137:
		return "it was killed"
	}
	return "exit code " + strconv.Itoa(c.State.ExitCode)
}

// Stop implements [hub.Spawner].
func (d *Driver) Stop(ctx context.Context, h hub.Handle, grace time.Duration) error {
	name, err := open(h)
	if err != nil {
		return err
	}
	c, err := d.api.ContainerInspect(ctx, name)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return fail("stop container", err)
	}
	id, ours := d.read(c.Name, c.Config.Labels)
	if !ours {
		return nil
	}
	if c.State.Paused {
		_ = d.api.ContainerUnpause(ctx, c.ID) // a frozen process hears no signal; the kill below comes anyway
	}
	seconds := int(grace.Seconds())
	if err := d.api.ContainerStop(ctx, c.ID, container.StopOptions{Timeout: &seconds}); err != nil && !isNotFound(err) {
		return fail("stop container", err)
	}
	if err := d.api.ContainerRemove(ctx, c.ID, container.RemoveOptions{RemoveVolumes: true, Force: true}); err != nil && !isNotFound(err) && !isConflict(err) {
		return fail("remove container", err)
	}
	if err := d.awaitGone(ctx, c.ID); err != nil {
		return err
	}
	if addr, err := netip.ParseAddr(id.address); err == nil {
		d.addrs.quarantine(addr)
	}
	d.homes.close(ctx, d, id.userID)
	return nil
}

// awaitGone waits out a removal that another call began.
func (d *Driver) awaitGone(ctx context.Context, id string) error {
	for {
		if _, err := d.api.ContainerInspect(ctx, id); isNotFound(err) {
			return nil
		} else if err != nil {
			return fail("remove container", err)
		}
		select {
		case <-ctx.Done():
			return fail("remove container", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// ours lists this deployment's containers.
func (d *Driver) ours(ctx context.Context) ([]container.Summary, error) {
	all, err := d.api.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", labelDeployment+"="+d.cfg.Deployment))})
	if err != nil {
		return nil, fail("list containers", err)
	}
	var own []container.Summary
	for _, c := range all {
		if len(c.Names) == 1 {
			if _, ok := d.read(c.Names[0], c.Labels); ok {
				own = append(own, c)
			}
		}
	}
	return own, nil
}

// List implements [hub.Spawner].
func (d *Driver) List(ctx context.Context) iter.Seq2[hub.Status, error] {
	return func(yield func(hub.Status, error) bool) {
		ctx, done := context.WithTimeout(ctx, 30*time.Second)
		defer done()
		own, err := d.ours(ctx)
		if err != nil {
			yield(hub.Status{}, err)
			return
		}
		for _, c := range own {
			st, err := d.Inspect(ctx, d.handle(c.Names[0][1:]))
			if err == nil && st.Phase == hub.Absent {
				continue // it went meanwhile
			}
			if !yield(st, err) || err != nil {
				return
			}
		}
	}
}

func (d *Driver) addressesInUse(ctx context.Context) ([]netip.Addr, error) {
	own, err := d.ours(ctx)
	if err != nil {
		return nil, err
	}
	var used []netip.Addr
	for _, c := range own {
		if a, err := netip.ParseAddr(c.Labels[labelAddress]); err == nil {
			used = append(used, a)
		}
	}
	return used, nil
}
