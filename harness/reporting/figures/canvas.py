"""What all figures share: their size, their styles, and a figure as PNG or inline SVG with the same bytes every time.

Readable without colour: every arm has its own line style and marker, and its name beside its line.
matplotlib is imported on first use, through its object interface and with its own defaults, so that
neither a display nor a user's settings play a part.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 10.0  # inches
DPI = 140
INK, PAPER, QUIET, GRID, SHADE, GREY = "#111111", "#FFFFFF", "#555555", "#E3E3E3", "#D9D9D9", "#BBBBBB"
# Okabe and Ito's, which the colour-blind can tell apart, and two more.
COLOURS = (INK, "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#A6761D", "#7A5195")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "os^Dv<>Pp*hX"
SETTINGS: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "svg.fonttype": "none",  # text stays text: it can be selected, read aloud and searched
    "svg.hashsalt": "harness",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


# --- to bytes -----------------------------------------------------------------------------------


def png(height: float, draw: Callable[[Figure], None]) -> bytes:
    """A figure of the page's width and `height` inches; carries matplotlib's version and no date."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    with _figure(height, PAPER) as figure:
        draw(figure)
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": drawn_with()})
    return buffer.getvalue()


def svg(height: float, draw: Callable[[Figure], None], name: str) -> str:
    """The same as an element to stand in a page, whose colours it takes (`themed`), for light and for dark.

    `name` is another for each figure of the page and begins its ids.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    with _figure(height, "none") as figure:
        draw(figure)
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _themed(_bare(buffer.getvalue(), name))


def drawn_with() -> str:
    """What the bytes of a figure depend on beside the records."""
    import matplotlib

    return f"matplotlib {matplotlib.__version__}"


@contextmanager
def _figure(height: float, colour: str) -> Iterator[Figure]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=colour)


def _bare(text: str, name: str) -> str:
    """From the element on, without what names parts or fixes a size: several stand in one page, at its width."""
    text = text[text.index("<svg") :].rstrip()
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text)
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Names of groups repeat, even in one figure; those of markers and clips, which are referred to, are hashes of
    # what they hold, and two figures may hold the same.
    used = set(re.findall(_REFERENCE + r'([^)"]+)', text))
    return re.sub(r"<[^<>]+>", lambda tag: _own_ids(tag[0], name, used), text)


_REFERENCE = r'(?:(?<=url\()|(?<=href="))#'


def _own_ids(tag: str, name: str, used: Collection[str]) -> str:
    """The tag with `name` before the id that it has or refers to; without an id that is not `used`."""
    tag = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", tag)
    return re.sub(_REFERENCE, f"#{name}-", tag)


_VARIABLES = {
    colour.lower(): f"var(--{name}, {colour.lower()})"
    for name, colour in {
        "ink": INK, "paper": PAPER, "quiet": QUIET, "line": GRID, "shade": SHADE, "grey": GREY,
        **{f"arm{i}": colour for i, colour in enumerate(COLOURS) if i},
    }.items()
}  # fmt: skip


def _themed(text: str) -> str:
    """Colours as variables that page.css sets."""
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: _VARIABLES.get(found[0], found[0]), text)


# --- lines and names ----------------------------------------------------------------------------


def style(index: int) -> dict[str, Any]:
    """The base (0) is a thick line under the others, so that an arm that lies on it can still be seen."""
    return {
        "color": COLOURS[1 + (index - 1) % (len(COLOURS) - 1)] if index else COLOURS[0],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
        "linewidth": 3.0 if index == 0 else 1.4,
        "markersize": 6.5 if index == 0 else 5,
        "markeredgecolor": PAPER,
        "markeredgewidth": 0.6,
        "zorder": 2 if index == 0 else 3,
    }


def labels(
    ax: Axes, ends: Sequence[tuple[float, float, str, str]], shown: Mapping[str, str], gap: float = 0.068
) -> None:
    """Names (x, y, name, colour) right of the panel, as they are `shown`, moved apart where they would overlap.

    `gap` in axes fractions.
    """
    low, high = ax.get_ylim()
    ordered = sorted(ends, key=lambda end: end[1])
    heights = [(value - low) / (high - low) for _, value, _, _ in ordered]
    for height, (x, value, name, colour) in zip(apart(heights, gap), ordered, strict=True):
        ax.annotate(
            shown[name], (x, value), (1.04, height), textcoords="axes fraction",
            va="center", fontsize=9, color=colour, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def apart(heights: Sequence[float], gap: float = 0.068) -> list[float]:
    """Rising `heights` (axes fractions) moved as little as can be so that neighbours are `gap` apart."""
    from scipy.optimize import isotonic_regression

    if not heights:
        return []
    steps = gap * np.arange(len(heights))
    moved = isotonic_regression(np.asarray(heights) - steps).x + steps
    moved -= max(0.0, float(moved[-1]) - 1.0)
    return [float(height) for height in moved + max(0.0, -float(moved[0]))]


def short(name: str, limit: int = 24) -> str:
    """A name as matplotlib can write it: one line, no mathematics, a box for letters its own font has not.

    Of a longer name than `limit` both ends remain: arms of one grid begin alike.
    """
    line = " ".join(name.split())
    if len(line) > limit:
        line = f"{line[: limit // 2]}…{line[limit // 2 + 1 - limit :]}"
    known = _letters()
    return "".join(letter if ord(letter) in known else "\u25a1" for letter in line).replace("$", r"\$")


def told_apart(names: Iterable[str], limit: int = 24) -> dict[str, str]:
    """A figure's names -> how it shows them: as `short` does, numbered where several would read the same."""
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        alike.setdefault(short(name, limit), []).append(name)
    return {
        name: f"{shown} ({number})" if len(group) > 1 else shown
        for shown, group in alike.items()
        for number, name in enumerate(group, 1)
    }


@cache
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    # The font that comes with matplotlib: others differ from machine to machine, and so would the bytes.
    return frozenset(get_font(findfont(FontProperties("DejaVu Sans"))).get_charmap())
