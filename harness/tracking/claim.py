"""Who trains a run: a claim that every process on every host of a shared folder sees, and that dies with its process.

<root>/.claims/<run id>/<holder>   an empty file; its name says who has the run, and ends with a count of heartbeats

All of it is done by renaming, which a network file system does on its server, by name, whole or not at all:

- to claim is to rename a folder with the holder in it to <run id>, which fails where such a folder is not empty;
- a heartbeat is to rename the holder to the next count, which fails once somebody has taken the run over;
- to take over is to rename the holder, by the very name that was seen not to change, to one's own: it fails if there
  has been a heartbeat, a release or another taker since.

So there is one holder whatever processes do at once, no lock is asked for, and no two clocks are compared: who waits
counts its own time while the name stays the same. Nothing is written into files, so a full disk can't tear a claim.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import platform
import secrets
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, unquote

from harness.errors import RunLost, StorageError
from harness.tracking.atomic import storage_error

INTERVAL = 5.0  # seconds between heartbeats
STALE_AFTER = 60.0  # seconds of watching without a heartbeat after which a holder counts as dead
SILENT_AFTER = 600.0  # seconds without a heartbeat that people are told of: the clocks of two hosts may differ by some
PARTS = 6  # of a holder's name
LONGEST_HOST = 60  # bytes of its name: the whole has to fit into the 255 of a file name


# --- who ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Holder:
    """Who has a run, as the name in its claim tells; a name that tells nothing is that of an unknown one."""

    name: str
    host: str = "an unknown host"
    machine: str = ""
    pid: int = 0
    started: str = ""
    nonce: str = ""

    @classmethod
    def parse(cls, name: str) -> Holder:
        parts = name.split("~")
        if len(parts) != PARTS or not (parts[2].isdigit() and parts[5].isdigit()):
            return cls(name)
        return cls(name, unquote(parts[0]), parts[1], int(parts[2]), parts[3], parts[4])

    @property
    def is_here(self) -> bool:
        """Whether it is of this machine, so that its process can be looked at."""
        return self.machine == machine()

    @property
    def is_gone(self) -> bool:
        """Whether its process is known to have ended; of another machine's that is never known."""
        return self.is_here and _start_of(self.pid) not in (self.started, None)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" if self.nonce else self.host


