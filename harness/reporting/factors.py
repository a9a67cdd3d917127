"""How a study's arms hang together: ladders, factorials (2 x 2 and larger) and grids, found from what the arms set.

Found, so that four arms written by hand as a 2 x 2 get their interaction like those of a grid; a ladder that the
file declares is one in any case, whatever its steps set and whatever other arms they were merged with.
What an arm sets to the value that the base has already is no difference.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.spec.ablation import Arm, Study

Items = frozenset[tuple[str, str]]
Differences = Mapping[str, str]
"""Path of a field in which an arm differs from the base -> its value there, as JSON."""


@dataclass(frozen=True)
class Factorial:
    """Four arms: neither change, each alone, both."""

    neither: str
    first: str
    second: str
    both: str


@dataclass(frozen=True)
class Grid:
    """Arms over two fields; the other fields are as in `fixed`, or as in the base."""

    rows: str
    columns: str
    """Paths of the two fields."""
    row_values: tuple[Any, ...]
    column_values: tuple[Any, ...]
    """As the arms' overrides have them, or the base's spec; numbers by size, others in the study's order."""
    cells: tuple[tuple[str | None, ...], ...]
    """Names of the arms; None where there is none."""
    fixed: Mapping[str, Any]


@dataclass(frozen=True)
class Structure:
    """What was found. `ladders` are names of arms, the base first, each with all that the one before it sets."""

    ladders: tuple[tuple[str, ...], ...] = ()
    factorials: tuple[Factorial, ...] = ()
    grids: tuple[Grid, ...] = ()


def structure_of(study: Study) -> Structure:
    """Every grid and factorial, the file's ladder, and further ladders among the arms that are in none of these.

    Four arms that are a factorial are no grid besides: its interaction says all that the matrix would, and a verdict.
    """
    differ = _differences(study)
    grids = tuple(_grids(study, differ))
    factorials = tuple(_factorials(study, differ, grids))
    used = {arm for one in factorials for arm in (one.first, one.second, one.both)}
    used |= {arm for grid in grids for row in grid.cells for arm in row if arm}
    declared = _declared(study)
    used |= {arm for ladder in declared for arm in ladder}
    left = {arm: differences for arm, differences in differ.items() if arm not in used and differences}
    squares = [{one.neither, one.first, one.second, one.both} for one in factorials]
    larger = tuple(grid for grid in grids if set(itertools.chain(*grid.cells)) not in squares)
    return Structure((*declared, *_ladders(study.base.name, left)), factorials, larger)


def _differences(study: Study) -> dict[str, Differences]:
    base = study.base.spec.model_dump(mode="json")
    return {arm.name: _differing(arm, base, study.match) for arm in study.arms}


def _differing(arm: Arm, base: Mapping[str, Any], solved: str | None) -> Differences:
    """Without the field that `match` solves for, which follows from the others."""
    spec = arm.spec.model_dump(mode="json") if arm.overrides else base
    values = {path: (value_at(spec, path), value_at(base, path)) for path in arm.overrides}
    return {
        path: json.dumps(own, sort_keys=True)
        for path, (own, other) in values.items()
        if own != other and path != solved
    }


def value_at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


# --- ladders ------------------------------------------------------------------------------------


def _declared(study: Study) -> list[tuple[str, ...]]:
    """The file's `ladder`, where it has two steps at the least that change something."""
    names = [study.base.name, *(arm.name for _, arm in study.placed("ladder"))]
    changing = [name for name, _ in itertools.groupby(names)]  # a step equal to the one before it is no step
    return [tuple(changing)] if len(changing) > 2 else []


def _ladders(base: str, differ: Mapping[str, Differences]) -> Iterable[tuple[str, ...]]:
    """Chains of at least two arms, in the study's order, each setting more than the one before it."""
    order = {arm: i for i, arm in enumerate(differ)}
    by_size: dict[int, list[str]] = {}
    for arm, differences in differ.items():
        by_size.setdefault(len(differences), []).append(arm)
    taken: set[str] = set()
    for first in differ:
        if first in taken:
            continue
        chain = [first]
        larger = [arm for size, arms in by_size.items() if size > len(differ[first]) for arm in arms]
        for arm in sorted(larger, key=order.__getitem__):
            follows = order[arm] > order[chain[-1]] and differ[arm].items() > differ[chain[-1]].items()
            if follows and arm not in taken:
                chain.append(arm)
        if len(chain) > 1:
            taken.update(chain)
            yield (base, *chain)


# --- factorials ---------------------------------------------------------------------------------


def _factorials(study: Study, differ: Mapping[str, Differences], grids: Sequence[Grid]) -> Iterable[Factorial]:
    """Of changes that stand alone in an arm each; and of the rows and columns of grids that the base is not in."""
    arms = {frozenset(differences.items()): arm for arm, differences in differ.items() if differences}
    order = {items: i for i, items in enumerate(arms)}
    halves = [(one, other, one | other) for items in arms for one, other in _halves(items, order)]
    composed = {both for _, _, both in halves}
    for one, other, both in halves:
        if one not in composed and other not in composed:
            yield Factorial(study.base.name, arms[one], arms[other], arms[both])
    for grid in grids:
        if not grid.fixed and study.base.name not in itertools.chain(*grid.cells):
            yield from _within(grid)


