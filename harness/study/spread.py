"""The spread over seeds that a study's power rests on: what it is, where it comes from, how well it is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.reporting.runs import metric_of
from harness.reporting.statistics import pooled_spread
from harness.spec.ablation import Study
from harness.tracking.record import Record

ASSUMED_SPREAD = 0.002  # standard deviation of accuracy over seeds, where no finished runs tell it
GUESS_BELOW = 5  # degrees of freedom under which a spread is a guess


@dataclass(frozen=True)
class Spread:
    """The standard deviation that the detectable difference assumes, where it is from, its degrees of freedom."""

    sd: float
    source: str
    df: int

    @property
    def is_guess(self) -> bool:
        return self.df < GUESS_BELOW


def spread_of(study: Study, arms: Iterable[Sequence[Record]], stored: Iterable[Record]) -> Spread:
    """Pooled over the study's finished runs; else over finished runs that are like them; else assumed.

    Args:
        study: what is planned.
        arms: what is there of each arm's runs.
        stored: every run there is. Alike are those on the same data under the same protocol for as many epochs.
    """
    if found := _pooled(arms):
        return Spread(found[0], "pooled over this study's finished runs", found[1])
    wanted = _likeness(study.base.spec.model_dump(mode="json", include={"data", "train"}))
    alike: dict[tuple[str, int], list[Record]] = {}
    for record in stored:
        if record.finished and _likeness(record.spec) == wanted:
            alike.setdefault((record.spec_digest, record.numerics), []).append(record)
    if found := _pooled(alike.values()):
        source = "pooled over other finished runs on the same data for as many epochs"
        return Spread(found[0], source, found[1])
    return Spread(ASSUMED_SPREAD, "assumed: no two finished runs differ in their seed alone", 0)


def _pooled(groups: Iterable[Sequence[Record]]) -> tuple[float, int] | None:
    """Standard deviation and degrees of freedom; None where no two runs of a group differ."""
    values = [[accuracy for record in group if (accuracy := _headline(record)) is not None] for group in groups]
    pooled = pooled_spread(values)
    return pooled if pooled and pooled[0] > 0 else None


def _headline(record: Record) -> float | None:
    final = record.results.final if record.finished else None
    value: float | None = getattr(final, metric_of(record.spec["data"]["protocol"])) if final else None
    return value


def _likeness(spec: dict[str, dict[str, Any]]) -> tuple[object, ...]:
    data = spec["data"]
    return data["dataset"], _images(data.get("folder")), data["protocol"], spec["train"]["epochs"]


def _images(folder: Any) -> tuple[object, object] | None:
    """What tells the images of a folder, wherever it lies: what it holds, and the size they are scaled to."""
    return (folder["content"].get("digest"), folder.get("size")) if folder else None
