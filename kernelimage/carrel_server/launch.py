"""Starts JupyterLab in this process: importing it costs most of a start, so nothing is imported twice."""

import contextlib
import gc
import importlib
import os
import socket
import sys
import tempfile
import types

from . import files
from . import settings as config


def main():
    """The command ``carrel-server``; arguments are JupyterLab's, and ours win over them."""
    gc.disable()  # what is imported stays: looking through it again and again is a tenth of the start
    try:
        settings = config.read(os.environ)
    except config.Fault as fault:
        sys.exit(f"carrel-server: {fault}")
    # The home must not shadow a module, and a configuration file in the current directory is read.
    os.chdir("/")
    if settings.safe_start and not sys.flags.no_user_site:
        # Only a new interpreter forgets the packages in the home. The token is still in its environment.
        os.execv(sys.executable, [sys.executable, "-P", "-s", "-c", "from carrel_server.launch import main; main()", *sys.argv[1:]])
    defer("rfc3987_syntax", "is_valid_syntax")
    serve(settings, os.environ)


def serve(settings, environ, more=()):
    """Be the server that the settings describe, until it is ended; more are arguments beside theirs."""
    private = tempfile.mkdtemp(prefix="carrel-")
    environ = config.environment(settings, environ, private)
    os.environ.clear()
    os.environ.update(environ)
    app = initialize(settings, private, more)
    if settings.listen is not None:
        listener = socket.socket(fileno=settings.listen)
        listener.set_inheritable(False)  # it may have come by an exec
        listener.setblocking(False)
        app.io_loop.add_callback(app.http_server.add_socket, listener)
    gc.enable()
    gc.freeze()
    with contextlib.suppress(OSError):
        os.chdir(settings.home)  # all is imported and read: terminals begin where this process is
    app.start()


def initialize(settings, private, more=()):
    """Build the application; it answers once its loop runs. ``private`` is a directory of this start alone."""
    from jupyterlab.labapp import LabApp

    app = LabApp.initialize_server(argv=sys.argv[1:] + config.arguments(settings, private) + list(more))
    if not files.are_of_image(app.extension_manager.extension_points["lab"].app):
        # The proxy serves the image's files in our place, unless it hears this in an answer.
        app.web_app.settings["headers"] = {**app.web_app.settings.get("headers", {}), "X-Carrel-Static": "own"}
    from . import linked  # it imports the server, which is imported by now

    app.web_app.add_handlers(".*$", linked.handlers(settings.base_url, os.environ, settings.home))
    page = app.web_app.settings.setdefault("page_config_data", {})
    page["carrelHubUrl"] = settings.hub_url
    page["carrelPackagesOf"] = config.packages_left_behind(settings.home, sys.version_info) or ""
    page["carrelPython"] = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return app


def defer(module, *functions):
    """Put a stand-in for a module that is imported at the first call of one of its functions.

    rfc3987_syntax compiles a grammar when it is imported, which takes longer than all the rest of
    JupyterLab's server together, and is used to check a kind of address that no event here has.
    """
    stand_in = types.ModuleType(module)

    def deferred(name):
        def call(*args, **kwargs):
            if sys.modules.get(module) is stand_in:
                del sys.modules[module]
            return getattr(importlib.import_module(module), name)(*args, **kwargs)

        return call

    for name in functions:
        setattr(stand_in, name, deferred(name))
    sys.modules[module] = stand_in
