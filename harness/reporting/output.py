"""Reports to text and to files, and whether the files are still what the records give."""

from __future__ import annotations

import base64
import difflib
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import InputError
from harness.reporting import as_html, as_latex, as_markdown, figures
from harness.reporting.as_csv import to_csv
from harness.reporting.as_json import to_json
from harness.reporting.contents import document_of
from harness.reporting.document import Document, figure_path
from harness.reporting.model import RunsReport, StudyReport
from harness.tracking.store import atomic_write_bytes, atomic_write_text

Report = StudyReport | RunsReport


def _json(report: Report) -> str:
    return json.dumps(to_json(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _html(report: Report) -> str:
    document = document_of(report)
    return as_html.to_html_page(document, {figure.kind: _element(report, figure.kind) for figure in document.figures})


def _element(report: Report, kind: str) -> str:
    if isinstance(report, RunsReport):
        raise ValueError("a list of runs has no figures")
    if kind != figures.PICTURES:
        return figures.svg(report, kind)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(figures.png(report, kind)).decode()}">'


RENDERERS: dict[str, Callable[[Report], str]] = {
    "md": lambda report: as_markdown.to_markdown(document_of(report)),
    "html": _html,
    "csv": lambda report: to_csv(document_of(report)),
    "json": _json,
    "tex": lambda report: as_latex.to_latex_document(document_of(report)),
}
LEFT_OUT = {"md": as_markdown.LEFT_OUT, "html": as_html.LEFT_OUT, "tex": as_latex.LEFT_OUT}
"""Format -> the lines around what `check` does not compare: pictures, for which not everybody has the data."""


def render(report: Report, format: str) -> str:
    """The report as text; `format` is one of RENDERERS. InputError for another."""
    if format not in RENDERERS:
        raise InputError(f"there is no report format {format!r}", fix=f"choose from {', '.join(RENDERERS)}")
    return RENDERERS[format](report)


def write(report: Report, output: Path, formats: Sequence[str] = ("md",)) -> list[Path]:
    """Write each format to `output` with that format's suffix, and beside Markdown and LaTeX their figures.

    Returns the files written, texts first. Every file is replaced whole; a figure that shows nothing
    any more is left as it lies.
    """
    texts = {format: render(report, format) for format in dict.fromkeys(formats)}
    paths = []
    for format, text in texts.items():
        path = path_of(output, format)
        atomic_write_text(path, text)
        paths.append(path)
    if texts.keys() & {"md", "tex"}:
        for path, image in _images(report, output.parent, pictures=True).items():
            atomic_write_bytes(path, image)
            paths.append(path)
    return paths


def path_of(output: Path, format: str) -> Path:
    """Where `write` puts a format. A known suffix is replaced; other dots belong to the name (cifar10.v2 stays)."""
    stem = output.stem if output.suffix.lstrip(".") in RENDERERS else output.name
    return output.with_name(f"{stem}.{format}")


def _images(report: Report, folder: Path, *, pictures: bool) -> dict[Path, bytes]:
    """The figures that Markdown and LaTeX refer to."""
    if isinstance(report, RunsReport):
        return {}
    document: Document = document_of(report)
    kinds = [figure.kind for figure in document.figures if pictures or figure.kind != figures.PICTURES]
    return {folder / figure_path(document, kind): figures.png(report, kind) for kind in kinds}


# --- check --------------------------------------------------------------------------------------


def check(report: Report, output: Path) -> str | None:
    """None when the file at `output` is exactly what the records give, else how it differs (file to records).

    The format is told by the suffix; a missing file counts as empty. Figures beside it are compared byte by byte,
    but for those that another version of matplotlib has drawn; pictures of the data set are not.
    """
    format = output.suffix.lstrip(".")
    found = _read(output)
    drawn_here = figures.drawn_with() in found
    found, expected = (_comparable(text, format, drawn_here) for text in (found, render(report, format)))
    if found != expected:
        names = f"{output.name} as it is", f"{output.name} from the records"
        lines = difflib.unified_diff(found.splitlines(), expected.splitlines(), *names, lineterm="")
        return "\n".join(lines) or "the files differ in their line endings or in the end of the last line"
    if format not in ("md", "tex"):
        return None
    differing = [
        path for path, image in _images(report, output.parent, pictures=False).items() if _differs(path, image)
    ]
    return "\n".join(f"{path} is not the figure that the records give" for path in differing) or None


def _read(output: Path) -> str:
    try:
        return output.read_text(encoding="utf-8") if output.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the report can't be read: {error}", where=str(output)) from error


def _comparable(text: str, format: str, drawn_here: bool) -> str:
    """Without pictures, and in HTML without figures where another version of matplotlib has drawn them."""
    if format in LEFT_OUT:
        first, last = map(re.escape, LEFT_OUT[format])
        text = re.sub(rf"\n*^{first}\n.*?^{last}$", "", text, flags=re.DOTALL | re.MULTILINE)
    if format == "html" and not drawn_here:
        text = re.sub(r"<svg [\s\S]*?</svg>|<meta name=.generator.*", "", text)
    return text


def _differs(path: Path, image: bytes) -> bool:
    """Whether the file is another figure; not so where another version of matplotlib says that it has drawn it."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return True
    except OSError as error:
        raise InputError(f"the figure can't be read: {error.strerror}", where=str(path)) from error
    return found != image and _drawn_with(found) in (figures.drawn_with(), None)


def _drawn_with(image: bytes) -> str | None:
    """As `canvas.png` has written it; None for what is no such figure."""
    from PIL import Image

    try:
        told = Image.open(io.BytesIO(image)).info.get("Software")
    except (OSError, SyntaxError, ValueError):  # Pillow's ways of saying that a file is damaged
        return None
    return str(told) if told else None
