"""`--wandb online` against a backend on loopback: what arrives, what a lost network costs, and how it is mended."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from harness import runner
from harness.events import EpochDone, Event, Note
from harness.options import RunOptions
from harness.spec.documents import load_experiment
from harness.tracking import background, mirror
from harness.tracking.background import start_mirror
from harness.tracking.journal import Journal
from harness.tracking.record import Results, Scores
from harness.tracking.store import Store
from harness.tracking.sync import sync
from tests.conftest import Harness
from tests.tracking.examples import record, row
from tests.wandb_backend.backend import FILE_STREAM, Backend

pytestmark = pytest.mark.slow
TIMES = ("seconds", "images_per_second")


@pytest.fixture
def backend(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Backend:
    monkeypatch.setattr(background, "ONLINE_FINISH_SECONDS", 2.0)
    return backend


def rows_of(backend: Backend, run_id: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key[0] != "_"} for row in backend.runs[run_id].rows]


def test_an_online_run_is_there_and_sync_only_proves_it(
    harness: Harness, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "ONLINE_FINISH_SECONDS", 60.0)
    assert harness("run", "tiny.yaml", "--wandb", "online", "--wandb-project", "p").code == 0
    ((folder, done),) = Store(Path("runs")).entries()
    assert (done.wandb.state, done.wandb.project) == ("online", "p")
    assert rows_of(backend, done.run_id) == Journal(folder.journal_path).rows()
    assert backend.runs[done.run_id].state == "finished"
    sent = backend.count("UpsertBucket"), backend.count(FILE_STREAM)
    proven = harness("sync", "--all")
    assert proven.code == 0
    assert "was there already" in proven.out
    assert (backend.count("UpsertBucket"), backend.count(FILE_STREAM)) == sent
    assert folder.read_record().wandb.state == "synced"


def test_a_network_that_goes_costs_the_training_nothing_and_sync_mends_it(folder: Path, backend: Backend) -> None:
    spec = load_experiment(Path("tiny.yaml"), ["train.epochs=6"])
    told: list[Event] = []

    def observe(event: Event) -> None:
        told.append(event)
        if isinstance(event, EpochDone) and event.row["epoch"] == 2:
            deadline = time.monotonic() + 30  # the mirror opens on a thread of its own, perhaps after the second epoch
            while not backend.count("UpsertBucket") and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(1)
            backend.stop()

    undisturbed = runner.run(spec, 0, RunOptions(wandb="disabled", runs_dir=Path("undisturbed")))
    done = runner.run(spec, 0, RunOptions(wandb="online"), observe)
    assert (done.status, done.weights, done.results) == (
        undisturbed.status,
        undisturbed.weights,
        undisturbed.results,
    )
    assert done.wandb.state.startswith("offline, rebuilt from the journal: ")
    warnings = [event.text for event in told if isinstance(event, Note) and event.warning]
    assert len(warnings) == 1
    assert warnings[0].endswith(f"`harness sync {done.run_id}` brings it there later")
    ((place, read),) = Store(Path("runs")).entries()
    assert read == done
    rows = Journal(place.journal_path).rows()
    (other,) = Store(Path("undisturbed")).entries()
    assert [{key: row[key] for key in row if key not in TIMES} for row in rows] == [
        {key: row[key] for key in row if key not in TIMES} for row in Journal(other[0].journal_path).rows()
    ]
    backend.start()
    (mended,) = sync([(place, read)])
    assert (mended.arrival.outcome, mended.arrival.sent) == ("synced", True)
    assert rows_of(backend, done.run_id) == rows


def test_a_run_that_goes_on_is_recreated_from_its_journal(tmp_path: Path, backend: Backend) -> None:
    folder = Store(tmp_path / "runs").folder("base", "0123456789")
    folder.create()
    journal = Journal(folder.journal_path)
    for epoch in range(1, 6):
        journal.append(row(epoch))
    first = mirror.open_mirror("online", folder, record(), journal.rows())
    assert isinstance(first, mirror.WandbMirror)
    first.abandon()  # as when its process is told to end
    assert (len(backend.runs["0123456789"].rows), backend.runs["0123456789"].state) == (5, "failed")
    journal.truncate(3)  # from the last checkpoint
    second = start_mirror("online", folder, record(), journal.rows())
    for epoch in range(4, 8):
        journal.append(row(epoch, lr=0.5))
        second.log(row(epoch, lr=0.5))
    results = Results(final=Scores(epoch=7, train_loss=0.5))
    assert second.finish(record(status="completed", epochs_done=7, results=results)).state == "online"
    assert rows_of(backend, "0123456789") == journal.rows()
    assert backend.runs["0123456789"].state == "finished"
