"""`harness plan --explain` on the terminal: runs with one reason together, all of it on a screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from harness.study.expected import counted
from harness.study.explain import Explainer, Reason
from harness.study.plan import Plan, PlannedRun
from harness.terminal.plan import names, pairs, progress

MOST_REASONS = 8
EXPECTED = ("other_seed", "other_fields", "nothing_near")  # kinds of reason that a new study has; the others come first

Group = list[tuple[PlannedRun, Reason]]


def print_reasons(plan: Plan, explainer: Explainer, console: Console) -> None:
    """How far the study is, and why the rest was not taken from the store."""
    groups = _grouped(plan, explainer)
    shown, hidden = groups[:MOST_REASONS], groups[MOST_REASONS:]
    rows = list(progress(plan))
    for group in shown:
        rows += _rows(group, plan.study.seeds)
    if hidden:
        runs, reasons = sum(map(len, hidden)), counted(len(hidden), "other reason")
        rows.append((counted(runs, "run"), f"for {reasons}: --json tells each"))
    if not groups:
        rows.append(("", "every run is in the store, or is being made"))
    console.print(pairs(rows))


def _grouped(plan: Plan, explainer: Explainer) -> list[Group]:
    """Runs by what their reasons have in common: first what somebody may have to see to, then the reason of most."""
    groups: dict[str, Group] = {}
    for run in (*(teacher.run for teacher in plan.teachers), *plan.runs):
        if reason := explainer.why(run):
            groups.setdefault(reason.gist, []).append((run, reason))
    return sorted(groups.values(), key=lambda group: (group[0][1].kind in EXPECTED, -len(group)))


def _rows(group: Group, seeds: Sequence[int]) -> list[tuple[str, str]]:
    """Why, which runs, and the run that was nearest to the first of them."""
    run, reason = group[0]
    alike = all(other.text == reason.text for _, other in group)
    rows = [(counted(len(group), "run"), reason.text if alike else reason.gist), ("", _which(group, seeds))]
    if not alike and reason.text != reason.gist:
        rows.append(("", f"e.g. {run.arm.name} seed {run.seed}: {reason.text}"))
    if reason.nearest and reason.nearest.run_id != run.run_id:
        label = "nearest" if alike else "nearest to that"
        rows.append(("", f"{label}: run {reason.nearest.run_id} ({reason.nearest.name} seed {reason.nearest.seed})"))
    return rows


def _which(group: Group, seeds: Sequence[int]) -> str:
    """ "no_se, no_crop and 3 more" of all seeds; "seeds 3, 4 of no_se"; "no_se (3), no_crop (3, 4)"."""
    by_arm: dict[str, list[int]] = {}
    for run, _ in group:
        by_arm.setdefault(run.arm.name, []).append(run.seed)
    first = next(iter(by_arm.values()))
    if any(of_arm != first for of_arm in by_arm.values()):
        return names([f"{arm} ({_listed(of_arm)})" for arm, of_arm in by_arm.items()])
    if first == list(seeds):
        return names(list(by_arm))
    return f"{'seed' if len(first) == 1 else 'seeds'} {_listed(first)} of {names(list(by_arm))}"


def _listed(seeds: Sequence[int], most: int = 6) -> str:
    return names([str(seed) for seed in seeds], most)
