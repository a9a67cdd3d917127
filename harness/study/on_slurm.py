"""The Slurm executor: each run a job of an array, submitted through submitit; its progress is read from the store.

A job that is told that its time is nearly over, or that it has to make room, saves its state and is requeued. The
jobs do not need the command that submitted them: it only watches, and when run again it watches on.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from harness.errors import HarnessError, InputError, Interrupted, Problem, TimeLimitReached
from harness.events import Ended, Event, Note, Observer
from harness.options import AblateOptions
from harness.stop import Stop
from harness.study.executor import Job, is_failure, missing_extra, perform
from harness.study.watch import RunWatch
from harness.tracking.atomic import atomic_write_text
from harness.tracking.store import Store

CLUSTER = "slurm"  # submitit's name of it; "local" in tests: processes of this machine
ARRAY = 1000  # jobs of one array: Slurm's own default allows 1001
AT_ONCE = 256
SITTINGS = 1000  # how often a run may reach the time limit of its job
LOOK = 1.0  # seconds between looks at the runs' files
ASK = 10.0  # seconds between questions to Slurm
OVER = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT"}
)


class SlurmRun:
    """What a job does. submitit asks for its `checkpoint` when the job is to be requeued."""

    def __call__(self, job: Job) -> Ended:
        import submitit

        requeue_signal = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")
        requeue: Any = signal.getsignal(requeue_signal)  # submitit's, which does not return
        stop = Stop()
        with stop.on_signals():
            ended = perform(job, _print, stop)
        if ended.status == "interrupted" and stop.reason:
            if _may_be_requeued(submitit.JobEnvironment()):
                requeue(requeue_signal, None)
            sys.exit(1)  # cancelled, or requeued by Slurm itself: no result, the record says how it stands
        return ended

    def checkpoint(self, job: Job) -> Any:
        """The same once more: the run goes on from its own checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


