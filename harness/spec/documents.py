"""Experiment files to specs: read, composed, overridden, validated, with every mistake told at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import InputError, Problem
from harness.spec.composition import apply_overrides, compose, parse_overrides
from harness.spec.diagnostics import checked
from harness.spec.experiment import ExperimentSpec
from harness.spec.kinds import Kind, kind_of_keys
from harness.spec.origin import Origin
from harness.spec.surroundings import Contents, Surroundings
from harness.spec.yaml_tree import Document, Node, read_document

__all__ = ["accept", "apply_overrides", "experiment_from_dict", "kind_of", "load_experiment", "refuse_other_kind"]


Result = TypeVar("Result")


def load_experiment(
    file: Path | Document,
    overrides: Sequence[str] = (),
    learners: Sequence[Path] = (),
    contents: Contents | None = None,
) -> ExperimentSpec:
    """The experiment file over its bases, with overrides ("model.width=72", YAML values) laid over it.

    InputError holds every mistake in the files and the overrides. `name` defaults to the file's stem;
    `name` and `notes` of a base are not taken over. `learners` are the files of those that learn from this one;
    `contents` tells what a folder of images held that is not there.
    """
    first = read_document(file)
    refuse_other_kind(first, "experiment")
    laid_over, problems = parse_overrides(overrides)
    try:
        document = compose(first)
    except InputError as error:
        mistakes = [*first.problems, *error.problems, *_mistakes_without_base(first), *problems]
        raise InputError(in_order(mistakes)) from None
    tree = apply_overrides(document.root.plain(), {override.path: override.value for override in laid_over})
    spec, mistakes = Surroundings(*learners, first.path, contents=contents).checked(
        tree, Origin(document.root, tuple(laid_over)), ("base",)
    )
    return accept(spec, [*document.problems, *mistakes, *problems])


def _mistakes_without_base(first: Document) -> list[Problem]:
    """What is wrong with a file whatever its base may be; what is missing could be there."""
    _, mistakes = checked(ExperimentSpec, first.root.plain() | {"name": "x"}, Origin(first.root), extra_keys=("base",))
    base = f"{first.root.value['base'].place}: base"
    return [problem for problem in mistakes if problem.what != "is missing" and problem.where != base]


def experiment_from_dict(data: dict[str, Any]) -> ExperimentSpec:
    """A spec from plain data, e.g. a record's `spec`; InputError names the fields that are wrong.

    Nothing that it names is looked at: a record stands for itself.
    """
    spec, problems = checked(ExperimentSpec, data, Origin(Node(None, "")))
    return accept(spec, problems)


def kind_of(file: Path | Document) -> Kind:
    """Which kind of file this is; InputError if it can't be read at all.

    Told by the keys at the top level: the kind that more of them belong to, `name` and `base` belonging to both.
    On a tie an ablation where one of them makes arms, else an experiment.
    """
    return kind_of_keys(read_document(file).root.value) or "experiment"


def refuse_other_kind(document: Document, wanted: Kind) -> None:
    """InputError when an experiment is read as an ablation or the other way round: one message, not twenty."""
    kind = kind_of_keys(document.root.value)
    if kind not in {wanted, None}:
        command = "harness ablate" if kind == "ablation" else "harness run"
        fix = f"`{command} {document.path}` takes it."
        raise InputError(f"this is an {kind} file, not an {wanted} file", where=str(document.path), fix=fix)


def accept(result: Result | None, problems: Sequence[Problem]) -> Result:
    """`result`, unless there are problems: then InputError with all of them, each once."""
    if problems or result is None:
        raise InputError(in_order(dict.fromkeys(problems)))
    return result


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Those of a file together and in the order of its lines; the files, and all that has no line, as they came."""
    places = [(problem, *_line(problem)) for problem in problems]
    files = list(dict.fromkeys(file for _, file, _ in places))
    return [problem for problem, *_ in sorted(places, key=lambda place: (files.index(place[1]), place[2]))]


def _line(problem: Problem) -> tuple[str, int]:
    """The file and the line of `where`; ("", 0) of what has none."""
    found = re.match(r"(.+?):(\d+)(?::|$)", problem.where or "")
    return (found[1], int(found[2])) if found else ("", 0)
