"""Reports to text and to files, and whether the files are still what the records give."""

from __future__ import annotations

import base64
import difflib
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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


def _html(report: Report, document: Document) -> str:
    return as_html.to_html_page(document, {figure.kind: _element(report, figure.kind) for figure in document.figures})


def _element(report: Report, kind: str) -> str:
    if isinstance(report, RunsReport):
        raise ValueError("a list of runs has no figures")
    if kind != figures.PICTURES:
        return figures.svg(report, kind)
    image = b"" if report.pixels is NO_PIXELS else figures.png(report, kind)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(image).decode()}">'


NO_PIXELS: Any = ()
"""In place of a report's pixels: its pictures have their place and their words, and nothing in them."""
RENDERERS: dict[str, Callable[[Report, Document], str]] = {
    "md": lambda report, document: as_markdown.to_markdown(document),
    "html": _html,
    "csv": lambda report, document: to_csv(document),
    "json": lambda report, document: _json(report),
    "tex": lambda report, document: as_latex.to_latex_document(document),
}
LEFT_OUT = {"md": as_markdown.LEFT_OUT, "html": as_html.LEFT_OUT, "tex": as_latex.LEFT_OUT}
"""Format -> the lines around pictures, for which not everybody has the data: `check` takes a file with and without."""


def render(report: Report, format: str, name: str | None = None) -> str:
    """The report as text; `format` is one of RENDERERS, `name` what its figures' files begin with: the study's.

    InputError for another format.
    """
    if format not in RENDERERS:
        raise InputError(f"there is no report format {format!r}", fix=f"choose from {', '.join(RENDERERS)}")
    return RENDERERS[format](report, _document(report, name))


def _document(report: Report, name: str | None) -> Document:
    document = document_of(report)
    return replace(document, name=name) if name else document


def write(report: Report, output: Path, formats: Sequence[str] = ("md",)) -> list[Path]:
    """Write each format to `output` with that format's suffix, and beside Markdown and LaTeX their figures.

    Returns the files written, texts first. Every file is replaced whole; a figure that shows nothing
    any more is left as it lies.
    """
    texts = {format: render(report, format, stem_of(output)) for format in dict.fromkeys(formats)}
    paths = []
    for format, text in texts.items():
        path = path_of(output, format)
        atomic_write_text(path, text)
        paths.append(path)
    if texts.keys() & {"md", "tex"}:
        for path, image in _images(report, output, pictures=True).items():
            atomic_write_bytes(path, image)
            paths.append(path)
    return paths


def format_of(output: Path) -> str:
    """The format that a file's name ends in, else Markdown."""
    suffix = output.suffix.lstrip(".")
    return suffix if suffix in RENDERERS else "md"


def path_of(output: Path, format: str) -> Path:
    """Where `write` puts a format. A known suffix is replaced; other dots belong to the name (cifar10.v2 stays)."""
    return output.with_name(f"{stem_of(output)}.{format}")


def stem_of(output: Path) -> str:
    """What the files of a report begin with, its figures too: two reports may lie in one folder.

    Raises:
        InputError: `output` is a folder.
    """
    if not output.name or output.is_dir():
        fix = "-o is a file, e.g. reports/mine.md; its figures are put beside it"
        raise InputError("this is a folder", where=str(output), fix=fix)
    return output.stem if output.suffix.lstrip(".") in RENDERERS else output.name


def _images(report: Report, output: Path, *, pictures: bool) -> dict[Path, bytes]:
    """The figures that Markdown and LaTeX refer to."""
    if isinstance(report, RunsReport):
        return {}
    return {path: figures.png(report, kind) for path, kind in _image_paths(report, output, pictures=pictures).items()}


def _image_paths(report: Report, output: Path, *, pictures: bool) -> dict[Path, str]:
    """Where they lie, and their kinds."""
    document = _document(report, stem_of(output))
    kinds = [figure.kind for figure in document.figures if pictures or figure.kind != figures.PICTURES]
    return {output.parent / figure_path(document, kind): kind for kind in kinds}


# --- check --------------------------------------------------------------------------------------


def check(report: Report, output: Path) -> str | None:
    """None when the file at `output` is exactly what the records give, else how it differs (file to records).

    The format is told by the suffix; a missing file counts as empty. Figures beside it are compared byte by byte,
    but for those that another version of matplotlib has drawn (`not_compared`); pictures of the data set are not.
    """
    format = output.suffix.lstrip(".")
    found = _read(output)
    expected = _expected(report, output, found)
    if format == "html":
        elsewhere = _drawn_elsewhere(found)
        found, expected = (_without_images(text, everything=elsewhere) for text in (found, expected))
    if found != expected:
        names = f"{output.name} as it is", f"{output.name} from the records"
        lines = difflib.unified_diff(found.splitlines(), expected.splitlines(), *names, lineterm="")
        return "\n".join(lines) or "the files differ in their line endings or in the end of the last line"
    if format not in ("md", "tex"):
        return None
    differing = [path for path, image in _images(report, output, pictures=False).items() if _differs(path, image)]
    return "\n".join(f"{path} is not the figure that the records give" for path in differing) or None


def not_compared(report: Report, output: Path) -> list[Path]:
    """The files whose figures `check` takes as they are: another version of matplotlib says that it has drawn them."""
    if output.suffix == ".html":
        return [output] if _drawn_elsewhere(_read(output)) else []
    if output.suffix not in (".md", ".tex"):
        return []
    paths = [path for path in _image_paths(report, output, pictures=False) if path.exists()]
    return [path for path in paths if _drawn_with(path.read_bytes()) not in (figures.drawn_with(), None)]


def _expected(report: Report, output: Path, found: str) -> str:
    """The text that the records give; with pictures where the one that was `found` has some."""
    format = output.suffix.lstrip(".")
    if format in LEFT_OUT and not isinstance(report, RunsReport) and LEFT_OUT[format][0] in found.splitlines():
        report = replace(report, pixels=NO_PIXELS)
    return render(report, format, stem_of(output))


def _read(output: Path) -> str:
    """Line endings as they are."""
    try:
        return output.read_bytes().decode() if output.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the report can't be read: {error}", where=str(output)) from error


_VERSION = re.compile(r"matplotlib \d[\w.+-]*")
_GENERATOR = re.compile(rf'^<meta name="generator" content="({_VERSION.pattern})">$', re.MULTILINE)


def _drawn_elsewhere(page: str) -> bool:
    """Whether an HTML page says in its head that another version of matplotlib has drawn its figures."""
    told = _GENERATOR.search(page.partition("</head>")[0])
    return told is not None and told[1] != figures.drawn_with()


def _without_images(page: str, *, everything: bool) -> str:
    """The page without its pictures' pixels; `everything`: without figures too, and without what has drawn them."""
    page = re.sub(r'(<img alt="" src="data:image/png;base64,)[A-Za-z0-9+/=]*', r"\1", page)
    if everything:
        page = re.sub(r"<svg [\s\S]*?</svg>", "", _GENERATOR.sub("", page, count=1))
    return page


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
        told = str(Image.open(io.BytesIO(image)).info.get("Software"))
    except (OSError, SyntaxError, ValueError):  # Pillow's ways of saying that a file is damaged
        return None
    return told if _VERSION.fullmatch(told) else None
