"""The local executor: each run in a process of its own, forked from a server that has imported torch once.

A run that raises, diverges or is killed ends its own process only; the others go on.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from harness.errors import HarnessError, InputError, Interrupted, RunBusy, TimeLimitReached
from harness.events import Ended, EpochDone, Event, Observer, Stepped
from harness.options import RunOptions
from harness.runner import run
from harness.spec.experiment import ExperimentSpec
from harness.stop import Stop
from harness.study import server

GRACE = 30.0  # seconds a worker has to save its state after it was told to stop
NEARLY_DONE = 0.5  # seconds of training left at which the next run may begin to prepare itself


@dataclass(frozen=True)
class Job:
    """One run to be done."""

    run_id: str
    spec: ExperimentSpec
    seed: int
    options: RunOptions


@dataclass
class Worker:
    job: Job
    process: BaseProcess
    receiver: Connection
    ended: Ended | None = None
    seconds_left: float = math.inf

    @property
    def holds_its_slot(self) -> bool:
        """Until it is nearly done: the next run waits for files and processes while this one uses its core.

        Only where both have one thread of a CPU: more would crowd each other, and a GPU's memory may hold one alone.
        """
        options = self.job.options
        alone = options.threads != 1 or options.device != "cpu"
        return alone or self.seconds_left > NEARLY_DONE


def execute(
    jobs: Sequence[Job], slots: int, observer: Observer, stop: Stop, *, fail_fast: bool = False
) -> dict[str, str]:
    """Do all jobs, `slots` at a time.

    Args:
        jobs: in the order in which they are started.
        slots: processes at once.
        observer: told of every event of every run, in this process.
        stop: once it says so, no job is started and those under way are asked to save their state.
        fail_fast: likewise once a run has failed.

    Returns:
        The status of every job that was started, by run id: a record's status, "busy" where another
        process has the run, or "refused" where it could not be started at all.
    """
    context = server.start(tracked=any(job.options.wandb != "disabled" for job in jobs))
    waiting, working, statuses = list(jobs), list[Worker](), dict[str, str]()
    stopping = False
    try:
        while waiting or working:
            if not stopping and (stop() or (fail_fast and any(map(_is_failure, statuses.values())))):
                stopping, waiting = True, []
                _ask_to_stop(working)
            while waiting and _has_room(working, slots, early=not fail_fast):
                working.append(_start(context, _with_time_left(waiting.pop(0), stop)))
            _pass_on_events(working, observer)
            for worker in [worker for worker in working if not worker.process.is_alive()]:
                working.remove(worker)
                statuses[worker.job.run_id] = _reap(worker, observer)
    finally:
        _kill(working)
    return statuses


def _has_room(working: Sequence[Worker], slots: int, early: bool) -> bool:
    """Whether a run may begin; `early`: also beside one that is nearly done, whose failure then stops it no more."""
    held = sum(worker.holds_its_slot for worker in working) if early else len(working)
    return held < slots and len(working) < 2 * slots


def _is_failure(status: str) -> bool:
    return status not in ("completed", "stopped_early", "interrupted", "busy")


def _with_time_left(job: Job, stop: Stop) -> Job:
    return replace(job, options=replace(job.options, time_limit=stop.seconds_left))


def _start(context: Any, job: Job) -> Worker:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, sender), name=f"harness {job.spec.name} seed {job.seed}")
    process.start()
    sender.close()
    return Worker(job, process, receiver)


def _work(job: Job, sender: Connection) -> None:
    """In the worker: one run, its events sent to the parent; a parent that is gone stops the run."""
    server.heed_interrupts()
    stop = Stop(job.options.time_limit)

    def send(event: Event) -> None:
        try:
            sender.send(event)
        except OSError:  # the parent is dead
            stop.reason = "signal"

    try:
        run(job.spec, job.seed, job.options, send, stop)
    except (Interrupted, TimeLimitReached) as error:
        send(Ended(job.run_id, "interrupted", str(error)))
    except KeyboardInterrupt:
        send(Ended(job.run_id, "interrupted", "before its first step"))
    except RunBusy as error:
        send(Ended(job.run_id, "busy", str(error)))
    except InputError as error:
        send(Ended(job.run_id, "refused", str(error)))
    except HarnessError as error:
        send(Ended(job.run_id, getattr(error, "status", "crashed"), str(error)))
    else:
        send(Ended(job.run_id, "completed"))


def _pass_on_events(working: list[Worker], observer: Observer, seconds: float = 0.25) -> None:
    ready = wait([worker.receiver for worker in working if not worker.receiver.closed], timeout=seconds)
    for worker in working:
        if worker.receiver in ready:
            _drain(worker, observer)
    if not ready:
        time.sleep(0.01)


def _drain(worker: Worker, observer: Observer) -> None:
    try:
        while worker.receiver.poll():
            event = worker.receiver.recv()
            if isinstance(event, Ended):
                # the runner tells the record's status first; what follows from _work only adds its message
                worker.ended = replace(event, status=worker.ended.status) if worker.ended else event
            else:
                if isinstance(event, Stepped | EpochDone):
                    worker.seconds_left = event.seconds_left
                observer(event)
    except (EOFError, OSError):
        worker.receiver.close()


def _reap(worker: Worker, observer: Observer) -> str:
    if not worker.receiver.closed:
        _drain(worker, observer)
        worker.receiver.close()
    worker.process.join()
    code = worker.process.exitcode
    ended = worker.ended
    if ended is None:
        by_signal = code is not None and code < 0
        how = f"signal {signal.Signals(-code).name}" if by_signal and code else f"exit code {code}"
        status = "killed" if by_signal else "crashed"
        ended = Ended(worker.job.run_id, status, f"its process ended with {how}")
    observer(ended)
    return ended.status


def _ask_to_stop(working: Sequence[Worker]) -> None:
    for worker in working:
        if worker.process.pid and worker.process.is_alive():
            os.kill(worker.process.pid, signal.SIGTERM)


def _kill(working: Sequence[Worker]) -> None:
    """Only on the way out of an error or a second Ctrl-C: no worker outlives its parent."""
    deadline = time.monotonic() + (GRACE if working else 0)
    _ask_to_stop(working)
    for worker in working:
        worker.process.join(max(deadline - time.monotonic(), 0.1))
        if worker.process.is_alive():
            worker.process.kill()


def threads_per_worker(slots: int, counted: Callable[[], int | None] = os.cpu_count) -> int:
    """Threads that let `slots` processes share the machine without crowding each other."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else counted() or 1
    return max(available // slots, 1)
