"""A study's plan on the terminal: its arms, how far their runs are, what is left to do and what it can show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.spec.ablation import Arm
from harness.study.expected import Pace, counted
from harness.study.plan import Plan, PlannedRun
from harness.terminal.check import remainder, shown_remarks
from harness.terminal.columns import Columns
from harness.terminal.tables import table
from harness.terminal.words import count, duration, running, size

# One letter a run, told apart without colour: what it says, how it looks.
MARKS = {
    "done": ("+", "done", "green"),
    "refused": ("!", "on other hardware", "yellow"),
    "begun": ("~", "begun", ""),
    "to_do": (".", "to do", ""),
    "running": (">", "running", "cyan"),
    "failed": ("x", "failed", "red"),
}
MARKED_SEEDS = 16  # seeds up to which each run has its mark; of more the marks are counted
MOST_ARMS = 60  # rows of a table that is not asked for in full
MOST_NAMES = 4  # arms named in one line

TEACHING = {
    "done": "trained",
    "to_do": "trained first",
    "running": "being trained by another process",
    "failed": "failed; --retry-failed trains it again",
}


def print_plan(plan: Plan, console: Console, jobs: int = 1, *, every: bool = False) -> None:
    """The table, and below it how far the study is, the time and what these seeds can show."""
    shown = plan.arms if every or len(plan.arms) <= MOST_ARMS else plan.arms[:MOST_ARMS]
    console.print(plan_table(replace(plan, arms=shown)))
    if hidden := len(plan.arms) - len(shown):
        console.print(f"and {hidden:,} more arms: --all shows them, --json too")
    console.print()
    console.print(
        pairs(
            (*progress(plan), *_merged(plan), *_teachers(plan), *_time(plan, jobs), *_disk(plan, jobs), *_power(plan))
        )
    )


# --- the table ---


def plan_table(plan: Plan) -> Columns:
    """One row an arm: what differs, its cost, and its runs in the order of the seeds.

    Where there is `match`, with the parameters above or below the base's: the value found is among what differs.
    """
    rest = ("remainder",) if any(planned.arm.matched for planned in plan.arms) else ()
    numbers = ("parameters", *rest, "headroom", "MMACs")
    made = table("arm", "differs", *numbers, "runs", right=numbers)
    for planned in plan.arms:
        cost = planned.cost
        made.add_row(
            escape(planned.arm.name),
            escape(differences(planned.arm)),
            count(cost.trainable_parameters),
            *(remainder(planned.arm.matched) for _ in rest),
            count(planned.headroom),
            f"{cost.macs / 1e6:,.1f}",
            marks(planned.runs),
        )
    return made


def differences(arm: Arm) -> str:
    """What an arm changes, in words: "model.se = false"; "the base" for the base."""
    if not arm.overrides:
        return "the base"
    return ", ".join(f"{path} = {plain(value)}" for path, value in arm.overrides.items())


def plain(value: Any) -> str:
    """A value as YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(plain, value)) + "]"
    return str(value)


def marks(runs: Sequence[PlannedRun]) -> str:
    """ "++x..", a mark a run; of many runs "12+ 3x 85."."""
    looks = [_look(run) for run in runs]
    if len(runs) <= MARKED_SEEDS:
        return "".join(_coloured(look, MARKS[look][0]) for look in looks)
    counts = Counter(looks)
    return " ".join(_coloured(look, f"{counts[look]}{MARKS[look][0]}") for look in MARKS if counts[look])


def _look(run: PlannedRun) -> str:
    if run.is_refused:
        return "refused"
    return "begun" if run.begun else run.state


def _coloured(look: str, text: str) -> str:
    colour = MARKS[look][2]
    return f"[{colour}]{text}[/]" if colour else text


# --- below it: (what, words) ---


def progress(plan: Plan) -> list[tuple[str, str]]:
    """What the marks mean, with how many runs have each; runs that other studies have made."""
    seeds, counts = plan.study.seeds, Counter(map(_look, plan.runs))
    legend = ", ".join(f"{mark} {counts[look]:,} {words}" for look, (mark, words, _) in MARKS.items() if counts[look])
    listed = f" ({', '.join(map(str, seeds))})" if len(seeds) <= MARKED_SEEDS else ""
    size = (
        f"{counted(len(plan.arms), 'arm')} x {counted(len(seeds), 'seed')}{listed} = {counted(len(plan.runs), 'run')}"
    )
    rows = [("runs", f"{size}: {legend}")]
    for study, runs in plan.elsewhere().items():
        maker = f"for the study {study}" if study else "by `harness run`"
        arms = list(dict.fromkeys(run.arm.name for run in runs))
        rows.append(("", f"{counted(len(runs), 'run')} of those done made {maker}: {names(arms)}"))
    refused = Counter(run.other_hardware for run in plan.runs if run.is_refused)
    ways = "ablate takes that with --any-device alone, --fresh runs it again"
    rows += [("", f"> {run.arm.name} seed {run.seed} is {running(silence)}") for run, silence in _silent(plan)]
    rows += [("", f"! {counted(number, 'run')} {what}: {ways}") for what, number in refused.items()]
    return rows


