"""An ablation file to its study, with `match` solved for: as many parameters in every arm as in the base, or nearly.

The one way to load a study. torch is imported where there is something to solve for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from harness.errors import InputError, Problem
from harness.spec import ablation
from harness.spec.ablation import Arm, Matched, Study
from harness.spec.experiment import ExperimentSpec
from harness.spec.model import Model
from harness.spec.solving import range_of, value_at
from harness.spec.surroundings import Contents
from harness.spec.yaml_tree import Document

SomeSpec = TypeVar("SomeSpec", bound=BaseModel)


def load_study(
    file: Path | Document,
    overrides: Sequence[str] = (),
    seeds: int | None = None,
    contents: Contents | None = None,
) -> Study:
    """The ablation file, expanded and solved; the arguments are those of `harness.spec.ablation.load_study`.

    Raises:
        InputError: mistakes in the file, its base or its arms, all of them; or an arm that no value brings into its
            budget.
    """
    return solve(ablation.load_study(file, overrides, seeds, contents))


def solve(study: Study) -> Study:
    """The study with every arm's `matched`, and the value found in its spec and, where the base's is another, its
    overrides; unchanged where there is nothing to match, or all is solved.

    Raises:
        InputError: some arms fit their budget with no value; all are named.
    """
    if study.match is None or study.base.matched:
        return study
    solver = _Solver(study.base.spec, study.match)
    arms = [solver.solved(arm) for arm in study.arms]
    if solver.problems:
        raise InputError(solver.problems)
    return replace(study, arms=tuple(arms))


class _Solver:
    """Solves for one field; each network once, however many arms it has."""

    def __init__(self, base: ExperimentSpec, field: str):
        from harness.training.guard import parameters_of

        self.problems: list[Problem] = []
        self._parameters_of = parameters_of
        self._field = field
        self._value = value_at(base, field)
        self._target = parameters_of(base, base.model)
        self._found: dict[tuple[object, ...], tuple[Model, Matched] | None] = {}

    def solved(self, arm: Arm) -> Arm:
        spec = arm.spec
        key = spec.model, spec.dataset.image_shape, spec.dataset.classes, spec.guard.max_parameters
        if key not in self._found:
            self._found[key] = self._solve(spec) if arm.overrides else self._as_it_is(spec)
        found = self._found[key]
        if found is None:
            limit = f"the limit of {spec.guard.max_parameters:,} (guard.max_parameters)"
            place = arm.placements[0].place if arm.placements else arm.name
            self.problems.append(Problem(f"no {self._field} brings {arm.name} under {limit}", place))
            return arm
        model, matched = found
        changed = {} if matched.value == self._value else {self._field: matched.value}
        solved = spec if model == spec.model else spec.model_copy(update={"model": model})
        return replace(arm, spec=solved, overrides={**arm.overrides, **changed}, matched=matched)

    def _as_it_is(self, base: ExperimentSpec) -> tuple[Model, Matched]:
        return base.model, Matched(self._field, self._value, 0)

    def _solve(self, spec: ExperimentSpec) -> tuple[Model, Matched] | None:
        def model_with(value: int) -> Model:
            return with_value(spec.model, self._field.removeprefix("model."), value)

        def count(value: int) -> int:
            return self._parameters_of(spec, model_with(value))

        values, limit = range_of(self._field, spec.model), spec.guard.max_parameters
        value = nearest(values, count, self._target, limit, self._value)
        if value is None:
            return None
        return model_with(value), Matched(self._field, value, count(value) - self._target)


def nearest(values: range, count: Callable[[int], int], target: int, limit: int | None, first: int) -> int | None:
    """Of `values`, along which `count` never falls, the one whose count is nearest to `target` and not above `limit`.

    Of two as near the one with fewer, then the one nearer to `first`, where the search begins. None: none is within
    the limit.
    """
    goal = target if limit is None else min(target, limit)
    low, high = _bracket(values, count, goal, first)
    place = bisect_left(values, goal, low, high, key=count)
    candidates = {*values[max(place - 1, 0) : place + 1], *([first] if first in values else [])}
    fitting = [value for value in candidates if limit is None or count(value) <= limit]
    return min(fitting, key=lambda value: (abs(count(value) - target), count(value), abs(value - first)), default=None)


def _bracket(values: range, count: Callable[[int], int], goal: int, first: int) -> tuple[int, int]:
    """Where in `values` to look for the first one that reaches `goal`: counting the largest networks takes a while."""
    place = values.index(first) if first in values else 0
    step = max(place // 8, 1)
    if count(values[place]) >= goal:
        high = place
        while high > 0 and count(values[low := max(high - step, 0)]) >= goal:
            high, step = low, 2 * step
        return max(high - step, 0), high
    low = place
    while low + step < len(values) and count(values[low + step]) < goal:
        low, step = low + step, 2 * step
    return low, min(low + step, len(values))


def with_value(spec: SomeSpec, path: str, value: int) -> SomeSpec:
    """A copy of a spec with the field at `path` set; not validated."""
    head, _, rest = path.partition(".")
    return spec.model_copy(update={head: with_value(getattr(spec, head), rest, value) if rest else value})
