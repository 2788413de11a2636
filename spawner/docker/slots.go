package docker

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"golang.org/x/sync/errgroup"

	"carrel/hub"
)

// Slots are containers of Carrel's kernel image that have imported everything and wait, with no
// identity, no token and no home. A claim makes one a person's server in a fraction of a second: the
// home appears in it, and the socket that it shall listen on is handed in. A slot is claimed once.

// slotReadyWithin is how long a slot may take until it is ready, on a machine whose cores are all at work.
const slotReadyWithin = 2 * time.Minute

// A slot that imports has the smallest part of the processor: an eighth of what a person's server has, where
// both want it. So slots are made at once, several side by side, and nobody's notebook feels it. It has a
// server's whole weight before it can be claimed.
const (
	madeWeight = 128  // of Docker's CPU shares
	fullWeight = 1024 // Docker's own default
)

// slotSamples is how many are asked at once for what they use.
const slotSamples = 8

// slots are those of this process.
type slots struct {
	sharing sync.Mutex // of their directory

	mu      sync.Mutex
	waiting map[string]*slot // by id; who takes one out has it alone
	busy    map[string]bool  // ids that are being made, claimed or removed
}

func newSlots() *slots { return &slots{waiting: map[string]*slot{}, busy: map[string]bool{}} }

// close lets go of every slot; the next process adopts them.
func (s *slots) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.waiting {
		w.close()
	}
	clear(s.waiting)
}

// begin marks an id busy and takes its slot out, if it waits; false when somebody else is at it.
func (s *slots) begin(id string) (*slot, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[id] {
		return nil, false
	}
	s.busy[id] = true
	w := s.waiting[id]
	delete(s.waiting, id)
	return w, true
}

func (s *slots) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, id)
}

// take takes a ready slot of a shape out, the longest ready first, and marks it busy; nil when there is none.
func (s *slots) take(shape string) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	var best *slot
	for _, w := range s.waiting {
		if w.shape == shape && w.isReady() && (best == nil || w.since.Before(best.since)) {
			best = w
		}
	}
	if best != nil {
		delete(s.waiting, best.id)
		s.busy[best.id] = true
	}
	return best
}

// ready lists the containers of those that can be claimed.
func (s *slots) ready() (containers []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.waiting {
		if w.isReady() {
			containers = append(containers, w.container)
		}
	}
	return containers
}

func (s *slots) get(id string) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting[id]
}

func (s *slots) add(w *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting[w.id] = w
}

