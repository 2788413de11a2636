"""What is done inside a home, in a container that has nothing else: packing, unpacking, settling.

It is run as `python3 -I -c PROGRAM COMMAND ...`. Whatever is in the home, and in an archive, is somebody
else's: no path is followed, every name is taken below a directory that was opened.
"""

import errno
import hashlib
import os
import stat
import subprocess
import sys
import threading

HOME = b"/carrel-home"
WORK = b".carrel-import"  # where an import unpacks, in the home itself
FOUND = b"lost+found"  # the file system's own
TAR = ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=user.*"]
# What tar says of names that it makes relative, and of file systems without attributes.
HARMLESS = [b": Removing leading `", b" extended attribute for file "]
DEEPEST = 1000  # directories within each other; a path of twice as many has no name that can be opened
FEWEST = 1000  # files that are left to others
CHUNK = 1 << 16


def is_directory(name, at):
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def is_systems(name, at):
    """Tells whether a name at the top is the file system's and not the person's."""
    return name == FOUND and is_directory(name, at) and os.stat(name, dir_fd=at, follow_symlinks=False).st_uid == 0


def enter(name, at=None):
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)


def names(at):
    return [os.fsencode(name) for name in sorted(os.listdir(at))]


def pack():
    left_out = [b"./" + WORK]
    home = enter(HOME)
    if is_systems(FOUND, home):
        left_out.append(b"./" + FOUND)
    os.close(home)
    os.chdir(HOME)
    os.execvp("tar", [
        *TAR, "--create", "--file=-", "--format=posix", "--pax-option=delete=atime,delete=ctime", "--sparse", "--sort=name",
        "--anchored", "--no-wildcards", *[b"--exclude=" + name for name in left_out], ".",
    ])


def unpack(where, floor):
    """Unpacks standard input; where is WORK, or "." for a home that is new."""
    os.chdir(HOME)
    target = HOME
    if where != ".":
        if not drop():
            sys.exit("carrel: what an earlier import left can't be removed")
        times = os.stat(HOME)
        os.mkdir(WORK, 0o700)
        target = os.path.join(HOME, WORK, b"new")
        os.mkdir(target, 0o700)
        os.utime(WORK, ns=(times.st_atime_ns, times.st_mtime_ns))  # for drop
    tar = subprocess.Popen([
        *TAR, "--extract", "--file=-", b"--directory=" + target, "--same-permissions", "--no-same-owner", "--delay-directory-restore",
        "--warning=none", "--anchored", "--no-wildcards", b"--exclude=" + WORK, b"--exclude=./" + WORK,
    ], stderr=subprocess.PIPE)
    ended = threading.Event()
    full = threading.Event()

    def watch():
        while not ended.wait(0.05):
            room = os.statvfs(HOME)
            if room.f_bavail * room.f_frsize < floor or 0 < room.f_files and room.f_favail < FEWEST:
                full.set()
                tar.kill()
                return

    watcher = threading.Thread(target=watch)
    if floor:
        watcher.start()
    complained = relay(tar)
    code = tar.wait()
    ended.set()
    if full.is_set():
        sys.exit("carrel: No space left on device: what others need would have been taken")
    if code or complained:
        room = os.statvfs(HOME)
        sys.exit("carrel: No space left on device" if room.f_bavail * room.f_frsize < 1 << 20 else 1)
    check(target)
    os.sync()  # it counts as whole from now on


def relay(tar):
    """Passes on what tar complains of, and soon after the first time ends it: it would go on to the end of the archive."""
    ending = threading.Timer(1, tar.kill)
    complained = False
    for line in tar.stderr:
        if any(harmless in line for harmless in HARMLESS):
            continue
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
        if not complained:
            complained = True
            ending.start()
    ending.cancel()
    return complained


def check(target):
    """Takes from what was unpacked what nobody should find in it."""
    mode = stat.S_IMODE(os.stat(target).st_mode)
    os.chmod(target, mode | 0o700)
    top = enter(target)
    times = os.fstat(top)
    remove(WORK, top)  # as "././.carrel-import", which no pattern of tar's keeps out
    os.utime(top, ns=(times.st_atime_ns, times.st_mtime_ns))
    strip(top, 1)
    os.close(top)


