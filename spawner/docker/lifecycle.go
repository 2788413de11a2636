package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"golang.org/x/sync/errgroup"

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

// open reads a handle. The name becomes part of a path of Docker's interface, and is of this
// deployment's containers' form or refused, whatever the store has been made to hold.
func (d *Driver) open(h hub.Handle) (string, error) {
	var n note
	bad := h.Driver != Name || h.Version != handleVersion || json.Unmarshal(h.Data, &n) != nil
	rest, own := strings.CutPrefix(n.Name, d.namePrefix())
	if bad || !own || rest == "" || strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return "", hub.Errorf(hub.Invalid, "read handle", "this server was not started by this driver")
	}
	return n.Name, nil
}

// Start implements [hub.Spawner].
func (d *Driver) Start(ctx context.Context, spec hub.Spec) (hub.Handle, error) {
	name := d.containerName(spec.Key, spec.Generation)
	if found, err := d.adoptOwn(ctx, name, spec); found || err != nil {
		return d.handle(name), err
	}
	img, err := d.ensureImage(ctx, spec.Image, spec.Progress)
	if err != nil {
		return hub.Handle{}, err
	}
	spec.Progress(hub.Progress{Step: "create", Message: "Setting up your home and your walls", Percent: 20})
	if err := d.create(ctx, name, spec, img); err != nil {
		if hub.KindOf(err) == hub.Conflict { // another call for this generation was faster
			if found, ferr := d.adoptOwn(ctx, name, spec); found || ferr != nil {
				return d.handle(name), ferr
			}
		}
		return hub.Handle{}, err
	}
	spec.Progress(hub.Progress{Step: "start", Message: "Starting the container", Percent: 30})
	if err := d.run(ctx, name); err != nil {
		return hub.Handle{}, err
	}
	d.WantStatics(img.id)
	return d.handle(name), nil
}

// outlast gives a context that ends after createTimeout, or a while after ctx: Docker goes on with what
// it was asked when the one who asked hangs up, and what comes of it has to be known to be removed.
func outlast(ctx context.Context) (context.Context, context.CancelFunc) {
	out, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	stop := context.AfterFunc(ctx, func() {
		late := time.AfterFunc(callTimeout, cancel)
		context.AfterFunc(out, func() { late.Stop() })
	})
	return out, func() { stop(); cancel() }
}

// run starts a container that was created; one that does not start, or is not wanted any more when
// it does, is removed.
func (d *Driver) run(ctx context.Context, name string) error {
	callCtx, done := outlast(ctx)
	defer done()
	err := d.api.on(callCtx).ContainerStart(callCtx, name, container.StartOptions{})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		d.discard(ctx, name)
	}
	return fail("start container", err)
}

// adoptOwn finds the container of an earlier call for the same generation, and starts it if that
// call got no further. A name taken by something that is not ours is a Conflict.
func (d *Driver) adoptOwn(ctx context.Context, name string, spec hub.Spec) (bool, error) {
	callCtx, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	c, err := d.api.on(callCtx).ContainerInspect(callCtx, name)
	if isNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fail("look for container", err)
	}
	id, ours := d.read(c.Name, c.Config.Labels)
	if !ours && !d.isSlot(c.Config.Labels) {
		return false, &hub.Error{Kind: hub.Conflict, Op: "docker: create container", Message: "the name of this server's container is taken by something else", Remedy: "an administrator must remove the container " + name}
	}
	if c.Config.Labels[labelSlot] != "" && (!ours || !d.claimed(id.slot)) {
		return false, d.dropSlot(callCtx, c.Config.Labels[labelSlot], c.ID, c.Config.Labels[labelAddress]) // a claim that was cut short
	}
	if c.State.Status != container.StateCreated {
		return true, nil
	}
	// The call may have been of a process that ended, and the machine started anew since.
	if _, err := d.networks.ensure(callCtx, spec.Network); err != nil {
		return false, err
	}
	_, release, err := d.homes.open(callCtx, spec)
	if err != nil {
		return false, err
	}
	release()
	return true, d.run(ctx, name)
}

// create makes everything that the container needs, and the container; when a step fails, what was
// made is removed.
func (d *Driver) create(ctx context.Context, name string, spec hub.Spec, img imageFacts) error {
	ctx, done := outlast(ctx)
	defer done()
	net, err := d.networks.ensure(ctx, spec.Network)
	if err != nil {
		return err
	}
	profile, err := seccompProfile()
	if err != nil {
		return err
	}
	home, release, err := d.homes.open(ctx, spec)
	if err != nil {
		return err
	}
	addr, err := d.addrs.take(ctx, net.prefix)
	if err == nil {
		cfg, host, ends := walls(wants{
			spec: spec, image: img, network: net.name, address: addr, resolver: net.resolver, resolvConf: net.resolvConf, home: home, seccomp: profile,
			labels: d.labels(name, spec, addr.String(), d.homes.label(spec)),
		})
		if _, err = d.api.on(ctx).ContainerCreate(ctx, cfg, host, ends, nil, name); err != nil {
			err = fail("create container", err)
			d.undoCreate(ctx, name, addr)
		}
	}
	release()
	if err != nil {
		cleanCtx, done := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
		defer done()
		d.homes.close(cleanCtx, spec.UserID)
	}
	return err
}

