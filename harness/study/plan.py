"""The plan of a study: arms x seeds, what each costs, what is done, what there is to do, and the expected time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import InputError
from harness.reporting.dunnett import detectable_difference
from harness.reporting.runs import metric_of
from harness.reporting.statistics import pooled_spread, smallest_sign_flip_p
from harness.spec import identity
from harness.spec.ablation import Arm, Study
from harness.spec.experiment import ExperimentSpec
from harness.spec.loss import Distill
from harness.teacher import find, lineage, resolve_study
from harness.tracking.record import Record
from harness.tracking.store import RunFolder, Store
from harness.training.guard import Cost, check_budget
from harness.training.guard import cost as cost_of

State = Literal["done", "to_do", "running", "failed"]

ASSUMED_SPREAD = 0.002  # standard deviation of accuracy over seeds, where no finished runs tell it
GUESS_BELOW = 5  # degrees of freedom under which a spread is a guess


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


@dataclass(frozen=True)
class PlannedArm:
    """One arm: its cost and its runs, in the order of the study's seeds."""

    arm: Arm
    cost: Cost
    runs: tuple[PlannedRun, ...]
    teacher_macs: int = 0
    """Of the forward pass of the network it learns from; 0 without one."""

    @property
    def work(self) -> int:
        """What one run costs, in MACs per training image: a step is three forward passes, and one of the teacher."""
        return (3 * self.cost.macs + self.teacher_macs) * self.arm.spec.train.epochs

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


@dataclass(frozen=True)
class Spread:
    """The standard deviation that the detectable difference assumes, where it is from, its degrees of freedom."""

    sd: float
    source: str
    df: int

    @property
    def is_guess(self) -> bool:
        return self.df < GUESS_BELOW


@dataclass(frozen=True)
class Plan:
    """A study against a store. `detectable_difference`: a fraction, at 80 % power; None where n < 2 or one arm."""

    study: Study
    arms: tuple[PlannedArm, ...]
    spread: Spread
    detectable_difference: float | None
    smallest_sign_flip_p: float
    teachers: tuple[PlannedTeacher, ...] = ()

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        return tuple(run for arm in self.arms for run in arm.runs)

    def count(self, state: State) -> int:
        return sum(run.state == state for run in self.runs)

    def expected_seconds(self) -> float | None:
        """Of all that is to do, in one process; from finished runs, scaled by MACs and epochs. None: nothing known."""
        known = [run for run in self.runs if run.state == "done" and run.record and run.record.timings.get("total")]
        if not known:
            return None
        work = {arm.arm.name: arm.work for arm in self.arms}
        pace = sum(run.record.timings["total"] for run in known if run.record) / sum(work[r.arm.name] for r in known)
        teaching = sum(3 * t.cost.macs * t.spec.train.epochs for t in self.teachers if t.run.state == "to_do")
        return pace * (teaching + sum(work[r.arm.name] for r in self.runs if r.state in ("to_do", "failed")))


def make_plan(study: Study, store: Store) -> Plan:
    """Check every arm against its budget and look up every run.

    Raises:
        InputError: some arms are over their budget; all of them are named. A teacher can't teach.
    """
    study = resolve_study(study, store)
    costs = check_budget([arm.spec for arm in study.arms])
    stored = _Stored(store)
    macs: dict[str | None, int] = {None: 0}
    macs |= {teacher: _teacher_macs(distill, store) for teacher, distill in _distillations(study).items()}
    arms = tuple(
        PlannedArm(arm, cost, stored.look_up(arm, study.seeds), macs[_teacher_of(arm)])
        for arm, cost in zip(study.arms, costs, strict=True)
    )
    spread = _spread(arms)
    n, others = len(study.seeds), len(study.arms) - 1
    detectable = detectable_difference(n, others, spread.sd) if n > 1 and others else None
    teachers = _teachers(study, store, stored)
    return Plan(study, arms, spread, detectable, smallest_sign_flip_p(n), teachers)


def _teachers(study: Study, store: Store, stored: _Stored) -> tuple[PlannedTeacher, ...]:
    """The teachers given as experiment files, each once, a teacher's own teacher before it."""
    specs: dict[str, ExperimentSpec] = {}
    for distill in _distillations(study).values():
        for teacher in lineage(distill, store):
            specs.setdefault(identity.spec_digest(teacher), teacher)
    costs = check_budget(list(specs.values()), [f"teacher {spec.name}" for spec in specs.values()])
    arms = [Arm(spec.name, {}, spec) for spec in specs.values()]
    runs = [run for arm in arms for run in stored.look_up(arm, (arm.spec.seed,))]
    return tuple(PlannedTeacher(run.arm.spec, cost, run) for cost, run in zip(costs, runs, strict=True))


