"""The calibration: that it decides as the report does, what it finds on a small scale, and the committed document."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from harness.reporting import statistics as s
from tests.calibration import document, parts
from tests.calibration.simulation import (
    Case,
    differences,
    draw,
    dunnett_claims,
    rate,
    studies,
    welch_holm_claims,
    within_margin,
)

REPORTS = Path(__file__).parent.parent.parent / "reports"
SMALL = 20_000
CASES = [Case(3, 6), Case(5, 1, "t3"), Case(8, 2, "skewed", "base", 0.5), Case(3, 6, "normal", "arm")]


# --- the decisions are the report's -------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_decision_is_the_reports(case: Case) -> None:
    margin = 1.5
    values = next(studies(case, 150, seed=1))
    values[:, 1] += 1.5  # so that verdicts of all kinds come
    claims, welch = dunnett_claims(values, case.critical), welch_holm_claims(values)
    within = within_margin(values, case.critical, margin)
    for study, claimed, tested, inside in zip(values, claims, welch, within, strict=True):
        base, *arms = map(list, study)
        named = {str(i): arm for i, arm in enumerate(arms)}
        found = s.compare(base, named, None).values()
        assert [one.verdict in ("helps", "hurts") for one in found] == list(claimed)
        assert [one.welch.verdict in ("helps", "hurts") for one in found] == list(tested)
        assert [one.welch_differs for one in found] == list(claimed != tested)
        told = s.compare(base, named, margin).values()
        assert [one.verdict == "no relevant difference" for one in told] == list(inside)
    assert 0 < claims.mean() < 1


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_decision_is_scipys(case: Case) -> None:
    """Leaving aside p values so near 0.05 that SciPy's own random points, good to 1e-3, decide."""
    values = next(studies(case, 40, seed=2))
    values[:, 1] += 1.5
    told = 0
    for study, claimed in zip(values, dunnett_claims(values, case.critical), strict=True):
        base, *arms = study
        p = stats.dunnett(*arms, control=base, rng=np.random.default_rng(1)).pvalue
        sure = np.abs(p - 0.05) > 0.002
        told += int(sure.sum())
        assert list((p < 0.05)[sure]) == list(claimed[sure])
    assert told > 0.9 * 40 * case.arms


@pytest.mark.slow
def test_welch_holm_by_scipy_and_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    values = next(studies(Case(8, 4), 25, seed=3))
    values[:, 1:] += 1.2
    stricter = 0
    for study, claimed in zip(values, welch_holm_claims(values), strict=True):
        p = stats.ttest_ind(study[1:], study[:1], axis=1, equal_var=False).pvalue
        assert list(multipletests(p, method="holm")[0]) == list(claimed)
        stricter += int((claimed & (4 * p >= 0.05)).sum())
    assert stricter  # Bonferroni would say less


# --- the studies are what they are said to be ----------------------------------------------------


@pytest.mark.parametrize(("law", "skew"), [("normal", 0.0), ("t3", None), ("skewed", -2.0)])
def test_laws_have_mean_zero_and_variance_one(law: Any, skew: float | None) -> None:
    values = draw(np.random.default_rng(4), law, (400_000,))
    assert values.mean() == pytest.approx(0, abs=0.01)
    assert values.std() == pytest.approx(1, abs=0.05)
    if skew is not None:
        assert stats.skew(values) == pytest.approx(skew, abs=0.1)


def test_spread_and_correlation_are_as_asked() -> None:
    values = np.concatenate(list(studies(Case(5, 2, "normal", "arm", 0.5, sd=0.2), 50_000, seed=5)))
    assert values.shape == (50_000, 3, 5)
    assert values.std(axis=(0, 2)) == pytest.approx([0.2, 0.6, 0.2], rel=0.01)
    at_seed = values.transpose(1, 0, 2).reshape(3, -1)
    assert np.corrcoef(at_seed)[np.triu_indices(3, 1)] == pytest.approx([0.5] * 3, abs=0.01)
    other_seed = np.corrcoef(values[:, 0, 0], values[:, 1, 1])[0, 1]
    assert other_seed == pytest.approx(0, abs=0.02)