class SlurmExecutor:
    """Arrays of jobs in the queue that `sbatch` finds."""

    def __init__(self, options: AblateOptions):
        """InputError: no submitit, no Slurm, options that are the local executor's."""
        self.submitit = _submitit()
        self.options = options.slurm
        if options.devices:
            fix = "each run gets a GPU from Slurm; --slurm gpus=0 or --device cpu asks for none"
            raise InputError("--devices is for the local executor", where="--executor slurm", fix=fix)
        if options.run.device not in ("auto", "cpu", "cuda"):
            fix = "write --device cuda or --device cpu"
            raise InputError(f"Slurm chooses the device, not {options.run.device}", where="--device", fix=fix)
        asked = self.options.gpus
        self.gpus = asked if asked is not None else int(options.run.device != "cpu")
        if self.gpus == 0 and options.run.device == "cuda":
            raise InputError("--device cuda needs a GPU, and --slurm gpus=0 asks for none", fix="leave one of them out")
        self.device = "cuda" if self.gpus and options.run.device != "cpu" else "cpu"
        self.threads = options.run.threads or self.options.cpus
        self.slots = options.jobs or AT_ONCE
        self.continue_with = options.run.continue_with
        self.store = Store(options.run.runs_dir)

    def conditions(self, precision: str) -> tuple[str, str]:
        return self.device, precision

    def execute(
        self, jobs: Sequence[Job], observer: Observer, stop: Stop, *, fail_fast: bool = False
    ) -> dict[str, str]:
        watches = {job.run_id: RunWatch(job, self.store) for job in jobs}
        queued = self._still_queued(jobs)
        if queued:
            observer(Note(next(iter(queued)), f"submitted before, as {_named(queued.values())}: watched on"))
        queued |= self._submit([job for job in jobs if job.run_id not in queued], observer, _ids(queued.values()))
        statuses: dict[str, str] = {}
        doubted, cancelled, asked = set[str](), False, time.monotonic()
        while queued:
            alive = None
            if time.monotonic() - asked >= (ASK if CLUSTER == "slurm" else LOOK):
                alive, asked = self._alive(queued.values()), time.monotonic()
            for run_id, job in list(queued.items()):
                for event in watches[run_id].events():
                    observer(event)
                ended = self._result(run_id, job)
                if ended is None and alive is not None and job.job_id in alive:
                    doubted.discard(run_id)  # as of a node that failed, whose job was queued again
                elif ended is None and alive is not None:
                    # A file server may be behind Slurm: only who is missing twice in a row is gone.
                    ended = self._gone(watches[run_id], job, cancelled) if run_id in doubted else None
                    doubted.add(run_id)
                if ended:
                    del queued[run_id]
                    observer(ended)
                    statuses[run_id] = ended.status
            if fail_fast and not cancelled and any(map(is_failure, statuses.values())):
                cancelled = True
                for job in queued.values():
                    job.cancel(check=False)
            if queued and stop():
                raise self._left(queued.values(), stop)
            time.sleep(LOOK if queued else 0)
        return statuses

    def _submit(self, jobs: Sequence[Job], observer: Observer, after: Sequence[str] = ()) -> dict[str, Any]:
        """Run id -> submitit's job.

        Each array begins when the one before it has ended, the first when those of `after` have: an array's limit of
        jobs at once is its own.
        """
        submitted: dict[str, Any] = {}
        for first in range(0, len(jobs), ARRAY):
            some = [self._fill_in(job) for job in jobs[first : first + ARRAY]]
            try:
                entries = self._queue(some[0].options.study, after).map_array(SlurmRun(), some)
            except (self.submitit.core.utils.FailedJobError, subprocess.SubprocessError, OSError) as error:
                what = str(error).strip().splitlines()[-1]
                fix = "--slurm says what to ask for; --device cpu asks for no GPU"
                if submitted:
                    self._tell_submitted(submitted, observer)
                    what = f"{what} ({len(jobs) - len(submitted)} runs of {len(jobs)} are not submitted)"
                    fix = f"what was submitted goes on; once it has ended, {self.continue_with} to submit the rest"
                raise InputError(f"sbatch refuses: {what}", where="--executor slurm", fix=fix) from error
            for job, entry in zip(some, entries, strict=True):
                atomic_write_text(self.store.slurm_job_path(job.run_id), entry.job_id)
                submitted[job.run_id] = entry
            after = _ids(entries)
        if submitted:
            self._tell_submitted(submitted, observer)
        return submitted

    def _tell_submitted(self, submitted: dict[str, Any], observer: Observer) -> None:
        text = f"{len(submitted)} runs submitted as {_named(submitted.values())}; logs: {self.store.slurm_dir}"
        observer(Note(next(iter(submitted)), text))

    def _fill_in(self, job: Job) -> Job:
        options = replace(job.options, device=self.device, threads=self.threads, time_limit=None, patient=True)
        return replace(job, options=options)

    def _queue(self, study: str | None, after: Sequence[str]) -> Any:
        """submitit's executor with what each job asks for; they wait until the jobs of `after` have ended."""
        asked = self.options
        self.store.slurm_dir.mkdir(parents=True, exist_ok=True)
        executor = self.submitit.AutoExecutor(self.store.slurm_dir, cluster=CLUSTER, slurm_max_num_timeout=SITTINGS)
        named = {name: getattr(asked, name) for name in ("partition", "account", "qos", "constraint")}
        given = {f"slurm_{name}": value for name, value in named.items() if value is not None}
        if asked.memory is not None:
            given["mem_gb"] = asked.memory
        if after:
            given["slurm_dependency"] = f"afterany:{':'.join(after)}"
        if self.gpus:
            given["gpus_per_node"] = self.gpus
        executor.update_parameters(
            name=f"harness-{study or 'run'}",
            timeout_min=asked.time,
            cpus_per_task=asked.cpus,
            stderr_to_stdout=True,
            slurm_signal_delay_s=asked.grace,
            slurm_array_parallelism=self.slots,
            slurm_srun_args=[f"--cpus-per-task={asked.cpus}"],  # srun does not take it from sbatch
            slurm_setup=[f"export OMP_NUM_THREADS={self.threads}"],
            slurm_additional_parameters={"requeue": True},
            **given,
        )
        return executor

    def _still_queued(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """The jobs of these runs that an earlier command has submitted and that wait, or run."""
        if CLUSTER != "slurm":
            return {}
        known: dict[str, Any] = {}
        for job in jobs:
            path = self.store.slurm_job_path(job.run_id)
            if path.exists():
                known[job.run_id] = self.submitit.SlurmJob(self.store.slurm_dir, path.read_text().strip())
        alive = self._alive(known.values())
        return {
            run_id: job for run_id, job in known.items() if job.job_id in alive and not job.paths.result_pickle.exists()
        }

    def _alive(self, jobs: Iterable[Any]) -> set[str]:
        """Those that wait, run or are being requeued; all of them where Slurm does not answer."""
        if CLUSTER != "slurm":
            return {job.job_id for job in jobs if not job.done()}
        ids = {job.job_id for job in jobs}
        states = queue_states({job_id.partition("_")[0] for job_id in ids}) if ids else {}
        return ids if states is None else {job_id for job_id in ids if states.get(job_id, "COMPLETED") not in OVER}

    def _result(self, run_id: str, job: Any) -> Ended | None:
        if not job.paths.result_pickle.exists():
            return None
        outcome, result = self.submitit.core.utils.pickle_load(job.paths.result_pickle)
        if outcome == "success" and isinstance(result, Ended):
            return result
        lines = str(result).strip().splitlines()
        return Ended(run_id, "crashed", f"{lines[-1] if lines else outcome}; log: {job.paths.stdout}")

    def _gone(self, watch: RunWatch, job: Any, cancelled: bool) -> Ended:
        """A job that left no result was killed or cancelled; what is in the record is the truth."""
        record, run_id = watch.record(), watch.job.run_id
        without_a_word = f"its job ended without a word; log: {job.paths.stdout}"
        if record and record.status != "running":
            return Ended(run_id, record.status, without_a_word)
        if cancelled:
            return Ended(run_id, "interrupted", "before its first step")
        return Ended(run_id, "killed", without_a_word)

    def _left(self, jobs: Iterable[Any], stop: Stop) -> HarnessError:
        ids = _ids(jobs)
        text = (
            f"the jobs go on without this command: {self.continue_with} watches on, and writes the report at the end\n"
            f"  look: squeue -j {','.join(ids)}    cancel, with their state saved: scancel {' '.join(ids)}"
        )
        return TimeLimitReached(f"time limit: {text}") if stop.reason == "time_limit" else Interrupted(text)


def queue_states(ids: Iterable[str]) -> dict[str, str] | None:
    """Job id (12, or 12_3 in an array) -> state, of those that Slurm still knows; None where it does not answer.

    From squeue, which needs no accounting, unlike sacct.
    """
    command = ["squeue", "--noheader", "--all", "--array", "--states=all", f"--jobs={','.join(sorted(ids))}"]
    try:
        done = subprocess.run([*command, "--format=%i %T"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    return dict(line.split() for line in done.stdout.splitlines())


def _may_be_requeued(job: Any) -> bool:
    """As long as Slurm says that it is running: not one that was cancelled, nor one that Slurm itself requeues.

    `job` is submitit's environment of it. Its id is that in the array: the number alone may mean the whole array.
    """
    states = queue_states([job.job_id]) if job.cluster == "slurm" else None
    return states is None or states.get(job.job_id) == "RUNNING"


def _print(event: Event) -> None:
    """Into the job's log."""
    if isinstance(event, Note):
        print(event.text, flush=True)


def _named(jobs: Iterable[Any]) -> str:
    ids = _ids(jobs)
    return f"Slurm job{'s' * (len(ids) > 1)} {', '.join(ids)}"


def _ids(jobs: Iterable[Any]) -> list[str]:
    """Of arrays, not of each of their jobs."""
    return sorted({job.job_id.partition("_")[0] for job in jobs}, key=int)


def _submitit() -> Any:
    try:
        import submitit
        import submitit.core.utils
        import submitit.helpers
    except ImportError:
        raise missing_extra("slurm") from None
    if CLUSTER == "slurm" and submitit.AutoExecutor.which() != "slurm":
        fix = "run it where sbatch and squeue are, on a login node"
        raise InputError([Problem("there is no Slurm here: srun is not found", "--executor slurm", fix)])
    return submitit
