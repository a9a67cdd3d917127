"""Tables on the terminal: held against rich's own; the live one of a study, whatever the size of the terminal."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.events import Elsewhere, Ended, EpochDone, Started
from harness.terminal.columns import Columns, fitted, narrowed
from harness.terminal.live import StudyDisplay
from harness.terminal.live_table import Cell, fitting, live_table

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


def both(rows: list[tuple[str, ...]], right: tuple[str, ...] = RIGHT) -> tuple[Table, Columns]:
    reference = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in HEADS:
        reference.add_column(head, justify="right" if head in right else "left", overflow="fold")
    ours = Columns(HEADS, right)
    for row in rows:
        reference.add_row(*row)
        ours.add_row(*row)
    return reference, ours


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), max_size=6), st.integers(20, 120))
def test_drawn_as_rich_draws_it(rows: list[tuple[str, ...]], width: int) -> None:
    for right, columns in (((), width), (RIGHT, 200)):  # numbers are kept whole longer than rich does
        reference, ours = both(rows, right)
        assert drawn(ours, columns) == drawn(reference, columns)


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


def test_numbers_are_folded_last() -> None:
    assert fitted([30, 30, 12], [True, True, False], 50) == [19, 19, 12]
    assert fitted([30, 5, 20], [True, True, False], 40) == [15, 5, 20]
    assert fitted([30, 5, 40], [True, True, False], 50) == narrowed([30, 5, 40], 50)  # the words would be too narrow
    assert fitted([14, 14], [False, False], 20) == [10, 10]


def test_a_number_stands_whole_beside_a_long_name() -> None:
    ours = Columns(("arm", "MACs"), ("MACs",))
    ours.add_row("a_name_of_many_letters", "12,501,760,000")
    assert "12,501,760,000" in drawn(ours, 30)


def test_a_row_has_a_cell_for_each_column() -> None:
    with pytest.raises(ValueError, match="2 cells for 4 columns"):
        Columns(HEADS).add_row("a", "b")


# --- the live table of a study ---


@dataclass(frozen=True)
class Run:
    run_id: str
    seed: int


def display_of(names: list[str], seeds: int, width: int = 80, height: int = 24) -> StudyDisplay:
    """Of a study none of whose runs has begun; the runs of the first arm are "0 0", "0 1", ..."""
    arms = [(name, [Run(f"{arm} {seed}", seed) for seed in range(seeds)]) for arm, name in enumerate(names)]
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    return StudyDisplay(console, arms, {}, 4, {run.run_id for _, runs in arms for run in runs})


def train(display: StudyDisplay, *run_ids: str, accuracy: float | None = 0.9123) -> None:
    for run_id in run_ids:
        display(Started(run_id, "x", 0, 200, 1, 0, 10, "cpu", "fp32", 1))
        display(EpochDone(run_id, {"epoch": 12, "val_accuracy": accuracy}, 200, 60.0))


def seen(display: StudyDisplay) -> list[str]:
    """The lines that it draws, which leave one for the cursor."""
    with display.console.capture() as captured:
        display.console.print(display.draw())
    lines = captured.get().splitlines()
    assert len(lines) < display.console.height
    assert max(map(cell_len, lines)) <= display.console.width
    return [line.rstrip() for line in lines]


def test_accuracies_stand_beside_the_epochs_where_all_of_them_fit() -> None:
    display = display_of(["base", "no_se"], 5)
    train(display, "0 0", "1 0")
    display(Elsewhere("1 1", "host", 7, 200))
    _, base, no_se, _ = seen(display)
    assert base.split() == ["base", "12/200", "91.23", "%", *["waiting"] * 4]
    assert no_se.split() == ["no_se", "12/200", "91.23", "%", "7/200", "elsewhere", *["waiting"] * 3]
    train(display, "0 1", "0 2", "0 3", "0 4")
    _, base, no_se, summary = seen(display)
    assert base.split() == ["base", *["12/200"] * 5]
    assert no_se.split() == ["no_se", "12/200", "7/200", *["waiting"] * 3]
    assert summary.startswith("0 of 10 runs done, 6 running")


def test_of_many_seeds_those_in_training_are_shown_first() -> None:
    display = display_of(["base", "no_squeeze_excitation"], 12)
    train(display, "0 10", "1 11")
    heads, base, no_se, rest, left_out, _ = seen(display)
    assert [int(head) for head in heads.split("seed")[1:]] == [0, 1, 2, 3, 4, 10, 11]
    assert base.split() == ["base", *["waiting"] * 5, "12/200", "waiting"]
    assert no_se.split()[0] + rest == "no_squeeze_excitation"
    assert left_out == "and 5 more seeds"


def test_of_many_arms_those_in_training_are_shown_first() -> None:
    display = display_of([f"arm{number:02}" for number in range(30)], 2)
    train(display, "28 1", accuracy=None)
    lines = seen(display)
    assert [line.split()[0] for line in lines[1:-2]] == [f"arm{number:02}" for number in [*range(19), 28]]
    assert lines[-2] == "and 10 more arms"
    assert lines[-1].startswith("0 of 60 runs done, 1 running")
    display(Ended("28 1", "completed"))
    train(display, "29 0")
    assert [line.split()[0] for line in seen(display)[18:-2]] == ["arm17", "arm18", "arm29"]


def test_a_run_without_validation_is_done() -> None:
    display = display_of(["base"], 1)
    train(display, "0 0", accuracy=None)
    assert seen(display)[1].split() == ["base", "12/200"]
    display(Ended("0 0", "completed"))
    assert seen(display)[1].split() == ["base", "done"]


CELL = st.sampled_from(
    [
        Cell("waiting", "dim"),
        Cell("91.23 %", "green"),
        Cell("out_of_memory", "red"),
        Cell("starting", "cyan", active=True),
        Cell("12/200", "cyan", "91.23 %", active=True),
        Cell("7/200", "magenta", "elsewhere", active=True),
    ]
)


@settings(deadline=None, max_examples=200)
@given(st.data(), st.integers(1, 30), st.integers(40, 120), st.integers(8, 30))
def test_nothing_in_it_is_cut(data: st.DataObject, seeds: int, width: int, lines: int) -> None:
    row = st.tuples(st.text("ab_漢", min_size=1, max_size=30), st.lists(CELL, min_size=seeds, max_size=seeds))
    rows = data.draw(st.lists(row, min_size=1, max_size=40))
    table, left_out = live_table(range(seeds), rows, Console(file=io.StringIO(), width=width), lines)
    drawn_lines = drawn(table, width).splitlines()
    assert len(drawn_lines) <= lines + 1
    assert "…" not in "".join(drawn_lines)
    assert (left_out == "") == (table.row_count == len(rows) and len(table.columns) == seeds + 1)
    longest = max(cell_len(str(name)) for name in table.columns[0].cells)
    assert min(longest, 12) <= (table.columns[0].max_width or 0)


def test_what_is_active_fits_before_the_rest() -> None:
    assert fitting([3, 3, 3], [False, False, True], 6) == [0, 2]
    assert fitting([3, 3, 3], [False, True, True], 6) == [1, 2]
    assert fitting([3, 3], [False, False], 2) == [0]
    assert fitting([], [], 5) == []
