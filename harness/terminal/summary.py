"""What stands on the screen after a run, and what `harness doctor` found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from harness.reporting.runs import metric_of
from harness.terminal.tables import table
from harness.terminal.words import accuracy, duration
from harness.tracking.record import Record, Scores
from harness.tracking.store import Store


def print_run(record: Record, runs_dir: Path, console: Console) -> None:
    """Final and best scores side by side, and where the run lies."""
    numbers = ("loss", "accuracy", "train accuracy")
    shown = table("weights", "epoch", *numbers, right=("epoch", *numbers))
    protocol = record.spec["data"]["protocol"]
    results = record.results
    for label, scores in (
        ("after the last epoch", results.final),
        ("the same, flip TTA", results.final_flip_tta),
        (_best_label(protocol), results.best),
    ):
        if scores:
            shown.add_row(label, str(scores.epoch), *_values(scores, protocol), accuracy(scores.train_accuracy))
    console.print()
    judged = f"{_judged(protocol)} of {record.name} (seed {record.seed})"
    console.print(f"{judged}, {record.status.replace('_', ' ')}:", markup=False, soft_wrap=True)
    console.print(shown)
    final = record.results.final
    if final and protocol == "holdout" and final.test_accuracy is not None:
        console.print(f"test set (read {record.test_reads} x): {accuracy(final.test_accuracy)} after the last epoch")
    folder = Store(runs_dir).find(record.run_id)
    took = f" in {duration(record.timings['total'])}" if "total" in record.timings else ""
    unguarded = " (guard off)" if record.spec["guard"]["max_parameters"] is None else ""
    cost = f"{record.trainable_parameters:,} parameters{unguarded}{took}"
    console.print(f"{cost}; kept in {folder.path if folder else runs_dir}", markup=False, soft_wrap=True)
    if record.wandb.state not in ("offline", "online", "disabled"):
        console.print(f"Weights & Biases: {record.wandb.state}", style="yellow", markup=False, soft_wrap=True)


def _best_label(protocol: str) -> str:
    return "lowest loss on the test set" if protocol == "paper" else "lowest validation loss"


def _judged(protocol: str) -> str:
    if protocol == "paper":
        return "test set (also the validation set, as in the paper)"
    return "validation set" if protocol == "holdout" else "test set"


def _values(scores: Scores, protocol: str) -> tuple[str, str]:
    metric = metric_of(protocol)
    loss: float | None = getattr(scores, metric.replace("accuracy", "loss"))
    return "–" if loss is None else f"{loss:.4f}", accuracy(getattr(scores, metric))


def print_findings(findings: dict[str, Any], console: Console) -> None:
    """One line a finding."""
    shown = table("what", "found")
    for section, content in findings.items():
        rows = content.items() if isinstance(content, dict) else [("", content)]
        for name, value in rows:
            shown.add_row(f"{section} {name}".strip(), escape(str(value)))
    console.print(shown)
