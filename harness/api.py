"""The harness in a notebook: the same as the commands, as functions."""

from __future__ import annotations

from pathlib import Path

from harness import reporting
from harness.reporting import StudyReport
from harness.runner import run
from harness.spec.ablation import Study
from harness.spec.ablation import load_study as load_ablation
from harness.spec.documents import load_experiment
from harness.study.ablate import ablate
from harness.teacher import resolve_study
from harness.tracking.store import Store

__all__ = ["ablate", "load_ablation", "load_experiment", "report", "run"]


def report(study: Study, runs_dir: Path = Path("runs"), output: Path | None = None) -> StudyReport:
    """Build a study's report from the records in `runs_dir`; with `output`, write it there (.md) with its figures."""
    store = Store(runs_dir)
    built = reporting.build(resolve_study(study, store), store)
    if output is not None:
        reporting.write(built, output, ["md"])
    return built
