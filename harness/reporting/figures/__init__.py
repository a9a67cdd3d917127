"""The figures by kind: when there is one, what stands under it, how high it is and how it is drawn.

Nothing here imports matplotlib until a figure is asked for as PNG or SVG.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from harness.reporting.figures import canvas, curves, forest, frontier, matrix, pictures
from harness.reporting.model import StudyReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = "pictures"
"""The kind that needs the data set's images."""


@dataclass(frozen=True)
class Kind:
    """One kind of figure."""

    shows: Callable[[StudyReport], bool]
    caption: Callable[[StudyReport], str]
    height: Callable[[StudyReport], float]
    """In inches."""
    draw: Callable[[StudyReport, Figure], None]

    @classmethod
    def of(cls, module: Any) -> Kind:
        return cls(module.shows, module.caption, module.height, module.draw)


_MODULES: dict[str, ModuleType] = {
    "differences": forest,
    "parameters": frontier,
    "curves": curves,
    "confusion": matrix,
    PICTURES: pictures,
}
KINDS: dict[str, Kind] = {name: Kind.of(module) for name, module in _MODULES.items()}


def png(report: StudyReport, kind: str) -> bytes:
    """The same report gives the same bytes, with the same matplotlib (`drawn_with`)."""
    return canvas.png(KINDS[kind].height(report), partial(KINDS[kind].draw, report))


def svg(report: StudyReport, kind: str) -> str:
    """As an element for a page."""
    return canvas.svg(KINDS[kind].height(report), partial(KINDS[kind].draw, report), kind)


def drawn_with() -> str:
    """Which matplotlib: what the bytes of a figure depend on beside the records."""
    return canvas.drawn_with()
