"""Accuracy and loss over epochs, training and validation, each arm's mean with the range over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.reporting import authors
from harness.reporting.figures.canvas import GREY, QUIET, WIDTH, labels, style, told_apart
from harness.reporting.model import Arm, StudyReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW = 3.4  # inches, a row of panels
PUBLISHED = "published"
AUTHORS = "authors' log"
NAMED = 9
"""Beside the base so many arms get a name, a colour and a style, those furthest from it; the others are grey."""
PANELS = (
    ("val_accuracy", "{validation} accuracy, %"),
    ("train_accuracy", "training accuracy, % (running)"),
    ("val_loss", "{validation} loss"),
    ("train_loss", "training loss (running)"),
)


def shows(report: StudyReport) -> bool:
    return any(run.journal for run in report.runs if run.counted)


def caption(report: StudyReport) -> str:
    one = len(report.arms) == len(report.seeds) == 1
    text = "Accuracy and loss over epochs" + ("" if one else ", each arm's mean with the range over its seeds")
    if len(report.arms) > NAMED + 1:
        text += f"; named are the base and the {NAMED} arms furthest from it, the others are grey"
    return f"{text}; thin: the authors' own log of this network" if authors.is_theirs(report) else text


def height(report: StudyReport) -> float:
    return ROW * _rows(_panels(report))


def draw(report: StudyReport, figure: Figure) -> None:
    panels = _panels(report)
    kept = (report.base, *report.furthest(NAMED))
    named = {arm.name: number for number, arm in enumerate(kept)}
    shown = told_apart([*named, AUTHORS] if authors.is_theirs(report) else named)
    for number, (key, title) in enumerate(panels):
        ax = figure.add_axes(_place(number, _rows(panels), max(map(len, shown.values()))))
        ax.set_title(title.format(validation=_validation(report)))
        _published_line(ax, report, key)
        _curves(ax, report, key, named, shown)


def _panels(report: StudyReport) -> list[tuple[str, str]]:
    """Those in which something was measured."""
    rows = [row for run in report.runs if run.counted for row in run.journal[:1]]
    return [panel for panel in PANELS if any(row.get(panel[0]) is not None for row in rows)]


def _rows(panels: Sequence[tuple[str, str]]) -> int:
    return -(-len(panels) // 2)


def _place(number: int, rows: int, letters: int) -> tuple[float, float, float, float]:
    """Left, bottom, width, height of a panel, two in a row, with room for names of `letters` on its right."""
    row, column = divmod(number, 2)
    left, right, below, above = 0.55, 0.3 + 0.073 * letters, 0.55, 0.35  # inches
    width, height = WIDTH / 2 - left - right, ROW - below - above
    across, up = column * WIDTH / 2 + left, (rows - 1 - row) * ROW + below
    return across / WIDTH, up / (ROW * rows), width / WIDTH, height / (ROW * rows)


def _validation(report: StudyReport) -> str:
    return "test" if report.protocol == "paper" else "validation"


def _mean_and_range(arm: Arm, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Epochs [E] and, for these, mean, lowest and highest over counted runs [3, E]; None where nothing was measured.

    Only epochs that every counted run has: a mean over other runs from one epoch to the next would jump.
    """
    scale = 100 if key.endswith("accuracy") else 1
    curves = [
        {int(row["epoch"]): scale * float(row[key]) for row in run.journal if row.get(key) is not None}
        for run in arm.counted
        if run.journal
    ]
    epochs = sorted(set.intersection(*map(set, curves))) if curves else []
    if not epochs:
        return None
    values = np.array([[curve[epoch] for epoch in epochs] for curve in curves])
    return np.array(epochs), np.stack([values.mean(0), values.min(0), values.max(0)])


def _curves(ax: Axes, report: StudyReport, key: str, named: Mapping[str, int], shown: Mapping[str, str]) -> None:
    from matplotlib.ticker import MaxNLocator

    ends: list[tuple[float, float, str, str]] = []
    settled: list[np.ndarray] = []
    for arm in report.arms:
        curve = _mean_and_range(arm, key)
        if curve is None:
            continue
        epochs, (mean, low, high) = curve
        settled += [low[len(epochs) // 20 :], high[len(epochs) // 20 :]]
        if arm.name not in named:
            ax.plot(epochs, mean, color=GREY, linewidth=0.7, zorder=1)
            continue
        drawn = style(named[arm.name])
        ax.fill_between(epochs, low, high, color=drawn["color"], alpha=0.17, linewidth=0)
        step = max(1, len(epochs) // 7)
        ax.plot(epochs, mean, **drawn, markevery=(named[arm.name] % step, step))
        ends.append((float(epochs[-1]), float(mean[-1]), arm.name, drawn["color"]))
    ends += _authors_line(ax, report, key)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    _limit(ax, np.concatenate(settled) if settled else np.array([]))
    labels(ax, ends, shown)


def _limit(ax: Axes, settled: np.ndarray) -> None:
    """Leave the first twentieth of the epochs out of the scale: it would squeeze all that is to be compared."""
    lines = [float(np.asarray(line.get_ydata())[0]) for line in ax.lines if line.get_gid() == PUBLISHED]
    values = np.concatenate([settled, lines])
    if values.size:
        room = 0.06 * float(np.ptp(values)) or 0.01
        ax.set_ylim(float(values.min()) - room, float(values.max()) + room)


def _published_line(ax: Axes, report: StudyReport, key: str) -> None:
    """The published result in the panels of the set it was measured on."""
    if report.published is None or report.protocol != "paper":
        return
    reference = report.published.reference
    value = {"val_accuracy": 100 * reference.accuracy, "val_loss": reference.loss}.get(key)
    if value is None:
        return
    ax.axhline(value, color=QUIET, linewidth=1.2, linestyle=(0, (8, 3)), zorder=1, gid=PUBLISHED)
    shown = f"published {value:.2f} %" if key == "val_accuracy" else f"published {value:.4f}"
    below = key == "val_accuracy"  # where the curves are not yet when they pass the first epochs
    ax.annotate(
        shown, (0.01, value), xycoords=("axes fraction", "data"), xytext=(0, -4 if below else 4),
        textcoords="offset points", va="top" if below else "bottom", fontsize=8.5, color=QUIET,
    )  # fmt: skip


def _authors_line(ax: Axes, report: StudyReport, key: str) -> list[tuple[float, float, str, str]]:
    """Thin, up to this budget; its end, where there is one."""
    if not authors.is_theirs(report):
        return []
    epochs, values = authors.curve(key, report.epochs)
    ax.plot(epochs, values, color=QUIET, linewidth=0.6, zorder=1)
    return [(epochs[-1], values[-1], AUTHORS, QUIET)]
