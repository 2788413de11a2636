package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/docker/docker/api/types/mount"
	"golang.org/x/sync/errgroup"

	"carrel/hub"
)

// A move copies a home into one of the configured kind, compares the two, and records the new kind:
// from that moment on the new one counts, and the old one is removed.

// MoveHome gives a person's home the configured kind, as the spec's user; moved is false where it has
// that kind already. The old home is removed when the new one is complete and compared, unless it is to be
// kept; directories of the operator's are always kept. Conflict where a server has it, or where a home of the new kind is
// there already. The home is as it was after an error.
func (d *Driver) MoveHome(ctx context.Context, spec hub.Spec, keep bool) (moved bool, err error) {
	spec.Home = "/" + keeperMount
	return d.homes.move(ctx, spec, keep)
}

func (h *homes) move(ctx context.Context, spec hub.Spec, keep bool) (moved bool, err error) {
	id, to := spec.UserID, h.cfg.HomeKind
	release, err := h.take(ctx, id, spec.Image)
	if err != nil {
		return false, err
	}
	defer release()
	from, is, err := h.exists(ctx, id)
	switch {
	case err != nil:
		return false, err
	case !is:
		return false, orNoHome(nil)
	case from == to:
		return false, nil
	}
	if used, err := h.inUse(ctx, id); err != nil || used {
		return false, orInUse(err, "docker: move home")
	}
	if err := h.closeHeld(ctx, id); err != nil {
		return false, err
	}
	if err := h.mayBecome(ctx, spec, to); err != nil {
		return false, err
	}
	if err := h.keepKind(id, from); err != nil { // before there are two
		return false, err
	}
	n := homeNote{Doing: "moved", Step: stepMove, From: from, To: to, Keep: keep, Image: spec.Image, UID: spec.UID, GID: spec.GID}
	if err := h.writeNote(id, n); err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, h.endWork(ctx, id, n)) }()
	source, err := h.look(ctx, id, spec.Image, from)
	if err != nil {
		return false, err
	}
	source.ReadOnly = true
	was, err := h.digest(ctx, id, spec.Image, from, source)
	if err != nil {
		return false, err
	}
	if was.uid > 0 { // it stays whose it is
		spec.UID, spec.GID, n.UID, n.GID = was.uid, was.gid, was.uid, was.gid
		if err := h.writeNote(id, n); err != nil {
			return false, err
		}
	}
	if err := h.copyHome(ctx, spec, &n, source, was); err != nil {
		return false, err
	}
	h.at("compared")
	if to == homeLoop {
		if err := h.closeFresh(ctx, id); err != nil {
			return false, err
		}
		if err := renameSynced(h.freshImage(id), h.image(id)); err != nil {
			return false, homeFault("move home", err)
		}
	}
	h.at("in place")
	if err := h.recordKind(id, to); err != nil {
		return false, err
	}
	h.at("moved")
	return true, nil
}

func orInUse(err error, op string) error {
	if err != nil {
		return err
	}
	return &hub.Error{Kind: hub.Conflict, Op: op, Message: "a server with this home is there", Remedy: "stop it first"}
}

// mayBecome refuses to move onto a home that is there already. A directory that the operator made and left empty
// is none.
func (h *homes) mayBecome(ctx context.Context, spec hub.Spec, kind string) error {
	is, err := h.existsAs(ctx, spec.UserID, kind)
	place := h.image(spec.UserID)
	switch kind {
	case homeVolume:
		place = "the volume " + h.volume(spec.UserID)
	case homeBind:
		if err == nil {
			var x directory
			x, is, err = h.inTheWay(ctx, spec)
			place = x.path()
		}
	}
	if err != nil || !is {
		return err
	}
	return errInTheWay(place)
}

func errInTheWay(place string) error {
	return &hub.Error{Kind: hub.Conflict, Op: "docker: move home", Message: "there are files already where the home would be moved to", Remedy: "move them away: " + place}
}

