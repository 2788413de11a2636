package docker

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"

	"carrel/hub"
)

// Homes go out and come in as tar archives, which the home's worker writes and reads; to this
// process they are bytes.

// ExportHome writes a home as a tar archive. Servers that have it are frozen meanwhile with pause, else
// it is a Conflict. NotFound where there is no home. After an error what was written is no whole archive.
func (d *Driver) ExportHome(ctx context.Context, id hub.UserID, image string, out io.Writer, pause bool) error {
	return d.homes.export(ctx, id, image, out, pause)
}

func (h *homes) export(ctx context.Context, id hub.UserID, image string, out io.Writer, pause bool) (err error) {
	release, err := h.take(ctx, id, image)
	if err != nil {
		return err
	}
	defer release()
	kind, exists, err := h.exists(ctx, id)
	if err != nil || !exists {
		return orNoHome(err)
	}
	n := homeNote{Doing: "exported", Step: stepRead, Image: image}
	if n.Paused, n.Still, err = h.toFreeze(ctx, id, pause); err != nil {
		return err
	}
	if err := h.writeNote(id, n); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.endWork(ctx, id, n)) }()
	if err := h.freeze(ctx, n.Paused); err != nil {
		return err
	}
	m, err := h.look(ctx, id, image, kind)
	if err != nil {
		return err
	}
	m.ReadOnly = true
	if err := h.work(ctx, id, h.packer(id, kind, homework{image: image, args: []string{"pack"}, home: m, out: out})); err != nil {
		return err
	}
	return h.stillFrozen(ctx, id, slices.Concat(n.Paused, n.Still))
}

func orNoHome(err error) error {
	if err != nil {
		return err
	}
	return &hub.Error{Kind: hub.NotFound, Op: "docker: find home", Message: "this person has no home yet", Remedy: "they get one with their first server, or by carrel home import"}
}

// endWithin is how long the end of work on a home may take; what is cut off then is for the next.
const endWithin = 10 * time.Minute

// endWork has servers go on, closes the home where nobody has it, and removes the note.
func (h *homes) endWork(ctx context.Context, id hub.UserID, n homeNote) error {
	clean, done := context.WithTimeout(context.WithoutCancel(ctx), endWithin)
	defer done()
	err := h.undo(clean, id, n)
	if err == nil {
		err = os.Remove(h.notePath(id))
	}
	if cerr := h.closeHeld(clean, id); cerr != nil {
		h.cfg.Logger.WarnContext(ctx, "home not unmounted; tried again later", "user_id", id, "error", cerr)
	}
	return err
}

// look gives a home that is there as it is, whosever it is.
func (h *homes) look(ctx context.Context, id hub.UserID, image, kind string) (mount.Mount, error) {
	switch kind {
	case homeVolume:
		return mount.Mount{Type: mount.TypeVolume, Source: h.volume(id), VolumeOptions: &mount.VolumeOptions{NoCopy: true}}, nil
	case homeBind:
		return h.lookBind(id)
	}
	if err := h.mountLoop(ctx, hub.Spec{UserID: id, Image: image, Limits: hub.Limits{Disk: 1}}); err != nil {
		return mount.Mount{}, err
	}
	return bindMount(h.mountPoint(id), ""), nil
}

func bindMount(source, target string) mount.Mount {
	return mount.Mount{Type: mount.TypeBind, Source: source, Target: target, BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate}}
}

