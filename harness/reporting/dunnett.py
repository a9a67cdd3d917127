"""Dunnett's comparison of several arms with one base, evaluated exactly (Dunnett 1955, JASA 50:1096).

Each arm's t = (mean - base mean) / (s sqrt(1/n_i + 1/n_0)), with s pooled over all groups. These t share
the base and s, so their joint distribution needs two integrals, whatever the number of arms:

    P(all |t_i| <= c) = E_s E_z prod_i [Phi((c s - b_i z)/r_i) - Phi((-c s - b_i z)/r_i)],
    b_i = sqrt(n_i / (n_i + n_0)),  r_i = sqrt(1 - b_i^2)

Why not `scipy.stats.dunnett`, which tests here hold this against: it integrates with random points and
finds its interval by minimising that noise (to 1 % of the level), so that interval and p can contradict
each other; it takes seconds at 40 arms; and it knows no planned arm without runs. Here such an arm counts
in the family as an independent comparison (b = 0). Of all correlations it could have had, this one gives
the largest critical value (Sidak's inequality), so an arm that failed never makes the others look better.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
import scipy  # its parts are loaded when first used: most of a second that a plan of one seed need not wait

ALPHA = 0.05
NODES = 160
"""Gauss-Legendre points of each integral; up to ten runs an arm for one of the base, 320 move c by less than 1e-7."""

P_DIGITS, C_DIGITS = 12, 9
"""Decimals of p and c: what is behind them depends on the processor's order of additions, and reports are compared
byte by byte."""


def loading(n_arm: int, n_base: int) -> float:
    """b_i: how much of an arm's t is the base's chance; 0 for an arm without runs."""
    return math.sqrt(n_arm / (n_arm + n_base))


def joint_p(statistic: float, loadings: Sequence[float], df: int) -> float:
    """P(max |t_i| >= |statistic|) without any effect: Dunnett's adjusted p, in [0, 1], to 12 decimals.

    `loadings` holds one b_i for each planned comparison; `df` >= 1 are those of the pooled spread.
    """
    weights_s, scale = _spread_nodes(df)
    weights_z, z = _normal_nodes()
    bound = abs(statistic) * scale[:, None]
    inside = np.ones((len(scale), len(z)))
    for b, count in Counter(round(b, 12) for b in loadings).items():
        shift, width = b * z[None, :], math.sqrt(1.0 - b * b)
        inside *= (scipy.special.ndtr((bound - shift) / width) - scipy.special.ndtr((-bound - shift) / width)) ** count
    return round(float(np.clip(1.0 - weights_s @ inside @ weights_z, 0.0, 1.0)), P_DIGITS)


def critical_value(loadings: Sequence[float], df: int, alpha: float = ALPHA) -> float:
    """c with P(max |t_i| > c) = alpha: half-widths of the simultaneous intervals are c standard errors."""
    return _critical_value(tuple(sorted(round(b, 12) for b in loadings)), df, alpha)


@lru_cache(maxsize=256)
def _critical_value(loadings: tuple[float, ...], df: int, alpha: float) -> float:
    one_comparison = float(scipy.stats.t.isf(alpha / 2, df))
    if len(loadings) == 1:
        return one_comparison
    bonferroni = float(scipy.stats.t.isf(alpha / (2 * len(loadings)), df))
    low, high = 0.9 * one_comparison, 1.1 * bonferroni  # the two bound c; the slack is for rounding
    found = scipy.optimize.brentq(lambda c: joint_p(c, loadings, df) - alpha, low, high, xtol=1e-10)
    return round(float(found), C_DIGITS)


def power(n: int, arms: int, sd: float, difference: float) -> float:
    """Chance that an arm truly `difference` away from the base gets an interval that excludes 0.

    `n` >= 2 runs in the base and in each of `arms` >= 1 arms, true spread `sd` > 0 in all of them.
    """
    df = (arms + 1) * (n - 1)
    critical = critical_value([loading(n, n)] * arms, df)
    shift = abs(difference) / (sd * math.sqrt(2.0 / n))
    return _noncentral_tail(critical, df, shift)


def detectable_difference(n: int, arms: int, sd: float, *, power: float = 0.8) -> float | None:
    """The true difference to the base that `n` runs an arm find with probability `power`.

    By the verdict's rule: Dunnett's interval over `arms` comparisons (the base not counted) excludes 0. In
    the unit of `sd`, the spread between runs of one arm. None where that can't be said: n < 2, no arm to
    compare, or no spread.
    """
    if n < 2 or arms < 1 or not sd > 0:
        return None
    df = (arms + 1) * (n - 1)
    critical = critical_value([loading(n, n)] * arms, df)
    highest = 2.0
    while _noncentral_tail(critical, df, highest) < power:
        highest *= 2
    shift = scipy.optimize.brentq(lambda shift: _noncentral_tail(critical, df, shift) - power, 0.0, highest)
    return float(shift * sd * math.sqrt(2.0 / n))


def _noncentral_tail(critical: float, df: int, shift: float) -> float:
    """P(|T| > critical) for T noncentral t: the mean over the spread's distribution, without special cases."""
    weights, scale = _spread_nodes(df)
    tail = scipy.special.ndtr(shift - critical * scale) + scipy.special.ndtr(-critical * scale - shift)
    return float(weights @ tail)


@cache
def _unit_nodes() -> tuple[np.ndarray, np.ndarray]:
    points, weights = np.polynomial.legendre.leggauss(NODES)
    return (points + 1) / 2, weights / 2


@cache
def _normal_nodes() -> tuple[np.ndarray, np.ndarray]:
    """Weights and points of E_z; beyond 9 deviations lies less than 1e-18."""
    points, weights = _unit_nodes()
    z = 18 * points - 9
    return 18 * weights * np.exp(-z * z / 2) / math.sqrt(2 * math.pi), z


@lru_cache(maxsize=256)
def _spread_nodes(df: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and points of E_s, s^2 = chi2(df) / df: the pooled spread in units of the true one."""
    points, weights = _unit_nodes()
    low, high = (math.sqrt(float(scipy.stats.chi2.ppf(q, df)) / df) for q in (1e-15, 1 - 1e-15))
    s = low + (high - low) * points
    density = scipy.stats.chi.pdf(s * math.sqrt(df), df) * math.sqrt(df)
    weighted = (high - low) * weights * density
    return weighted / weighted.sum(), s
