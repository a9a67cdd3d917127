"""A pydantic ValidationError as problems in plain language: where, the value, what would be right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from harness.errors import Problem
from harness.spec.base import ConflictError
from harness.spec.fields import field_paths, fields_of, meaning, nearest_path, submodels
from harness.spec.origin import Origin, dotted
from harness.spec.yaml_tree import FieldPath, shown

MAX_DETAILS = 100
AnyModel = TypeVar("AnyModel", bound=BaseModel)

EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of that size",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "none_required": "null",
}
BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
# What people coming from YAML 1.1, Python or a shell write for the three words of YAML 1.2.
OTHER_WORDS = {"yes": "true", "on": "true", "no": "false", "off": "false", "none": "null", "nil": "null"}


def problems_of(
    error: ValidationError,
    root: type[BaseModel],
    tree: Any,
    origin: Origin,
    extra_keys: tuple[str, ...] = (),
    hints: Mapping[str, str] = MappingProxyType({}),
) -> list[Problem]:
    """All mistakes `error` holds.

    `tree` is what was validated; `extra_keys` are top-level keys a file may have too; `hints` say of other ones what is
    meant by them.
    """
    reader = _Reader(root, tree, origin, extra_keys, hints)
    return reader.read([dict(detail) for detail in error.errors(include_url=False)])


def show(value: Any, limit: int = 60) -> str:
    """A value as it would be written in YAML, cut to `limit` characters."""
    if value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {show(item)}" for key, item in list(value.items())[:6]) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(show(item) for item in value[:20]) + "]"
    else:
        text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


class _Reader:
    def __init__(
        self, root: type[BaseModel], tree: Any, origin: Origin, extra_keys: tuple[str, ...], hints: Mapping[str, str]
    ):
        self.root, self.tree, self.origin, self.extra_keys, self.hints = root, tree, origin, extra_keys, hints
        self.misspelt: set[str | None] = set()
        """Fields that unknown keys are taken for: that one of them is missing is not told besides."""

    def read(self, details: list[dict[str, Any]]) -> list[Problem]:
        groups = self._by_field(details[:MAX_DETAILS])
        unknown = [d["path"] for group in groups.values() for d in group if d["type"] == "extra_forbidden"]
        self.misspelt = {self._meant(path) for path in unknown}
        problems: list[Problem] = []
        for path, group in groups.items():
            problems += self._problems_at(path, group)
        if len(details) > MAX_DETAILS:
            file = self.origin.where(()).rpartition(":")[0]
            problems.append(Problem(f"{len(details) - MAX_DETAILS} more mistakes", file or None))
        return problems

    def _by_field(self, details: list[dict[str, Any]]) -> dict[FieldPath, list[dict[str, Any]]]:
        """Errors by path; those of a union's branches together under the union's field."""
        groups: dict[FieldPath, list[dict[str, Any]]] = {}
        for detail in details:
            path, union, branch = self._path(detail["loc"])
            detail |= {"path": path, "branch": branch}
            groups.setdefault(path if union is None else union, []).append(detail)
        return groups

    def _path(self, loc: FieldPath) -> tuple[FieldPath, FieldPath | None, str | None]:
        """`loc` without the names pydantic gives a union's branches; the union's field and the branch, if any."""
        path: list[str | int] = []
        union, branch = None, None
        models: tuple[type[BaseModel], ...] = (self.root,)
        value = self.tree
        for part in loc:
            fields = fields_of(models)
            present = isinstance(value, Mapping) and part in value
            if isinstance(part, int) or part in fields or present:
                path.append(part)
                value = self._child(value, part)
                models = submodels(fields[part].annotation) if part in fields else ()
            elif union is None:
                union, branch = tuple(path), str(part)
        return tuple(path), union, branch

    @staticmethod
    def _child(value: Any, part: str | int) -> Any:
        try:
            return value[part]
        except (KeyError, IndexError, TypeError):
            return None

    def _problems_at(self, path: FieldPath, group: list[dict[str, Any]]) -> list[Problem]:
        branches = {detail["branch"] for detail in group}
        if len(branches) > 1:
            # A branch that the value does not even have the type of is not what was meant.
            strangers = {d["branch"] for d in group if d["path"] == path and d["type"] in EXPECTED}
            meant = [detail for detail in group if detail["branch"] not in strangers]
            if not meant:
                kinds = " or ".join(dict.fromkeys(EXPECTED[d["type"]] for d in group if d["type"] in EXPECTED))
                return [self._wrong_type(path, kinds)]
            group = meant
        return [problem for detail in group for problem in self._explain(detail["path"], detail)]

    def _explain(self, path: FieldPath, detail: dict[str, Any]) -> list[Problem]:
        kind, context = detail["type"], detail.get("ctx", {})
        if kind == "missing":
            return [] if dotted(path) in self.misspelt else [self._missing(path)]
        if kind == "extra_forbidden":
            return [self._unknown(path)]
        if kind in EXPECTED:
            return [self._wrong_type(path, EXPECTED[kind])]
        if kind == "too_short" and len(detail["input"]) >= context["min_length"]:
            return []  # pydantic counts the valid items only, and has told of the others
        if isinstance(context.get("error"), ConflictError):
            return [self._problem((*path, *field.split(".")), what) for field, what in context["error"].mistakes]
        return [self._wrong_value(path, kind, context, detail)]

    def _wrong_value(self, path: FieldPath, kind: str, context: dict[str, Any], detail: dict[str, Any]) -> Problem:
        value = show(self._value(path, detail["input"]))
        if kind in BOUNDS:
            key, words = BOUNDS[kind]
            bound = context[key]
            what = f"{value} is out of range: it must be {words} {bound:{',' if isinstance(bound, int) else 'g'}}"
            return self._problem(path, what, self._meaning(path))
        if kind == "literal_error":
            return self._not_a_choice(path, value)
        if kind == "union_tag_invalid":
            return self._not_a_choice((*path, "kind"), show(self._value((*path, "kind"), None)), self._kinds(path))
        if kind == "too_short":
            return self._problem(path, f"{value} needs at least {context['min_length']} item", self._meaning(path))
        if kind == "too_long":
            return self._problem(path, f"{value} may have at most {context['max_length']} items", self._meaning(path))
        if kind == "string_too_short":
            return self._problem(path, "is empty", self._meaning(path))
        if kind == "value_error":
            return self._problem(path, str(context["error"]))
        return self._problem(path, f"{value} is not valid: {detail['msg']}", self._meaning(path))

    def _missing(self, path: FieldPath) -> Problem:
        info = self._info(path)
        inside = f" under `{dotted(path[:-1])}:`" if path[:-1] else ""
        fix = f"write `{path[-1]}:`{inside}."
        explained = meaning(info) if info else None
        return Problem("is missing", self.origin.where_missing(path), f"{fix} {explained}" if explained else fix)

    def _unknown(self, path: FieldPath) -> Problem:
        parent, key = path[:-1], str(path[-1])
        meant = self._meant(path)
        if key == "<<":
            hint = "YAML merge keys have no meaning here; `base:` lays one file over another. "
        elif not parent and key in self.hints:
            hint = f"{self.hints[key]} "
        elif meant == dotted(path) and "." in key:
            section, _, name = meant.rpartition(".")
            hint = f"dotted paths are for overrides: write `{name}:` under `{section}:`. "
        elif meant == dotted(path):
            hint = "another `kind` has it. "
        elif meant and not dotted(path).startswith(f"{meant}."):
            section, _, name = meant.rpartition(".")
            hint = f"did you mean `{name if section == dotted(parent) else meant}`? "
        else:
            hint = ""
        where = f"`{dotted(parent)}` takes" if parent else "the top level takes"
        keys = ", ".join(self._known(parent))
        return self._problem(path, f"unknown key `{shown(key)}`", f"{hint}{where}: {keys}.")

    def _meant(self, path: FieldPath) -> str | None:
        """The field that an unknown key is most like: its own dotted path, else one beside it, else one elsewhere."""
        parent, key = path[:-1], str(path[-1])
        if "." in key and dotted(path) in field_paths(self.root):
            return dotted(path)
        close = get_close_matches(key, self._known(parent), n=1)
        return dotted((*parent, close[0])) if close else nearest_path(dotted(path), self.root)

    def _known(self, parent: FieldPath) -> list[str]:
        """The keys that the mapping at `parent` may have."""
        return [*self._keys(parent), *(self.extra_keys if not parent else ())]

    def _wrong_type(self, path: FieldPath, expected: str) -> Problem:
        value = self._value(path, None)
        info = self._info(path)
        keys = self._keys(path) if info else []
        if expected == "a mapping" and keys:
            expected += f" ({', '.join(keys)})"
        fix = self._meaning(path)
        if isinstance(value, str):
            kinds = self._kinds(path)
            fix = f"write {{kind: {value}}}." if value in kinds else _hint_for_text(value, expected) or fix
        elif expected == "text" and isinstance(value, bool | int | float):
            fix = f"for text put it in quotes: '{show(value)}'."
        elif isinstance(value, float) and value.is_integer() and "a whole number" in expected:
            fix = f"write {int(value)}."
        return self._problem(path, f"{show(value)} is not {expected}", fix)

    def _not_a_choice(self, path: FieldPath, value: str, choices: Sequence[str] | None = None) -> Problem:
        info = self._info(path)
        known = choices or [str(choice) for choice in _choices(info.annotation if info else None)]
        close = get_close_matches(value.strip("'\""), known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        fix = hint.strip() if choices else f"{hint}{self._meaning(path) or ''}".strip()
        return self._problem(path, f"{value} is none of {', '.join(known)}", fix)

    def _problem(self, path: FieldPath, what: str, fix: str | None = None) -> Problem:
        return Problem(what, self.origin.where(path), fix or None)

    def _value(self, path: FieldPath, default: Any) -> Any:
        value = self.tree
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return default
        return value

    def _keys(self, path: FieldPath) -> list[str]:
        """What the mapping at `path` may hold; of a union of kinds, what the kind written there may."""
        return list(fields_of(self._models(path)))

    def _info(self, path: FieldPath) -> FieldInfo | None:
        """The field at `path`; of a union of kinds, the one of the kind written there."""
        names = tuple(part for part in path if isinstance(part, str))
        if not names:
            return None
        return fields_of(self._models(names[:-1])).get(names[-1]) or field_paths(self.root).get(".".join(names))

    def _kinds(self, path: FieldPath) -> list[str]:
        """The `kind`s that the mapping at `path` may have; [] where it has none."""
        info = self._info(path)
        models = submodels(info.annotation) if info else ()
        return [
            kind for m in models if "kind" in m.model_fields for kind in _choices(m.model_fields["kind"].annotation)
        ]

    def _models(self, path: FieldPath) -> tuple[type[BaseModel], ...]:
        models: tuple[type[BaseModel], ...] = (self.root,)
        for depth, name in enumerate(path, start=1):
            info = fields_of(models).get(str(name))
            models = of_kind(submodels(info.annotation), self._value(path[:depth], None)) if info else ()
        return models

    def _meaning(self, path: FieldPath) -> str | None:
        info = self._info(path)
        explained = meaning(info) if info else None
        name = next((part for part in reversed(path) if isinstance(part, str)), None)
        return f"{name}: {explained}" if explained else None


def of_kind(models: tuple[type[BaseModel], ...], value: Any) -> tuple[type[BaseModel], ...]:
    """Of a union's models the one whose `kind` is written in `value`, or the default one; all where neither is."""
    written = value.get("kind") if isinstance(value, Mapping) else None

    def is_meant(model: type[BaseModel]) -> bool:
        kind = model.model_fields.get("kind")
        if kind is None:
            return False
        return written in get_args(kind.annotation) if written is not None else not kind.is_required()

    return tuple(model for model in models if is_meant(model)) or models


def _choices(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if annotation is bool:  # beside words: `auto`, true or false
        return ("true", "false")
    return tuple(choice for argument in get_args(annotation) for choice in _choices(argument))


def _hint_for_text(value: str, expected: str) -> str | None:
    word = OTHER_WORDS.get(value.lower())
    if word and (word == "null" or "number" not in expected):
        return f"in YAML 1.2 `{value}` is text: write {word}."
    try:
        float(value)
    except ValueError:
        return None
    return "leave out the quotes." if "number" in expected else None


def checked(
    model: type[AnyModel],
    tree: Any,
    origin: Origin,
    extra_keys: tuple[str, ...] = (),
    hints: Mapping[str, str] = MappingProxyType({}),
) -> tuple[AnyModel | None, list[Problem]]:
    """`tree` as a `model`, or None and what is wrong with it (see `problems_of`)."""
    try:
        return model.model_validate(tree), []
    except ValidationError as error:
        return None, problems_of(error, model, tree, origin, extra_keys, hints)
