"""A study that was extended after a look: that it is told, and which verdicts the looks leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.reporting import build, render
from harness.reporting.method import EXTENDED
from harness.tracking.store import Store
from tests.reporting.synthetic import add, make_record, make_study

REPORTS = Path(__file__).parent.parent.parent / "reports"
ARMS = {"no_se": {"model.se": False}, "no_flip": {"augment.flip": False}}
NOISE = [0.0, 0.01, -0.01, 0.005, -0.005]


def told(store: Store, planned: dict[int, int], shifts: dict[str, float], format: str = "md") -> str:
    """The report of five seeds, each planned when there were to be so many (seed -> number of seeds)."""
    study = make_study(ARMS, seeds=range(5), margin=None)
    for arm in study.arms:
        for seed in study.seeds:
            provenance = {"planned_seeds": list(range(planned[seed]))}
            accuracy = 0.7 + NOISE[seed] + shifts.get(arm.name, 0.0)
            add(store, make_record(study, arm, seed, round(accuracy, 4), provenance=provenance))
    return " ".join(render(build(study, store), format).split())


ONCE = dict.fromkeys(range(5), 5)
TWICE = {0: 3, 1: 3, 2: 3, 3: 5, 4: 5}


def test_a_study_planned_once_says_nothing(store: Store) -> None:
    assert "Extended" not in told(store, ONCE, {"no_se": 0.05})


@pytest.mark.parametrize("seeds_of_the_base", [1, 3])
def test_a_base_that_another_study_has_run_is_no_look(store: Store, seeds_of_the_base: int) -> None:
    study = make_study(ARMS, seeds=range(2), margin=None)
    for arm in study.arms:
        for seed in study.seeds:
            planned = {"planned_seeds": list(range(seeds_of_the_base)) if arm is study.base else [0, 1]}
            add(store, make_record(study, arm, seed, 0.7 + NOISE[seed], provenance=planned))
    assert "Extended" not in render(build(study, store), "md")


def test_fewer_seeds_than_before_are_no_look(store: Store) -> None:
    started = [
        {"planned_seeds": [0, 1, 2], "started": "2026-01-01"},
        {"planned_seeds": [0, 1], "started": "2026-01-02"},
    ]
    study = make_study(ARMS, seeds=range(2), margin=None)
    for arm in study.arms:
        for seed in study.seeds:
            add(store, make_record(study, arm, seed, 0.7 + NOISE[seed], provenance=started[seed]))
    assert "Extended" not in render(build(study, store), "md")


def test_verdicts_that_the_looks_take_away_are_named(store: Store) -> None:
    # no_flip: p about 0.03, which is under 0.05 once and not twice
    text = told(store, TWICE, {"no_se": 0.05, "no_flip": -0.0137})
    assert "**Extended after a look**: planned with seeds 0, 1, 2, then 0 to 4." in text
    assert (
        "With p times the number of looks (2), which accounts for it, these would be inconclusive: `no_flip`." in text
    )


@pytest.mark.parametrize(("planned", "extended"), [(ONCE, None), (TWICE, [[0, 1, 2], [0, 1, 2, 3, 4]])])
def test_json_tells_it_too(store: Store, planned: dict[int, int], extended: list[list[int]] | None) -> None:
    assert json.loads(told(store, planned, {}, "json"))["extended"] == extended


def test_verdicts_that_remain(store: Store) -> None:
    text = told(store, TWICE, {"no_se": 0.05})
    assert "accounts for it, all verdicts of *helps* and *hurts* remain." in text


def test_without_a_verdict_nothing_is_taken_away(store: Store) -> None:
    assert "No arm helps or hurts, so none does so for that reason." in told(store, TWICE, {})


def test_the_number_told_is_the_calibrations() -> None:
    rows = json.loads((REPORTS / "calibration.json").read_text())["extended"]
    found = [row["first_claim"]["rate"] for row in rows if row["law"] == "normal" and not row["correlation"]]
    assert [100 * rate for rate in found] == pytest.approx([EXTENDED] * len(found), abs=0.5)
