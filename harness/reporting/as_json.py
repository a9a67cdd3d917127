"""The report as a JSON value: every number unrounded, null where there is none, never NaN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from harness.reporting.contrasts import Contrast
from harness.reporting.model import Arm, Published, Run, RunCard, RunsReport, StudyReport
from harness.reporting.statistics import Interval, Summary


def to_json(report: StudyReport | RunsReport) -> dict[str, Any]:
    """Keys of a study: study, metric, reference, arms, and more beside them; of plain runs: runs.

    Of one run: runs, which holds it, and beside it spec and classes.
    """
    if isinstance(report, RunCard):
        classes = [asdict(one) | {"accuracy": _summary(one.accuracy)} for one in report.base.classes]
        return {"runs": [_run(report.run)], "spec": _listed(report.run.spec), "classes": classes}
    if isinstance(report, RunsReport):
        return {"runs": [_run(run) | {"study": study} for study, runs in report.groups for run in runs]}
    spread = {"sd": report.spread[0], "df": report.spread[1]} if report.spread else None
    return {
        "study": report.name,
        "question": report.question,
        "dataset": report.dataset,
        "protocol": report.protocol,
        "metric": report.metric,
        "epochs": report.epochs,
        "seeds": list(report.seeds),
        "margin": report.margin,
        "reference": _reference(report.published) if report.published else None,
        "spread": spread,
        "detectable_difference": report.detectable,
        "arms": [_arm(arm) for arm in report.arms],
        "ladders": [
            [{"before": step.before, "arm": step.arm} | _contrast(step.contrast) for step in ladder.steps]
            for ladder in report.ladders
        ],
        "interactions": [
            asdict(one.arms) | _contrast(one.contrast) | {"verdict": one.says} for one in report.interactions
        ],
        "grids": [_listed(asdict(grid)) for grid in report.grids],
        "remarks": list(report.remarks),
        "extended": _listed(report.looks) if len(report.looks) > 1 else None,
        "runs": [_run(run) for run in report.runs],
        "dropped": [_run(run) for run in report.dropped],
    }


def _arm(arm: Arm) -> dict[str, Any]:
    return {
        "name": arm.name,
        "overrides": dict(arm.overrides),
        "trainable_parameters": arm.parameters,
        "max_parameters": arm.max_parameters,
        "headroom": arm.headroom,
        "macs": arm.macs,
        "epochs": arm.epochs,
        **_summary(arm.last),
        "loss": _summary(arm.last_loss),
        "train_accuracy": _summary(arm.train),
        "best": {"accuracy": _summary(arm.best), "loss": _summary(arm.best_loss)},
        "final_flip_tta": {"accuracy": _summary(arm.flipped)},
        "reference_difference": arm.reference_difference,
        "difference": _difference(arm),
        "marks": list(arm.marks),
        "classes": [asdict(one) | {"accuracy": _summary(one.accuracy)} for one in arm.classes],
        "images": _listed(asdict(arm.images)) if arm.images else None,
    }


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "n": summary.n,
        "mean": summary.mean,
        "sd": summary.sd,
        "interval": _interval(summary.interval),
        "reason": summary.reason,
    }


def _listed(value: Any) -> Any:
    """Tuples as lists, at any depth: what reading the document back gives."""
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def _interval(interval: Interval | None) -> list[float] | None:
    return list(interval) if interval else None


def _difference(arm: Arm) -> dict[str, Any] | None:
    difference, paired = arm.difference, arm.paired
    if difference is None or paired is None:
        return None
    return {
        "mean": difference.mean,
        "interval": _interval(difference.interval),
        "p": difference.p,
        "verdict": difference.verdict,
        "reason": difference.reason,
        "welch": asdict(difference.welch) | {"differs": difference.welch_differs},
        "paired": asdict(paired) | {"interval": _interval(paired.interval)},
    }


def _contrast(contrast: Contrast) -> dict[str, Any]:
    content: dict[str, Any] = _listed(asdict(contrast))
    content["welch"]["differs"] = contrast.welch_differs
    return content


def _reference(published: Published) -> dict[str, Any]:
    rows = [
        {
            "name": row.arm,
            "accuracy": _summary(row.accuracy),
            "loss": _summary(row.loss),
            "difference": row.difference,
            "loss_difference": row.loss_difference,
            "prediction_interval": _interval(row.prediction),
            "inside": row.inside,
        }
        for row in published.rows
    ]
    beside = {"measured": published.measured, "selected_alike": published.alike, "arms": rows}
    return published.reference.model_dump() | {"binomial_interval": _interval(published.binomial), "beside": beside}


def _run(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "arm": run.arm,
        "seed": run.seed,
        "run_id": run.run_id,
        "status": run.status,
        "counted": run.counted,
        "why_not": run.why_not,
        "epochs": run.epochs,
        "epochs_done": run.epochs_done,
        "metric": run.metric,
        "accuracy": run.last.accuracy,
        "loss": run.last.loss,
        "best": asdict(run.best),
        "final_flip_tta": asdict(run.flipped),
        "train_accuracy": run.train_accuracy,
        "seconds": run.seconds,
        "images_per_second": run.images_per_second,
        "device": run.provenance.get("device_name"),
        "test_reads": run.test_reads,
        "conditions": dict(run.conditions),
        "marks": list(run.marks),
        "contradiction": run.contradiction,
        "error": run.error,
    }
