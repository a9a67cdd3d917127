"""What the numbers of a study show: pure functions over plain lists of numbers, one value a run.

Nothing here warns or gives NaN: what can't be said is None, and where that needs a word there is a
`reason`. Intervals are 95 % and stand as (low, high); differences are arm minus base.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import correlation
from typing import Literal

import numpy as np
import scipy  # its parts are loaded when first used

from harness.reporting.dunnett import ALPHA, critical_value, detectable_difference, joint_p, loading, power

__all__ = [
    "ALPHA",
    "Comparison",
    "Paired",
    "Summary",
    "Verdict",
    "Welch",
    "compare",
    "detectable_difference",
    "holm",
    "pair",
    "paired",
    "pooled_spread",
    "power",
    "prediction_interval",
    "sign_flip_p",
    "smallest_sign_flip_p",
    "summarize",
    "verdict_of",
    "weighted_mean",
    "welch_holm",
    "welch_test",
    "wilson_interval",
]

Interval = tuple[float, float]
Verdict = Literal["helps", "hurts", "no relevant difference", "inconclusive"]

NO_SPREAD = 1e-12
"""A deviation this small is rounding: accuracies are multiples of one image in at most 1e7."""
EXACT_FLIPS, DRAWN_FLIPS = 36, 100_000
"""Up to so many pairs all sign patterns are counted; above, so many are drawn from a fixed generator."""


@dataclass(frozen=True)
class Summary:
    """n values: mean, standard deviation (n - 1) and t-interval of the mean, each None where it has no meaning."""

    n: int
    mean: float | None = None
    sd: float | None = None
    interval: Interval | None = None
    reason: str | None = None
    """Why there is no interval."""


@dataclass(frozen=True)
class Welch:
    """Welch's t-test, Holm-adjusted over the planned arms; it does not assume equal spreads."""

    p: float | None
    """Unadjusted."""
    p_holm: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Paired:
    """Differences to the base at the same seed: sensitivity, not the verdict."""

    n: int
    """Seeds that both have."""
    mean: float | None = None
    interval: Interval | None = None
    t_p: float | None = None
    sign_flip_p: float | None = None
    correlation: float | None = None
    """Pearson's, between arm and base over seeds; None below 3 seeds (with 2 it is always +-1)."""
    reason: str | None = None
    """Why there is no interval."""


@dataclass(frozen=True)
class Comparison:
    """One arm against the base: Dunnett's simultaneous interval, its p from the same procedure, the verdict."""

    mean: float | None
    interval: Interval | None
    p: float | None
    verdict: Verdict
    welch: Welch
    reason: str | None = None
    """Why there is no interval."""

    @property
    def welch_differs(self) -> bool:
        """Without the assumption of equal spreads the verdict would be another."""
        return self.interval is not None and self.welch.verdict != self.verdict


# --- one arm ------------------------------------------------------------------------------------


def summarize(values: Sequence[float]) -> Summary:
    """Mean with its t-interval; n = 0, n = 1 and equal values have none, and `reason` says so."""
    n = len(values)
    if n == 0:
        return Summary(0, reason="no full-length run")
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(1, mean, reason="n = 1: no interval")
    sd = _sd(values)
    if sd == 0:
        return Summary(n, mean, 0.0, reason="all runs equal: no interval")
    half = float(scipy.stats.t.isf(ALPHA / 2, n - 1)) * sd / math.sqrt(n)
    return Summary(n, mean, sd, (mean - half, mean + half))


def prediction_interval(summary: Summary, runs: int = 1) -> Interval | None:
    """Where the mean of `runs` further runs of this arm would lie: mean +- t s sqrt(1/runs + 1/n)."""
    if summary.interval is None or summary.mean is None or summary.sd is None:
        return None
    half = float(scipy.stats.t.isf(ALPHA / 2, summary.n - 1)) * summary.sd * math.sqrt(1 / runs + 1 / summary.n)
    return summary.mean - half, summary.mean + half


def wilson_interval(accuracy: float, images: int) -> Interval:
    """Binomial interval of an accuracy (fraction) measured on `images` images (Wilson 1927)."""
    found = scipy.stats.binomtest(round(accuracy * images), images).proportion_ci(1 - ALPHA, method="wilson")
    return float(found.low), float(found.high)


def pooled_spread(groups: Sequence[Sequence[float]]) -> tuple[float, int] | None:
    """Standard deviation within groups and its degrees of freedom; None where no group has two values."""
    df = sum(len(group) - 1 for group in groups if group)
    if df < 1:
        return None
    squares = sum((len(group) - 1) * _sd(group) ** 2 for group in groups if len(group) > 1)
    return math.sqrt(squares / df), df


