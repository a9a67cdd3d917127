"""Fields that name files: written relative to the file that names them, used relative to the working folder."""

from __future__ import annotations

from os.path import exists, normpath, realpath
from pathlib import Path
from typing import Any

from harness.spec.yaml_tree import Node

TEACHER = "loss.distill.teacher"
FOLDER = "data.folder.path"
FILE_SUFFIXES = (".yaml", ".yml", ".pt")


def resolved(path: Path) -> Path:
    """Absolute and without symbolic links; unlike `Path.resolve` before Python 3.13 of links in a circle too."""
    return Path(realpath(path))


def tidy(path: Path) -> Path:
    """Without `x/..`, for messages, unless a symbolic link gives `..` another meaning."""
    short = Path(normpath(path))
    return short if realpath(short) == realpath(path) else path


def from_file(node: Node, written_in: Path, at: str = "") -> Node:
    """The tree at dotted path `at` of an experiment with the paths in it resolved; `node` does not change.

    `written_in` is the file that the tree stands in.
    """
    if at in (TEACHER, FOLDER):
        return Node(_resolved(node.value, written_in.parent, at), node.place, node.size)
    if not isinstance(node.value, dict):
        return node
    prefix = f"{at}." if at else ""
    if not any(field.startswith(prefix) for field in (TEACHER, FOLDER)):
        return node
    children = {key: from_file(child, written_in, f"{prefix}{key}") for key, child in node.value.items()}
    return Node(children, node.place, node.size)


def _resolved(value: Any, folder: Path, field: str) -> Any:
    """A run's id stays what it is; a file, or a folder that is there, is named from the working folder."""
    if not isinstance(value, str) or not value or "\0" in value or Path(value).is_absolute():
        return value
    path = folder / value
    if field == TEACHER and not value.endswith(FILE_SUFFIXES) and not exists(path):
        return value
    return tidy(path).as_posix()
