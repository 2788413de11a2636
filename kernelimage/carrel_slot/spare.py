"""Kernels in reserve: the first that are wanted need not be started.

One waits before the slot is claimed. The hub takes it to see that a kernel computes; one more is made
then, for the person.

Jupyter's own place for this is a kernel provisioner (jupyter_client.provisioning): ours hands out the
reserve where it fits, and is the local one for every other kernel.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import uuid
from importlib.metadata import EntryPoint

from jupyter_client.connect import write_connection_file
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

NAME = "carrel-spare"
MADE_LATER = 1  # how many are made in place of those that were handed out

_reserve = []
_later = threading.Semaphore(MADE_LATER)


class Reserve:
    """A kernel that waits; see ``kernel``."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="carrel-kernel-")
        path = os.path.join(self.directory, "kernel.json")
        # As the image's configuration has it: a port would be open to all that runs in the container.
        self.connection, self.info = write_connection_file(path, transport="ipc", ip=path + "-ipc", key=uuid.uuid4().hex.encode())
        told, tell = os.pipe()
        environ = {**os.environ, "JPY_PARENT_PID": str(os.getpid()), "IPYTHONDIR": os.path.join(self.directory, "ipython")}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "carrel_slot.kernel", self.connection, str(tell)],
            stdin=subprocess.PIPE, env=environ, cwd="/", pass_fds=(tell,), start_new_session=True,
        )
        os.close(tell)
        self.told = told

    def ready(self):
        """Wait until it is, and tell whether it is; once."""
        with os.fdopen(self.told, "rb") as told:
            return told.readline() == b"ready\n"

    def place(self, environment, directory):
        """Have it be somebody's; False when it is gone."""
        with contextlib.suppress(OSError, ValueError):
            if self.process.poll() is None:
                self.process.stdin.write(json.dumps({"environment": environment, "directory": os.fspath(directory)}).encode() + b"\n")
                self.process.stdin.close()
                return True
        return False


def prepare():
    """Start the reserve; without one, kernels are started as ever."""
    with contextlib.suppress(Exception):
        reserve = Reserve()
        if reserve.ready():
            _reserve.append(reserve)


def make_another():
    """Start one more, while the one that was handed out is at work, if that is still to be done."""
    if _later.acquire(blocking=False):
        threading.Thread(target=prepare, daemon=True).start()


def discard():
    """End the reserve."""
    while _reserve:
        process = _reserve.pop().process
        process.kill()
        process.wait()


def arguments():
    """What Jupyter is told so that it asks for the reserve."""
    if not _reserve:
        return []
    KernelProvisionerFactory.provisioners[NAME] = EntryPoint(NAME, "carrel_slot.spare:Provisioner", KernelProvisionerFactory.GROUP_NAME)
    return [f"--KernelProvisionerFactory.default_provisioner_name={NAME}"]


class Provisioner(LocalProvisioner):
    """Hands out the reserve for the image's own Python kernel."""

    reserve = None

    async def pre_launch(self, **kwargs):
        if _reserve and self._fits():
            self.reserve = _reserve.pop()
            self.parent.load_connection_info(dict(self.reserve.info))
        return await super().pre_launch(**kwargs)

    def _fits(self):
        spec, manager = self.kernel_spec, self.parent
        own = spec.argv[1:] in (["-m", "ipykernel_launcher", "-f", "{connection_file}"], ["-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"])
        return own and os.path.realpath(spec.resource_dir).startswith(os.path.realpath(sys.prefix)) and not spec.env and manager is not None and manager.transport == "ipc"

    async def launch_kernel(self, cmd, **kwargs):
        reserve, self.reserve = self.reserve, None
        directory = kwargs.get("cwd") or os.getcwd()
        if reserve is None or not reserve.place(kwargs.get("env") or dict(os.environ), directory):
            return await super().launch_kernel(cmd, **kwargs)
        make_another()
        self.process, self.pid, self.pgid, self.cwd = reserve.process, reserve.process.pid, reserve.process.pid, directory
        return self.connection_info
