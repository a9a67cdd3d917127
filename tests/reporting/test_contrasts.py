"""Ladders, interactions and grids: by hand, against statsmodels and SciPy, and found in studies."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.multitest import multipletests

from harness.reporting import build, render
from harness.reporting.contrasts import Contrast, contrasts
from harness.reporting.dunnett import critical_value, joint_p
from harness.reporting.factors import Factorial, Grid, structure_of
from harness.reporting.statistics import Paired, welch_test
from harness.spec.ablation import Study, load_study
from harness.tracking.store import Store
from tests.conftest import TINY
from tests.reporting.synthetic import add, fill, make_record, make_study

INTERACTION = {"both": 1, "first": -1, "second": -1, "neither": 1}
SE, CUTMIX, CLIP, FLIP = {"model.se": False}, {"augment.cutmix": None}, {"optim.clip": None}, {"augment.flip": False}


def by_seed(**values: list[float]) -> dict[str, dict[int, float]]:
    return {arm: dict(enumerate(numbers)) for arm, numbers in values.items()}


# --- by hand ---


def test_an_interaction_by_hand() -> None:
    arms = by_seed(neither=[0.70, 0.72], first=[0.74, 0.76], second=[0.73, 0.75], both=[0.80, 0.82])
    (found,) = contrasts(arms, [INTERACTION], 0.002)
    # 0.81 - 0.75 - 0.74 + 0.71; each sd is 0.01 sqrt(2), so s = that with 4 df, and the error s sqrt(4/2) = 0.02
    half = 2.776445 * 0.02
    assert found.mean == pytest.approx(0.03)
    assert found.interval == pytest.approx((0.03 - half, 0.03 + half))
    assert found.p == pytest.approx(2 * stats.t.sf(1.5, 4), abs=1e-9)
    assert (found.verdict, found.n) == ("inconclusive", {"both": 2, "first": 2, "second": 2, "neither": 2})
    assert (found.paired.n, found.paired.mean) == (2, pytest.approx(0.03))
    assert found.paired.reason == "all differences equal: no interval"


def test_steps_add_up_to_the_difference_to_the_base() -> None:
    arms = by_seed(base=[0.70, 0.72], a=[0.74, 0.75], b=[0.73, 0.77], c=[0.80, 0.81])
    steps = contrasts(arms, [{"a": 1, "base": -1}, {"b": 1, "a": -1}, {"c": 1, "b": -1}], None)
    assert sum(step.mean or 0 for step in steps) == pytest.approx(0.805 - 0.71)
    assert len({round(float(np.ptp(step.interval or ())), 12) for step in steps}) == 1  # one spread, one level, n equal


# --- against libraries ---


def test_one_interaction_is_that_of_a_linear_model() -> None:
    rng = np.random.default_rng(4)
    cells = {"neither": (0, 0), "first": (1, 0), "second": (0, 1), "both": (1, 1)}
    sizes = {"neither": 5, "first": 3, "second": 4, "both": 2}
    arms = {arm: dict(enumerate(rng.normal(0.9, 0.01, sizes[arm]))) for arm in cells}
    rows = [(*cells[arm], value) for arm, values in arms.items() for value in values.values()]
    model = ols("y ~ a * b", pd.DataFrame(rows, columns=["a", "b", "y"])).fit()
    (found,) = contrasts(arms, [INTERACTION], None)
    assert found.mean == pytest.approx(model.params["a:b"])
    assert found.interval == pytest.approx(tuple(model.conf_int().loc["a:b"]))
    assert found.p == pytest.approx(model.pvalues["a:b"], abs=1e-9)


def test_the_level_is_that_of_independent_contrasts() -> None:
    # P(max |t_i| > c), three independent means over one spread with 8 df: drawn, and never below a ladder's own.
    rng = np.random.default_rng(5)
    z, s = rng.normal(size=(400_000, 3)), np.sqrt(rng.chisquare(8, 400_000) / 8)
    c = critical_value([0.0] * 3, 8)
    assert np.mean(np.abs(z).max(1) / s > c) == pytest.approx(0.05, abs=0.0015)
    ladder = np.eye(3) - 0.5 * np.eye(3, k=1) - 0.5 * np.eye(3, k=-1)
    theirs = stats.multivariate_t(shape=ladder, df=8, seed=1)
    inside = theirs.cdf(np.full(3, c), lower_limit=np.full(3, -c), random_state=np.random.default_rng(1))
    assert 0.04 < 1 - inside < 0.05


def test_the_steps_p_values_are_the_familys() -> None:
    rng = np.random.default_rng(6)
    arms = {arm: dict(enumerate(rng.normal(0.9, 0.01, 4))) for arm in "abcd"}
    family = [{"b": 1, "a": -1}, {"c": 1, "b": -1}, {"d": 1, "c": -1}]
    sd = math.sqrt(np.mean([np.var(list(values.values()), ddof=1) for values in arms.values()]))
    for (arm, before), one in zip(("ba", "cb", "dc"), contrasts(arms, family, None), strict=True):
        difference = np.mean(list(arms[arm].values())) - np.mean(list(arms[before].values()))
        t = difference / (sd * math.sqrt(2 / 4))
        assert one.p == pytest.approx(joint_p(t, [0.0] * 3, 12))
        assert one.p >= 2 * stats.t.sf(abs(t), 12)
        assert one.p <= 3 * 2 * stats.t.sf(abs(t), 12)
        assert one.interval is not None
        assert (one.p < 0.05) == (one.interval[0] > 0 or one.interval[1] < 0)


def test_welch_of_an_interaction_is_scipys_on_pairs_of_arms_of_two() -> None:
    # With weights 1 and -1 it is Welch's test; Holm is over the family, one without a number included.
    rng = np.random.default_rng(7)
    arms = {arm: dict(enumerate(rng.normal(0.9, 0.01 * (1 + i), 4))) for i, arm in enumerate("abc")} | {"d": {0: 0.9}}
    values = {arm: list(numbers.values()) for arm, numbers in arms.items()}
    found = contrasts(arms, [{"b": 1, "a": -1}, {"c": 1, "b": -1}, {"d": 1, "c": -1}], None)
    p = [stats.ttest_ind(values[x], values[y], equal_var=False).pvalue for x, y in ("ba", "cb")]
    assert [one.welch.p for one in found] == [pytest.approx(p[0]), pytest.approx(p[1]), None]
    assert [one.welch.p_holm for one in found[:2]] == pytest.approx(
        list(multipletests([*p, 1.0], method="holm")[1][:2])
    )


def test_four_spreads_have_satterthwaites_degrees_of_freedom() -> None:
    arms = {arm: dict(enumerate(values)) for arm, values in zip(
        ("neither", "first", "second", "both"),
        ([0.70, 0.72, 0.71], [0.74, 0.80, 0.75], [0.73, 0.75], [0.80, 0.82, 0.79, 0.80]), strict=True,
    )}  # fmt: skip
    variances = {arm: np.var(list(v.values()), ddof=1) / len(v) for arm, v in arms.items()}
    total = sum(variances.values())
    df = total**2 / sum(variances[arm] ** 2 / (len(v) - 1) for arm, v in arms.items())
    (found,) = contrasts(arms, [INTERACTION], None)
    assert found.welch.p == pytest.approx(2 * stats.t.sf(abs(found.mean or 0) / math.sqrt(total), df))


def test_welchs_margin_is_the_familys_too() -> None:
    arms = by_seed(a=[0.9000, 0.9010, 0.9005, 0.8995], b=[0.9004, 0.9013, 0.9008, 0.8999])
    weights = {"b": 1, "a": -1}
    low, high = welch_test([(1, list(arms["b"].values())), (-1, list(arms["a"].values()))], 0.05)[1]  # type: ignore[index]
    margin = 1.2 * max(-low, high)  # wide enough for one contrast, not for one of six
    assert contrasts(arms, [weights], margin)[0].welch.verdict == "no relevant difference"
    assert contrasts(arms, 6 * [weights], margin)[0].welch.verdict == "inconclusive"


# --- what can't be said ---


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ([], "first has no full-length run"),
        ([0.9], "first has n = 1: no interval"),
        ([0.9, 0.9], "the runs of each arm are equal: no spread to judge by"),
    ],
)
def test_without_an_interval_it_says_why(first: list[float], reason: str) -> None:
    arms = by_seed(neither=[0.7, 0.7], first=first, second=[0.8, 0.8], both=[0.9, 0.9])
    (found,) = contrasts(arms, [INTERACTION], 0.002)
    assert (found.interval, found.p, found.verdict, found.reason) == (None, None, "inconclusive", reason)
    assert (found.mean is None) == (not first)
    assert found.welch.verdict == "inconclusive"
    assert found.paired.n == min(len(first), 2)
    if not first:
        assert found.paired == Paired(0, reason="no seed in common")


def test_a_lost_arm_counts_in_the_family() -> None:
    arms = by_seed(base=[0.70, 0.72, 0.71], a=[0.74, 0.75, 0.74], b=[])
    alone = contrasts(arms, [{"a": 1, "base": -1}], None)[0]
    beside = contrasts(arms, [{"a": 1, "base": -1}, {"b": 1, "a": -1}], None)[0]
    assert np.ptp(beside.interval or ()) > np.ptp(alone.interval or ())
    assert contrasts(arms, [], None) == ()


def test_unequal_spreads_are_marked() -> None:
    quiet = {f"q{i}": [0.9005, 0.8995, 0.9] for i in range(6)}
    arms = by_seed(base=[0.900, 0.901, 0.899], loud=[0.93, 0.95, 0.91], **quiet)
    (found,) = contrasts(arms, [{"loud": 1, "base": -1}], None)
    assert (found.verdict, found.welch.verdict, found.welch_differs) == ("helps", "inconclusive", True)


# --- how arms hang together ---


def structure(arms: dict[str, dict[str, Any]]) -> tuple[Any, Any, Any]:
    found = structure_of(make_study(arms))
    return found.ladders, found.factorials, found.grids


def test_one_factor_at_a_time_has_no_structure() -> None:
    assert structure({"no_se": SE, "no_cutmix": CUTMIX}) == ((), (), ())
    assert structure({}) == ((), (), ())


def test_a_ladder() -> None:
    arms = {"no_flip": FLIP, "a": SE, "b": SE | CUTMIX, "c": SE | CUTMIX | CLIP, "no_crop": {"augment.crop": None}}
    assert structure(arms) == ((("small", "a", "b", "c"),), (), ())


def loaded(folder: Path, arms: str) -> Study:
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "study.yaml").write_text(f"name: study\nbase: tiny.yaml\n{arms}\n")
    return load_study(folder / "study.yaml")


def test_a_ladder_of_the_file_is_one_whatever_its_steps_were_merged_with(tmp_path: Path) -> None:
    arms = """
