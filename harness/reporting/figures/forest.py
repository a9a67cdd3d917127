"""The differences to the base with their simultaneous intervals, the margin shaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.reporting.figures.canvas import INK, PAPER, SHADE, told_apart
from harness.reporting.model import Arm, StudyReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def shows(report: StudyReport) -> bool:
    """Where an arm has an interval."""
    return any(arm.difference and arm.difference.interval for arm in report.arms)


def caption(report: StudyReport) -> str:
    return "Differences to the base with their simultaneous 95 % intervals"


def height(report: StudyReport) -> float:
    return 1.5 + 0.36 * (len(report.arms) - 1)


def draw(report: StudyReport, figure: Figure) -> None:
    arms = report.arms[1:]
    figure.set_layout_engine("constrained")
    ax = figure.subplots()
    if report.margin is not None:
        ax.axvspan(-100 * report.margin, 100 * report.margin, color=SHADE, zorder=0, linewidth=0)
    ax.axvline(0, color=INK, linewidth=1)
    for row, arm in enumerate(arms):
        _difference(ax, row, arm)
    shown = told_apart((arm.name for arm in report.arms), 32)
    ax.set_yticks(range(len(arms)), [shown[arm.name] for arm in arms])
    ax.set_ylim(len(arms) - 0.4, -0.6)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(_difference_words(report, shown[report.base.name]))


def _difference(ax: Axes, row: int, arm: Arm) -> None:
    difference = arm.difference
    if difference is None:
        return
    conclusive = difference.verdict != "inconclusive"
    told = f"{difference.verdict}" + (" †" if difference.welch_differs else "")
    if difference.interval is None:
        told = (difference.reason or told).removeprefix("the arm has ")
    elif difference.mean is not None:
        low, high = difference.interval
        ax.plot([100 * low, 100 * high], [row, row], color=INK, linewidth=2, solid_capstyle="butt")
    if difference.mean is not None:
        face = INK if conclusive else PAPER
        ax.plot(100 * difference.mean, row, "o", markersize=7, markerfacecolor=face, markeredgecolor=INK, zorder=3)
    ax.annotate(told, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=9, annotation_clip=False)


def _difference_words(report: StudyReport, base: str) -> str:
    margin = f"; shaded: within the margin of ±{100 * report.margin:.2f}" if report.margin is not None else ""
    budget = f"at {report.epochs} epoch{'s' if report.epochs != 1 else ''}"
    return (
        f"difference to {base} in points of accuracy, {budget}\n"
        f"simultaneous 95 % intervals; hollow: inconclusive{margin}"
    )
