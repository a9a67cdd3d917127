"""A study on the screen: while it runs, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from harness import reporting
from harness.reporting.runs import metric_of
from harness.spec.ablation import Study
from harness.stop import Stop
from harness.study.ablate import AblateOptions, Outcome, run_planned, runs_to_start, train_teachers
from harness.study.executor import executor_for
from harness.study.expected import counted
from harness.study.plan import PlannedRun
from harness.terminal.failures import advice, failure_table
from harness.terminal.live import RunDisplay, StudyDisplay
from harness.terminal.tables import table
from harness.terminal.words import accuracy
from harness.tracking.store import Store


def ablate_and_show(study: Study, options: AblateOptions, console: Console) -> Outcome:
    """Run what is missing with a live table; says at once when nothing is."""
    slots = executor_for(options).slots
    stop = Stop(options.run.time_limit)
    with RunDisplay(console) as teaching:
        plan = train_teachers(study, options, teaching, stop)
    study = plan.study
    to_do = runs_to_start(plan, options)
    arms = [(arm.arm.name, arm.runs) for arm in plan.arms]
    done = plan.count("done")
    size = f"{counted(len(arms), 'arm')} x {counted(len(study.seeds), 'seed')} = {counted(len(plan.runs), 'run')}"
    text = f"{study.name}: {size}, {done} done before"
    if plan.count("failed") and not options.retry_failed:
        text += f", {plan.count('failed')} failed (--retry-failed runs them again)"
    console.print(text if to_do else f"{text}: nothing to train", markup=False, soft_wrap=True)
    for remark in study.remarks:
        console.print(remark, markup=False, soft_wrap=True)
    states = {run.run_id: _shown(run) for run in plan.runs if run.state != "to_do" and run.run_id}
    with StudyDisplay(console, arms, states, slots, {run.run_id for run in to_do if run.run_id}) as display:
        return run_planned(plan, options, display, stop)


def _shown(run: PlannedRun) -> str:
    if run.state == "done" and run.record and run.record.results.final:
        return accuracy(getattr(run.record.results.final, metric_of(run.arm.spec.data.protocol)))
    return run.record.status if run.state == "failed" and run.record else run.state


def print_outcome(study: Study, outcome: Outcome, paths: Sequence[Path], runs_dir: Path, console: Console) -> None:
    """The study's table, failures with their messages, and where the report lies."""
    document = reporting.to_json(reporting.build(study, Store(runs_dir)))
    shown = table(
        "arm", "n", "accuracy", "difference", "95 % interval", "verdict", right=("n", "accuracy", "difference")
    )
    for arm in document["arms"]:
        difference = arm["difference"]
        shown.add_row(
            escape(arm["name"]),
            str(arm["n"]),
            accuracy(arm["mean"]),
            _points(difference and difference["mean"]),
            _interval(difference and difference["interval"]),
            "the base" if difference is None else difference["verdict"] if difference["interval"] else "–",
        )
    console.print()
    console.print(shown)
    if outcome.failures:
        console.print()
        console.print(failure_table(outcome), style="red")
        for line in advice(outcome):
            console.print(line, markup=False, soft_wrap=True)
        console.print()
    elsewhere = outcome.plan.count("running")
    if elsewhere:
        console.print(f"trained by another process at this moment: {elsewhere}; the report has what is done so far")
    console.print(f"report: {paths[0]}", markup=False, soft_wrap=True)


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.2f}"


def _interval(value: Sequence[float] | None) -> str:
    return "" if value is None else f"{100 * value[0]:+.2f} to {100 * value[1]:+.2f}"
