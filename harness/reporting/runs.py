"""From a record to a row of the report, and the report of plain runs without a study."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.reporting import conditions, words
from harness.reporting.model import Arm, Run, RunsReport, Score
from harness.reporting.scrub import scrub, scrubbed
from harness.spec.paths import resolved
from harness.tracking.record import Record, Scores

MACHINE = {"host", "command"}
"""What of a record's provenance no report shows."""
UNFINISHED = {
    "diverged": "diverged",
    "out_of_memory": "out of memory",
    "crashed": "crashed",
    "killed": "killed",
    "interrupted": "interrupted, not continued",
    "running": "no end recorded: it is running, or its process was killed",
}


def metric_of(protocol: str) -> str:
    """The headline's images: validation under holdout, where the test set is left alone, else the test set."""
    return "val_accuracy" if protocol == "holdout" else "test_accuracy"


def run_of(record: Record, arm: str | None = None, journal: Sequence[Mapping[str, Any]] = ()) -> Run:
    """The report's row for one record. InputError-free: what the record does not hold is None."""
    epochs, protocol = int(record.spec["train"]["epochs"]), str(record.spec["data"]["protocol"])
    metric = metric_of(protocol)
    final, best = record.results.final, record.results.best
    return Run(
        name=record.name,
        arm=arm or record.arm or record.name,
        seed=record.seed,
        status=record.status,
        run_id=record.run_id,
        epochs=epochs,
        metric=metric,
        epochs_done=record.epochs_done,
        last=_headline(final, protocol),
        best=_headline(best, protocol),
        flipped=_headline(record.results.final_flip_tta, protocol),
        last_on_test=_on_test(final, protocol),
        best_on_test=_on_test(best, protocol),
        train_accuracy=final.train_accuracy if final else None,
        why_not=_why_not(record, epochs, protocol),
        error=_error(record),
        seconds=record.timings.get("total"),
        images_per_second=record.timings.get("images_per_second"),
        test_reads=record.test_reads,
        trainable_parameters=record.trainable_parameters,
        macs=record.macs,
        conditions=conditions.of_record(record, epochs),
        spec=record.spec,
        provenance=scrubbed({key: value for key, value in record.provenance.items() if key not in MACHINE}),
        journal=tuple(journal),
    )


def _error(record: Record) -> str | None:
    message = (record.error or {}).get("message") or (record.error or {}).get("type")
    return scrub(str(message), record.provenance.get("host")) if message else None


def _headline(scores: Scores | None, protocol: str) -> Score:
    if protocol == "holdout":
        return _score(scores.val_accuracy, scores.val_loss) if scores else Score()
    return _on_test(scores, protocol)


def _on_test(scores: Scores | None, protocol: str) -> Score:
    if scores is None:
        return Score()
    if scores.test_accuracy is None and protocol == "paper":
        return _score(scores.val_accuracy, scores.val_loss)  # the validation set is the test set
    return _score(scores.test_accuracy, scores.test_loss)


def _score(accuracy: float | None, loss: float | None) -> Score:
    """What is not finite is not a result, and JSON has no word for it."""
    finite = [value if value is not None and math.isfinite(value) else None for value in (accuracy, loss)]
    return Score(*finite)


def _why_not(record: Record, epochs: int, protocol: str) -> str | None:
    """Why a run must not be averaged with full-length ones; None for a full-length one with its headline."""
    if not record.finished:
        return UNFINISHED[record.status]
    if record.status == "stopped_early" or record.epochs_done < epochs:
        return f"stopped early at epoch {record.epochs_done} of {epochs}"
    if _headline(record.results.final, protocol).accuracy is None:
        return "the record holds no headline number"
    return None


def build_runs(records: Iterable[Record]) -> RunsReport:
    """The report of plain runs: grouped by study (those without one last), by name and seed within."""
    groups: dict[str | None, list[Run]] = {}
    for record in sorted(records, key=lambda record: (record.name, record.seed, record.run_id)):
        groups.setdefault(record.study, []).append(run_of(record))
    ordered = sorted(groups, key=lambda study: (study is None, study or ""))
    return RunsReport(tuple((study, tuple(groups[study])) for study in ordered))


def statuses(runs: Iterable[Run]) -> str:
    """How many runs have which status: 3 diverged and 1 missing."""
    counts = Counter(run.status.replace("_", " ") for run in runs)
    return words.listed([f"{number} {status}" for status, number in sorted(counts.items())])


def verdict_of(arm: Arm) -> str:
    """As a table has it. Without an interval there is none: where no run counts stands what became of them instead."""
    if arm.difference is None:
        return ""
    if arm.difference.interval:
        return arm.difference.verdict
    return words.NONE if arm.last.n else statuses(arm.runs)


def shown_path(path: Path) -> str:
    """A file as in a command typed at the repository's root: its folder's name and its own, no more."""
    whole = resolved(path)
    return f"{whole.parent.name}/{whole.name}"
