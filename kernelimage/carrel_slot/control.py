"""The talk between a slot and its host.

The host listens on a unix stream socket, and the slot connects: so host code never opens anything in
a tree that a guest can write. A message is one JSON object on a line of its own. The slot says
``ready`` first; the host answers with one ``claim``, to which one descriptor is attached (SCM_RIGHTS,
unix(7)): the socket to listen on; the slot says ``claimed``, and both sides close.
"""

import array
import contextlib
import json
import os
import socket
import time

PROTOCOL = 1
LONGEST = 256 * 1024  # bytes of a message


class Fault(Exception):
    """What the host said can't be used; the text tells what, and never what was in it."""


class Closed(Exception):
    """The host went away before it claimed the slot."""


def connect(path, pause=0.05, longest=2.0):
    """A connection to the host. One that is not there, as when the hub starts anew, is waited for."""
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
            return sock
        except OSError:
            sock.close()
            time.sleep(pause)
            pause = min(2 * pause, longest)


def say(sock, kind, **fields):
    """Send a message; Closed when the host is gone."""
    try:
        sock.sendall(json.dumps({"type": kind, "protocol": PROTOCOL, **fields}).encode() + b"\n")
    except OSError as e:
        raise Closed from e


def hear_claim(sock):
    """The environment that a claim brings, and the descriptor of the socket to listen on. Closed when
    the host goes away before it sends anything; Fault when what it sends is no claim."""
    line, descriptors = _hear(sock)
    try:
        environment = _claim(line)
        if len(descriptors) != 1:
            raise Fault(f"a claim came with {len(descriptors)} descriptors, not one")
        if not _listens(descriptors[0]):
            raise Fault("the claim's descriptor is no socket that listens")
        return environment, descriptors.pop()
    finally:
        for fd in descriptors:
            os.close(fd)


def _hear(sock):
    line, descriptors = b"", []
    while not line.endswith(b"\n"):
        try:
            part, ancillary, flags, _ = sock.recvmsg(64 * 1024, socket.CMSG_SPACE(4 * array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC)
        except OSError:
            part, ancillary, flags = b"", [], 0
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                descriptors.extend(fds)
        line += part
        fault = None
        if not part:
            fault = Fault("the claim ended in the middle") if line else Closed()
        elif flags & socket.MSG_CTRUNC or len(line) > LONGEST:
            fault = Fault("a message is longer than it may be")
        if fault:
            for fd in descriptors:
                os.close(fd)
            raise fault
    return line, descriptors


def _claim(line):
    try:
        message = json.loads(line)
    except ValueError:
        raise Fault("what came is not JSON") from None
    if not isinstance(message, dict) or message.get("type") != "claim" or message.get("protocol") != PROTOCOL:
        raise Fault(f"what came is no claim of protocol {PROTOCOL}")
    environment = message.get("environment")
    if not isinstance(environment, dict) or not all(isinstance(v, str) and "\0" not in k + v and "=" not in k for k, v in environment.items()):
        raise Fault("the claim's environment is not one")
    return environment


def _listens(fd):
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
        return sock.family == socket.AF_UNIX and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    return False
