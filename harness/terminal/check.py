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
        console.print(escape(line))


def check_table(arms: Sequence[Arm], costs: Sequence[Cost]) -> Columns:
    """One row an arm; with what was solved for, and what remains, where there is `match`."""
    matches = any(arm.matched for arm in arms)
    numbers = ("parameters", *(("remainder",) if matches else ()), "limit", "headroom", "MACs")
    made = table("name", *(("match",) if matches else ()), *numbers, right=numbers)
    for arm, cost in zip(arms, costs, strict=True):
        limit, parameters = arm.spec.guard.max_parameters, cost.trainable_parameters
        headroom = None if limit is None else limit - parameters
        match = (escape(solution(arm.matched)),) if matches else ()
        rest = (remainder(arm.matched),) if matches else ()
        made.add_row(
            escape(arm.name), *match, count(parameters), *rest, count(limit), count(headroom), count(cost.macs)
        )
    return made


def solution(matched: Matched | None) -> str:
    """ "model.width 67"."""
    return f"{matched.field} {matched.value}" if matched else ""


def remainder(matched: Matched | None) -> str:
    """Parameters above (+) or below (−) those of the base."""
    return f"{matched.remainder:+,}".replace("-", "−") if matched else ""


def shown_remarks(remarks: Sequence[str]) -> list[str]:
    """The remarks; of very many the first."""
    hidden = len(remarks) - MOST_REMARKS
    return [*remarks[:MOST_REMARKS], *([f"and {hidden:,} more remarks: --json has them"] if hidden > 0 else [])]
