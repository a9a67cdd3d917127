"""What went wrong in a study, run by run: how it ended, how far it had come, what it said."""

from __future__ import annotations

from rich.markup import escape

from harness.study.ablate import Outcome
from harness.study.plan import PlannedRun
from harness.terminal.columns import Columns
from harness.terminal.tables import table

MOST_FAILURES = 20  # rows; a study whose every run fails has one reason
LONGEST = 240  # characters of a message: torch's of a full GPU has more


def failure_table(outcome: Outcome) -> Columns:
    """One row a failed run, whether this `ablate` or an earlier one ran it."""
    made = table("failed", "seed", "status", "epoch", "message", right=("seed", "epoch"))
    for run in outcome.failures[:MOST_FAILURES]:
        status = status_of(run, outcome)
        epoch = f"{run.record.epochs_done}/{run.arm.spec.train.epochs}" if run.record else "–"
        cells = run.arm.name, str(run.seed), status.replace("_", " "), epoch, _message(run, outcome, status)
        made.add_row(*map(escape, cells))
    return made


def advice(outcome: Outcome) -> list[str]:
    """How to see more of the failures, and how to go on."""
    failures = outcome.failures
    statuses = {status_of(run, outcome) for run in failures}
    lines = []
    if hidden := len(failures) - MOST_FAILURES:
        lines += [f"and {hidden} more: `harness runs --where status=failed` lists them"] if hidden > 0 else []
    if with_traceback := next((run for run in failures if run.record and run.record.error), None):
        lines.append(f"a traceback: `harness runs {with_traceback.run_id}`")
    if sizes := {run.arm.spec.train.batch_size for run in failures if status_of(run, outcome) == "out_of_memory"}:
        lines.append(f"out of memory: a train.batch_size under {min(sizes)} needs less")
    if statuses - {"killed", "refused"}:
        lines.append("--retry-failed runs failed runs again")
    if "killed" in statuses:
        lines.append("what was killed goes on with the same command")
    return lines


def status_of(run: PlannedRun, outcome: Outcome) -> str:
    """As this `ablate` saw it end, which may not be in its record; else as its record says."""
    seen = outcome.statuses.get(run.run_id or "")
    if seen in ("killed", "refused") or run.record is None or run.record.status == "running":
        return seen or run.state
    return run.record.status


def _message(run: PlannedRun, outcome: Outcome, status: str) -> str:
    error = (run.record and run.record.error) or {}
    text = str(error.get("message") or "")
    if status == "crashed" and error.get("type"):  # "KeyError: 'labels'": the message alone says little
        text = f"{error['type']}: {text}" if text else str(error["type"])
    if status in ("killed", "refused") or not text:
        text = outcome.messages.get(run.run_id or "") or text or "no message"
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
