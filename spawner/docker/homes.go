package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
	"golang.org/x/sys/unix"

	"carrel/hub"
)

// The kinds of home: an ext4 image of its own per person, with hard caps on bytes and files; or a
// Docker volume, without.
const (
	homeLoop   = "loop"
	homeVolume = "volume"
)

const (
	defaultDisk   = 1 << 30
	bytesPerInode = 16384
	// minFree is what the host's file system keeps free of new homes, in bytes.
	minFree = 512 << 20
)

// homes opens and closes people's homes. These are the only operations of root's on a home: make an
// empty image, check and grow it while nobody has it, mount, unmount.
type homes struct {
	cfg Config
	api *client.Client
	mu  sync.Map // hub.UserID → *sync.Mutex
}

func (h *homes) lock(id hub.UserID) func() {
	v, _ := h.mu.LoadOrStore(id, &sync.Mutex{})
	m := v.(*sync.Mutex) //nolint:forcetypeassert // nothing else is stored
	m.Lock()
	return m.Unlock
}

func (h *homes) label(spec hub.Spec) string {
	if spec.Home == "" {
		return ""
	}
	return h.cfg.HomeKind
}

func (h *homes) image(id hub.UserID) string {
	return filepath.Join(h.cfg.StateDir, "homes", string(id)+".img")
}
func (h *homes) mountPoint(id hub.UserID) string {
	return filepath.Join(h.cfg.StateDir, "mnt", string(id))
}
func (h *homes) volume(id hub.UserID) string {
	return "carrel-" + h.cfg.Deployment + "-home-" + string(id)
}

// open makes the person's home ready and gives its mount; none for a server without a home.
func (h *homes) open(ctx context.Context, spec hub.Spec) (mount.Mount, error) {
	if spec.Home == "" {
		return mount.Mount{}, nil
	}
	if spec.UserID == "" || strings.Trim(string(spec.UserID), "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return mount.Mount{}, hub.Errorf(hub.Internal, "open home", "the person's id is malformed")
	}
	defer h.lock(spec.UserID)()
	if h.cfg.HomeKind == homeVolume {
		_, err := h.api.VolumeCreate(ctx, volume.CreateOptions{Name: h.volume(spec.UserID), Labels: map[string]string{
			labelDeployment: h.cfg.Deployment, labelUserID: string(spec.UserID), labelMAC: h.cfg.Keyring.LabelMAC("volume", string(spec.UserID)),
		}})
		return mount.Mount{Type: mount.TypeVolume, Source: h.volume(spec.UserID), Target: spec.Home}, fail("make home", err)
	}
	if err := h.mountLoop(ctx, spec); err != nil {
		return mount.Mount{}, err
	}
	return mount.Mount{Type: mount.TypeBind, Source: h.mountPoint(spec.UserID), Target: spec.Home, BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate}}, nil
}

// mountLoop mounts the image, after making it at the first start and growing it where the profile
// grew. A home that is mounted already is left as it is.
func (h *homes) mountLoop(ctx context.Context, spec hub.Spec) error {
	point, img := h.mountPoint(spec.UserID), h.image(spec.UserID)
	for _, dir := range []string{filepath.Dir(img), point} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return hub.Wrap(hub.Unavailable, "make home's directory", err)
		}
	}
	if mounted(point) {
		return nil
	}
	size := orElse(spec.Limits.Disk, defaultDisk)
	info, err := os.Stat(img)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := h.makeImage(ctx, img, size, spec); err != nil {
			return err
		}
	case err != nil:
		return hub.Wrap(hub.Unavailable, "find home", err)
	default:
		if err := checkImage(ctx, img, info.Size(), size); err != nil {
			return err
		}
	}
	return run(ctx, "mount", "-t", "ext4", "-o", "loop,nosuid,nodev,errors=remount-ro", img, point)
}

// makeImage writes an empty file system beside and renames it, so that a crash leaves none or a whole one.
func (h *homes) makeImage(ctx context.Context, img string, size int64, spec hub.Spec) error {
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(img), &st); err == nil && int64(st.Bavail)*st.Bsize < minFree { //nolint:gosec // far below 2^63
		return &hub.Error{Kind: hub.Unavailable, Op: "make home", Message: "this machine's disk is full", Remedy: "an administrator must free space"}
	}
	inodes := orElse(spec.Limits.Inodes, max(size/bytesPerInode, 1024))
	tmp := img + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) //nolint:gosec // our own directory
	if err == nil {
		err = f.Truncate(size)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return hub.Wrap(hub.Unavailable, "make home", err)
	}
	owner := fmt.Sprintf("root_owner=%d:%d,lazy_itable_init=1,lazy_journal_init=1", spec.UID, spec.GID)
	if err := run(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-N", strconv.FormatInt(inodes, 10), "-E", owner, tmp); err != nil {
		return err
	}
	return hub.Wrap(hub.Unavailable, "make home", os.Rename(tmp, img))
}

// checkImage mends what an unclean end left, and grows a home whose quota grew; a smaller quota
// leaves it as large as it is.
func checkImage(ctx context.Context, img string, have, want int64) error {
	if err := run(ctx, "e2fsck", "-p", img); err != nil {
		return err
	}
	if want <= have {
		return nil
	}
	if err := os.Truncate(img, want); err != nil {
		return hub.Wrap(hub.Unavailable, "grow home", err)
	}
	if err := run(ctx, "e2fsck", "-f", "-p", img); err != nil {
		return err
	}
	return run(ctx, "resize2fs", img)
}

// run runs a tool of root's with fixed arguments; no shell, no input.
func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // names and arguments are this file's
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && name == "e2fsck" && exit.ExitCode() == 1 {
		return nil // errors were mended
	}
	if err != nil {
		return &hub.Error{Kind: hub.Unavailable, Op: "docker: " + name, Message: "your home could not be made ready", Remedy: "an administrator finds the reason in the hub's log", Err: fmt.Errorf("%w: %s", err, bytes.TrimSpace(out.Bytes()))}
	}
	return nil
}

// mounted tells whether something is mounted at a path of ours, by the device numbers of it and of
// its parent: nothing inside it is looked at.
func mounted(path string) bool {
	var at, above unix.Stat_t
	return unix.Lstat(path, &at) == nil && unix.Lstat(filepath.Dir(path), &above) == nil && at.Dev != above.Dev
}

// close unmounts a person's home when none of their servers has it any more.
func (h *homes) close(ctx context.Context, d *Driver, id hub.UserID) {
	if h.cfg.HomeKind != homeLoop || id == "" {
		return
	}
	defer h.lock(id)()
	own, err := d.ours(ctx)
	if err != nil {
		return // the next stop or start finds it
	}
	for _, c := range own {
		if c.Labels[labelUserID] == string(id) && c.Labels[labelHome] != "" {
			return
		}
	}
	if mounted(h.mountPoint(id)) {
		if err := run(ctx, "umount", h.mountPoint(id)); err != nil {
			h.cfg.Logger.WarnContext(ctx, "home not unmounted; it stays as it is", "user_id", id, "error", err)
		}
	}
}
