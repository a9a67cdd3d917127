"""The report's first paragraph: what the verdicts say, in words, with the budget and what they can't say."""

from __future__ import annotations

from collections.abc import Sequence

from harness.reporting import words
from harness.reporting.method import METRIC, further_runs
from harness.reporting.model import Arm, StudyReport
from harness.reporting.runs import statuses
from harness.reporting.statistics import Verdict

SHOWN = 8
"""Of a longer list only the names' count is told; the table has them all."""


def answer(report: StudyReport) -> str:
    """One paragraph (markdown, unwrapped)."""
    sentences = [_base(report)]
    if len(report.arms) == 1:
        sentences.append("There is no other arm to compare it with.")
    elif report.base.last.n:
        sentences += _verdicts(report)
    return " ".join([*sentences, *_published(report), *_gaps(report)])


def _base(report: StudyReport) -> str:
    base = report.base
    name, budget = words.code(base.name), f"At {words.plural(report.epochs, 'epoch')} on {report.dataset}"
    if base.last.mean is None:
        return f"{budget}, {name} (the base) has no full-length run yet, so no arm can be judged."
    reached = f"{words.percent(base.last.mean)} % {METRIC[report.metric]} after the last epoch"
    if base.last.interval:
        told = f"95 % interval {words.percent_interval(base.last.interval)}, n = {base.last.n}"
    else:
        told = base.last.reason or ""
    return f"{budget}, {name} (the base) reaches {reached} ({told})."


def _verdicts(report: StudyReport) -> list[str]:
    others = report.arms[1:]

    def having(verdict: Verdict) -> list[Arm]:
        return [arm for arm in others if arm.difference and arm.difference.verdict == verdict]

    sentences = []
    if hurts := having("hurts"):
        sentences.append(f"Worse than the base: {_arms(hurts)}.")
    if helps := having("helps"):
        sentences.append(f"Better than the base: {_arms(helps)}.")
    if same := having("no relevant difference"):
        sentences.append(f"No relevant difference (within ±{100 * (report.margin or 0):.2f} points): {_arms(same)}.")
    if unclear := [arm for arm in having("inconclusive") if _has_interval(arm)]:
        sentences.append(f"Inconclusive: {_arms(unclear)}.")
        sentences += _power(report)
    if unjudged := [arm for arm in others if not _has_interval(arm)]:
        sentences.append(f"No verdict: {_arms(unjudged)}.")
    if report.margin is None:
        sentences.append("The study sets no margin, so no difference can be called irrelevant.")
    return sentences


def _has_interval(arm: Arm) -> bool:
    """Without one there is nothing that more seeds, or another margin, would make conclusive."""
    return arm.difference is not None and arm.difference.interval is not None


def _arms(arms: Sequence[Arm]) -> str:
    if len(arms) > SHOWN:
        return f"{len(arms)} arms (see the table)"
    told = []
    without: dict[str, list[str]] = {}
    for arm in arms:
        difference, name = arm.difference, words.code(arm.name)
        if difference and difference.interval:
            told.append(f"{name} ({words.points(difference.mean)} points, {words.point_interval(difference.interval)})")
        elif difference:
            without.setdefault(difference.reason or "", []).append(name)
    return words.listed([*told, *(f"{words.listed(names)} ({reason})" for reason, names in without.items())])


def _power(report: StudyReport) -> list[str]:
    """What "inconclusive" leaves open."""
    if report.detectable is None or report.spread is None:
        return []
    sd, df = report.spread
    whole = all(run.counted for run in report.runs)
    with_seeds = f"{'with' if whole else 'even with all'} {words.plural(len(report.seeds), 'seed')}"
    return [
        f"Inconclusive is not equal: {with_seeds} and the spread seen here "
        f"({100 * sd:.2f} points, {words.plural(df, 'degree')} of freedom) an arm must differ by "
        f"{100 * report.detectable:.2f} points to be found four times in five."
    ]


def _published(report: StudyReport) -> list[str]:
    if report.published is None:
        return []
    base, reference = report.published.rows[0], report.published.reference
    if base.accuracy.mean is None:
        return []
    beside = "" if report.published.alike else " (not selected alike)"
    where = {True: ", inside", False: ", outside", None: ""}[base.inside]
    predicted = f"{where} what {further_runs(reference.runs)} of the base would give" if where else ""
    difference = base.difference or 0.0
    apart = f"{words.points(abs(difference)).lstrip('+')} points {'above' if difference > 0 else 'below'} it"
    if not difference:
        apart = "at it"
    return [
        f"Published is {words.percent(reference.accuracy)} % ({words.escape(reference.label)}){predicted}: "
        f"the base stands {apart}{beside}."
    ]


def _gaps(report: StudyReport) -> list[str]:
    """Runs that are planned and not in the means."""
    absent = [run for run in report.runs if not run.counted]
    if not absent:
        return []
    planned, verb = words.plural(len(report.runs), "planned run"), "does" if len(absent) == 1 else "do"
    return [f"Of {planned} {len(absent)} {verb} not count: {statuses(absent)} (see below)."]
