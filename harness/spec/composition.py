"""Files laid over their `base:` and overrides laid over files: one rule for both.

A mapping laid over a mapping merges with it, key by key; anything else replaces what was there (null, lists,
`true` and `false` too). A mapping with another `kind:` than the one below it replaces it: the settings of a
cosine schedule mean nothing to a constant one. Where the one below writes no kind, it has the default one; a mapping
without a kind is laid over any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import InputError, Problem
from harness.spec.experiment import ExperimentSpec
from harness.spec.fields import default_kinds, field_paths, nearest_path
from harness.spec.kinds import kind_of_keys
from harness.spec.origin import Override
from harness.spec.paths import from_file, resolved, tidy
from harness.spec.yaml_tree import Document, Node, nearest_file, no_file, parse_value, read_document, shown

# Describe one file, so they are not taken over from its base.
NOT_INHERITED = ("name", "notes", "base")


def compose(first: Document) -> Document:
    """An experiment file over its chain of bases; its name is its stem where it gives none."""
    chain = _chain(first)
    roots = [from_file(document.root, document.path) for document in chain]
    root = Node(dict(roots[-1].value), roots[-1].place)
    for above in reversed(roots[:-1]):
        inherited = {key: node for key, node in root.value.items() if key not in NOT_INHERITED}
        root = lay_over(Node(inherited, root.place), above)
    root.value.pop("base", None)
    root.value.setdefault("name", Node(first.path.stem, str(first.path)))
    return Document(first.path, root, tuple(problem for document in chain for problem in document.problems))


def _chain(first: Document) -> list[Document]:
    """The file, its base, its base's base ...; InputError for a cycle or a base that is not there."""
    chain = [first]
    seen = {resolved(first.path): first.path}
    while (target := base_of(chain[-1])) is not None:
        place = chain[-1].root.value["base"].place
        if resolved(target) in seen:
            names = " -> ".join(str(p) for p in [*seen.values(), target])
            raise InputError(f"the bases go in a circle: {names}", where=f"{place}: base", fix="take one `base:` out.")
        seen[resolved(target)] = target
        chain.append(read_base(target, place))
    return chain


def base_of(document: Document) -> Path | None:
    """The path that `base:` names, relative to the file; None where there is no such key."""
    node = document.root.value.get("base")
    if node is None or node.value is None:
        return None
    if not isinstance(node.value, str) or not node.value or "\0" in node.value:
        raise InputError("is not the path of an experiment file", where=f"{node.place}: base")
    return tidy(document.path.parent / node.value)


def read_base(path: Path, place: str) -> Document:
    """The base that the key at `place` names; InputError if it is not there, no file or an ablation file."""
    if hindrance := no_file(path):
        raise InputError(f"{path} {hindrance}", where=f"{place}: base")
    if not path.exists():
        raise InputError(f"there is no file {path}", where=f"{place}: base", fix=nearest_file(path))
    document = read_document(path)
    if kind_of_keys(document.root.value) == "ablation":
        raise InputError(f"{path} is an ablation file", where=f"{place}: base", fix="a base is an experiment file.")
    return document


def lay_over(below: Node, above: Node, at: str = "") -> Node:
    """`above` laid over `below`, both at the dotted path `at`, places kept; neither is changed."""
    if not _merges(below.value, above.value, at, lambda node: node.value):
        return above
    merged = dict(below.value)
    for key, node in above.value.items():
        merged[key] = lay_over(merged[key], node, _below(at, key)) if key in merged else node
    return Node(merged, above.place)


def _merges(below: Any, above: Any, at: str, value_of: Any = lambda value: value) -> bool:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return False
    if "kind" not in above:
        return True
    kind = value_of(above["kind"])
    kind_below = value_of(below["kind"]) if "kind" in below else default_kinds(ExperimentSpec).get(at, kind)
    return bool(kind_below == kind)


def _below(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def apply_overrides(tree: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `tree` with each dotted path set to its value, in order.

    A path below something that is off (null, false) or merely `true` makes it a mapping first, so
    `augment.cutmix.alpha` switches CutMix on with its other defaults. Paths are not checked here.
    """
    for path, value in overrides.items():
        tree = _with_value(tree, path.split("."), value, path)
    return tree


def _with_value(tree: Any, parts: list[str], value: Any, path: str) -> dict[str, Any]:
    """Copies the mappings on the way down only: ten thousand arms share the rest of the base's tree."""
    head, *rest = parts
    copy = dict(tree) if isinstance(tree, Mapping) else {}
    copy[head] = _with_value(copy.get(head), rest, value, path) if rest else _laid_over(copy.get(head), value, path)
    return copy


def _laid_over(below: Any, above: Any, at: str) -> Any:
    if not _merges(below, above, at):
        return above
    return {**below, **{key: _laid_over(below.get(key), value, _below(at, key)) for key, value in above.items()}}


def parse_overrides(texts: Sequence[str]) -> tuple[list[Override], list[Problem]]:
    """ "model.width=72", ... as overrides, with every mistake in them."""
    overrides: list[Override] = []
    problems: list[Problem] = []
    for text in texts:
        place = f"-o {text}"
        path, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not path:
            problems.append(Problem("is not PATH=VALUE", place, "write, for instance, -o model.width=72."))
            continue
        if problem := path_problem(path, place):
            problems.append(problem)
            continue
        try:
            overrides.append(Override(path, parse_value(value), place))
        except InputError as error:
            problems += [Problem(f"its value {problem.what}", place, problem.fix) for problem in error.problems]
    return overrides, problems


def path_problem(path: str, where: str) -> Problem | None:
    """What is wrong with a dotted path of an experiment field, or None."""
    if path in field_paths(ExperimentSpec):
        return None
    nearest = nearest_path(path, ExperimentSpec)
    fix = f"did you mean `{nearest}`?" if nearest else f"the top level has {', '.join(ExperimentSpec.model_fields)}."
    return Problem(f"there is no field `{shown(path)}`", where, fix)