@functools.cache
def machine() -> str:
    """Short digest of what processes share that see each other's ids: the host, its boot, the namespace of ids."""
    parts = [platform.node()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        parts.append(str(uuid.getnode()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


GONE = "gone"


def _start_of(pid: int) -> str | None:
    """When a process of this machine began, in ticks since the boot; GONE where there is none (or only its exit code
    is left), None where the machine does not tell.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return GONE
    except OSError:
        pass  # another user's
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return GONE if fields[0] in (b"Z", b"X") else fields[19].decode()


# --- looking -----------------------------------------------------------------------------------


def look(path: Path) -> Holder | None:
    """Who holds the claim at `path`; None for nobody. Changes nothing."""
    try:
        names = os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # of another user, who keeps it to themselves
        return Holder("")
    holders = [Holder.parse(name) for name in sorted(names)]
    return next((holder for holder in holders if holder.nonce), holders[0] if holders else None)


def silence(path: Path) -> float | None:
    """Seconds since the last heartbeat at `path`, where they are many; None where they are not, or nobody holds it.

    For people to read: it compares this host's clock with that of the file system, and a claim's fate hangs on neither.
    """
    try:
        seconds = time.time() - path.stat().st_mtime  # a heartbeat renames what is in it
    except OSError:
        return None
    return seconds if seconds > SILENT_AFTER else None


class Watch:
    """Tells whether a claim still has its heartbeat, from looking at it again and again.

    The time between two looks counts up to a fifth of `stale_after` at most: a watcher that was suspended itself,
    perhaps together with the holder, has not been watching.
    """

    def __init__(self, stale_after: float | None = None):
        self.stale_after = STALE_AFTER if stale_after is None else stale_after
        self.beating = False
        """Whether a heartbeat of the present holder was seen."""
        self._seen: Holder | None = None
        self._still = self._at = 0.0

    def is_stale(self, holder: Holder) -> bool:
        """Whether `holder`, as just looked up, has shown no heartbeat for long enough."""
        now = time.monotonic()
        if holder == self._seen:
            self._still += min(now - self._at, self.stale_after / 5)
        else:
            self.beating = self._seen is not None and holder.nonce == self._seen.nonce != ""
            self._seen, self._still = holder, 0.0
        self._at = now
        return self._still >= self.stale_after


def evict(path: Path, holder: Holder) -> bool:
    """Free the claim at `path` of a dead `holder`; False where it has beaten, or changed hands, since it was looked up.

    Raises:
        StorageError: the folder can't be written.
    """
    claim = Claim(path)
    if claim.take_over(holder):
        claim.release()
        return True
    return False


def sweep(folder: Path) -> None:
    """Free what dead processes of this machine have claimed in `folder`, or were about to.

    Who runs a run again succeeds its dead holder, but a run that was killed after its last word is never run again.
    """
    for path in folder.glob("*"):
        with contextlib.suppress(OSError, StorageError):  # of another user's, for example: nothing depends on it
            if path.name.startswith("."):
                _drop_prepared(path)
            elif (holder := look(path)) and holder.is_gone:
                evict(path, holder)


def _drop_prepared(path: Path) -> None:
    """What `Claim.put_up` makes, where its process died before it was renamed."""
    if Holder.parse(f"{path.name[1:]}~0").is_gone:
        for name in os.listdir(path):
            (path / name).unlink()
        path.rmdir()


# --- holding -----------------------------------------------------------------------------------


class Held(Exception):
    """Somebody else has the claim."""

    def __init__(self, holder: Holder):
        super().__init__(str(holder))
        self.holder = holder


class Claim:
    """This process's claim; a context manager, which beats inside its block and releases at its end.

    Args:
        path: the claim's place, which no other thing may have.
        interval: seconds between heartbeats; None: INTERVAL.
    """

    def __init__(self, path: Path, interval: float | None = None):
        self.path, self.interval = path, INTERVAL if interval is None else interval
        self.lost = False
        """Whether somebody else was seen to have taken the run; never False again after that."""
        self._pid = os.getpid()
        host = quote(platform.node() or "unknown", safe="").replace("~", "%7E")[:LONGEST_HOST]
        self._prefix = "~".join([host, machine(), str(self._pid), _start_of(self._pid) or "", secrets.token_hex(4)])
        self._count = 0
        self._one_at_a_time = threading.Lock()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)

    @property
    def name(self) -> str:
        return f"{self._prefix}~{self._count}"

    def put_up(self) -> bool:
        """Claim what nobody holds; False where somebody does."""
        prepared = self.path.with_name(f".{self._prefix}")
        try:
            prepared.mkdir(parents=True)
            (prepared / self.name).touch()
            with contextlib.suppress(OSError):
                self.path.rmdir()  # only where it is empty, left by a process that died while it released
            return _rename(prepared, self.path, self.path / self.name)
        except OSError as error:
            raise storage_error(self.path, error) from error
        finally:
            with contextlib.suppress(OSError):
                (prepared / self.name).unlink()
            with contextlib.suppress(OSError):
                prepared.rmdir()

    def take_over(self, holder: Holder) -> bool:
        """Claim what a dead `holder` has; False where it has beaten, or changed hands, since it was looked up."""
        try:
            return _rename(self.path / holder.name, self.path / self.name)
        except OSError as error:
            raise storage_error(self.path, error) from error

    def check(self) -> None:
        """A heartbeat, and proof that the run is still this process's: to be asked before writing anything of it.

        Raises:
            RunLost: another process has taken the run, because this one was suspended for too long.
            StorageError: the folder can't be written.
        """
        with self._one_at_a_time:
            following = f"{self._prefix}~{self._count + 1}"
            try:
                self.lost = self.lost or not _rename(self.path / self.name, self.path / following)
            except OSError as error:
                raise storage_error(self.path, error) from error
            if self.lost:
                raise self.loss()
            self._count += 1

    def loss(self) -> RunLost:
        """What to raise once the claim is lost."""
        taker = look(self.path)
        who = f"{taker} has taken it over" if taker else "its claim is gone"
        what = f"this process showed no sign of life for too long and does not have the run any more: {who}"
        return RunLost(f"{what}; nothing is lost, and the same command goes on once the run is free")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def release(self) -> None:
        """Give the claim back, and end its heartbeat; a claim that was lost stays its taker's."""
        if os.getpid() != self._pid:
            return  # a process forked from the holder
        self._released.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(OSError):
            (self.path / self.name).unlink()
            self.path.rmdir()

    def _keep_beating(self) -> None:
        while not self._released.wait(self.interval):
            try:
                self.check()
            except RunLost:
                return
            except StorageError:
                continue  # for the run's own writes to tell of


def acquire(
    path: Path,
    *,
    patient: bool = False,
    tell: Callable[[Holder], None] = lambda holder: None,
    wanted: Callable[[], bool] = lambda: True,
    interval: float | None = None,
    stale_after: float | None = None,
) -> Claim:
    """A claim to be entered; a dead holder of this machine is succeeded at once.

    Args:
        path: the claim's place.
        patient: watch another machine's claim until a heartbeat is seen or it counts as dead.
        tell: called once with the holder that is watched.
        wanted: asked while watching; once it says no, the claim counts as held.
        interval, stale_after: seconds; None: INTERVAL, STALE_AFTER.

    Raises:
        Held: somebody has it.
        StorageError: the folder can't be written.
    """
    claim, watch, told = Claim(path, interval), Watch(stale_after), False
    while True:
        holder = look(path)
        if holder is None:
            if claim.put_up():
                return claim
            time.sleep(0.02)  # somebody was faster, or a network folder is not told yet
        elif holder.is_gone or watch.is_stale(holder):
            if claim.take_over(holder):
                return claim
        elif not patient or holder.is_here or watch.beating or not wanted():
            raise Held(holder)
        else:
            if not told:
                tell(holder)
                told = True
            time.sleep(watch.stale_after / 100)


def _rename(old: Path, new: Path, proof: Path | None = None) -> bool:
    """Whether `old` became `new`; False where `old` is gone, or `new` is a folder that is not empty.

    A network file system may ask its server twice, and tell of the second time: so an error is believed only where
    `proof`, by default `new`, is not there. OSError for any other refusal.
    """
    try:
        os.rename(old, new)
    except OSError as error:
        if os.path.lexists(proof or new):
            return True
        if error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ESTALE):
            return False
        raise
    return True
