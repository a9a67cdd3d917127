"""Which records count where, and what the report's model says of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.reporting import build, build_runs, evidence, render
from harness.reporting.model import Arm, Score, StudyReport
from harness.spec.ablation import Reference
from harness.spec.identity import NUMERICS
from harness.tracking.record import Results, Scores
from harness.tracking.store import Store
from tests.reporting.synthetic import add, fill, make_record, make_rows, make_study

TWO = {"no_se": {"model.se": False}}


def arm_of(report: StudyReport, name: str) -> Arm:
    return next(arm for arm in report.arms if arm.name == name)


# --- a small study by hand ---


def test_by_hand(store: Store) -> None:
    study = make_study(TWO, margin=0.002)
    fill(store, study, {"small": [0.70, 0.71, 0.72], "no_se": [0.75, 0.76, 0.77]})
    report = build(study, store)
    base, arm = report.arms
    assert (report.metric, report.epochs, report.file) == ("test_accuracy", 10, "ablations/small.yaml")
    assert (base.last.n, base.last.mean, base.last.sd) == (3, pytest.approx(0.71), pytest.approx(0.01))
    assert base.difference is None
    assert base.paired is None
    assert (arm.parameters, arm.headroom, arm.macs) == (79_960, 5_000_000 - 79_960, 12_345_678)
    assert base.best.mean == pytest.approx(0.711)
    assert arm.last_loss.mean == pytest.approx(1.5 - 0.76)
    assert arm.train.mean == pytest.approx(0.81)
    assert arm.reference_difference == pytest.approx(0.76 - 0.9367)
    assert arm.difference is not None
    # One comparison is Student's t: standard error 0.01 sqrt(2/3), 4 degrees of freedom, t = 2.776445.
    half = 2.776445 * 0.01 * np.sqrt(2 / 3)
    assert arm.difference.interval == pytest.approx((0.05 - half, 0.05 + half))
    assert arm.difference.verdict == "helps"
    assert report.spread == (pytest.approx(0.01), 4)
    assert report.detectable is not None
    assert arm.paired is not None
    assert arm.paired.correlation == pytest.approx(1.0)


def test_seeds_and_arms_outside_the_study_are_left_out(store: Store) -> None:
    study = make_study(TWO, seeds=(0, 1))
    wider = make_study(seeds=(0, 1, 2, 3))
    fill(store, wider, {"small": [0.7, 0.8, 0.1, 0.1], "no_se": [0.7, 0.8, 0.1], "no_clip": [0.1]})
    report = build(study, store)
    assert [arm.last.mean for arm in report.arms] == [pytest.approx(0.75), pytest.approx(0.75)]
    assert [run.seed for run in report.runs] == [0, 1, 0, 1]


def test_an_arm_that_was_taken_away_is_told(store: Store) -> None:
    """With its seeds; other studies' runs are none of it."""
    whole = make_study({"no_se": {"model.se": False}, "wild": {"optim.optimizer.lr": 9.0}}, seeds=(0, 1, 2))
    fill(store, whole, {"small": [0.7, 0.71, 0.72], "no_se": [0.6, 0.61, 0.62], "wild": [0.1, 0.1, 0.1]})
    other = make_study({"no_flip": {"augment.flip": False}}, seeds=(0,), name="other")
    fill(store, other, {"small": [0.7], "no_flip": [0.5]})
    tried = make_study({"no_clip": {"optim.clip": None}}, seeds=(0,))
    add(store, make_record(tried, tried.arms[1], 0, None, status="interrupted"), [])  # nothing was seen of it
    study = make_study({"no_se": {"model.se": False}}, seeds=(0, 1))
    report = build(study, store)
    assert [(run.arm, run.seed) for run in report.dropped] == [
        *(("no_se", 2), ("small", 2)),
        *(("wild", seed) for seed in range(3)),
    ]
    text = " ".join(render(report, "md").split())
    told = "**Not asked for any more**: 5 runs made for this study, of `no_se` (seed 2), `small` (seed 2) and `wild` "
    assert told + "(seed 0, 1, 2)." in text
    assert "Not asked for" not in render(build(whole, store), "md")
    in_json = json.loads(render(report, "json"))["dropped"]
    assert [(run["arm"], run["seed"]) for run in in_json] == [(run.arm, run.seed) for run in report.dropped]
    evidence(study, store, store.root.parent / "evidence")
    assert render(build(study, Store(store.root.parent / "evidence")), "md") == render(report, "md")


