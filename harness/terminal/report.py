"""`harness report`: which report is asked for, written, checked or copied."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from harness import reporting
from harness.errors import CheckFailed, InputError
from harness.matching import load_study
from harness.reporting.model import RunsReport, StudyReport
from harness.spec.ablation import Study
from harness.spec.documents import experiment_from_dict
from harness.teacher import resolve_study
from harness.tracking.atomic import check_writable
from harness.tracking.select import find_records, find_run, recorded_contents
from harness.tracking.store import Store

FORMATS = ("md", "html", "csv", "json", "tex")


def make_report(
    what: Sequence[str],
    runs_dir: Path,
    output: Path | None,
    formats: Sequence[str] | None,
    console: Console,
    seeds: int | None = None,
    overrides: Sequence[str] = (),
    check: bool = False,
    evidence: Path | None = None,
    data_dir: Path | None = None,
) -> None:
    """Write, check or copy the report of an ablation file, of some runs, or of every run.

    Args:
        what: an ablation file, or runs; empty: every run.
        runs_dir: the runs.
        output: where the report is; None: `reports/<study>.md`.
        formats: None: the one that `output` ends in, else Markdown.
        console: where to say what was written.
        seeds: as the study was given them.
        overrides: likewise.
        check: compare with what is there in place of writing.
        evidence: where to copy what the report needs, in place of writing.
        data_dir: where the images are, for pictures; None: the report does without them.

    Raises:
        InputError: an unknown format, file or run, no such runs folder, options that exclude each other.
        CheckFailed: `check`, and the file is not what the records give; shows how it differs.
    """
    if evidence and (check or output or formats):
        fix = "copy first, then `harness report ablations/x.yaml --runs-dir DIR` with what is asked of the report"
        raise InputError("--evidence copies, it writes and checks no report", where="--evidence", fix=fix)
    if output:
        reporting.stem_of(output)  # before the records are read
    formats = formats or [reporting.format_of(output) if output else "md"]
    for format in formats:
        if format not in FORMATS:
            raise InputError(f"{format!r} is no format of a report", where="--format", fix=f"use {', '.join(FORMATS)}")
    store = Store(runs_dir)
    is_study = len(what) == 1 and _is_file(what[0])
    study = load_study(Path(what[0]), overrides, seeds, recorded_contents(store)) if is_study else None
    if not runs_dir.is_dir():
        fix = "harness run experiments/quickstart.yaml makes one; --runs-dir names another"
        raise InputError("there is no such runs folder", where=str(runs_dir), fix=fix)
    study = study and resolve_study(study, store)
    report: StudyReport | RunsReport = reporting.build(study, store) if study else _of_runs(what, store)
    for problem in store.problems:
        print(f"left out: {problem}", file=sys.stderr)
    if evidence:
        check_writable(evidence / "record.json")
        _copy_evidence(study, store, evidence, console)
        return
    name = report.name if isinstance(report, StudyReport) else "runs"
    output = output or Path("reports") / f"{name}.{formats[0]}"
    if check:
        _check(report, [reporting.path_of(output, format) for format in formats], runs_dir, console)
        return
    check_writable(output)
    if data_dir and isinstance(report, StudyReport):
        report = replace(report, pixels=_pixels(report, data_dir))
    for path in reporting.write(report, output, formats):
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


def _is_file(text: str) -> bool:
    return text.endswith((".yaml", ".yml"))


def _check(report: StudyReport | RunsReport, files: Sequence[Path], runs_dir: Path, console: Console) -> None:
    """All of them, before the first that differs is told."""
    found = {file: reporting.check(report, file) for file in files}
    for file, difference in found.items():
        if difference is None:
            console.print(f"{file} is what the records in {runs_dir} give", markup=False, soft_wrap=True)
            for path in reporting.not_compared(report, file):
                told = f"not compared: the figures of {path}, which another version of matplotlib has drawn"
                console.print(told, markup=False, soft_wrap=True)
    if differing := [
        f"{file} is not what the records in {runs_dir} give:\n{text}" for file, text in found.items() if text
    ]:
        raise CheckFailed("\n".join(differing))


def _pixels(report: StudyReport, data_dir: Path) -> Any:
    """The images that the predictions are of, uint8 [N, H, W, C]; None where no run has predictions."""
    from harness.training.data import load_split

    run = report.sampled
    if run is None or run.predictions is None:
        return None
    split = load_split(experiment_from_dict(dict(run.spec)), data_dir)
    images = split.validation if run.predictions.images == "validation" else split.test
    return images.pixels.numpy() if images else None


def _of_runs(what: Sequence[str], store: Store) -> StudyReport | RunsReport:
    """A card of the one run that is asked for, a list of several."""
    if len(what) == 1:
        found = find_run(store, what[0])
        try:
            return reporting.build_card(found, store)
        except (
            InputError
        ):  # its experiment can't be read here any more: its images' folder is gone, its fields are newer
            return reporting.build_runs([found[1]])
    records = find_records(store, what) if what else store.records()
    if not records:
        raise InputError(f"there are no runs in {store.root}", fix="harness run experiments/quickstart.yaml makes one")
    return reporting.build_runs(records)


def _copy_evidence(study: Study | None, store: Store, target: Path, console: Console) -> None:
    if study is None:
        raise InputError("--evidence needs an ablation file", fix="harness report ablations/x.yaml --evidence DIR")
    reporting.evidence(study, store, target)
    console.print(f"wrote {target}", markup=False, soft_wrap=True)
