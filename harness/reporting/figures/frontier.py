"""Accuracy against trainable parameters, with the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.reporting.figures.canvas import GREY, INK, QUIET, labels, style, told_apart
from harness.reporting.figures.curves import NAMED
from harness.reporting.model import Arm, StudyReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAR = 3.0
"""From so many times between the smallest count and the largest on, counts stand on a logarithmic scale."""


APART = 1.02
"""Counts are told apart on an axis from so many times on; nearly equal ones stand in the table."""


def shows(report: StudyReport) -> bool:
    """Where arms differ in their parameters."""
    counts = [arm.parameters for arm in _drawn(report) if arm.parameters]
    return bool(counts) and max(counts) >= APART * min(counts)


def caption(report: StudyReport) -> str:
    text = "Accuracy against trainable parameters, with 95 % t-intervals"
    if report.published and report.published.reference.parameters:
        text += "; the star is the published number"
    return text + ("; the dashed line is the budget" if report.base.max_parameters else "")


def height(report: StudyReport) -> float:
    return 4.2


def draw(report: StudyReport, figure: Figure) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    arms = _drawn(report)
    numbers = {arm.name: number for number, arm in enumerate((report.base, *report.furthest(NAMED)))}
    shown = told_apart((*numbers, "published"))
    left, right = 0.07, 0.04 + 0.0075 * max(map(len, shown.values()))
    ax = figure.add_axes((left, 0.14, 1 - left - right, 0.82))
    ends = []
    for arm in arms:
        if arm.last.mean is None or arm.parameters is None:
            continue
        colour = style(numbers[arm.name])["color"] if arm.name in numbers else GREY
        _point(ax, arm, numbers.get(arm.name), colour)
        if arm.name in numbers:
            ends.append((float(arm.parameters), 100 * arm.last.mean, arm.name, colour))
    counts = [arm.parameters for arm in arms if arm.parameters]
    if (published := report.published and report.published.reference) and published.parameters:
        ax.plot(published.parameters, 100 * published.accuracy, "*", color=QUIET, markersize=12)
        ends.append((float(published.parameters), 100 * published.accuracy, "published", QUIET))
        counts.append(published.parameters)
    if budget := report.base.max_parameters:
        ax.axvline(budget, color=INK, linewidth=1.2, linestyle=(0, (6, 3)))
        counts.append(budget)
    if max(counts) > FAR * min(counts):
        ax.set_xscale("log")
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_xlabel("trainable parameters" + (f" (budget {budget:,})" if budget else ""))
    ax.set_ylabel("accuracy, %")
    ax.margins(0.06, 0.08)
    _end_at_100(ax)
    labels(ax, ends, shown, gap=0.055)


def _end_at_100(ax: Axes) -> None:
    """No accuracy is above 100 %: an interval that reaches beyond it (a t-interval knows no bounds) leaves the axes."""
    low, high = ax.get_ylim()
    ax.set_ylim(top=min(high, 100 + 0.03 * (100 - low)))  # with room for a marker at 100


def _drawn(report: StudyReport) -> list[Arm]:
    return [arm for arm in report.arms if arm.last.mean is not None and arm.parameters is not None]


def _point(ax: Axes, arm: Arm, number: int | None, colour: str) -> None:
    if arm.last.mean is None or arm.parameters is None:
        return
    half = 100 * (arm.last.interval[1] - arm.last.interval[0]) / 2 if arm.last.interval else None
    marker = "o" if number is None else style(number)["marker"]
    ax.errorbar(
        [arm.parameters], [100 * arm.last.mean], None if half is None else [half], color=colour, marker=marker,
        markersize=8 if number == 0 else 6, linewidth=1, capsize=3, ecolor=QUIET if number is not None else GREY,
        zorder=2 if number is None else 3,
    )  # fmt: skip