// inTheWay tells whether anything is where a person's directory is, or is to be.
func (h *homes) inTheWay(ctx context.Context, spec hub.Spec) (x directory, is bool, err error) {
	if spec.Key.User.IsZero() || h.cfg.HomePath.IsZero() {
		return x, false, nil
	}
	x = h.directoryOf(spec.Key.User, spec.UserID)
	if isThere(x.Base, x.Rel) {
		is, err = h.hasFiles(ctx, spec, x)
	}
	return x, is, err
}

// hasFiles tells whether anything is in a person's directory.
func (h *homes) hasFiles(ctx context.Context, spec hub.Spec, x directory) (bool, error) {
	point := h.freshPoint(spec.UserID)
	if err := makeMountPoint(point); err != nil {
		return false, err
	}
	if err := mountDirectory(x.Base, x.Rel, point, nil); err != nil {
		return false, err
	}
	empty, err := h.isEmpty(ctx, spec, point)
	return !empty, errors.Join(err, h.dropFresh(ctx, spec.UserID))
}

func (h *homes) isEmpty(ctx context.Context, spec hub.Spec, point string) (bool, error) {
	said := &head{most: 16}
	err := h.work(ctx, spec.UserID, h.packer(spec.UserID, homeBind, homework{image: spec.Image, args: []string{"empty"}, home: bindMount(point, ""), out: said}))
	return strings.TrimSpace(said.String()) == "yes", err
}

// copyHome fills a home of another kind, and compares it with the one that is there.
func (h *homes) copyHome(ctx context.Context, spec hub.Spec, n *homeNote, source mount.Mount, was sum) error {
	spec.Limits.Disk = max(orElse(spec.Limits.Disk, defaultDisk), was.bytes*5/4+64<<20)
	spec.Limits.Inodes = max(orElse(spec.Limits.Inodes, spec.Limits.Disk/bytesPerInode), was.files*5/4+1000)
	target, err := h.makeTarget(ctx, spec, n.To)
	if err != nil {
		return err
	}
	h.at("made")
	if n.To == homeBind {
		if err := h.noteDirectory(ctx, spec, n); err != nil {
			return err
		}
	}
	if err := h.pour(ctx, spec, n.From, source, n.To, target); err != nil {
		return err
	}
	h.at("copied")
	target.ReadOnly = true
	is, err := h.digest(ctx, spec.UserID, spec.Image, n.To, target)
	if err == nil && is.sum != was.sum {
		err = hub.Errorf(hub.Internal, "docker: move home", "the copy of the home is not like the home")
	}
	return err
}

// noteDirectory notes right before the first file into which directory a move copies: from then on what is in it is the
// move's, to be removed if it is cut off. Nothing may have come there since it was looked at first.
func (h *homes) noteDirectory(ctx context.Context, spec hub.Spec, n *homeNote) error {
	x := h.directoryOf(spec.Key.User, spec.UserID)
	switch empty, err := h.isEmpty(ctx, spec, h.freshPoint(spec.UserID)); {
	case err != nil:
		return err
	case !empty:
		return errInTheWay(x.path())
	}
	n.Into = &x
	return h.writeNote(spec.UserID, *n)
}

// makeTarget makes an empty home of a kind, beside the one that counts.
func (h *homes) makeTarget(ctx context.Context, spec hub.Spec, kind string) (mount.Mount, error) {
	id, point := spec.UserID, h.freshPoint(spec.UserID)
	switch kind {
	case homeVolume:
		return h.openVolume(ctx, spec)
	case homeBind:
		x := h.directoryOf(spec.Key.User, id)
		if err := h.ownDirectory(ctx, x); err != nil {
			return mount.Mount{}, err
		}
		if err := makeMountPoint(point); err != nil {
			return mount.Mount{}, err
		}
		if err := mountDirectory(x.Base, x.Rel, point, &owners{spec.UID, spec.GID}); err != nil {
			return mount.Mount{}, err
		}
		uid, err := ownerOf(point)
		if err == nil {
			err = sameOwner(spec, uid)
		}
		return bindMount(point, ""), err
	}
	return bindMount(point, ""), h.openFresh(ctx, spec)
}

