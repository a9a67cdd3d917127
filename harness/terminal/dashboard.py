"""`harness dashboard`: what a study's workspace holds, written as JSON, and saved where that is asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from harness import reporting
from harness.matching import load_study
from harness.reporting import dashboard, words, workspace
from harness.reporting.dashboard import Dashboard, Panel
from harness.reporting.workspace import Files
from harness.teacher import resolve_study
from harness.tracking.atomic import check_writable
from harness.tracking.mirror import DEFAULT_PROJECT
from harness.tracking.record import Record
from harness.tracking.select import recorded_contents
from harness.tracking.store import Store

MANY = 4
READS = {"markdown": "the report", "comparer": "config"}


def make_dashboard(
    file: Path,
    runs_dir: Path,
    console: Console,
    *,
    push: bool = False,
    output: Path | None = None,
    project: str | None = None,
    entity: str | None = None,
    seeds: int | None = None,
    overrides: Sequence[str] = (),
    as_json: bool = False,
) -> None:
    """Build the workspace of a study, write its JSON into `output` (a folder), and with `push` save it.

    Raises:
        InputError: no run counts yet, a panel reads what no record has, or there is no key.
        HarnessError: the server did not take it.
    """
    store = Store(runs_dir)
    study = resolve_study(load_study(file, overrides, seeds, recorded_contents(store)), store)
    report, entries = reporting.build(study, store), store.entries()
    for problem in store.problems:
        print(f"left out: {problem}", file=sys.stderr)
    built = dashboard.build(report, entries)
    records = [record for _, record in entries if record.run_id in built.run_ids]
    files = Files(output or Path("reports"), study.name)
    check_writable(files.workspace)
    earlier = files.read_view()
    project = project or _of(records, "project") or DEFAULT_PROJECT
    made = workspace.as_workspace(built, project, entity or _of(records, "entity"))
    files.write_workspace(made)
    view = workspace.save(made, earlier) if push else None
    if view:
        files.write_view(view)
    if as_json:
        print(json.dumps(_document(built, files, view, made), indent=2))
        return
    _show(built, console)
    runs = words.plural(len(built.run_ids), "run")
    panels = words.plural(len(list(built.panels)), "panel")
    wrote = f"\nwrote {files.workspace}: {panels} on {runs}, for project {made.project}"
    console.print(wrote, markup=False, soft_wrap=True)
    if view:
        changed = "changed" if earlier and earlier.id == view.id else "saved"
        console.print(f"{changed} the view: {view.url}\nits id is kept in {files.view}", markup=False, soft_wrap=True)
    else:
        again = "changes the view that is there" if earlier else "saves it in Weights & Biases"
        console.print(f"--push {again}")
    if away := [record for record in records if not record.wandb.state.startswith(("synced", "online"))]:
        told = f"not known to be in Weights & Biases: {len(away)} of these runs; `harness sync --all` brings them there"
        console.print(told, soft_wrap=True)


def _of(records: Sequence[Record], field: str) -> str | None:
    """The project or entity that the runs were made for, where they agree; None: the default."""
    named = {getattr(record.wandb, field) for record in records}
    return named.pop() if len(named) == 1 else None


def _show(built: Dashboard, console: Console) -> None:
    for section in built.sections:
        console.print(section.name)
        for panel in section.panels:
            console.print(f"  {panel.title} ({_reads(panel)})", markup=False, soft_wrap=True)
    for title in built.left_out:
        console.print(f"left out, since no record has anything for it: {title}")


def _reads(panel: Panel) -> str:
    names = (*panel.rows, *panel.summary)
    if len(names) > MANY:
        return f"{panel.kind}: {names[0]} to {names[-1]}"
    return f"{panel.kind}: {', '.join(names) or READS[panel.kind]}"


def _document(built: Dashboard, files: Files, view: workspace.View | None, made: Any) -> dict[str, Any]:
    sections = [
        {
            "name": section.name,
            "panels": [
                {"title": panel.title, "kind": panel.kind, "rows": panel.rows, "summary": panel.summary}
                for panel in section.panels
            ],
        }
        for section in built.sections
    ]
    return {
        "study": built.study,
        "entity": made.entity or None,
        "project": made.project,
        "sections": sections,
        "left_out": built.left_out,
        "runs": built.run_ids,
        "workspace": str(files.workspace),
        "view": view and view.model_dump(),
    }
