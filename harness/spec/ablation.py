"""Ablation files to studies: the base and its arms, each a full experiment spec, and the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError, Problem
from harness.spec.ablation_file import MAX_SEEDS, AblationFile, Reference
from harness.spec.arm import Arm, Matched, Placement, Section
from harness.spec.cells import grid_drafts, zip_drafts
from harness.spec.composition import base_of, compose, parse_overrides, read_base
from harness.spec.diagnostics import checked, show
from harness.spec.documents import accept, refuse_other_kind
from harness.spec.drafts import children, ladder_drafts, misplaced, named_drafts, overrides_of
from harness.spec.expansion import Expansion
from harness.spec.experiment import ExperimentSpec
from harness.spec.fields import field_paths
from harness.spec.naming import labels
from harness.spec.origin import Origin, Override
from harness.spec.solving import Solved, solvable_problem
from harness.spec.surroundings import Contents
from harness.spec.yaml_tree import Document, Node, read_document

__all__ = ["AblationFile", "Arm", "Matched", "Placement", "Reference", "Study", "load_study"]


# Where arms come from, in the order in which they stand in the study.
SOURCES = (named_drafts, ladder_drafts, grid_drafts, zip_drafts)


@dataclass(frozen=True)
class Study:
    """An ablation file, expanded: arms (the base first) x seeds. `remarks` tells which generated arms were merged.

    `match` is the field that is solved for in every arm; `harness.matching` does that, and then each arm is `matched`.
    """

    name: str
    question: str | None
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    margin: float | None
    reference: Reference | None
    path: Path | None = None
    remarks: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    match: str | None = None

    @property
    def base(self) -> Arm:
        return self.arms[0]

    def placed(self, section: Section) -> list[tuple[Placement, Arm]]:
        """What stands in a section of the file, in its order: a ladder's steps, a grid's cells; merged arms too."""
        found = [(placement, arm) for arm in self.arms for placement in arm.placements if placement.section == section]
        return sorted(found, key=lambda one: one[0].position)


def load_study(
    file: Path | Document,
    overrides: Sequence[str] = (),
    seeds: int | None = None,
    contents: Contents | None = None,
) -> Study:
    """The ablation file, expanded; InputError holds every mistake in it, its base and its arms.

    What it is to `match` is not solved for yet: `harness.matching.load_study` does it all.
    `overrides` ("train.epochs=30") are laid over the base and so hold for all arms, after the file's own.
    `seeds`: train with that many instead: the file's first ones, then the smallest it does not name.
    `contents`: what a folder of images held that is not there; None: it has to be there.
    """
    document = read_document(file)
    refuse_other_kind(document, "ablation")
    tree = document.root.plain()
    written, problems = checked(AblationFile, tree, Origin(document.root), hints=_hints(tree))
    problems = [*document.problems, *problems, *_name_problems(document), *_seed_problems(seeds)]
    shared = [*_file_overrides(document, problems), *_given_overrides(overrides, problems)]
    solved = _solved(document, problems)
    drafts = [draft for source in SOURCES for draft in source(document, problems)]
    base = _base(document, problems)
    expansion = Expansion(base, shared, _words(document), solved, contents) if base else None
    if expansion:
        for draft in drafts:
            expansion.add(draft)
        problems += expansion.problems
    written, expansion = accept(written, problems), accept(expansion, problems)
    return Study(
        name=written.name,
        question=written.question,
        arms=tuple(expansion.arms),
        seeds=_seeds(written.seeds, seeds),
        margin=written.margin,
        reference=written.reference,
        path=document.path,
        remarks=tuple(expansion.remarks),
        options=_as_written(overrides, seeds),
        match=solved.field if solved else None,
    )


def _as_written(overrides: Sequence[str], seeds: int | None) -> tuple[str, ...]:
    """The options of the command line that lead to the same study."""
    given = [word for override in overrides for word in ("--override", override)]
    return (*given, *(("--seeds", str(seeds)) if seeds is not None else ()))


def _hints(tree: dict[str, Any]) -> dict[str, str]:
    """For fields of the experiment that stand among the study's own keys: `train: {epochs: 3}`, `train.epochs: 3`."""
    hints = {}
    for key, value in tree.items():
        path = key
        while isinstance(value, dict) and value:
            name, value = next(iter(value.items()))
            path = f"{path}.{name}"
        if path in field_paths(ExperimentSpec) and "." in path:
            hints[key] = f"for all arms, the base too, write `overrides: {{{path}: {show(value)}}}`."
    return hints


def _base(document: Document, problems: list[Problem]) -> Document | None:
    """The base experiment, composed; its mistakes are added to `problems`."""
    node = document.root.value.get("base")
    if node is None or not isinstance(node.value, str):
        return None  # the validation of the file tells of it
    try:
        target = base_of(document)
        base = compose(read_base(target, node.place)) if target else None
    except InputError as error:
        problems += error.problems
        return None
    problems += base.problems if base else ()
    return base


def _words(document: Document) -> dict[str, str]:
    """A word for each field of the grid and the zip, for the names of their arms."""
    paths = [path for section in ("grid", "zip") for path, _ in children(_section(document, section))]
    return labels(dict.fromkeys(paths))


def _solved(document: Document, problems: list[Problem]) -> Solved | None:
    node = dict(children(_section(document, "match"))).get("parameters")
    if node is None or not isinstance(node.value, str):
        return None  # the validation of the file tells of it
    place = f"{node.place}: match.parameters"
    if problem := solvable_problem(node.value, place):
        problems.append(problem)
        return None
    return Solved(node.value, place)


def _section(document: Document, key: str) -> Node | None:
    node: Node | None = document.root.value.get(key)
    return node


def _file_overrides(document: Document, problems: list[Problem]) -> tuple[Override, ...]:
    node = document.root.value.get("overrides")
    return () if node is None else overrides_of(node, "overrides", problems, document.path)


def _given_overrides(texts: Sequence[str], problems: list[Problem]) -> list[Override]:
    overrides, mistakes = parse_overrides(texts)
    problems += mistakes
    problems += [problem for override in overrides if (problem := misplaced(override.path, override.place))]
    return overrides


def _name_problems(document: Document) -> list[Problem]:
    """A study is found by its name (reports/<name>.md), so it is the file's stem."""
    node = document.root.value.get("name")
    if node is None or not isinstance(node.value, str) or node.value == document.path.stem:
        return []
    fix = f"call the file {node.value}.yaml, or write `name: {document.path.stem}`."
    return [Problem(f"'{node.value}' is not the file's stem, '{document.path.stem}'", f"{node.place}: name", fix)]


def _seed_problems(seeds: int | None) -> list[Problem]:
    if seeds is None or 1 <= seeds <= MAX_SEEDS:
        return []
    return [Problem(f"{seeds} seeds: it must be 1 to {MAX_SEEDS}", "--seeds")]


def _seeds(written: int | tuple[int, ...], count: int | None) -> tuple[int, ...]:
    seeds = tuple(range(written)) if isinstance(written, int) else written
    if count is None:
        return seeds
    unused = [seed for seed in range(len(seeds) + count) if seed not in seeds]
    return (*seeds, *unused)[:count]