// KeepSlots implements [hub.Slots].
func (d *Driver) KeepSlots(ctx context.Context, wants []hub.SlotWant) error {
	if err := d.slotsPossible(); err != nil {
		if len(wants) == 0 {
			return nil
		}
		return err
	}
	shapes := map[string]int{}
	var errs []error
	var plans []slotPlan
	for _, w := range wants {
		img, err := d.ensureImage(ctx, w.Shape.Image, func(hub.Progress) {})
		var p slotPlan
		if err == nil {
			p, err = planSlot(w.Shape, img)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		shapes[p.shape] = max(shapes[p.shape], w.Spare)
		plans = append(plans, p)
	}
	have, err := d.takeStock(ctx, shapes)
	if err != nil {
		return err
	}
	var missing []slotPlan
	for _, p := range plans {
		for ; have[p.shape] < shapes[p.shape]; have[p.shape]++ {
			missing = append(missing, p)
		}
	}
	return errors.Join(append(errs, d.prepareSlots(ctx, missing))...)
}

// prepareSlots makes slots, as many at once as there are cores. Of a shape of which one failed no other is begun:
// what ails one ails the next.
func (d *Driver) prepareSlots(ctx context.Context, plans []slotPlan) error {
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	var failed sync.Map // shapes
	for _, p := range plans {
		group.Go(func() error {
			if _, ails := failed.Load(p.shape); ails || ctx.Err() != nil {
				return nil
			}
			err := d.prepareSlot(ctx, p)
			if err != nil {
				failed.Store(p.shape, true)
			}
			return err
		})
	}
	return group.Wait()
}

// SlotStock implements [hub.Slots].
func (d *Driver) SlotStock(ctx context.Context) (hub.SlotStock, error) {
	var stock hub.SlotStock
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(slotSamples)
	for _, container := range d.slots.ready() {
		group.Go(func() error {
			u, err := d.sample(ctx, container)
			if hub.KindOf(err) == hub.NotFound { // removed meanwhile
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			stock.Ready++
			stock.Memory += u.Memory
			return err
		})
	}
	err := group.Wait()
	return stock, err
}

// slotsPossible tells whether homes can appear in slots here.
func (d *Driver) slotsPossible() error {
	if d.cfg.HomeKind == homeVolume || os.Geteuid() != 0 {
		return &hub.Error{Kind: hub.Invalid, Op: "docker: keep slots", Field: "spawner.docker.home_kind", Message: "servers can be kept ready with homes of the kinds loop and bind only", Remedy: "run carrel as root, or leave profiles.spare out"}
	}
	return nil
}

// slotPlan is what a slot of a shape is made from.
type slotPlan struct {
	spec  hub.Spec
	image imageFacts
	shape string
}

// planSlot tells the shape that a spec's server has: all that can't be changed once its container is
// there. What the claim brings is no part of it.
func planSlot(spec hub.Spec, img imageFacts) (slotPlan, error) {
	if !img.slots || len(spec.Command) > 0 {
		return slotPlan{}, &hub.Error{Kind: hub.Invalid, Op: "docker: keep slots", Field: "profiles." + spec.Profile + ".spare", Message: "servers of this image, or with a command of their own, can't be kept ready", Remedy: "leave spare out, or use Carrel's kernel image"}
	}
	seccomp, err := seccompProfile()
	if err != nil {
		return slotPlan{}, err
	}
	shaped := hub.Spec{Image: img.id, Limits: spec.Limits, Network: spec.Network, Mounts: spec.Mounts, UID: spec.UID, GID: spec.GID, Home: spec.Home, HomeKind: spec.HomeKind}
	cfg, host, _ := walls(wants{spec: shaped, image: img, network: string(spec.Network), control: "control", home: slotHomeMount(spec, "home"), seccomp: seccomp})
	raw, err := json.Marshal([]any{cfg, host, slotProtocol})
	if err != nil {
		return slotPlan{}, hub.Wrap(hub.Internal, "docker: tell shape", err)
	}
	sum := sha256.Sum256(raw)
	return slotPlan{spec: spec, image: img, shape: hex.EncodeToString(sum[:12])}, nil
}

// slotHomeMount is where the home appears once there is one.
func slotHomeMount(spec hub.Spec, source string) mount.Mount {
	if !keeps(spec) {
		return mount.Mount{}
	}
	return mount.Mount{Type: mount.TypeBind, Source: source, Target: spec.Home, BindOptions: &mount.BindOptions{Propagation: mount.PropagationRSlave}}
}

// takeStock counts the slots that wait, by shape. Those of an earlier process are listened to again;
// those that nobody wants, that ended, or whose claim was cut short, go, and so do the directories of
// slots that are no more.
func (d *Driver) takeStock(ctx context.Context, want map[string]int) (map[string]int, error) {
	dirs, err := os.ReadDir(d.slotsDir()) // before the containers: a directory comes first
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, hub.Wrap(hub.Unavailable, "docker: take stock of slots", err)
	}
	all, err := d.labelled(ctx)
	if err != nil {
		return nil, err
	}
	have, present := map[string]int{}, map[string]bool{}
	for _, c := range all {
		if !d.isSlot(c.Labels) || len(c.Names) != 1 {
			continue
		}
		id, shape := c.Labels[labelSlot], c.Labels[labelShape]
		present[id] = true
		if strings.TrimPrefix(c.Names[0], "/") != d.slotName(id) || d.claimed(id) {
			continue // a server
		}
		_, unclaimed := d.readClaim(id)
		if c.State == container.StateRunning && have[shape] < want[shape] && errors.Is(unclaimed, fs.ErrNotExist) && d.attend(ctx, id, shape, c) {
			have[shape]++
			continue
		}
		d.giveUp(ctx, id, func(ctx context.Context) error { return d.dropSlot(ctx, id, c.ID, c.Labels[labelAddress]) })
	}
	for _, dir := range dirs {
		if id := dir.Name(); slotForm.MatchString(id) && !present[id] {
			d.giveUp(ctx, id, func(context.Context) error { return d.clearSlot(id) })
		}
	}
	return have, nil
}

// attend tells whether a slot waits, or can be listened to again; one that is silent for too long can't.
func (d *Driver) attend(ctx context.Context, id, shape string, c container.Summary) bool {
	if w := d.slots.get(id); w != nil {
		return w.isReady() || time.Since(w.since) < slotReadyWithin
	}
	if _, mine := d.slots.begin(id); !mine {
		return true // it is being made or claimed
	}
	defer d.slots.end(id)
	w, err := d.listenTo(ctx, id, shape, c.Labels[labelAddress])
	if err != nil {
		d.cfg.Logger.WarnContext(ctx, "slot not adopted", "slot", id, "error", err)
		return false
	}
	w.container = c.ID
	d.slots.add(w)
	return true
}

// giveUp removes a slot, unless somebody is at it.
func (d *Driver) giveUp(ctx context.Context, id string, remove func(context.Context) error) {
	w, mine := d.slots.begin(id)
	if !mine {
		return
	}
	defer d.slots.end(id)
	if w != nil {
		w.close()
	}
	if err := remove(ctx); err != nil {
		d.cfg.Logger.WarnContext(ctx, "slot not removed; tried again later", "slot", id, "error", err)
	}
}

// prepareSlot makes one slot and waits until it is ready.
func (d *Driver) prepareSlot(ctx context.Context, p slotPlan) error {
	var random [8]byte
	rand.Read(random[:]) // it can't fail
	id := hex.EncodeToString(random[:])
	d.slots.begin(id)
	w, err := d.makeSlot(ctx, id, p)
	if err != nil {
		d.slots.end(id)
		return err
	}
	d.slots.add(w)
	d.slots.end(id)
	ctx, done := context.WithTimeout(ctx, slotReadyWithin)
	defer done()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		return hub.Errorf(hub.Unavailable, "docker: prepare slot", "it was not ready in time")
	}
}

