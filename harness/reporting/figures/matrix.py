"""What is told to be what: the base's confusion matrix, and how those of other arms differ from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.reporting.figures.canvas import COLOURS, INK, PAPER, told_apart
from harness.reporting.images import Predictions, confusion
from harness.reporting.model import Arm, StudyReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 5.0  # inches, a matrix
BESIDE = 3
"""Of so many arms, those furthest from the base, the difference to it is shown."""
NUMBERED = 12
"""Up to so many classes each cell has its number and each class its name."""
MORE, LESS = COLOURS[1], COLOURS[2]


def shows(report: StudyReport) -> bool:
    return bool(_predictions(report.base))


def caption(report: StudyReport) -> str:
    text = "Confusion: of each class (row) the percentage told to be each other (column)"
    if len(report.arms) > 1:
        text = text.replace("Confusion", "Confusion of the base, over its seeds")
    beside = _beside(report)
    if not beside:
        return text
    which = (
        "the other arms"
        if len(beside) == len(report.arms) - 1
        else "the arm furthest from it"
        if len(beside) == 1
        else f"the {len(beside)} arms furthest from it"
    )
    return f"{text}; then the difference of {which}, in points"


def height(report: StudyReport) -> float:
    return SIDE * -(-(1 + len(_beside(report))) // 2)


def draw(report: StudyReport, figure: Figure) -> None:
    beside = _beside(report)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(-(-(1 + len(beside)) // 2), 2, squeeze=False).flatten()
    known = told_apart(report.class_names, 12)
    names, shown = [known[name] for name in report.class_names], told_apart(arm.name for arm in report.arms)
    classes = _classes(report)
    base = confusion(_predictions(report.base), classes)
    _matrix(axes[0], 100 * base, names, f"{shown[report.base.name]}, %", signed=False)
    for ax, arm in zip(axes[1:], beside, strict=False):
        apart = confusion(_predictions(arm), classes) - base
        _matrix(ax, 100 * apart, names, f"{shown[arm.name]} less base, points", signed=True)
    for ax in axes[1 + len(beside) :]:
        ax.set_visible(False)


def _beside(report: StudyReport) -> list[Arm]:
    return [arm for arm in report.furthest(BESIDE) if _predictions(arm)]


def _predictions(arm: Arm) -> list[Predictions]:
    return [run.predictions for run in arm.counted if run.predictions is not None]


def _classes(report: StudyReport) -> int:
    """As the data set says, or as many as occur."""
    seen = [int(max(p.labels.max(), p.predicted.max())) + 1 for arm in report.arms for p in _predictions(arm)]
    return max(len(report.class_names), *seen)


def _matrix(ax: Axes, values: np.ndarray, names: list[str], title: str, *, signed: bool) -> None:
    """A square for each cell, as strong as its number; in differences more and less have a colour each, and a sign."""
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    classes = len(values)
    off = values[~np.eye(classes, dtype=bool)]
    # The diagonal would drown what is told wrongly; it is as dark as the darkest of these.
    scale = float(np.abs(off if off.size else values).max()) or 1.0
    strength = np.minimum(1.0, np.abs(values) / scale) * 0.75
    colours = [
        to_rgba((MORE if value > 0 else LESS) if signed else INK, float(alpha))
        for value, alpha in zip(values.flat, strength.flat, strict=True)
    ]
    squares = [Rectangle((column - 0.5, row - 0.5), 1, 1) for row in range(classes) for column in range(classes)]
    ax.add_collection(PatchCollection(squares, facecolors=colours, edgecolors="none", linewidths=0))
    if classes <= NUMBERED:
        for (row, column), value in np.ndenumerate(values):
            text = _number(float(value), signed)
            colour = PAPER if strength[row, column] > 0.45 else INK
            ax.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    ax.set(title=title, xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5), aspect="equal")
    ax.grid(False)
    ax.set_xlabel("told to be")
    ax.set_ylabel("is")
    if classes <= NUMBERED and len(names) == classes:
        ax.set_xticks(range(classes), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        ax.set_yticks(range(classes), names, fontsize=8)
    ax.tick_params(length=0)


def _number(value: float, signed: bool) -> str:
    text = f"{value:+.1f}" if signed else f"{value:.1f}" if value < 99.95 else "100"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else ""
