package docker

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"golang.org/x/sys/unix"

	"carrel/hub"
)

// The kinds of home: an ext4 image of its own per person, with hard caps on bytes and files; a Docker
// volume, or a directory of the operator's, without. Beside them is hub.HomeTmpfs, a home in the server's
// memory, of which nothing is to be opened or closed.
const (
	homeLoop   = "loop"
	homeVolume = "volume"
	homeBind   = "bind"
)

const (
	defaultDisk   = 1 << 30
	bytesPerInode = 16384
	// minFree is what the host's file system keeps free of new homes, in bytes.
	minFree = 512 << 20
	// detachWithin is how long a loop device is waited for after its unmount.
	detachWithin = 5 * time.Second
)

// homes opens and closes people's homes. What it does to them as root is in host.go.
type homes struct {
	cfg Config
	api *engine
	// inUse tells whether a container has the person's home. One that can't be read counts.
	inUse func(ctx context.Context, id hub.UserID) (bool, error)
	// users are those containers.
	users func(ctx context.Context, id hub.UserID) ([]container.Summary, error)
	crash func(step string) // nil but in tests
}

// hold keeps a home from everybody else until release; it is exclusive over all processes. It waits
// for whoever has it for a moment, and not for one who keeps it for an export or an import.
func (h *homes) hold(ctx context.Context, id hub.UserID) (release func(), err error) {
	for {
		release, err := tryLockFile(h.image(id) + ".lock")
		if release != nil || err != nil {
			return release, hub.Wrap(hub.Unavailable, "hold home", err)
		}
		if n, err := h.readNote(id); err == nil {
			return nil, &hub.Error{Kind: hub.Unavailable, Op: "hold home", Message: "this home is being " + n.Doing, Remedy: "try again when that is over"}
		}
		select {
		case <-ctx.Done():
			return nil, hub.Wrap(hub.Unavailable, "hold home", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// take is hold, and brings to its end what a process that ended left half-way; in an image of the
// caller's, where the one that it was begun in is gone.
func (h *homes) take(ctx context.Context, id hub.UserID, image string) (release func(), err error) {
	release, err = h.hold(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := h.mend(ctx, id, image); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

func (h *homes) label(spec hub.Spec) string {
	switch {
	case spec.Home == "":
		return ""
	case spec.HomeKind == hub.HomeTmpfs:
		return string(hub.HomeTmpfs)
	}
	if kind, err := h.recordedKind(spec.UserID); err == nil && kind != "" {
		return kind
	}
	return h.cfg.HomeKind
}

func (h *homes) image(id hub.UserID) string {
	return filepath.Join(h.cfg.StateDir, "homes", string(id)+".img")
}

func (h *homes) mountPoints() string { return filepath.Join(h.cfg.StateDir, "mnt") }

func (h *homes) mountPoint(id hub.UserID) string { return filepath.Join(h.mountPoints(), string(id)) }

func (h *homes) volume(id hub.UserID) string {
	return "carrel-" + h.cfg.Deployment + "-home-" + string(id)
}

// keeps tells whether the server has a home on disk, which outlives it.
func keeps(spec hub.Spec) bool { return spec.Home != "" && spec.HomeKind != hub.HomeTmpfs }

// open makes the person's home ready and gives its mount; none for a server without one on disk. Until
// release is called, which is when a container has it, nobody closes it.
func (h *homes) open(ctx context.Context, spec hub.Spec) (m mount.Mount, release func(), err error) {
	if !keeps(spec) {
		return mount.Mount{}, func() {}, nil
	}
	if !wellFormed(spec.UserID) {
		return mount.Mount{}, nil, hub.Errorf(hub.Internal, "open home", "the person's id is malformed")
	}
	release, err = h.take(ctx, spec.UserID, spec.Image)
	if err != nil {
		return mount.Mount{}, nil, err
	}
	m, err = h.reach(ctx, spec, false)
	if err != nil {
		release()
		return mount.Mount{}, nil, err
	}
	return m, release, nil
}

// wellFormed tells whether an id can be a part of paths and names.
func wellFormed(id hub.UserID) bool {
	return id != "" && strings.Trim(string(id), "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// reach is open for who holds the home. A directory that was their home and is missing is made anew only for an import.
func (h *homes) reach(ctx context.Context, spec hub.Spec, anew bool) (mount.Mount, error) {
	kind, err := h.kindOf(ctx, spec.UserID)
	if err != nil {
		return mount.Mount{}, err
	}
	var m mount.Mount
	switch kind {
	case homeVolume:
		m, err = h.openVolume(ctx, spec)
	case homeBind:
		m, err = h.openBind(ctx, spec, anew)
	default:
		m, err = h.openLoop(ctx, spec)
	}
	if err == nil {
		err = h.keepKind(spec.UserID, kind)
	}
	return m, err
}

// openLoop mounts the image.
func (h *homes) openLoop(ctx context.Context, spec hub.Spec) (mount.Mount, error) {
	if err := h.mountLoop(ctx, spec); err != nil {
		return mount.Mount{}, err
	}
	return h.ownMount(ctx, spec)
}

// ownMount gives a home that is mounted at its place; one that is another user's is closed again.
func (h *homes) ownMount(ctx context.Context, spec hub.Spec) (mount.Mount, error) {
	point := h.mountPoint(spec.UserID)
	owner, err := ownerOf(point)
	if err == nil {
		err = sameOwner(spec, owner)
	}
	if err != nil {
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer done()
		if cerr := h.closeHeld(ctx, spec.UserID); cerr != nil {
			h.cfg.Logger.WarnContext(ctx, "home not unmounted; tried again later", "user_id", spec.UserID, "error", cerr)
		}
		return mount.Mount{}, err
	}
	return bindMount(point, spec.Home), nil
}

// mountLoop mounts the image, after making it at the first start and growing it where the profile
// grew; a smaller quota leaves it as large as it is, and a home that is mounted already is left alone.
func (h *homes) mountLoop(ctx context.Context, spec hub.Spec) error {
	point, img := h.mountPoint(spec.UserID), h.image(spec.UserID)
	if err := makeMountPoint(point); err != nil {
		return err
	}
	if mounted(point) {
		return nil
	}
	if loop := awaitDetached(ctx, img); loop != "" {
		// Something keeps an earlier mount. A second device for the file would tear it, and checking a
		// file system in use, too; the same device is the same file system.
		h.cfg.Logger.WarnContext(ctx, "home is still attached; mounted again as it is", "user_id", spec.UserID, "device", loop)
		return mountHome(ctx, loop, point)
	}
	if err := h.prepareImage(ctx, img, spec); err != nil {
		return err
	}
	return mountHome(ctx, img, point)
}

// awaitDetached waits for the loop device of an earlier mount to go; it gives the one that stays.
func awaitDetached(ctx context.Context, img string) string {
	ctx, done := context.WithTimeout(ctx, detachWithin)
	defer done()
	for {
		loop := loopOf(img)
		if loop == "" {
			return ""
		}
		select {
		case <-ctx.Done():
			return loop
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// prepareImage makes the image, or checks and grows it.
func (h *homes) prepareImage(ctx context.Context, img string, spec hub.Spec) error {
	size := orElse(spec.Limits.Disk, defaultDisk)
	info, err := os.Stat(img)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return makeHome(ctx, img, size, spec)
	case err != nil:
		return homeFault("find home", err)
	}
	if err := checkFileSystem(ctx, img); err != nil {
		return err
	}
	if _, err := os.Stat(img + growing); err == nil || size > info.Size() {
		return growFileSystem(ctx, img, size)
	}
	return nil
}

var errDiskFull = &hub.Error{Kind: hub.Unavailable, Op: "make home", Message: "this machine's disk is full", Remedy: "an administrator must free space"}

// hasRoom tells whether the disk that an image is on can take more.
func hasRoom(img string) bool {
	var st unix.Statfs_t
	err := unix.Statfs(filepath.Dir(img), &st)
	return err != nil || int64(st.Bavail)*st.Bsize >= minFree // far below 2^63
}

func makeHome(ctx context.Context, img string, size int64, spec hub.Spec) error {
	if !hasRoom(img) {
		return errDiskFull
	}
	inodes := orElse(spec.Limits.Inodes, max(size/bytesPerInode, 1024))
	return makeFileSystem(ctx, img, size, inodes, spec.UID, spec.GID)
}

// close unmounts a person's home when none of their servers has it any more.
func (h *homes) close(ctx context.Context, id hub.UserID) {
	if id == "" || !mounted(h.mountPoint(id)) {
		return
	}
	release, err := h.hold(ctx, id)
	if err == nil {
		defer release()
		err = h.closeHeld(ctx, id)
	}
	if err != nil {
		h.cfg.Logger.WarnContext(ctx, "home not unmounted; tried again later", "user_id", id, "error", err)
	}
}

func (h *homes) closeHeld(ctx context.Context, id hub.UserID) error {
	used, err := h.inUse(ctx, id)
	if err != nil || used || !mounted(h.mountPoint(id)) {
		return err
	}
	return unmountHome(ctx, h.mountPoint(id))
}

// tidy closes homes whose container went without the driver's doing, and mends what the end of another
// process left half-way.
func (h *homes) tidy(ctx context.Context) {
	for _, id := range h.noted() {
		if release, err := h.take(ctx, id, ""); err == nil {
			release()
		} else if hub.KindOf(err) != hub.Unavailable { // it is at work
			h.cfg.Logger.WarnContext(ctx, "home not mended; tried again later", "user_id", id, "error", err)
		}
	}
	points, err := os.ReadDir(h.mountPoints())
	if err != nil {
		return // there is none yet
	}
	for _, p := range points {
		if id := hub.UserID(p.Name()); wellFormed(id) { // else it is an import's
			h.close(ctx, id)
		}
	}
}
