"""`harness report`: which report is asked for, written, checked or copied."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness import reporting
from harness.errors import CheckFailed, InputError
from harness.reporting.model import RunsReport, StudyReport
from harness.spec.ablation import Study, load_study
from harness.teacher import resolve_study
from harness.tracking.select import find_records
from harness.tracking.store import Store

FORMATS = ("md", "json")


def make_report(
    what: Sequence[str],
    runs_dir: Path,
    output: Path | None,
    formats: Sequence[str],
    console: Console,
    seeds: int | None = None,
    overrides: Sequence[str] = (),
    check: bool = False,
    evidence: Path | None = None,
) -> None:
    """Write, check or copy the report of an ablation file, of some runs, or of every run.

    Raises:
        InputError: an unknown format, file or run.
        CheckFailed: `check`, and the file is not what the records give; shows how it differs.
    """
    for format in formats:
        if format not in FORMATS:
            raise InputError(f"{format!r} is no format of a report", where="--format", fix=f"use {', '.join(FORMATS)}")
    store = Store(runs_dir)
    study = None
    if len(what) == 1 and _is_file(what[0]):
        study = resolve_study(load_study(Path(what[0]), overrides, seeds), store)
    report: StudyReport | RunsReport = reporting.build(study, store) if study else _of_runs(what, store)
    for problem in store.problems:
        print(f"left out: {problem}", file=sys.stderr)
    if evidence:
        _copy_evidence(study, store, evidence, console)
        return
    output = output or Path("reports") / f"{study.name if study else 'runs'}.{formats[0]}"
    if check:
        difference = reporting.check(report, output)
        if difference is not None:
            raise CheckFailed(f"{output} is not what the records in {runs_dir} give:\n{difference}")
        console.print(f"{output} is what the records in {runs_dir} give")
        return
    for path in reporting.write(report, output, formats):
        console.print(f"wrote {path}")


def _is_file(text: str) -> bool:
    return text.endswith((".yaml", ".yml"))


def _of_runs(what: Sequence[str], store: Store) -> RunsReport:
    records = find_records(store, what) if what else store.records()
    if not records:
        raise InputError(f"there are no runs in {store.root}", fix="harness run experiments/quickstart.yaml makes one")
    return reporting.build_runs(records)


def _copy_evidence(study: Study | None, store: Store, target: Path, console: Console) -> None:
    if study is None:
        raise InputError("--evidence needs an ablation file", fix="harness report ablations/x.yaml --evidence DIR")
    reporting.evidence(study, store, target)
    console.print(f"wrote {target}")
