"""The command ``carrel-slot``: wait for a claim, then be a server."""

import gc
import os
import site
import sys

from carrel_server import launch
from carrel_server import settings as config

from . import control, spare, warm

CONTROL = "/run/carrel/control.sock"
SPARE_KERNEL = "CARREL_SPARE_KERNEL"  # set: a kernel waits too


def main(path=CONTROL):
    """Wait in / as nobody in particular; the arguments are JupyterLab's, once there is a claim."""
    gc.disable()
    os.chdir("/")  # never in the home: a process that stands in it keeps what was there before the mount
    launch.defer("rfc3987_syntax", "is_valid_syntax")
    warm.everything()
    if os.environ.pop(SPARE_KERNEL, ""):
        spare.prepare()
    gc.freeze()
    try:
        environment, listener = await_claim(path)
        environ = {**os.environ, **environment}
        settings = config.read({**environ, config.LISTEN: str(listener)})
    except (control.Fault, config.Fault) as fault:
        sys.exit(f"carrel-slot: {fault}")
    become(settings, environ, listener)


def await_claim(path):
    """The claim's environment and descriptor. Until there is one, a host that went away is looked for again."""
    while True:
        sock = control.connect(path)
        try:
            control.say(sock, "ready", versions=warm.versions(), pid=os.getpid())
            claim = control.hear_claim(sock)
            control.say(sock, "claimed")
            return claim
        except control.Closed:
            continue
        finally:
            sock.close()


def become(settings, environ, listener):
    """Be the server. What was decided by the home when Python started is decided anew, now that the
    home is there; a home that brings its own version of what is imported already gets a new Python."""
    if settings.safe_start or shadowed(settings.home):
        spare.discard()
        os.set_inheritable(listener, True)
        environ = {**environ, config.LISTEN: str(listener)}
        os.execve(sys.executable, [sys.executable, "-P", "-c", "from carrel_server.launch import main; main()", *sys.argv[1:]], environ)
    add_user_site(settings.home)
    launch.serve(settings, environ, spare.arguments())


def user_site(home):
    """Where the person's own packages for this Python are."""
    return os.path.join(home, ".local", "lib", "python%d.%d" % sys.version_info[:2], "site-packages")


def shadowed(home):
    """Tell whether the home has another version of something that is imported already."""
    try:
        names = {name.partition(".")[0] for name in os.listdir(user_site(home)) if not name.endswith((".dist-info", ".egg-info"))}
    except OSError:
        return False
    imported = {name.partition(".")[0] for name in list(sys.modules)}
    return bool(names & imported - sys.stdlib_module_names)


def add_user_site(home):
    """Put the person's packages before the image's, as Python does where they are there at its start."""
    path = user_site(home)
    if sys.flags.no_user_site or not os.path.isdir(path):
        return
    known = len(sys.path)
    site.addsitedir(path)
    added = sys.path[known:]
    del sys.path[known:]
    at = next((i for i, p in enumerate(sys.path) if p.endswith(("site-packages", "dist-packages"))), len(sys.path))
    sys.path[at:at] = added
    site.USER_SITE, site.USER_BASE, site.ENABLE_USER_SITE = path, os.path.join(home, ".local"), True
