"""Simulated studies, thousands at a time: what the report would say of each, by the report's own critical values.

A study is an array [arms + 1, n] of accuracies in points, the base first. What `statistics.compare` does to one
study in Python is done here to all of them in NumPy; tests/reporting/test_calibration.py holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from harness.reporting.dunnett import ALPHA, critical_value, loading

Law = Literal["normal", "t3", "skewed"]
Wide = Literal["none", "arm", "base"]

LAWS: dict[Law, int] = {"normal": 0, "t3": 1, "skewed": 2}
"""Distribution of a run's accuracy around its arm's mean -> a number of its own for the generator."""
WIDE: dict[Wide, int] = {"none": 0, "arm": 1, "base": 2}
"""Which group has 3 times the spread of the others."""
WIDER = 3.0
BATCH = 20_000


@dataclass(frozen=True)
class Case:
    """One kind of study: `arms` without the base, `n` runs each; `sd` is the spread of a run, in points."""

    n: int
    arms: int
    law: Law = "normal"
    wide: Wide = "none"
    correlation: float = 0.0
    """Between arms at the same seed."""
    sd: float = 1.0

    @property
    def critical(self) -> float:
        """Dunnett's: |t| above it is a verdict."""
        return self.critical_at(ALPHA)

    def critical_at(self, alpha: float) -> float:
        return critical_value([loading(self.n, self.n)] * self.arms, (self.arms + 1) * (self.n - 1), alpha)


def draw(rng: np.random.Generator, law: Law, shape: tuple[int, ...]) -> np.ndarray:
    """Mean 0 and variance 1. `skewed` is an exponential turned round: some runs fall far short (skewness -2)."""
    if law == "normal":
        return rng.standard_normal(shape)
    if law == "t3":
        return rng.standard_t(3, shape) / math.sqrt(3)
    return 1.0 - rng.standard_exponential(shape)


def studies(case: Case, simulations: int, seed: int) -> Iterator[np.ndarray]:
    """Batches [trials, arms + 1, n] without any true difference.

    Correlated arms share a part of their noise at the same seed: sqrt(c) of the seed's, sqrt(1 - c) of the run's.
    """
    key = [seed, case.n, case.arms, LAWS[case.law], WIDE[case.wide], round(100 * case.correlation)]
    rng = np.random.default_rng(key)
    scale = np.full((case.arms + 1, 1), case.sd)
    if case.wide != "none":
        scale[0 if case.wide == "base" else 1] *= WIDER
    for start in range(0, simulations, BATCH):
        trials = min(BATCH, simulations - start)
        values = draw(rng, case.law, (trials, case.arms + 1, case.n))
        if case.correlation:
            shared = draw(rng, case.law, (trials, 1, case.n))
            values = math.sqrt(case.correlation) * shared + math.sqrt(1 - case.correlation) * values
        yield scale * values


# --- what the report would say ------------------------------------------------------------------


def differences(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[trials, arms] mean difference to the base, and its standard error by the pooled spread [trials, 1]."""
    means, n = values.mean(-1), values.shape[-1]
    pooled = np.sqrt(values.var(-1, ddof=1).mean(-1, keepdims=True))
    return means[:, 1:] - means[:, :1], pooled * math.sqrt(2 / n)


def dunnett_claims(values: np.ndarray, critical: float) -> np.ndarray:
    """[trials, arms]: the simultaneous interval excludes 0, so the verdict is *helps* or *hurts*."""
    difference, error = differences(values)
    return np.asarray(np.abs(difference) > critical * error)


def welch_holm_claims(values: np.ndarray) -> np.ndarray:
    """[trials, arms]: Welch's p, Holm-adjusted over the arms, is below 0.05."""
    n, arms = values.shape[-1], values.shape[1] - 1
    means, parts = values.mean(-1), values.var(-1, ddof=1) / n
    variance = parts[:, 1:] + parts[:, :1]
    df = variance**2 * (n - 1) / (parts[:, 1:] ** 2 + parts[:, :1] ** 2)
    t = np.abs(means[:, 1:] - means[:, :1]) / np.sqrt(variance)
    p = 2 * special.stdtr(df, -t)
    order = np.argsort(p, axis=1)
    adjusted = np.maximum.accumulate(np.take_along_axis(p, order, 1) * np.arange(arms, 0, -1), axis=1)
    claims = np.empty_like(p, dtype=bool)
    np.put_along_axis(claims, order, adjusted < ALPHA, 1)
    return claims


def within_margin(values: np.ndarray, critical: float, margin: float) -> np.ndarray:
    """[trials, arms]: the simultaneous interval lies within the margin, so the verdict is *no relevant difference*."""
    difference, error = differences(values)
    return np.asarray(np.abs(difference) + critical * error <= margin)


def rate(hits: int, simulations: int) -> dict[str, float]:
    """A share and its Monte-Carlo standard error."""
    share = hits / simulations
    return {"rate": share, "error": math.sqrt(share * (1 - share) / simulations)}
