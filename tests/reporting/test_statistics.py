"""Every statistic by hand where it is small enough, and against SciPy or statsmodels on random numbers."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower
from statsmodels.stats.proportion import proportion_confint

from harness.reporting import dunnett
from harness.reporting import statistics as s
from harness.reporting.dunnett import critical_value, joint_p, loading

RNG = np.random.default_rng(20)
accuracies = st.lists(st.sampled_from([0.5, 0.9, 0.91, 0.9134, 1.0]), max_size=4)


def draw(*sizes: int, shift: float = 0.0) -> list[list[float]]:
    return [list(RNG.normal(0.9 + shift * i, 0.01, size)) for i, size in enumerate(sizes)]


# --- one arm ---


def test_t_interval_by_hand() -> None:
    summary = s.summarize([1.0, 2.0, 3.0])
    assert (summary.n, summary.mean, summary.sd) == (3, 2.0, 1.0)
    assert summary.interval == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))


@pytest.mark.parametrize("n", [2, 3, 8])
def test_t_interval_is_scipys(n: int) -> None:
    (values,) = draw(n)
    theirs = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert s.summarize(values).interval == pytest.approx((theirs.low, theirs.high))


def test_one_value_none_and_equal_ones_have_no_interval() -> None:
    assert s.summarize([]) == s.Summary(0, reason="no full-length run")
    assert s.summarize([0.9]) == s.Summary(1, 0.9, reason="n = 1: no interval")
    # 0.1 + 0.2 is not 0.3: equal up to rounding must not become a spread of 1e-17.
    assert s.summarize([0.3, 0.1 + 0.2, 0.3]).interval is None


def test_prediction_interval_by_hand() -> None:
    summary = s.summarize([1.0, 2.0, 3.0])
    half = 4.302653 * math.sqrt(1 + 1 / 3)
    assert s.prediction_interval(summary) == pytest.approx((2 - half, 2 + half))
    half = 4.302653 * math.sqrt(1 / 5 + 1 / 3)
    assert s.prediction_interval(summary, runs=5) == pytest.approx((2 - half, 2 + half))
    assert s.prediction_interval(s.summarize([1.0])) is None


@pytest.mark.parametrize("n", [2, 3, 8])
def test_prediction_interval_is_that_of_a_model_of_one_mean(n: int) -> None:
    (values,) = draw(n)
    model = OLS(values, np.ones(n)).fit().get_prediction([[1.0]])
    assert s.prediction_interval(s.summarize(values)) == pytest.approx(tuple(model.conf_int(obs=True)[0]))
    assert s.summarize(values).interval == pytest.approx(tuple(model.conf_int(obs=False)[0]))


def test_two_runs_by_hand() -> None:
    # sd = 0.02 / sqrt(2); t(0.975, 1 df) = 12.706205
    summary = s.summarize([0.70, 0.72])
    assert summary.interval == pytest.approx((0.71 - 12.706205 * 0.01, 0.71 + 12.706205 * 0.01))
    half = 12.706205 * 0.02 / math.sqrt(2) * math.sqrt(1.5)
    assert s.prediction_interval(summary) == pytest.approx((0.71 - half, 0.71 + half))
    # Against 0.73 and 0.75: pooled sd the same, error that sd x sqrt(1/2 + 1/2), t(0.975, 2 df) = 4.302653
    one = s.compare([0.70, 0.72], {"a": [0.73, 0.75]}, None)["a"]
    half = 4.302653 * 0.02 / math.sqrt(2)
    assert one.interval == pytest.approx((0.03 - half, 0.03 + half))
    assert one.welch.p == pytest.approx(stats.ttest_ind([0.73, 0.75], [0.70, 0.72], equal_var=False).pvalue)
    paired = s.pair({0: 0.70, 1: 0.72}, {0: 0.73, 1: 0.79})  # differences 0.03 and 0.07: mean 0.05, error 0.02
    assert paired.interval == pytest.approx((0.05 - 12.706205 * 0.02, 0.05 + 12.706205 * 0.02))
    assert (paired.sign_flip_p, paired.correlation) == (0.5, None)


def test_wilson_interval_of_the_published_run() -> None:
    low, high = s.wilson_interval(0.9367, 10_000)
    assert (round(100 * low, 2), round(100 * high, 2)) == (93.18, 94.13)


@pytest.mark.parametrize(("right", "images"), [(0, 50), (50, 50), (1, 3), (4999, 5000), (9367, 10_000)])
def test_wilson_interval_is_statsmodels(right: int, images: int) -> None:
    assert s.wilson_interval(right / images, images) == pytest.approx(
        proportion_confint(right, images, method="wilson")
    )


def test_wilson_interval_by_hand() -> None:
    # 5 of 10, z^2 = 3.841459: centre 0.5, half width sqrt(z^2/10 (0.25 + z^2/40)) / (1 + z^2/10)
    half = math.sqrt(0.3841459 * (0.25 + 3.841459 / 40)) / 1.3841459
    assert s.wilson_interval(0.5, 10) == pytest.approx((0.5 - half, 0.5 + half))


def test_pooled_spread_by_hand() -> None:
    # squares 2 + 8 over 1 + 2 degrees of freedom; a group of one and an empty one bring none
    sd, df = s.pooled_spread([[1.0, 3.0], [0.0, 2.0, 4.0], [7.0], []]) or (0.0, 0)
    assert (sd, df) == (pytest.approx(math.sqrt(10 / 3)), 3)
    assert s.pooled_spread([[1.0], []]) is None


# --- Dunnett ---


@pytest.mark.parametrize("sizes", [(3,) * 7, (5, 3, 2, 4), (2, 2), (3, 20, 8), (8, 2, 2, 2)])
def test_dunnett_is_scipys(sizes: tuple[int, ...]) -> None:
    base, *arms = draw(*sizes, shift=0.004)
    ours = s.compare(base, {str(i): arm for i, arm in enumerate(arms)}, None)
    theirs = stats.dunnett(*arms, control=base, rng=np.random.default_rng(1))
    interval = theirs.confidence_interval(0.95)
    for i, one in enumerate(ours.values()):
        assert one.interval is not None
        assert one.p == pytest.approx(theirs.pvalue[i], abs=2e-3)
        # SciPy's allowance meets its level to 1 % only.
        assert np.ptp(one.interval) == pytest.approx(interval.high[i] - interval.low[i], rel=6e-3)
        assert one.mean == pytest.approx(np.mean(arms[i]) - np.mean(base))


def test_critical_values_of_dunnetts_table() -> None:
    # Dunnett 1964 (Biometrics 20:482), two-sided 5 %, equal sizes, 10 and infinite degrees of freedom.
    equal = loading(4, 4)
    assert [round(critical_value([equal] * k, 10), 2) for k in (1, 2, 3)] == [2.23, 2.57, 2.76]
    assert [round(critical_value([equal] * k, 100_000), 2) for k in (1, 2, 3)] == [1.96, 2.21, 2.35]


DIGITS = """
from harness.reporting.dunnett import critical_value, joint_p, loading
family = [loading(3, 3)] * 5 + [loading(8, 3)]
print([critical_value(family, 14), *(joint_p(t, family, 14) for t in (0.3, 1.7, 2.9, 5.5))])
"""


def test_every_processor_gives_the_same_digits() -> None:
    """The order of additions is OpenBLAS's choice by processor; a report is compared byte by byte all the same."""
    kernels = ("Haswell", "Sandybridge")  # where there is no such choice, the two runs are equal anyway
    command = [sys.executable, "-c", DIGITS]
    environments = [os.environ | {"OPENBLAS_CORETYPE": kernel} for kernel in kernels]
    told = {subprocess.run(command, env=env, capture_output=True, check=True).stdout for env in environments}
    assert len(told) == 1
    p = joint_p(1.7, [loading(3, 3)] * 6, 14)
    assert (p, critical_value([0.0] * 3, 9)) == (round(p, 12), round(critical_value([0.0] * 3, 9), 9))