def _sd(values: Sequence[float]) -> float:
    """Sample standard deviation; exactly 0 where the values differ by rounding alone.

    By exact sums, so that a report has the same digits on every processor.
    """
    if max(values) - min(values) <= NO_SPREAD:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


# --- arms against the base ----------------------------------------------------------------------


def verdict_of(interval: Interval | None, margin: float | None) -> Verdict:
    """What a simultaneous interval of a difference shows.

    The margin comes first: an interval within +-margin is "no relevant difference" even if it excludes 0,
    for it shows exactly that the difference, whatever its sign, is one the study's author does not mind.
    """
    if interval is None:
        return "inconclusive"
    low, high = interval
    if margin is not None and -margin <= low and high <= margin:
        return "no relevant difference"
    if low > 0:
        return "helps"
    return "hurts" if high < 0 else "inconclusive"


def compare(base: Sequence[float], arms: Mapping[str, Sequence[float]], margin: float | None) -> dict[str, Comparison]:
    """Dunnett over all planned `arms` (name -> values, [] for an arm without a run to count) against the base.

    An arm with one run or none gets no interval but counts in the family (see `dunnett`), so
    that losing an arm never makes the others significant. The p is the procedure's own: it is below 0.05
    exactly where the interval excludes 0.
    """
    beside = welch_holm(base, arms, margin)
    usable = {name: values for name, values in arms.items() if len(base) >= 2 and len(values) >= 2}
    spread = pooled_spread([base, *usable.values()])
    loadings = [loading(len(arms[name]), len(base)) if name in usable else 0.0 for name in arms]
    comparisons = {}
    for name, values in arms.items():
        mean = _mean_difference(values, base)
        reason = _no_comparison(len(base), len(values), spread)
        if reason or mean is None or spread is None:
            comparisons[name] = Comparison(mean, None, None, "inconclusive", beside[name], reason)
            continue
        sd, df = spread
        error = sd * math.sqrt(1 / len(values) + 1 / len(base))
        half = critical_value(loadings, df) * error
        interval = (mean - half, mean + half)
        p = joint_p(mean / error, loadings, df)
        comparisons[name] = Comparison(mean, interval, p, verdict_of(interval, margin), beside[name])
    return comparisons


def _mean_difference(values: Sequence[float], base: Sequence[float]) -> float | None:
    return weighted_mean([(1, values), (-1, base)]) if values and base else None


def weighted_mean(groups: Sequence[tuple[float, Sequence[float]]]) -> float:
    """The sum of weight x mean over groups, none of them empty."""
    return math.fsum(weight * (math.fsum(values) / len(values)) for weight, values in groups)


def _no_comparison(n_base: int, n_arm: int, spread: tuple[float, int] | None) -> str | None:
    """Why an arm can't be compared, or None when it can."""
    for n, who in ((n_base, "the base"), (n_arm, "the arm")):
        if n < 2:
            return f"{who} has no full-length run" if n == 0 else f"{who} has n = 1: no interval"
    if spread is None or spread[0] == 0:
        return "the runs of each arm are equal: no spread to judge by"
    return None


def welch_holm(base: Sequence[float], arms: Mapping[str, Sequence[float]], margin: float | None) -> dict[str, Welch]:
    """Welch's test of each arm, Holm over all planned arms (one that can't be tested counts with p = 1).

    *helps* and *hurts* by Holm's p; "no relevant difference" where Welch's interval at level
    1 - 0.05/arms (Bonferroni: Holm has no simple intervals) lies within the margin.
    """
    tests = {name: welch_test([(1, values), (-1, base)], ALPHA / len(arms)) for name, values in arms.items()}
    return holm(tests, margin)


def holm(tests: Mapping[str, tuple[float, Interval] | None], margin: float | None) -> dict[str, Welch]:
    """Verdicts of tests (p and interval; None: can't be tested, counts with p = 1) by Holm's p over all of them."""
    adjusted = _holm_adjusted([test[0] if test else 1.0 for test in tests.values()])
    results = {}
    for (name, test), p_holm in zip(tests.items(), adjusted, strict=True):
        if test is None:
            results[name] = Welch(None, None, "inconclusive")
            continue
        p, interval = test
        verdict = verdict_of(interval, margin)
        if verdict != "no relevant difference":
            better: Verdict = "helps" if sum(interval) > 0 else "hurts"
            verdict = better if p_holm < ALPHA else "inconclusive"
        results[name] = Welch(p, float(p_holm), verdict)
    return results


