"""`grid` and `zip` of an ablation file to arms: the product of lists of values without what is excluded, or in step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Literal

from harness.errors import Problem
from harness.spec.arm import Placement
from harness.spec.composition import path_problem
from harness.spec.diagnostics import show
from harness.spec.drafts import Draft, children, misplaced, overlap, override_of
from harness.spec.origin import Override
from harness.spec.yaml_tree import Document, Node, shown

MAX_CELLS = 100_000

Cell = tuple[int, ...]
"""The number of the value on each axis."""


@dataclass(frozen=True)
class _Axis:
    path: str
    options: tuple[Override, ...]


def grid_drafts(document: Document, problems: list[Problem]) -> Iterator[Draft]:
    """Every combination of the grid's values that is not excluded, the first field varying slowest."""
    node = document.root.value.get("grid")
    axes, complete = _axes(document, "grid", problems)
    excluded = _exclusions(document, axes, problems)
    if not axes or node is None:
        return
    place = f"{node.place}: grid"
    if (size := prod(len(axis.options) for axis in axes)) > MAX_CELLS:
        what = f"{' x '.join(str(len(axis.options)) for axis in axes)} = {size:,} arms"
        problems.append(Problem(what, place, f"a grid may have {MAX_CELLS:,}: most would never be trained."))
        return
    every = product(*(range(len(axis.options)) for axis in axes))
    cells = [cell for cell in every if not any(_is_in(cell, one) for one in excluded)]
    if not cells:
        where = f"{document.root.value['exclude'].place}: exclude"
        problems.append(Problem(f"nothing is left of the {size} arms of the grid", where, "exclude fewer of them."))
    yield from _drafts("grid", axes, cells, place, complete)


def zip_drafts(document: Document, problems: list[Problem]) -> Iterator[Draft]:
    """The first values of all lists, the second ones, ..."""
    node = document.root.value.get("zip")
    axes, complete = _axes(document, "zip", problems)
    if not axes or node is None:
        return
    place = f"{node.place}: zip"
    if len({len(axis.options) for axis in axes}) > 1:
        lengths = ", ".join(f"{axis.path} {len(axis.options)}" for axis in axes)
        fix = "the first values of all lists make an arm, the second ones the next; for every combination use `grid`."
        problems.append(Problem(f"the lists are not equally long: {lengths}", place, fix))
        return
    yield from _drafts("zip", axes, [(i,) * len(axes) for i in range(len(axes[0].options))], place, complete)


def _drafts(
    section: Literal["grid", "zip"], axes: Sequence[_Axis], cells: Sequence[Cell], place: str, complete: bool
) -> Iterator[Draft]:
    for position, cell in enumerate(cells, start=1):
        overrides = tuple(axis.options[number] for axis, number in zip(axes, cell, strict=True))
        coordinates = {override.path: override.written for override in overrides}
        yield Draft(None, overrides, Placement(section, position, "", coordinates, place), complete)


def _axes(document: Document, section: str, problems: list[Problem]) -> tuple[list[_Axis], bool]:
    """The fields with their values, and whether they are all there: those whose path is a mistake are left out.

    What is no list, or an empty one, is passed over: the validation of the file tells of it.
    """
    node = document.root.value.get(section)
    axes, complete = [], True
    for path, values in children(node):
        assert node is not None
        where = f"{values.place}: {section}"
        problem = misplaced(path, where) or path_problem(path, where) or overlap(path, node, where)
        if problem or not isinstance(values.value, list) or not values.value:
            problems += [problem] if problem else []
            complete = False
            continue
        options = (override_of(path, value, f"{value.place}: {section}", document.path) for value in values.value)
        axes.append(_Axis(path, tuple(options)))
    return axes, complete


# --- what is excluded ---


def _exclusions(document: Document, axes: Sequence[_Axis], problems: list[Problem]) -> list[Mapping[int, set[int]]]:
    """Each item of `exclude` as the axes it speaks of and the values that it names there."""
    node = document.root.value.get("exclude")
    if node is None or not isinstance(node.value, list):
        return []
    if "grid" not in document.root.value:
        problems.append(Problem("there is no grid", f"{node.place}: exclude", "exclude takes arms out of a `grid`."))
        return []
    items = (_exclusion(item, f"exclude[{number}]", document, axes, problems) for number, item in enumerate(node.value))
    return [item for item in items if item]


def _exclusion(
    item: Node, label: str, document: Document, axes: Sequence[_Axis], problems: list[Problem]
) -> Mapping[int, set[int]] | None:
    if not isinstance(item.value, dict):
        return None
    if not item.value:
        problems.append(Problem("it names no values", f"{item.place}: {label}", "write `{path: value}`, or remove it."))
    numbers = {axis.path: number for number, axis in enumerate(axes)}
    found: dict[int, set[int]] = {}
    mistakes: list[Problem] = []
    for path, value in item.value.items():
        where = f"{value.place}: {label}"
        if path not in numbers:
            if path not in dict(children(document.root.value["grid"])):  # else it is a mistake there
                fix = f"the grid has {', '.join(numbers)}." if numbers else None
                mistakes.append(Problem(f"`{shown(path)}` is not in the grid", where, fix))
            continue
        options = axes[numbers[path]].options
        found[numbers[path]] = {i for i, option in enumerate(options) if same(option.written, value.plain())}
        if not found[numbers[path]]:
            fix = f"the grid has {', '.join(show(option.written) for option in options[:20])} there."
            mistakes.append(Problem(f"excludes nothing: {path} is never {show(value.plain())}", where, fix))
    problems += mistakes
    return None if mistakes else found


def _is_in(cell: Cell, excluded: Mapping[int, set[int]]) -> bool:
    return all(cell[axis] in values for axis, values in excluded.items())


def same(one: Any, other: Any) -> bool:
    """Whether two values as written are equal: 0 and 0.0 are, 0 and false are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
