"""The plan of a study: arms x seeds, what each costs, what is done, what there is to do, and the expected time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from itertools import chain
from typing import Any, Literal, Protocol

from harness.earlier import on_other_hardware
from harness.errors import InputError
from harness.matching import solve
from harness.reporting.dunnett import detectable_difference
from harness.reporting.statistics import smallest_sign_flip_p
from harness.space import needed, space_of
from harness.spec import identity
from harness.spec.ablation import Arm, Study
from harness.spec.cost import Cost
from harness.spec.experiment import ExperimentSpec
from harness.spec.loss import Distill
from harness.study.expected import Pace, Sample, pace_of, schedule
from harness.study.spread import Spread, spread_of
from harness.teacher import find, lineage, resolve_study
from harness.tracking.record import Record
from harness.tracking.store import RunFolder, Store, by_run_id

State = Literal["done", "to_do", "running", "failed"]

SEEDS_TO_TELL = (3, 5, 8, 10, 15, 20, 30, 50, 100)  # of which the next ones above a study's own are told
MORE_SEEDS = 3  # how many of them


@dataclass(frozen=True)
class PlannedRun:
    """One arm with one seed. `record` is what the store holds of it; `folder` where it is or will be.

    `run_id` and `folder` are None as long as the arm's teacher is not trained: its weights are in the identity.
    """

    arm: Arm
    seed: int
    run_id: str | None
    state: State
    record: Record | None
    folder: RunFolder | None
    other_hardware: str | None = None
    """What it was made on and what it would be made on here, in words, where `ablate` minds (`harness.earlier`)."""

    @property
    def is_refused(self) -> bool:
        """`ablate` takes what there is of it with --any-device only, and says so before anything runs."""
        return self.other_hardware is not None and self.state in ("done", "to_do")

    @property
    def begun(self) -> bool:
        """It was left before its end with a state saved, and goes on there."""
        if self.state != "to_do" or self.record is None or self.folder is None:
            return False
        return any(path.exists() for path in self.folder.states())

    @property
    def share_left(self) -> float:
        """Of its epochs, those that are still to be trained, as far as the record knows; 0 for a finished run."""
        if self.state == "done":
            return 0.0
        return 1 - self.record.epochs_done / self.arm.spec.train.epochs if self.record and self.begun else 1.0


@dataclass(frozen=True)
class PlannedArm:
    """One arm: its cost and its runs, in the order of the study's seeds."""

    arm: Arm
    cost: Cost
    runs: tuple[PlannedRun, ...]
    teacher_macs: int = 0
    """Of the forward pass of the network it learns from; 0 without one."""

    @property
    def epoch_work(self) -> int:
        """MACs of an epoch of training: a step is three forward passes, and one of the teacher."""
        return (3 * self.cost.macs + self.teacher_macs) * self.arm.spec.train_images

    @property
    def work(self) -> int:
        """MACs of one run from its beginning to its last epoch."""
        return self.epoch_work * self.arm.spec.train.epochs

    @property
    def headroom(self) -> int | None:
        """Parameters left under the budget; None where there is no limit."""
        limit = self.arm.spec.guard.max_parameters
        return None if limit is None else limit - self.cost.trainable_parameters


@dataclass(frozen=True)
class PlannedTeacher:
    """An experiment that arms learn from: trained first, with its own seed, then reused."""

    spec: ExperimentSpec
    cost: Cost
    run: PlannedRun
    arms: frozenset[str] = frozenset()
    """Names of those that can't be trained without it: they learn from it, or from one that does and is not trained."""
    teacher_macs: int = 0
    """Of the forward pass of its own teacher; 0 without one."""

    @property
    def work(self) -> int:
        """MACs of its training."""
        return (3 * self.cost.macs + self.teacher_macs) * self.spec.train_images * self.spec.train.epochs


