"""A dashboard as a workspace of Weights & Biases: its JSON, and saving it as one view that later saves change.

Seen with wandb-workspaces 0.4.13: it checks the types of panels but no metric's name, gives every panel a random id
(a view saved again would lose what people arranged in it), and tells of a saved view on the terminal.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from harness.errors import HarnessError, InputError
from harness.reporting.dashboard import Dashboard, Panel, Section
from harness.tracking import sync
from harness.tracking.mirror import end_service, import_wandb, living_in, one_line
from harness.tracking.record import Stored
from harness.tracking.store import atomic_write_text

BAND = "stddev"  # around the mean over seeds


class View(Stored):
    """Where a dashboard was saved: what the next save changes instead of making another."""

    entity: str
    project: str
    name: str
    """As in the address, `nw-...-v`."""
    id: str
    url: str


@dataclass(frozen=True)
class Files:
    """What a dashboard leaves beside the report."""

    folder: Path
    study: str

    @property
    def workspace(self) -> Path:
        """The workspace as it is saved."""
        return self.folder / f"{self.study}.workspace.json"

    @property
    def view(self) -> Path:
        """Where it was saved; fit to be committed, so that others update the same view."""
        return self.folder / f"{self.study}.view.json"

    def read_view(self) -> View | None:
        """None where the dashboard was never saved; InputError where the file is damaged."""
        try:
            return View.model_validate_json(self.view.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            fix = "remove it, and the next --push makes a new view"
            raise InputError("this is not what --push wrote", where=str(self.view), fix=fix) from error

    def write_view(self, view: View) -> None:
        atomic_write_text(self.view, view.model_dump_json(indent=2) + "\n")

    def write_workspace(self, workspace: Any) -> None:
        atomic_write_text(self.workspace, as_json(workspace))


def as_workspace(dashboard: Dashboard, project: str, entity: str | None) -> Any:
    """A `wandb_workspaces.workspaces.Workspace`; needs no server and no key.

    Raises:
        InputError: wandb-workspaces is not installed.
    """
    workspaces, panels = _library()
    by = workspaces.Metric("JobType") if dashboard.grouping == "job_type" else workspaces.Config("spec_digest")
    workspace = workspaces.Workspace(
        entity=entity or "",
        project=project,
        name=f"Study {dashboard.study}",
        sections=[
            workspaces.Section(
                name=section.name,
                panels=[_panel(panels, section, panel, dashboard) for panel in section.panels],
                is_open=True,
                layout_settings=workspaces.SectionLayoutSettings(columns=section.columns, rows=_rows(section)),
            )
            for section in dashboard.sections
        ],
        settings=workspaces.WorkspaceSettings(x_axis="epoch", max_runs=max(10, len(dashboard.run_ids))),
        runset_settings=workspaces.RunsetSettings(
            filters=workspaces.And(workspaces.Metric("ID").isin(list(dashboard.run_ids))),
            groupby=[by],
            order=[workspaces.Ordering(workspaces.Config("seed"), ascending=True)],
            pinned_columns=[f"summary:{name}" for name in dashboard.columns],
        ),
    )
    workspace._internal_runset_id = _id(dashboard.study, "runs")
    return workspace


def _library() -> tuple[Any, Any]:
    import_wandb()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its use of pydantic is of an older one
            workspaces = importlib.import_module("wandb_workspaces.workspaces")
            return workspaces, importlib.import_module("wandb_workspaces.reports.v2")
    except ImportError:
        fix = "pip install 'wandb-workspaces>=0.4.13', or install the harness with [dashboard]"
        raise InputError("dashboards need wandb-workspaces, which is not installed", fix=fix) from None


def _rows(section: Section) -> int:
    return -(-len(section.panels) // section.columns)


def _panel(panels: Any, section: Section, panel: Panel, dashboard: Dashboard) -> Any:
    made = _made(panels, panel, dashboard)
    made._id = _id(dashboard.study, section.name, panel.title)
    return made


def _made(panels: Any, panel: Panel, dashboard: Dashboard) -> Any:
    by = "JobType" if dashboard.grouping == "job_type" else panels.Config("spec_digest")
    over_seeds = {"groupby": by, "groupby_aggfunc": "mean", "groupby_rangefunc": BAND}
    match panel.kind:
        case "markdown":
            return panels.MarkdownPanel(markdown=panel.text)
        case "lines":
            everybody = {"max_runs_to_show": len(dashboard.run_ids)}
            return panels.LinePlot(title=panel.title, x="epoch", y=list(panel.rows), **over_seeds, **everybody)
        case "bars":
            return panels.BarPlot(title=panel.title, metrics=list(panel.summary), **over_seeds)
        case "comparer":
            return panels.RunComparer(diff_only="split")
        case "importance":
            return panels.ParameterImportancePlot(with_respect_to=panel.summary[0])
        case "table":
            return panels.WeavePanelSummaryTable(table_name=panel.summary[0])
        case "confusion":
            columns = ("Actual", "Predicted", "nPredictions")
            return panels.CustomChart(
                query={"summaryTable": {"tableKey": panel.summary[0]}},
                chart_name="wandb/confusion_matrix/v1",
                chart_fields={name: name for name in columns},
                chart_strings={"title": panel.title},
            )


def _id(*parts: str) -> str:
    """The same for the same panel of the same study, as long as wandb's own."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:11]


def as_json(workspace: Any) -> str:
    """As it is saved: two makings of the same dashboard are the same text."""
    view = workspace._to_model()
    spec = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    told = {"entity": view.entity, "project": view.project, "displayName": view.display_name, "spec": spec}
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def save(workspace: Any, earlier: View | None) -> View:
    """Save it, as the view of `earlier` where there is one; where it is now.

    Raises:
        InputError: there is no key.
        HarnessError: the server did not take it.
    """
    wandb = import_wandb()
    try:
        with TemporaryDirectory(prefix="harness-") as place, living_in(Path(place), online=True):
            try:
                return _save(wandb, workspace, earlier)
            finally:
                end_service()  # it writes in that folder
    except wandb.errors.UsageError as error:
        raise InputError(sync.NO_KEY[0], fix=sync.NO_KEY[1]) from error
    except Exception as error:
        reason = sync.without_secrets(one_line(error))
        raise HarnessError(f"Weights & Biases did not save the workspace: {reason}") from error


def _save(wandb: Any, workspace: Any, earlier: View | None) -> View:
    os.environ.update({f"WANDB__GRAPHQL_{name}": str(value) for name, value in sync.PERSISTENCE.items()})
    api = wandb.Api()
    workspace.entity = workspace.entity or api.default_entity
    if earlier and (earlier.entity, earlier.project) == (workspace.entity, workspace.project):
        workspace._internal_name, workspace._internal_id = earlier.name, earlier.id
    workspace.save()
    return View(
        entity=workspace.entity,
        project=workspace.project,
        name=workspace._internal_name,
        id=workspace._internal_id,
        url=workspace.url,
    )