// makeSlot makes a slot's directory and container, and runs it; when a step fails, what was made goes.
func (d *Driver) makeSlot(ctx context.Context, id string, p slotPlan) (*slot, error) {
	ctx, done := outlast(ctx)
	defer done()
	if err := d.makeSlotDir(id); err != nil {
		return nil, err
	}
	w, err := d.listenTo(ctx, id, p.shape, "")
	if err == nil {
		if w.container, w.address, err = d.runSlot(ctx, id, p); err == nil {
			return w, nil
		}
		w.close()
	}
	if cerr := d.clearSlot(id); cerr != nil {
		d.cfg.Logger.WarnContext(ctx, "slot's directory not removed; tried again later", "slot", id, "error", cerr)
	}
	return nil, err
}

func (d *Driver) makeSlotDir(id string) error {
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{{d.slotsDir(), 0o711}, {d.slotDir(id), 0o711}, {d.slotFile(id, slotControlDir), 0o755}, {d.slotFile(id, slotHome), 0o555}} {
		if err := os.MkdirAll(dir.path, dir.mode); err != nil { // passed through by the proxy, and by the slot's own user
			return homeFault("make slot", err)
		}
		if err := os.Chmod(dir.path, dir.mode); err != nil { // whatever the umask
			return homeFault("make slot", err)
		}
	}
	d.slots.sharing.Lock() // two would each find it not shared yet
	defer d.slots.sharing.Unlock()
	return shareMounts(d.slotsDir())
}

