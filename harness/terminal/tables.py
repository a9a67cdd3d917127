"""Tables for the terminal, at most 80 columns wide where the names allow it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from harness.reporting.runs import metric_of
from harness.spec.ablation import Arm
from harness.terminal.columns import Columns
from harness.terminal.words import accuracy, count, duration
from harness.tracking.record import Record

if TYPE_CHECKING:  # a list of runs needs no torch
    from harness.study.plan import Plan, PlannedRun
    from harness.training.guard import Cost

MARKS = {"done": "[green]done[/]", "to_do": "to do", "running": "[cyan]running[/]", "failed": "[red]failed[/]"}


def table(*columns: str, right: Iterable[str] = ()) -> Columns:
    """A plain table; the columns named in `right` are numbers."""
    return Columns(columns, right)


def check_table(arms: Sequence[tuple[str, int | None, Cost]]) -> Columns:
    """(name, limit, cost) of each arm."""
    numbers = ("parameters", "limit", "headroom", "MACs")
    made = table("name", *numbers, right=numbers)
    for name, limit, cost in arms:
        headroom = None if limit is None else limit - cost.trainable_parameters
        made.add_row(escape(name), count(cost.trainable_parameters), count(limit), count(headroom), count(cost.macs))
    return made


def differences(arm: Arm) -> str:
    """What an arm changes, in words: "model.se = false"; "the base" for the base."""
    if not arm.overrides:
        return "the base"
    return ", ".join(f"{path} = {_plain(value)}" for path, value in arm.overrides.items())


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) + "}"
    return str(value)


def plan_table(plan: Plan) -> Columns:
    """One row an arm: what differs, its cost, and the state of its runs by seed."""
    numbers = ("parameters", "headroom", "MMACs")
    made = table("arm", "differs", *numbers, "runs", right=numbers)
    for planned in plan.arms:
        cost = planned.cost
        made.add_row(
            escape(planned.arm.name),
            escape(differences(planned.arm)),
            count(cost.trainable_parameters),
            count(planned.headroom),
            f"{cost.macs / 1e6:,.1f}",
            _states(planned.runs),
        )
    return made


def _states(runs: Sequence[PlannedRun]) -> str:
    counts = {state: sum(run.state == state for run in runs) for state in MARKS}
    return ", ".join(f"{number} {MARKS[state]}" for state, number in counts.items() if number)


TEACHING = {
    "done": "trained",
    "to_do": "trained first",
    "running": "being trained by another process",
    "failed": "failed; --retry-failed trains it again",
}


def print_plan(plan: Plan, console: Console, jobs: int = 1) -> None:
    """The table, and below it the time and what these seeds can show."""
    console.print(plan_table(plan))
    seeds = len(plan.study.seeds)
    counts = ", ".join(
        f"{plan.count(state)} {state.replace('_', ' ')}"
        for state in ("done", "to_do", "running", "failed")
        if plan.count(state)
    )
    console.print(f"\n{len(plan.arms)} arms x {seeds} seeds: {counts}")
    for teacher in plan.teachers:
        state = TEACHING[teacher.run.state]
        counted = f"{teacher.cost.trainable_parameters:,} parameters"
        console.print(f"teacher {escape(teacher.spec.name)} (seed {teacher.run.seed}, {counted}): {state}")
    seconds = plan.expected_seconds()
    if plan.count("to_do") or plan.count("failed"):
        known = f"about {duration(seconds / jobs)}" if seconds else "not known before a run of this study has finished"
        console.print(f"expected time with {jobs} at once: {known}", highlight=False)
    for line in power_lines(plan):
        console.print(line, highlight=False)


def power_lines(plan: Plan) -> list[str]:
    """What the seeds can show, with the spread it assumes and where that comes from."""
    lines = []
    if plan.detectable_difference is not None:
        spread = plan.spread
        guess = " (a guess)" if spread.is_guess else ""
        lines.append(
            f"a true difference of {100 * plan.detectable_difference:.2f} points would be found with 80 % chance, "
            f"given a spread over seeds of {100 * spread.sd:.2f} points ({spread.source}; {spread.df} degrees of "
            f"freedom{guess})"
        )
    seeds = len(plan.study.seeds)
    if seeds < 2:
        lines.append("one seed shows no spread: no verdict is possible; two are the least, five are better")
    else:
        lines.append(f"the smallest sign-flip p that {seeds} paired seeds can reach is {plan.smallest_sign_flip_p:.4g}")
    return lines


def runs_table(records: Sequence[Record]) -> Columns:
    """One row a run; the accuracy is the headline one of its protocol, after the last epoch."""
    numbers = ("seed", "epochs", "accuracy", "time")
    made = table("run", "name", "seed", "status", "epochs", "accuracy", "time", right=numbers)
    for record in records:
        final = record.results.final
        headline = getattr(final, metric_of(record.spec["data"]["protocol"])) if final else None
        total = record.timings.get("total")
        made.add_row(
            record.run_id,
            escape(record.name),
            str(record.seed),
            record.status,
            f"{record.epochs_done}/{record.spec['train']['epochs']}",
            accuracy(headline),
            duration(total) if total else "–",
        )
    return made
