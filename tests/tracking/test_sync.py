"""Runs brought to a W&B backend on loopback and read back through wandb's own API; nothing is believed unproven."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import InputError
from harness.tracking import claim as claiming
from harness.tracking import sync as syncing
from harness.tracking import wandb_file
from harness.tracking.claim import acquire
from harness.tracking.journal import Journal
from harness.tracking.media import Samples
from harness.tracking.mirror import labels, open_mirror
from harness.tracking.readback import difference
from harness.tracking.record import Record, Results, Scores, Wandb
from harness.tracking.send import Arrival
from harness.tracking.store import RunFolder, Store
from harness.tracking.sync import Synced, Way, sync
from tests.conftest import Harness
from tests.study.commands import wait_until
from tests.tracking.examples import record, row
from tests.wandb_backend.backend import ENTITY, FILE_STREAM, KEY, UPLOAD, Backend

PROJECT = "budget-ablation-harness"
TAGS = ["s", "a", "elsewhere", "paper"]
"""Of `made`: its study and arm, its data set and protocol."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def made(store: Store, run_id: str = "0123456789", epochs: int = 3, mirrored: bool = True, **changes: Any) -> RunFolder:
    """A finished run with its journal, its record and, if asked for, its mirror."""
    folder = store.folder("base", run_id)
    folder.create()
    results = Results(final=Scores(epoch=epochs, train_loss=0.5, val_accuracy=1 / 3))
    wandb = Wandb(id=run_id, state="offline", notes="why?")
    fields = {
        "status": "completed",
        "epochs_done": epochs,
        "results": results,
        "wandb": wandb,
        "study": "s",
        "arm": "a",
    }
    done = record(run_id=run_id, **(fields | changes))
    journal = Journal(folder.journal_path)
    for epoch in range(1, epochs + 1):
        journal.append(row(epoch))
    if mirrored:
        open_mirror("offline", folder, done, journal.rows(), **labels(done)).finish(done)
    folder.write_record(done)
    return folder


def entry(folder: RunFolder) -> tuple[RunFolder, Record]:
    return folder, folder.read_record()


def synced(*folders: RunFolder, **options: Any) -> list[Synced]:
    told = options.pop("told", lambda one: None)
    return sync([entry(folder) for folder in folders], Way(**options), told)


def told(backend: Backend, run_id: str = "0123456789") -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key[0] != "_"} for row in backend.runs[run_id].rows]


def test_a_run_arrives_whole_once_and_nothing_lands_elsewhere(store: Store, backend: Backend) -> None:
    folder = made(store)
    (first,) = synced(folder)
    assert (first.arrival.outcome, first.arrival.reason, first.arrival.sent) == ("synced", "", True)
    assert told(backend) == Journal(folder.journal_path).rows()
    run = backend.runs["0123456789"]
    assert (run.state, run.fields["tags"], run.fields["groupName"]) == ("finished", TAGS, "s")
    assert folder.read_record().wandb == Wandb(
        id="0123456789", state="synced", project=PROJECT, entity=ENTITY, notes="why?"
    )
    writes = [backend.count(what) for what in ("UpsertBucket", FILE_STREAM, UPLOAD, "CreateRunFiles")]
    written = folder.record_path.stat().st_mtime_ns
    (again,) = synced(folder)
    assert (again.done, again.arrival.sent) == (True, False)
    assert [backend.count(what) for what in ("UpsertBucket", FILE_STREAM, UPLOAD, "CreateRunFiles")] == writes
    assert folder.record_path.stat().st_mtime_ns == written
    assert {path.name for path in folder.path.iterdir()} == {"record.json", "journal.jsonl", "checkpoints", "wandb"}
    (mirror,) = folder.wandb_dir.glob("offline-run-*")
    assert {path.name for path in folder.wandb_dir.iterdir()} == {"cache", mirror.name}
    assert {path.name for path in store.root.iterdir() if path.name[0] != "."} == {folder.path.name}


