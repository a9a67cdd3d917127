"""What tells two specs apart, as far as a result may depend on it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from harness.spec import identity
from harness.spec.experiment import ExperimentSpec

Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """One field: its value in the spec that is asked about, and in the other. None also where it is not there."""

    field: str
    here: Any
    there: Any


def differences(here: ExperimentSpec, there: ExperimentSpec) -> tuple[Difference, ...]:
    """The identity fields that differ, a toggle that is off in one of them once; as written, defaults filled in."""
    return differences_of(here, identity.canonical(here), there, identity.canonical(there))


def differences_of(
    here: ExperimentSpec, fields_here: Tree, there: ExperimentSpec, fields_there: Tree
) -> tuple[Difference, ...]:
    paths = _differing(fields_here, fields_there)
    found = tuple(Difference(path, _at(here, path), _at(there, path)) for path in paths)
    # Widths are compared group by group: where the depths differ, `width: 64` may stand for more or fewer numbers.
    return tuple(item for item in found if item.here != item.there) or found


def _differing(here: Any, there: Any, path: str = "") -> Iterator[str]:
    if not (isinstance(here, Mapping) and isinstance(there, Mapping)):
        if here != there:
            yield path
        return
    if here.get("kind") != there.get("kind"):  # the settings of one kind mean nothing to another
        yield path
        return
    for key in sorted(here.keys() | there.keys()):
        below = f"{path}.{key}" if path else key
        if path == "" and isinstance(here.get(key, {}), Mapping) and isinstance(there.get(key, {}), Mapping):
            yield from _differing(here.get(key, {}), there.get(key, {}), below)  # a section is no toggle
        elif key in here and key in there:
            yield from _differing(here[key], there[key], below)
        else:
            yield below


def _at(spec: ExperimentSpec, path: str) -> Any:
    """The field's value as JSON has it; None where there is no such field."""
    value: Any = spec
    for key in path.split("."):
        value = getattr(value, key, None)
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else json.loads(json.dumps(value))
