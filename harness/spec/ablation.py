"""The ablation file: a base experiment, arms that differ from it, seeds, a margin and a published reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.spec.experiment import ExperimentSpec, PositiveInt, Spec


class Reference(Spec):
    """A published number, with what is known of how it came about."""

    label: str
    """Who published it."""
    accuracy: Annotated[float, Field(ge=0.0, le=1.0)]
    """Published accuracy, a fraction."""
    loss: Annotated[float, Field(ge=0.0)] | None = None
    """Published loss."""
    images: PositiveInt | None = None
    """Images it was measured on; gives its binomial interval."""
    parameters: PositiveInt | None = None
    """Trainable parameters of the published network."""
    runs: PositiveInt = 1
    """Independent runs behind the number."""
    selection: Literal["test", "validation", "none"] | None = None
    """What its checkpoint was selected on."""


@dataclass(frozen=True)
class Arm:
    """One variant. `overrides` maps dotted field paths to values relative to the base arm; {} for the base."""

    name: str
    overrides: Mapping[str, Any]
    spec: ExperimentSpec


@dataclass(frozen=True)
class Study:
    """An ablation file, expanded: arms (the base first) x seeds."""

    name: str
    question: str | None
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    margin: float | None
    reference: Reference | None
    path: Path | None = None

    @property
    def base(self) -> Arm:
        return self.arms[0]
