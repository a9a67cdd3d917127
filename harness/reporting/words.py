"""Numbers and names as the text reports show them: percent with two decimals, differences in points."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.reporting.statistics import Interval, Summary

NONE = "\u2013"
MINUS = "\u2212"


# --- numbers ------------------------------------------------------------------------------------


def percent(fraction: float | None) -> str:
    """0.9367 as 93.67 (the column's head has the %), an interval's end below 0 with a true minus."""
    return NONE if fraction is None else signed(100 * fraction, 2).removeprefix("+")


def points(difference: float | None) -> str:
    """A difference of fractions in percentage points, always with its sign: +0.35, -1.20 (a true minus), 0.00."""
    return NONE if difference is None else signed(100 * difference, 2)


def signed(value: float, decimals: int) -> str:
    text = f"{abs(value):.{decimals}f}"
    if not float(text):
        return text
    return (MINUS if value < 0 else "+") + text


def with_half(text: str, interval: Interval | None, scale: float = 100, decimals: int = 2) -> str:
    """`text` with half the interval's width: 71.32 ± 0.41; every interval here is symmetric."""
    return f"{text} ± {scale * (interval[1] - interval[0]) / 2:.{decimals}f}" if interval else text


def accuracy(summary: Summary) -> str:
    """Mean in percent with its 95 % half-width."""
    return with_half(percent(summary.mean), summary.interval)


def loss(summary: Summary) -> str:
    """Mean loss with its 95 % half-width."""
    return NONE if summary.mean is None else with_half(f"{summary.mean:.3f}", summary.interval, 1, 3)


def point_interval(interval: Interval) -> str:
    return f"{points(interval[0])} to {points(interval[1])}"


def percent_interval(interval: Interval | None) -> str:
    return NONE if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"


def p_value(p: float | None) -> str:
    """Three decimals, or as many as it takes to show on which side of 0.05 it lies."""
    if p is None:
        return NONE
    if p < 0.001:
        return "<0.001"
    decimals = 3
    while float(f"{p:.{decimals}f}") == 0.05 != p:
        decimals += 1
    return f"{p:.{decimals}f}"


def count(number: int | None) -> str:
    return NONE if number is None else f"{number:,}"


def duration(seconds: float | None) -> str:
    """12.3 s, 3 min 20 s, 1 h 02 min."""
    if seconds is None:
        return NONE
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(items: Sequence[str]) -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


# --- markdown -----------------------------------------------------------------------------------


def escape(text: str) -> str:
    """Free text for a paragraph or a table cell: one line, no character read as markup."""
    line = " ".join(text.split())
    line = re.sub(r"([\\`*|<>\[\]~&$])", r"\\\1", line)
    # Between letters an underscore is just itself, and arms are named like_this; so is a # after one.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])|(?<!\w)#", r"\\\g<0>", line)


def code(text: str) -> str:
    """Text in a code span, one line."""
    line = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def overrides(changes: Mapping[str, Any]) -> str:
    """What differs, as one would type it after `-o`."""
    return ", ".join(code(override(path, value)) for path, value in changes.items()) or NONE


def override(path: str, value: Any) -> str:
    """One change as PATH=VALUE."""
    return f"{path}={value_of(value)}"


def value_of(value: Any) -> str:
    """A field's value as one would type it."""
    return value if isinstance(value, str) else json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], right: str = "") -> list[str]:
    """A pipe table, padded so that it reads in a terminal; `right` has an r for each column set to the right."""
    # Tables split cells before they read code spans, so a bar in one has to be escaped too.
    cells = [[re.sub(r"(?<!\\)\|", r"\|", cell) for cell in row] for row in (heads, *rows)]
    widths = [max(3, *(_width(row[column]) for row in cells)) for column in range(len(heads))]
    sides = right.ljust(len(heads))[: len(heads)]
    lines = ["| " + " | ".join(_pad(*cell) for cell in zip(row, widths, sides, strict=True)) + " |" for row in cells]
    rule = ["-" * (width - 1) + ":" if side == "r" else "-" * width for width, side in zip(widths, sides, strict=True)]
    return [lines[0], "| " + " | ".join(rule) + " |", *lines[1:]]


def _pad(text: str, width: int, side: str) -> str:
    blank = " " * (width - _width(text))
    return blank + text if side == "r" else text + blank


def _width(text: str) -> int:
    """Columns in a terminal: wide East Asian letters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


_MARKER = re.compile(r"\d+[.)]|[-+*#>=|]+")
"""What begins a block, where it stands first in a line."""


def paragraph(text: str, width: int = 96) -> list[str]:
    """Wrapped lines, none of which markdown could take for a list, a heading or a quote."""
    first, *others = text.split(" ")
    lines = [re.sub(r"[^\d]", r"\\\g<0>", first, count=1) if _MARKER.fullmatch(first) else first]
    for word in others:
        if len(lines[-1]) + 1 + len(word) <= width or _MARKER.fullmatch(word):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
