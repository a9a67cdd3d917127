"""The live table of a study, arms x seeds: as much of it as the terminal holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

GAP = 2  # blanks between columns
READABLE = 12  # columns that the names of arms keep, however many seeds there are


@dataclass(frozen=True)
class Cell:
    """The state of a run. `beside` is told where the whole table has the room for it; `active`: it is being trained."""

    text: str
    style: str = ""
    beside: str = ""
    active: bool = False

    def drawn(self, *, whole: bool) -> Text:
        return Text(f"{self.text} {self.beside}" if whole and self.beside else self.text, self.style)


Row = tuple[str, Sequence[Cell]]
"""An arm's name and its runs, in the order of the seeds."""


def live_table(seeds: Sequence[int], rows: Sequence[Row], console: Console, lines: int) -> tuple[Table, str]:
    """The table, with at most `lines` lines below its heads, and how much is not in it ("": nothing is left out).

    Where the console is too narrow, what is `beside` goes first, then names are folded, then seeds are left out.
    What is active stays longest.
    """
    width = console.width + GAP  # no gap is behind the last column
    shown = _chosen(rows, [1] * len(rows), lines)
    longest = max([len("arm"), *(cell_len(name) for name, _ in shown)])
    whole = sum(_widths(seeds, shown, whole=True)) + longest + GAP <= width
    widths = _widths(seeds, shown, whole=whole)
    active = [any(cells[at].active for _, cells in shown) for at in range(len(seeds))]
    columns = fitting(widths, active, width - min(longest, READABLE) - GAP)
    room = max(width - GAP - sum(widths[at] for at in columns), 1)
    heights = [len(Text(name).wrap(console, room, overflow="fold")) for name, _ in shown]
    shown = _chosen(shown, heights, lines)

    made = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
    made.add_column("arm", overflow="fold", max_width=room)
    for at in columns:
        made.add_column(_head(seeds[at]), no_wrap=True)
    for name, cells in shown:
        made.add_row(Text(name), *(cells[at].drawn(whole=whole) for at in columns))
    return made, _left_out(len(rows) - len(shown), len(seeds) - len(columns))


def fitting(sizes: Sequence[int], active: Sequence[bool], room: int) -> list[int]:
    """Indices of what fits into `room`, in their order: those that are active before others, and at least one."""
    ranked = sorted(range(len(sizes)), key=lambda at: not active[at])
    ends = accumulate(sizes[at] for at in ranked)
    return sorted(ranked[: max(sum(end <= room for end in ends), 1)])


def _chosen(rows: Sequence[Row], heights: Sequence[int], lines: int) -> list[Row]:
    active = [any(cell.active for cell in cells) for _, cells in rows]
    return [rows[at] for at in fitting(heights, active, lines)]


def _widths(seeds: Sequence[int], rows: Sequence[Row], *, whole: bool) -> list[int]:
    """Of each seed's column, with a gap."""
    return [
        max([cell_len(_head(seed)), *(cells[at].drawn(whole=whole).cell_len for _, cells in rows)]) + GAP
        for at, seed in enumerate(seeds)
    ]


def _head(seed: int) -> str:
    return f"seed {seed}"


def _left_out(arms: int, seeds: int) -> str:
    """ "and 12 more arms, 3 more seeds"."""
    counts = [f"{count:,} more {what}{'s' * (count > 1)}" for count, what in ((arms, "arm"), (seeds, "seed")) if count]
    return f"and {', '.join(counts)}" if counts else ""