// toFreeze lists the containers that have to be frozen for an export, and those that were before.
func (h *homes) toFreeze(ctx context.Context, id hub.UserID, pause bool) (ids, still []string, err error) {
	users, err := h.users(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range users {
		switch c.State {
		case container.StateExited, container.StateDead:
		case container.StateRunning:
			ids = append(ids, c.ID)
		case container.StatePaused:
			still = append(still, c.ID)
		default:
			return nil, nil, &hub.Error{Kind: hub.Conflict, Op: "docker: export home", Message: "a server with this home is starting or ending", Remedy: "try again in a few seconds"}
		}
	}
	if len(ids)+len(still) > 0 && !pause {
		return nil, nil, &hub.Error{
			Kind: hub.Conflict, Op: "docker: export home", Message: "a server with this home runs, and files that change while they are read make no archive",
			Remedy: "stop it first, or freeze it meanwhile with --pause",
		}
	}
	slices.Sort(ids)
	return ids, still, nil
}

func (h *homes) freeze(ctx context.Context, ids []string) error {
	for _, id := range ids {
		if err := h.api.on(ctx).ContainerPause(ctx, id); err != nil {
			if c, ierr := h.api.on(ctx).ContainerInspect(ctx, id); ierr != nil || !c.State.Paused {
				return fail("freeze server", err)
			}
		}
	}
	return nil
}

// thaw has servers go on; one that has gone, or goes on, is none of them.
func (h *homes) thaw(ctx context.Context, ids []string) error {
	var errs []error
	for _, id := range ids {
		if err := h.api.on(ctx).ContainerUnpause(ctx, id); err != nil && !isNotFound(err) {
			if c, ierr := h.api.on(ctx).ContainerInspect(ctx, id); !isNotFound(ierr) && (ierr != nil || c.State.Paused) {
				errs = append(errs, fail("resume server", err))
			}
		}
	}
	return errors.Join(errs...)
}

// stillFrozen tells whether nobody could change a file meanwhile.
func (h *homes) stillFrozen(ctx context.Context, id hub.UserID, ids []string) error {
	users, err := h.users(ctx, id)
	if err != nil {
		return err
	}
	frozen := 0
	for _, c := range users {
		ours := slices.Contains(ids, c.ID)
		switch {
		case ours && c.State == container.StatePaused:
			frozen++
		case ours, c.State == container.StateRunning:
			return errTorn
		}
	}
	if frozen != len(ids) {
		return errTorn
	}
	return nil
}

var errTorn = &hub.Error{Kind: hub.Conflict, Op: "docker: export home", Message: "a server with this home was stopped, started or woken before the archive was whole", Remedy: "export it again"}

// The ways to import into a home that is there already.
const (
	ImportNew     = ""        // not at all
	ImportReplace = "replace" // in place of all that is there
	ImportMerge   = "merge"   // beside it; of two files of one name the archive's counts
)

// ImportHome unpacks a tar archive into a home, as the spec's user; the spec's Image is the worker's, and its
// Limits are those of a new home. Conflict where a server has it, or where there is one and how is ImportNew;
// Invalid for an archive that can't be unpacked. The home is as it was after an error.
func (d *Driver) ImportHome(ctx context.Context, spec hub.Spec, in io.Reader, how string) error {
	spec.Home = "/" + keeperMount
	return d.homes.importTar(ctx, spec, in, how)
}

func (h *homes) importTar(ctx context.Context, spec hub.Spec, in io.Reader, how string) error {
	id := spec.UserID
	if !wellFormed(id) {
		return hub.Errorf(hub.Internal, "import home", "the person's id is malformed")
	}
	release, err := h.take(ctx, id, spec.Image)
	if err != nil {
		return err
	}
	defer release()
	kind, exists, err := h.exists(ctx, id)
	if err != nil {
		return err
	}
	switch used, err := h.inUse(ctx, id); {
	case err != nil:
		return err
	case used:
		return orInUse(nil, "docker: import home")
	case exists && how == ImportNew:
		return &hub.Error{Kind: hub.Conflict, Op: "docker: import home", Message: "this person has a home already", Remedy: "use --replace to put the archive in its place, or --merge to add it"}
	case kind == homeLoop && how != ImportMerge:
		return h.importFresh(ctx, spec, in)
	}
	if kind == homeBind && how == ImportNew {
		if x, there, err := h.inTheWay(ctx, spec); err != nil || there {
			return orFilesThere(err, x)
		}
	}
	return h.importInto(ctx, spec, kind, in, how)
}

func orFilesThere(err error, x directory) error {
	if err != nil {
		return err
	}
	return &hub.Error{
		Kind: hub.Conflict, Op: "docker: import home", Message: "there are files already where this person's home is to be",
		Remedy: "move them away: " + x.path() + "; or use --replace to put the archive in their place, or --merge to add it",
	}
}

// floorOf is how many bytes the worker leaves free for others: with caps there are no others.
func floorOf(kind string) string {
	if kind == homeLoop {
		return "0"
	}
	return strconv.Itoa(minFree)
}

func owner(uid, gid int) string { return strconv.Itoa(uid) + ":" + strconv.Itoa(gid) }

// importFresh fills a new image beside the old one and renames it: a crash leaves the one or the other.
func (h *homes) importFresh(ctx context.Context, spec hub.Spec, in io.Reader) (err error) {
	id, img, point := spec.UserID, h.image(spec.UserID), h.freshPoint(spec.UserID)
	if err := h.closeHeld(ctx, id); err != nil {
		return err
	}
	if loop := awaitDetached(ctx, img); loop != "" {
		return &hub.Error{Kind: hub.Conflict, Op: "docker: import home", Message: "something keeps the home attached at " + loop, Remedy: "end what has it mounted, or restart the machine"}
	}
	if info, err := os.Stat(img); err == nil {
		spec.Limits.Disk = max(info.Size(), orElse(spec.Limits.Disk, defaultDisk))
	}
	n := homeNote{Doing: "imported", Step: stepFresh, Image: spec.Image, UID: spec.UID, GID: spec.GID}
	if err := h.writeNote(id, n); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.endWork(ctx, id, n)) }()
	if err := h.openFresh(ctx, spec); err != nil {
		return err
	}
	h.at("mounted")
	w := homework{image: spec.Image, args: []string{"unpack", ".", "0"}, home: bindMount(point, ""), user: owner(spec.UID, spec.GID), in: in}
	if err := h.work(ctx, id, w); err != nil {
		return err
	}
	h.at("unpacked")
	if err := h.closeFresh(ctx, id); err != nil {
		return err
	}
	h.at("checked")
	return errors.Join(homeFault("replace home", renameSynced(h.freshImage(id), img)), h.recordKind(id, homeLoop))
}

