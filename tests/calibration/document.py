"""The calibration's results as a document; what it claims is computed from them.

python -m tests.calibration.document reports/calibration.json reports/calibration.md
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.reporting import words
from tests.calibration.parts import ARMS, CORRELATIONS, EFFECT, LAWS, RUNS, SPREAD
from tests.calibration.simulation import WIDER

LIMIT = 0.05 + 0.007
"""What a family-wise error may be."""
FORETOLD = 0.03
"""How far the power that `plan` tells may be from the simulated one."""
LAW = {
    "normal": "normal",
    "t3": "t with 3 degrees of freedom",
    "skewed": "skewed (exponential, its tail downwards)",
}
WIDE = {
    "none": "",
    "arm": f", one arm with {WIDER:.0f} x the spread",
    "base": f", the base with {WIDER:.0f} x the spread",
}
Row = dict[str, Any]


def markdown(results: dict[str, Any]) -> str:
    """The whole document."""
    sections = [_head(results), _null(results), _power(results), _margin(results), _extended(results)]
    sections += [_contrasts(results), _intervals(results)]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def worst(rows: Sequence[Row], what: str) -> float:
    """The largest rate."""
    return max(float(row[what]["rate"]) for row in rows)


def of_equal_spread(results: dict[str, Any]) -> list[Row]:
    return [row for row in results["null"] if row["wide"] == "none"]


def of_unequal_spread(results: dict[str, Any], wide: str) -> list[Row]:
    return [row for row in results["null"] if row["wide"] == wide]


def where_plan_promises(results: dict[str, Any]) -> list[Row]:
    """The studies that the power's formula is for: normal, independent, one spread."""
    return [row for row in results["foretold"] if row["law"] == "normal" and not row["correlation"]]


def missed_power(rows: Sequence[Row]) -> float:
    """How far the foretold power is from the simulated one at worst."""
    at_effect = max(abs(row["foretold"] - row["simulated"]["rate"]) for row in rows)
    return max(at_effect, *(abs(0.8 - row["simulated_at_detectable"]["rate"]) for row in rows))


# --- what it comes to ---------------------------------------------------------------------------


def _head(results: dict[str, Any]) -> list[str]:
    simulations = results["simulations"]
    error = (0.05 * 0.95 / simulations) ** 0.5
    text = (
        "What the report's verdicts are worth, on simulated studies whose truth is known. Made by `make calibration` "
        f"(random numbers from the seed {results['seed']}); {simulations:,} simulated studies for every number, so "
        f"that a rate of 0.05 has a Monte-Carlo standard error of {error:.4f}. The verdicts are computed with the "
        "report's own critical values; a test holds each decision against the report's and SciPy's."
    )
    lines = ["# Calibration", "", *words.paragraph(text), ""]
    for item in _claims(results):
        first, *rest = words.paragraph(item, 94)
        lines += [f"- {first}", *(f"  {line}" for line in rest)]
    return lines


