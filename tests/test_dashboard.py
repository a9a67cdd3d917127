"""`harness dashboard` as a command, and its view on a W&B backend on loopback."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness.spec.ablation import load_study
from harness.tracking.store import Store
from tests.conftest import Harness
from tests.reporting import synthetic
from tests.wandb_backend.backend import ENTITY, KEY, Backend

SAVE = "UpsertView2"
WORKSPACE, VIEW = Path("reports/study.workspace.json"), Path("reports/study.view.json")


@pytest.fixture
def store(folder: Path) -> Store:
    """The runs of study.yaml, all done."""
    study, store = load_study(Path("study.yaml")), Store(Path("runs"))
    synthetic.fill(store, study, {"tiny": [0.8, 0.81], "no_cutmix": [0.82, 0.83]})
    return store


def test_without_push_it_writes_the_json_and_says_what_it_would_save(
    harness: Harness, store: Store, backend: Backend
) -> None:
    done = harness("dashboard", "study.yaml")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "Result"
    assert "  Validation accuracy by arm (lines: val_accuracy)" in lines
    assert "left out, since no record has anything for it: Sample predictions" in lines
    assert f"wrote {WORKSPACE}: 13 panels on 4 runs, for project budget-ablation-harness" in lines
    assert "--push saves it in Weights & Biases" in lines
    assert json.loads(WORKSPACE.read_text())["displayName"] == "Study study"
    assert not VIEW.exists()
    assert backend.asked == []


def test_json_is_one_document(harness: Harness, store: Store) -> None:
    told = json.loads(harness("dashboard", "study.yaml", "--json", "-o", "elsewhere").out)
    assert (told["study"], told["view"], len(told["runs"])) == ("study", None, 4)
    assert told["sections"][2]["panels"][0]["rows"] == ["val_accuracy"]
    assert Path(told["workspace"]) == Path("elsewhere/study.workspace.json")


def test_push_saves_it_and_the_next_one_changes_the_same_view(
    harness: Harness, store: Store, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(os.environ)
    first = harness("dashboard", "study.yaml", "--push")
    assert (first.code, first.err) == (0, "")
    view = json.loads(VIEW.read_text())
    assert (view["entity"], view["project"]) == (ENTITY, "budget-ablation-harness")
    assert f"saved the view: {view['url']}" in first.out
    assert view["url"].startswith(backend.url)
    (saved,) = backend.views.values()
    assert json.loads(saved["spec"]) == json.loads(WORKSPACE.read_text())["spec"]
    assert (saved["entityName"], saved["displayName"], saved["type"]) == (ENTITY, "Study study", "project-view")

    folder, record = store.entries()[0]
    folder.write_record(record.model_copy(update={"arm": "another"}))
    again = harness("dashboard", "study.yaml", "--push")
    assert f"changed the view: {view['url']}" in again.out
    assert json.loads(VIEW.read_text()) == view
    assert list(backend.views) == [view["id"]]
    assert "spec_digest" in backend.views[view["id"]]["spec"]
    assert dict(os.environ) == before
    assert {path.name for path in Path().iterdir()} == {"tiny.yaml", "study.yaml", "runs", "reports"}

    other = harness("dashboard", "study.yaml", "--push", "--wandb-project", "other")
    assert other.code == 0
    assert len(backend.views) == 2
    assert json.loads(VIEW.read_text())["project"] == "other"


def test_without_a_key_there_is_one_message(
    harness: Harness, store: Store, backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    done = harness("dashboard", "study.yaml", "--push")
    assert done.code == 2
    assert done.err.startswith("error: there is no Weights & Biases key\n  `wandb login`")
    assert done.err.count("\n") == 2
    assert backend.views == {}
    assert not VIEW.exists()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 500, 503])
def test_a_server_that_does_not_take_it_is_told(harness: Harness, store: Store, backend: Backend, status: int) -> None:
    backend.fail(SAVE, status)
    done = harness("dashboard", "study.yaml", "--push")
    assert done.code == 1
    assert "Weights & Biases did not save the workspace" in done.err
    assert "Traceback" not in done.err
    assert KEY not in done.err + done.out
    assert not VIEW.exists()


def test_a_damaged_view_file_is_not_overwritten(harness: Harness, store: Store) -> None:
    VIEW.parent.mkdir()
    VIEW.write_text("{}")
    done = harness("dashboard", "study.yaml")
    assert done.code == 2
    assert str(VIEW) in done.err
    assert VIEW.read_text() == "{}"


def test_a_study_without_runs_says_what_to_do(harness: Harness) -> None:
    done = harness("dashboard", "study.yaml")
    assert done.code == 2
    assert "no run of study has finished" in done.err
    assert "harness ablate " in done.err


def test_a_record_without_what_a_panel_reads_is_told(harness: Harness, store: Store) -> None:
    for folder, _ in store.entries():
        rows: list[dict[str, Any]] = [json.loads(line) for line in folder.journal_path.read_text().splitlines()]
        for row in rows:
            del row["images_per_second"]
        folder.journal_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = harness("dashboard", "study.yaml")
    assert done.code == 2
    assert "no record of the study has the column of the journal 'images_per_second'" in done.err
    assert not WORKSPACE.exists()