// pour packs one home and unpacks it in another at the same time.
func (h *homes) pour(ctx context.Context, spec hub.Spec, from string, source mount.Mount, to string, target mount.Mount) error {
	r, w := io.Pipe()
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error {
		err := h.work(ctx, spec.UserID, h.packer(spec.UserID, from, homework{image: spec.Image, args: []string{"pack"}, home: source, out: w, second: true}))
		w.CloseWithError(err)
		return err
	})
	both.Go(func() error {
		err := h.work(ctx, spec.UserID, homework{image: spec.Image, args: []string{"unpack", ".", floorOf(to)}, home: target, user: owner(spec.UID, spec.GID), in: r})
		r.CloseWithError(err)
		return err
	})
	return both.Wait()
}

// sum is what the worker says of a home.
type sum struct {
	sum          string
	bytes, files int64
	uid, gid     int
}

func (h *homes) digest(ctx context.Context, id hub.UserID, image, kind string, m mount.Mount) (s sum, err error) {
	said := &head{most: 256}
	if err := h.work(ctx, id, h.packer(id, kind, homework{image: image, args: []string{"digest"}, home: m, out: said})); err != nil {
		return sum{}, err
	}
	if _, err := fmt.Sscan(said.String(), &s.sum, &s.bytes, &s.files, &s.uid, &s.gid); err != nil || len(s.sum) != 64 {
		return sum{}, hub.Errorf(hub.Internal, "docker: compare homes", "the worker's answer can't be read")
	}
	return s, nil
}

// endMove removes the old home where the new one counts, and else the new one.
func (h *homes) endMove(ctx context.Context, id hub.UserID, n homeNote) error {
	kind, err := h.recordedKind(id)
	if err != nil {
		return err
	}
	if err := errors.Join(h.dropFresh(ctx, id), h.closeHeld(ctx, id)); err != nil {
		return err
	}
	if kind != n.To {
		if n.To == homeBind {
			return h.dropIntoDirectory(ctx, id, n)
		}
		return h.removeAs(ctx, id, n.To)
	}
	if n.Keep {
		return nil
	}
	return h.removeAs(ctx, id, n.From)
}

// removeAs removes a home of a kind that nobody has; a directory is the operator's and stays.
func (h *homes) removeAs(ctx context.Context, id hub.UserID, kind string) error {
	switch kind {
	case homeLoop:
		if loop := awaitDetached(ctx, h.image(id)); loop != "" {
			return hub.Errorf(hub.Unavailable, "docker: remove home", "it is still attached at %s", loop)
		}
		if err := os.Remove(h.image(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return homeFault("remove home", err)
		}
	case homeVolume:
		name := h.volume(id)
		if err := h.removeKeeper(ctx, name); err != nil {
			return err
		}
		if err := h.api.on(ctx).VolumeRemove(ctx, name, false); err != nil && !isNotFound(err) {
			return fail("remove home", err)
		}
	}
	return nil
}

// dropIntoDirectory empties a directory that a move was cut off in; it was empty, or not there, before.
func (h *homes) dropIntoDirectory(ctx context.Context, id hub.UserID, n homeNote) error {
	if n.Into == nil {
		return nil // nothing was copied yet
	}
	x := *n.Into
	if was, err := h.readDirectory(h.directoryFile(x)); err != nil || was.ID != id || !isThere(x.Base, x.Rel) {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return homeFault("tell whose a directory is", err)
	}
	point := h.freshPoint(id)
	if err := makeMountPoint(point); err != nil {
		return err
	}
	if err := mountDirectory(x.Base, x.Rel, point, nil); err != nil {
		return err
	}
	if uid, err := ownerOf(point); err != nil || uid != n.UID { // nothing was copied into somebody else's
		return errors.Join(err, h.dropFresh(ctx, id))
	}
	err := h.work(ctx, id, homework{image: n.Image, args: []string{"clear"}, home: bindMount(point, ""), user: owner(n.UID, n.GID)})
	return errors.Join(err, h.dropFresh(ctx, id))
}
