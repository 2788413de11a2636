"""What a slot has ready before it is claimed: the modules that a server imports until it answers.

Which these are is found out when the image is built, by a server that is made and never started
(``python3 -m carrel_slot.warm FILE`` writes them); a slot imports what that file says.
"""

import contextlib
import importlib
import os
import pathlib
import sys
import tempfile

LIST = pathlib.Path(__file__).with_name("modules.txt")


def modules(path=LIST):
    """The names of the modules to import, in order."""
    try:
        return path.read_text().split()
    except OSError:
        return ["jupyterlab.labapp"]


def everything(names=None):
    """Import what a server imports. A module that fails is the server's to complain of."""
    for name in modules() if names is None else names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def versions():
    """What the host may want to know of this slot."""
    from importlib.metadata import version

    return {"python": "%d.%d.%d" % sys.version_info[:3], "jupyter_server": version("jupyter_server"), "jupyterlab": version("jupyterlab")}


def record(path):
    """Write down what making a server imports."""
    from carrel_server import launch, settings

    before = set(sys.modules)
    with tempfile.TemporaryDirectory() as home:
        environ = {**os.environ, "HOME": home, "CARREL_TOKEN": "none", "JUPYTER_RUNTIME_DIR": os.path.join(home, "runtime")}
        os.environ.update(environ)
        launch.defer("rfc3987_syntax", "is_valid_syntax")
        launch.initialize(settings.read(environ), home)
    # A stand-in has no spec, and what has none can't be imported by its name.
    names = [n for n, m in sys.modules.items() if n not in before and getattr(m, "__spec__", None) is not None and m.__spec__.name == n]
    pathlib.Path(path).write_text("\n".join(names) + "\n")


if __name__ == "__main__":
    record(sys.argv.pop())  # what is left are JupyterLab's arguments: none
