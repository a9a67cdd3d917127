"""Tables on the terminal, held against rich's own."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.terminal.columns import Columns, narrowed

HEADS = ("arm", "differs", "parameters", "runs")
RIGHT = ("parameters",)
WORDS = st.text("ab_.=,:[]{}\\ 0123é漢\n", max_size=40)
MARKED = st.sampled_from(["1 [green]done[/]", "2 to do, 1 [red]failed[/]", "[bold]x", ":smile:", "a :b: c"])
CELLS = st.one_of(WORDS.map(escape), MARKED)


def drawn(table: Table | Columns, width: int, force_terminal: bool = False) -> str:
    colours = "standard" if force_terminal else None
    console = Console(
        file=io.StringIO(),
        width=width,
        highlight=False,
        emoji=False,
        force_terminal=force_terminal,
        color_system=colours,
    )
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def both(rows: list[tuple[str, ...]]) -> tuple[Table, Columns]:
    reference = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in HEADS:
        reference.add_column(head, justify="right" if head in RIGHT else "left", overflow="fold")
    ours = Columns(HEADS, RIGHT)
    for row in rows:
        reference.add_row(*row)
        ours.add_row(*row)
    return reference, ours


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), max_size=6), st.integers(20, 120))
def test_drawn_as_rich_draws_it(rows: list[tuple[str, ...]], width: int) -> None:
    reference, ours = both(rows)
    assert drawn(ours, width) == drawn(reference, width)


def test_styles_reach_the_terminal() -> None:
    _, ours = both([("a", "b", "1", "1 [green]done[/]")])
    text = drawn(ours, 80, force_terminal=True)
    assert "\x1b[1marm" in text
    assert "\x1b[32mdone\x1b[0m" in text


def test_names_of_emoji_are_text() -> None:
    ours = Columns(("arm", "message"))
    ours.add_row("a", escape("bad slice 1:x:2 of [host]:b:c"))
    console = Console(file=io.StringIO(), width=80)
    console.print(ours)
    assert isinstance(console.file, io.StringIO)
    assert "bad slice 1:x:2 of [host]:b:c" in console.file.getvalue()


def test_the_widest_are_narrowed_first_and_alike() -> None:
    assert narrowed([5, 20, 9], 40) == [5, 20, 9]
    assert narrowed([5, 20, 9], 30) == [5, 16, 9]
    assert narrowed([5, 20, 9], 21) == [5, 8, 8]
    assert narrowed([5, 20, 9], 9) == [3, 3, 3]


def test_a_row_has_a_cell_for_each_column() -> None:
    with pytest.raises(ValueError, match="2 cells for 4 columns"):
        Columns(HEADS).add_row("a", "b")
