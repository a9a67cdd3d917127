"""Ablation files to studies: the base and its arms, each a full experiment spec, and the seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import InputError, Problem
from harness.spec.ablation_file import AblationFile, Reference
from harness.spec.composition import apply_overrides, base_of, compose, parse_overrides, path_problem, read_base
from harness.spec.diagnostics import checked
from harness.spec.documents import accept, refuse_other_kind
from harness.spec.experiment import ExperimentSpec, check_name
from harness.spec.identity import spec_digest
from harness.spec.origin import Origin, Override
from harness.spec.yaml_tree import Document, Node, read_document

__all__ = ["AblationFile", "Arm", "Reference", "Study", "load_study"]

# Section of the file -> how an arm is named after its key.
SECTIONS = {"arms": "{}", "leave_one_out": "no_{}", "add_one_in": "with_{}"}


@dataclass(frozen=True)
class Arm:
    """One variant. `overrides` maps dotted field paths to values relative to the base arm; {} for the base."""

    name: str
    overrides: Mapping[str, Any]
    spec: ExperimentSpec


@dataclass(frozen=True)
class Study:
    """An ablation file, expanded: arms (the base first) x seeds. `remarks` tells what the expansion merged."""

    name: str
    question: str | None
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    margin: float | None
    reference: Reference | None
    path: Path | None = None
    remarks: tuple[str, ...] = ()

    @property
    def base(self) -> Arm:
        return self.arms[0]


@dataclass(frozen=True)
class _Draft:
    """An arm as written: its name, its overrides, where it stands and whether a person named it or a rule did."""

    name: str
    overrides: tuple[Override, ...]
    place: str
    key: str
    generated: bool

    @property
    def where(self) -> str:
        return f"{self.place}: {self.key}"


def load_study(path: Path, overrides: Sequence[str] = (), seeds: int | None = None) -> Study:
    """The ablation file at `path`, expanded; InputError holds every mistake in it, its base and its arms.

    `overrides` ("train.epochs=30") are laid over the base and so hold for all arms, after the file's own.
    `seeds`: train with that many seeds instead: the file's first ones, then the smallest it does not name.
    """
    path = Path(path)
    document = read_document(path)
    refuse_unless_ablation(document)
    file, problems = checked(AblationFile, document.root.plain(), Origin(document.root))
    problems = [*document.problems, *problems, *_name_problems(document)]
    base = _base_document(document, problems)
    shared = _file_overrides(document, problems)
    laid_over, mistakes = parse_overrides(overrides)
    problems += [*mistakes, *_misplaced(laid_over)]
    expansion = _Expansion(base, (*shared, *laid_over))
    drafts = list(_drafts(document, problems))
    expansion.add(drafts)
    accept(None, [*problems, *expansion.problems])
    return Study(
        name=file.name,
        question=file.question,
        arms=tuple(expansion.arms),
        seeds=_seeds(file.seeds, seeds),
        margin=file.margin,
        reference=file.reference,
        path=path,
        remarks=tuple(expansion.remarks),
    )