// openFresh makes and mounts a new image beside the one that counts.
func (h *homes) openFresh(ctx context.Context, spec hub.Spec) error {
	img, point := h.freshImage(spec.UserID), h.freshPoint(spec.UserID)
	if err := makeHome(ctx, img, orElse(spec.Limits.Disk, defaultDisk), spec); err != nil {
		return err
	}
	if err := makeMountPoint(point); err != nil {
		return err
	}
	return mountHome(ctx, img, point)
}

// closeFresh unmounts the new image, and checks it.
func (h *homes) closeFresh(ctx context.Context, id hub.UserID) error {
	if err := unmountHome(ctx, h.freshPoint(id)); err != nil {
		return err
	}
	if loop := awaitDetached(ctx, h.freshImage(id)); loop != "" {
		return hub.Errorf(hub.Unavailable, "docker: close new home", "it stays attached at %s", loop)
	}
	return checkFileSystem(ctx, h.freshImage(id), "-f")
}

func (h *homes) freshImage(id hub.UserID) string { return h.image(id) + ".import" }
func (h *homes) freshPoint(id hub.UserID) string {
	return filepath.Join(h.mountPoints(), string(id)+".import")
}

// dropFresh removes what an import has filled and not renamed; nothing is no error.
func (h *homes) dropFresh(ctx context.Context, id hub.UserID) error {
	point, img := h.freshPoint(id), h.freshImage(id)
	if mounted(point) {
		if err := unmountHome(ctx, point); err != nil {
			return err
		}
	}
	var errs []error
	for _, path := range []string{point, img + ".new", img} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return homeFault("remove unfinished home", errors.Join(errs...))
}

// importInto unpacks in a corner of the home, and then puts all in its place.
func (h *homes) importInto(ctx context.Context, spec hub.Spec, kind string, in io.Reader, how string) (err error) {
	id := spec.UserID
	m, err := h.reach(ctx, spec, true)
	if err != nil {
		return err
	}
	if how == ImportNew {
		how = ImportReplace // there is nothing but the top directory
	}
	n := homeNote{Doing: "imported", Step: stepUnpack, How: how, Image: spec.Image, UID: spec.UID, GID: spec.GID}
	if err := h.writeNote(id, n); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.endWork(ctx, id, n)) }()
	w := homework{image: spec.Image, args: []string{"unpack", "corner", floorOf(kind)}, home: m, user: owner(spec.UID, spec.GID), in: in}
	if err := h.work(ctx, id, w); err != nil {
		return err
	}
	h.at("unpacked")
	settling := n
	settling.Step = stepSettle
	if err := h.writeNote(id, settling); err != nil {
		return err
	}
	n = settling // which endWork does
	h.at("settling")
	return nil
}

// at is where a kill would leave an import half-way; tests have the process killed there.
func (h *homes) at(step string) {
	if h.crash != nil {
		h.crash(step)
	}
}