// runSlot creates and starts a slot's container, and gives its id and address.
func (d *Driver) runSlot(ctx context.Context, id string, p slotPlan) (cid, address string, err error) {
	seccomp, err := seccompProfile()
	if err != nil {
		return "", "", err
	}
	w := wants{
		spec: p.spec, image: p.image, network: "none", control: d.slotFile(id, slotControlDir),
		home: slotHomeMount(p.spec, d.slotFile(id, slotHome)), seccomp: seccomp,
	}
	if p.spec.Network == hub.NetworkOpen {
		net, err := d.networks.ensure(ctx, p.spec.Network)
		if err != nil {
			return "", "", err
		}
		if w.address, err = d.addrs.take(ctx, net.prefix); err != nil {
			return "", "", err
		}
		w.network, w.resolver, w.resolvConf, address = net.name, net.resolver, net.resolvConf, w.address.String()
	}
	w.labels = d.slotLabels(id, p.shape, address)
	cfg, host, ends := walls(w)
	host.CPUShares = madeWeight
	made, err := d.api.on(ctx).ContainerCreate(ctx, cfg, host, ends, nil, d.slotName(id))
	if err == nil {
		err = d.api.on(ctx).ContainerStart(ctx, made.ID, container.StartOptions{})
	}
	if err == nil {
		return made.ID, address, nil
	}
	clean, done := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer done()
	if rerr := d.remove(clean, d.slotName(id), address); rerr != nil {
		d.cfg.Logger.WarnContext(ctx, "slot's container not removed; tried again later", "slot", id, "error", rerr)
	}
	return "", "", fail("start slot", err)
}

// weigh gives a slot that has imported a server's part of the processor.
func (d *Driver) weigh(ctx context.Context, id string) error {
	ctx, done := context.WithTimeout(ctx, createTimeout)
	defer done()
	_, err := d.api.on(ctx).ContainerUpdate(ctx, d.slotName(id), container.UpdateConfig{Resources: container.Resources{CPUShares: fullWeight}})
	return err
}

// slotName is a slot's container's until it is claimed.
func (d *Driver) slotName(id string) string { return d.namePrefix() + "slot-" + id }

// dropSlot removes a slot's container, claimed or not, and what belongs to it but the home.
func (d *Driver) dropSlot(ctx context.Context, id, container, address string) error {
	if err := d.remove(ctx, container, address); err != nil {
		return err
	}
	return d.clearSlot(id)
}

// clearSlot removes a slot's directory, after its home is hidden: name by name, so that nothing of a
// home can ever be among what goes.
func (d *Driver) clearSlot(id string) error {
	if err := hideMount(d.slotFile(id, slotHome)); err != nil {
		return err
	}
	cut, _ := filepath.Glob(d.slotFile(id, ".new-*")) // what writeFile left when it was cut short
	for _, path := range cut {
		_ = os.Remove(path) // the directory tells
	}
	for _, name := range []string{slotControl, slotControlDir, slotHome, slotServer, slotClaimed, slotRecord, ""} { // the record last
		if err := os.Remove(d.slotFile(id, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return homeFault("remove slot", err)
		}
	}
	return nil
}

// dropAllSlots removes every slot that waits, and the place where they were; for a deployment that
// is taken down.
func (d *Driver) dropAllSlots(ctx context.Context) error {
	if _, err := os.Stat(d.slotsDir()); err != nil {
		return nil //nolint:nilerr // there never was one
	}
	if _, err := d.takeStock(ctx, nil); err != nil {
		return err
	}
	if err := hideMount(d.slotsDir()); err != nil {
		return err
	}
	if err := os.Remove(d.slotsDir()); err != nil {
		return homeFault("remove slots", err)
	}
	return nil
}

// close ends the talk with a slot.
func (w *slot) close() {
	w.listener.Close() //nolint:errcheck // the slot looks for us again until its container goes
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		w.conn.Close() //nolint:errcheck // the talk is over
	}
	w.closed = true
}

func (w *slot) isReady() bool {
	select {
	case <-w.ready:
		return true
	default:
		return false
	}
}