def test_names_do_not_matter_but_specs_do(store: Store) -> None:
    study = make_study(TWO, seeds=(0,))
    base, arm = study.arms
    add(store, make_record(study, base, 0, 0.7, name="another-name", study="another", arm="x"))
    other = make_study({"no_se": {"model.se": False}}, base={"optim.optimizer.lr": 0.2}).arms[1]
    add(store, make_record(study, other, 0, 0.9, name=arm.spec.name))
    report = build(study, store)
    assert report.runs[0].last.accuracy == 0.7
    assert report.runs[1].status == "missing"


def test_a_finished_run_goes_before_a_newer_one_that_failed_and_the_newer_of_two_finished(store: Store) -> None:
    study = make_study({}, seeds=(0, 1))
    early, late = {"started": "2026-01-01T00:00:00+00:00"}, {"started": "2026-02-01T00:00:00+00:00"}
    base = study.base
    add(store, make_record(study, base, 0, 0.7, provenance=early))
    add(store, make_record(study, base, 0, None, run_id="zzzzzzzzzz", status="crashed", provenance=late))
    add(store, make_record(study, base, 1, 0.5, run_id="zzzzzzzzzz1", provenance=early))
    add(store, make_record(study, base, 1, 0.6, numerics=NUMERICS + 1, provenance=late))
    assert [run.last.accuracy for run in build(study, store).runs] == [0.7, 0.6]


# --- what does not count ---


def test_nothing_is_averaged_away(troubled_report: StudyReport) -> None:
    report = troubled_report
    counts = {arm.name: arm.last.n for arm in report.arms}
    assert counts == {
        "small": 3, "no_se": 3, "no_cutmix": 3, "no_lookahead": 2, "no_clip": 1, "no_crop_flip": 0, "constant_lr": 0
    }  # fmt: skip
    why = {(run.arm, run.seed): run.why_not for run in report.runs if not run.counted}
    assert why[("no_lookahead", 2)] == "stopped early at epoch 4 of 10"
    assert why[("no_clip", 1)] == "diverged"
    assert why[("no_clip", 2)] == "no end recorded: it is running, or its process was killed"
    assert why[("constant_lr", 0)] == "no record of it"
    assert len(why) == 1 + 2 + 3 + 3
    # The early-stopped run's 10 % is not in the mean, but it is in the report.
    assert arm_of(report, "no_lookahead").last.mean == pytest.approx(
        np.mean([run.last.accuracy for run in arm_of(report, "no_lookahead").counted])
    )
    assert arm_of(report, "no_lookahead").last.mean > 0.6  # type: ignore[operator]
    assert {run.last.accuracy for run in report.runs if run.status == "stopped_early"} == {0.1}


def test_an_arm_without_a_number_says_why(troubled_report: StudyReport) -> None:
    lost = arm_of(troubled_report, "no_crop_flip").difference
    assert lost is not None
    assert (lost.interval, lost.verdict) == (None, "inconclusive")
    assert lost.reason == "the arm has no full-length run: 3 diverged"
    assert arm_of(troubled_report, "no_clip").difference.reason == "the arm has n = 1: no interval"  # type: ignore[union-attr]