@pytest.mark.slow
def test_wandbs_own_api_says_the_same(store: Store, backend: Backend) -> None:
    folder = made(store, epochs=7)
    synced(folder)
    script = """
import json, sys, wandb
run = wandb.Api().run(sys.argv[1])
rows = [{key: value for key, value in row.items() if key[0] != "_"} for row in run.scan_history(use_cache=False)]
print(json.dumps([rows, run.config, run.tags, run.summary["final/val_accuracy"], run.notes, run.group, run.state]))
"""
    path = f"{ENTITY}/{PROJECT}/0123456789"
    given = os.environ | {"WANDB_DIR": str(folder.path.parent), "WANDB_CACHE_DIR": str(folder.path.parent)}
    done = subprocess.run([sys.executable, "-c", script, path], env=given, capture_output=True, text=True, check=True)
    rows, config, *others = json.loads(done.stdout)
    assert rows == Journal(folder.journal_path).rows()
    assert config["optim"] == {"lr": 0.1}
    assert others == [TAGS, 1 / 3, "why?", "s", "finished"]


# --- mending -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_mirror_that_is_missing_damaged_or_behind_is_made_anew_first(store: Store, backend: Backend) -> None:
    missing, damaged, behind = (made(store, run_id) for run_id in ("missing000", "damaged000", "behind0000"))
    shutil.rmtree(missing.wandb_dir)
    path = wandb_file.find(damaged.wandb_dir)
    assert path
    path.write_bytes(path.read_bytes()[:-20])
    Journal(behind.journal_path).append(row(4))
    outcomes = synced(missing, damaged, behind)
    assert [one.arrival.outcome for one in outcomes] == ["synced"] * 3
    assert [one.arrival.rebuilt.partition(":")[0] for one in outcomes] == [
        "there is no file",
        path.name,
        "3 of 4 rows",
    ]
    assert [len(backend.runs[run_id].rows) for run_id in ("missing000", "damaged000", "behind0000")] == [3, 3, 4]
    assert backend.runs["missing000"].fields["notes"] == "why?"
    assert backend.runs["missing000"].fields["jobType"] == "a"


@pytest.mark.slow
def test_of_a_killed_run_there_is_what_the_journal_has_and_it_is_told_as_failed(store: Store, backend: Backend) -> None:
    folder = made(store, mirrored=False, status="running", results=Results())
    (killed,) = synced(folder)
    assert killed.done
    assert backend.runs["0123456789"].state == "failed"
    assert json.loads(backend.runs["0123456789"].summary)["status"] == "killed"
    assert folder.read_record().status == "running"  # what became of the training is not for this to say


@pytest.mark.slow
def test_what_the_server_lost_or_has_otherwise_is_sent_again(store: Store, backend: Backend) -> None:
    folder = made(store)
    folder.write_predictions(np.eye(3), np.array([0, 1, 1]), np.array([0, 1, 2]), "test")
    synced(folder)
    run = backend.runs["0123456789"]
    assert "media/table/samples.table.json" in run.files
    whole = json.loads(run.summary), set(run.files), told(backend)

    def spoiled(spoil: Callable[[], Any]) -> None:
        spoil()
        (again,) = synced(folder)
        assert (again.arrival.outcome, again.arrival.sent) == ("synced", True)
        now = backend.runs["0123456789"]
        assert (json.loads(now.summary), set(now.files), told(backend)) == whole

    spoiled(lambda: run.lines["wandb-history.jsonl"].pop(1))
    spoiled(lambda: run.lines["wandb-summary.json"].clear() or run.fields.pop("summaryMetrics", None))
    spoiled(lambda: run.files.pop("media/table/samples.table.json"))
    spoiled(lambda: run.fields.update(tags=["s"]))
    spoiled(lambda: run.fields.update(config="{}"))
    spoiled(backend.runs.clear)


@pytest.mark.slow
def test_what_people_added_on_the_server_is_theirs(store: Store, backend: Backend) -> None:
    folder = made(store)
    synced(folder)
    run = backend.runs["0123456789"]
    run.fields |= {"tags": ["mine", *TAGS], "displayName": "best so far", "notes": "look here"}
    (again,) = synced(folder)
    assert (again.done, again.arrival.sent) == (True, False)


