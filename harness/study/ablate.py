"""A study from its plan to its report: check all, run what is missing, then write the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.errors import InputError, Interrupted, TimeLimitReached
from harness.events import Observer, silent
from harness.options import RunOptions
from harness.spec.ablation import Study
from harness.stop import Stop
from harness.study.local import Job, execute, threads_per_worker
from harness.study.plan import Plan, PlannedRun, make_plan
from harness.tracking.store import Store
from harness.training.data import ensure_data


@dataclass(frozen=True)
class AblateOptions:
    """How to go through a study; `run` holds what each of its runs is given."""

    run: RunOptions = field(default_factory=RunOptions)
    jobs: int = 1
    retry_failed: bool = False
    fail_fast: bool = False


@dataclass(frozen=True)
class Outcome:
    """The plan as it stands afterwards, and what became of each run that was started."""

    plan: Plan
    statuses: dict[str, str]

    @property
    def failures(self) -> tuple[PlannedRun, ...]:
        return tuple(run for run in self.plan.runs if run.state == "failed" or self._ended_badly(run))

    def _ended_badly(self, run: PlannedRun) -> bool:
        return self.statuses.get(run.run_id) in ("killed", "refused")


def ablate(
    study: Study, options: AblateOptions | None = None, observer: Observer = silent, stop: Stop | None = None
) -> Outcome:
    """Run what is missing of `study`.

    Raises:
        InputError: an arm is over its budget, the runs folder can't be written or data is missing; nothing ran.
        Interrupted, TimeLimitReached: stopped on purpose; every run under way saved its state.
    """
    options = options or AblateOptions()
    stop = stop or Stop(options.run.time_limit)
    store = Store(options.run.runs_dir)
    plan = make_plan(study, store)
    store.ensure_writable()
    chosen = runs_to_do(plan, options)
    _check_data(chosen, options.run.data_dir)
    jobs = [_job(run, study, options) for run in chosen]
    with stop.on_signals():
        statuses = execute(jobs, options.jobs, observer, stop, fail_fast=options.fail_fast)
    _mark_killed(statuses, store)
    after = make_plan(study, store)
    if stop.reason and after.count("to_do"):
        left = f"{after.count('done')} of {len(after.runs)} runs are done; {options.run.continue_with} to go on"
        raise (TimeLimitReached(f"time limit: {left}") if stop.reason == "time_limit" else Interrupted(left))
    return Outcome(after, statuses)


def runs_to_do(plan: Plan, options: AblateOptions) -> list[PlannedRun]:
    """Seed by seed, so that every arm has as many runs as any other whenever the study is looked at."""
    states = {"to_do"}
    if options.retry_failed or options.run.fresh:
        states.add("failed")
    if options.run.fresh:
        states.add("done")
    return [run for runs in zip(*(arm.runs for arm in plan.arms), strict=True) for run in runs if run.state in states]


def _job(run: PlannedRun, study: Study, options: AblateOptions) -> Job:
    threads = options.run.threads or threads_per_worker(options.jobs)
    labels = replace(
        options.run,
        study=study.name,
        arm=run.arm.name,
        notes=study.question,
        planned_seeds=study.seeds,
        threads=threads,
    )
    return Job(run.run_id, run.arm.spec, run.seed, labels)


def _check_data(runs: Sequence[PlannedRun], data_dir: Path) -> None:
    """Once, here, before anything starts: two workers must not download the same files."""
    for name in sorted({run.arm.spec.data.dataset for run in runs}):
        ensure_data(name, data_dir)


def _mark_killed(statuses: dict[str, str], store: Store) -> None:
    """A killed process could not write its last word; its checkpoint is good and the next `ablate` goes on from it."""
    for run_id, status in statuses.items():
        folder = store.find(run_id) if status == "killed" else None
        if folder is None:
            continue
        try:
            record = folder.read_record()
        except InputError:
            continue
        if record.status == "running":
            folder.write_record(record.model_copy(update={"status": "killed"}))
