"""`--slurm KEY=VALUE`, as it is written on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from harness.errors import InputError, Problem
from harness.options import SlurmOptions

KEYS = tuple(field.name for field in fields(SlurmOptions))
RANGES = {"time": (1, 10 * 365 * 24 * 60), "grace": (5, 24 * 60 * 60), "gpus": (0, 1024), "cpus": (1, 4096)}
"""Lowest and highest; the highest are far beyond any machine, so that a mistyped number is told before it is queued."""
MOST_MEMORY = 1_000_000  # GB, likewise
EARLY = 60  # seconds: sbatch --signal says that it may come that much earlier
TIME = re.compile(r"(?:(\d{1,9})-)?(\d{1,9})(?::(\d\d))?(?::(\d\d))?")


def parse_slurm(given: Sequence[str]) -> SlurmOptions:
    """["partition=gpu", "time=4:00:00"] -> SlurmOptions.

    Raises:
        InputError: all that is wrong with them.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for text in given:
        key, equals, value = text.partition("=")
        try:
            if not equals or not value:
                raise InputError(f"{text!r} is no KEY=VALUE", fix="write for example partition=gpu")
            if key not in KEYS:
                close = get_close_matches(key, KEYS, 1)
                fix = f"did you mean {close[0]}?" if close else f"there are {', '.join(KEYS)}"
                raise InputError(f"{key!r} is unknown", fix=fix)
            if key in values:
                raise InputError(f"{key!r} is given twice")
            values[key] = _value(key, value)
        except InputError as error:
            problems += [Problem(problem.what, "--slurm", problem.fix) for problem in error.problems]
    if problems:
        raise InputError(problems)
    options = SlurmOptions(**values)
    if options.grace + EARLY >= 60 * options.time:
        what = f"{options.grace} seconds of grace leave nothing of time={options.time} (Slurm may be a minute early)"
        raise InputError(what, where="--slurm", fix="give more time, or less grace")
    return options


def _value(key: str, text: str) -> Any:
    if key == "time":
        number: float = _minutes(text)
    elif key == "memory":
        number = float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0
        if not 0 < number <= MOST_MEMORY:
            fix = f"write GB, without a unit, {MOST_MEMORY:,} at most: memory=16"
            raise InputError(f"memory={text} is no amount", fix=fix)
        return number
    elif key in RANGES:
        number = int(text) if re.fullmatch(r"\d{1,9}", text) else -1
    else:
        return text
    low, high = RANGES[key]
    if not low <= number <= high:
        unit = " of minutes" if key == "time" else ""
        raise InputError(f"{key}={text} is not possible", fix=f"write a whole number{unit} from {low} to {high:,}")
    return number


def _minutes(text: str) -> int:
    """As Slurm reads times: minutes, MM:SS, H:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS; seconds are rounded up."""
    matched = TIME.fullmatch(text)
    if matched is None:
        raise InputError(f"time={text} is no time", fix="write minutes, H:MM:SS or D-HH:MM:SS")
    days, first, second, third = (int(group or 0) for group in matched.groups())
    if matched[1] or matched[4]:
        hours, minutes, seconds = first, second, third
    else:
        hours, minutes, seconds = 0, first, second
    return 24 * 60 * days + 60 * hours + minutes + (seconds > 0)
