"""The processes in which mirrors are made, apart from training: nothing that wandb does there can touch it.

A command has one server. It imports wandb once, while the command imports torch, and forks a process for each run
that is mirrored. What leads to it is a socket that it is handed, and each run's own socket is handed on through that
one: no name on a disk, and the kernel tells either end that the other is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness.tracking.media import Samples
from harness.tracking.mirror import Mode, kill_service, open_mirror
from harness.tracking.readback import difference
from harness.tracking.record import Record, Wandb
from harness.tracking.store import RunFolder

PRELOADED = ("wandb", "wandb.sdk.launch.inputs.internal", "requests", "numpy", "PIL.PngImagePlugin")
"""What a run's process would import else; wandb's launcher is imported as a run of wandb's begins."""

GRACE = 5.0  # seconds that runs may still take to close their files once the command has ended


@dataclass(frozen=True)
class Opening:
    """The first that is sent: the arguments of `open_mirror`, and where relative paths begin."""

    mode: Mode
    folder: Path
    record: Record
    rows: Sequence[Mapping[str, Any]]
    labels: Mapping[str, Any]
    finish_seconds: float
    environment: Mapping[str, str]
    directory: str


@dataclass(frozen=True)
class Finishing:
    """The last, after the rows: the arguments of `Mirror.finish`."""

    record: Record
    samples: Samples | None


@dataclass(frozen=True)
class Finished:
    """The last that is answered: what the record is to say, and why the file is not what the journal says."""

    told: Wandb
    wrong: str | None
    """In a few words; None where it is."""


def failed(why: str) -> Finished:
    """There is no mirror."""
    return Finished(Wandb(id=None, state=f"failed: {why}"), why)


# --- in the process that trains ----------------------------------------------------------------


class Server:
    """The server, as long as this object is there and the process lives."""

    def __init__(self) -> None:
        """OSError where no process can be started."""
        package_root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as undo:
            undo.enter_context(ours)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"],
                env=os.environ | {"PYTHONPATH": path},
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C at the terminal is for those that train
            )
            undo.pop_all()
        self._socket = ours

    def connect(self) -> Connection:
        """The way to a new process for one run; OSError where the server is gone."""
        ours, theirs = Pipe()
        try:
            socket.send_fds(self._socket, [b"\0"], [theirs.fileno()])
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    def stop(self) -> None:
        """Let it end; it waits for no one but runs that are closing their files."""
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE + 1)


_server: Server | None = None
_inherited: Connection | None = None


def start() -> None:
    """Start the server beforehand, without waiting for it; where that can't be, `connect` says so."""
    global _server
    if _server is None:
        with contextlib.suppress(OSError):
            _server = Server()
            atexit.register(stop)


def stop() -> None:
    """End the server of this process, if there is one."""
    global _server
    if _server is not None:
        ended, _server = _server, None
        ended.stop()


def inherit(connection: Connection | None) -> None:
    """In a process that was started for one run: the connection that its parent has made for it."""
    global _inherited
    _inherited = connection


def connect() -> Connection:
    """The way to a process that keeps one mirror; OSError where none can be had."""
    global _inherited
    if _inherited is not None:
        connection, _inherited = _inherited, None
        return connection
    for _ in range(2):  # somebody may have killed the first server
        start()
        if _server is None:
            break
        try:
            return _server.connect()
        except OSError:
            stop()
    raise OSError("the process that keeps it can't be started")


# --- the server --------------------------------------------------------------------------------


def serve() -> None:
    """Fork a process for every socket that comes, until no one is left who could send one."""
    control = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal's end is for those that train, too
    for module in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()
    children: set[int] = set()
    while True:
        message, handed, _, _ = socket.recv_fds(control, 1, 1)
        children -= _ended(children)
        if not message:
            break
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                control.close()
                _keep(Connection(handed[0]))
            os._exit(0)
        os.close(handed[0])
        children.add(child)
    _see_off(children)
    os._exit(0)


def _see_off(children: set[int]) -> None:
    deadline = time.monotonic() + GRACE
    while (children := children - _ended(children)) and time.monotonic() < deadline:
        time.sleep(0.01)
    for child in children:  # stopped, or frozen
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def _ended(children: set[int]) -> set[int]:
    return {child for child in children if os.waitpid(child, os.WNOHANG) != (0, 0)}


# --- one run's process -------------------------------------------------------------------------


def _keep(connection: Connection) -> None:
    """Make one mirror of what is sent, and tell its state whenever it changes; at last what the record is to say."""
    threading.Thread(target=_die_with, args=(connection.fileno(),), daemon=True).start()
    opening: Opening = connection.recv()
    os.environ.clear()
    os.environ.update(opening.environment)
    with contextlib.suppress(OSError):
        os.chdir(opening.directory)
    folder = RunFolder(opening.folder)
    mirror = open_mirror(
        opening.mode,
        folder,
        opening.record,
        opening.rows,
        finish_seconds=opening.finish_seconds,
        **opening.labels,
    )
    told = None
    while True:
        if mirror.state != told:
            connection.send(told := mirror.state)
        item = connection.recv()
        if isinstance(item, Finishing):
            break
        mirror.log(item)
    last = mirror.finish(item.record, item.samples)
    if last.state.startswith("failed: "):
        connection.send(failed(last.state.removeprefix("failed: ")))
    else:
        connection.send(Finished(last, difference(folder, item.record)))


def _die_with(other_end: int) -> None:
    """When the other end is closed, its process is dead or waits no more: the run's files are no longer ours."""
    hung_up = select.poll()
    hung_up.register(other_end, getattr(select, "POLLRDHUP", 0))
    hung_up.poll()
    kill_service()
    os._exit(1)
