"""The authors' own log of the published network, epoch by epoch: public numbers, kept with the package as data.

From the notebook that goes with the paper: its final log of 200 epochs. It validates on the test set, and its
training accuracy is the running one, against unmixed labels, as the journal's is.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.reporting.model import StudyReport

DATASET, PARAMETERS = "CIFAR-10", 4_697_742
LOG = "notebook_final"
COLUMNS = {
    "train_loss": "train_loss",
    "train_accuracy": "train_accuracy_percent",
    "val_loss": "test_loss",
    "val_accuracy": "test_accuracy_percent",
}
"""The journal's name of a quantity -> the log's; accuracies in percent."""


def is_theirs(report: StudyReport) -> bool:
    """Whether the base is the published network, trained and measured on what they had."""
    return (report.dataset, report.protocol, report.base.parameters) == (DATASET, "paper", PARAMETERS)


def curve(key: str, epochs: int) -> tuple[list[float], list[float]]:
    """Epochs (from 1, at most `epochs`) and the values there; accuracies in percent."""
    rows = [row for row in _log() if int(row["epoch"]) <= epochs]
    return [float(row["epoch"]) for row in rows], [float(row[COLUMNS[key]]) for row in rows]


@cache
def _log() -> tuple[dict[str, str], ...]:
    text = resources.files("harness.reporting").joinpath("data", "authors_log.csv").read_text(encoding="utf-8")
    return tuple(row for row in csv.DictReader(text.splitlines()) if row["run"] == LOG)
