"""Image by image: McNemar's counts, images won and lost, classes, and whether records agree with their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix
from statsmodels.stats.contingency_tables import Table2x2, mcnemar

from harness.reporting import build, render, to_json
from harness.reporting.images import ImageCount, PerImage, Predictions, confusion, per_class, per_image
from harness.reporting.statistics import Summary
from harness.spec.ablation import Study
from harness.tracking.store import Store
from tests.reporting.synthetic import add, make_record, make_rows, make_study

LABELS = [0, 0, 0, 1, 1, 2]


def of(*predicted: int, labels: Sequence[int] = LABELS, images: str = "test") -> Predictions:
    return Predictions(np.array(predicted, dtype=np.uint8), np.array(labels, dtype=np.uint8), images)


# --- by hand ---


def test_counts_by_hand() -> None:
    base = {0: of(0, 0, 0, 1, 0, 0), 1: of(0, 0, 1, 1, 1, 0), 5: of(0, 0, 0, 0, 0, 0)}
    arm = {0: of(0, 1, 1, 1, 1, 2), 1: of(0, 1, 0, 1, 0, 2), 7: of(0, 0, 0, 0, 0, 0)}
    found = per_image(base, arm)
    assert [(one.seed, one.lost, one.won) for one in found.seeds] == [(0, 2, 2), (1, 2, 2)]
    assert (found.images, found.median_lost, found.median_won) == (6, 2.0, 2.0)
    assert (found.always_lost, found.always_won) == (1, 1)  # image 1, image 5; of 2 and 4 each wins a seed
    assert found.most_lost == (ImageCount(1, 0, 2, 0),)
    assert found.most_won == (ImageCount(5, 2, 0, 2),)


def test_the_median_is_over_seeds_and_the_widest_gaps_come_first() -> None:
    right, wrong = of(*LABELS), of(1, 1, 1, 0, 0, 0)
    one = of(1, 0, 0, 1, 1, 2)
    found = per_image({0: right, 1: right, 2: wrong}, {0: wrong, 1: one, 2: one})
    assert [(one.lost, one.won) for one in found.seeds] == [(6, 0), (1, 0), (0, 5)]
    assert (found.median_lost, found.median_won) == (1.0, 0.0)
    assert found.most_lost == (ImageCount(0, 0, 2, 0),)  # the others: right with two seeds of three in both
    assert found.most_won == ()
    assert (found.always_lost, found.always_won) == (0, 0)
    turned = per_image({0: wrong, 1: one, 2: one}, {0: right, 1: right, 2: wrong})
    assert (turned.always_lost, turned.always_won, len(turned.most_won)) == (0, 0, 1)


@pytest.mark.parametrize(
    ("base", "arm", "reason"),
    [
        ({}, {0: of(*LABELS)}, "no seed of which both have predictions"),
        ({1: of(*LABELS)}, {0: of(*LABELS)}, "no seed of which both have predictions"),
        ({0: of(*LABELS)}, {0: of(*LABELS, images="validation")}, "predictions of different images"),
        ({0: of(*LABELS)}, {0: of(*LABELS, labels=LABELS[::-1])}, "predictions of different images"),
        ({0: of(*LABELS)}, {0: of(0, labels=[0])}, "predictions of different images"),
    ],
)
def test_what_cannot_be_compared(base: dict[int, Predictions], arm: dict[int, Predictions], reason: str) -> None:
    assert per_image(base, arm) == PerImage(reason=reason)


def test_classes_by_hand() -> None:
    base = per_class([of(0, 0, 0, 1, 0, 0), of(0, 0, 1, 1, 1, 0)])
    assert [(one.label, one.images, one.difference) for one in base] == [(0, 3, None), (1, 2, None), (2, 1, None)]
    assert [one.accuracy.mean for one in base] == pytest.approx([5 / 6, 3 / 4, 0.0])
    (first, _, last) = per_class([of(0, 1, 1, 1, 1, 2)], base)
    assert first.accuracy == Summary(1, 1 / 3, reason="n = 1: no interval")
    assert first.difference == pytest.approx(1 / 3 - 5 / 6)
    assert last.difference == 1.0
    assert per_class([]) == ()
    assert per_class([of(*LABELS), of(*LABELS, images="validation")]) == ()
    assert per_class([of(0, labels=[0])], base)[0].difference is None  # another class of one image


# --- against libraries ---


def test_counts_are_those_of_mcnemars_table_and_shares_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 10, 500)
    one, other = (np.where(rng.random(500) < 0.7, labels, rng.integers(0, 10, 500)) for _ in range(2))
    base, arm = Predictions(one, labels, "test"), Predictions(other, labels, "test")
    table = Table2x2.from_data(np.stack([base.right, arm.right], 1)).table  # rows base, columns arm; wrong first
    (found,) = per_image({3: base}, {3: arm}).seeds
    assert (found.lost, found.won) == (table[1, 0], table[0, 1])
    assert min(found.lost, found.won) == mcnemar(table, exact=True).statistic
    assert confusion([base], 10) == pytest.approx(confusion_matrix(labels, one, normalize="true"))
    counts = confusion_matrix(labels, one) + confusion_matrix(labels, other)
    assert confusion([base, arm], 10) == pytest.approx(counts / counts.sum(1, keepdims=True))
    assert confusion([base], 11)[10].sum() == 0


# --- in the report ---


def study_with_predictions(store: Store, labels: np.ndarray, predicted: dict[str, list[np.ndarray]]) -> Study:
    """Two arms whose records say what their predictions give."""
    study = make_study({"no_se": {"model.se": False}}, seeds=range(len(predicted["small"])))
    for arm in study.arms:
        for seed in study.seeds:
            told = predicted[arm.name][seed]
            accuracy = int((told == labels).sum()) / len(labels)
            record = make_record(study, arm, seed, accuracy)
            add(store, record, make_rows(arm, seed, accuracy, 10))
            store.folder(record.name, record.run_id).write_predictions(None, told, labels, "test")
    return study


@pytest.fixture
def predicted(store: Store) -> Study:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 10, 997)  # a prime: no share of it is a short decimal
    draws = [np.where(rng.random(997) < 0.7, labels, 9 - labels) for _ in range(4)]
    return study_with_predictions(store, labels, {"small": draws[:2], "no_se": draws[2:]})


def test_the_report_counts_images_and_classes(store: Store, predicted: Study) -> None:
    base, arm = build(predicted, store).arms
    assert base.images is None
    assert [one.difference for one in base.classes] == 10 * [None]
    assert arm.images is not None
    for one in arm.images.seeds:  # won less lost is the difference in images
        mine, theirs = arm.runs[one.seed].last.accuracy, base.runs[one.seed].last.accuracy
        assert one.won - one.lost == pytest.approx(997 * (mine - theirs))  # type: ignore[operator]
    assert sum(one.images * (one.accuracy.mean or 0) for one in arm.classes) == pytest.approx(
        997 * (arm.last.mean or 0)
    )
    content = to_json(build(predicted, store))["arms"][1]
    assert content["images"]["seeds"][0]["lost"] == arm.images.seeds[0].lost
    assert content["classes"][3]["accuracy"]["n"] == 2


def test_records_that_agree_with_their_predictions(store: Store, predicted: Study) -> None:
    report = build(predicted, store)
    assert {run.contradiction for run in report.runs} == {None}
    assert {arm.marks for arm in report.arms} == {()}
    text = " ".join(render(report, "md").split())
    assert "recomputed from the stored predictions of 4 runs: equal to the records' in all of them" in text


def test_a_run_whose_predictions_are_gone_is_told(store: Store, predicted: Study) -> None:
    folder = next(folder for folder, record in store.entries() if (record.arm, record.seed) == ("no_se", 1))
    folder.predictions_path.unlink()
    text = " ".join(render(build(predicted, store), "md").split())
    assert "of 3 runs: equal to the records' in all of them, to the last digit. No predictions are there of" in text
    assert "of `no_se` seed 1: by class and by image they are not counted." in text


def test_one_image_more_or_less_is_told(store: Store, predicted: Study) -> None:
    folder, record = next(found for found in store.entries() if found[1].arm == "no_se" and found[1].seed == 1)
    stored = folder.read_predictions()
    changed = stored["predicted"].copy()
    changed[np.flatnonzero(changed == stored["labels"])[0]] += 1
    folder.write_predictions(None, changed, stored["labels"], "test")
    report = build(predicted, store)
    (contradicted,) = [run for run in report.runs if run.contradiction]
    assert (contradicted.arm, contradicted.seed) == ("no_se", 1)
    told = record.results.final.test_accuracy  # type: ignore[union-attr]
    right = round(997 * told) - 1  # type: ignore[operator]
    expected = f"its predictions are right on {right} of 997 images ({right / 997}), its record says {told}"
    assert contradicted.contradiction == expected
    assert report.arms[1].marks == (f"seed 1: {expected}",)
    text = " ".join(render(report, "md").split())
    assert f"**it contradicts 1 record**: `no_se` seed 1, {expected}" in text
    assert "`no_se` ‡" in text


def test_damaged_predictions_cost_the_images_alone(store: Store, predicted: Study) -> None:
    folder, _ = next(found for found in store.entries() if found[1].arm == "no_se" and found[1].seed == 0)
    folder.predictions_path.write_bytes(folder.predictions_path.read_bytes()[:300])
    report = build(predicted, store)
    arm = report.arms[1]
    assert (arm.last.n, [one.seed for one in arm.images.seeds]) == (2, [1])  # type: ignore[union-attr]
    assert len(store.problems) == 1
    assert "damaged predictions" in store.problems[0].what


@pytest.mark.parametrize(
    ("predicted_", "problem"),
    [(np.zeros(0, np.uint8), "they are of no image"), (np.full(997, -20, np.int16), "predicted are no class numbers")],
)
def test_predictions_of_nothing_are_damaged_too(
    store: Store, predicted: Study, predicted_: np.ndarray, problem: str
) -> None:
    folder, _ = next(found for found in store.entries() if found[1].arm == "no_se" and found[1].seed == 0)
    with open(folder.predictions_path, "wb") as file:
        np.savez(file, predicted=predicted_, labels=np.zeros(len(predicted_), np.uint8), images=np.array("test"))
    assert build(predicted, store).arms[1].last.n == 2
    assert [one.what for one in store.problems] == [f"damaged predictions: {problem}"]


def test_logits_are_left_where_they_are(store: Store, predicted: Study) -> None:
    """200 kB a run that no table needs."""
    folder, _ = store.entries()[0]
    stored = folder.read_predictions()
    folder.write_predictions(np.zeros((997, 10)), stored["predicted"], stored["labels"], "test")
    assert "logits" in folder.read_predictions()
    assert set(folder.read_predictions(logits=False)) == {"predicted", "labels", "images"}


def test_the_committed_evidence_agrees() -> None:
    from harness.spec.ablation import load_study

    root = Path(__file__).parent.parent.parent
    report = build(load_study(root / "ablations/small.yaml"), Store(root / "reports/evidence/small"))
    assert all(run.predictions is not None and run.contradiction is None for run in report.runs)
