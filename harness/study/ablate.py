"""A study from its plan to its report: check all, run what is missing, then write the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.earlier import check_same_hardware, claim, set_aside
from harness.errors import HarnessError, InputError, Interrupted, Problem, RunFailed, TimeLimitReached
from harness.events import Elsewhere, Ended, Event, Note, Observer, silent, unbreakable
from harness.options import AblateOptions, RunOptions
from harness.space import check_space
from harness.spec.ablation import Study
from harness.stop import Stop
from harness.study import asked
from harness.study.devices import idle_gpus
from harness.study.executor import Executor, Job, executor_for
from harness.study.plan import Plan, PlannedRun, make_plan
from harness.tracking.claim import Watch, evict
from harness.tracking.record import FAILED, FINISHED
from harness.tracking.store import RunFolder, Store

LOOK_EVERY = 0.5  # seconds between two looks at the runs that others have


@dataclass(frozen=True)
class Outcome:
    """The plan as it stands afterwards, and what became of each run that was started."""

    plan: Plan
    statuses: dict[str, str]
    messages: dict[str, str] = field(default_factory=dict)
    """Of those that ended badly: the last word of each."""

    @property
    def failures(self) -> tuple[PlannedRun, ...]:
        return tuple(run for run in self.plan.runs if run.state == "failed" or self._ended_badly(run))

    @property
    def hindrance(self) -> str | None:
        """What kept a run from its end that is still to do, a full disk for example; None: nothing is known."""
        left = (run for run in self.plan.runs if run.state == "to_do")
        told = next((self.messages[run.run_id] for run in left if run.run_id in self.messages), None)
        return told or _no_teacher(self.plan)

    def _ended_badly(self, run: PlannedRun) -> bool:
        ended = self.statuses.get(run.run_id or "")
        return run.state != "done" and ended in (*FAILED, "refused")  # done by another process meanwhile


def ablate(
    study: Study, options: AblateOptions | None = None, observer: Observer = silent, stop: Stop | None = None
) -> Outcome:
    """Run what is missing of `study`, teachers first, each run in a process of its own.

    Those processes import the calling script: a script needs the usual `if __name__ == "__main__":`.

    Other processes, on this host or others, may do the same study at the same time: each run is done by one of them.
    Those that others have are waited for, and done here where their process dies. Arms whose teacher fails are left.

    Raises:
        InputError: an arm is over its budget, there is no such device, the runs folder can't be written or has no
            room, data is missing, or a run was made on other hardware (unless `any_device`); nothing ran.
        RunFailed: a teacher was killed, could not start or could not go on, or failed under `fail_fast`.
        Interrupted, TimeLimitReached: stopped on purpose; every run under way saved its state.
    """
    options = options or AblateOptions()
    stop = stop or Stop(options.run.time_limit)
    return run_planned(train_teachers(study, options, observer, stop), options, observer, stop)


def run_planned(plan: Plan, options: AblateOptions, observer: Observer, stop: Stop) -> Outcome:
    """The part of `ablate` that comes after its teachers: what `plan` has to do, but for runs that lack theirs."""
    store = Store(options.run.runs_dir)
    executor = executor_for(options)
    study = plan.study
    chosen = runs_to_start(plan, options)
    _check_hardware(plan, options, executor)
    _check_data(chosen, options.run.data_dir)
    store.ensure_writable()
    observer = unbreakable(observer)
    if options.run.fresh:
        _tell_kept_teachers(plan, observer)
        _set_aside(chosen, store, observer)
    messages: dict[str, str] = {}

    def listen(event: Event) -> None:
        if isinstance(event, Ended) and event.message:
            messages[event.run_id] = event.message
        observer(event)

    if len(chosen) > 1 and (idle := idle_gpus(options)):
        observer(Note("", idle))
    statuses: dict[str, str] = {}
    with stop.on_signals():
        while True:
            if chosen:
                jobs = [_job(run, plan, options) for run in chosen]
                statuses |= executor.execute(jobs, listen, stop, fail_fast=options.fail_fast)
                _mark_killed(statuses, store)
            after = make_plan(study, store, count=asked.check_budget)
            outcome = Outcome(after, statuses, messages)
            if stop() or (options.fail_fast and outcome.failures):
                break
            chosen = _left_by_others(after, statuses)
            elsewhere = [run for run in after.runs if run.state == "running"]
            if not chosen and not elsewhere:
                break
            if not chosen:
                wait_for_others(elsewhere, observer, stop)
    store.sweep_claims()
    if stop.reason and (after.count("to_do") or after.count("running")):
        left = f"{after.count('done')} of {len(after.runs)} runs are done; {options.run.continue_with} to go on"
        raise (TimeLimitReached(f"time limit: {left}") if stop.reason == "time_limit" else Interrupted(left))
    return outcome


def train_teachers(study: Study, options: AblateOptions, observer: Observer, stop: Stop) -> Plan:
    """Train the teachers that are not trained yet, one after another, of runs that are to be done.

    Returns:
        The plan with all identities known, but for arms whose teacher failed.

    Raises:
        RunFailed: a teacher was killed, could not start or could not go on, or failed under `fail_fast`.
        InputError, Interrupted, TimeLimitReached: as `ablate`.
    """
    store = Store(options.run.runs_dir)
    plan = make_plan(study, store, count=asked.check_budget)
    _check_hardware(plan, options, executor_for(options))
    _check_space(plan, options)
    tried = set[str]()
    while teacher := _next_teacher(plan, options, tried):
        if teacher.state == "running":
            with stop.on_signals():
                wait_for_others([teacher], unbreakable(observer), stop)
            if stop.reason:
                raise _teacher_left(teacher, options.run, stop)
        elif _train_teacher(teacher, options, store, observer, stop) in FAILED:
            tried.add(_id(teacher))
        plan = make_plan(study, store, count=asked.check_budget)
    if failed := _no_teacher(plan):
        if options.fail_fast:
            raise RunFailed(failed)
        unbreakable(observer)(Note("", failed, warning=True))
    return replace(plan, given_up=frozenset(tried))


def _next_teacher(plan: Plan, options: AblateOptions, tried: set[str]) -> PlannedRun | None:
    """The next one to be trained, of those that a run which is to be done learns from; None: there is none."""
    teachers = [planned.run for planned in plan.teachers_of(runs_to_do(plan, options))]
    states = {"to_do", "running", *(("failed",) if options.retry_failed else ())}
    return next((run for run in teachers if run.run_id and run.run_id not in tried and run.state in states), None)


def _no_teacher(plan: Plan) -> str | None:
    """Why runs that are to do lack a teacher, in words; None: they lack none, or none that failed."""
    failed = plan.failed_teacher
    if failed is None or failed.record is None:
        return None
    what = f"the teacher, {failed.arm.name} (seed {failed.seed}), is {failed.record.status.replace('_', ' ')}"
    return f"{what}: no arm can learn from it; --retry-failed trains it again"


def _train_teacher(run: PlannedRun, study: AblateOptions, store: Store, observer: Observer, stop: Stop) -> str:
    """The status with which it ended."""
    options, executor = study.run, executor_for(replace(study, jobs=1))
    hardware = executor.conditions(run.arm.spec.train.precision)
    if run.record and run.folder and not options.any_device:
        check_same_hardware(run.record, run.folder, hardware)
    _check_data([run], options.data_dir)
    store.ensure_writable()
    job = Job(_id(run), run.arm.spec, run.seed, replace(options, fresh=False, patient=False))
    observer, why = unbreakable(observer), ""

    def listen(event: Event) -> None:
        nonlocal why
        if isinstance(event, Ended):
            why = event.message
        observer(event)

    with stop.on_signals():
        statuses = executor.execute([job], listen, stop)
    _mark_killed(statuses, store)
    status = statuses.get(_id(run), "interrupted")
    if status == "interrupted" and (stop() or not why):
        raise _teacher_left(run, options, stop)
    if status == "killed" or status not in FINISHED | FAILED | {"busy"}:
        what = f"the teacher, {run.arm.name} (seed {run.seed}), ended as {status}, and no arm can learn from it"
        raise RunFailed(f"{what}: {why}" if why else what)
    return status


def _teacher_left(run: PlannedRun, options: RunOptions, stop: Stop) -> HarnessError:
    left = f"the teacher, {run.arm.name}, is not trained yet; {options.continue_with} to go on"
    return TimeLimitReached(f"time limit: {left}") if stop.reason == "time_limit" else Interrupted(left)


def _id(run: PlannedRun) -> str:
    """Of a run whose teachers are all trained."""
    assert run.run_id
    return run.run_id


def runs_to_do(plan: Plan, options: AblateOptions) -> list[PlannedRun]:
    """Seed by seed, so that every arm has as many runs as any other whenever the study is looked at."""
    states = {"to_do"}
    if options.retry_failed or options.run.fresh:
        states.add("failed")
    if options.run.fresh:
        states.add("done")
    runs = [run for runs in zip(*(arm.runs for arm in plan.arms), strict=True) for run in runs if run.state in states]
    kept = {run.run_id for run in runs if run.state == "done"} & _teaching(plan)
    return [run for run in runs if run.run_id not in kept | plan.given_up]


def runs_to_start(plan: Plan, options: AblateOptions) -> list[PlannedRun]:
    """Of these runs those whose teachers are trained."""
    return [run for run in runs_to_do(plan, options) if not plan.lacks_teacher(run)]


def _left_by_others(plan: Plan, statuses: dict[str, str]) -> list[PlannedRun]:
    """What is to do, of that which was not tried here yet: its claimant died, or stopped."""
    return [run for run in runs_to_start(plan, AblateOptions()) if statuses.get(_id(run), "busy") == "busy"]


def wait_for_others(runs: Sequence[PlannedRun], observer: Observer, stop: Stop) -> None:
    """Until one of `runs`, which other processes have, is nobody's any more, or `stop` says so.

    Also a holder that shows no heartbeat for long enough loses its run, wherever it is.
    """
    watches = {run.run_id: Watch() for run in runs}
    told: dict[str | None, Elsewhere] = {}
    while not stop():
        for run in runs:
            holder = run.folder.holder() if run.folder else None
            if holder is None or run.folder is None:
                return
            if watches[run.run_id].is_stale(holder):
                evict(run.folder.claim_path, holder)
                return
            event = Elsewhere(_id(run), str(holder), _epochs_done(run.folder), run.arm.spec.train.epochs)
            if told.get(run.run_id) != event:
                told[run.run_id] = event
                observer(event)
        time.sleep(LOOK_EVERY)


def _epochs_done(folder: RunFolder) -> int:
    try:
        return folder.read_record().epochs_done
    except InputError:  # it has only begun
        return 0


def _teaching(plan: Plan) -> set[str | None]:
    return {teacher.run.run_id for teacher in plan.teachers}


def _tell_kept_teachers(plan: Plan, observer: Observer) -> None:
    """A teacher that is an arm too is not run again: the students' identities rest on the weights it has."""
    for run in plan.runs:
        if run.state == "done" and run.run_id in _teaching(plan):
            text = f"{run.arm.name} seed {run.seed} is kept: other arms learn from it"
            observer(Note(str(run.run_id), text, warning=True))


