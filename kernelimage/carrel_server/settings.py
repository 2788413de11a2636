"""Reads what the hub tells a server, and says what Jupyter must be told."""

import os
import pathlib
import re
from dataclasses import dataclass
from urllib.parse import urlsplit


LISTEN = "CARREL_LISTEN_FD"  # the descriptor of a socket that listens already; see carrel_slot


class Fault(Exception):
    """A setting that can't be used; the text names it."""


@dataclass(frozen=True)
class Settings:
    """What the environment says."""

    token: str
    base_url: str
    port: int
    default_url: str
    hub_url: str
    origin: str
    safe_start: bool
    home: str
    listen: int | None  # descriptor


def read(environ):
    """Make Settings of an environment; every value is checked, because a wrong one shows late and oddly."""
    home = environ.get("HOME") or "/home/jovyan"
    token = environ.get("CARREL_TOKEN") or environ.get("JUPYTER_TOKEN") or ""
    if not token:
        raise Fault("CARREL_TOKEN is not set: a server without a token would be anybody's")
    port = environ.get("CARREL_PORT") or "8888"
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise Fault(f"CARREL_PORT is {port!r}: it must be a number from 1 to 65535")
    base_url = environ.get("CARREL_BASE_URL") or "/"
    if not re.fullmatch(r"/([^\s?#\\]*/)?", base_url) or base_url.startswith("//"):
        raise Fault(f"CARREL_BASE_URL is {base_url!r}: it must begin and end with a slash")
    default_url = environ.get("CARREL_DEFAULT_URL") or "/lab"
    if not re.fullmatch(r"/[^\s\\]*", default_url) or default_url.startswith("//"):
        raise Fault(f"CARREL_DEFAULT_URL is {default_url!r}: it must be a path that begins with a slash")
    listen = environ.get(LISTEN) or None
    if listen and not re.fullmatch(r"[0-9]{1,9}", listen):
        raise Fault(f"{LISTEN} is {listen!r}: it must be the number of a descriptor")
    return Settings(
        token=token,
        base_url=base_url,
        port=int(port),
        default_url=default_url,
        hub_url=_web_address(environ, "CARREL_HUB_URL"),
        origin=_origin(environ),
        safe_start=(environ.get("CARREL_SAFE_START") or "").lower() in ("1", "true", "yes"),
        home=home,
        listen=int(listen) if listen else None,
    )


def _web_address(environ, name):
    value = environ.get(name) or ""
    if value and (not re.match(r"https?://[^/]", value) or re.search(r"\s", value)):
        raise Fault(f"{name} is {value!r}: it must begin with http:// or https://")
    return value


def _origin(environ):
    value = _web_address(environ, "CARREL_ORIGIN").rstrip("/")
    if value and urlsplit(value)._replace(scheme="", netloc="").geturl():
        raise Fault(f"CARREL_ORIGIN is {value!r}: an origin has no path")
    return value


def arguments(settings, private):
    """Jupyter's arguments; ``private`` is a directory of this start alone. They go in by a call and never through argv, where every process of the
    machine could read the token; they win over what a configuration file says."""
    shell = ["/bin/bash", "--noprofile", "--norc"] if settings.safe_start else ["/bin/bash"]
    where = ["--ServerApp.ip=0.0.0.0", f"--ServerApp.port={settings.port}", "--ServerApp.port_retries=0"]
    if settings.listen is not None:  # no port then; it wants a socket of its own beside the one it is given
        where = [f"--ServerApp.sock={os.path.join(private, 'server.sock')}"]
    args = [
        *where,
        f"--ServerApp.base_url={settings.base_url}",
        f"--ServerApp.default_url={settings.default_url}",
        f"--LabApp.default_url={settings.default_url}",
        f"--ServerApp.root_dir={settings.home}",
        "--ServerApp.allow_remote_access=True",
        "--ServerApp.allow_unauthenticated_access=False",
        "--ServerApp.open_browser=False",
        "--ServerApp.quit_button=False",
        f"--ServerApp.terminado_settings={ {'shell_command': shell} !r}",
        f"--IdentityProvider.token={settings.token}",
    ]
    if settings.origin:
        args.append(f"--ServerApp.allow_origin={settings.origin}")
    return args


def environment(settings, environ, private):
    """The environment of the server and its kernels, from the one it was started with. ``private``
    is a directory of this start alone, outside of the home: what runs is described there, so that a
    full home hinders no start and no key of a kernel is left behind."""
    env = {k: v for k, v in environ.items() if k not in ("CARREL_TOKEN", "JUPYTER_TOKEN", LISTEN)}
    env["JUPYTER_RUNTIME_DIR"] = os.path.join(private, "runtime")
    if not settings.safe_start:
        local = os.path.join(settings.home, ".local", "bin")
        env["PATH"] = os.pathsep.join([local, environ.get("PATH") or os.defpath])
        return env
    for name in ("JUPYTER_CONFIG_PATH", "JUPYTER_PATH", "PYTHONPATH", "PYTHONSTARTUP", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"):
        env.pop(name, None)
    env["JUPYTER_CONFIG_DIR"] = os.path.join(private, "config")
    env["JUPYTER_DATA_DIR"] = os.path.join(private, "data")
    env["IPYTHONDIR"] = os.path.join(private, "ipython")
    env["MPLCONFIGDIR"] = os.path.join(private, "matplotlib")
    env["PYTHONNOUSERSITE"] = "1"
    return env


def packages_left_behind(home, version):
    """The Python version, as "3.10", that packages in the home were installed for, when none were
    installed for this one; None when nothing was left behind."""
    found = {}
    for site in pathlib.Path(home, ".local", "lib").glob("python3.*/site-packages"):
        try:
            found[site.parent.name.removeprefix("python")] = any(site.iterdir())
        except OSError:
            continue
    here = f"{version[0]}.{version[1]}"
    others = [v for v, full in found.items() if full and v != here and re.fullmatch(r"3\.[0-9]+", v)]
    if found.get(here) or not others:
        return None
    return max(others, key=lambda v: int(v.split(".")[1]))