def _claims(results: dict[str, Any]) -> list[str]:
    equal = of_equal_spread(results)
    holding = sum(row["dunnett"]["rate"] <= LIMIT for row in equal)
    correlated = [row for row in equal if row["correlation"]]
    arm, base = (of_unequal_spread(results, wide) for wide in ("arm", "base"))
    promised = where_plan_promises(results)
    others = [row for row in results["foretold"] if row not in promised]
    lacking = max(row["foretold"] - row["simulated"]["rate"] for row in others)
    six = next(row for row in promised if row["n"] == 3 and row["arms"] == 6)
    extended, normal = results["extended"], [row for row in results["extended"] if row["law"] == "normal"]
    independent = [row for row in normal if not row["correlation"]]
    return [
        f"**Without a true difference and with equal spreads** the family-wise error is at most "
        f"{worst(equal, 'dunnett'):.3f}; it is at or under {LIMIT:.3f} in {holding} of {len(equal)} cases. Where arms "
        f"are correlated over seeds the verdict is too careful (at most {worst(correlated, 'dunnett'):.3f}): that is "
        "what the paired test beside it is for.",
        f"**It does not hold with unequal spreads**: up to {worst(arm, 'dunnett'):.3f} where one arm, and up to "
        f"{worst(base, 'dunnett'):.3f} where the base has {WIDER:.0f} times the spread of the others. What the report "
        "does about it: Welch's test with Holm, which assumes no equal spreads, stands beside every verdict, and a "
        "verdict that it would not give is marked †. A verdict without the mark is wrong in at most "
        f"{worst(results['null'], 'not_marked'):.3f} of studies, over all cases. The mark is not free: {_price(six)}.",
        f"**Power**: with 3 seeds and 6 arms a true difference of {EFFECT} points at a spread of {SPREAD} points is "
        f"found in {six['simulated']['rate']:.3f} of studies. The power that `plan` foretells is met within "
        f"{missed_power(promised):.3f} where runs are normal and independent; with heavy tails, skew or correlated "
        f"arms it is off by up to {missed_power(others):.3f}, but never more than {lacking:.3f} too high.",
        f"**\"No relevant difference\"** is said of an arm that differs by exactly the margin in at most "
        f"{worst(results['margin'], 'wrong'):.3f} of studies.",
        f"**Extending 3 to 5 to 8 seeds** until an arm has a verdict makes the true error "
        f"{worst(independent, 'first_claim'):.3f} (at most {worst(extended, 'first_claim'):.3f}), not 0.05. The report "
        "says that a study was extended; p times the number of looks is honest again "
        f"(at most {worst(extended, 'times_looks'):.3f}).",
    ]  # fmt: skip


def _price(row: Row) -> str:
    found, kept = row["simulated"]["rate"], row["not_marked"]["rate"]
    return (
        f"with 3 seeds and 6 arms it stands on {100 * (1 - kept / found):.0f} % of the right verdicts too, for few "
        "runs say little without the assumption"
    )


# --- the tables ---------------------------------------------------------------------------------


def _shown(found: dict[str, float], limit: float = LIMIT) -> str:
    return f"**{found['rate']:.4f}**" if found["rate"] > limit else f"{found['rate']:.4f}"


def _plain(found: dict[str, float]) -> str:
    return f"{found['rate']:.4f}"


def _by_arms_and_runs(rows: Sequence[Row], shown: Callable[[Row], str]) -> list[str]:
    """One row a kind of study, one column a size; `rows` in any order."""
    heads = ["a run's accuracy", "corr."] + [
        f"{words.plural(arms, 'arm')}, n = {n}" for arms, n in itertools.product(ARMS, RUNS)
    ]
    kinds = dict.fromkeys((row["law"], row["wide"], row["correlation"]) for row in rows)
    cells = {(row["law"], row["wide"], row["correlation"], row["arms"], row["n"]): shown(row) for row in rows}
    table = [
        [LAW[law] + WIDE[wide], f"{correlation:g}"]
        + [cells[law, wide, correlation, arms, n] for arms, n in itertools.product(ARMS, RUNS)]
        for law, wide, correlation in kinds
    ]
    return words.table(heads, table, " " + "r" * 7)


def _null(results: dict[str, Any]) -> list[str]:
    rows = results["null"]
    text = (
        "Share of studies in which at least one arm is said to help or to hurt although none differs. "
        f"Bold: over {LIMIT:.3f}. An arm count is without the base; corr.: correlation between arms at the same seed "
        f"({' and '.join(f'{c:g}' for c in CORRELATIONS)})."
    )
    lines = ["## Family-wise error", "", *words.paragraph(text)]
    for title, what in (
        ("The verdict (Dunnett)", "dunnett"),
        ("A verdict that Welch with Holm would give too: one without the mark †", "not_marked"),
        ("Welch with Holm alone", "welch_holm"),
    ):
        lines += ["", f"### {title}", "", *_by_arms_and_runs(rows, lambda row, what=what: _shown(row[what]))]  # type: ignore[misc]
    return lines


