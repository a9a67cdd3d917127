"""Names of the arms that a grid or zip makes: what differs from the base, short, the same whatever else is there."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.spec.origin import Override

MAX_LENGTH = 40
MARK_LENGTH = 6


def labels(paths: Iterable[str]) -> dict[str, str]:
    """Path -> the shortest end of it that no other of the paths has: "model.width" -> "width".

    Of "optim.schedule.kind" it is "schedule": what kind it is, the value says.
    """
    parts = {path: path.removesuffix(".kind").split(".") for path in paths}

    def label(path: str) -> str:
        for length in range(1, len(parts[path]) + 1):
            end = parts[path][-length:]
            if sum(other[-length:] == end for other in parts.values()) == 1:
                break
        return "_".join(end)

    return {path: label(path) for path in parts}


def name_of(overrides: Sequence[Override], words: Mapping[str, str], most: int = MAX_LENGTH) -> str:
    """ "width48-dropout0", "depths4_4_3", "no_se-schedule_cosine"; a long one is cut and ends in a `mark`."""
    name = "-".join(_part(words[override.path], override.written) for override in overrides)
    return name if len(name) <= most else marked(name, overrides, most)


def marked(name: str, overrides: Sequence[Override], most: int = MAX_LENGTH) -> str:
    """The name with 6 hex digits of what is set, which tell it from another arm of this name."""
    content = json.dumps(sorted((override.path, override.written) for override in overrides))
    mark = hashlib.sha256(content.encode()).hexdigest()[:MARK_LENGTH]
    room = max(most - MARK_LENGTH - 1, 0)
    return f"{name[:room].rstrip('-_.')}-{mark}".lstrip("-")


def _part(label: str, value: Any) -> str:
    if value is None or value is False:
        return f"no_{label}"
    if value is True:
        return label
    text = _text(value)
    return f"{label}{text}" if isinstance(value, int | float | list) else f"{label}_{text}".rstrip("_")


def _text(value: Any) -> str:
    """A value as part of a name: only letters, digits, `_`, `-` and single dots."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value).removesuffix(".0")
    if isinstance(value, list):
        return "_".join(map(_text, value))
    if isinstance(value, dict):
        return "_".join(_text(item) if key == "kind" else _part(_words(key), item) for key, item in value.items())
    return _words(str(value))


def _words(text: str) -> str:
    return re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9.]+", "_", text)).strip("._")