leave_one_out: {nesterov: {optim.optimizer.nesterov: true}, flip: {augment.flip: true}}
ladder:
  - first: {optim.optimizer.nesterov: true}
  - same: {optim.optimizer.nesterov: true}
  - second: {augment.flip: true}
  - third: {optim.optimizer.nesterov: false}
"""
    study = loaded(tmp_path, arms)
    found = structure_of(study)
    (ladder,) = found.ladders
    assert ladder[:2] == ("tiny", "no_nesterov")  # its first step, merged; the second changes nothing
    assert [dict(arm.overrides) for arm in study.arms if arm.name == ladder[2]] == [
        {"optim.optimizer.nesterov": True, "augment.flip": True}
    ]
    assert ladder[3:] == ("no_flip",)  # the last step takes the first back
    assert len(found.factorials) == 1  # the same arms are a 2 x 2 as well
    assert structure_of(loaded(tmp_path, "ladder: [first: {optim.optimizer.nesterov: true}]")).ladders == ()


def test_a_two_by_two_written_by_hand_is_an_interaction_and_no_grid_besides() -> None:
    found = structure({"a": SE, "b": CUTMIX, "ab": SE | CUTMIX, "no_flip": FLIP})
    assert found == ((), (Factorial("small", "a", "b", "ab"),), ())


def test_values_of_a_grid_are_as_they_are_written() -> None:
    arms = {"a": SE, "b": CUTMIX, "ab": SE | CUTMIX, "c": {"augment.cutmix": {"alpha": 0.5}}}
    _, factorials, (grid,) = structure(arms)
    assert factorials == (Factorial("small", "a", "b", "ab"),)
    assert (grid.rows, grid.columns) == ("model.se", "augment.cutmix")
    assert grid.cells == (("small", "b", "c"), ("a", "ab", None))
    assert (grid.row_values[1], grid.column_values[1:], grid.fixed) == (False, (None, {"alpha": 0.5}), {})


def test_changes_of_several_fields_have_an_interaction_too() -> None:
    two = FLIP | {"augment.crop": None}
    assert structure({"a": two, "b": SE, "ab": two | SE}) == ((), (Factorial("small", "a", "b", "ab"),), ())


def test_of_three_changes_the_interactions_are_of_two_at_a_time() -> None:
    arms = {"a": SE, "b": CUTMIX, "c": CLIP, "ab": SE | CUTMIX, "ac": SE | CLIP, "bc": CUTMIX | CLIP}
    _, factorials, _ = structure(arms | {"abc": SE | CUTMIX | CLIP})
    assert {(one.neither, one.first, one.second, one.both) for one in factorials} == {
        ("small", "a", "b", "ab"),
        ("small", "a", "c", "ac"),
        ("small", "b", "c", "bc"),
    }


def grid_of(widths: tuple[int, ...], dropouts: tuple[float, ...], **more: Any) -> dict[str, dict[str, Any]]:
    return {f"w{w}_d{d}": {"model.width": w, "model.dropout": d, **more} for w in widths for d in dropouts}


def test_a_grid_with_the_base_in_it() -> None:
    arms = grid_of((64, 16, 32), (0.1, 0.0))
    del arms["w16_d0.0"]  # equal to the base
    ladders, factorials, grids = structure(arms)
    assert grids == (
        Grid(
            "model.width",
            "model.dropout",
            (16, 32, 64),
            (0.0, 0.1),
            (("small", "w16_d0.1"), ("w32_d0.0", "w32_d0.1"), ("w64_d0.0", "w64_d0.1")),
            {},
        ),
    )
    assert ladders == ()
    assert {one.both for one in factorials} == {"w32_d0.1", "w64_d0.1"}
    assert {one.neither for one in factorials} == {"small"}


def test_a_grid_beside_the_base_and_one_with_a_hole() -> None:
    _, factorials, grids = structure(grid_of((32, 64), (0.1, 0.2)))
    assert grids == ()  # its interaction says it
    assert factorials == (Factorial("w32_d0.1", "w64_d0.1", "w32_d0.2", "w64_d0.2"),)
    _, _, (grid,) = structure(grid_of((32, 64, 128), (0.1, 0.2)))
    assert grid.cells == (("w32_d0.1", "w32_d0.2"), ("w64_d0.1", "w64_d0.2"), ("w128_d0.1", "w128_d0.2"))
    arms = grid_of((32, 64), (0.1, 0.2, 0.3))
    del arms["w64_d0.2"]
    _, factorials, (grid,) = structure(arms)
    assert grid.cells == (("w32_d0.1", "w32_d0.2", "w32_d0.3"), ("w64_d0.1", None, "w64_d0.3"))
    assert [one.both for one in factorials] == ["w64_d0.3"]


def test_a_third_field_gives_a_matrix_for_each_of_its_values() -> None:
    arms = grid_of((32, 64), (0.1, 0.2)) | {
        f"{name}_lr": overrides
        for name, overrides in grid_of((32, 64), (0.1, 0.2), **{"optim.optimizer.lr": 0.2}).items()
    }
    _, factorials, grids = structure(arms)
    assert [one.both for one in factorials] == ["w64_d0.2"]
    assert [grid.fixed for grid in grids] == [{"optim.optimizer.lr": 0.2}]  # the other is that factorial
    assert grids[0].cells[1] == ("w64_d0.1_lr", "w64_d0.2_lr")


# --- in the report ---


def test_the_values_of_a_grid_are_no_markup(store: Store) -> None:
    report = build(make_study(grid_of((32, 64, 128), (0.1, 0.2))), store)
    odd = replace(report.grids[0], row_values=("_a_", "b", "c"), column_values=("*x* <y>", "__z__"))
    page = render(replace(report, grids=(odd,)), "html")
    heads = '<th class="number"><code>*x* &lt;y&gt;</code></th><th class="number"><code>__z__</code></th>'
    assert heads in page
    assert "<td><code>_a_</code></td>" in page


def test_the_report_holds_interactions_ladders_and_grids(store: Store) -> None:
    mild = {"augment.cutmix": {"alpha": 0.5}}
    arms = {"a": SE, "b": CUTMIX, "ab": SE | CUTMIX, "m": mild, "c": CLIP, "cd": CLIP | FLIP}
    study = make_study(arms, margin=0.02)
    near = [0.700, 0.701, 0.702]
    values = {"small": 0.0, "a": 0.05, "b": 0.03, "ab": 0.02, "m": 0.01, "c": 0.0, "cd": 0.06}
    fill(store, study, {arm: [round(x + more, 4) for x in near] for arm, more in values.items()})
    report = build(study, store)
    (interaction,) = report.interactions
    assert interaction.contrast.mean == pytest.approx(0.02 - 0.05 - 0.03)
    assert interaction.says == "less together"
    (ladder,) = report.ladders
    assert [(step.before, step.arm, step.contrast.verdict) for step in ladder.steps] == [
        ("small", "c", "no relevant difference"),
        ("c", "cd", "helps"),
    ]
    assert len(report.grids) == 1
    document = json.loads(render(report, "json"))
    assert document["interactions"][0]["verdict"] == "less together"
    assert document["interactions"][0]["both"] == "ab"
    assert document["ladders"][0][1]["mean"] == ladder.steps[1].contrast.mean
    assert document["grids"][0]["cells"] == [["small", "b", "m"], ["a", "ab", None]]


def test_an_arm_on_other_images_is_in_no_contrast(store: Store) -> None:
    study = make_study({"a": {"data.protocol": "holdout"}, "ab": {"data.protocol": "holdout"} | SE}, seeds=(0, 1))
    for arm in study.arms:
        for seed in study.seeds:
            add(store, make_record(study, arm, seed, 0.7 + 0.01 * seed))
    (ladder,) = build(study, store).ladders
    assert {step.contrast.reason for step in ladder.steps} == {"measured on other images than the base"}


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        ("helps", "more together"),
        ("hurts", "less together"),
        ("no relevant difference", "additive"),
        ("inconclusive", "inconclusive"),
    ],
)
def test_the_words_of_an_interaction(verdict: Any, says: str) -> None:
    from harness.reporting.model import Interaction
    from harness.reporting.statistics import Welch

    contrast = Contrast({}, {}, None, None, None, verdict, Welch(None, None, "inconclusive"), Paired(0))
    assert Interaction(Factorial("a", "b", "c", "d"), contrast).says == says
