"""YAML text to a tree that remembers where each value was written; nothing in the text is ever executed.

Scalars follow YAML 1.2's core schema (`5.0e-4` and `1e-4` are numbers, only true and false are booleans,
`on` and `no` are text), with `_` between digits as in Python (`5_000_000`). Mapping keys are text.
Built on the parser's events instead of its constructor: no tag can run code, aliases and depth are
bounded before anything is expanded, and a duplicate key is one problem among others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from harness.errors import InputError, Problem
from harness.spec.yaml_events import events, quick_events

MAX_BYTES = 4 * 2**20
LARGE = 2**16  # characters from which on it is worth to try the quick parser first
MAX_DEPTH = 40
MAX_VALUES = 500_000  # with aliases expanded; an ablation file with 10,000 hand-written arms has about 50,000

NULLS = {"", "~", "null", "Null", "NULL"}
BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
INTEGER = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
HEX_OR_OCTAL = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # from "\\ud800": no file or terminal takes it
INFINITY = re.compile(r"([-+]?)\.(inf|Inf|INF)")

FieldPath = tuple[str | int, ...]


@dataclass(slots=True)
class Node:
    """A value (scalar, {key: Node} or [Node]), the place it was written ("file:line") and its size.

    For a value in a mapping the place is its key's. `size` counts the values in it, `height` the levels of mappings
    and lists, aliases expanded.
    """

    value: Any
    place: str
    size: int = 1
    height: int = 0

    def plain(self) -> Any:
        """The value without places; strings, numbers, booleans, None, dicts and lists."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def place_of(self, path: FieldPath) -> str:
        """Place of the value at `path`, or of the last mapping or list on the way to it."""
        node = self
        for part in path:
            try:
                node = node.value[part]
            except (KeyError, IndexError, TypeError):
                break
        return node.place


@dataclass(frozen=True)
class Document:
    """A YAML file read: its top mapping and the mistakes found on the way that did not stop the reading."""

    path: Path
    root: Node
    problems: tuple[Problem, ...] = ()


def read_document(file: Path | Document) -> Document:
    """Read a YAML file whose top level is a mapping; InputError if there is no such thing. One that is read stays."""
    if isinstance(file, Document):
        return file
    path = Path(file)
    root, problems = parse(_read_text(path), str(path))
    if root is None:
        raise InputError("the file is empty", where=str(path), fix="it needs the fields of an experiment or ablation.")
    if not isinstance(root.value, dict):
        what = "a list" if isinstance(root.value, list) else "a single value"
        raise InputError(f"the file is {what}", where=root.place, fix="its top level must be `key: value` lines.")
    return Document(path, root, tuple(problems))


def _read_text(path: Path) -> str:
    if hindrance := no_file(path):
        raise InputError(hindrance, where=str(path))
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError("there is no such file", where=str(path), fix=nearest_file(path)) from None
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror}", where=str(path)) from None
    if len(data) > MAX_BYTES:
        raise InputError(f"is larger than {MAX_BYTES // 2**20} MiB: no experiment or ablation file is", where=str(path))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"is not UTF-8 text (byte {error.start}: 0x{data[error.start]:02x})",
            where=f"{path}:{line}",
            fix="experiment and ablation files are YAML, saved as UTF-8.",
        ) from None


def no_file(path: Path) -> str | None:
    """What is there instead of a file, or why none can be; None for a file, and where nothing is."""
    try:
        return "is a folder, not a YAML file" if S_ISDIR(path.stat().st_mode) else None
    except FileNotFoundError:
        return "is a link to a file that is not there" if path.is_symlink() else None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return f"can't be read: {getattr(error, 'strerror', None) or error}"