def _silent(plan: Plan) -> list[tuple[PlannedRun, float]]:
    """Runs that others have, and perhaps have not any more."""
    held = [run for run in plan.runs if run.state == "running" and run.folder]
    return [(run, silence) for run in held if run.folder and (silence := run.folder.silence()) is not None]


def _merged(plan: Plan) -> list[tuple[str, str]]:
    """Which arms of the file are one."""
    return [("" if number else "merged", line) for number, line in enumerate(shown_remarks(plan.study.remarks))]


def _teachers(plan: Plan) -> list[tuple[str, str]]:
    wanted = plan.teachers_of(run for run in plan.runs if run.state != "done")
    return [
        (
            "teacher",
            f"{teacher.spec.name} (seed {teacher.run.seed}, {teacher.cost.trainable_parameters:,} parameters): "
            f"{TEACHING[teacher.run.state] if teacher in wanted or teacher.run.state != 'to_do' else 'needed no more'}",
        )
        for teacher in plan.teachers
    ]


def _time(plan: Plan, jobs: int) -> list[tuple[str, str]]:
    """Of what is to do, and of what failed; of which device, and how that is known."""
    if not (plan.count("to_do") or plan.count("failed")):
        return []
    if plan.pace is None:
        return [("time", "not known: no run on this data with steps like these tells it; --measure times a few here")]
    pace, rows = plan.pace, []
    if seconds := plan.expected_seconds():
        rows.append(
            ("time", f"about {duration(seconds)} of one {pace.device_name}{_hours(seconds, pace)}, {pace.source}")
        )
        if jobs > 1:
            wall = duration(plan.wall_seconds(jobs) or 0.0)
            rows.append(("", f"with {jobs} at once about {wall}, as far as they do not slow each other down"))
    if failed := plan.expected_seconds(("failed",)):
        rows.append(("" if rows else "time", f"about {duration(failed)} more for what failed, with --retry-failed"))
    return rows


def _hours(seconds: float, pace: Pace) -> str:
    """GPU-hours, where it is a GPU and tenths of them say something."""
    return f" ({seconds / 3600:,.1f} GPU-hours)" if pace.device_type != "cpu" and seconds >= 360 else ""


def _disk(plan: Plan, jobs: int) -> list[tuple[str, str]]:
    runs = [run for run in plan.runs if run.state == "to_do"]
    return [("disk", f"about {size(plan.space(runs, jobs))} for what is to do")] if runs else []


def _power(plan: Plan) -> list[tuple[str, str]]:
    """What the seeds can show and what more would, with the spread it assumes and where that comes from."""
    n, spread = len(plan.study.seeds), plan.spread
    rows = []
    if n < 2:
        least = "one seed shows no spread, so no verdict is possible: two are the least, five are better"
        rows.append(("power", f"{least} (--seeds 5 tells what they would show)"))
    if plan.detectable_difference is not None:
        found = f"{n} seeds find a true difference of {points(plan.detectable_difference)} points with 80 % chance"
        margin = "" if plan.study.margin is None else f" (the margin is {points(plan.study.margin)})"
        rows.append(("power", found + margin))
    if more := [f"{seeds} seeds {points(difference)}" for seeds, difference in plan.more_seeds if seeds > n]:
        rows.append(("", ", ".join(more)))
    if plan.more_seeds:
        known = f"{counted(spread.df, 'degree')} of freedom{': a guess' if spread.is_guess else ''}"
        rows.append(("spread", f"{points(spread.sd)} points over seeds, {spread.source} ({known})"))
    if n > 1:
        rows.append(("sign flip", f"the smallest p that {n} paired seeds can reach is {plan.smallest_sign_flip_p:.4g}"))
    return rows


def pairs(rows: Iterable[tuple[str, str]]) -> Table:
    """(what, words), the words folded beside it."""
    made = Table.grid(padding=(0, 2, 0, 0))
    for row in rows:
        made.add_row(*map(escape, row))
    return made


# --- words ---


def names(of: Sequence[str], most: int = MOST_NAMES) -> str:
    """ "a, b, c and 9 more"."""
    shown = ", ".join(of[:most])
    return f"{shown} and {len(of) - most:,} more" if len(of) > most else shown


def points(fraction: float) -> str:
    """A difference of accuracies in points."""
    return f"{100 * fraction:.2f}"
