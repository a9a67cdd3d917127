"""A base and named sets of overrides to arms: each a full spec, every mistake at the line of its arm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import Problem
from harness.spec.base import check_name
from harness.spec.composition import apply_overrides, path_problem
from harness.spec.experiment import ExperimentSpec
from harness.spec.identity import spec_digest
from harness.spec.origin import Origin, Override
from harness.spec.paths import from_file
from harness.spec.surroundings import Surroundings
from harness.spec.yaml_tree import Document, Node, shown

# Section of an ablation file -> the arm's name, from its key there.
SECTIONS = {"arms": "{}", "leave_one_out": "no_{}", "add_one_in": "with_{}"}
# Field -> what the study does with it.
SET_BY_STUDY = {
    "name": "a run is named after the base experiment and its arm.",
    "seed": "every arm is trained with each of the seeds under `seeds:`.",
}


@dataclass(frozen=True)
class Arm:
    """One variant. `overrides` maps dotted field paths to values, as written, relative to the base arm; {} for it."""

    name: str
    overrides: Mapping[str, Any]
    spec: ExperimentSpec


@dataclass(frozen=True)
class Draft:
    """An arm as the file has it. `place` is "file:line: section.key"; `generated`: named by a rule, not by a person."""

    name: str
    overrides: tuple[Override, ...]
    place: str
    generated: bool
    complete: bool = True
    """False where an override was a mistake and so left out: what remains proves nothing about equality."""


def drafts_of(document: Document, problems: list[Problem]) -> Iterator[Draft]:
    """The arms of an ablation file as written; mistakes in their names and paths are added to `problems`.

    Sections and sets that are no mappings are passed over: the validation of the file tells of them.
    """
    for section, pattern in SECTIONS.items():
        for key, node in _children(document.root.value.get(section)):
            if isinstance(node.value, dict):
                label = f"{section}.{shown(key)}"
                overrides = overrides_of(node, label, problems, document.path)
                complete = len(overrides) == len(node.value)
                yield Draft(pattern.format(key), overrides, f"{node.place}: {label}", section != "arms", complete)


def _children(node: Node | None) -> list[tuple[str, Node]]:
    return list(node.value.items()) if node is not None and isinstance(node.value, dict) else []


def overrides_of(node: Node, label: str, problems: list[Problem], written_in: Path) -> tuple[Override, ...]:
    """A mapping of dotted paths to values as overrides, without those whose path is a mistake."""
    overrides: list[Override] = []
    for path, child in _children(node):
        where = f"{child.place}: {label}"
        problem = misplaced(path, where) or path_problem(path, where) or _overlap(path, node, where)
        if problem:
            problems.append(problem)
        else:
            overrides.append(Override(path, from_file(child, written_in, path).plain(), where, child.plain()))
    return tuple(overrides)


def misplaced(path: str, where: str) -> Problem | None:
    """Why an override may not set a field that the study sets itself, or None."""
    if path not in SET_BY_STUDY:
        return None
    return Problem(f"`{path}` is set by the study", where, SET_BY_STUDY[path])


def _overlap(path: str, node: Node, where: str) -> Problem | None:
    for other in node.value:
        if path.startswith(f"{other}."):
            return Problem(f"`{other}` and `{path}` are set in one place", where, "write it all under one of them.")
    return None


class Expansion:
    """The arms of a study, the base first, and what was wrong or merged on the way to them."""

    def __init__(self, base: Document, shared: Sequence[Override]):
        self._surroundings = Surroundings()
        self.arms: list[Arm] = []
        self.problems: list[Problem] = []
        self.remarks: list[str] = []
        self._root = base.root
        self._tree = apply_overrides(base.root.plain(), {override.path: override.value for override in shared})
        self._name = str(self._tree["name"])
        self._places: dict[str, str] = {}
        self._digests: dict[str, Draft | None] = {}
        spec, mistakes = self._surroundings.checked(self._tree, Origin(base.root, tuple(shared)), extra_keys=("base",))
        self.problems += mistakes
        if spec is not None:
            self.arms.append(Arm(spec.name, {}, spec))
            self._digests[spec_digest(spec)] = None

    def add(self, draft: Draft) -> None:
        """One more arm, unless it is a mistake or equal to one that is there."""
        if problem := self._name_problem(draft):
            self.problems.append(problem)
            return
        overrides = {override.path: override.value for override in draft.overrides}
        spec = self._spec(draft, overrides)
        if spec is None or (draft.complete and self._is_merged_or_refused(draft, spec_digest(spec))):
            return
        if draft.name in self._places:
            fix = f"the other one stands at {self._places[draft.name]}: rename one of them."
            self.problems.append(Problem(f"two arms are called {draft.name}", draft.place, fix))
            return
        self._places[draft.name] = draft.place
        self.arms.append(Arm(draft.name, {override.path: override.written for override in draft.overrides}, spec))

    def _spec(self, draft: Draft, overrides: Mapping[str, Any]) -> ExperimentSpec | None:
        tree = apply_overrides(self._tree, overrides) | {"name": f"{self._name}-{draft.name}"}
        base_is_valid = bool(self.arms)
        # What an invalid base makes of an arm is told once, at the base: of the arm, what its overrides wrote.
        default = draft.place if base_is_valid else _ELSEWHERE
        spec, mistakes = self._surroundings.checked(tree, Origin(self._root, draft.overrides, default))
        self.problems += [problem for problem in mistakes if not (problem.where or "").startswith(_ELSEWHERE)]
        return spec

    def _name_problem(self, draft: Draft) -> Problem | None:
        try:
            check_name(draft.name)
        except ValueError as error:
            return Problem(str(error), draft.place)
        if draft.name == self._name:
            return Problem(f"the base is already called {draft.name}", draft.place, "give the arm a name of its own.")
        return None

    def _is_merged_or_refused(self, draft: Draft, digest: str) -> bool:
        """Whether an equal arm is there: a generated one is merged with it, a hand-written one is a mistake."""
        if digest not in self._digests:
            self._digests[digest] = draft
            return False
        other = self._digests[digest]
        if other is None:
            self.problems.append(_equal_to_base(draft))
        elif draft.generated:
            self.remarks.append(f"{draft.name} is equal to {other.name}: one arm, called {other.name}")
        else:
            what = f"the arms {other.name} and {draft.name} are equal"
            self.problems.append(Problem(what, draft.place, f"{other.name} stands at {other.place}: keep one of them."))
        return True


_ELSEWHERE = "\0"


def _equal_to_base(draft: Draft) -> Problem:
    if not draft.overrides:
        return Problem("the arm sets nothing, so it is the base", draft.place, "the base is always an arm: remove it.")
    paths = ", ".join(override.path for override in draft.overrides)
    what = f"the arm is equal to the base: {paths} changes nothing there"
    return Problem(what, draft.place, "the base has that value already: remove the arm, or change the base.")
