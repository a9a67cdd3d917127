"""Why a run of a plan is not taken from the store: what is nearest to it there, and what tells the two apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import InputError, Problem
from harness.spec import identity
from harness.spec.diagnostics import show
from harness.spec.difference import Difference
from harness.spec.documents import experiment_from_dict
from harness.spec.experiment import ExperimentSpec
from harness.study.nearest import Nearest
from harness.study.plan import Plan, PlannedRun
from harness.tracking.record import Record
from harness.tracking.store import RunFolder, Store

Kind = Literal[
    "failed", "left", "damaged", "put_aside", "awaits_teacher", "other_hardware",
    "other_numerics", "other_seed", "other_data", "other_teacher", "other_fields", "nothing_near",
]  # fmt: skip
_Near = tuple[list[Record], tuple[Difference, ...]]

MOST_FIELDS = 3  # fields in which a run may differ and still be called near
MOST_SEEDS = 8  # seeds named in one sentence


@dataclass(frozen=True)
class Reason:
    """Why. `gist` is what many runs may have in common, `text` tells it of this one."""

    kind: Kind
    gist: str
    text: str
    nearest: Record | None = None
    differences: tuple[Difference, ...] = ()


class Explainer:
    """Explains the runs of one plan. The store is read once, and every arm compared with it once.

    Args:
        plan: whose runs are asked about.
        store: where they would have been.
    """

    def __init__(self, plan: Plan, store: Store):
        records = [record for record in store.records() if record.finished]
        self.damaged = {_run_id_in(problem): problem for problem in store.problems}
        self.aside = store.aside()
        self.by_digest: dict[str, list[Record]] = {}
        for record in records:
            self.by_digest.setdefault(record.spec_digest, []).append(record)
        asked = [planned.arm.spec for planned in plan.arms] + [teacher.spec for teacher in plan.teachers]
        self.digests = {id(spec): identity.spec_digest(spec) for spec in asked}  # the plan holds them
        self.nearest = self._nearest([spec for spec in asked if self.digests[id(spec)] not in self.by_digest])

    def _nearest(self, asked: Sequence[ExperimentSpec]) -> dict[int, _Near]:
        """For each spec of which nothing has finished: the records of the one most like it, and what differs."""
        known = [(spec, records) for records in self.by_digest.values() if (spec := _spec_of(records[0]))]
        if not known:
            return {}
        found = Nearest([spec for spec, _ in known]).of(asked)
        return {id(spec): (known[at][1], differing) for spec, (at, differing) in zip(asked, found, strict=True)}

    def why(self, run: PlannedRun) -> Reason | None:
        """None where there is nothing to explain: it is done, or is being done."""
        if run.state == "running":
            return None
        if run.record:
            return self._of_its_record(run, run.record)
        if run.run_id is None:
            teacher = run.arm.spec.loss.distill and Path(run.arm.spec.loss.distill.teacher).name
            text = f"its teacher, {teacher}, is not trained yet, and what a run is depends on its teacher's weights"
            return Reason("awaits_teacher", text, text)
        if problem := self.damaged.get(run.run_id):
            return _of_a_bad_folder(problem)
        if path := self.aside.get(run.run_id):
            gist = "it was put aside for --fresh, and has not been made again yet"
            return Reason("put_aside", gist, f"{gist}: {path}")
        alike = self.by_digest.get(self.digests[id(run.arm.spec)])
        return self._of_the_same_spec(run, alike) if alike else self._of_the_nearest(run)

    def _of_its_record(self, run: PlannedRun, record: Record) -> Reason | None:
        if run.is_refused:
            gist = f"{run.other_hardware}: --any-device takes it all the same, --fresh runs it again"
            return Reason("other_hardware", *_twice(gist), record)
        if run.state == "done":
            return None
        status = "killed" if record.status == "running" else record.status  # of a process that is gone
        reached = f"after epoch {record.epochs_done} of {run.arm.spec.train.epochs}"
        if run.state == "failed":
            message = f" ({record.error['message']})" if record.error and record.error.get("message") else ""
            gist = f"{_words(status)}: --retry-failed runs it again"
            return Reason("failed", gist, f"{_words(status)} {reached}{message}: --retry-failed runs it again", record)
        goes_on = _goes_on(run.begun)
        return Reason("left", f"{_words(status)}: {goes_on}", f"{_words(status)} {reached}: {goes_on}", record)

    def _of_the_same_spec(self, run: PlannedRun, alike: Sequence[Record]) -> Reason:
        """The same experiment has finished, with another seed or by code that computed otherwise."""
        nearest = min(alike, key=lambda record: _label_distance(record, run))
        labels = _label_differences(nearest, run.seed)
        if nearest.seed == run.seed:
            return Reason("other_numerics", *_twice(_of_numerics(nearest)), nearest, labels)
        seeds = sorted({record.seed for record in alike if record.numerics == nearest.numerics})
        named = ", ".join(map(str, seeds[:MOST_SEEDS])) + (", ..." if len(seeds) > MOST_SEEDS else "")
        text = f"finished with other seeds only: {named}"
        if nearest.numerics != identity.NUMERICS:
            text += f", and those were {_of_numerics(nearest)}"
        return Reason("other_seed", *_twice(text), nearest, labels)

    def _of_the_nearest(self, run: PlannedRun) -> Reason:
        records, found = self.nearest.get(id(run.arm.spec), ([], ()))
        if not records or len(found) > MOST_FIELDS:
            return Reason("nothing_near", *_twice("nothing like it in the store"))
        nearest = min(records, key=lambda record: _label_distance(record, run))
        if not found:
            there = nearest.provenance.get("data_digest")
            data = Difference("data", run.arm.spec.dataset.digest, there)
            gist = "finished on other data"
            text = f"{gist} (digest {str(there)[:12]}, here {run.arm.spec.dataset.digest[:12]})"
            return Reason("other_data", gist, text, nearest, (data, *_label_differences(nearest, run.seed)))
        labels = _label_differences(nearest, run.seed)
        if [item.field for item in found] == ["loss.distill.teacher_digest"]:
            gist = "finished with another teacher"
            text = f"{gist} (weights {_short(found[0].there)}, here {_short(found[0].here)})"
            return Reason("other_teacher", gist, text, nearest, (*found, *labels))
        shown = [*found, *(item for item in labels if item.field != "seed")]  # another seed is the least of it
        gist = f"the nearest finished run differs in {', '.join(item.field for item in shown)}"
        told = "; ".join(f"{item.field} {_short(item.there)}, here {_short(item.here)}" for item in shown)
        return Reason("other_fields", gist, f"the nearest finished run has {told}", nearest, (*found, *labels))


def _of_a_bad_folder(problem: Problem) -> Reason:
    if not str(problem.where).endswith(".json"):
        return Reason("left", *_twice(_without_a_record(RunFolder(Path(problem.where or "")))))
    gist = "the record is damaged: --fresh puts it aside and runs it again"
    return Reason("damaged", gist, f"{gist} ({problem.where}: {problem.what})")


def _without_a_record(folder: RunFolder) -> str:
    """The record is there before the first step and stays: where there is more than it, it was lost since."""
    begun = any(path.exists() for path in folder.states())
    if begun or folder.journal_path.exists():
        return f"its record is lost: {_goes_on(begun)}"
    return "ended before its first step: it begins again"


def _goes_on(begun: bool) -> str:
    return "its state is saved, and it goes on there" if begun else "no state was saved, and it begins again"


def to_json(reason: Reason) -> dict[str, Any]:
    """`why` of a run in `plan --explain --json`; `nearest` is a run id."""
    return {
        "kind": reason.kind,
        "text": reason.text,
        "nearest": reason.nearest and reason.nearest.run_id,
        "differences": [vars(difference) for difference in reason.differences],
    }


def _twice(text: str) -> tuple[str, str]:
    """Gist and text, where there is nothing more to tell of one run than of many."""
    return text, text


def _of_numerics(record: Record) -> str:
    return f"made by code that computed otherwise (numerics {record.numerics}, now {identity.NUMERICS})"


def _label_distance(record: Record, run: PlannedRun) -> tuple[int, bool, int]:
    """In seed and numerics; of equals the same seed's, then the smallest seed's."""
    other_seed, other_numerics = record.seed != run.seed, record.numerics != identity.NUMERICS
    return other_seed + other_numerics, other_seed, record.seed


def _label_differences(record: Record, seed: int) -> tuple[Difference, ...]:
    """What of a run's identity is not in its spec."""
    pairs = Difference("seed", seed, record.seed), Difference("numerics", identity.NUMERICS, record.numerics)
    return tuple(pair for pair in pairs if pair.here != pair.there)


def _spec_of(record: Record) -> ExperimentSpec | None:
    try:
        return experiment_from_dict(record.spec)
    except InputError:  # of another version of the harness
        return None


def _run_id_in(problem: Problem) -> str:
    """Of the folder that a problem of the store stands at."""
    path = Path(problem.where or "")
    return (path.parent if path.suffix == ".json" else path).name.rpartition("-")[2]


def _words(status: str) -> str:
    return status.replace("_", " ")


def _short(value: Any) -> str:
    return "off" if value is None else show(value, 40)