def test_the_same_seed_gives_the_same_studies_and_batches_do_not_repeat() -> None:
    first, again = (np.concatenate(list(studies(Case(3, 1), 30_000, seed=6))) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:10_000], first[20_000:])


def test_standard_error_by_hand() -> None:
    difference, error = differences(np.array([[[1.0, 3.0], [4.0, 8.0]]]))
    assert (difference.tolist(), error.tolist()) == ([[4.0]], [[pytest.approx(math.sqrt((2 + 8) / 2))]])


# --- on a small scale ----------------------------------------------------------------------------


def upper(limit: float, simulations: int = SMALL) -> float:
    """Four Monte-Carlo standard errors above a limit."""
    return limit + 4 * rate(round(limit * simulations), simulations)["error"]


def test_the_family_wise_error_holds_and_where_it_does_not_the_mark_does() -> None:
    for row in parts.null(SMALL):
        assert row["not_marked"]["rate"] <= upper(document.LIMIT), row
        if row["wide"] == "none":
            assert row["dunnett"]["rate"] <= upper(0.05), row
    exact = [Case(n, arms) for n, arms in itertools.product(parts.RUNS, parts.ARMS)]
    for row in parts.null(SMALL, exact):
        assert row["dunnett"]["rate"] == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / SMALL))
    (wide,) = parts.null(SMALL, [Case(3, 6, "normal", "arm")])
    assert wide["dunnett"]["rate"] > 0.08  # the assumption matters: a simulation that hides it shows nothing


def test_power_is_as_foretold() -> None:
    cases = [Case(n, arms, sd=parts.SPREAD) for n, arms in itertools.product(parts.RUNS, parts.ARMS)]
    for row in parts.foretold(SMALL, cases):
        slack = 4 * math.sqrt(0.25 / SMALL)
        assert row["simulated"]["rate"] == pytest.approx(row["foretold"], abs=slack)
        assert row["simulated_at_detectable"]["rate"] == pytest.approx(0.8, abs=slack)


# --- the committed document -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((REPORTS / "calibration.json").read_text())
    return content


def test_the_document_is_what_its_results_give(results: dict[str, Any]) -> None:
    assert (REPORTS / "calibration.md").read_text() == document.markdown(results)


def test_the_results_are_of_every_case_at_full_size(results: dict[str, Any]) -> None:
    assert results["simulations"] >= 100_000
    found = {tuple(row[key] for key in ("n", "arms", "law", "wide", "correlation")) for row in results["null"]}
    assert found == {(case.n, case.arms, case.law, case.wide, case.correlation) for case in parts.null_cases()}
    assert set(parts.PARTS) <= set(results)


def test_what_is_promised_holds(results: dict[str, Any]) -> None:
    assert document.worst(document.of_equal_spread(results), "dunnett") <= document.LIMIT
    assert document.worst(results["null"], "not_marked") <= document.LIMIT
    assert document.worst(results["margin"], "wrong") <= document.LIMIT
    assert document.worst(results["contrasts"], "simulated") <= document.LIMIT
    assert document.worst(results["extended"], "times_looks") <= document.LIMIT
    promised = document.where_plan_promises(results)
    assert document.missed_power(promised) <= document.FORETOLD
    (row,) = [row for row in promised if (row["n"], row["arms"]) == (3, 6)]
    assert (row["effect"], row["sd"]) == (0.5, 0.18)
    assert row["simulated"]["rate"] >= 0.6


def test_a_rate_over_the_limit_stands_out() -> None:
    assert document._shown({"rate": 0.0571, "error": 0.0}) == "**0.0571**"
    assert document._shown({"rate": 0.057, "error": 0.0}) == "0.0570"
