"""The mirror on a thread of its own: a wandb that is slow, frozen or dead never stops training, slows it or changes it.

Afterwards what the mirror's file says is compared with the journal, and the file is written anew where they differ.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from harness.tracking import media, wandb_file
from harness.tracking.journal import Journal
from harness.tracking.media import Samples
from harness.tracking.mirror import (
    ONLINE_FINISH_SECONDS,
    ONLINE_START_SECONDS,
    Mirror,
    Mode,
    NullMirror,
    config,
    kill_service,
    open_mirror,
    summary,
)
from harness.tracking.record import Record, Wandb
from harness.tracking.store import RunFolder

WAITING_ROWS = 1000  # rows that may wait for wandb; the journal has those that find no place
PATIENCE = {"offline": 30.0, "online": ONLINE_START_SECONDS + ONLINE_FINISH_SECONDS + 30}  # seconds, to finish
LAST_PATIENCE = 5.0  # seconds a thread has to end once the process that it waits for was killed
REBUILD_SECONDS = 60.0


def start_mirror(
    mode: Mode, folder: RunFolder, record: Record, rows: Sequence[Mapping[str, Any]] = (), **labels: Any
) -> Mirror:
    """The mirror of `record`'s run, kept on a thread of its own; `labels` and the rest as for `open_mirror`.

    Opened before it returns, a few tenths of a second: opening changes environment variables, and a training that
    runs meanwhile and reads one in C may die of it. Raises nothing but KeyboardInterrupt.
    """
    if mode == "disabled":
        return NullMirror()
    return BackgroundMirror(mode, folder, record, rows, labels)


class BackgroundMirror:
    """A mirror behind a bounded queue."""

    def __init__(
        self,
        mode: Mode,
        folder: RunFolder,
        record: Record,
        rows: Sequence[Mapping[str, Any]],
        labels: Mapping[str, Any],
    ):
        self._mode, self._folder, self._labels = mode, folder, dict(labels)
        self._waiting: queue.Queue[Mapping[str, Any] | Record] = queue.Queue(WAITING_ROWS)
        self._mirror = open_mirror(mode, folder, record, rows, **labels)
        self._told: Wandb | None = None
        self._samples: Samples | None = None  # set before the record is handed over
        self._thread = threading.Thread(target=self._work, name="wandb mirror", daemon=True)
        self._thread.start()

    @property
    def state(self) -> str:
        """As `Mirror.state`."""
        return self._mirror.state

    def log(self, row: Mapping[str, Any]) -> None:
        """Hand one row over; never waits."""
        with contextlib.suppress(queue.Full):  # the end finds the row missing, and makes the file anew
            self._waiting.put_nowait(dict(row))

    def finish(self, record: Record, samples: Samples | None = None) -> Wandb:
        """Close the mirror, hold it against the journal and mend it; what the record is to say of it.

        Waits for wandb, but not forever: one that does not answer is killed.
        """
        self._samples = samples
        told = self._finished(record.model_copy(deep=True))
        wrong = self._wrong(told, record)
        if wrong is None:
            return told
        if told.state.startswith("online"):  # the server has what it has: sending it again takes a key
            return Wandb(id=record.run_id, state=f"online, incomplete: {wrong}")
        return self._rebuilt(record, wrong)

    # --- on the thread ---

    def _work(self) -> None:
        while not isinstance(item := self._waiting.get(), Record):
            self._mirror.log(item)
        self._told = self._mirror.finish(item, self._samples)

    # --- at the end ---

    def _finished(self, record: Record) -> Wandb:
        patience = PATIENCE[self._mode]
        try:
            self._waiting.put(record, timeout=patience)
        except queue.Full:
            patience = 0.0
        self._thread.join(patience)
        if self._thread.is_alive():
            kill_service()
            self._thread.join(LAST_PATIENCE)
            return Wandb(id=None, state=f"failed: wandb did not answer for {PATIENCE[self._mode]:.0f} s")
        return self._told or Wandb(id=None, state="failed: its thread ended with an error")

    def _wrong(self, told: Wandb, record: Record) -> str | None:
        """Why the mirror's file is not what the journal and the record say; None where it is."""
        if told.state.startswith("failed: "):
            return told.state.removeprefix("failed: ")
        return difference(self._folder, record)

    def _rebuilt(self, record: Record, wrong: str) -> Wandb:
        try:
            rebuild(self._folder, record, self._labels, self._samples)
        except RebuildFailed as error:
            return Wandb(id=None, state=f"failed: {wrong}" if str(error) in wrong else f"failed: {wrong}; {error}")
        return Wandb(id=record.run_id, state=f"offline, rebuilt from the journal: {wrong}")


def difference(folder: RunFolder, record: Record) -> str | None:
    """What the mirror's file says otherwise than journal and record, in a few words; None where they agree."""
    path = wandb_file.find(folder.wandb_dir)
    if path is None:
        return "there is no file"
    try:
        told = wandb_file.read(path)
    except (wandb_file.DamagedFile, OSError) as error:
        return f"{path.name}: {error}"
    rows = Journal(folder.journal_path).rows()
    if told.rows != rows:
        return f"{len(told.rows)} of {len(rows)} rows" if len(told.rows) != len(rows) else "its rows are others"
    if told.config != json.loads(json.dumps(config(record))):
        return "its config is another"
    if told.exit_code is None:
        return "it was not closed"
    expected = summary(record)
    if {name: told.summary.get(name) for name in expected} != expected:
        return "its summary is another"
    return media.difference(path.parent / "files", media.shown(folder, record), told.summary)


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
    In a process of its own: the wandb of this one may be frozen or half dead.

    Raises:
        RebuildFailed: it could not be, or what is there afterwards is not what the journal says.
    """
    samples = samples or media.found_samples(folder.wandb_dir)
    given = {
        "folder": str(folder.path),
        "record": record.model_dump(mode="json"),
        "labels": dict(labels),
        "samples": samples and samples.to_json(),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "harness.tracking.background"],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise RebuildFailed(f"writing it anew took more than {seconds:.0f} s") from None
    except OSError as error:
        raise RebuildFailed(f"it can't be written anew: {error}") from error
    if done.returncode:
        raise RebuildFailed((done.stdout or done.stderr).strip().rpartition("\n")[2])
    if wrong := difference(folder, record):
        raise RebuildFailed(f"written anew, {wrong}")


def _main() -> None:
    from pathlib import Path

    given = json.load(sys.stdin)
    folder, record = RunFolder(Path(given["folder"])), Record.model_validate(given["record"])
    mirror = open_mirror("offline", folder, record, Journal(folder.journal_path).rows(), **given["labels"])
    samples = Samples.from_json(given["samples"]) if given["samples"] else None
    state = mirror.finish(record, samples).state
    if state != "offline":
        sys.exit(print(state.removeprefix("failed: ")) or 1)


if __name__ == "__main__":
    _main()
