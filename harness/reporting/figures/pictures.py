"""Images with what they are and what they are told to be, and images that arms win and lose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.reporting.figures.canvas import INK, QUIET, short, told_apart
from harness.reporting.images import ImageCount
from harness.reporting.model import Arm, StudyReport
from harness.reporting.tables import SAMPLES, class_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 8
ARMS = 4
"""Of so many arms, those furthest from the base, images won and lost are shown."""
CELL = 1.35  # inches, an image with its words
TITLE = 0.35

Strip = tuple[str, Sequence[tuple[int, str, bool]]]
"""A title, and images: index, what stands under it, whether that is wrong."""


def shows(report: StudyReport) -> bool:
    return report.pixels is not None and bool(_strips(report))


def caption(report: StudyReport) -> str:
    return "Sample predictions (truth, then the prediction where it is another), and images that arms win and lose"


def height(report: StudyReport) -> float:
    return sum(TITLE + CELL * -(-len(images) // COLUMNS) for _, images in _strips(report))


def draw(report: StudyReport, figure: Figure) -> None:
    total, top = height(report), 0.0
    for title, images in _strips(report):
        figure.text(0.01, 1 - (top + 0.6 * TITLE) / total, title, fontsize=10.5, va="center")
        top += TITLE
        for place, (index, text, wrong) in enumerate(images):
            row, column = divmod(place, COLUMNS)
            across, down = column / COLUMNS, top + CELL * row
            ax = figure.add_axes((across + 0.005, 1 - (down + CELL - 0.42) / total, 1 / COLUMNS - 0.01, 0.9 / total))
            _image(ax, report.pixels, index, text, wrong)
        top += CELL * -(-len(images) // COLUMNS)


def _image(ax: Axes, pixels: Any, index: int, text: str, wrong: bool) -> None:
    image = np.asarray(pixels[index])
    ax.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    ax.set_xlabel(f"{index}: {text}", fontsize=7, color=INK if wrong else QUIET, labelpad=2)


def _strips(report: StudyReport) -> list[Strip]:
    strips = [_samples(report)] if report.sampled else []
    for arm in report.furthest(ARMS):
        strips += [strip for strip in _won_and_lost(report, arm) if strip[1]]
    return strips


def _samples(report: StudyReport) -> Strip:
    run = report.sampled
    if run is None or run.predictions is None:
        return ("", [])
    labels, predicted = run.predictions.labels, run.predictions.predicted
    images = []
    for index in range(min(SAMPLES, len(labels))):
        truth, said = (short(class_name(report, int(numbers[index])), 12) for numbers in (labels, predicted))
        wrong = labels[index] != predicted[index]
        images.append((index, f"{truth}\ntold {said}" if wrong else f"{truth}\nright", bool(wrong)))
    return f"{short(run.name)}, seed {run.seed}: the first images", images


def _won_and_lost(report: StudyReport, arm: Arm) -> list[Strip]:
    if arm.images is None:
        return []
    seeds, shown = len(arm.images.seeds), told_apart(arm.name for arm in report.arms)

    def told(one: ImageCount) -> tuple[int, str, bool]:
        name = short(class_name(report, one.label), 12)
        return one.index, f"{name}\n{one.base_right} to {one.arm_right} of {seeds}", True

    return [
        (f"{shown[arm.name]} {verb}: right with so many seeds of the base, then of the arm", [*map(told, counts)])
        for verb, counts in (
            ("wins", arm.images.most_won[:COLUMNS]),
            ("loses", arm.images.most_lost[:COLUMNS]),
        )
    ]
