"""The Ray executor: each run a task of a Ray cluster, with its share of a GPU and the same store as everywhere.

A run whose node or process is lost goes on elsewhere, from its checkpoint: for that the runs folder must be shared.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.errors import InputError, RunFailed
from harness.events import Ended, Event, Note, Observer, Started
from harness.options import AblateOptions
from harness.stop import Stop
from harness.study.executor import GRACE, Job, is_failure, missing_extra, perform
from harness.study.expected import counted

RETRIES = 3  # how often a run may lose its node or its process
POLL = 0.25  # seconds between looks at the events


class RayExecutor:
    """Tasks of the Ray cluster that RAY_ADDRESS or a running Ray names; without one, of a Ray on this machine."""

    def __init__(self, options: AblateOptions):
        """Connects, or starts the local one. InputError: no Ray, no such cluster, no such device."""
        if options.devices:
            fix = "Ray shares out the GPUs that it has; CUDA_VISIBLE_DEVICES limits a Ray on this machine"
            raise InputError("--devices is for the local executor", where="--executor ray", fix=fix)
        self.ray = _connected()
        there = self.ray.cluster_resources()
        gpus = int(there.get("GPU", 0))
        self.device = _device(options.run.device, gpus)
        self.threads = options.run.threads or 1
        places = gpus if self.device == "cuda" else int(there.get("CPU", 1)) // self.threads
        self.slots = options.jobs or max(places, 1)
        self.share_of_gpu = share_of_gpu(self.slots, gpus) if self.device == "cuda" else 0.0

    def conditions(self, precision: str) -> tuple[str, str]:
        return "cpu" if self.device == "auto" else self.device, precision

    def execute(
        self, jobs: Sequence[Job], observer: Observer, stop: Stop, *, fail_fast: bool = False
    ) -> dict[str, str]:
        ray, desk = self.ray, self._desk()
        if told := why_waiting(self.threads, ray.nodes()):
            observer(Note("", told, warning=True))
        waiting, working = list(jobs), dict[Any, Job]()
        started, statuses = set[str](), dict[str, str]()
        stopping = False

        def listen(event: Event) -> None:
            if isinstance(event, Started):
                started.add(event.run_id)
            if not isinstance(event, Ended):
                observer(event)

        try:
            while waiting or working:
                if not stopping and (stop() or (fail_fast and any(map(is_failure, statuses.values())))):
                    stopping, waiting = True, []
                    ray.get(desk.ask_to_stop.remote())
                    self._cancel([reference for reference, job in working.items() if job.run_id not in started])
                while waiting and len(working) < self.slots:
                    job = waiting.pop(0)
                    working[self._submit(job, desk)] = job
                done, _ = ray.wait(list(working), timeout=POLL)
                for event in ray.get(desk.take.remote()):
                    listen(event)
                for reference in done:
                    ended = self._ended(reference, working.pop(reference))
                    observer(ended)
                    statuses[ended.run_id] = ended.status
        except ray.exceptions.RayError as error:
            what = str(error).strip().partition("\n")[0]
            raise RunFailed(f"Ray was lost: {what}; running the same command again goes on") from error
        finally:
            self._abandon(list(working), desk)
        return statuses

    def _desk(self) -> Any:
        """On this node: it is to live as long as this process does, whatever other nodes go."""
        here = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self.ray.get_runtime_context().get_node_id(), soft=False
        )
        return self.ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote()

    def _submit(self, job: Job, desk: Any) -> Any:
        options = replace(job.options, device=self.device, threads=self.threads, time_limit=None, patient=True)
        # max_calls: a process of its own for each run, as everywhere; what one leaves in it the next must not find.
        task = self.ray.remote(max_calls=1)(work).options(
            name=f"harness {job.spec.name} seed {job.seed}",
            num_cpus=self.threads,
            num_gpus=self.share_of_gpu,
            max_retries=RETRIES,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(self.threads)}},
        )
        return task.remote(replace(job, options=options), os.getcwd(), desk)

    def _ended(self, reference: Any, job: Job) -> Ended:
        errors = self.ray.exceptions
        try:
            ended: Ended = self.ray.get(reference)
        except errors.TaskCancelledError:
            return Ended(job.run_id, "interrupted", "before its first step")
        except errors.RayTaskError as error:
            return Ended(job.run_id, "crashed", str(error.cause if hasattr(error, "cause") else error))
        except errors.RayError as error:  # its process or its node, more than RETRIES times
            return Ended(job.run_id, "killed", str(error).strip().partition("\n")[0])
        return ended

    def _cancel(self, references: Sequence[Any], *, force: bool = False) -> None:
        for reference in references:
            self.ray.cancel(reference, force=force)

    def _abandon(self, references: Sequence[Any], desk: Any) -> None:
        """Tasks go on only on the way out of an error or a second Ctrl-C: they may save their state, then they end."""
        if references:
            desk.ask_to_stop.remote()
            deadline = time.monotonic() + GRACE
            _, left = self.ray.wait(references, num_returns=len(references), timeout=deadline - time.monotonic())
            self._cancel(left, force=True)
        self.ray.kill(desk)


class Desk:
    """An actor that takes the events of all tasks, and tells them when to stop."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.stopping = False

    def tell(self, event: Event) -> bool:
        """Whether the run is to stop."""
        self.events.append(event)
        return self.stopping

    def take(self) -> list[Event]:
        taken, self.events = self.events, []
        return taken

    def ask_to_stop(self) -> None:
        self.stopping = True


