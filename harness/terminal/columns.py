"""A table without lines, drawn in time for ten thousand rows.

rich's own `Table` measures and renders every cell as if it might hold another table: seven seconds for a plan of
10,000 arms. This one has text in its cells and gives the same picture (tests/test_tables.py holds it against rich's).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.text import Text

Justify = Literal["left", "right"]
Cell = str | Text
"""What stands in a row: text without any style, or with one."""

GAP = "  "  # behind each column
READABLE = 10 + len(GAP)  # what a column of words keeps before numbers are folded
SPECIAL = re.compile(r"\\|\[[a-z#/@]")  # what rich's markup begins with


class Columns:
    """Columns with bold heads; those named in `right` are numbers.

    What does not fit is folded, the widest first, and numbers only where the words beside them are narrow already.
    """

    def __init__(self, heads: Sequence[str], right: Iterable[str] = ()):
        self.heads = tuple(heads)
        self.justify: tuple[Justify, ...] = tuple("right" if head in set(right) else "left" for head in heads)
        self.rows: list[tuple[str, ...]] = []

    def add_row(self, *cells: str) -> None:
        """One cell a column, in rich's markup; ":x:" is no emoji in it."""
        if len(cells) != len(self.heads):
            raise ValueError(f"{len(cells)} cells for {len(self.heads)} columns")
        self.rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        heads: list[Cell] = [Text.assemble((head, "bold")) for head in self.heads]
        rows = [[_parsed(cell, console) for cell in row] for row in self.rows]
        wanted = [max(map(_width, column)) + len(GAP) for column in zip(heads, *rows, strict=True)]
        words = [side == "left" for side in self.justify]
        widths = [max(width - len(GAP), 1) for width in fitted(wanted, words, options.max_width)]
        blanks = [" " * width for width in widths]

        def lines_of(row: Sequence[Cell]) -> list[Sequence[Cell]]:
            return [_lines(*cell, console) for cell in zip(row, widths, self.justify, strict=True)]

        folded = lines_of(heads)
        height = max(map(len, folded))  # heads of fewer lines stand at the foot of theirs
        yield from _drawn([[*[None] * (height - len(lines)), *lines] for lines in folded], blanks, console)
        for row in rows:
            yield from _drawn(lines_of(row), blanks, console)


def fitted(widths: list[int], words: Sequence[bool], room: int) -> list[int]:
    """`widths` within `room`: of the columns of words alone while these stay readable, else of all columns."""
    texts = [width for width, is_words in zip(widths, words, strict=True) if is_words]
    left = room - sum(widths) + sum(texts)
    if left < sum(min(width, READABLE) for width in texts):
        return narrowed(widths, room)
    narrow = iter(narrowed(texts, left))
    return [next(narrow) if is_words else width for width, is_words in zip(widths, words, strict=True)]


def narrowed(widths: list[int], room: int) -> list[int]:
    """`widths` with the widest made as narrow as the next ones, and so on, until their sum is `room`."""
    while (excess := sum(widths) - room) > 0 and room > 0:
        widest = max(widths)
        step = widest - max((width for width in widths if width < widest), default=0)
        left, sharing = excess, widths.count(widest)
        for index, width in enumerate(widths):
            if width == widest:
                share = min(step, round(left / sharing))
                widths = [*widths[:index], width - share, *widths[index + 1 :]]
                left, sharing = left - share, sharing - 1
    return widths


def _parsed(cell: str, console: Console) -> Cell:
    """Most cells are what they say: no markup to look for, as wide as they are long, no blanks to be taken off."""
    if cell.isascii() and cell.isprintable() and not cell.endswith(" ") and not SPECIAL.search(cell):
        return cell
    return console.render_str(cell, highlight=False, emoji=False)


def _width(cell: Cell) -> int:
    return len(cell) if isinstance(cell, str) else max(map(cell_len, cell.plain.split("\n")))


def _lines(cell: Cell, width: int, justify: Justify, console: Console) -> Sequence[Cell]:
    """The cell in lines that are `width` wide."""
    if isinstance(cell, str) and len(cell) <= width:
        return (cell.rjust(width) if justify == "right" else cell.ljust(width),)
    text = Text(cell) if isinstance(cell, str) else cell
    lines = text.wrap(console, width, justify=justify, overflow="fold")
    return [line if line.spans else line.plain for line in lines]


def _drawn(columns: Sequence[Sequence[Cell | None]], blanks: Sequence[str], console: Console) -> Iterable[Segment]:
    """One row of the table, from the lines of each of its cells; None: nothing there."""
    for parts in zip_longest(*columns):
        line = [blank if part is None else part for part, blank in zip(parts, blanks, strict=True)]
        if all(isinstance(part, str) for part in line):
            yield Segment("".join(f"{part}{GAP}" for part in line))
        else:
            for part in line:
                yield from [Segment(part)] if isinstance(part, str) else part.render(console)
                yield Segment(GAP)
        yield Segment.line()