def strip(at, depth):
    """Takes the bits from files by which a program runs as another, in a directory and all below it."""
    if depth > DEEPEST:
        sys.exit(f"carrel: directories are nested more than {DEEPEST} deep")
    with os.scandir(at) as entries:
        found = [(os.fsencode(e.name), e.stat(follow_symlinks=False)) for e in entries]
    for name, about in found:
        mode = stat.S_IMODE(about.st_mode)
        if stat.S_ISREG(about.st_mode) and mode & 0o6000:
            os.chmod(name, mode & 0o1777, dir_fd=at)
        elif stat.S_ISDIR(about.st_mode) and not (name == FOUND and about.st_uid == 0):
            if mode & 0o500 != 0o500:
                os.chmod(name, mode | 0o500, dir_fd=at)
            below = enter(name, at)
            strip(below, depth + 1)
            os.close(below)
            if mode & 0o500 != 0o500:
                os.chmod(name, mode, dir_fd=at)


def move(name, source, target):
    """Renames into another directory, which for a directory takes the right to write in it."""
    found = os.stat(name, dir_fd=source, follow_symlinks=False)
    locked = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o200 and found.st_uid == os.geteuid()
    if locked:
        os.chmod(name, stat.S_IMODE(found.st_mode) | 0o200, dir_fd=source)
    os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
    if locked:
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target)


def widen(at):
    """Makes a directory's entries its owner's to change; gives the mode that it had."""
    mode = stat.S_IMODE(os.fstat(at).st_mode)
    if mode & 0o300 != 0o300:
        os.fchmod(at, mode | 0o300)
    return mode


def remove(name, at):
    """Removes a name with all below it, as far as that is the caller's to do."""
    if not is_directory(name, at):
        try:
            os.unlink(name, dir_fd=at)
        except FileNotFoundError:
            pass
        return
    here = b"/proc/self/fd/%d/" % at
    for command in (["chmod", "-R", "u+rwX", "--"], ["rm", "-rf", "--"]):
        subprocess.run([*command, here + name], pass_fds=(at,), stderr=subprocess.DEVNULL, check=False)


