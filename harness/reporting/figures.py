"""The figures as PNG bytes: learning curves and differences. The same report gives the same bytes.

Readable without colour: every arm has its own line style and marker, and its name beside its line.
matplotlib is imported on first use, through its object interface and with its own defaults, so that
neither a display nor a user's settings play a part.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.reporting.model import Arm, StudyReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 10.0  # inches
ROW = 3.4  # inches, a row of panels
DPI = 140
# Okabe and Ito's, which the colour-blind can tell apart, and two more.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#A6761D", "#7A5195")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "os^Dv<>Pp*hX"
PUBLISHED = "published"
NAMED = 10
"""Above so many arms only those furthest from the base get a name, a colour and a style; the others are grey."""
SETTINGS: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
}
PANELS = (
    ("val_accuracy", "{validation} accuracy, %"),
    ("train_accuracy", "training accuracy, % (running)"),
    ("val_loss", "{validation} loss"),
    ("train_loss", "training loss (running)"),
)


def figures_of(report: StudyReport) -> dict[str, str]:
    """Kind -> path of its PNG relative to the report's folder."""
    return {kind: f"figures/{report.name}-{kind}.png" for kind in ("curves", "differences")}


@contextmanager
def _canvas(height: float, **layout: Any) -> Iterator[tuple[Figure, io.BytesIO]]:
    """An empty figure of the page's width; its PNG stands in the buffer after the block."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, **layout)
        buffer = io.BytesIO()
        yield figure, buffer
        # No date and no version: the same records must give the same bytes.
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})


# --- learning curves ----------------------------------------------------------------------------


def curves_png(report: StudyReport) -> bytes | None:
    """Accuracy and loss over epochs, each arm's mean with the range over its counted runs; None without any."""
    drawn = [arm for arm in report.arms if any(run.journal for run in arm.counted)]
    panels = [panel for panel in PANELS if any(_mean_and_range(arm, panel[0]) is not None for arm in drawn)]
    if not panels:
        return None
    rows = -(-len(panels) // 2)
    with _canvas(ROW * rows) as (figure, buffer):
        named = _named(report)
        for number, (key, title) in enumerate(panels):
            ax = figure.add_axes(_place(number, rows, max(len(_short(name)) for name in named)))
            ax.set_title(title.format(validation=_validation(report)))
            _published_line(ax, report, key)
            _curves(ax, drawn, key, named)
    return buffer.getvalue()


def _place(number: int, rows: int, letters: int) -> tuple[float, float, float, float]:
    """Left, bottom, width, height of a panel, two in a row, with room for names of `letters` on its right."""
    row, column = divmod(number, 2)
    left, right, below, above = 0.55, 0.3 + 0.073 * letters, 0.55, 0.35  # inches
    width, height = WIDTH / 2 - left - right, ROW - below - above
    across, up = column * WIDTH / 2 + left, (rows - 1 - row) * ROW + below
    return across / WIDTH, up / (ROW * rows), width / WIDTH, height / (ROW * rows)


def _validation(report: StudyReport) -> str:
    return "test" if report.protocol == "paper" else "validation"


def _named(report: StudyReport) -> dict[str, int]:
    """Arms that get a style and a label -> the number of their style; the base has 0."""
    if len(report.arms) <= NAMED:
        return {arm.name: number for number, arm in enumerate(report.arms)}

    def distance(arm: Arm) -> float:
        return abs(arm.difference.mean) if arm.difference and arm.difference.mean is not None else -1.0

    furthest = sorted(report.arms[1:], key=distance, reverse=True)[: NAMED - 1]
    kept = {report.base.name, *(arm.name for arm in furthest)}
    return {name: number for number, name in enumerate(arm.name for arm in report.arms if arm.name in kept)}


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


def _curves(ax: Axes, arms: Sequence[Arm], key: str, named: Mapping[str, int]) -> None:
    from matplotlib.ticker import MaxNLocator

    ends: list[tuple[float, float, str, str]] = []
    settled: list[np.ndarray] = []
    for arm in arms:
        curve = _mean_and_range(arm, key)
        if curve is None:
            continue
        epochs, (mean, low, high) = curve
        settled += [low[len(epochs) // 20 :], high[len(epochs) // 20 :]]
        if arm.name not in named:
            ax.plot(epochs, mean, color="#BBBBBB", linewidth=0.7, zorder=1)
            continue
        style = _style(named[arm.name])
        ax.fill_between(epochs, low, high, color=style["color"], alpha=0.17, linewidth=0)
        step = max(1, len(epochs) // 7)
        ax.plot(epochs, mean, **style, markevery=(named[arm.name] % step, step))
        ends.append((float(epochs[-1]), float(mean[-1]), arm.name, style["color"]))
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    _limit(ax, np.concatenate(settled) if settled else np.array([]))
    _labels(ax, ends)


def _limit(ax: Axes, settled: np.ndarray) -> None:
    """Leave the first twentieth of the epochs out of the scale: it would squeeze all that is to be compared."""
    lines = [float(np.asarray(line.get_ydata())[0]) for line in ax.lines if line.get_gid() == PUBLISHED]
    values = np.concatenate([settled, lines])
    if values.size:
        room = 0.06 * float(np.ptp(values)) or 0.01
        ax.set_ylim(float(values.min()) - room, float(values.max()) + room)


def _style(index: int) -> dict[str, Any]:
    """The base is a thick line under the others, so that an arm that lies on it can still be seen."""
    return {
        "color": COLOURS[1 + (index - 1) % (len(COLOURS) - 1)] if index else COLOURS[0],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
        "linewidth": 3.0 if index == 0 else 1.4,
        "markersize": 6.5 if index == 0 else 5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
        "zorder": 2 if index == 0 else 3,
    }


def _labels(ax: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """The arms' names right of their lines, moved apart where they would overlap."""
    low, high = ax.get_ylim()
    ordered = sorted(ends, key=lambda end: end[1])
    heights = [(value - low) / (high - low) for _, value, _, _ in ordered]
    for height, (epoch, value, name, colour) in zip(_apart(heights), ordered, strict=True):
        ax.annotate(
            _short(name), (epoch, value), (1.04, height), textcoords="axes fraction",
            va="center", fontsize=9, color=colour, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def _apart(heights: Sequence[float], gap: float = 0.068) -> list[float]:
    """Rising `heights` (axes fractions) moved as little as can be so that neighbours are `gap` apart."""
    from scipy.optimize import isotonic_regression

    if not heights:
        return []
    steps = gap * np.arange(len(heights))
    moved = isotonic_regression(np.asarray(heights) - steps).x + steps
    moved -= max(0.0, float(moved[-1]) - 1.0)
    return [float(height) for height in moved + max(0.0, -float(moved[0]))]


def _short(name: str, limit: int = 24) -> str:
    """A name as matplotlib can write it: one line, no mathematics, a box for letters its own font has not."""
    line = " ".join(name.split())
    line = line if len(line) <= limit else f"{line[: limit - 1]}…"
    known = _letters()
    return "".join(letter if ord(letter) in known else "\u25a1" for letter in line).replace("$", r"\$")


@cache
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    # The font that comes with matplotlib: others differ from machine to machine, and so would the bytes.
    return frozenset(get_font(findfont(FontProperties("DejaVu Sans"))).get_charmap())


def _published_line(ax: Axes, report: StudyReport, key: str) -> None:
    """The published result in the panels of the set it was measured on."""
    if report.published is None or report.protocol != "paper":
        return
    reference = report.published.reference
    value = {"val_accuracy": 100 * reference.accuracy, "val_loss": reference.loss}.get(key)
    if value is None:
        return
    ax.axhline(value, color="#555555", linewidth=1.2, linestyle=(0, (8, 3)), zorder=1, gid=PUBLISHED)
    shown = f"published {value:.2f} %" if key == "val_accuracy" else f"published {value:.4f}"
    below = key == "val_accuracy"  # where the curves are not yet when they pass the first epochs
    ax.annotate(
        shown, (0.01, value), xycoords=("axes fraction", "data"), xytext=(0, -4 if below else 4),
        textcoords="offset points", va="top" if below else "bottom", fontsize=8.5, color="#555555",
    )  # fmt: skip


# --- differences --------------------------------------------------------------------------------


def differences_png(report: StudyReport) -> bytes | None:
    """Each arm's difference to the base with its simultaneous interval; None where no arm has one."""
    arms = report.arms[1:]
    if not any(arm.difference and arm.difference.interval for arm in arms):
        return None
    with _canvas(1.5 + 0.36 * len(arms), layout="constrained") as (figure, buffer):
        ax = figure.subplots()
        if report.margin is not None:
            ax.axvspan(-100 * report.margin, 100 * report.margin, color="#D9D9D9", zorder=0, linewidth=0)
        ax.axvline(0, color="black", linewidth=1)
        for row, arm in enumerate(arms):
            _difference(ax, row, arm)
        ax.set_yticks(range(len(arms)), [_short(arm.name, 32) for arm in arms])
        ax.set_ylim(len(arms) - 0.4, -0.6)
        ax.grid(False, axis="y")
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel(_difference_words(report))
    return buffer.getvalue()


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
        ax.plot([100 * low, 100 * high], [row, row], color="black", linewidth=2, solid_capstyle="butt")
    if difference.mean is not None:
        face = "black" if conclusive else "white"
        ax.plot(100 * difference.mean, row, "o", markersize=7, markerfacecolor=face, markeredgecolor="black", zorder=3)
    ax.annotate(told, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=9, annotation_clip=False)


def _difference_words(report: StudyReport) -> str:
    margin = f"; shaded: within the margin of ±{100 * report.margin:.2f}" if report.margin is not None else ""
    budget = f"at {report.epochs} epoch{'s' if report.epochs != 1 else ''}"
    return (
        f"difference to {_short(report.base.name, 32)} in points of accuracy, {budget}\n"
        f"simultaneous 95 % intervals; hollow: inconclusive{margin}"
    )
