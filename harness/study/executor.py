"""What a study asks of whatever does its runs: processes of this machine, a Ray cluster, a Slurm queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from harness.errors import HarnessError, InputError, Interrupted, RunBusy, TimeLimitReached
from harness.events import Ended, Event, Observer
from harness.options import AblateOptions, RunOptions
from harness.spec.cost import Cost
from harness.spec.experiment import ExperimentSpec
from harness.stop import Stop
from harness.tracking.provenance import DISTRIBUTION

GRACE = 30.0  # seconds a run has to save its state after it was told to stop


@dataclass(frozen=True)
class Job:
    """One run to be done."""

    run_id: str
    spec: ExperimentSpec
    seed: int
    options: RunOptions
    """As the study's; device, threads and time limit are the executor's to fill in."""
    cost: Cost | None = None
    """What the plan has counted for the spec, so that the run need not count again."""


class Executor(Protocol):
    """Does the runs of a study. Making one checks what it needs, and starts nothing that trains."""

    @property
    def slots(self) -> int:
        """Runs at once."""
        ...

    def conditions(self, precision: str) -> tuple[str, str]:
        """Type of device and precision of such a run; `auto` stays where only the machine that takes it knows."""
        ...

    def execute(
        self, jobs: Sequence[Job], observer: Observer, stop: Stop, *, fail_fast: bool = False
    ) -> dict[str, str]:
        """Do all jobs.

        Args:
            jobs: in the order in which they are started.
            observer: told of every event of every run, in this process; of each job an `Ended` is the last.
            stop: once it says so, no job is started and those under way are asked to save their state.
            fail_fast: likewise once a run has failed.

        Returns:
            The status of every job that was started, by run id: a record's status, "busy" where another
            process has the run, or "refused" where it could not be started at all.
        """
        ...


def executor_for(options: AblateOptions) -> Executor:
    """The executor that the options ask for.

    Raises:
        InputError: it can't be had here: a missing extra, GPUs that are not there, options of another executor.
    """
    if options.executor == "ray":
        from harness.study.on_ray import RayExecutor

        return RayExecutor(options)
    if options.executor == "slurm":
        from harness.study.on_slurm import SlurmExecutor

        return SlurmExecutor(options)
    from harness.study.local import LocalExecutor

    return LocalExecutor(options)


def missing_extra(extra: str) -> InputError:
    """The error of an executor whose library is not installed."""
    fix = f'pip install "{DISTRIBUTION}[{extra}]"'
    return InputError(
        f"the executor {extra} needs an extra that is not installed", where=f"--executor {extra}", fix=fix
    )


def perform(job: Job, observer: Observer, stop: Stop) -> Ended:
    """The job, in this process, whatever comes of it; `observer` is told all but the `Ended` that is returned."""
    from harness.runner import run  # torch, which only the process of a run needs
    from harness.training import guard

    if job.cost:
        guard.remember(job.spec, job.cost)

    recorded: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Ended) and event.run_id == job.run_id:
            recorded.append(event.status)
        observer(event)

    try:
        run(job.spec, job.seed, job.options, listen, stop)
        ended = Ended(job.run_id, "completed")
    except (Interrupted, TimeLimitReached):
        ended = Ended(job.run_id, "interrupted")
    except KeyboardInterrupt:
        ended = Ended(job.run_id, "interrupted", "before its first step")
    except RunBusy as error:
        ended = Ended(job.run_id, "busy", str(error))
    except InputError as error:
        ended = Ended(job.run_id, "refused", str(error))
    except HarnessError as error:
        ended = Ended(job.run_id, getattr(error, "status", "crashed"), str(error))
    return replace(ended, status=recorded[-1]) if recorded else ended  # the record's status is the run's


def is_failure(status: str) -> bool:
    return status not in ("completed", "stopped_early", "interrupted", "busy")
