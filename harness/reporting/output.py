"""Reports to text and to files, and whether a file is still what the records give."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import InputError
from harness.reporting.as_json import to_json
from harness.reporting.figures import curves_png, differences_png, figures_of
from harness.reporting.markdown import runs_markdown, study_markdown
from harness.reporting.model import RunsReport, StudyReport
from harness.tracking.store import atomic_write_bytes, atomic_write_text

Report = StudyReport | RunsReport


def _markdown(report: Report) -> str:
    return runs_markdown(report) if isinstance(report, RunsReport) else study_markdown(report)


def _json(report: Report) -> str:
    return json.dumps(to_json(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


RENDERERS: dict[str, Callable[[Report], str]] = {"md": _markdown, "json": _json}


def render(report: Report, format: str) -> str:
    """The report as text; `format` is one of RENDERERS (md, json). InputError for another."""
    if format not in RENDERERS:
        raise InputError(f"there is no report format {format!r}", fix=f"choose from {', '.join(RENDERERS)}")
    return RENDERERS[format](report)


def write(report: Report, output: Path, formats: Sequence[str] = ("md",)) -> list[Path]:
    """Write each format to `output` with that format's suffix, and beside the markdown its figures.

    Returns the files written, texts first. Every file is replaced whole; a figure that shows nothing
    any more is left as it lies.
    """
    texts = {format: render(report, format) for format in dict.fromkeys(formats)}
    paths = []
    for format, text in texts.items():
        path = output.with_name(f"{_stem(output)}.{format}")
        atomic_write_text(path, text)
        paths.append(path)
    if "md" in texts and isinstance(report, StudyReport):
        paths += _write_figures(report, output.parent)
    return paths


def _stem(output: Path) -> str:
    """The name without a format's suffix; other dots belong to it (cifar10.v2 stays whole)."""
    return output.stem if output.suffix.lstrip(".") in RENDERERS else output.name


def _write_figures(report: StudyReport, folder: Path) -> list[Path]:
    written = []
    for kind, draw in (("curves", curves_png), ("differences", differences_png)):
        image = draw(report)
        if image is not None:
            path = folder / figures_of(report)[kind]
            atomic_write_bytes(path, image)
            written.append(path)
    return written


def check(report: Report, output: Path) -> str | None:
    """None when the file at `output` is exactly what the records give, else a unified diff (file to records).

    The format is told by the suffix; a missing file counts as empty. Figures are not compared.
    """
    expected = render(report, output.suffix.lstrip("."))
    try:
        found = output.read_text(encoding="utf-8") if output.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the report can't be read: {error}", where=str(output)) from error
    if found == expected:
        return None
    names = f"{output.name} as it is", f"{output.name} from the records"
    lines = difflib.unified_diff(found.splitlines(), expected.splitlines(), *names, lineterm="")
    return "\n".join(lines) or "the files differ in their line endings or in the end of the last line"