@dataclass(frozen=True)
class Plan:
    """A study against a store."""

    study: Study
    arms: tuple[PlannedArm, ...]
    spread: Spread
    teachers: tuple[PlannedTeacher, ...] = ()
    pace: Pace | None = None
    """How fast runs like these go, as far as anything tells."""
    given_up: frozenset[str] = frozenset()
    """Run ids of teachers that failed in this very command: it does not train them again where they are arms too."""

    @cached_property  # most of a second, which a study that only runs need not wait for
    def detectable_difference(self) -> float | None:
        """The true difference that the study's seeds find with 80 % power, a fraction; None where n < 2 or one arm."""
        return self._detectable(len(self.study.seeds))

    @cached_property
    def more_seeds(self) -> tuple[tuple[int, float], ...]:
        """(n, the difference that n seeds can show), this study's own n first; empty for a plan with one seed."""
        n = len(self.study.seeds)
        if self.detectable_difference is None:
            return ()
        above = [seeds for seeds in SEEDS_TO_TELL if seeds > n][:MORE_SEEDS]
        more = [(seeds, self._detectable(seeds)) for seeds in above]
        found = [(n, self.detectable_difference), *more]
        return tuple((seeds, value) for seeds, value in found if value is not None)

    def _detectable(self, seeds: int) -> float | None:
        others = len(self.study.arms) - 1
        return detectable_difference(seeds, others, self.spread.sd) if seeds > 1 and others else None

    @property
    def smallest_sign_flip_p(self) -> float:
        return smallest_sign_flip_p(len(self.study.seeds))

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        return tuple(run for arm in self.arms for run in arm.runs)

    def count(self, state: State) -> int:
        return sum(run.state == state for run in self.runs)

    def space(self, runs: Sequence[PlannedRun], at_once: int, *, mirrored: bool = True) -> int:
        """Bytes of the disk that `runs` need, and the teachers that are to be trained for them.

        `at_once`: how many of them at the same time. `mirrored`: they have a Weights & Biases mirror. States of runs
        that go on are there already.
        """
        of_arm = {
            planned.arm.name: space_of(planned.arm.spec, planned.cost, mirrored=mirrored) for planned in self.arms
        }
        spaces = [of_arm[run.arm.name] for run in runs]
        named = _ids(runs)  # a teacher may be an arm too
        to_train = [t for t in self.teachers_of(runs) if t.run.state == "to_do" and t.run.run_id not in named]
        spaces += [space_of(teacher.spec, teacher.cost, mirrored=mirrored) for teacher in to_train]
        begun = [run for run in (*runs, *(teacher.run for teacher in to_train)) if run.begun]
        there = sum(run.folder.state_bytes for run in begun if run.folder)
        return max(needed(spaces, at_once) - there, 0)

    def teachers_of(self, runs: Iterable[PlannedRun]) -> list[PlannedTeacher]:
        """Those that `runs` can't be trained without."""
        arms = {run.arm.name for run in runs}
        return [teacher for teacher in self.teachers if teacher.arms & arms]

    def lacks_teacher(self, run: PlannedRun) -> bool:
        """It can't be trained as long as a teacher of its arm is not."""
        return run.run_id is None or any(teacher.run.state != "done" for teacher in self.teachers_of([run]))

    @property
    def failed_teacher(self) -> PlannedRun | None:
        """One that runs which are to do can't be trained without; None: there is none."""
        wanted = self.teachers_of(run for run in self.runs if run.state == "to_do")
        return next((teacher.run for teacher in wanted if teacher.run.state == "failed"), None)

    def elsewhere(self) -> dict[str | None, list[PlannedRun]]:
        """Finished runs that were not made for this study, by the study that made them; None: a run of its own."""
        found: dict[str | None, list[PlannedRun]] = {}
        for run in self.runs:
            if run.state == "done" and run.record and run.record.study != self.study.name:
                found.setdefault(run.record.study, []).append(run)
        return found

    def expected_seconds(self, states: Sequence[State] = ("to_do",)) -> float | None:
        """Of all runs in these states, their teachers too, one after the other; None: nothing known."""
        return self.wall_seconds(1, states)

    def wall_seconds(self, jobs: int, states: Sequence[State] = ("to_do",)) -> float | None:
        """Likewise with `jobs` runs at once, seed by seed as `ablate` starts them; teachers come first, one by one."""
        if self.pace is None:
            return None
        teachers = self.teachers_of(run for run in self.runs if run.state != "done")
        first = [teacher for teacher in teachers if teacher.run.state in states]
        trained = _ids(teacher.run for teacher in first)  # one that is an arm too is not trained again
        columns = zip(*(arm.runs for arm in self.arms), strict=True)
        work = {planned.arm.name: planned.work for planned in self.arms}
        runs = [run for column in columns for run in column if run.state in states and run.run_id not in trained]
        seconds = schedule([work[run.arm.name] * run.share_left for run in runs], jobs)
        return self.pace.seconds_per_mac * (sum(teacher.work * teacher.run.share_left for teacher in first) + seconds)


def _ids(runs: Iterable[PlannedRun]) -> set[str]:
    """Of those that have one."""
    return {run.run_id for run in runs if run.run_id}