def nearest_file(path: Path) -> str | None:
    """A sentence naming the file in the same folder whose name is most like the missing one's."""
    from difflib import get_close_matches

    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder} either."
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in {".yaml", ".yml"})
    close = get_close_matches(path.name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {folder / close[0]}?"
    return f"YAML files in {folder}: {', '.join(names[:10])}." if names else f"{folder} has no YAML files."


def parse_value(text: str) -> Any:
    """One YAML value, e.g. of an override (`[3, 3, 3]`, `1e-4`, `null`); InputError says what is wrong with it."""
    root, problems = parse(text, "")
    if problems:
        raise InputError([Problem(problem.what, None, problem.fix) for problem in problems])
    return None if root is None else root.plain()


def parse(text: str, name: str) -> tuple[Node | None, list[Problem]]:
    """The only document in `text` (None if it is empty) and the mistakes that did not stop the reading."""
    if len(text) >= LARGE and (root := parse_quickly(text, name)) is not None:
        return root, []
    builder = _Builder(name)
    for event in events(text, name, builder.problems):
        builder.take(event)
    return builder.root, builder.problems


def parse_quickly(text: str, name: str) -> Node | None:
    """The document in `text` where the quick parser reads it without finding anything wrong, else None."""
    builder = _Builder(name)
    try:
        for event in quick_events(text):
            builder.take(event)
    except InputError:  # told in one parser's words, whatever the size of the file
        return None
    return None if builder.problems else builder.root


@dataclass
class _Open:
    """A mapping or list whose end has not been seen; `key` and its place wait for the key's value."""

    node: Node
    anchor: str | None
    key: str | None = None
    key_place: str = ""

    @property
    def wants_key(self) -> bool:
        return isinstance(self.node.value, dict) and self.key is None


class _Builder:
    """Puts the parser's events together, with a stack of its own: no input can exhaust Python's."""

    def __init__(self, name: str):
        self.name = name
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self.stack: list[_Open] = []
        self.anchors: dict[str, Node] = {}
        self.documents = 0

    def take(self, event: Any) -> None:
        place = f"{self.name}:{event.start_mark.line + 1}"
        match type(event).__name__:
            case "DocumentStartEvent":
                self._begin_document(place)
            case "MappingStartEvent":
                self._open(Node({}, place, height=1), event)
            case "SequenceStartEvent":
                self._open(Node([], place, height=1), event)
            case "MappingEndEvent" | "SequenceEndEvent":
                closed = self.stack.pop()
                self._put(closed.node, closed.anchor)
            case "ScalarEvent":
                self._scalar(event, place)
            case "AliasEvent":
                self._alias(event.anchor, place)

    def _begin_document(self, place: str) -> None:
        self.documents += 1
        if self.documents > 1:
            raise self._failure("a second document begins here", place, "a file holds one document: remove the `---`.")

    def _open(self, node: Node, event: Any) -> None:
        if self.stack and self.stack[-1].wants_key:
            raise self._failure("a key must be text, not a list or mapping", node.place)
        if len(self.stack) >= MAX_DEPTH:
            raise self._failure(f"more than {MAX_DEPTH} levels of nesting", node.place)
        self._check_tag(event, node.place)
        self.stack.append(_Open(node, event.anchor))

    def _scalar(self, event: Any, place: str) -> None:
        if HALF_CHARACTER.search(event.value):
            self.problems.append(Problem(f"{event.value!r} has half a character in it", place, "write it without \\u."))
        if self.stack and self.stack[-1].wants_key:
            self.stack[-1].key, self.stack[-1].key_place = event.value, place
            return
        self._check_tag(event, place)
        plain = not event.style and event.tag is None
        self._put(Node(resolve(event.value) if plain else event.value, place), event.anchor)

    def _alias(self, anchor: str, place: str) -> None:
        if anchor not in self.anchors:
            raise self._failure(f"*{anchor} refers to no value before it", place)
        if self.stack and self.stack[-1].wants_key:
            raise self._failure(f"a key must be text, not the alias *{anchor}", place)
        node = self.anchors[anchor]
        if len(self.stack) + node.height > MAX_DEPTH:
            raise self._failure(f"more than {MAX_DEPTH} levels of nesting, aliases expanded", place)
        self._put(node, None)

    def _put(self, node: Node, anchor: str | None) -> None:
        if anchor:
            self.anchors[anchor] = node
        if not self.stack:
            self.root = node
            return
        parent = self.stack[-1]
        self._attach(parent, node)
        if parent.node.size > MAX_VALUES:
            raise self._failure(f"more than {MAX_VALUES:,} values, aliases expanded", node.place)

    def _attach(self, parent: _Open, node: Node) -> None:
        parent.node.size += node.size
        parent.node.height = max(parent.node.height, node.height + 1)
        if parent.key is None:
            parent.node.value.append(node)
            return
        key, parent.key = parent.key, None
        if key in parent.node.value:
            first = parent.node.value[key].place
            fix = f"it is already at {first}: keep one."
            self.problems.append(Problem(f"`{shown(key)}` is written twice", parent.key_place, fix))
            return
        parent.node.value[key] = Node(node.value, parent.key_place, node.size, node.height)

    def _check_tag(self, event: Any, place: str) -> None:
        if event.tag is not None:
            self.problems.append(Problem(f"the tag {event.tag} has no meaning here", place, "write the plain value."))

    def _failure(self, what: str, place: str, fix: str | None = None) -> InputError:
        return InputError([*self.problems, Problem(what, place, fix)])


def shown(key: str) -> str:
    """A key as a message may print it: without control characters or broken Unicode from `"\\e"` and the like."""
    return key if key.isprintable() else ascii(key)[1:-1]


def resolve(text: str) -> Any:
    """The value of an unquoted scalar: None, a boolean, an integer, a float, else the text itself."""
    if text in NULLS:
        return None
    if text in BOOLEANS:
        return BOOLEANS[text]
    if INTEGER.fullmatch(text):
        return int(text) if len(text) < 400 else text  # Python refuses thousands of digits, and no field is that large
    if HEX_OR_OCTAL.fullmatch(text):
        return int(text, 0)
    if FLOAT.fullmatch(text):
        return float(text)
    if infinity := INFINITY.fullmatch(text):
        return float(f"{infinity[1]}inf")
    return float("nan") if text in {".nan", ".NaN", ".NAN"} else text
