"""`harness sync`: offline runs brought to Weights & Biases, and proof that they arrived.

Each run is sent and read back by a process of its own (`harness.tracking.send`), so that one that hangs can be ended
at its time limit, and that nothing of wandb's lands outside the run's folder.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from harness.errors import HarnessError, InputError
from harness.tracking.atomic import storage_error
from harness.tracking.claim import Held, acquire
from harness.tracking.mirror import quarters
from harness.tracking.record import Record
from harness.tracking.select import Entry
from harness.tracking.send import Arrival
from harness.tracking.store import RunFolder

AT_ONCE = 4  # runs on their way; most of their time is waiting for the server
TIME_LIMIT = 300.0  # seconds a run may take
# How often and how patiently wandb asks again after an answer that may be passing (5xx, 429, no connection).
PERSISTENCE = {"RETRY_MAX": 4, "RETRY_WAIT_MIN_SECONDS": 0.5, "RETRY_WAIT_MAX_SECONDS": 8}
PAUSES = (0.0, 0.3, 1.0, 2.0, 4.0, 8.0)  # seconds before each look at what has arrived
NO_KEY = (
    "there is no Weights & Biases key",
    "`wandb login`, or set WANDB_API_KEY; without an account `wandb leet` shows offline runs in the terminal",
)


@dataclass(frozen=True)
class Way:
    """How runs are sent."""

    time_limit: float = TIME_LIMIT
    """Seconds for each."""
    project: str | None = None
    entity: str | None = None
    """Where to, in place of what each run was made for (one that was made for none goes to WANDB_PROJECT and
    WANDB_ENTITY).
    """


@dataclass(frozen=True)
class Synced:
    """What came of one run."""

    folder: RunFolder
    record: Record
    arrival: Arrival
    seconds: float

    @property
    def done(self) -> bool:
        """It is there, proven."""
        return self.arrival.outcome == "synced"


def sync(
    entries: Sequence[Entry], way: Way = Way(), told: Callable[[Synced], None] = lambda synced: None
) -> list[Synced]:
    """Bring these runs to the server, in the order given; `told` is called with each as it is done.

    A run that another machine has claimed is watched for a heartbeat, and sent as it is once it counts as left behind.

    Raises:
        InputError: there is no key; nothing was changed.
    """
    processes = _Processes()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = {
            pool.submit(_one, folder, record, way, processes): number for number, (folder, record) in enumerate(entries)
        }
        done: dict[int, Synced] = {}
        try:
            for future in as_completed(waiting):
                synced = future.result()
                if synced.arrival.outcome == "no_key":
                    raise InputError(NO_KEY[0], fix=NO_KEY[1])
                done[waiting[future]] = synced
                told(synced)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end()
            raise
    return [done[number] for number in sorted(done)]


def _one(folder: RunFolder, record: Record, way: Way, processes: _Processes) -> Synced:
    began = time.monotonic()
    try:
        with acquire(folder.claim_path, patient=True, wanted=lambda: not processes.ended) as claim:
            record = folder.read_record()
            arrival = _sent(folder, record, way, processes)
            claim.check()
            _remember(folder, record, arrival)
    except Held as error:
        arrival = Arrival("failed", f"{error.holder} is at work on it at this moment: sync it when that is done")
    except HarnessError as error:
        arrival = Arrival("failed", str(error))
    except OSError as error:
        arrival = Arrival("failed", str(storage_error(folder.path, error)))
    return Synced(folder, record, arrival, time.monotonic() - began)


def _remember(folder: RunFolder, record: Record, arrival: Arrival) -> None:
    """What the record is to say of the mirror from now on; not written where it says so already."""
    changes = {"id": record.run_id}
    if arrival.outcome in ("synced", "unverified"):
        state = f"unverified: {arrival.reason}" if arrival.reason else "synced"
        changes |= {"state": state, "project": arrival.project, "entity": arrival.entity}
    elif arrival.rebuilt:
        changes |= {"state": f"offline, rebuilt from the journal: {arrival.rebuilt}"}
    else:
        return
    wandb = record.wandb.model_copy(update=changes)
    if wandb != record.wandb:
        folder.write_record(record.model_copy(update={"wandb": wandb}))


# --- the process that sends --------------------------------------------------------------------


class _Processes:
    """Those under way, to be ended together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self.ended = False

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        with self._lock:
            if self.ended:
                raise HarnessError("interrupted")
            process = subprocess.Popen(command, start_new_session=True, **options)
            self._running.add(process)
            return process

    def forget(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.discard(process)

    def end(self) -> None:
        """Kill them, and let none start any more."""
        with self._lock:
            self.ended = True
            for process in self._running:
                kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """With its children; wandb's own process sees that its parent is gone and ends."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


def _sent(folder: RunFolder, record: Record, way: Way, processes: _Processes) -> Arrival:
    if record.status == "running":  # its process is gone, or the claim would be held
        record = record.model_copy(update={"status": "killed"})
    place = folder.wandb_dir / "sync"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    answer = folder.path / ".arrival.tmp"  # not in the mirror's folder, which may be made anew
    given = {
        "folder": str(folder.path.resolve()),
        "record": record.model_dump(mode="json"),
        "project": way.project or record.wandb.project or os.environ.get("WANDB_PROJECT"),
        "entity": way.entity or record.wandb.entity or os.environ.get("WANDB_ENTITY"),
        "pauses": PAUSES,
        "answer": str(answer.resolve()),
        "parent": os.getpid(),
    }
    with tempfile.TemporaryFile() as said:
        command = [sys.executable, "-m", "harness.tracking.send"]
        streams = {"stdin": subprocess.PIPE, "stdout": said, "stderr": said}
        process = processes.start(command, env=_environment(place), **streams)
        try:
            process.communicate(json.dumps(given).encode(), timeout=way.time_limit)
            arrival = Arrival(**json.loads(answer.read_text()))
        except subprocess.TimeoutExpired:
            arrival = Arrival("failed", f"not done within {way.time_limit:.0f} s")
        except (OSError, ValueError):
            arrival = Arrival("failed", f"the process that sends it ended with {process.returncode}: {_last(said)}")
        finally:
            kill(process)
            process.wait()
            processes.forget(process)
            answer.unlink(missing_ok=True)
    if arrival.outcome in ("synced", "no_key"):  # else wandb's own logs may tell more
        shutil.rmtree(place, ignore_errors=True)
    return replace(arrival, reason=without_secrets(arrival.reason))


def _last(said: BinaryIO) -> str:
    said.seek(0)
    return said.read().decode(errors="replace").strip().rpartition("\n")[2]


def _environment(place: Path) -> dict[str, str]:
    """The process's variables: the user's own server and key, all that is written in `place`."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    persistence = {
        f"WANDB__{client}_{name}": str(value)
        for client in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
        for name, value in PERSISTENCE.items()
    }
    own = {"WANDB_DIR": str(place.resolve()), "WANDB_MODE": "online"}  # whatever the user's settings say of a mode
    return others | quarters(place, online=True) | persistence | own


def without_secrets(text: str) -> str:
    """Without the key, which a server may repeat in what it says."""
    key = os.environ.get("WANDB_API_KEY")
    return text.replace(key, "…") if key else text
