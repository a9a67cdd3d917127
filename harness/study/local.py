"""The local executor: each run in a process of its own, forked from a server that has imported torch once.

A run that raises, diverges or is killed ends its own process only; the others go on.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from harness.errors import InputError
from harness.events import Ended, EpochDone, Event, Observer, Stepped
from harness.options import AblateOptions
from harness.stop import Stop
from harness.study import asked, server
from harness.study.devices import check_devices, share_out
from harness.study.executor import GRACE, Job, is_failure, perform
from harness.tracking import mirror_process

NEARLY_DONE = 0.5  # seconds of training left at which the next run may begin to prepare itself


@dataclass
class Worker:
    job: Job
    process: BaseProcess
    receiver: Connection
    slot: int = 0
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


class LocalExecutor:
    """Processes of this machine, `options.jobs` at a time, on the CPU or shared out among its GPUs."""

    def __init__(self, options: AblateOptions):
        """InputError where a device is not there."""
        self.tracked = options.run.wandb != "disabled"
        start_servers(self.tracked)
        self.devices = _devices(options)
        self.threads = options.run.threads or threads_per_worker(len(self.devices))

    @property
    def slots(self) -> int:
        return len(self.devices)

    def conditions(self, precision: str) -> tuple[str, str]:
        return asked.conditions(self.devices[0], precision)

    def execute(
        self, jobs: Sequence[Job], observer: Observer, stop: Stop, *, fail_fast: bool = False
    ) -> dict[str, str]:
        context = server.start()
        waiting, working, statuses = list(jobs), list[Worker](), dict[str, str]()
        stopping = False
        try:
            while waiting or working:
                if not stopping and (stop() or (fail_fast and any(map(is_failure, statuses.values())))):
                    stopping, waiting = True, []
                    _ask_to_stop(working)
                while waiting and (slot := free_slot(working, self.slots, early=not fail_fast)) is not None:
                    job = self.fill_in(waiting.pop(0), slot, stop.seconds_left)
                    working.append(_start(context, job, slot, self.tracked))
                _pass_on_events(working, observer)
                for worker in [worker for worker in working if not worker.process.is_alive()]:
                    working.remove(worker)
                    statuses[worker.job.run_id] = _reap(worker, observer, stopping)
        finally:
            _kill(working)
        return statuses

    def fill_in(self, job: Job, slot: int, time_limit: float | None) -> Job:
        options = replace(job.options, device=self.devices[slot], threads=self.threads, time_limit=time_limit)
        return replace(job, options=options)


def _devices(options: AblateOptions) -> list[str]:
    """The device of each slot."""
    if not options.devices:
        return share_out(options.jobs or 1, [asked.resolve_device(options.run.device)])
    if options.run.device not in ("auto", "cuda"):
        raise InputError(f"--devices is for GPUs, and --device says {options.run.device}", fix="leave one of them out")
    check_devices(options.devices, asked.count_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return share_out(options.jobs, [f"cuda:{index}" for index in options.devices])


def free_slot(working: Sequence[Worker], slots: int, early: bool) -> int | None:
    """The slot in which a run may begin; `early`: also beside one that is nearly done, whose failure stops it no more.

    None: all are taken.
    """
    held = [worker.slot for worker in working if worker.holds_its_slot or not early]
    if len(held) >= slots or len(working) >= 2 * slots:
        return None
    return next(slot for slot in range(slots) if slot not in held)


def start_servers(tracked: bool) -> None:
    """Start what runs are forked from, and what their mirrors are, side by side and without waiting for either."""
    server.start()
    if tracked:
        mirror_process.start()


def _start(context: Any, job: Job, slot: int, tracked: bool) -> Worker:
    receiver, sender = context.Pipe(duplex=False)
    mirror = _connect_mirror() if tracked else None
    process = context.Process(target=_work, args=(job, sender, mirror), name=f"harness {job.spec.name} seed {job.seed}")
    process.start()
    sender.close()
    if mirror:
        mirror.close()
    return Worker(job, process, receiver, slot)


def _connect_mirror() -> Connection | None:
    """None: the run tries for itself, and its record says what came of it."""
    with contextlib.suppress(OSError):
        return mirror_process.connect()
    return None


def _work(job: Job, sender: Connection, mirror: Connection | None) -> None:
    """In the worker: one run, its events sent to the parent; a parent that is gone stops the run."""
    stop = Stop(job.options.time_limit)

    def send(event: Event) -> None:
        try:
            sender.send(event)
        except OSError:  # the parent is dead
            stop.reason = "signal"

    ended = Ended(job.run_id, "interrupted", "before its first step")
    with contextlib.suppress(KeyboardInterrupt):  # one that came while this process was forked, above all
        server.heed_interrupts()
        server.follow_parent()
        mirror_process.inherit(mirror)
        ended = perform(job, send, stop)
    server.ignore_interrupts()  # the rest is short, and a second Ctrl-C would print where it ended
    send(ended)


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
                worker.ended = event  # the record's status as soon as it is there, then the same with a message
            else:
                if isinstance(event, Stepped | EpochDone):
                    worker.seconds_left = event.seconds_left
                observer(event)
    except (EOFError, OSError):
        worker.receiver.close()


def _reap(worker: Worker, observer: Observer, stopping: bool) -> str:
    if not worker.receiver.closed:
        _drain(worker, observer)
        worker.receiver.close()
    worker.process.join()
    code = worker.process.exitcode
    ended = worker.ended
    if ended is None and stopping and code == -signal.SIGTERM:  # ours, before it listened
        ended = Ended(worker.job.run_id, "interrupted", "before its first step")
    elif ended is None:
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
    """Threads that let `slots` processes share the machine without crowding each other.

    No more than `OMP_NUM_THREADS` says, which `harness run` honours as torch does.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else counted() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # OpenMP: one number for each nested level
    if wanted.isdecimal() and int(wanted) > 0:
        return max(min(available // slots, int(wanted)), 1)
    return max(available // slots, 1)
