"""The parts of the calibration: each gives its rows, a case and what was found in it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from harness.reporting.dunnett import ALPHA, critical_value, detectable_difference, power
from harness.reporting.statistics import prediction_interval, summarize
from tests.calibration.simulation import (
    Case,
    Law,
    Wide,
    draw,
    dunnett_claims,
    rate,
    studies,
    welch_holm_claims,
    within_margin,
)

SEED = 20
RUNS = (3, 5, 8)
ARMS = (1, 6)
LAWS: tuple[Law, ...] = ("normal", "t3", "skewed")
CORRELATIONS = (0.0, 0.5)
KINDS: tuple[tuple[Law, float], ...] = (("normal", 0.0), ("t3", 0.0), ("skewed", 0.0), ("normal", 0.5))
"""Law and correlation, where not every combination of the two is of interest."""
SPREAD, EFFECT = 0.18, 0.5
"""Points: what full-length trainings of such a network show, and what one would like to find."""
Row = dict[str, Any]


def null_cases() -> list[Case]:
    """Every combination, without a true difference."""
    laws: list[tuple[Law, Wide]] = [*((law, "none") for law in LAWS), ("normal", "arm"), ("normal", "base")]
    combinations = itertools.product(laws, CORRELATIONS, ARMS, RUNS)
    return [Case(n, arms, law, wide, correlation) for (law, wide), correlation, arms, n in combinations]


def null(simulations: int, cases: Iterable[Case] | None = None) -> list[Row]:
    """How often at least one arm gets a verdict although none differs."""
    rows = []
    for case in null_cases() if cases is None else cases:
        found = np.zeros(3, dtype=int)
        for values in studies(case, simulations, SEED):
            dunnett, welch = dunnett_claims(values, case.critical), welch_holm_claims(values)
            found += [claims.any(1).sum() for claims in (dunnett, welch, dunnett & welch)]
        told = ("dunnett", "welch_holm", "not_marked")
        rows.append(asdict(case) | {name: rate(int(hits), simulations) for name, hits in zip(told, found, strict=True)})
    return rows


def foretold(simulations: int, cases: Iterable[Case] | None = None) -> list[Row]:
    """The power and the detectable difference that `plan` tells, and what studies with that difference give."""
    if cases is None:
        cases = [Case(n, k, law, "none", c, SPREAD) for (law, c), k, n in itertools.product(KINDS, ARMS, RUNS)]
    rows = []
    for case in cases:
        detectable = detectable_difference(case.n, case.arms, case.sd)
        if detectable is None:
            raise ValueError(f"{case}: nothing can be detected")
        found, not_marked = [0, 0], 0
        for values in studies(case, simulations, SEED + 1):
            for i, effect in enumerate((EFFECT, detectable)):
                shifted = values.copy()
                shifted[:, 1] += effect
                claims = dunnett_claims(shifted, case.critical)[:, 0]
                found[i] += int(claims.sum())
                if effect == EFFECT:
                    not_marked += int((claims & welch_holm_claims(shifted)[:, 0]).sum())
        rows.append(asdict(case) | {
            "effect": EFFECT,
            "foretold": power(case.n, case.arms, case.sd, EFFECT),
            "simulated": rate(found[0], simulations),
            "not_marked": rate(not_marked, simulations),
            "detectable": detectable,
            "simulated_at_detectable": rate(found[1], simulations),
        })  # fmt: skip
    return rows


def margin(simulations: int) -> list[Row]:
    """Whether *no relevant difference* is said too lightly: arms differ by exactly the margin, then by nothing."""
    rows = []
    for arms, n in itertools.product(ARMS, RUNS):
        case, wrong, right = Case(n, arms, sd=SPREAD), 0, 0
        for values in studies(case, simulations, SEED + 2):
            right += int(within_margin(values, case.critical, EFFECT)[:, 0].sum())
            values[:, 1:] += EFFECT
            wrong += int(within_margin(values, case.critical, EFFECT).any(1).sum())
        rows.append(asdict(case) | {
            "margin": EFFECT, "wrong": rate(wrong, simulations), "right": rate(right, simulations)
        })  # fmt: skip
    return rows


def extended(simulations: int) -> list[Row]:
    """No true difference, but 3 seeds become 5 and 8 as long as the report does not decide."""
    rows = []
    for (law, correlation), arms in itertools.product(KINDS, ARMS):
        case = Case(RUNS[-1], arms, law, "none", correlation)
        hits = {"first_claim": 0, "all_decided": 0, "times_looks": 0, "last_alone": 0}
        for values in studies(case, simulations, SEED + 3):
            looks = [dunnett_claims(values[..., :n], Case(n, arms).critical) for n in RUNS]
            strict = [dunnett_claims(values[..., :n], Case(n, arms).critical_at(ALPHA / len(RUNS))) for n in RUNS]
            hits["first_claim"] += int(np.any([look.any(1) for look in looks], axis=0).sum())
            hits["times_looks"] += int(np.any([look.any(1) for look in strict], axis=0).sum())
            stopped = looks[0].all(1), looks[1].all(1)  # every arm has its verdict, all of them wrong
            hits["all_decided"] += int((stopped[0] | stopped[1] | looks[2].any(1)).sum())
            hits["last_alone"] += int(looks[2].any(1).sum())
        rows.append(
            asdict(case) | {"looks": list(RUNS)} | {name: rate(found, simulations) for name, found in hits.items()}
        )
    return rows


def contrasts(simulations: int) -> list[Row]:
    """Six steps of a ladder, and the interaction of a 2 x 2: how often at least one is told although there is none."""
    families = {
        "ladder of 6 steps": np.eye(7)[1:] - np.eye(7)[:-1],
        "interaction of a 2 x 2": np.array([[1.0, -1.0, -1.0, 1.0]]),
    }
    rows = []
    for (name, weights), law, n in itertools.product(families.items(), LAWS, RUNS):
        case, hits = Case(n, weights.shape[1] - 1, law), 0
        critical = critical_value([0.0] * len(weights), weights.shape[1] * (n - 1))
        for values in studies(case, simulations, SEED + 4):
            sums = values.mean(-1) @ weights.T
            pooled = np.sqrt(values.var(-1, ddof=1).mean(-1, keepdims=True))
            hits += int((np.abs(sums) > critical * pooled * np.sqrt((weights**2).sum(1) / n)).any(1).sum())
        rows.append({"family": name} | asdict(case) | {"simulated": rate(hits, simulations)})
    return rows


def intervals(simulations: int) -> list[Row]:
    """One arm alone: how often its t-interval misses the true mean, and its prediction interval a further run."""
    rows = []
    for law, n in itertools.product(LAWS, RUNS):
        rng = np.random.default_rng([SEED + 5, n, LAWS.index(law)])
        values, further = draw(rng, law, (simulations, n)), draw(rng, law, (simulations,))
        unit = summarize([*([-1.0, 1.0] * (n // 2)), *([0.0] * (n % 2))])  # of mean 0: its intervals over its sd
        predicted = prediction_interval(unit)
        if unit.sd is None or unit.interval is None or predicted is None:
            raise ValueError(f"n = {n} has no interval")
        means, sds = values.mean(1), values.std(1, ddof=1)
        misses = int((np.abs(means) > sds * unit.interval[1] / unit.sd).sum())
        surprises = int((np.abs(further - means) > sds * predicted[1] / unit.sd).sum())
        rows.append({"n": n, "law": law} | {
            "mean_missed": rate(misses, simulations), "run_missed": rate(surprises, simulations)
        })  # fmt: skip
    return rows


PARTS: dict[str, Callable[[int], list[Row]]] = {
    "null": null,
    "foretold": foretold,
    "margin": margin,
    "extended": extended,
    "contrasts": contrasts,
    "intervals": intervals,
}


def simulate(simulations: int) -> dict[str, Any]:
    """All parts; 200,000 simulations a case take about a minute."""
    return {"simulations": simulations, "alpha": ALPHA, "seed": SEED} | {
        name: part(simulations) for name, part in PARTS.items()
    }
