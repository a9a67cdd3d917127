"""The arms of an ablation file as they are written: each with its overrides and the line that it stands at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import Problem
from harness.spec.arm import Placement, Section
from harness.spec.composition import path_problem
from harness.spec.origin import Override
from harness.spec.paths import from_file
from harness.spec.yaml_tree import Document, Node, shown

# Section with named sets of overrides -> the arm's name, from the set's key.
SECTIONS: dict[Section, str] = {"arms": "{}", "leave_one_out": "no_{}", "add_one_in": "with_{}"}
LADDER_NAME = "plus_{}"
# Field -> what the study does with it.
SET_BY_STUDY = {
    "name": "a run is named after the base experiment and its arm.",
    "seed": "every arm is trained with each of the seeds under `seeds:`.",
}


@dataclass(frozen=True)
class Draft:
    """An arm as the file has it."""

    name: str | None
    """None in a grid or zip: it is named after what differs from the base."""
    overrides: tuple[Override, ...]
    """In the order in which they are laid over the base; a ladder may have one path twice."""
    placement: Placement
    complete: bool = True
    """False where an override was a mistake and so left out: what remains proves nothing about equality."""

    @property
    def place(self) -> str:
        return self.placement.place

    @property
    def must_differ(self) -> bool:
        """Whether to be the base is a mistake: what one set of overrides does, a person wrote down as a difference."""
        return self.placement.section in SECTIONS or (self.placement.section, self.placement.position) == ("ladder", 1)


def named_drafts(document: Document, problems: list[Problem]) -> Iterator[Draft]:
    """The named sets of overrides; mistakes in their paths are added to `problems`.

    Sections and sets that are no mappings are passed over: the validation of the file tells of them.
    """
    for section, pattern in SECTIONS.items():
        for position, (key, node) in enumerate(children(document.root.value.get(section)), start=1):
            if isinstance(node.value, dict):
                label = f"{section}.{shown(key)}"
                overrides = overrides_of(node, label, problems, document.path)
                placement = Placement(section, position, key, place=f"{node.place}: {label}")
                yield Draft(pattern.format(key), overrides, placement, len(overrides) == len(node.value))


def ladder_drafts(document: Document, problems: list[Problem]) -> Iterator[Draft]:
    """The steps of a ladder, each laid over the ones before it."""
    node = document.root.value.get("ladder")
    steps: list[Node] = node.value if node is not None and isinstance(node.value, list) else []
    so_far: tuple[Override, ...] = ()
    complete = True
    places: dict[str, str] = {}
    for position, step in enumerate(steps, start=1):
        where = f"ladder[{position - 1}]"
        problem = _step_problem(step, where, places)
        if problem or not isinstance(step.value, dict):
            problems += [problem] if problem else []
            complete = False
            continue
        ((key, sets),) = step.value.items()
        places[key] = sets.place
        if isinstance(sets.value, dict):
            label = f"{where}.{shown(key)}"
            own = overrides_of(sets, label, problems, document.path)
            so_far, complete = (*so_far, *own), complete and len(own) == len(sets.value)
            placement = Placement("ladder", position, key, place=f"{sets.place}: {label}")
            yield Draft(LADDER_NAME.format(key), so_far, placement, complete)


def _step_problem(step: Node, where: str, places: dict[str, str]) -> Problem | None:
    """What is wrong with a step as such; that it is no mapping, the validation of the file tells."""
    if not isinstance(step.value, dict):
        return None
    if len(step.value) != 1:
        keys = ", ".join(map(shown, step.value))
        what = f"a step is one name with what it sets, and this has {len(step.value)}: {keys}"
        return Problem(what, f"{step.place}: {where}", "write each step as an item: `- name: {path: value}`.")
    ((key, sets),) = step.value.items()
    if key in places:
        fix = f"the other one stands at {places[key]}: rename one of them."
        return Problem(f"two steps are called {shown(key)}", f"{sets.place}: {where}.{shown(key)}", fix)
    if sets.value == {}:
        fix = "remove it, or write what it changes."
        return Problem("the step sets nothing", f"{sets.place}: {where}.{shown(key)}", fix)
    return None


def children(node: Node | None) -> list[tuple[str, Node]]:
    """The entries of a mapping; none where there is no mapping."""
    return list(node.value.items()) if node is not None and isinstance(node.value, dict) else []


def overrides_of(node: Node, label: str, problems: list[Problem], written_in: Path) -> tuple[Override, ...]:
    """A mapping of dotted paths to values as overrides, without those whose path is a mistake."""
    overrides: list[Override] = []
    for path, child in children(node):
        where = f"{child.place}: {label}"
        problem = misplaced(path, where) or path_problem(path, where) or overlap(path, node, where)
        if problem:
            problems.append(problem)
        else:
            overrides.append(override_of(path, child, where, written_in))
    return tuple(overrides)


def override_of(path: str, node: Node, place: str, written_in: Path) -> Override:
    """The value at `node` for the field at `path`, the paths in it resolved."""
    return Override(path, from_file(node, written_in, path).plain(), place, node.plain())


def misplaced(path: str, where: str) -> Problem | None:
    """Why an override may not set a field that the study sets itself, or None."""
    if path not in SET_BY_STUDY:
        return None
    return Problem(f"`{path}` is set by the study", where, SET_BY_STUDY[path])


def overlap(path: str, node: Node, where: str) -> Problem | None:
    """That the mapping sets a part of `path` too, or None."""
    for other in node.value:
        if path.startswith(f"{other}."):
            return Problem(f"`{other}` and `{path}` are set in one place", where, "write it all under one of them.")
    return None