def _job(run: PlannedRun, plan: Plan, options: AblateOptions) -> Job:
    study = plan.study
    costs = {planned.arm.name: planned.cost for planned in plan.arms}
    labels = replace(
        options.run,
        study=study.name,
        arm=run.arm.name,
        notes=study.question,
        planned_seeds=study.seeds,
        fresh=False,  # what was there has been put aside
        patient=False,  # the study watches, not each of its workers
        retry=run.state == "failed",  # what failed elsewhere meanwhile has failed here
    )
    return Job(_id(run), run.arm.spec, run.seed, labels, costs[run.arm.name])


def _check_hardware(plan: Plan, options: AblateOptions, executor: Executor) -> None:
    """Every run that counts, or goes on, was made on the hardware of this study."""
    problems: list[Problem] = []
    for planned in plan.arms:
        hardware = executor.conditions(planned.arm.spec.train.precision)
        for run in planned.runs:
            counts = run.state != "failed" or options.retry_failed
            if counts and run.record and run.folder and not options.run.any_device and not options.run.fresh:
                try:
                    check_same_hardware(run.record, run.folder, hardware)
                except InputError as error:
                    problems += error.problems
    if problems:
        raise InputError(problems)


def _set_aside(runs: Sequence[PlannedRun], store: Store, observer: Observer) -> None:
    """All of them before the first is run again, so that an interruption leaves no old result among the new."""
    there = store.named_ids()  # a damaged one too, of which the plan has no record
    for run in runs:
        if run.folder and (run.record or run.run_id in there):
            with claim(run.folder):
                set_aside(store, _id(run), observer)


def _check_space(plan: Plan, options: AblateOptions) -> None:
    """Before anything starts: a disk that fills up would be found after hours."""
    runs, mirrored = runs_to_do(plan, options), options.run.wandb != "disabled"
    need = plan.space(runs, executor_for(options).slots, mirrored=mirrored)
    check_space(options.run.runs_dir, need, f"the {len(runs)} runs that are to do")


def _check_data(runs: Sequence[PlannedRun], data_dir: Path) -> None:
    """Once, here, before anything starts: two workers must not download the same files."""
    if runs:
        asked.ensure_data((run.arm.spec.data for run in runs), data_dir)


def _mark_killed(statuses: dict[str, str], store: Store) -> None:
    """A killed process could not write its last word; its checkpoint is good and the next `ablate` goes on from it."""
    for run_id, status in statuses.items():
        folder = store.find(run_id) if status == "killed" else None
        if folder is None:
            continue
        try:
            with claim(folder):  # unless another process has taken it over meanwhile
                record = folder.read_record()
                if record.status == "running":
                    folder.write_record(record.model_copy(update={"status": "killed"}))
        except InputError:
            continue