def work(job: Job, folder: str, desk: Any) -> Ended:
    """In the task: one run, its events sent to the desk; a desk that is gone, or asks for it, stops the run."""
    import ray

    try:
        os.chdir(folder)
    except OSError:
        shared = "a study on several machines needs its folder on all of them, at the same path"
        return Ended(job.run_id, "refused", f"{platform.node()} has no folder {folder}: {shared}")
    stop, answers = Stop(), list[Any]()

    def send(event: Event) -> None:
        nonlocal answers
        answers.append(desk.tell.remote(event))
        # Never waited for: a task that waits gives its CPU to another one.
        there, answers = ray.wait(answers, num_returns=len(answers), timeout=0)
        try:
            if any(ray.get(there)):
                stop.reason = "signal"
        except ray.exceptions.RayError:  # the command is dead
            stop.reason = "signal"

    return perform(job, send, stop)


def share_of_gpu(jobs: int, gpus: int) -> float:
    """What each of `jobs` runs takes of a GPU, where they are shared out evenly among `gpus` of them."""
    return 1 / math.ceil(jobs / gpus)


def why_waiting(threads: int, nodes: Sequence[Mapping[str, Any]]) -> str | None:
    """What to tell where none of these nodes, as `ray.nodes()` lists them, has the CPUs that each run takes.

    No mistake yet: a cluster may grow. None where one has them.
    """
    largest = max((int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]), default=0)
    if threads <= largest:
        return None
    takes = f"each run takes {counted(threads, 'CPU')} (--threads)"
    return f"{takes}, and the largest node of this Ray has {largest}: they wait until there is a larger one"


def _device(asked: str, gpus: int) -> str:
    """What a task is told: Ray shows it its own GPU alone, which is the first one there."""
    if asked in ("auto", "cuda"):
        if asked == "cuda" and not gpus:
            raise InputError("this Ray has no GPU", where="--device cuda", fix="`ray status` shows what it has")
        return "cuda" if gpus else asked
    if asked.startswith("cuda"):
        raise InputError(f"Ray chooses the GPU of each run, not {asked}", where="--device", fix="write --device cuda")
    return asked


def _connected() -> Any:
    """The ray module, connected to a cluster or to one that it started on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told that we use it
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        raise missing_extra("ray") from None
    if not ray.is_initialized():
        try:
            ray.init(log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}" if "RAY_ADDRESS" in os.environ else "--executor ray"
            raise InputError(f"Ray does not answer: {error}", where=where) from error
    return ray
