"""The fields of a model by their dotted paths: what an override may set, what a message may suggest."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def submodels(annotation: Any) -> tuple[type[BaseModel], ...]:
    """The models a field may hold: one for `Crop | None`, several for a union of kinds, none for a number."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    return tuple(model for argument in get_args(annotation) for model in submodels(argument))


def fields_of(models: tuple[type[BaseModel], ...]) -> dict[str, FieldInfo]:
    """Field name -> field, over all of `models`; the first of them wins."""
    fields: dict[str, FieldInfo] = {}
    for model in models:
        for name, info in model.model_fields.items():
            fields.setdefault(name, info)
    return fields


@cache
def field_paths(root: type[BaseModel]) -> dict[str, FieldInfo]:
    """Dotted path -> field, parents before their children: "model", "model.depths", ..., "model.se.reduction"."""
    paths: dict[str, FieldInfo] = {}

    def walk(models: tuple[type[BaseModel], ...], prefix: str) -> None:
        for name, info in fields_of(models).items():
            paths[prefix + name] = info
            walk(submodels(info.annotation), f"{prefix}{name}.")

    walk((root,), "")
    return paths


@cache
def default_kinds(root: type[BaseModel]) -> dict[str, str]:
    """Path of a field whose mapping has a `kind` -> the kind that is meant where none is written."""
    return {
        path: model.model_fields["kind"].default
        for path, info in field_paths(root).items()
        for model in submodels(info.annotation)
        if "kind" in model.model_fields and not model.model_fields["kind"].is_required()
    }


def leaf_paths(root: type[BaseModel]) -> list[str]:
    """Paths of the fields that hold values, not further fields."""
    return [path for path, info in field_paths(root).items() if not submodels(info.annotation)]


@cache
def nearest_path(path: str, root: type[BaseModel]) -> str | None:
    """The valid path most like `path`: one with the same last name first, then the nearest spelling."""
    paths = list(field_paths(root))
    last = path.rsplit(".", 1)[-1]
    same_name = [known for known in paths if known.rsplit(".", 1)[-1] == last]
    candidates = same_name or paths
    close = get_close_matches(path, candidates, n=1, cutoff=0.0 if same_name else 0.6)
    if close:
        return close[0]
    by_last_name = {known.rsplit(".", 1)[-1]: known for known in reversed(paths)}
    close = get_close_matches(last, by_last_name, n=1, cutoff=0.6)
    return by_last_name[close[0]] if close else None


def meaning(info: FieldInfo) -> str | None:
    """What the field means: its docstring in one line."""
    return " ".join(info.description.split()) if info.description else None
