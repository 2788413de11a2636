package docker

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"carrel/hub"
)

// This file holds every operation on the host that needs root's rights: make, check, grow, look at, replace,
// mount and unmount the image of a home, make and mount a directory below one that the operator named, have a home appear in a
// slot, and set the packet filter. They touch paths of the state directory, which no container sees, and those directories' own names;
// what is inside a home is never looked at. Beside them the driver
// writes files of its own in that directory (see writeFile) and asks Docker.

// toolTimeout bounds each tool. A caller that goes away does not end it: a resize that is killed
// half-way is worse than one that comes late.
const toolTimeout = 5 * time.Minute

// runTool runs one of the host's tools with fixed arguments; no shell. It gives what the tool printed
// with its error.
func runTool(ctx context.Context, input, name string, args ...string) error {
	_, err := askTool(ctx, input, name, args...)
	return err
}

// askTool is runTool, and gives what the tool printed.
func askTool(ctx context.Context, input, name string, args ...string) (string, error) {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), toolTimeout)
	defer done()
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // no shell; names and arguments are this file's, and its paths the state directory's
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Stdin = strings.NewReader(input)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is the hub's
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out.Bytes()))
	}
	return out.String(), nil
}

// homeFault tells a person that their home is not to be had, and the log why.
func homeFault(op string, err error) error {
	if err == nil {
		return nil
	}
	return &hub.Error{Kind: hub.Unavailable, Op: "docker: " + op, Message: "your home could not be made ready", Remedy: "try again; an administrator finds the reason in the hub's log", Err: err}
}

// makeFileSystem makes an empty ext4 of a size in a new file beside, and renames it: a crash leaves
// none or a whole one. Its root directory belongs to the person.
func makeFileSystem(ctx context.Context, image string, size, inodes int64, uid, gid int) error {
	tmp := image + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) // our own directory
	if err == nil {
		err = f.Truncate(size)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err == nil {
		owner := fmt.Sprintf("root_owner=%d:%d,lazy_itable_init=1,lazy_journal_init=1", uid, gid)
		err = runTool(ctx, "", "mkfs.ext4", "-q", "-F", "-m", "0", "-N", strconv.FormatInt(inodes, 10), "-E", owner, tmp)
	}
	if err == nil {
		err = os.Rename(tmp, image)
	}
	return homeFault("make home", err)
}

// checkFileSystem mends what an unclean end left.
func checkFileSystem(ctx context.Context, image string, options ...string) error {
	err := runTool(ctx, "", "e2fsck", append(options, "-p", image)...)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return nil // errors were mended
	}
	return homeFault("check home", err)
}

// describeImage reads what is known of an image that is not mounted: dumpe2fs(8).
func describeImage(ctx context.Context, image string) (map[string]int64, error) {
	text, err := askTool(ctx, "", "dumpe2fs", "-h", image)
	return readSuperblock(text), homeFault("look at home", err)
}

// growFileSystem makes an image larger. A mark lies beside it meanwhile, so that what a crash left
// half-way is finished by the next call.
func growFileSystem(ctx context.Context, image string, size int64) error {
	if err := enlarge(image, size); err != nil {
		return homeFault("grow home", err)
	}
	if err := checkFileSystem(ctx, image, "-f"); err != nil {
		return err
	}
	if err := runTool(ctx, "", "resize2fs", image); err != nil {
		return homeFault("grow home", err)
	}
	return homeFault("grow home", os.Remove(image+growing))
}

// growMounted has a file system grow to its enlarged image while servers have it: the loop device learns
// that its file has grown, and ext4 grows online.
func growMounted(ctx context.Context, image string) error {
	loop := loopOf(image)
	if loop == "" {
		return homeFault("grow home", errors.New("no loop device has the image"))
	}
	err := runTool(ctx, "", "losetup", "--set-capacity", loop)
	if err == nil {
		err = runTool(ctx, "", "resize2fs", loop)
	}
	if err == nil {
		err = os.Remove(image + growing)
	}
	return homeFault("grow home", err)
}

// enlarge makes an image's file so large at least, after the mark that the file system is still to grow.
func enlarge(image string, size int64) error {
	if err := writeFile(image+growing, nil); err != nil {
		return err
	}
	if info, err := os.Stat(image); err == nil && info.Size() >= size {
		return nil
	}
	return os.Truncate(image, size)
}

const growing = ".growing"

// mountHome mounts a home's image, or the loop device that holds it already, at a path of ours.
func mountHome(ctx context.Context, source, point string) error {
	options := "nosuid,nodev,errors=remount-ro"
	if !strings.HasPrefix(source, "/dev/") {
		options = "loop," + options
	}
	return homeFault("mount home", runTool(ctx, "", "mount", "-t", "ext4", "-o", options, source, point))
}

// makeMountPoint makes a directory of ours to mount at. What is beneath a mount is for nobody to write.
func makeMountPoint(point string) error {
	return homeFault("make mount point", errors.Join(os.MkdirAll(filepath.Dir(point), 0o700), os.MkdirAll(point, 0o555))) //nolint:gosec // it is no secret
}