class Count(Protocol):
    """As `harness.training.guard.check_budget`, here or in another process."""

    def __call__(self, specs: Sequence[ExperimentSpec], places: Sequence[str] = ()) -> list[Cost]: ...


Hardware = Callable[[str], tuple[str, str]]
"""Precision as written -> the device's type and the precision it computes in; `auto` where that is not known."""


def make_plan(
    study: Study,
    store: Store,
    device_type: str | None = None,
    count: Count | None = None,
    hardware: Hardware | None = None,
) -> Plan:
    """Check every arm against its budget and look up every run; no data is needed.

    Args:
        study: what is planned.
        store: where its runs are, or will be.
        device_type: "cpu", "cuda" or "mps": the expected time is that of runs on such a device if there are any.
        count: what every arm costs; by default counted here, which takes torch.
        hardware: what runs would be made on; without it none is held against that.

    Raises:
        InputError: some arms are over their budget; all of them are named. A teacher can't teach.
    """
    count = count or _count_here
    study = resolve_study(solve(study), store)
    places = [f"{study.path or study.name}: {arm.name}" for arm in study.arms]
    costs = count([arm.spec for arm in study.arms], places)
    stored = _Stored(store, hardware)
    macs: dict[str | None, int] = {None: 0}
    macs |= {teacher: _teacher_macs(distill, store, count) for teacher, distill in _distillations(study).items()}
    arms = tuple(
        PlannedArm(arm, cost, stored.look_up(arm, study.seeds), macs[_teacher_of(arm)])
        for arm, cost in zip(study.arms, costs, strict=True)
    )
    spread = spread_of(study, [[run.record for run in arm.runs if run.record] for arm in arms], stored.records)
    return Plan(
        study,
        arms,
        spread,
        _teachers(study, store, stored, count),
        pace_of(study.base.spec, costs[0].macs, _samples(arms), stored.entries.values(), device_type),
    )


def _samples(arms: Sequence[PlannedArm]) -> list[Sample]:
    """What is there of the study's own runs."""
    return [
        Sample(run.record, run.folder, planned.epoch_work, own=True)
        for planned in arms
        for run in planned.runs
        if run.record and run.folder
    ]


def _count_here(specs: Sequence[ExperimentSpec], places: Sequence[str] = ()) -> list[Cost]:
    from harness.training.guard import check_budget

    return check_budget(specs, places)


def _teachers(study: Study, store: Store, stored: _Stored, count: Count) -> tuple[PlannedTeacher, ...]:
    """The teachers given as experiment files, each once, a teacher's own teacher before it."""
    lineages = {name: lineage(distill, store) for name, distill in _distillations(study).items()}
    specs: dict[tuple[str, int], ExperimentSpec] = {}
    for spec in chain.from_iterable(lineages.values()):
        specs.setdefault(_told_by(spec), spec)
    costs = count(list(specs.values()), [f"teacher {spec.name}" for spec in specs.values()])
    runs = {key: stored.look_up(Arm(spec.name, {}, spec), (spec.seed,))[0] for key, spec in specs.items()}
    learning: dict[tuple[str, int], set[str]] = {key: set() for key in specs}
    for arm in study.arms:
        for spec in reversed(lineages.get(_teacher_of(arm) or "", ())):
            learning[_told_by(spec)].add(arm.name)
            if runs[_told_by(spec)].state == "done":
                break
    # any may teach, whatever trained it
    runs = {key: replace(run, other_hardware=None) if run.state == "done" else run for key, run in runs.items()}
    return tuple(
        PlannedTeacher(spec, cost, runs[key], frozenset(learning[key]), _teacher_macs(spec.loss.distill, store, count))
        for (key, spec), cost in zip(specs.items(), costs, strict=True)
    )


def _told_by(teacher: ExperimentSpec) -> tuple[str, int]:
    return identity.spec_digest(teacher), teacher.seed


def _teacher_of(arm: Arm) -> str | None:
    return arm.spec.loss.distill.teacher if arm.spec.loss.distill else None


def _distillations(study: Study) -> dict[str, Distill]:
    """Teacher -> one way in which an arm learns from it: each is looked for once, however many arms it has."""
    return {distill.teacher: distill for arm in study.arms if (distill := arm.spec.loss.distill)}


def _teacher_macs(distill: Distill | None, store: Store, count: Count) -> int:
    if distill is None:
        return 0
    try:
        return count([find(distill, store).spec])[0].macs
    except InputError:  # its digest is written down, and it is not there: nothing is known of it
        return 0


