"""Opens a notebook that a link names: in a copy of the reader's own, with what lies beside it."""

import os
import shutil
from urllib.parse import quote

from jupyter_server.base.handlers import JupyterHandler
from tornado import web

FILES = "CARREL_FILES"  # the directory that links name files of; the operator's, and read only


def copy(root, home, path):
    """Copy the folder of the file ``path``, which is below ``root``, to the same place below ``home``; what
    is there already is the reader's, and stays. False where there is no such file."""
    root, path = os.path.realpath(root), os.path.normpath(path)
    real = os.path.realpath(os.path.join(root, path))
    if os.path.isabs(path) or path.startswith("..") or os.path.commonpath([root, real]) != root or not os.path.isfile(real):
        return False
    folder = os.path.dirname(path)
    source = os.path.dirname(os.path.join(root, path))
    for directory, _, names in os.walk(source):
        target = os.path.join(home, folder, os.path.relpath(directory, source))
        os.makedirs(target, exist_ok=True)
        for name in names:
            to = os.path.join(target, name)
            if not os.path.lexists(to) and os.path.isfile(os.path.join(directory, name)):
                shutil.copyfile(os.path.join(directory, name), to)
    return True


class OpenHandler(JupyterHandler):
    """GET <base_url>carrel/open?path=… leads to the notebook."""

    def initialize(self, root, home):
        self.root, self.home = root, home

    @web.authenticated
    def get(self):
        path = self.get_query_argument("path", "")
        try:
            found = copy(self.root, self.home, path)
        except (OSError, ValueError) as e:
            raise web.HTTPError(507, "the files of this link do not fit in your notebook") from e
        if not found:
            raise web.HTTPError(404, "there is no such file for this link")
        self.redirect(f"{self.base_url}lab/tree/{quote(os.path.normpath(path))}")


def handlers(base_url, environ, home):
    """What answers links, where there are files for them."""
    root = environ.get(FILES) or ""
    return [(f"{base_url}carrel/open", OpenHandler, {"root": root, "home": home})] if root else []