def _halves(items: Items, order: Mapping[Items, int]) -> list[tuple[Items, Items]]:
    """The pairs of other arms' items that together are `items` and share none, in the study's order."""
    few = 2 ** len(items) < len(order)
    parts = map(frozenset, _subsets(items)) if few else [part for part in order if part < items]
    found = [(part, items - part) for part in parts if part in order and items - part in order]
    return sorted(((one, other) for one, other in found if order[one] < order[other]), key=lambda pair: order[pair[0]])


def _subsets(items: Items) -> Iterable[tuple[tuple[str, str], ...]]:
    """All but none and all of them."""
    return itertools.chain.from_iterable(itertools.combinations(items, size) for size in range(1, len(items)))


def _within(grid: Grid) -> Iterable[Factorial]:
    """Every 2 x 2 of a grid that holds its first row and its first column."""
    for i, j in itertools.product(range(1, len(grid.row_values)), range(1, len(grid.column_values))):
        cells = grid.cells[0][0], grid.cells[i][0], grid.cells[0][j], grid.cells[i][j]
        if all(cells):
            yield Factorial(*map(str, cells))


# --- grids --------------------------------------------------------------------------------------


def _grids(study: Study, differ: Mapping[str, Differences]) -> Iterable[Grid]:
    """One for each pair of fields and values of the rest, where some 2 x 2 of it is complete."""
    sets = {frozenset(differences) for differences in differ.values() if len(differences) > 1}
    for fields in sorted((one for one in sets if not any(one < other for other in sets)), key=sorted):
        levels = {path: _levels(study, differ, fields, path) for path in sorted(fields)}
        rows, columns = sorted(fields, key=lambda path: (-len(levels[path]), _position(study, path)))[:2]
        if _position(study, rows) > _position(study, columns):
            rows, columns = columns, rows
        inside = [arm for arm in study.arms if differ[arm.name].keys() <= fields]
        slices: dict[tuple[tuple[str, str], ...], list[Arm]] = {}
        for arm in inside:
            slices.setdefault(_rest(differ[arm.name], rows, columns), []).append(arm)
        for rest, members in slices.items():
            grid = _grid(study, members, rows, columns, dict(rest))
            if _has_complete_square(grid):
                yield grid


def _levels(study: Study, differ: Mapping[str, Differences], fields: frozenset[str], path: str) -> list[str | None]:
    """The values of a field over the arms that differ in `fields` alone; None is the base's."""
    return list(dict.fromkeys(differ[arm.name].get(path) for arm in study.arms if differ[arm.name].keys() <= fields))


def _position(study: Study, path: str) -> tuple[int, int]:
    """Where the study first writes the field: its author's order of rows and columns."""
    for i, arm in enumerate(study.arms):
        if path in arm.overrides:
            return i, list(arm.overrides).index(path)
    return len(study.arms), 0


def _rest(differences: Differences, rows: str, columns: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((path, value) for path, value in differences.items() if path not in (rows, columns)))


def _grid(study: Study, members: Sequence[Arm], rows: str, columns: str, rest: Mapping[str, str]) -> Grid:
    dumped = {arm.name: arm.spec.model_dump(mode="json") for arm in members}
    places = {
        arm.name: (json.dumps(value_at(dumped[arm.name], rows)), json.dumps(value_at(dumped[arm.name], columns)))
        for arm in members
    }
    alone = _is_alone(study.base.name, places)
    places = {arm: place for arm, place in places.items() if not (arm == study.base.name and alone)}
    arms = {place: arm for arm, place in places.items()}
    heads = [_ordered(place[axis] for place in arms) for axis in (0, 1)]
    return Grid(
        rows=rows,
        columns=columns,
        row_values=tuple(_as_written(members, rows, dumped, value) for value in heads[0]),
        column_values=tuple(_as_written(members, columns, dumped, value) for value in heads[1]),
        cells=tuple(tuple(arms.get((row, column)) for column in heads[1]) for row in heads[0]),
        fixed={path: json.loads(value) for path, value in rest.items()},
    )


def _as_written(members: Sequence[Arm], path: str, dumped: Mapping[str, Any], value: str) -> Any:
    """What an arm of the row (or column) sets there: `false` says more than what it is turned into."""
    for arm in members:
        if path in arm.overrides and json.dumps(value_at(dumped[arm.name], path)) == value:
            return arm.overrides[path]
    return json.loads(value)


def _is_alone(base: str, places: Mapping[str, tuple[str, str]]) -> bool:
    """The base shares neither its row nor its column with another arm: it is beside the grid, not in it."""
    if base not in places:
        return False
    others = [place for arm, place in places.items() if arm != base]
    return not any(place[0] == places[base][0] or place[1] == places[base][1] for place in others)


def _ordered(values: Iterable[str]) -> list[str]:
    """Numbers by size, anything else as it first comes."""
    distinct = list(dict.fromkeys(values))
    numbers = [json.loads(value) for value in distinct]
    if all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        return sorted(distinct, key=json.loads)
    return distinct


def _has_complete_square(grid: Grid) -> bool:
    filled = [{j for j, arm in enumerate(row) if arm} for row in grid.cells]
    return any(len(one & other) > 1 for one, other in itertools.combinations(filled, 2))
