"""The rooms of the house: who may import whom, and who must stay free of torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HARNESS = Path(__file__).parent.parent / "harness"

# room -> the rooms it may import, beside itself. Single modules of the top level are rooms too.
MAY_IMPORT = {
    "duration": set(),
    "errors": set(),
    "events": set(),
    "stop": set(),
    "space": {"errors", "spec"},
    "spec": {"errors"},
    "training": {"duration", "errors", "spec"},
    "tracking": {"errors", "spec"},
    "reporting": {"errors", "spec", "tracking"},
    "options": set(),
    "judge": {"spec", "tracking", "training"},
    "saved": {"errors", "events", "tracking", "training"},
    "session": {"duration", "errors", "events", "judge", "options", "saved", "spec", "stop", "tracking", "training"},
    "matching": {"errors", "spec", "training"},
    "teacher": {"errors", "spec", "tracking", "training"},
    "comparison": {"spec", "teacher", "tracking"},
    "earlier": {"errors", "events", "tracking"},
    "runner": {
        "earlier", "errors", "events", "judge", "options", "saved", "session", "space", "spec", "stop", "teacher",
        "tracking", "training",
    },
    "study": {
        "earlier", "errors", "events", "matching", "options", "reporting", "runner", "space", "spec", "stop",
        "teacher", "tracking", "training",
    },
    "doctor": {"errors", "tracking", "training"},
    "predict": {"errors", "options", "spec", "tracking", "training"},
    "terminal": {
        "comparison", "duration", "errors", "events", "matching", "options", "reporting", "space", "spec", "stop",
        "study", "teacher", "tracking", "training", "",
    },
    "api": {"events", "matching", "options", "reporting", "runner", "spec", "stop", "study", "teacher", "tracking", ""},
    "": {"api"},
}  # fmt: skip
NO_TORCH = {"duration", "earlier", "errors", "events", "stop", "space", "spec", "tracking", "reporting", "options"}


def modules() -> Iterator[tuple[str, Path]]:
    """(room, file) of every module but the command line, which may import everything."""
    for path in sorted(HARNESS.rglob("*.py")):
        first = path.relative_to(HARNESS).parts[0].removesuffix(".py").replace("__init__", "")
        if first != "cli":
            yield first, path


def imported(path: Path) -> Iterator[str]:
    """Every module that the file names in an import, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "harness":
                yield from (f"harness.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("room", "path"), list(modules()), ids=lambda value: getattr(value, "name", value))
def test_imports_go_one_way(room: str, path: Path) -> None:
    allowed = MAY_IMPORT[room] | {room}
    for name in imported(path):
        if name.split(".")[0] == "harness":
            target = name.split(".")[1] if "." in name else ""
            assert target in allowed or name == "harness", f"{path}: room {room!r} must not import {name}"
        assert not (room in NO_TORCH and name.split(".")[0] in ("torch", "torchvision")), f"{path} imports {name}"
