"""Text without the machine it was written on: absolute paths shortened to the file's name, no host name."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "…"
# Where one of these follows a blank, the path has ended and a sentence goes on: "/tmp/a and runs/b".
_GOES_ON = (
    "after|already|also|and|are|as|at|be|because|been|before|but|by|can|cannot|could|did|do|does|during|for|from|had|"
    "has|have|if|in|into|is|it|its|may|must|neither|no|nor|not|of|on|onto|or|since|than|that|the|then|there|this|to|"
    "under|until|was|were|when|where|which|while|will|with|within|without|would"
)


def _folders(separator: str) -> str:
    r"""A pattern for folders' names, each with its separator (inside of []), of up to five words each.

    No name of several words has one that ends like a file's ("b.md") or a sentence, an option ("--out"), a setting
    ("lr=0.1") or the beginning of another path; nor one of `_GOES_ON`, but between names ("Documents and Settings").
    """
    word = rf"(?:[^\s{separator}'\":,;()<>|]|(?<=\w)'(?=\w)|\([^\s{separator}()]*\))+"
    inner = rf"(?![^\s{separator}]*(?:\.[A-Za-z]\w{{0,4}}|[^\sA-Z]\.)\ ){word}"
    blank = rf"\ +(?![~.]|-+\w|[^\s{separator}]*=|(?:{_GOES_ON})(?![\w-])(?!\ +[A-Z]))"
    return rf"(?:(?:{inner}{blank}){{0,4}}{word}[{separator}]+)"


_POSIX, _WINDOWS = _folders("/"), _folders(r"/\\")
# What stands before a path's last name. A path begins where no word does, not inside "images/s" or
# "ablations/x.yaml", but it may follow a short option: "-o/home/x". Other URLs stay as they are.
_BEFORE_NAME = re.compile(
    rf"""
    (?P<url>\b(?!(?i:file):)[A-Za-z][A-Za-z0-9+.-]*://[^\s'\",;]+)
    | (?:
        \b(?:(?i:file):/+)?[A-Za-z]:[/\\]+{_WINDOWS}*
      | (?<![\w\\])(?P<slash>\\\\?)(?P=slash)(?!\\)[^\s/\\'\":,;()<>|]+(?P=slash)(?!\\){_WINDOWS}*
      | (?<![\w.~/-])(?:(?i:file):)?(?:~(?:[A-Za-z_][\w.-]*)?)?/+{_POSIX}*
      | (?<=(?<![\w-])-[A-Za-z])~?/+{_POSIX}+
      )
      (?=[^\s/\\'\":,;()<>|])
    """,
    re.VERBOSE,
)
# In quotation marks a path is all there is, unless a file's name is followed by more.
_QUOTED = re.compile(
    r"(?<=(?P<mark>['\"]))(?:(?:(?i:file):)?(?:~\w*)?/|[A-Za-z]:[/\\])(?![^'\"\n]*\.[A-Za-z]\w{0,4} )"
    r"[^'\":,;\n]*[/\\](?=[^'\":,;\n/\\]+(?P=mark))"
)
_CREDENTIALS = re.compile(r"(?<=://)(?!\*+@)[^\s/]+@")


def scrub(text: str, host: str | None = None) -> str:
    """`text` with "/any/folder/file.yaml" as "file.yaml", and `host` and a URL's credentials as "…". Idempotent."""
    while (shorter := _once(text, host)) != text:
        text = shorter
    return text


def _once(text: str, host: str | None) -> str:
    text = _CREDENTIALS.sub(f"{HIDDEN}@", text)
    text = _BEFORE_NAME.sub(lambda found: found["url"] or "", _QUOTED.sub("", text))
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
