"""The dashboard of a study: what is in it, held against the records, and what it becomes in Weights & Biases."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harness import reporting
from harness.errors import InputError
from harness.reporting import dashboard, workspace
from harness.reporting.dashboard import Dashboard, Panel, Section, aggregate_markdown, check, names_of
from harness.reporting.model import StudyReport
from harness.spec.ablation import Study
from harness.tracking.journal import Journal
from harness.tracking.store import Store
from tests.reporting import synthetic


def of(study: Study, store: Store) -> Dashboard:
    return dashboard.build(reporting.build(study, store), store.entries())


def titles(built: Dashboard) -> dict[str, list[str]]:
    return {section.name: [panel.title for panel in section.panels] for section in built.sections}


def panels(built: Dashboard) -> dict[str, Panel]:
    return {panel.title: panel for _, panel in built.panels}


def small(store: Store, accuracies: Mapping[str, list[float]], **given: Any) -> Study:
    study = synthetic.make_study({"no_se": {"model.se": None}}, seeds=(0, 1), **given)
    synthetic.fill(store, study, accuracies)
    return study


TWO = {"small": [0.70, 0.72], "no_se": [0.60, 0.64]}


# --- what is in it -----------------------------------------------------------------------------


def test_a_study_has_these_panels(seven: tuple[Study, Store]) -> None:
    built = of(*seven)
    assert titles(built) == {
        "Result": ["What the runs show"],
        "Last epoch and best checkpoint": [
            "Final test accuracy by arm",
            "Final loss by arm",
            "Best checkpoint's test accuracy by arm",
            "Best checkpoint's epoch by arm",
        ],
        "Learning curves": [
            "Validation accuracy by arm",
            "Validation loss by arm",
            "Training accuracy by arm",
            "Training loss by arm",
            "Learning rate by arm",
        ],
        "What differs": [
            "Runs compared: only what differs",
            "Parameter importance for the final test accuracy",
        ],
        "Speed": ["Images per second by arm"],
    }
    assert len(built.run_ids) == 21
    assert built.grouping == "job_type"
    assert "Sample predictions" in built.left_out
    assert "Memory of the GPU by arm" in built.left_out


def test_optional_panels_come_with_what_they_read(store: Store) -> None:
    study = small(store, TWO)
    folder, record = store.entries()[0]
    folder.write_predictions(None, np.array([0, 1, 1]), np.array([0, 1, 2]), "test")
    row = synthetic.make_rows(study.base, 0, 0.7, record.epochs_done + 1)[-1]
    Journal(folder.journal_path).append(row | {"memory_bytes": 10**9})
    built = of(study, store)
    assert built.left_out == ("Utilisation of the GPU by arm",)
    assert titles(built)["Predictions"] == ["Sample predictions", "Confusion matrix", "Accuracy by class and arm"]
    read = panels(built)["Accuracy by class and arm"].summary
    assert len(read) == 3
    assert all(name.startswith("class_accuracy/") for name in read)


@pytest.mark.parametrize(
    ("protocol", "metric", "validates"),
    [("paper", "test_accuracy", True), ("holdout", "val_accuracy", True), ("full", "test_accuracy", False)],
)
def test_each_protocol_has_the_panels_of_its_numbers(store: Store, protocol: str, metric: str, validates: bool) -> None:
    built = of(small(store, TWO, base={"data.protocol": protocol}), store)
    assert built.metric == f"final/{metric}"
    read = {name for panel in panels(built).values() for name in (*panel.rows, *panel.summary)}
    assert {f"final/{metric}", f"final/{metric.replace('accuracy', 'loss')}", "train_loss"} <= read
    assert ("val_loss" in read) == ("best/epoch" in read) == validates


def test_only_runs_that_count_are_in_it_and_the_rest_is_named(troubled: tuple[Study, Store]) -> None:
    study, store = troubled
    built = of(study, store)
    counted = [run.run_id for run in reporting.build(study, store).runs if run.counted]
    assert list(built.run_ids) == counted
    assert len(counted) < len(store.entries())
    text = panels(built)["What the runs show"].text
    assert "`no_clip` seed 1 (diverged" in text
    assert "`no_lookahead` seed 2" in text


def test_a_study_without_a_result_has_none(store: Store) -> None:
    with pytest.raises(InputError, match="no run of small has finished"):
        of(synthetic.make_study(), store)


def test_arms_of_other_studies_are_told_apart_by_what_they_train(store: Store) -> None:
    study = small(store, TWO)
    folder, record = store.entries()[0]
    folder.write_record(record.model_copy(update={"study": "other", "arm": "their_name"}))
    built = of(study, store)
    assert built.grouping == "spec_digest"
    digests = {record.spec_digest for _, record in store.entries()}
    assert all(digest in panels(built)["What the runs show"].text for digest in digests)
    spec = json.loads(workspace.as_json(workspace.as_workspace(built, "p", None)))["spec"]
    assert panel_of(spec, "Final loss by arm")["config"]["groupBy"] == "spec_digest.value"


def test_the_table_has_mean_deviation_n_and_interval(store: Store) -> None:
    study = small(store, {"small": [0.70, 0.72], "no_se": [0.60]}, margin=None)
    lines = aggregate_markdown(reporting.build(study, store)).splitlines()
    base, arm = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `"))
    half = 12.7062 * 1.41421 / 2**0.5  # t with one degree of freedom, sd of 70 and 72, root of n
    assert base[:4] == ["`small`", "2", "71.00", "1.41"]
    assert base[4] == f"{71 - half:.2f} to {71 + half:.2f}"
    assert arm[:5] == ["`no_se`", "1 of 2", "60.00", "–", "–"]


# --- held against the records ------------------------------------------------------------------


def test_a_name_that_no_record_has_is_told_with_the_nearest(seven: tuple[Study, Store]) -> None:
    study, store = seven
    names = names_of(store.entries())
    built = of(study, store)
    check(built, names)
    wrong = Section("Mine", (Panel("A", "lines", rows=("val_acuracy",)), Panel("B", "bars", summary=("final/loss",))))
    with pytest.raises(InputError) as caught:
        check(replace(built, sections=(*built.sections, wrong), columns=("stat",)), names)
    assert [(problem.what, problem.where) for problem in caught.value.problems] == [
        ("no record of the study has the column of the journal 'val_acuracy'", "Mine: A"),
        ("no record of the study has the value of the summary 'final/loss'", "Mine: B"),
        ("no record of the study has the value of the summary 'stat'", "the list of runs"),
    ]
    assert caught.value.problems[0].fix == "the nearest that there is: val_accuracy"
    with pytest.raises(InputError, match="setting 'seed'"):
        check(built, replace(names, config=frozenset()))


def test_a_column_that_no_journal_holds_stops_it(store: Store) -> None:
    study = small(store, TWO)
    for folder, _ in store.entries():
        rows = [{**row, "lr": None} for row in Journal(folder.journal_path).rows()]
        folder.journal_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="column of the journal 'lr'"):
        of(study, store)


# --- as a workspace ----------------------------------------------------------------------------


def panel_of(spec: dict[str, Any], title: str) -> dict[str, Any]:
    found = [
        panel
        for section in spec["section"]["panelBankConfig"]["sections"]
        for panel in section["panels"]
        if panel["config"].get("chartTitle") == title
    ]
    assert len(found) == 1
    return dict(found[0])


def test_the_workspace_says_what_the_dashboard_says(seven: tuple[Study, Store], report: StudyReport) -> None:
    built = of(*seven)
    told = json.loads(workspace.as_json(workspace.as_workspace(built, "p", "somebody")))
    assert (told["entity"], told["project"], told["displayName"]) == ("somebody", "p", "Study small")
    section = told["spec"]["section"]
    assert [one["name"] for one in section["panelBankConfig"]["sections"]] == [one.name for one in built.sections]
    made = [panel for one in section["panelBankConfig"]["sections"] for panel in one["panels"]]
    kinds = [panel["viewType"] for panel in made]
    assert kinds.count("Run History Line Plot") == 6
    assert kinds.count("Bar Chart") == 4
    line = panel_of(told["spec"], "Validation accuracy by arm")["config"]
    wanted = {"xAxis": "epoch", "metrics": ["val_accuracy"], "groupBy": "jobType", "groupArea": "stddev"}
    assert line | wanted == line
    assert line["groupAgg"] == "mean"
    by_kind = {
        panel["viewType"]: panel["config"] for one in section["panelBankConfig"]["sections"] for panel in one["panels"]
    }
    assert by_kind["Run Comparer"]["diffOnly"]
    assert by_kind["Parameter Importance"]["targetKey"] == "final/test_accuracy"
    assert by_kind["Markdown Panel"]["value"] == aggregate_markdown(report)
    (runs,) = section["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["jobType"]
    assert set(built.run_ids) <= set(json.dumps(runs["filters"]).split('"'))
    assert "summary:final/test_accuracy" in runs["runFeed"]["columnPinned"]


def test_the_same_dashboard_is_the_same_text(seven: tuple[Study, Store]) -> None:
    texts = {workspace.as_json(workspace.as_workspace(of(*seven), "p", None)) for _ in range(2)}
    assert len(texts) == 1


def test_without_the_library_the_message_says_what_to_install(
    seven: tuple[Study, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(InputError, match="wandb-workspaces, which is not installed"):
        workspace.as_workspace(of(*seven), "p", None)
