"""`harness diff A B`: what differs between two runs, two experiment files, or one of each; nothing that is equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.spec.cost import Cost
from harness.spec.difference import Difference, differences
from harness.spec.documents import experiment_from_dict, load_experiment
from harness.spec.experiment import ExperimentSpec
from harness.spec.surroundings import EXPERIMENT_SUFFIXES
from harness.teacher import resolve
from harness.tracking.record import Record, Results, Scores
from harness.tracking.select import find_record
from harness.tracking.store import Store

CONDITIONS = (
    "device_type", "device_name", "precision", "threads", "compiled", "python", "git_commit", "git_dirty",
    "git_diff_digest", "data_digest",
)  # fmt: skip
"""Of a record's provenance what may explain a difference in its results; the packages' versions too."""


@dataclass(frozen=True)
class Side:
    """One of the two: an experiment file, or a run with its record."""

    text: str
    spec: ExperimentSpec
    cost: Cost
    record: Record | None = None

    @property
    def seed(self) -> int:
        return self.record.seed if self.record else self.spec.seed

    @property
    def label(self) -> str:
        """What it is, in words."""
        if self.record is None:
            return f"{self.text} ({self.spec.name})"
        return f"run {self.record.run_id} ({self.record.name} seed {self.seed}), {self.record.status.replace('_', ' ')}"


@dataclass(frozen=True)
class Comparison:
    """What differs; in each difference `here` is of the first, `there` of the second."""

    first: Side
    second: Side
    spec: tuple[Difference, ...]
    """Fields that a result may depend on, the seed too."""
    inert: tuple[Difference, ...]
    """Fields on which no result depends, and what they are called."""
    cost: tuple[Difference, ...]
    conditions: tuple[Difference, ...]
    """Of two runs."""
    results: tuple[Difference, ...]
    """Of two runs: numbers as the records have them."""

    @property
    def is_empty(self) -> bool:
        return not (self.spec or self.cost or self.conditions or self.results)


def side(text: str, store: Store, count: Callable[[ExperimentSpec], Cost]) -> Side:
    """What `text` names: an experiment file by its suffix, else a run as `harness runs` takes it.

    Raises:
        InputError: there is no such thing, or it is no experiment any more.
    """
    if text.endswith(EXPERIMENT_SUFFIXES):
        spec = resolve(load_experiment(Path(text)), store)
        return Side(text, spec, count(spec))
    record = find_record(store, text)
    return Side(text, experiment_from_dict(record.spec), Cost(record.trainable_parameters, record.macs), record)


def compare(first: Side, second: Side) -> Comparison:
    """Everything that differs between two sides."""
    a, b = first.record, second.record
    seeds = _unequal({"seed": first.seed}, {"seed": second.seed})
    return Comparison(
        first,
        second,
        (*differences(first.spec, second.spec), *seeds),
        _unequal(_inert(first.spec), _inert(second.spec)),
        _unequal(vars(first.cost), vars(second.cost)),
        _unequal(_conditions(a), _conditions(b)) if a and b else (),
        _unequal(dict(_results(a)), dict(_results(b))) if a and b else (),
    )


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The document of `harness diff --json`; `difference` is the second less the first, of numbers."""

    def listed(found: tuple[Difference, ...]) -> list[dict[str, Any]]:
        return [
            {"field": item.field, "a": item.here, "b": item.there, "difference": difference_of(item)} for item in found
        ]

    sides = {"a": comparison.first, "b": comparison.second}
    return {
        **{
            key: {"name": side.spec.name, "seed": side.seed, "run_id": side.record and side.record.run_id}
            for key, side in sides.items()
        },
        "spec": listed(comparison.spec),
        "inert": listed(comparison.inert),
        "cost": listed(comparison.cost),
        "conditions": listed(comparison.conditions),
        "results": listed(comparison.results),
    }


def difference_of(item: Difference) -> float | None:
    """The second less the first; None of what is no number, or not there in one of them."""
    numbers = (item.here, item.there)
    if any(not isinstance(value, int | float) or isinstance(value, bool) for value in numbers):
        return None
    return (
        float(item.there - item.here) if any(isinstance(value, float) for value in numbers) else item.there - item.here
    )


def _unequal(here: Mapping[str, Any], there: Mapping[str, Any]) -> tuple[Difference, ...]:
    pairs = [Difference(key, here.get(key), there.get(key)) for key in dict.fromkeys((*here, *there))]
    return tuple(pair for pair in pairs if pair.here != pair.there)


def _inert(spec: ExperimentSpec) -> dict[str, Any]:
    fields: dict[str, Any] = {"guard.max_parameters": spec.guard.max_parameters}
    if spec.loss.distill:
        fields["loss.distill.teacher"] = spec.loss.distill.teacher
    if spec.data.folder:
        fields["data.folder.path"] = spec.data.folder.path
    return fields


def _conditions(record: Record) -> dict[str, Any]:
    told = record.provenance
    packages = told.get("packages") or {}
    return (
        {"numerics": record.numerics}
        | {key: told.get(key) for key in CONDITIONS}
        | {f"packages.{name}": version for name, version in packages.items()}
    )


def _results(record: Record) -> Iterator[tuple[str, Any]]:
    yield "status", record.status
    yield "epochs_done", record.epochs_done
    for which in Results.model_fields:
        scores: Scores | None = getattr(record.results, which)
        for field in Scores.model_fields:
            yield f"{which}.{field}", getattr(scores, field) if scores else None
    yield "test_reads", record.test_reads
    yield from ((f"timings.{part}", value) for part, value in record.timings.items())
    yield "error", record.error.get("message") if record.error else None
    yield "weights.final", record.weights.get("final")