def test_a_short_run_is_not_full_length_whatever_its_status(store: Store) -> None:
    study = make_study({}, seeds=(0, 1))
    add(store, make_record(study, study.base, 0, 0.7, epochs_done=9))
    add(store, make_record(study, study.base, 1, None))
    report = build(study, store)
    assert [run.why_not for run in report.runs] == [
        "stopped early at epoch 9 of 10",
        "the record holds no headline number",
    ]
    assert report.base.last.n == 0


def test_errors_lose_paths_and_host(troubled_report: StudyReport) -> None:
    (error,) = {run.error for run in troubled_report.runs if run.status == "diverged"}
    assert error == "loss is nan | in x.py on …\nat step 3"


def test_a_damaged_journal_costs_the_curve_alone(store: Store) -> None:
    study = make_study({}, seeds=(0,))
    record = make_record(study, study.base, 0, 0.7)
    add(store, record, make_rows(study.base, 0, 0.7, 10))
    path = store.folder(record.name, record.run_id).journal_path
    path.write_text("nonsense\n" + path.read_text())
    report = build(study, store)
    assert report.base.last.mean == 0.7
    assert report.runs[0].journal == ()
    assert len(store.problems) == 1


# --- other conditions ---


def test_other_conditions_are_marked(troubled_report: StudyReport) -> None:
    marks = {arm.name: arm.marks for arm in troubled_report.arms}
    assert marks["small"] == ()
    assert marks["no_cutmix"] == ("git commit ffffffffff (usual: 0123456789)",)
    assert marks["no_se"] == (
        "numerics of the code 99 in seed 2 (usual: 1)",
        "precision bf16 in seed 1 (usual: fp32)",
        "device type cuda in seed 1 (usual: cpu)",
    )
    assert [run.marks for run in arm_of(troubled_report, "no_se").runs] == [(), ("precision", "device"), ("numerics",)]


def test_uncommitted_changes_and_other_data_and_epochs_are_other_conditions(store: Store) -> None:
    study = make_study({"longer": {"train.epochs": 20}, "no_se": {"model.se": False}}, seeds=(0, 1))
    fill(store, make_study({}, seeds=(0, 1)), {"small": [0.7, 0.8]})
    longer, no_se = study.arms[1:]
    for seed in study.seeds:
        add(store, make_record(study, longer, seed, 0.9))
        changes = {"git_dirty": True, "git_diff_digest": f"{seed}bcdefabcdef", "data_digest": "0" * 64}
        add(store, make_record(study, no_se, seed, 0.7, provenance=changes))
    report = build(study, store)
    assert arm_of(report, "longer").marks == ("epochs 20 (usual: 10)",)
    assert arm_of(report, "no_se").marks == (
        "git commit 0123456789 with changes 0bcdefab in seed 0 (usual: 0123456789)",
        "git commit 0123456789 with changes 1bcdefab in seed 1 (usual: 0123456789)",
        "data digest 000000000000 (usual: abcdef012345)",
    )


# --- protocols ---


def test_holdout_is_judged_on_validation_and_the_test_set_is_left_alone(store: Store) -> None:
    study = make_study(TWO, base={"data.protocol": "holdout"})
    fill(store, study, {"small": [0.70, 0.71, 0.72], "no_se": [0.75, 0.76, 0.77]})
    report = build(study, store)
    assert report.metric == "val_accuracy"
    assert report.base.last.mean == pytest.approx(0.71)
    assert sum(run.test_reads for run in report.runs) == 0
    assert report.published is not None
    assert (report.published.alike, report.published.measured) == (False, "the last epoch, its validation accuracy")


def test_under_paper_the_validation_set_is_the_test_set(store: Store) -> None:
    study = make_study({}, seeds=(0,))
    final = Scores(epoch=10, val_accuracy=0.7, val_loss=0.8)
    add(store, make_record(study, study.base, 0, None, results=Results(final=final)))
    assert build(study, store).runs[0].last == Score(0.7, 0.8)


