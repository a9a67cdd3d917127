"""The report as a document: headings, prose, tables and figures in their order, whatever form it is shown in.

Prose and the text of cells are one line of inline Markdown each (`words.code`, `words.escape`, *em*, **strong**);
`inline` turns it into the other forms. A form is one function from a `Document` to text (`as_markdown`, `as_html`,
`as_latex`, `as_csv`), so what stands in a report is decided once, in `contents` and `tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Interval = tuple[float, float]
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Quote:
    text: str


@dataclass(frozen=True)
class Items:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Commands:
    """Lines of a shell, shown as they are."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """What a table shows at one place, and the number behind it."""

    text: str
    value: float | int | str | None = None
    """Unrounded: what CSV holds and a reader's sorting goes by. None: there is none."""
    interval: Interval | None = None
    """Around `value`, in its unit."""
    n: int | None = None
    """Runs behind `value`; None where that has no meaning (a parameter count)."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    key: str
    """The quantity's name in CSV; one of `LABELS` tells what the row is of."""
    head: str
    right: bool = False
    """Set to the right, as numbers are."""
    detail: bool = False
    """Where a page is too narrow for the whole table, these columns stand in a second one."""
    wraps: bool = False
    """Holds text that may be broken into lines."""


LABELS = ("arm", "seed", "row")
"""`row`: the class, image, value or quantity that a row is of, where it is of no arm."""


@dataclass(frozen=True)
class Table:
    """Rows under columns; every row has a cell for each column."""

    name: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def parts(self) -> list[Table]:
        """The table for a narrow page: its main columns, then its first column with the details."""
        if not any(column.detail for column in self.columns):
            return [self]
        first = self.columns[0]
        main = [i for i, column in enumerate(self.columns) if not column.detail]
        details = [i for i, column in enumerate(self.columns) if column.detail or column is first]
        return [self._only(main), self._only(details)]

    def _only(self, kept: Sequence[int]) -> Table:
        rows = tuple(tuple(row[i] for i in kept) for row in self.rows)
        return Table(self.name, tuple(self.columns[i] for i in kept), rows)


def table(name: str, columns: Sequence[tuple[Column, Callable[[Thing], Cell]]], things: Iterable[Thing]) -> Table:
    """One row for each of `things`; every column comes with what it shows of a thing."""
    rows = tuple(tuple(shown(thing) for _, shown in columns) for thing in things)
    return Table(name, tuple(column for column, _ in columns), rows)


@dataclass(frozen=True)
class Figure:
    """A figure by its kind (`figures.KINDS`); the form says where its image is."""

    kind: str
    caption: str


Block = Heading | Paragraph | Quote | Items | Commands | Table | Figure


@dataclass(frozen=True)
class Document:
    """`name` is the stem of the figures' files."""

    name: str
    title: str
    blocks: tuple[Block, ...]

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(block for block in self.blocks if isinstance(block, Figure))

    @property
    def tables(self) -> tuple[Table, ...]:
        return tuple(block for block in self.blocks if isinstance(block, Table))


def figure_path(document: Document, kind: str) -> str:
    """Where a figure's PNG lies, relative to the report's folder."""
    return f"figures/{document.name}-{kind}.png"
