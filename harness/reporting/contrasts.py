"""Weighted sums of arm means that a study asks about beside its differences to the base.

A ladder's steps (each arm less the one before it) and the interactions of a factorial (both together, less each
alone, plus neither). Each is t = sum(w_i mean_i) / (s sqrt(sum(w_i^2 / n_i))) with the spread s of the verdicts,
pooled over all arms.

How they are made simultaneous: the contrasts of one family share arms, so their t depend on each other in a way
that differs from study to study. By Sidak's inequality (1967, JASA 62:626) independent ones are the worst case,
whatever the dependence; that case is `joint_p` with loadings of 0, the studentized maximum modulus. So
intervals and p hold at 95 % and 5 % at the least for the whole family, exactly for one contrast (where it is
Student's t), without a random number, and from one procedure. For ladders they are wider than need be by 1 to 2 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.reporting.dunnett import ALPHA, critical_value, joint_p
from harness.reporting.statistics import (
    Interval,
    Paired,
    Verdict,
    Welch,
    holm,
    paired,
    pooled_spread,
    verdict_of,
    weighted_mean,
    welch_test,
)

Weights = Mapping[str, float]
"""Arm -> its weight."""
BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Contrast:
    """One weighted sum of arm means: its simultaneous interval, adjusted p and verdict, with its sensitivity beside."""

    weights: Weights
    n: Mapping[str, int]
    """Runs of each arm in it."""
    mean: float | None
    interval: Interval | None
    p: float | None
    verdict: Verdict
    """Of the sum, as if it were a difference: *helps* means above 0."""
    welch: Welch
    """Each arm with its own spread, Holm over the family."""
    paired: Paired
    """The sum taken at each seed that all its arms have."""
    reason: str | None = None
    """Why there is no interval."""

    @property
    def welch_differs(self) -> bool:
        """Without the assumption of equal spreads the verdict would be another."""
        return self.interval is not None and self.welch.verdict != self.verdict


def contrasts(arms: Mapping[str, BySeed], family: Sequence[Weights], margin: float | None) -> tuple[Contrast, ...]:
    """One contrast for each weights of the `family`, simultaneous over all of them.

    `arms` holds every arm of the study (seed -> value), also those without a weight: all of them tell the
    spread. A contrast with an arm of n < 2 has no interval, and counts in the family all the same.
    """
    values = {name: list(by_seed.values()) for name, by_seed in arms.items()}
    spread = pooled_spread([group for group in values.values() if len(group) >= 2])
    tests = {
        str(i): welch_test([(weight, values[arm]) for arm, weight in weights.items()], ALPHA / len(family))
        for i, weights in enumerate(family)
    }
    beside = list(holm(tests, margin).values())
    return tuple(
        _contrast(weights, values, spread, len(family), margin, welch, _at_each_seed(weights, arms))
        for weights, welch in zip(family, beside, strict=True)
    )


def _contrast(
    weights: Weights,
    values: Mapping[str, Sequence[float]],
    spread: tuple[float, int] | None,
    comparisons: int,
    margin: float | None,
    welch: Welch,
    at_each_seed: Paired,
) -> Contrast:
    n = {arm: len(values[arm]) for arm in weights}
    groups = [(weight, values[arm]) for arm, weight in weights.items()]
    mean = weighted_mean(groups) if min(n.values()) else None
    reason = _no_interval(n, spread)
    if reason or mean is None or spread is None:
        return Contrast(weights, n, mean, None, None, "inconclusive", welch, at_each_seed, reason)
    sd, df = spread
    error = sd * math.sqrt(math.fsum(weight**2 / n[arm] for arm, weight in weights.items()))
    independent = [0.0] * comparisons
    half = critical_value(independent, df) * error
    interval = (mean - half, mean + half)
    p = joint_p(mean / error, independent, df)
    return Contrast(weights, n, mean, interval, p, verdict_of(interval, margin), welch, at_each_seed)


def _no_interval(n: Mapping[str, int], spread: tuple[float, int] | None) -> str | None:
    for arm, runs in n.items():
        if runs < 2:
            return f"{arm} has no full-length run" if runs == 0 else f"{arm} has n = 1: no interval"
    if spread is None or spread[0] == 0:
        return "the runs of each arm are equal: no spread to judge by"
    return None


def _at_each_seed(weights: Weights, arms: Mapping[str, BySeed]) -> Paired:
    seeds = sorted(set.intersection(*(set(arms[arm]) for arm in weights)))
    return paired([math.fsum(weight * arms[arm][seed] for arm, weight in weights.items()) for seed in seeds])
