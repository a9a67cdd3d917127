"""Training that is ended from outside: the journal is whole, the mirror can be made from it, the result is the same."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.tracking import background, readback, wandb_file
from harness.tracking.journal import Journal
from harness.tracking.record import Record
from harness.tracking.store import RunFolder, Store
from tests.study.commands import processes_of, spawn, wait_until
from tests.tracking.reading import read_mirror

pytestmark = pytest.mark.slow
COMMAND = ("run", "tiny.yaml", "-o", "train.epochs=60", "--threads", "1", "--checkpoint-every", "0")
TIMES = ("seconds", "images_per_second")


def run_in(runs_dir: str) -> tuple[RunFolder, Record]:
    ((folder, record),) = Store(Path(runs_dir)).entries()
    return folder, record


def rows_of(runs_dir: str) -> list[dict[str, Any]]:
    folder, _ = run_in(runs_dir)
    return Journal(folder.journal_path).rows()


def code_of(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=120)
    return process.returncode


def check_parsed_back(folder: RunFolder, record: Record) -> None:
    """Our reader and wandb's own both give the journal's rows, and the rest of what the mirror is to say."""
    rows = Journal(folder.journal_path).rows()
    theirs = read_mirror(folder)
    ours = wandb_file.read(theirs.file)
    assert ours.rows == theirs.rows == rows
    assert ours.config == theirs.config
    assert ours.exit_code == theirs.told["exit_code"]
    assert ours.run["tags"] == theirs.run.get("tags", [])
    assert {name: theirs.summary[name] for name in ours.summary if name in theirs.summary} == {
        name: value for name, value in ours.summary.items() if name in theirs.summary
    }
    assert ours.summary["status"] == theirs.summary["status"] == record.status
    assert readback.difference(folder, record) is None


@pytest.mark.parametrize("sent", ["SIGKILL", "SIGTERM", "SIGHUP"])
def test_training_that_is_ended_loses_nothing(folder: Path, sent: str) -> None:
    undisturbed = spawn(folder, *COMMAND, "--runs-dir", "undisturbed")
    assert code_of(undisturbed) == 0

    disturbed = spawn(folder, *COMMAND, WANDB_MODE="offline")
    wait_until(lambda: list(Path("runs").glob("*/journal.jsonl")) and len(rows_of("runs")) >= 5, "no five epochs")
    os.kill(disturbed.pid, getattr(signal, sent))
    code = code_of(disturbed)
    assert code == (-signal.SIGKILL if sent == "SIGKILL" else 130)
    wait_until(lambda: not processes_of(disturbed.pid), "wandb's process outlives the training")

    place, left = run_in("runs")
    done = len(rows_of("runs"))
    assert 5 <= done < 60
    assert [row["epoch"] for row in rows_of("runs")] == list(range(1, done + 1))
    assert left.epochs_done in (done, done - 1)  # the row comes before the record
    if sent == "SIGKILL":
        assert left.status == "running"
        assert readback.difference(place, left)  # what wandb had not written by then is lost
        background.rebuild(place, left, {"tags": ["paper"]})
    else:
        assert left.status == "interrupted"
    check_parsed_back(place, left)

    assert code_of(spawn(folder, *COMMAND, WANDB_MODE="offline")) == 0
    place, record = run_in("runs")
    _, expected = run_in("undisturbed")
    assert (record.status, record.wandb.state) == ("completed", "offline")
    assert (record.weights, record.results) == (expected.weights, expected.results)
    assert [{key: row[key] for key in row if key not in TIMES} for row in rows_of("runs")] == [
        {key: row[key] for key in row if key not in TIMES} for row in rows_of("undisturbed")
    ]
    check_parsed_back(place, record)
