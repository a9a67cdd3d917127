"""An arm of a study: a full experiment, what it sets, and where in the ablation file it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.spec.experiment import ExperimentSpec

Section = Literal["arms", "leave_one_out", "add_one_in", "ladder", "grid", "zip"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where in the file an arm stands. One that equal ones were merged with stands in several places."""

    section: Section
    position: int
    """From 1, in the order of the section: in a ladder the step, in a grid the cell, without those excluded."""
    key: str = ""
    """Its name in the file, without `no_` and the like; "" in a grid or zip."""
    coordinates: Mapping[str, Any] = field(default_factory=dict)
    """In a grid or zip: field path -> value as written, the base's own values too."""
    place: str = ""
    """ "file:line: section.key", for messages."""


@dataclass(frozen=True)
class Matched:
    """The field that was solved for, its value, and the trainable parameters of the arm minus those of the base."""

    field: str
    value: int
    remainder: int


@dataclass(frozen=True)
class Arm:
    """One variant. `overrides` maps dotted field paths to values, as written, relative to the base arm; {} for it."""

    name: str
    overrides: Mapping[str, Any]
    spec: ExperimentSpec
    placements: tuple[Placement, ...] = ()
    """Of the base: the arms of the file that are equal to it; mostly none."""
    matched: Matched | None = None
    """What `match` made of the arm (`harness.matching`)."""
