"""Where a value of a composed tree was written: a line of a file, or an override laid over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.spec.yaml_tree import FieldPath, Node, shown


def dotted(path: FieldPath) -> str:
    """("model", "depths", 1) -> "model.depths[1]"."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{shown(part)}" if text else shown(part)
    return text


@dataclass(frozen=True)
class Override:
    """A value for a dotted field path; `place` is what a message names: "-o model.width=72", "x.yaml:12: arms.a".

    `written` is the value as its file has it, where the paths in `value` have been resolved.
    """

    path: str
    value: Any
    place: str
    written: Any = None

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.split("."))


@dataclass(frozen=True)
class Origin:
    """Places of a tree's values: the composed files, then the overrides in the order they were laid over them.

    `default` is the place of everything that no override wrote; None: its line in the files.
    """

    root: Node
    overrides: tuple[Override, ...] = ()
    default: str | None = None

    def where(self, path: FieldPath) -> str:
        """ "file:line: field.path", or "-o field.path=value"."""
        for override in reversed(self.overrides):
            if path[: len(override.parts)] == override.parts:
                return _named(override.place, path)
        return _named(self.default or self.root.place_of(path), path)

    def where_missing(self, path: FieldPath) -> str:
        """The same for a field that is not there: the override that wrote its neighbours, else their mapping's line."""
        parent = path[:-1]
        for override in reversed(self.overrides):
            if parent and override.parts[: len(parent)] == parent:
                return _named(override.place, path)
        return self.where(path)


def _named(place: str, path: FieldPath) -> str:
    if place.startswith(f"-o {dotted(path)}="):
        return place
    return f"{place}: {dotted(path)}" if path and place else place or dotted(path)