def test_one_arm_is_students_t_test() -> None:
    base, arm = [0.90, 0.92, 0.91], [0.93, 0.95]
    one = s.compare(base, {"a": arm}, None)["a"]
    theirs = stats.ttest_ind(arm, base)
    assert one.p == pytest.approx(theirs.pvalue, abs=1e-9)
    assert one.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))


@given(st.lists(st.integers(2, 12), min_size=2, max_size=5), st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_p_and_interval_never_contradict(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    base, *arms = [list(rng.normal(0.9 + 0.01 * rng.random(), 0.01, size)) for size in sizes]
    for one in s.compare(base, {str(i): arm for i, arm in enumerate(arms)}, None).values():
        assert one.interval is not None
        assert one.p is not None
        assert (one.p < 0.05) == (one.interval[0] > 0 or one.interval[1] < 0)
        assert (one.verdict == "inconclusive") == (one.p >= 0.05)


def test_an_arm_without_runs_counts_in_the_family() -> None:
    base, arm, other = draw(3, 3, 3)
    alone = s.compare(base, {"a": arm, "b": other}, None)["a"]
    with_lost = s.compare(base, {"a": arm, "b": other, "lost": []}, None)
    with_one = s.compare(base, {"a": arm, "b": other, "lost": [0.5]}, None)
    assert alone.interval is not None
    assert with_lost["a"].interval is not None
    assert np.ptp(with_lost["a"].interval) > np.ptp(alone.interval)
    assert with_one["a"].interval == with_lost["a"].interval
    assert with_lost["lost"].reason == "the arm has no full-length run"
    assert with_one["lost"].reason == "the arm has n = 1: no interval"
    assert with_one["lost"].mean == pytest.approx(0.5 - np.mean(base))
    assert {with_lost["lost"].verdict, with_one["lost"].verdict} == {"inconclusive"}


@pytest.mark.parametrize("n_lost", [1, 2, 3, 10, 100])
def test_a_lost_arm_is_taken_at_its_worst(n_lost: int) -> None:
    family = [loading(3, 3)] * 3
    worst = critical_value([*family, 0.0], 8)
    assert worst > critical_value([*family, loading(n_lost, 3)], 8)
    assert worst < stats.t.isf(0.05 / 8, 8)  # and still better than Bonferroni


def test_what_cannot_be_compared_says_why() -> None:
    same, one = [0.9, 0.9, 0.9], [0.9]
    assert s.compare([], {"a": same}, 0.01)["a"].reason == "the base has no full-length run"
    assert s.compare(one, {"a": same}, 0.01)["a"].reason == "the base has n = 1: no interval"
    constant = s.compare(same, {"a": [0.8, 0.8]}, 0.01)["a"]
    assert constant.reason == "the runs of each arm are equal: no spread to judge by"
    assert (constant.interval, constant.p, constant.verdict) == (None, None, "inconclusive")
    assert s.compare(same, {}, 0.01) == {}


@given(accuracies, st.lists(accuracies, max_size=3), st.sampled_from([None, 0.002]))
@settings(max_examples=40, deadline=None)
def test_nothing_warns_and_nothing_is_nan(base: list[float], arms: list[list[float]], margin: float | None) -> None:
    for one in s.compare(base, {str(i): arm for i, arm in enumerate(arms)}, margin).values():
        numbers = [one.mean, *(one.interval or ()), one.p, one.welch.p, one.welch.p_holm]
        assert all(math.isfinite(number) for number in numbers if number is not None)
        assert (one.interval is None) == (one.reason is not None) == (one.p is None)
    for arm in arms:
        paired = s.pair(dict(enumerate(base)), dict(enumerate(arm)))
        numbers = [paired.mean, *(paired.interval or ()), paired.t_p, paired.sign_flip_p, paired.correlation]
        assert all(math.isfinite(number) for number in numbers if number is not None)
        assert (paired.interval is None) == (paired.reason is not None)


# --- verdicts ---


@pytest.mark.parametrize(
    ("interval", "margin", "verdict"),
    [
        ((0.001, 0.005), None, "helps"),
        ((-0.005, -0.001), None, "hurts"),
        ((-0.001, 0.005), None, "inconclusive"),
        ((-0.001, 0.0015), None, "inconclusive"),
        ((-0.001, 0.0015), 0.002, "no relevant difference"),
        ((0.0005, 0.0015), 0.002, "no relevant difference"),  # the margin comes before the sign
        ((-0.002, 0.002), 0.002, "no relevant difference"),
        ((0.0005, 0.0025), 0.002, "helps"),
        ((0.0, 0.005), 0.002, "inconclusive"),
        (None, 0.002, "inconclusive"),
    ],
)
def test_verdicts(interval: tuple[float, float] | None, margin: float | None, verdict: str) -> None:
    assert s.verdict_of(interval, margin) == verdict


def test_welch_with_holm_is_scipys_and_statsmodels() -> None:
    base, *arms = draw(4, 3, 5, 3, shift=0.008)
    named = {str(i): arm for i, arm in enumerate(arms)} | {"lost": []}
    ours = s.welch_holm(base, named, None)
    p = [stats.ttest_ind(arm, base, equal_var=False).pvalue for arm in arms]
    assert [ours[str(i)].p for i in range(3)] == pytest.approx(p)
    holm = multipletests([*p, 1.0], method="holm")[1]
    assert [ours[str(i)].p_holm for i in range(3)] == pytest.approx(list(holm[:3]))
    by_hand = sorted(p)
    assert min(holm) == pytest.approx(4 * by_hand[0])
    assert ours["lost"] == s.Welch(None, None, "inconclusive")


@pytest.mark.parametrize(
    "p", [[], [0.03], [0.01, 0.04, 0.03], [0.02, 0.02, 1.0], [0.5, 0.9, 0.6], list(RNG.random(9) / 5)]
)
def test_holm_is_statsmodels(p: list[float]) -> None:
    expected = list(multipletests(p, method="holm")[1]) if p else []
    assert s._holm_adjusted(p) == pytest.approx(expected)


def test_holm_by_hand() -> None:
    # 0.01 x 3; 0.03 x 2, and 0.04 x 1 is not below the one before it
    assert s._holm_adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_welch_interval_is_scipys() -> None:
    base, arm = draw(3, 5)
    found = s.welch_test([(1, arm), (-1, base)], 0.01)
    theirs = stats.ttest_ind(arm, base, equal_var=False).confidence_interval(0.99)
    assert found is not None
    assert found[1] == pytest.approx((theirs.low, theirs.high))


def test_arms_that_tie_with_the_base_or_with_each_other() -> None:
    base = [0.90, 0.91, 0.92]
    found = s.compare(base, {"same": list(base), "turned": base[::-1], "apart": [0.95, 0.96, 0.97]}, 0.05)
    assert (found["same"].mean, found["same"].p) == (0.0, pytest.approx(1.0))
    assert (found["same"].verdict, found["same"].welch.p) == ("no relevant difference", pytest.approx(1.0))
    assert found["turned"].interval == pytest.approx(found["same"].interval)
    assert found["apart"].verdict == "helps"


def test_one_group_without_a_spread_is_judged_by_the_others() -> None:
    base, flat = [0.90, 0.91, 0.92], [0.95, 0.95, 0.95]
    one = s.compare(base, {"flat": flat}, None)["flat"]
    pooled = 0.01 / math.sqrt(2)
    assert one.p == pytest.approx(2 * stats.t.sf(0.04 / (pooled * math.sqrt(2 / 3)), 4), abs=1e-9)
    assert one.welch.p == pytest.approx(stats.ttest_1samp(base, 0.95).pvalue)  # the flat mean is as good as known
    # Two flat groups beside a third that is not: Dunnett has a spread, Welch none, and the verdict is marked.
    two = s.compare([0.9, 0.9], {"flat": [0.95, 0.95], "loose": [0.90, 0.901]}, None)["flat"]
    assert (two.verdict, two.welch.p, two.welch_differs) == ("helps", None, True)


def test_unequal_spreads_are_marked() -> None:
    # The arm differs by little more than its own scatter; six quiet arms make the pooled spread small.
    base = [0.900, 0.901, 0.899]
    quiet = {f"quiet{i}": [0.9005, 0.8995, 0.9] for i in range(6)}
    loud = s.compare(base, quiet | {"loud": [0.93, 0.95, 0.91]}, None)["loud"]
    assert (loud.verdict, loud.welch.verdict, loud.welch_differs) == ("helps", "inconclusive", True)
    clear = s.compare(base, {"a": [0.950, 0.951, 0.949]}, None)["a"]
    assert (clear.verdict, clear.welch.verdict, clear.welch_differs) == ("helps", "helps", False)


def test_welch_knows_the_margin_too() -> None:
    base, arm = [0.9000, 0.9001, 0.9002] * 3, [0.9001, 0.9000, 0.9002] * 3
    assert s.welch_holm(base, {"a": arm}, 0.002)["a"].verdict == "no relevant difference"


# --- pairs ---


def test_pairs_are_scipys() -> None:
    base, arm = draw(6, 6, shift=0.01)
    paired = s.pair(dict(enumerate(base)), dict(enumerate(arm)))
    theirs = stats.ttest_rel(arm, base)
    interval = theirs.confidence_interval(0.95)
    assert (paired.n, paired.t_p) == (6, pytest.approx(theirs.pvalue))
    assert paired.interval == pytest.approx((interval.low, interval.high))
    assert paired.correlation == pytest.approx(stats.pearsonr(base, arm).statistic)


def test_only_seeds_that_both_have_are_paired() -> None:
    paired = s.pair({0: 0.5, 1: 0.6, 2: 0.7, 9: 0.1}, {1: 0.7, 2: 0.9, 3: 0.0})
    assert (paired.n, paired.mean) == (2, pytest.approx(0.15))
    assert paired.correlation is None  # of two points it would always be 1
    assert s.pair({0: 0.5}, {1: 0.5}) == s.Paired(0, reason="no seed in common")
    assert s.pair({0: 0.5}, {0: 0.6}).reason == "n = 1: no interval"
    assert s.pair({0: 0.5, 1: 0.6}, {0: 0.6, 1: 0.7}).reason == "all differences equal: no interval"


def test_sign_flips_by_hand() -> None:
    assert s.sign_flip_p([1.0, 2.0, 3.0]) == 2 / 8  # only +++ and --- reach 6
    assert s.sign_flip_p([1.0, 2.0, -3.0]) == 1.0  # the sum is 0: every pattern reaches it
    assert s.sign_flip_p([1.0, 1.0, -1.0]) == 1.0  # every sum is 1 or 3
    assert s.sign_flip_p([0.1, 0.2, -0.3 + 1e-17]) == 1.0  # a tie up to rounding
    assert s.sign_flip_p([0.4]) == 1.0
    assert s.sign_flip_p([]) is None


@pytest.mark.parametrize("n", [2, 5, 9])
def test_sign_flips_counted_out(n: int) -> None:
    values = RNG.normal(0.3, 1, n)
    sums = [abs(np.dot(signs, values)) for signs in itertools.product((-1, 1), repeat=n)]
    assert s.sign_flip_p(list(values)) == pytest.approx(np.mean(np.array(sums) >= abs(values.sum()) - 1e-12))
    theirs = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert s.sign_flip_p(list(values)) == pytest.approx(theirs.pvalue)


def test_many_pairs_are_drawn_and_repeat() -> None:
    values = list(RNG.normal(0.2, 1, s.EXACT_FLIPS))
    exact = s.sign_flip_p(values)
    assert exact == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)
    more = [*values, 0.0]  # which changes no sum
    assert s.sign_flip_p(more) == s.sign_flip_p(more) == pytest.approx(exact, abs=0.006)


def test_smallest_sign_flip_p() -> None:
    assert [s.smallest_sign_flip_p(k) for k in (0, 1, 2, 3, 5)] == [1.0, 1.0, 0.5, 0.25, 0.0625]


# --- planning ---


def test_power_is_what_a_simulation_gives() -> None:
    n, arms, trials = 3, 6, 40_000
    rng = np.random.default_rng(3)
    values = rng.normal(0, 0.18, (trials, arms + 1, n))
    values[:, 1] += 0.5
    sd = np.sqrt(values.var(-1, ddof=1).mean(-1))
    t = (values[:, 1].mean(-1) - values[:, 0].mean(-1)) / (sd * math.sqrt(2 / n))
    found = np.mean(np.abs(t) > critical_value([loading(n, n)] * arms, (arms + 1) * (n - 1)))
    assert s.power(n, arms, 0.18, 0.5) == pytest.approx(found, abs=0.01)
    assert s.power(n, arms, 0.18, 0.5) > 0.6


def test_power_for_one_arm_is_the_noncentral_t() -> None:
    critical, shift = stats.t.isf(0.025, 8), 0.03 / (0.02 * math.sqrt(2 / 5))
    theirs = stats.nct.sf(critical, 8, shift) + stats.nct.cdf(-critical, 8, shift)
    assert s.power(5, 1, 0.02, 0.03) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize(("n", "arms"), [(2, 1), (3, 6), (8, 2), (30, 40)])
def test_detectable_difference_has_the_power_it_promises(n: int, arms: int) -> None:
    difference = s.detectable_difference(n, arms, 0.004)
    assert difference is not None
    assert s.power(n, arms, 0.004, difference) == pytest.approx(0.8)
    assert s.detectable_difference(n, arms, 0.004, power=0.9) > difference  # type: ignore[operator]


@pytest.mark.parametrize("n", [2, 3, 8])
def test_detectable_difference_of_one_arm_is_statsmodels(n: int) -> None:
    theirs = TTestIndPower().solve_power(nobs1=n, alpha=0.05, power=0.8)
    assert s.detectable_difference(n, 1, 0.004) == pytest.approx(0.004 * theirs, rel=1e-5)


def test_detectable_difference_is_in_the_unit_of_the_spread() -> None:
    assert s.detectable_difference(3, 6, 0.18) == pytest.approx(100 * s.detectable_difference(3, 6, 0.0018))  # type: ignore[operator]


def test_one_seed_detects_nothing() -> None:
    assert s.detectable_difference(1, 3, 0.01) is None
    assert s.detectable_difference(3, 0, 0.01) is None
    assert s.detectable_difference(3, 3, 0.0) is None


def test_the_critical_value_of_a_family_is_found_once() -> None:
    base, *arms = draw(*[25] * 40)
    dunnett._critical_value.cache_clear()
    s.compare(base, {str(i): arm for i, arm in enumerate(arms)}, None)
    assert dunnett._critical_value.cache_info().misses == 1


def test_forty_arms_take_no_time() -> None:
    # One distinct loading, however many arms: joint_p must not pay for each of them.
    family = [loading(25, 25)] * 40
    assert joint_p(critical_value(family, 984), family, 984) == pytest.approx(0.05, abs=1e-8)
