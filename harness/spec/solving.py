"""What `match` may solve for: the whole numbers of a network that its parameters depend on, and their ranges.

The counting takes torch and is done in `harness.matching`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel

from harness.errors import Problem
from harness.spec.composition import path_problem
from harness.spec.experiment import ExperimentSpec
from harness.spec.fields import field_paths, leaf_paths
from harness.spec.model import MAX_KERNEL_SIZE, MAX_WIDTH, Model
from harness.spec.origin import Override


@dataclass(frozen=True)
class Solved:
    """The field that `match` solves for in every arm, and the line that says so."""

    field: str
    place: str


def solvable() -> tuple[str, ...]:
    """Paths of the fields of the network that may be one whole number: the count of parameters depends on each."""
    paths = field_paths(ExperimentSpec)
    return tuple(
        path for path in leaf_paths(ExperimentSpec) if path.startswith("model.") and _has_int(paths[path].annotation)
    )


def _has_int(annotation: Any) -> bool:
    """Whether a whole number is one of the things that a field may be."""
    return annotation is int or any(
        _has_int(argument) for argument in get_args(annotation) if getattr(annotation, "__origin__", None) is not tuple
    )


def solvable_problem(path: str, where: str) -> Problem | None:
    """Why parameters can't be matched by the field at `path`, or None."""
    if path in solvable():
        return None
    if problem := path_problem(path, where):
        return problem
    what = "its numbers are one per group" if path == "model.depths" else "the number of parameters does not hang on it"
    return Problem(f"`{path}` can't be solved for: {what}", where, f"fields that can: {', '.join(solvable())}.")


def sets(override: Override, field: str) -> bool:
    """Whether an override sets `field`, by its own path or as part of a mapping."""
    parts, field_parts = override.parts, tuple(field.split("."))
    if field_parts[: len(parts)] != parts:
        return False
    value = override.value
    for part in field_parts[len(parts) :]:
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def value_at(spec: BaseModel, path: str) -> Any:
    """The value of a field; None below a toggle that is off."""
    value: Any = spec
    for part in path.split("."):
        value = getattr(value, part, None)
    return value


def range_of(field: str, model: Model) -> range:
    """The values that a solvable field may take in this network, the number of parameters never falling along it."""
    reduction = model.se.reduction if model.se else 1
    ranges = {
        "model.width": range(reduction, MAX_WIDTH + 1),
        "model.kernel_size": range(1, MAX_KERNEL_SIZE + 1, 2),
        "model.se.reduction": range(model.squeezed_channels, 0, -1),
    }
    return ranges[field]