@pytest.mark.slow
def test_where_to_can_be_said_anew(store: Store, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(store)
    monkeypatch.setenv("WANDB_PROJECT", "of-the-day")
    assert synced(folder)[0].done
    assert backend.runs["0123456789"].project == "of-the-day"  # it was made for none
    backend.runs.clear()
    monkeypatch.setenv("WANDB_PROJECT", "of-another-day")
    assert synced(folder)[0].done
    assert backend.runs["0123456789"].project == "of-the-day"
    backend.runs.clear()
    (there,) = synced(folder, project="elsewhere", entity=ENTITY)
    assert there.done
    assert backend.runs["0123456789"].project == "elsewhere"
    assert folder.read_record().wandb.project == "elsewhere"


@pytest.mark.slow
def test_a_run_made_for_a_project_that_cannot_be_is_sent_to_another(store: Store, backend: Backend) -> None:
    folder = made(store, mirrored=False, wandb=Wandb(state="failed: UsageError", project="team/digits"))
    (refused,) = synced(folder)
    assert "Invalid project name 'team/digits'" in refused.arrival.reason
    (there,) = synced(folder, project="digits")
    assert (there.arrival.outcome, there.arrival.reason) == ("synced", "")
    assert backend.runs["0123456789"].project == "digits"


@pytest.mark.slow
def test_a_server_that_appends_what_is_sent_again_is_not_believed(store: Store, backend: Backend) -> None:
    folder = made(store)
    synced(folder)
    backend.appends = True
    backend.runs["0123456789"].fields["tags"] = []
    (doubled,) = synced(folder)
    assert (doubled.arrival.outcome, doubled.arrival.reason) == ("unverified", "6 of 3 rows are there")


# --- what can't be -----------------------------------------------------------------------------


def test_a_run_in_training_is_left_alone(store: Store, backend: Backend) -> None:
    folder, other = made(store), made(store, "9876543210")
    before = folder.record_path.read_bytes()
    with acquire(folder.claim_path):
        refused, sent = synced(folder, other)
    assert (refused.arrival.outcome, sent.arrival.outcome) == ("failed", "synced")
    assert f"process {os.getpid()} on " in refused.arrival.reason
    assert "is at work on it at this moment: sync it when that is done" in refused.arrival.reason
    assert folder.record_path.read_bytes() == before
    assert set(backend.runs) == {"9876543210"}


@pytest.fixture
def left_behind(store: Store, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run that was being trained when its machine lost power; nothing is really sent."""
    folder = made(store, mirrored=False, status="running", results=Results())
    folder.claim_path.mkdir(parents=True)
    (folder.claim_path / "far~0123456789ab~1~77~00000000~5").touch()
    arrived = Arrival("synced", project=PROJECT, entity=ENTITY)
    monkeypatch.setattr(syncing, "_sent", lambda *given: arrived)
    return folder


def test_a_run_that_another_machine_left_behind_is_sent(
    left_behind: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "STALE_AFTER", 0.2)
    assert synced(left_behind)[0].done
    assert left_behind.read_record().wandb.state == "synced"


def test_an_interruption_does_not_wait_for_the_watching(store: Store, left_behind: RunFolder) -> None:
    other, began = made(store, "9876543210", mirrored=False), time.monotonic()

    def interrupted(one: Synced) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synced(left_behind, other, told=interrupted)
    assert time.monotonic() - began < claiming.STALE_AFTER / 2


def test_without_a_key_one_message_and_nothing_is_touched(
    store: Store, backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    folder, other = made(store), made(store, "9876543210", mirrored=False)
    before = folder.record_path.read_bytes(), other.record_path.read_bytes()
    with pytest.raises(InputError, match="no Weights & Biases key") as refused:
        synced(folder, other)
    assert len(refused.value.problems) == 1
    assert backend.asked == []
    assert (folder.record_path.read_bytes(), other.record_path.read_bytes()) == before
    assert not (folder.wandb_dir / "sync").exists()


@pytest.mark.slow
def test_a_server_that_is_not_there_is_a_failure_and_the_mirror_stays(store: Store, backend: Backend) -> None:
    folder = made(store)
    before = folder.record_path.read_bytes()
    backend.stop()
    (refused,) = synced(folder)
    assert refused.arrival.outcome == "failed"
    assert folder.record_path.read_bytes() == before
    assert difference(folder, folder.read_record()) is None
    backend.start()
    (mended,) = synced(folder)
    assert (mended.done, mended.arrival.rebuilt) == (True, "")


@pytest.mark.slow
def test_a_server_that_does_not_answer_costs_the_time_limit(store: Store, backend: Backend) -> None:
    folder = made(store)
    backend.freeze("UpsertBucket")
    began = time.monotonic()
    (given_up,) = synced(folder, time_limit=4.0)
    assert time.monotonic() - began < 10
    assert (given_up.arrival.outcome, given_up.arrival.reason) == ("failed", "not done within 4 s")


@pytest.mark.slow
def test_an_interruption_ends_what_is_under_way(store: Store, backend: Backend) -> None:
    folder, other = made(store), made(store, "9876543210")
    backend.freeze(FILE_STREAM)

    def interrupted(one: Synced) -> None:
        raise KeyboardInterrupt

    with acquire(folder.claim_path), pytest.raises(KeyboardInterrupt):  # the first is refused, and so done, at once
        synced(folder, other, time_limit=60.0, told=interrupted)
    listed = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, check=True).stdout
    assert f"{os.getpid()} {sys.executable} -m harness.tracking.send" not in listed
    assert not other.is_claimed()


@pytest.mark.slow
def test_a_command_that_is_hung_up_on_takes_what_is_under_way_with_it(store: Store, backend: Backend) -> None:
    folder = made(store, mirrored=False)
    backend.freeze("UpsertBucket")
    process = subprocess.Popen([sys.executable, "-m", "harness.cli", "sync", "--all", "--runs-dir", str(store.root)])
    wait_until(lambda: sending(process.pid), "nothing is sent")
    [sender] = sending(process.pid)
    process.send_signal(signal.SIGHUP)
    assert process.wait() == -signal.SIGHUP
    wait_until(lambda: not Path(f"/proc/{sender}").exists(), "what was under way goes on")
    assert not folder.is_claimed()


def sending(parent: int) -> list[int]:
    """The processes that send a run for `parent`."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    fields = [line.split(None, 2) for line in listed.splitlines()[1:]]
    return [int(pid) for pid, of, command in fields if int(of) == parent and "harness.tracking.send" in command]


PART = (("UpsertBucket", 403), (FILE_STREAM, 500), (UPLOAD, 404), ("HistoryPage", 502))


@pytest.mark.slow
def test_the_command_says_which_runs_are_not_there_and_never_the_key(
    harness: Harness, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "PAUSES", (0.0,))
    store = Store(Path("runs"))
    ids = [f"refused{number}" for number in range(len(PART))]
    for run_id, (operation, status) in zip(ids, PART, strict=True):
        made(store, run_id)
        backend.fail(operation, status, run_id)
    good, disabled = made(store, "good"), made(store, "disabled", wandb=Wandb(state="disabled"))
    done = harness("sync", "--all", "--json")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("failed: 4 of 5 runs are not synced: ")
    assert all(run_id in done.err.splitlines()[-1] for run_id in ids)
    assert "good" not in done.err.splitlines()[-1]
    runs = {run["run_id"]: run for run in json.loads(done.out)["runs"]}
    states = [runs[run_id]["state"] for run_id in (*ids, "good")]
    assert states == ["failed", "failed", "unverified", "unverified", "synced"]
    assert KEY not in done.out + done.err
    assert not any(KEY in folder.record_path.read_text() for folder, _ in store.entries())
    assert good.read_record().wandb.state == "synced"
    assert store.find(ids[2]).read_record().wandb.state.startswith("unverified: files are not there")  # type: ignore[union-attr]
    assert disabled.run_id not in backend.runs
    backend.answer_all()
    assert harness("sync", "--all").code == 0
    assert harness("sync", "disabled").code == 0  # it is meant by name
    assert len(backend.runs) == 6


def test_of_several_folders_with_one_run_the_command_sends_one(
    harness: Harness, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(Store(Path("runs")), mirrored=False)
    shutil.copytree(folder.path, folder.path.with_name("older-0123456789"))
    monkeypatch.setattr(syncing, "_sent", lambda *given: Arrival("synced", project=PROJECT, entity=ENTITY))
    done = harness("sync", "--all", "--json")
    assert done.code == 0
    assert len(json.loads(done.out)["runs"]) == 1


def test_the_command_needs_to_know_which_runs(harness: Harness, backend: Backend) -> None:
    for arguments in (["sync"], ["sync", "--all"], ["sync", "nothing"], ["sync", "x", "--all"]):
        assert harness(*arguments).code == 2


OPERATIONS = (
    "Viewer", "GetDefaultEntity", "UpsertBucket", FILE_STREAM, "CreateRunFiles", UPLOAD,
    "Run", "RunHistoryKeys", "RunParquetHistory", "HistoryPage", "RunFiles",
)  # fmt: skip
STATUSES = (400, 401, 403, 404, 405, 408, 409, 410, 413, 422, 429, 500, 501, 502, 503, 504)


@pytest.fixture(scope="module")
def one_a_status(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with a mirrored run for each status, to be copied."""
    store = Store(tmp_path_factory.mktemp("statuses") / "runs")
    for status in STATUSES:
        made(store, f"status{status}")
    return store.root


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_the_server_refuses_is_told(
    harness: Harness, backend: Backend, one_a_status: Path, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "PAUSES", (0.0, 0.2))
    shutil.copytree(one_a_status, "runs")
    is_about_a_run = operation not in ("Viewer", "GetDefaultEntity")
    for status in STATUSES:
        backend.fail(operation, status, f"status{status}" if is_about_a_run else None)
        if not is_about_a_run:
            done = harness("sync", f"status{status}")
            assert done.code == 1
            assert f"status{status}" in done.err
    if is_about_a_run:
        done = harness("sync", "--all", "--json")
        assert done.code == 1
        assert all(f"(status{status})" in done.err.splitlines()[-1] for status in STATUSES)
        assert {run["state"] for run in json.loads(done.out)["runs"]} <= {"failed", "unverified"}
    assert backend.count(operation) >= len(STATUSES)


@pytest.mark.slow
def test_twenty_runs_of_200_epochs(store: Store, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [made(store, f"run{number:02}", epochs=200) for number in range(20)]
    began = time.monotonic()
    outcomes = synced(*folders)
    seconds = time.monotonic() - began
    with capsys.disabled():
        print(f"\n20 runs of 200 epochs sent and read back in {seconds:.1f} s")
    assert [one.arrival.outcome for one in outcomes] == ["synced"] * 20
    assert all(told(backend, folder.run_id) == Journal(folder.journal_path).rows() for folder in folders)
    assert seconds < 180  # 60 s are asked of an idle machine


def test_what_the_predictions_show_arrives_with_the_run(store: Store, backend: Backend) -> None:
    folder = made(store, mirrored=False)
    labels_of, predicted = np.array([0, 0, 1]), np.array([0, 1, 1])
    folder.write_predictions(np.zeros((3, 2)), predicted, labels_of, "test")
    done, images = folder.read_record(), Samples(np.arange(3), np.zeros((3, 4, 4, 3), dtype=np.uint8))
    open_mirror("offline", folder, done, Journal(folder.journal_path).rows(), **labels(done)).finish(done, images)
    (first,) = synced(folder)
    assert (first.arrival.outcome, first.arrival.rebuilt) == ("synced", "")
    run = backend.runs["0123456789"]
    media = {name: data for name, data in run.files.items() if name.startswith("media/")}
    assert media.keys() == {
        *(f"media/images/samples_{index}.png" for index in range(3)),
        "media/table/samples.table.json",
        "media/table/confusion_matrix.table.json",
    }
    assert json.loads(run.summary)["class_accuracy/0"] == 0.5
    written = files_below(folder)
    assert media == {name: data for name, data in written.items() if name in media}


def files_below(folder: RunFolder) -> dict[str, bytes]:
    """wandb's files of a run's mirror, by the name they have on the server."""
    (files,) = folder.wandb_dir.glob("offline-run-*/files")
    return {path.relative_to(files).as_posix(): path.read_bytes() for path in files.rglob("*") if path.is_file()}
