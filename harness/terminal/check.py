"""`harness check`: what every arm costs, as a table or as one document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape

from harness.spec.arm import Arm, Matched
from harness.spec.cost import Cost
from harness.terminal.columns import Columns
from harness.terminal.tables import table
from harness.terminal.words import count

MOST_REMARKS = 20


def to_json(arms: Sequence[Arm], costs: Sequence[Cost], remarks: Sequence[str] = ()) -> dict[str, Any]:
    """The document of `harness check --json`."""
    rows = [
        {
            "name": arm.name,
            "trainable_parameters": cost.trainable_parameters,
            "max_parameters": arm.spec.guard.max_parameters,
            "macs": cost.macs,
            **({"match": asdict(arm.matched)} if arm.matched else {}),
        }
        for arm, cost in zip(arms, costs, strict=True)
    ]
    return {"arms": rows, "remarks": list(remarks)}


def print_check(arms: Sequence[Arm], costs: Sequence[Cost], remarks: Sequence[str], console: Console) -> None:
    """The table, and below it which arms were merged."""
    console.print(check_table(arms, costs))
    for line in shown_remarks(remarks):
        console.print(line, markup=False, soft_wrap=True)


def check_table(arms: Sequence[Arm], costs: Sequence[Cost]) -> Columns:
    """One row an arm; with the value that `match` found and the parameters that remain, where there is one."""
    fields = list(dict.fromkeys(arm.matched.field for arm in arms if arm.matched))
    found = ("/".join(field.rpartition(".")[2] for field in fields), "remainder") if fields else ()
    numbers = (*found[:1], "parameters", *found[1:], "limit", "headroom", "MACs")
    made = table("name", *numbers, right=numbers)
    for arm, cost in zip(arms, costs, strict=True):
        limit, parameters = arm.spec.guard.max_parameters, cost.trainable_parameters
        value = [str(arm.matched.value) if arm.matched else ""] if found else []
        rest = [remainder(arm.matched)] if found else []
        headroom = None if limit is None else limit - parameters
        made.add_row(
            escape(arm.name), *value, count(parameters), *rest, count(limit), count(headroom), count(cost.macs)
        )
    return made


def remainder(matched: Matched | None) -> str:
    """Parameters above (+) or below (−) those of the base."""
    return f"{matched.remainder:+,}".replace("-", "−") if matched else ""


def shown_remarks(remarks: Sequence[str]) -> list[str]:
    """The remarks; of very many the first."""
    hidden = len(remarks) - MOST_REMARKS
    return [*remarks[:MOST_REMARKS], *([f"and {hidden:,} more remarks: --json has them"] if hidden > 0 else [])]
