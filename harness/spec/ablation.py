"""Ablation files to studies: the base and its arms, each a full experiment spec, and the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError, Problem
from harness.spec.ablation_file import MAX_SEEDS, AblationFile, Reference
from harness.spec.composition import base_of, compose, parse_overrides, read_base
from harness.spec.diagnostics import checked
from harness.spec.documents import accept, refuse_other_kind
from harness.spec.expansion import Arm, Expansion, drafts_of, misplaced, overrides_of
from harness.spec.origin import Origin, Override
from harness.spec.yaml_tree import Document, read_document

__all__ = ["AblationFile", "Arm", "Reference", "Study", "load_study"]


@dataclass(frozen=True)
class Study:
    """An ablation file, expanded: arms (the base first) x seeds. `remarks` tells which generated arms were merged."""

    name: str
    question: str | None
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    margin: float | None
    reference: Reference | None
    path: Path | None = None
    remarks: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def base(self) -> Arm:
        return self.arms[0]


def load_study(file: Path | Document, overrides: Sequence[str] = (), seeds: int | None = None) -> Study:
    """The ablation file, expanded; InputError holds every mistake in it, its base and its arms.

    `overrides` ("train.epochs=30") are laid over the base and so hold for all arms, after the file's own.
    `seeds`: train with that many instead: the file's first ones, then the smallest it does not name.
    """
    document = read_document(file)
    refuse_other_kind(document, "ablation")
    written, problems = checked(AblationFile, document.root.plain(), Origin(document.root))
    problems = [*document.problems, *problems, *_name_problems(document), *_seed_problems(seeds)]
    shared = [*_file_overrides(document, problems), *_given_overrides(overrides, problems)]
    drafts = list(drafts_of(document, problems))
    base = _base(document, problems)
    expansion = Expansion(base, shared) if base else None
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
    )


def _as_written(overrides: Sequence[str], seeds: int | None) -> tuple[str, ...]:
    """The options of the command line that lead to the same study."""
    given = [word for override in overrides for word in ("-o", override)]
    return (*given, *(("--seeds", str(seeds)) if seeds is not None else ()))


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
