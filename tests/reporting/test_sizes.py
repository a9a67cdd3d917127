"""Studies of every size and with every gap: each has an answer, and the answer says what it can't say."""

from __future__ import annotations

import math

import pytest

from harness.reporting import build, render, to_json
from harness.tracking.store import Store
from tests.reporting.synthetic import fill, make_study

NO_SE = {"no_se": {"model.se": False}}
THREE = [0.70, 0.71, 0.72]
HIGHER = [0.75, 0.76, 0.77]
Accuracies = dict[str, list[float | None]]


@pytest.mark.parametrize(
    ("seeds", "accuracies", "told"),
    [
        (3, {"small": THREE, "no_se": HIGHER}, ["Better than the base: `no_se` (+5.00 points", "n = 3)"]),
        (1, {"small": [0.70], "no_se": [0.75]}, ["(n = 1: no interval)", "`no_se` (the base has n = 1: no interval)"]),
        (2, {"small": [0.70, 0.72], "no_se": [0.71, 0.73]}, ["n = 2)", "Inconclusive: `no_se` (+1.00 points, "]),
        (3, {"small": THREE, "no_se": [0.75]}, ["`no_se` (the arm has n = 1: no interval)", "2 missing"]),
        (3, {"small": THREE}, ["`no_se` (the arm has no full-length run: 3 missing)"]),
        (3, {"small": [], "no_se": HIGHER}, ["`small` (the base) has no full-length run yet, so no arm can be judged"]),
        (3, {"small": [0.7] * 3, "no_se": [0.8] * 3}, ["`no_se` (the runs of each arm are equal: no spread"]),
        (3, {"small": [0.7] * 3, "no_se": HIGHER}, ["(all runs equal: no interval)", "Better than the base: `no_se`"]),
        (3, {"small": THREE, "no_se": THREE}, ["`no_se` (0.00 points", "all differences equal"]),
        (3, {"small": THREE, "no_se": [None, 0.76, 0.77]}, ["2 of 3", "Of 6 planned runs 1 does not count"]),
        (3, {}, ["has no full-length run yet"]),
    ],
)  # fmt: skip
def test_every_gap_is_told(store: Store, seeds: int, accuracies: Accuracies, told: list[str]) -> None:
    study = make_study(NO_SE, seeds=range(seeds), margin=None, reference=None)
    fill(store, study, accuracies)
    report = build(study, store)
    text = " ".join(render(report, "md").split())
    document = to_json(report)
    paired = str(document["arms"][1]["difference"]["paired"]["reason"])
    for words in told:
        assert words in text or words in paired, words
    assert "nan" not in text.lower()
    assert all(math.isfinite(number) for number in _numbers(document))


def test_one_arm_only(store: Store) -> None:
    study = make_study({}, reference=None)
    fill(store, study, {"small": THREE})
    report = build(study, store)
    assert "There is no other arm to compare it with." in render(report, "md").replace("\n", " ")
    assert (report.base.difference, report.base.paired, report.detectable) == (None, None, None)
    assert (report.ladders, report.interactions, report.grids) == ((), (), ())


def test_seeds_that_one_side_lacks_are_not_paired_but_count_in_the_means(store: Store) -> None:
    study = make_study(NO_SE, seeds=range(4))
    fill(store, study, {"small": [0.70, 0.71, 0.72, None], "no_se": [None, 0.75, 0.77, 0.80]})
    base, arm = build(study, store).arms
    assert arm.paired is not None
    assert arm.difference is not None
    assert (base.last.n, arm.last.n, arm.paired.n) == (3, 3, 2)
    assert arm.paired.mean == pytest.approx((0.04 + 0.05) / 2)
    assert arm.difference.mean == pytest.approx((0.75 + 0.77 + 0.80) / 3 - 0.71)


def test_what_is_told_of_the_published_number(store: Store) -> None:
    study = make_study(NO_SE)
    fill(store, study, {"small": [0.936, 0.937, 0.938], "no_se": [0.75]})
    report = build(study, store)
    text = " ".join(render(report, "md").split())
    assert "its binomial (Wilson) 95 % interval is 93.18 to 94.13 %" in text
    assert "one run carries the noise of its seed on top" in text
    assert report.published is not None
    base, arm = report.published.rows
    # The best checkpoints stand 0.1 points above the last epochs: 0.938 +- 4.302653 x 0.001 x sqrt(4/3).
    half = 4.302653 * 0.001 * math.sqrt(4 / 3)
    assert base.prediction == pytest.approx((0.938 - half, 0.938 + half))
    assert (base.inside, arm.prediction, arm.inside) == (True, None, None)


def _numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in _numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, float) else []