// renameSynced puts a file of ours in another's place, durably: what is in it first, then its name.
func renameSynced(from, to string) error {
	err := syncPath(from)
	if err == nil {
		err = os.Rename(from, to)
	}
	if err == nil {
		err = syncPath(filepath.Dir(to))
	}
	return err
}

// syncPath makes a file or directory of ours durable.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // opened to sync
	return f.Sync()
}

// beneath is how the way to a person's directory is walked: no link is followed, and none leads out.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// owners are whose a directory becomes.
type owners struct{ uid, gid int }

// mountDirectory mounts a person's directory, below one of the operator's, at a path of ours. Where it is
// missing it is made, if it is to be somebody's, and if nobody but root can change what it is in. What is mounted is what was opened:
// whoever changes names on the way changes nothing any more.
func mountDirectory(base, rel, point string, whose *owners) error {
	root, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return directoryFault(base, err, "spawner.docker.home_path leads nowhere: mount or make "+base)
	}
	defer unix.Close(root) //nolint:errcheck // only looked through
	dir, err := openBeneath(root, rel)
	if errors.Is(err, unix.ENOENT) && whose != nil {
		if err = makeBeneath(root, rel, *whose); err == nil {
			dir, err = openBeneath(root, rel)
		}
	}
	if err != nil {
		return directoryFault(filepath.Join(base, rel), err, "it must be a directory, with no symbolic link on the way below "+base)
	}
	defer unix.Close(dir) //nolint:errcheck // likewise
	return homeFault("mount directory", bindAt(dir, point))
}

func directoryFault(path string, err error, remedy string) error {
	if e, ok := errors.AsType[*hub.Error](err); ok {
		return e
	}
	return &hub.Error{
		Kind: hub.Unavailable, Op: "docker: open home", Field: "spawner.docker.home_path", Message: "your home could not be made ready",
		Remedy: "try again; an administrator finds the reason in the hub's log", Err: fmt.Errorf("%s: %w (%s)", path, err, remedy),
	}
}

// isThere tells whether a person's directory can be opened.
func isThere(base, rel string) bool {
	root, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(root) //nolint:errcheck // only looked through
	dir, err := openBeneath(root, rel)
	if err == nil {
		unix.Close(dir) //nolint:errcheck // likewise
	}
	return err == nil
}

func openBeneath(root int, rel string) (int, error) {
	return unix.Openat2(root, rel, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: beneath})
}

// makeBeneath makes what is missing of the way to a person's directory, and the directory theirs.
func makeBeneath(root int, rel string, whose owners) error {
	parts := strings.Split(rel, "/")
	for i, name := range parts {
		parent, err := openBeneath(root, filepath.Join(".", filepath.Join(parts[:i]...)))
		if err != nil {
			return err
		}
		last := i == len(parts)-1
		err = makeIn(parent, name, last, whose)
		unix.Close(parent) //nolint:errcheck // only looked through
		if err != nil {
			return err
		}
	}
	return nil
}

// makeIn makes one directory in another that is root's alone: where others could change names, the one
// that is given away here might be another by then.
func makeIn(parent int, name string, last bool, whose owners) error {
	var in, made unix.Stat_t
	if err := unix.Fstatat(parent, name, &made, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		return nil // openBeneath tells what it is
	}
	if err := unix.Fstat(parent, &in); err != nil {
		return err
	}
	if in.Uid != 0 || in.Mode&0o022 != 0 {
		return errors.New("it is not there, and where others than root can write it is not made: an administrator makes it")
	}
	tmp := ".carrel-" + rand.Text() // a crash leaves none of the name, or one that is theirs
	err := unix.Mkdirat(parent, tmp, 0o700)
	if err != nil {
		return err
	}
	if last {
		err = unix.Fchownat(parent, tmp, whose.uid, whose.gid, unix.AT_SYMLINK_NOFOLLOW)
	} else {
		err = unix.Fchmodat(parent, tmp, 0o755, 0)
	}
	if err == nil {
		err = renameNew(parent, tmp, name)
	}
	if err != nil {
		err = errors.Join(err, unix.Unlinkat(parent, tmp, unix.AT_REMOVEDIR))
	}
	return err
}

// renameNew gives a directory a name that nothing has. File servers don't know of that condition (NFS): there it can take the place of
// an empty directory.
func renameNew(parent int, from, to string) error {
	err := unix.Renameat2(parent, from, parent, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return unix.Renameat(parent, from, parent, to)
	}
	return err
}

// bindAt mounts an open directory at a path of ours: with nothing that is mounted below it, nosuid, nodev,
// and what its own mount forbids.
func bindAt(dir int, point string) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(dir, &st); err != nil {
		return err
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(dir), point, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	flags := uintptr(st.Flags) & (unix.MS_RDONLY | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME) // the same bits as statfs(2)'s
	err := unix.Mount("", point, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|unix.MS_NODEV|flags, "")
	if err == nil {
		err = unix.Mount("", point, "", unix.MS_PRIVATE, "")
	}
	if err != nil {
		err = errors.Join(err, unix.Unmount(point, unix.MNT_DETACH))
	}
	return err
}