def test_full_has_no_best_checkpoint(store: Store) -> None:
    reference = Reference(label="x", accuracy=0.7, selection="none")
    study = make_study(TWO, base={"data.protocol": "full"}, reference=reference)
    fill(store, study, {"small": [0.70, 0.71, 0.72]})
    report = build(study, store)
    assert (report.metric, report.base.last.mean, report.base.best.n) == ("test_accuracy", pytest.approx(0.71), 0)
    assert report.published is not None
    assert report.published.alike
    assert report.published.rows[0].accuracy.mean == pytest.approx(0.71)
    assert report.published.rows[0].inside


def test_an_arm_on_other_images_gets_no_verdict_but_counts(store: Store) -> None:
    study = make_study({"held": {"data.protocol": "holdout"}, "no_se": {"model.se": False}})
    fill(store, study, {"small": [0.70, 0.71, 0.72], "held": [0.9, 0.91, 0.92], "no_se": [0.75, 0.76, 0.77]})
    held = arm_of(build(study, store), "held")
    assert held.last.mean == pytest.approx(0.91)
    assert held.difference is not None
    assert held.difference.mean is None
    assert held.difference.reason == "measured on other images than the base"
    assert held.paired is not None
    assert held.paired.n == 0


def test_a_number_selected_on_the_test_set_stands_beside_one_selected_alike(report: StudyReport) -> None:
    published = report.published
    assert published is not None
    assert published.alike
    assert [row.accuracy.mean for row in published.rows] == [arm.best.mean for arm in report.arms]
    base = published.rows[0]
    assert base.difference == pytest.approx(report.base.best.mean - 0.9367)  # type: ignore[operator]
    assert base.loss_difference == pytest.approx(report.base.best_loss.mean - 0.2790)  # type: ignore[operator]
    assert base.inside is False
    assert published.binomial == pytest.approx((0.93176, 0.94131), abs=1e-5)


def test_how_it_was_selected_is_not_known(store: Store) -> None:
    study = make_study({}, reference=Reference(label="x", accuracy=0.71))
    fill(store, study, {"small": [0.70, 0.71, 0.72]})
    published = build(study, store).published
    assert published is not None
    assert (published.alike, published.binomial) == (False, None)
    assert published.measured == "the last epoch, its test accuracy"


def test_what_is_not_finite_is_no_result(store: Store) -> None:
    study = make_study({}, seeds=(0,))
    final = Scores(epoch=10, test_accuracy=float("nan"), test_loss=float("inf"))
    run = build_runs([make_record(study, study.base, 0, None, results=Results(final=final))]).runs[0]
    assert run.last == Score()
    assert not run.counted


# --- sizes of studies ---


def test_an_empty_store(store: Store) -> None:
    report = build(make_study(), store)
    assert {run.status for run in report.runs} == {"missing"}
    assert (report.base.parameters, report.base.headroom, report.spread, report.detectable) == (None, None, None, None)


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds(store: Store, seeds: int) -> None:
    study = make_study(TWO, seeds=range(seeds))
    fill(store, study, {"small": [0.7, 0.71], "no_se": [0.76, 0.77]})
    report = build(study, store)
    difference = report.arms[1].difference
    assert difference is not None
    assert difference.mean == pytest.approx(0.06)
    assert (difference.interval is None) == (seeds == 1)
    assert (report.detectable is None) == (seeds == 1)


# --- plain runs ---


def test_plain_runs_are_grouped_by_study(store: Store) -> None:
    study = make_study(TWO, seeds=(0, 1))
    fill(store, study, {"small": [0.7, 0.71], "no_se": [0.76]})
    add(store, make_record(study, study.base, 7, 0.5, study=None, arm=None, name="alone"))
    report = build_runs(store.records())
    assert [(name, [(run.name, run.seed) for run in runs]) for name, runs in report.groups] == [
        ("small", [("small", 0), ("small", 1), ("small-no_se", 0)]),
        (None, [("alone", 7)]),
    ]
