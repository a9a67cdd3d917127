"""Text without the machine it was written on: absolute paths shortened to the file's name, no host name."""

from __future__ import annotations

import re
from typing import Any

# A path begins where no word does: not inside "images/s" or "ablations/x.yaml"; other URLs stay as they are.
_PATH = re.compile(
    r"(?P<url>\b(?!file:)[a-z][a-z0-9+.-]*://\S+)"
    r"|(?<![\w.~/-])(?:file:)?~?/+(?:[^\s/'\":,;()<>|]+/+)*(?P<posix>[^\s/'\":,;()<>|]+)"
    r"|\b[A-Za-z]:\\(?:[^\\\s'\"]+\\)*(?P<windows>[^\\\s'\"]*)"
)
HIDDEN = "…"


def scrub(text: str, host: str | None = None) -> str:
    """`text` with "/any/folder/file.yaml" as "file.yaml" and `host` as "…". Idempotent."""
    text = _PATH.sub(lambda found: found["url"] or found["posix"] or found["windows"] or HIDDEN, text)
    return re.sub(rf"(?<![\w-]){re.escape(host)}(?![\w-])", HIDDEN, text) if host else text


def scrubbed(value: Any, host: str | None = None) -> Any:
    """`scrub` on every string of a JSON value, keys included."""
    if isinstance(value, str):
        return scrub(value, host)
    if isinstance(value, dict):
        return {scrub(key, host): scrubbed(item, host) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrubbed(item, host) for item in value]
    return value
