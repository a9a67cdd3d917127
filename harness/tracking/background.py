"""The mirror behind a bounded queue and in a process of its own: wandb never stops training, slows it or changes it.

Afterwards the mirror's file is read back, and written anew where it is not what the journal says.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from harness.tracking import media, mirror_process
from harness.tracking.journal import Journal
from harness.tracking.media import Samples
from harness.tracking.mirror import (
    ONLINE_FINISH_SECONDS,
    ONLINE_START_SECONDS,
    Mirror,
    Mode,
    NullMirror,
    one_line,
)
from harness.tracking.mirror_process import Finished, Finishing, Opening, failed
from harness.tracking.record import Record, Wandb
from harness.tracking.store import RunFolder

WAITING_ROWS = 1000  # rows that may wait for wandb; the journal has those that find no place
PATIENCE = {"offline": 30.0, "online": ONLINE_START_SECONDS + ONLINE_FINISH_SECONDS + 30}  # seconds, to finish
LAST_PATIENCE = 5.0  # seconds the threads have to end once nothing can come any more
REBUILD_SECONDS = 60.0


def start_mirror(
    mode: Mode, folder: RunFolder, record: Record, rows: Sequence[Mapping[str, Any]] = (), **labels: Any
) -> Mirror:
    """The mirror of `record`'s run, opened while training goes on; `labels` and the rest as for `open_mirror`.

    Until wandb has answered its state is the mode that was asked for. Raises nothing.
    """
    if mode == "disabled":
        return NullMirror()
    return BackgroundMirror(mode, folder, record, rows, labels)


class BackgroundMirror:
    """A mirror in a process of its own, reached through two threads that do nothing but wait: one sends, one receives.

    `state` is as `Mirror.state`.
    """

    def __init__(
        self,
        mode: Mode,
        folder: RunFolder,
        record: Record,
        rows: Sequence[Mapping[str, Any]],
        labels: Mapping[str, Any],
    ):
        self._mode, self._folder, self._labels = mode, folder, dict(labels)
        self._waiting: queue.Queue[Opening | Mapping[str, Any] | Finishing] = queue.Queue(WAITING_ROWS)
        self._finished: Finished | None = None
        self._threads: list[threading.Thread] = []
        self.state: str = mode
        try:
            self._connection = mirror_process.connect()
        except OSError as error:
            self._finished = failed(one_line(error))
            self.state = self._finished.told.state
            return
        self._waiting.put(_opening(mode, folder, record, rows, labels))
        for work in (self._send, self._receive):
            thread = threading.Thread(target=work, name=f"wandb mirror{work.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def log(self, row: Mapping[str, Any]) -> None:
        """Hand one row over; never waits."""
        with contextlib.suppress(queue.Full):  # the end finds the row missing, and makes the file anew
            self._waiting.put_nowait(dict(row))

    def finish(self, record: Record, samples: Samples | None = None) -> Wandb:
        """Close the mirror, hold it against the journal and mend it; what the record is to say of it.

        Waits for wandb, but not forever: one that does not answer is killed.
        """
        ended = self._ended(Finishing(record.model_copy(deep=True), samples))
        if ended.wrong is None:
            return ended.told
        if ended.told.state.startswith("online"):  # the server has what it has: sending it again takes a key
            return Wandb(id=record.run_id, state=f"online, incomplete: {ended.wrong}")
        return self._rebuilt(record, ended.wrong, samples)

    def abandon(self) -> None:
        """The run's files are another's now: wandb's processes are killed, and nothing is written any more."""
        if self._threads:
            _hang_up(self._connection)
            for thread in self._threads:
                thread.join(LAST_PATIENCE)
            self._connection.close()
            self._threads = []

    # --- on the threads ---

    def _send(self) -> None:
        with contextlib.suppress(OSError):  # the other one sees that the process is gone
            while True:
                item = self._waiting.get()
                self._connection.send(item)
                if isinstance(item, Finishing):
                    return

    def _receive(self) -> None:
        try:
            while not isinstance(told := self._connection.recv(), Finished):
                self.state = told
        except (EOFError, OSError):
            told = failed("the process that kept it ended")
        self.state, self._finished = told.told.state, told

    # --- at the end ---

    def _ended(self, last: Finishing) -> Finished:
        patience = PATIENCE[self._mode]
        try:
            self._waiting.put(last, timeout=0 if self._finished else patience)
        except queue.Full:
            patience = 0.0
        for thread in self._threads[1:]:
            thread.join(patience)
        ended = self._finished or failed(f"wandb did not answer for {PATIENCE[self._mode]:.0f} s")
        self.abandon()
        self.state = ended.told.state
        return ended

    def _rebuilt(self, record: Record, wrong: str, samples: Samples | None) -> Wandb:
        try:
            rebuild(self._folder, record, self._labels, samples)
        except RebuildFailed as error:
            return Wandb(id=None, state=f"failed: {wrong}" if str(error) in wrong else f"failed: {wrong}; {error}")
        return Wandb(id=record.run_id, state=f"offline, rebuilt from the journal: {wrong}")


def _opening(
    mode: Mode, folder: RunFolder, record: Record, rows: Sequence[Mapping[str, Any]], labels: Mapping[str, Any]
) -> Opening:
    copied = record.model_copy(deep=True)
    seconds = ONLINE_FINISH_SECONDS
    return Opening(mode, folder.path, copied, list(rows), labels, seconds, dict(os.environ), os.getcwd())


def _hang_up(connection: Connection) -> None:
    """Not only close: a thread may be waiting in the middle of a message, and would keep the way open."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as way:
        way.shutdown(socket.SHUT_RDWR)


class RebuildFailed(Exception):
    """The mirror could not be written anew."""


def rebuild(
    folder: RunFolder,
    record: Record,
    labels: Mapping[str, Any],
    samples: Samples | None = None,
    seconds: float = REBUILD_SECONDS,
) -> None:
    """Write the mirror's file anew from the journal, `record` and the predictions, offline.

    Images that are not given as `samples` are taken from the mirror that is replaced, where it has them.

    Raises:
        RebuildFailed: it could not be within `seconds`, or what is there afterwards is not what the journal says.
    """
    samples = samples or media.found_samples(folder.wandb_dir)
    rows = Journal(folder.journal_path).rows()
    try:
        connection = mirror_process.connect()
    except OSError as error:
        raise RebuildFailed(one_line(error)) from error
    late = threading.Event()

    def give_up() -> None:
        late.set()
        _hang_up(connection)  # ends a send that waits, too

    limit = threading.Timer(seconds, give_up)
    limit.daemon = True
    limit.start()
    try:
        connection.send(_opening("offline", folder, record, rows, labels))
        connection.send(Finishing(record, samples))
        while not isinstance(ended := connection.recv(), Finished):
            pass
    except (EOFError, OSError):
        slow = f"writing it anew took more than {seconds:.0f} s"
        raise RebuildFailed(slow if late.is_set() else "the process that was to write it anew ended") from None
    finally:
        limit.cancel()
        limit.join()
        _hang_up(connection)
        connection.close()
    if ended.told.state != "offline":
        raise RebuildFailed(ended.told.state.removeprefix("failed: "))
    if ended.wrong:
        raise RebuildFailed(f"written anew, {ended.wrong}")