// undoCreate cleans up after a container that Docker said it had not created: which it may have all
// the same, where the answer got lost. One with another address is another call's.
func (d *Driver) undoCreate(ctx context.Context, name string, addr netip.Addr) {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer done()
	c, err := d.api.on(ctx).ContainerInspect(ctx, name)
	switch {
	case isNotFound(err):
		d.addrs.giveBack(ctx, addr)
	case err != nil: // not to be known; the book notices an address that nobody has
		d.cfg.Logger.WarnContext(ctx, "container perhaps created", "container", name, "error", err)
	default:
		if id, ours := d.read(c.Name, c.Config.Labels); !ours || id.address != addr.String() {
			d.addrs.giveBack(ctx, addr)
			return
		}
		if err := d.remove(ctx, c.ID, addr.String()); err != nil {
			d.cfg.Logger.ErrorContext(ctx, "container not removed", "container", name, "error", err)
		}
	}
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
	name, err := d.open(h)
	if err != nil {
		return hub.Status{}, err
	}
	ctx, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	c, err := d.api.on(ctx).ContainerInspect(ctx, name)
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
	created, _ := time.Parse(time.RFC3339Nano, c.Created)
	st := d.statusOf(c.Name, id, c.State.Status, created)
	st.Image = c.Image
	if st.Phase == hub.Failed {
		st.Reason = endReason(c)
	}
	return st, true
}

// statusOf is what a container's identity and state tell; of one that ended, all but the reason.
func (d *Driver) statusOf(name string, id identity, state container.ContainerState, created time.Time) hub.Status {
	st := hub.Status{
		Key: id.key, Generation: id.gen, UserID: id.userID, Profile: id.profile,
		Handle: d.handle(strings.TrimPrefix(name, "/")), Created: created.Truncate(time.Second),
	}
	switch state {
	case container.StatePaused:
		st.Phase = hub.Paused
	case container.StateRunning, container.StateRestarting:
		st.Phase = hub.Ready
	case container.StateCreated:
		st.Phase = hub.Starting
	default:
		st.Phase = hub.Failed
		return st
	}
	switch addr, err := netip.ParseAddr(id.address); {
	case st.Phase == hub.Starting:
	case id.slot != "" && !d.claimed(id.slot):
		st.Phase = hub.Starting
	case id.slot != "":
		st.Endpoint, _ = hub.ParseEndpoint("unix://" + d.slotFile(id.slot, slotServer))
	case err == nil:
		st.Endpoint, _ = hub.ParseEndpoint("http://" + netip.AddrPortFrom(addr, port).String())
	}
	return st
}

// killedCode is a container's exit code when its process was killed: 128 and SIGKILL.
const killedCode = 137

// endReason says in words why a container ended. Docker marks one as out of memory when any of its
// processes was killed for it, a kernel hours ago: it ended of it only if its own process was killed.
func endReason(c container.InspectResponse) string {
	switch {
	case c.State.OOMKilled && c.State.ExitCode == killedCode:
		limit := int64(0)
		if c.HostConfig != nil {
			limit = c.HostConfig.Memory
		}
		return fmt.Sprintf("out of memory (its limit is %d MiB)", limit>>20)
	case c.State.Error != "":
		return "Docker could not run it"
	case c.State.ExitCode == killedCode:
		return "it was killed"
	}
	return "exit code " + strconv.Itoa(c.State.ExitCode)
}

// Stop implements [hub.Spawner].
func (d *Driver) Stop(ctx context.Context, h hub.Handle, grace time.Duration) error {
	name, err := d.open(h)
	if err != nil {
		return err
	}
	grace = max(grace, 0) // Docker takes a negative one for ever
	ctx, done := context.WithTimeout(ctx, grace+createTimeout)
	defer done()
	c, err := d.api.on(ctx).ContainerInspect(ctx, name)
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
		_ = d.api.on(ctx).ContainerUnpause(ctx, c.ID) // a frozen process hears no signal; the kill below comes anyway
	}
	seconds := int(math.Ceil(grace.Seconds()))
	if err := d.api.on(ctx).ContainerStop(ctx, c.ID, container.StopOptions{Timeout: &seconds}); err != nil && !isNotFound(err) {
		return fail("stop container", err)
	}
	if id.slot != "" {
		err = d.dropSlot(ctx, id.slot, c.ID, id.address)
	} else {
		err = d.remove(ctx, c.ID, id.address)
	}
	if err != nil {
		return err
	}
	d.homes.close(ctx, id.userID)
	return nil
}

