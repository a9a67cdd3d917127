"""Reports from the records alone: statistics, one model of the report, several renderers.

`build` and `build_runs` make a report, `render`, `to_json`, `write` and `check` show it, `evidence` copies
what it needs. No module here is named like one of these: importing it would hide the function.

Imported lazily: SciPy, pandas and matplotlib cost seconds that `harness --help` must not pay.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.reporting.as_json import to_json
    from harness.reporting.copying import evidence
    from harness.reporting.model import RunsReport, StudyReport
    from harness.reporting.output import check, format_of, not_compared, path_of, render, stem_of, write
    from harness.reporting.runs import build_runs
    from harness.reporting.study import build, build_card

__all__ = [
    "RunsReport",
    "StudyReport",
    "build",
    "build_card",
    "build_runs",
    "check",
    "evidence",
    "format_of",
    "not_compared",
    "path_of",
    "render",
    "stem_of",
    "to_json",
    "write",
]

_HOMES = {
    "RunsReport": "model",
    "StudyReport": "model",
    "build": "study",
    "build_card": "study",
    "build_runs": "runs",
    "check": "output",
    "evidence": "copying",
    "format_of": "output",
    "not_compared": "output",
    "path_of": "output",
    "render": "output",
    "stem_of": "output",
    "to_json": "as_json",
    "write": "output",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
