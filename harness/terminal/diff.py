"""`harness diff A B` on the terminal: one table, a row a difference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from harness.comparison import Comparison, compare, difference_of, side, to_json
from harness.spec.cost import Cost
from harness.spec.diagnostics import show
from harness.spec.difference import Difference
from harness.spec.experiment import ExperimentSpec
from harness.terminal.columns import Columns
from harness.terminal.tables import table
from harness.terminal.words import duration
from harness.tracking.store import Store

LONGEST = 60  # characters of a value, or of one in a mapping
SHORT = ("digest", "commit", "weights.")  # parts of fields that hold a digest: its beginning tells it from others


def diff_and_show(first: str, second: str, runs_dir: Path, console: Console, *, as_json: bool) -> None:
    """`first` and `second` each name a run or an experiment file."""
    store = Store(runs_dir)
    comparison = compare(side(first, store, _count), side(second, store, _count))
    if as_json:
        print(json.dumps(to_json(comparison), indent=2, allow_nan=False))
    else:
        print_comparison(comparison, console)


def _count(spec: ExperimentSpec) -> Cost:
    from harness.training.guard import cost  # two runs need no torch

    return cost(spec)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Who is compared, and what differs between them."""
    labels = f"A  {comparison.first.label}\nB  {comparison.second.label}\n"
    console.print(labels, markup=False, soft_wrap=True)
    shown = table("", "A", "B", "B - A", right=("A", "B", "B - A"))
    parts = {
        "spec": comparison.spec,
        "no result depends on it": comparison.inert,
        "cost": comparison.cost,
        "conditions": comparison.conditions,
        "results": comparison.results,
    }
    for title, found in parts.items():
        _add(shown, title, found, missing="off" if title == "spec" else "–")
    if shown.rows:
        console.print(shown)
    if comparison.is_empty:
        console.print("nothing that a result may depend on differs")


def _add(shown: Columns, title: str, found: Sequence[Difference], missing: str) -> None:
    if not found:
        return
    if shown.rows:
        shown.add_row("", "", "", "")
    shown.add_row(f"[bold]{title}[/]", "", "", "")
    for item in found:
        values = [missing if value is None else _value(item.field, value) for value in (item.here, item.there)]
        cells = item.field, *values, _change(item)
        shown.add_row(*map(escape, cells))


def _value(field: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(f'{field}.{key}', item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        return value[:12] if any(part in field for part in SHORT) else value[:LONGEST]
    if isinstance(value, float) and field.endswith("accuracy"):
        return f"{100 * value:.2f} %"
    if isinstance(value, float) and field.endswith("loss"):
        return f"{value:.4f}"
    if field.startswith("timings.") and not field.endswith("images_per_second"):
        return duration(value)
    if isinstance(value, float) and field.startswith("timings."):
        return f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool) and field != "seed":
        return f"{value:,}"
    return show(value, LONGEST)


def _change(item: Difference) -> str:
    """In points of accuracy; of times as a ratio; nothing where a difference says nothing."""
    change = difference_of(item)
    if change is None or item.field in ("seed", "numerics", "threads"):
        return ""
    if item.field.endswith("accuracy"):
        return f"{100 * change:+.2f}"
    if item.field.startswith("timings."):
        return f"x {item.there / item.here:.2f}" if item.here else ""
    return f"{change:+,}" if isinstance(change, int) else f"{change:+.4g}"