// remove removes a container, waits until it is gone, and lets its address rest.
func (d *Driver) remove(ctx context.Context, id, address string) error {
	if err := d.api.on(ctx).ContainerRemove(ctx, id, container.RemoveOptions{RemoveVolumes: true, Force: true}); err != nil && !isNotFound(err) && !isConflict(err) {
		return fail("remove container", err)
	}
	if err := d.awaitGone(ctx, id); err != nil {
		return err
	}
	if addr, err := netip.ParseAddr(address); err == nil {
		d.addrs.quarantine(ctx, addr)
	}
	return nil
}

// awaitGone waits out a removal that another call began.
func (d *Driver) awaitGone(ctx context.Context, id string) error {
	for {
		if _, err := d.api.on(ctx).ContainerInspect(ctx, id); isNotFound(err) {
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

// labelled lists the containers that claim to be this deployment's.
func (d *Driver) labelled(ctx context.Context) ([]container.Summary, error) {
	all, err := d.api.on(ctx).ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", labelDeployment+"="+d.cfg.Deployment))})
	return all, fail("list containers", err)
}

// own is a container of this deployment as Docker lists it.
type own struct {
	container.Summary
	name string
	id   identity
}

// ours lists this deployment's containers.
func (d *Driver) ours(ctx context.Context) ([]own, error) {
	all, err := d.labelled(ctx)
	if err != nil {
		return nil, err
	}
	var list []own
	for _, c := range all {
		if len(c.Names) != 1 {
			continue
		}
		if id, ok := d.read(c.Names[0], c.Labels); ok {
			list = append(list, own{c, strings.TrimPrefix(c.Names[0], "/"), id})
		}
	}
	return list, nil
}

// List implements [hub.Spawner]: by one call, and one more for each server that ended.
func (d *Driver) List(ctx context.Context) iter.Seq2[hub.Status, error] {
	return func(yield func(hub.Status, error) bool) {
		list, err := d.list(ctx)
		if err != nil {
			yield(hub.Status{}, err)
			return
		}
		for _, st := range list {
			if st.Phase != hub.Absent && !yield(st, nil) {
				return
			}
		}
	}
}

const inspectAtOnce = 8

func (d *Driver) list(ctx context.Context) ([]hub.Status, error) {
	ctx, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	servers, err := d.ours(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]hub.Status, len(servers))
	ended, endedCtx := errgroup.WithContext(ctx)
	ended.SetLimit(inspectAtOnce)
	for i, c := range servers {
		list[i] = d.statusOf(c.name, c.id, c.State, time.Unix(c.Created, 0))
		list[i].Image = c.ImageID
		if list[i].Phase == hub.Failed {
			ended.Go(func() (err error) {
				list[i], err = d.Inspect(endedCtx, list[i].Handle)
				return err
			})
		}
	}
	return list, ended.Wait()
}

func (d *Driver) addressesInUse(ctx context.Context) ([]netip.Addr, error) {
	servers, err := d.ours(ctx)
	if err != nil {
		return nil, err
	}
	var used []netip.Addr
	for _, c := range servers {
		if a, err := netip.ParseAddr(c.id.address); err == nil {
			used = append(used, a)
		}
	}
	return used, nil
}

// homeUsers takes every container's word that it has the home: one that somebody renamed has no
// authentic labels any more, and has the home all the same.
func (d *Driver) homeUsers(ctx context.Context, id hub.UserID) ([]container.Summary, error) {
	ctx, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	all, err := d.labelled(ctx)
	return slices.DeleteFunc(all, func(c container.Summary) bool {
		return (c.Labels[labelUserID] != string(id) || c.Labels[labelHome] == "") && (c.Labels[labelSlot] == "" || !d.slotHasHome(c.Labels[labelSlot], id))
	}), err
}

func (d *Driver) homeInUse(ctx context.Context, id hub.UserID) (bool, error) {
	users, err := d.homeUsers(ctx, id)
	return err != nil || len(users) > 0, err
}

// slotHasHome tells whether a slot was claimed for a person; one whose record can't be read counts.
func (d *Driver) slotHasHome(slot string, id hub.UserID) bool {
	c, err := d.readClaim(slot)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	return err != nil || c.UserID == id && c.Home != ""
}