def _power(results: dict[str, Any]) -> list[str]:
    text = (
        f"One arm truly differs. First by {EFFECT} points, with a spread of {SPREAD} points between runs of one arm: "
        "the power that `plan`'s formula foretells, what the simulation gives, and how often the verdict comes "
        "without the mark †. Then by the difference that `plan` says is found at 80 % power: how often it is. Bold: "
        f"more than {FORETOLD} from what was foretold."
    )
    heads = ["a run's accuracy", "corr.", "arms", "n", "foretold", "found", "not marked", "80 % at", "found there"]
    table = [
        [
            LAW[row["law"]], f"{row['correlation']:g}", str(row["arms"]), str(row["n"]), f"{row['foretold']:.3f}",
            _near(row["simulated"], row["foretold"]), f"{row['not_marked']['rate']:.3f}",
            f"{row['detectable']:.3f}", _near(row["simulated_at_detectable"], 0.8),
        ]
        for row in results["foretold"]
    ]  # fmt: skip
    return ["## Power", "", *words.paragraph(text), "", *words.table(heads, table, " rrrrrrrr")]


def _near(found: dict[str, float], foretold: float) -> str:
    text = f"{found['rate']:.3f}"
    return f"**{text}**" if abs(found["rate"] - foretold) > FORETOLD else text


def _margin(results: dict[str, Any]) -> list[str]:
    text = (
        f"Spread {SPREAD} points, margin {EFFECT} points, normal and independent runs. Wrong: every arm differs by "
        "exactly the margin, and at least one is said to have no relevant difference. Right: no arm differs, and the "
        "first is said to have none."
    )
    table = [[str(row["arms"]), str(row["n"]), _shown(row["wrong"]), _plain(row["right"])] for row in results["margin"]]
    lines = ["## No relevant difference", "", *words.paragraph(text), ""]
    return lines + words.table(["arms", "n", "wrong", "right"], table, "rrrr")


def _extended(results: dict[str, Any]) -> list[str]:
    text = (
        "No arm differs; the study is reported with 3 seeds, goes on to 5 and then to 8 while it is inconclusive. "
        "*Until a verdict*: it stops as soon as one arm helps or hurts. *Until all have one*: it stops when no arm is "
        "inconclusive, and only the last report counts. *p x 3*: as the first, with p times the number of looks. "
        "*8 at once*: the same study without a look."
    )
    columns = {
        "until a verdict": "first_claim",
        "until all have one": "all_decided",
        "p x 3": "times_looks",
        "8 at once": "last_alone",
    }
    table = [
        [
            LAW[row["law"]],
            f"{row['correlation']:g}",
            str(row["arms"]),
            *(_shown(row[what]) for what in columns.values()),
        ]
        for row in results["extended"]
    ]
    heads = ["a run's accuracy", "corr.", "arms", *columns]
    return ["## Extended after a look", "", *words.paragraph(text), "", *words.table(heads, table, " rrrrrr")]


def _contrasts(results: dict[str, Any]) -> list[str]:
    text = (
        "A ladder's steps and an interaction, no arm differing: share of studies in which at least one is said to be "
        "other than 0."
    )
    cells = {(row["family"], row["law"], row["n"]): _shown(row["simulated"]) for row in results["contrasts"]}
    families = dict.fromkeys(row["family"] for row in results["contrasts"])
    table = [
        [family, LAW[law], *(cells[family, law, n] for n in RUNS)] for family, law in itertools.product(families, LAWS)
    ]
    heads = ["", "a run's accuracy", *(f"n = {n}" for n in RUNS)]
    return ["## Ladders and interactions", "", *words.paragraph(text), "", *words.table(heads, table, "  rrr")]


def _intervals(results: dict[str, Any]) -> list[str]:
    text = (
        "One arm by itself: how often the 95 % t-interval misses the true mean, and the 95 % prediction interval a "
        "further run. They are exact for normal runs; differences between arms, on which the verdicts stand, suffer "
        "less from skew than a single mean does."
    )
    heads = ["a run's accuracy", "n", "mean missed", "run missed"]
    table = [
        [LAW[row["law"]], str(row["n"]), _shown(row["mean_missed"]), _shown(row["run_missed"])]
        for row in results["intervals"]
    ]
    return ["## The intervals of one arm", "", *words.paragraph(text), "", *words.table(heads, table, " rrr")]


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(markdown(json.loads(source.read_text())))