class _Stored:
    """What the store holds of the runs of a study: its folders and its claims, each listed once."""

    def __init__(self, store: Store, hardware: Hardware | None):
        self.store, self.hardware = store, cache(hardware) if hardware else None
        self.entries = by_run_id(store.entries())
        self.claims = store.claims()

    @property
    def records(self) -> list[Record]:
        return [record for _, record in self.entries.values()]

    def look_up(self, arm: Arm, seeds: Sequence[int]) -> tuple[PlannedRun, ...]:
        """The arm's runs, in the order of the seeds."""
        if identity.awaits_teacher(arm.spec):
            return tuple(PlannedRun(arm, seed, None, "to_do", None, None) for seed in seeds)
        return tuple(
            self._run(arm, seed, run_id) for seed, run_id in zip(seeds, identity.run_ids(arm.spec, seeds), strict=True)
        )

    def _run(self, arm: Arm, seed: int, run_id: str) -> PlannedRun:
        folder, record = self.entries.get(run_id) or (self.store.folder(arm.spec.name, run_id), None)
        other = None
        if record and self.hardware:
            other = on_other_hardware(record, folder, self.hardware(arm.spec.train.precision))
        return PlannedRun(arm, seed, run_id, self._state(folder, record), record, folder, other)

    def _state(self, folder: RunFolder, record: Record | None) -> State:
        """A run left behind by its process (killed, interrupted) is to do; one that failed is not, unless asked."""
        if record and record.finished:
            return "done"
        if folder.run_id in self.claims and folder.is_claimed():
            return "running"
        return "failed" if record and record.failed and record.status != "killed" else "to_do"


def to_json(plan: Plan, jobs: int = 1, why: Callable[[PlannedRun], Any] | None = None) -> dict[str, Any]:
    """The document of `harness plan --json`; `jobs` runs at once for the expected time.

    `why` says of a run why it was not taken from the store (`harness.study.explain`).
    """
    return {
        "study": plan.study.name,
        "remarks": list(plan.study.remarks),
        "detectable_difference": plan.detectable_difference,
        "assumed_spread": {"sd": plan.spread.sd, "source": plan.spread.source, "df": plan.spread.df},
        "more_seeds": [{"seeds": n, "detectable_difference": difference} for n, difference in plan.more_seeds],
        "smallest_sign_flip_p": plan.smallest_sign_flip_p,
        "expected_seconds": plan.expected_seconds(),
        "expected": _expected(plan, jobs),
        "disk_bytes": plan.space([run for run in plan.runs if run.state == "to_do"], jobs),
        "teachers": [
            {
                "name": teacher.spec.name,
                **_costs(teacher.spec, teacher.cost),
                "runs": [_run(teacher.run, why)],
            }
            for teacher in plan.teachers
        ],
        "arms": [
            {
                "name": planned.arm.name,
                "overrides": dict(planned.arm.overrides),
                **({"match": asdict(planned.arm.matched)} if planned.arm.matched else {}),
                **_costs(planned.arm.spec, planned.cost),
                "runs": [_run(run, why) for run in planned.runs],
            }
            for planned in plan.arms
        ],
    }


def _costs(spec: ExperimentSpec, cost: Cost) -> dict[str, int | None]:
    return {
        "trainable_parameters": cost.trainable_parameters,
        "max_parameters": spec.guard.max_parameters,
        "macs": cost.macs,
    }


def _run(run: PlannedRun, why: Callable[[PlannedRun], Any] | None) -> dict[str, Any]:
    """`status`, `made_by` and `made_on` are the record's: how it stands, for which study, on which type of device.

    `other_hardware`: why `ablate` would not take it without --any-device; None where it would, or that is not known.
    """
    record = run.record
    known = {
        "status": record and record.status,
        "made_by": record and record.study,
        "made_on": record and record.provenance.get("device_type"),
        "other_hardware": run.other_hardware,
    }
    reason = {"why": why(run)} if why else {}
    return {"seed": run.seed, "run_id": run.run_id, "state": run.state, **known, **reason}


def _expected(plan: Plan, jobs: int) -> dict[str, Any] | None:
    """Device-seconds of what is to do and of what failed, the wall time of the former, and what tells that."""
    if plan.pace is None:
        return None
    return {
        "device_seconds": plan.expected_seconds(),
        "failed_device_seconds": plan.expected_seconds(("failed",)),
        "jobs": jobs,
        "wall_seconds": plan.wall_seconds(jobs),
        "device_type": plan.pace.device_type,
        "device_name": plan.pace.device_name,
        "source": plan.pace.source,
    }
