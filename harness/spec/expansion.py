"""A base and the drafts of arms to arms: each a full spec, every mistake at the line of its arm, equal ones merged."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from harness.errors import Problem
from harness.spec.arm import Arm
from harness.spec.base import check_name
from harness.spec.composition import apply_overrides
from harness.spec.diagnostics import show
from harness.spec.drafts import Draft
from harness.spec.experiment import ExperimentSpec
from harness.spec.identity import is_inert, spec_digest
from harness.spec.naming import MAX_LENGTH, marked, name_of
from harness.spec.origin import Origin, Override
from harness.spec.solving import Solved, sets, value_at
from harness.spec.surroundings import Contents, Surroundings
from harness.spec.yaml_tree import Document

MAX_SPEC_NAME = 80
_ELSEWHERE = "\0"


class Expansion:
    """The arms of a study, the base first, and what was wrong or merged on the way to them.

    Args:
        base: the experiment that the arms are laid over.
        shared: overrides of all arms, the base too.
        words: field path -> word for it in the names of a grid's or zip's arms.
        solved: the field that `match` solves for, which no arm may set.
        contents: what a folder of images held that is not there.
    """

    def __init__(
        self,
        base: Document,
        shared: Sequence[Override],
        words: Mapping[str, str],
        solved: Solved | None,
        contents: Contents | None = None,
    ):
        self.arms: list[Arm] = []
        self.problems: list[Problem] = []
        self.remarks: list[str] = []
        self._surroundings = Surroundings(contents=contents)
        self._root = base.root
        self._tree = _laid_over(base.root.plain(), shared)
        self._name = str(self._tree["name"])
        self._words = words
        self._solved = solved
        self._places: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        self._base_digest: str | None = None
        self._differs_alone: dict[str, bool] = {}
        spec, mistakes = self._surroundings.checked(self._tree, Origin(base.root, tuple(shared)), extra_keys=("base",))
        self.problems += mistakes
        if spec is not None:
            self._base_digest = spec_digest(spec)
            self._numbers[self._base_digest] = 0
            self.arms.append(Arm(spec.name, {}, spec))
            self._check_solved(spec, solved.place if solved else "", "the base")

    def add(self, draft: Draft) -> None:
        """One more arm, unless it is a mistake or equal to one that is there."""
        named = draft if draft.name is not None else self._named(draft)
        assert named.name is not None
        if problem := self._name_problem(draft, named.name):
            self.problems.append(problem)
            return
        spec = self._spec(draft, named.name)
        if spec is None or self._sets_solved(draft):
            return
        digest = spec_digest(spec)
        if draft.complete and digest in self._numbers:
            self._merge(draft, self._numbers[digest], named.name)
            return
        if named.name in self._places:
            if draft.complete or draft.name is not None:
                fix = f"the other one stands at {self._places[named.name]}: rename one of them."
                self.problems.append(Problem(f"two arms are called {named.name}", draft.place, fix))
            return
        self._check_solved(spec, draft.place, "the arm")
        if draft.complete:
            self._numbers[digest] = len(self.arms)
        self._places[named.name] = draft.place
        self.arms.append(Arm(named.name, _as_written(named.overrides, spec), spec, (draft.placement,)))

    def _spec(self, draft: Draft, name: str) -> ExperimentSpec | None:
        tree = _laid_over(self._tree, draft.overrides) | {"name": f"{self._name}-{name}"}
        # What an invalid base makes of an arm is told once, at the base: of the arm, what its overrides wrote.
        default = draft.place if self._base_digest else _ELSEWHERE
        spec, mistakes = self._surroundings.checked(tree, Origin(self._root, draft.overrides, default))
        self.problems += [problem for problem in mistakes if not (problem.where or "").startswith(_ELSEWHERE)]
        return spec

    # --- names ---

    def _named(self, draft: Draft) -> Draft:
        """A grid's or zip's arm with its name and, of its overrides, those that differ from the base."""
        overrides = self._differing(draft.overrides) or draft.overrides
        most = max(min(MAX_LENGTH, MAX_SPEC_NAME - len(self._name) - 1), 1)
        name = name_of(overrides, self._words, most)
        if name in self._places or name == self._name:
            name = marked(name, overrides, most)
        return replace(draft, name=name, overrides=overrides)

    def _differing(self, overrides: Sequence[Override]) -> tuple[Override, ...]:
        """Without those that set what the base has. A field whose sibling `kind` is another one stays: there the
        value may be another than the default.
        """
        differing = {override.path for override in overrides if self._differs(override)}
        return tuple(
            override
            for override in overrides
            if override.path in differing or f"{override.path.rpartition('.')[0]}.kind" in differing
        )

    def _differs(self, override: Override) -> bool:
        """Whether the override, alone, makes another experiment of the base (or none, in which case it does)."""
        key = json.dumps([override.path, override.value])
        if self._base_digest and key not in self._differs_alone:
            spec, _ = self._surroundings.checked(_laid_over(self._tree, (override,)), Origin(self._root))
            self._differs_alone[key] = spec is None or spec_digest(spec) != self._base_digest
        return self._differs_alone.get(key, True)

    def _name_problem(self, draft: Draft, name: str) -> Problem | None:
        try:
            check_name(name)
        except ValueError as error:
            return Problem(str(error), draft.place)
        if name == self._name:
            return Problem(f"the base is already called {name}", draft.place, "give the arm a name of its own.")
        if self._base_digest and len(self._name) + 1 + len(name) > MAX_SPEC_NAME:
            return self._name_too_long(draft, name)
        return None

    def _name_too_long(self, draft: Draft, name: str) -> Problem:
        """A run is named after the base and its arm, `MAX_SPEC_NAME` characters together."""
        length, room = len(self._name), max(MAX_SPEC_NAME - len(self._name) - 1, 0)
        if draft.name is None:
            what = f"the base's name, {self._name}, has {length} characters: that leaves {room} for the names of arms"
            return Problem(what, draft.place, "give the base a shorter `name:`.")
        what = f"{name} has {len(name)} characters, and the base's name before it leaves {room}"
        return Problem(what, draft.place, f"shorten it, or the base's name, {self._name}, which has {length}.")

    # --- equal arms ---

    def _merge(self, draft: Draft, number: int, name: str) -> None:
        """An arm that is there already: a generated one is merged with it and said, a hand-written one is a mistake."""
        arm = self.arms[number]
        is_base = number == 0 and self._base_digest is not None
        if is_base and draft.must_differ:
            self.problems.append(_equal_to_base(draft))
            return
        if draft.placement.section == "arms":
            what, place = f"the arms {arm.name} and {name} are equal", self._places[arm.name]
            self.problems.append(Problem(what, draft.place, f"{arm.name} stands at {place}: keep one of them."))
            return
        self.arms[number] = replace(arm, placements=(*arm.placements, draft.placement))
        what = name if draft.name is not None else _described(draft)
        other = "the base" if is_base else arm.name
        self.remarks.append(f"{what} is equal to {other}: one arm, called {arm.name}")

    # --- the field that is solved for ---

    def _sets_solved(self, draft: Draft) -> bool:
        """Whether the arm sets the field that `match` is to solve for, which is a mistake."""
        mistakes = [override for override in draft.overrides if self._solved and sets(override, self._solved.field)]
        for override in mistakes:
            assert self._solved
            what = f"`{self._solved.field}` is what `match` solves for, in every arm"
            self.problems.append(Problem(what, override.place, "take it out of the arm, or take out `match`."))
        return bool(mistakes)

    def _check_solved(self, spec: ExperimentSpec, place: str, who: str) -> None:
        """There is one number to solve for."""
        if self._solved is None or type(value := value_at(spec, self._solved.field)) is int:
            return
        field = self._solved.field
        what = f"{who} has no `{field}`" if value is None else f"{who} has {show(value)} as `{field}`"
        self.problems.append(Problem(f"{what}: `match` solves for one number", place))


def _laid_over(tree: dict[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    for override in overrides:
        tree = apply_overrides(tree, {override.path: override.value})
    return tree


def _as_written(overrides: Sequence[Override], spec: ExperimentSpec) -> dict[str, Any]:
    """Path -> value as written; of a path that several steps of a ladder set, the value in the end, in full.

    To set a mapping sets what is in it: what an earlier step set there is left out where the end does not have it,
    as the patience of a schedule that a later step replaces by one of another kind.
    """
    times = Counter(override.path for override in overrides)
    later: set[str] = set()
    written: dict[str, Any] = {}
    for override in reversed(overrides):
        if override.path in later:
            continue
        if times[override.path] == 1 and not later.intersection(_parents(override.path)):
            written[override.path] = override.written
        else:
            with suppress(KeyError):
                written[override.path] = _in_full(spec, override.path)
        later.add(override.path)
    return dict(reversed(written.items()))


def _parents(path: str) -> list[str]:
    """ "optim.schedule.patience" -> ["optim", "optim.schedule"]."""
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _in_full(spec: ExperimentSpec, path: str) -> Any:
    """KeyError where the spec has no such field: below a toggle that is off, of another kind."""
    value: Any = spec.model_dump(mode="json")
    for part in path.split("."):
        if value is None:
            raise KeyError(path)
        value = value[part]
    return value


def _described(draft: Draft) -> str:
    """ "model.width = 32, model.dropout = 0.0 of grid"."""
    values = ", ".join(f"{path} = {show(value)}" for path, value in draft.placement.coordinates.items())
    return f"{values} of {draft.placement.section}"


def _equal_to_base(draft: Draft) -> Problem:
    if not draft.overrides:
        return Problem("the arm sets nothing, so it is the base", draft.place, "the base is always an arm: remove it.")
    paths = ", ".join(override.path for override in draft.overrides)
    what = f"the arm is equal to the base: {paths} changes nothing there"
    inert = [override.path for override in draft.overrides if is_inert(override.path)]
    if not inert:
        return Problem(what, draft.place, "the base has that value already: remove the arm, or change the base.")
    return Problem(what, draft.place, f"no result hangs on {', '.join(inert)}: remove the arm, or set something else.")