func unmountHome(ctx context.Context, point string) error {
	return homeFault("unmount home", runTool(ctx, "", "umount", point))
}

// shareMounts makes a directory of ours a mount of its own whose mounts are told to those that follow
// it: what is mounted below it later appears in containers that were started before (rslave; see
// mount_namespaces(7)). It is idempotent.
func shareMounts(dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return homeFault("share mounts", err)
	}
	table, err := os.ReadFile("/proc/self/mountinfo") // proc_pid_mountinfo(5)
	if err == nil && !bytes.Contains(table, []byte(" "+strings.ReplaceAll(dir, " ", `\040`)+" rw")) {
		err = unix.Mount(dir, dir, "", unix.MS_BIND, "")
	}
	if err != nil {
		return homeFault("share mounts", err)
	}
	return homeFault("share mounts", unix.Mount("", dir, "", unix.MS_SHARED, ""))
}

// showHome has a home that is mounted appear at a path of ours below a shared one, with the limits of
// its mount: nosuid, nodev.
func showHome(home, point string) error {
	return homeFault("show home", unix.Mount(home, point, "", unix.MS_BIND, ""))
}

// hideMount takes away what showHome or shareMounts made; nothing is no error.
func hideMount(point string) error {
	err := unix.Unmount(point, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return homeFault("hide home", err)
}

// mounted tells whether a path of ours is where something is mounted: statx(2) tells, and looks at nothing
// inside.
func mounted(path string) bool {
	var at unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, 0, &at)
	return err == nil && at.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// ownerOf is the user id that a mounted home belongs to: of its top directory, which is the path of
// ours that it is mounted at.
func ownerOf(point string) (int, error) {
	uid, _, err := ownersOf(point)
	return uid, err
}

func ownersOf(point string) (uid, gid int, err error) {
	var at unix.Stat_t
	if err := unix.Lstat(point, &at); err != nil {
		return 0, 0, homeFault("look whose home it is", err)
	}
	return int(at.Uid), int(at.Gid), nil
}

// isLocal tells whether what is mounted is on a disk of this machine, where root may read everything.
func isLocal(point string) bool {
	var st unix.Statfs_t
	if unix.Statfs(point, &st) != nil {
		return false
	}
	switch st.Type {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC, unix.OVERLAYFS_SUPER_MAGIC, zfsMagic:
		return true
	}
	return false
}

const zfsMagic = 0x2fc12fc1

// loopOf is the loop device that an image is attached to, or "". After the last unmount it can take
// a moment to go; a mount that another process inherited keeps it.
func loopOf(image string) string {
	image, err := filepath.EvalSymlinks(image)
	if err != nil {
		return ""
	}
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if backing, err := os.ReadFile(f); err == nil && strings.TrimSuffix(string(backing), "\n") == image { // the kernel's
			return "/dev/" + strings.Split(f, "/")[3]
		}
	}
	return ""
}

// setFilter hands rules to the kernel's packet filter in one transaction.
func setFilter(ctx context.Context, rules string) error {
	fault := &hub.Error{Kind: hub.Unavailable, Op: "docker: set packet filter", Message: "the walls around notebooks can't be set up"}
	if os.Geteuid() != 0 {
		fault.Remedy = "an administrator must run carrel as root"
		return fault
	}
	if fault.Err = runTool(ctx, rules, "nft", "-f", "-"); fault.Err != nil {
		fault.Remedy = "an administrator must install nftables; carrel doctor says more"
		return fault
	}
	return nil
}

// lockFile takes an exclusive lock that other processes see too, and that ends with this one. It
// waits until ctx ends.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	for {
		unlock, err := tryLockFile(path)
		if unlock != nil || err != nil {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// tryLockFile is lockFile without the wait: where somebody has the lock, unlock is nil.
func tryLockFile(path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) // our own directory
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) // a descriptor
	if err == nil {
		return func() { f.Close() }, nil // closing unlocks
	}
	f.Close() // unused
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	return nil, err
}

// filterBridge has a bridge's traffic between its own ports come by the packet filter, whatever the
// machine's default is (net.bridge.bridge-nf-call-*). One that is not there has no traffic.
func filterBridge(device string) error {
	dir := filepath.Join("/sys/class/net", device, "bridge")
	if _, err := os.Stat(dir); err != nil {
		return nil //nolint:nilerr // there is none yet
	}
	_, err := os.Stat("/proc/sys/net/bridge") // there with the module only
	for _, attr := range []string{"nf_call_iptables", "nf_call_ip6tables"} {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, attr), []byte("1"), 0) // the kernel's
		}
	}
	if _, gone := os.Stat(dir); err == nil || gone != nil {
		return nil
	}
	return &hub.Error{Kind: hub.Unavailable, Op: "docker: set packet filter", Message: "the walls between notebooks can't be set up", Remedy: "an administrator must load the kernel's module br_netfilter", Err: err}
}