def _holm_adjusted(p: Sequence[float]) -> list[float]:
    """Holm's p values (1979, Scandinavian Journal of Statistics 6:65): the i-th smallest times those not below it.

    Not statsmodels', against which it is tested: importing that takes half a second, and each call collects
    garbage, a tenth of a second beside the journals of a large study.
    """
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)), 1.0)
    return [float(one) for one in adjusted]


def welch_test(groups: Sequence[tuple[float, Sequence[float]]], alpha: float) -> tuple[float, Interval] | None:
    """Two-sided p and interval at level 1 - alpha of a weighted sum of means, each group (weight, values) with a
    spread of its own (Welch 1947, Satterthwaite 1946). None where a group has n < 2 or none has a spread.
    """
    if any(len(values) < 2 for _, values in groups) or all(_sd(values) == 0 for _, values in groups):
        return None
    parts = [weight**2 * _sd(values) ** 2 / len(values) for weight, values in groups]
    variance = sum(parts)
    df = variance**2 / sum(part**2 / (len(values) - 1) for part, (_, values) in zip(parts, groups, strict=True))
    mean = weighted_mean(groups)
    half = float(scipy.stats.t.isf(alpha / 2, df)) * math.sqrt(variance)
    return 2 * float(scipy.stats.t.sf(abs(mean) / math.sqrt(variance), df)), (mean - half, mean + half)


# --- at the same seed ---------------------------------------------------------------------------


def pair(base: Mapping[int, float], arm: Mapping[int, float]) -> Paired:
    """Paired comparison over the seeds that both have (seed -> value)."""
    seeds = sorted(base.keys() & arm.keys())
    between = _correlation([base[seed] for seed in seeds], [arm[seed] for seed in seeds])
    return paired([arm[seed] - base[seed] for seed in seeds], between)


def paired(differences: Sequence[float], between: float | None = None) -> Paired:
    """What differences, one a seed, show; `between`: the correlation of what they are differences of."""
    if not differences:
        return Paired(0, reason="no seed in common")
    summary = summarize(differences)
    t_p = None
    if summary.interval and summary.mean is not None and summary.sd:
        t = summary.mean / (summary.sd / math.sqrt(summary.n))
        t_p = 2 * float(scipy.stats.t.sf(abs(t), summary.n - 1))
    reason = "all differences equal: no interval" if summary.sd == 0 else summary.reason
    return Paired(summary.n, summary.mean, summary.interval, t_p, sign_flip_p(differences), between, reason)


def _correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    if len(first) < 3 or _sd(first) == 0 or _sd(second) == 0:
        return None
    return max(-1.0, min(1.0, correlation(first, second)))


def smallest_sign_flip_p(n_seeds: int) -> float:
    """The smallest p that a sign-flip test over `n_seeds` pairs can give: 2/2^k, and 1 without pairs.

    Where signs are drawn it is one of the draws and the pattern seen.
    """
    return min(1.0, 2.0 ** (1 - n_seeds)) if n_seeds <= EXACT_FLIPS else 1 / (DRAWN_FLIPS + 1)


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Share of all sign patterns whose |mean| is at least the one seen (two-sided, exact); None without pairs."""
    n = len(differences)
    if n == 0:
        return None
    values = np.asarray(differences, dtype=float)
    seen = abs(values.sum()) * (1 - 1e-9) - NO_SPREAD  # sums that tie must not be told apart by rounding
    if seen <= 0:
        return 1.0
    if n > EXACT_FLIPS:
        sums = np.abs(_drawn_signs(n) @ values)
        return float((np.count_nonzero(sums >= seen) + 1) / (DRAWN_FLIPS + 1))  # the one seen is among them
    # Every pattern is one of the first half's with one of the second's: 2^(n/2) sums to sort, not 2^n to make.
    first, second = _signed_sums(values[: n // 2]), np.sort(_signed_sums(values[n // 2 :]))
    above = len(second) - np.searchsorted(second, seen - first, side="left")
    below = np.searchsorted(second, -seen - first, side="right")
    return float((above.sum() + below.sum()) / 2**n)


@lru_cache(maxsize=1)
def _drawn_signs(n: int) -> np.ndarray:
    """Patterns of `n` signs: the same for every arm of a study."""
    return np.random.default_rng(0).choice([-1.0, 1.0], (DRAWN_FLIPS, n))


def _signed_sums(values: np.ndarray) -> np.ndarray:
    """The sums of all 2^len(values) sign patterns."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums
