"""YAML text to the parser's events: ruamel's, in Python, and for large plain files libyaml's, in C.

ruamel reads YAML 1.2 and its messages are the ones people see, but it takes three seconds for 10,000 arms, libyaml a
tenth of one. The two differ in corners (anchors, tags, block scalars, document markers); a text that has nothing of
the kind they read alike, which tests/spec/test_yaml_events.py holds with random texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from harness.errors import InputError, Problem

UNUSUAL = re.compile(r"[^\n -~\xa1-\u2027\u2030-\ud7ff]|[&*!|>\\]|(?<!\w)\?|^(---|\.\.\.|%)", re.MULTILINE)
"""What only ruamel is asked about."""


def quick_events(text: str) -> Iterator[Any]:
    """The events of a plain text, from libyaml; InputError, without its reason, where it can't be trusted with it."""
    try:
        import yaml  # type: ignore[import-untyped]

        loader = yaml.CSafeLoader
    except (ImportError, AttributeError):  # PyYAML is there without libyaml
        raise InputError("no quick parser") from None
    if UNUSUAL.search(text):
        raise InputError("not plain")
    try:
        yield from yaml.parse(text, Loader=loader)
    except yaml.YAMLError:
        raise InputError("not YAML") from None


def events(text: str, name: str, problems: list[Problem]) -> Iterator[Any]:
    """The parser's events; its errors as InputError together with the problems found until then."""
    from ruamel.yaml import YAML  # not at the top: importing it takes as long as pydantic
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line if error.problem_mark else 0
        raise InputError([*problems, _syntax_problem(error, text, f"{name}:{line + 1}", line)]) from None
    except YAMLError as error:  # a control character: carries a position instead of a line
        line = text.count("\n", 0, getattr(error, "position", 0))
        reason = str(error).splitlines()[0]
        raise InputError([*problems, Problem(f"can't be read as YAML: {reason}", f"{name}:{line + 1}")]) from None


def _syntax_problem(error: Any, text: str, place: str, line: int) -> Problem:
    lines = text.splitlines()
    if line < len(lines) and "\t" in lines[line]:
        return Problem("there is a tab in this line", place, "YAML does not allow tabs: use spaces.")
    reason = " ".join(part for part in (error.context, error.problem) if part)
    return Problem(f"can't be read as YAML: {reason}", place, "check indentation, brackets, quotes and colons here.")