def settle(how):
    """Puts what was unpacked in its place. Cut off anywhere, it can be begun again."""
    home = enter(HOME)
    if not is_directory(WORK, home):
        return  # it was through but for the telling
    work = enter(WORK, home)
    widen(home)
    if is_directory(b"new", work):
        new = enter(b"new", work)
        top = os.fstat(new)
        if how == "replace":
            replace(home, work, new)
        else:
            merge(home, new, True)
        if how == "replace":
            os.fchmod(home, stat.S_IMODE(top.st_mode) & 0o3777 | 0o700)
            os.utime(home, ns=(top.st_atime_ns, top.st_mtime_ns))
    os.sync()
    if is_directory(b"new", work):
        os.rename(b"new", b"used", src_dir_fd=work, dst_dir_fd=work)  # all that follows may be removed in any order
        os.sync()
    os.close(work)
    times = os.fstat(home)
    remove(WORK, home)
    if is_directory(WORK, home):
        print("left")
    os.utime(home, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.sync()


def replace(home, work, new):
    if not is_directory(b"moved", work):
        if not is_directory(b"old", work):
            os.mkdir(b"old", 0o700, dir_fd=work)
        old = enter(b"old", work)
        for name in names(home):
            if name != WORK and not is_systems(name, home):
                move(name, home, old)
        os.sync()
        os.mkdir(b"moved", 0o700, dir_fd=work)
        os.sync()
    for name in names(new):
        if name != WORK and not is_systems(name, home):
            move(name, new, home)


def merge(home, new, top=False):
    mode = widen(home)
    widen(new)
    for name in names(new):
        if top and (name == WORK or is_systems(name, home)):
            continue
        if not is_directory(name, new):
            if is_directory(name, home):
                remove(name, home)
            os.rename(name, name, src_dir_fd=new, dst_dir_fd=home)
        elif is_directory(name, home):
            found = os.stat(name, dir_fd=new, follow_symlinks=False)
            for side in (new, home):
                own = os.stat(name, dir_fd=side, follow_symlinks=False)
                if own.st_mode & 0o700 != 0o700:
                    os.chmod(name, stat.S_IMODE(own.st_mode) | 0o700, dir_fd=side)
            source, target = enter(name, new), enter(name, home)
            merge(target, source)
            os.fchmod(target, stat.S_IMODE(found.st_mode))
            os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
            os.close(source)
            os.close(target)
        else:
            remove(name, home)
            move(name, new, home)
    if not top:
        os.fchmod(home, mode)


def drop():
    """Removes what an import that was cut off has unpacked; tells whether all of it is gone."""
    home = enter(HOME)
    times = os.stat(WORK, dir_fd=home, follow_symlinks=False) if is_directory(WORK, home) else os.fstat(home)
    remove(WORK, home)
    gone = not is_directory(WORK, home)
    os.utime(home, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.close(home)
    return gone


def digest():
    """Prints a sum over all that an archive keeps of a home, the bytes that it takes, the number of its files, and its owners."""
    total, taken, count, first = hashlib.sha256(), 0, 0, {}

    def add(*parts):
        for part in parts:
            raw = part if isinstance(part, bytes) else str(part).encode()
            total.update(len(raw).to_bytes(8, "big") + raw)

    def attributes(name, at, kind):
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            return
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
        try:
            for key in sorted(k for k in os.listxattr(opened) if k.startswith("user.")):
                add(os.fsencode(key), os.getxattr(opened, key))
        except OSError:
            pass  # a file system without them
        finally:
            os.close(opened)

    def content(name, at, size):
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        offset = 0
        try:
            while offset < size:
                try:
                    offset = max(offset, os.lseek(opened, offset, os.SEEK_DATA) // CHUNK * CHUNK)
                except OSError as e:
                    if e.errno == errno.ENXIO:  # a hole to the end
                        return
                    raise
                chunk = os.pread(opened, CHUNK, offset)
                if chunk.strip(b"\0"):
                    add(offset, chunk)
                offset += CHUNK
        finally:
            os.close(opened)

    def look(name, at, path, about):
        nonlocal taken, count
        kind, mode = stat.S_IFMT(about.st_mode), stat.S_IMODE(about.st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO):
            return  # archives have no sockets
        count += 1
        taken += about.st_blocks * 512
        if kind == stat.S_IFREG:
            mode &= 0o1777
        if path == b".":
            mode = mode & 0o3777 | 0o700
        add(path, kind, mode, about.st_mtime_ns)
        if kind != stat.S_IFDIR and about.st_nlink > 1:
            twin = first.setdefault(about.st_ino, path)
            add(twin)
            if twin != path:
                return
        attributes(name, at, kind)
        if kind == stat.S_IFLNK:
            add(os.readlink(name, dir_fd=at))
        elif kind == stat.S_IFREG:
            add(about.st_size)
            content(name, at, about.st_size)
        elif kind == stat.S_IFDIR:
            below = enter(name, at)
            for entry in names(below):
                if path == b"." and (entry == WORK or is_systems(entry, below)):
                    continue
                look(entry, below, path + b"/" + entry, os.stat(entry, dir_fd=below, follow_symlinks=False))
            os.close(below)

    top = enter(HOME)
    sys.setrecursionlimit(1 << 15)
    about = os.fstat(top)
    look(b".", top, b".", about)
    print(total.hexdigest(), taken, count, about.st_uid, about.st_gid)


def empty():
    """Prints yes for a home with nothing in it."""
    home = enter(HOME)
    print("no" if any(name != WORK and not is_systems(name, home) for name in names(home)) else "yes")


def clear():
    """Empties a home that was to be filled."""
    home = enter(HOME)
    for name in names(home):
        if not is_systems(name, home):
            remove(name, home)
    if any(not is_systems(name, home) for name in names(home)):
        sys.exit("carrel: what was copied can't be removed")


def tell(kind, error, _):
    print(f"carrel: {kind.__name__}: {error}", file=sys.stderr)


def main():
    sys.excepthook = tell
    sys.setrecursionlimit(4 * DEEPEST)
    os.umask(0o077)
    command, *rest = sys.argv[1:]
    if command == "pack":
        pack()
    elif command == "unpack":
        unpack(rest[0], int(rest[1]))
    elif command == "settle":
        settle(rest[0])
    elif command == "drop":
        if not drop():
            print("left")
    elif command == "digest":
        digest()
    elif command == "clear":
        clear()
    elif command == "empty":
        empty()
    else:
        sys.exit("carrel: there is no such command")


main()