def _teacher_of(arm: Arm) -> str | None:
    return arm.spec.loss.distill.teacher if arm.spec.loss.distill else None


def _distillations(study: Study) -> dict[str, Distill]:
    """Teacher -> one way in which an arm learns from it: each is looked for once, however many arms it has."""
    return {distill.teacher: distill for arm in study.arms if (distill := arm.spec.loss.distill)}


def _teacher_macs(distill: Distill, store: Store) -> int:
    try:
        return cost_of(find(distill, store).spec).macs
    except InputError:  # its digest is written down, and it is not there: nothing is known of it
        return 0


class _Stored:
    """What the store holds of the runs of a study: its folders and its locks, each listed once."""

    def __init__(self, store: Store):
        self.store = store
        self.entries = {record.run_id: (folder, record) for folder, record in store.entries()}
        self.locks = store.locks()

    def look_up(self, arm: Arm, seeds: Sequence[int]) -> tuple[PlannedRun, ...]:
        """The arm's runs, in the order of the seeds."""
        if identity.awaits_teacher(arm.spec):
            return tuple(PlannedRun(arm, seed, None, "to_do", None, None) for seed in seeds)
        return tuple(
            self._run(arm, seed, run_id) for seed, run_id in zip(seeds, identity.run_ids(arm.spec, seeds), strict=True)
        )

    def _run(self, arm: Arm, seed: int, run_id: str) -> PlannedRun:
        folder, record = self.entries.get(run_id) or (self.store.folder(arm.spec.name, run_id), None)
        return PlannedRun(arm, seed, run_id, self._state(folder, record), record, folder)

    def _state(self, folder: RunFolder, record: Record | None) -> State:
        """A run left behind by its process (killed, interrupted) is to do; one that failed is not, unless asked."""
        if record and record.finished:
            return "done"
        if folder.run_id in self.locks and folder.is_claimed():
            return "running"
        return "failed" if record and record.failed and record.status != "killed" else "to_do"


def _spread(arms: Sequence[PlannedArm]) -> Spread:
    groups = [[accuracy for run in arm.runs if (accuracy := _headline(run)) is not None] for arm in arms]
    pooled = pooled_spread(groups)
    if pooled is None or pooled[1] == 0 or pooled[0] == 0:
        return Spread(ASSUMED_SPREAD, "assumed: this study has no two finished runs of one arm yet", 0)
    return Spread(pooled[0], "pooled over this study's finished runs", pooled[1])


def _headline(run: PlannedRun) -> float | None:
    final = run.record.results.final if run.record and run.state == "done" else None
    if final is None:
        return None
    value: float | None = getattr(final, metric_of(run.arm.spec.data.protocol))
    return value


def to_json(plan: Plan) -> dict[str, Any]:
    """The document of `harness plan --json`."""
    return {
        "study": plan.study.name,
        "detectable_difference": plan.detectable_difference,
        "assumed_spread": {"sd": plan.spread.sd, "source": plan.spread.source, "df": plan.spread.df},
        "smallest_sign_flip_p": plan.smallest_sign_flip_p,
        "expected_seconds": plan.expected_seconds(),
        "teachers": [
            {
                "name": teacher.spec.name,
                "trainable_parameters": teacher.cost.trainable_parameters,
                "max_parameters": teacher.spec.guard.max_parameters,
                "macs": teacher.cost.macs,
                "runs": [{"seed": teacher.run.seed, "run_id": teacher.run.run_id, "state": teacher.run.state}],
            }
            for teacher in plan.teachers
        ],
        "arms": [
            {
                "name": planned.arm.name,
                "overrides": dict(planned.arm.overrides),
                "trainable_parameters": planned.cost.trainable_parameters,
                "max_parameters": planned.arm.spec.guard.max_parameters,
                "macs": planned.cost.macs,
                "runs": [{"seed": run.seed, "run_id": run.run_id, "state": run.state} for run in planned.runs],
            }
            for planned in plan.arms
        ],
    }
