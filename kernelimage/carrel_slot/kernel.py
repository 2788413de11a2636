"""A kernel that is started before anybody wants it: it has imported and set up everything, listens on
its ports, and waits to be told whose it is. It runs as a program of its own, a child of the slot."""

import json
import os
import sys

from . import wait


def main():
    """Wait for a line on standard input, which says where to run and with which environment; the
    arguments are the connection file, and a descriptor to say on that it is ready. Where the home decides what a kernel imports or sets up, a new
    Python takes over, with the same connection."""
    from ipykernel.kernelapp import IPKernelApp

    connection, tell = sys.argv[1], int(sys.argv[2])
    output = os.dup(1), os.dup(2)  # the kernel puts pipes of its own in their place
    app = IPKernelApp.instance()
    app.initialize(["-f", connection])
    os.write(tell, b"ready\n")
    os.close(tell)
    place = _line(0)
    if not place:
        sys.exit(0)  # the slot is gone
    place = json.loads(place)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.environ.clear()
    os.environ.update(place["environment"])
    os.chdir(place["directory"])
    home = os.environ.get("HOME", "/")
    if customised(os.environ.get("IPYTHONDIR") or os.path.join(home, ".ipython")) or wait.shadowed(home):
        os.dup2(output[0], 1)
        os.dup2(output[1], 2)
        os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", "-f", connection])
    wait.add_user_site(home)
    settle(app)
    app.start()


def settle(app):
    """Have the history, and whatever else IPython keeps, where it is without us: in the home."""
    from IPython.core.profiledir import ProfileDir
    from IPython.paths import get_ipython_dir

    shell = app.shell
    shell.ipython_dir = get_ipython_dir()
    shell.profile_dir = ProfileDir.create_profile_dir_by_name(shell.ipython_dir, "default")
    shell.history_manager.end_session()
    shell.init_history()


def customised(directory):
    """Tell whether IPython reads anything of the person's own when it starts."""
    profile = os.path.join(directory, "profile_default")
    for path in (os.path.join(directory, "extensions"), os.path.join(profile, "startup"), profile):
        try:
            names = os.listdir(path)
        except OSError:
            continue
        if any(name.endswith((".py", ".ipy", ".json")) for name in names):
            return True
    return False


def _line(fd):
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(fd, 64 * 1024)
        if not part:
            return b""
        line += part
    return line


if __name__ == "__main__":
    main()
