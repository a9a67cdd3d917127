"""The mirror on its thread: never in training's way, held against the journal at the end and mended."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.tracking import background, wandb_file
from harness.tracking.background import BackgroundMirror, difference, start_mirror
from harness.tracking.journal import Journal
from harness.tracking.mirror import open_mirror
from harness.tracking.record import Record, Results, Scores, Wandb
from harness.tracking.store import RunFolder, Store
from tests.tracking.examples import record, row
from tests.tracking.reading import read_mirror

REPOSITORY = Path(__file__).parents[2]
DONE = record(
    status="completed", epochs_done=3, results=Results(final=Scores(epoch=3, train_loss=0.5, val_accuracy=1 / 3))
)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = Store(tmp_path / "runs").folder("base", "0123456789")
    folder.create()
    return folder


def journal_of(folder: RunFolder, epochs: int) -> list[dict[str, Any]]:
    journal = Journal(folder.journal_path)
    for epoch in range(1, epochs + 1):
        journal.append(row(epoch))
    return journal.rows()


# --- as it should go ---------------------------------------------------------------------------


def test_what_is_handed_over_arrives_in_order(folder: RunFolder) -> None:
    rows = journal_of(folder, 300)
    mirror = start_mirror("offline", folder, record(), rows[:100], group="g", job_type="a", tags=["t"], notes="why?")
    for one in rows[100:]:
        mirror.log(one)
    assert mirror.finish(DONE) == Wandb(id="0123456789", state="offline")
    read = read_mirror(folder)
    assert read.rows == rows
    assert (read.run["run_group"], read.run["job_type"], read.run["tags"]) == ("g", "a", ["t"])
    assert difference(folder, DONE) is None


def test_our_reader_and_wandbs_own_say_the_same(folder: RunFolder) -> None:
    rows = journal_of(folder, 400)  # more than one block of the file
    mirror = open_mirror("offline", folder, record(), rows, project="p", tags=["a", "b"], notes="why?")
    mirror.finish(DONE)
    theirs = read_mirror(folder)
    ours = wandb_file.read(theirs.file)
    assert theirs.file.stat().st_size > 2 * wandb_file.BLOCK
    assert ours.rows == theirs.rows == rows
    assert ours.config == theirs.config
    assert ours.summary == {name: value for name, value in theirs.summary.items() if not name.startswith("_")}
    assert ours.exit_code == theirs.told["exit_code"] == 0
    assert ours.run == {name: theirs.run.get(name, "") for name in ours.run}


def test_disabled_starts_no_thread(folder: RunFolder) -> None:
    before = threading.active_count()
    assert start_mirror("disabled", folder, record()).finish(DONE) == Wandb(id=None, state="disabled")
    assert threading.active_count() == before


def test_the_thread_ends_with_the_run(folder: RunFolder) -> None:
    mirror = start_mirror("offline", folder, record(), journal_of(folder, 1))
    mirror.finish(DONE)
    assert not [thread for thread in threading.enumerate() if thread.name == "wandb mirror"]


# --- what the file says otherwise --------------------------------------------------------------


@pytest.fixture
def mirrored(folder: RunFolder) -> RunFolder:
    open_mirror("offline", folder, record(), journal_of(folder, 3)).finish(DONE)
    assert difference(folder, DONE) is None
    return folder


def test_every_difference_from_the_journal_is_seen(mirrored: RunFolder) -> None:
    assert difference(mirrored, DONE.model_copy(update={"epochs_done": 2})) == "its summary is another"
    assert difference(mirrored, DONE.model_copy(update={"macs": 1})) == "its config is another"
    journal = Journal(mirrored.journal_path)
    journal.append(row(4))
    assert difference(mirrored, DONE) == "3 of 4 rows"
    journal.truncate(2)
    journal.append(row(3, lr=0.5))
    assert difference(mirrored, DONE) == "its rows are others"


def test_a_file_that_is_cut_damaged_doubled_or_gone_is_seen(mirrored: RunFolder) -> None:
    path = wandb_file.find(mirrored.wandb_dir)
    assert path
    whole = path.read_bytes()
    for length in (0, 5, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert difference(mirrored, DONE)
    for position in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        assert difference(mirrored, DONE), position
    path.write_bytes(whole)
    assert difference(mirrored, DONE) is None
    shutil.copytree(path.parent, path.parent.with_name("offline-run-20000101_000000-0123456789"))
    assert difference(mirrored, DONE) == "there is no file"
    shutil.rmtree(mirrored.wandb_dir)
    assert difference(mirrored, DONE) == "there is no file"


def test_a_file_without_its_end_was_not_closed(folder: RunFolder) -> None:
    rows = journal_of(folder, 3)
    open_mirror("offline", folder, record(), rows).finish(DONE)
    path = wandb_file.find(folder.wandb_dir)
    assert path
    data, kept = path.read_bytes(), b""
    *before, _ = wandb_file.records(data)  # the last record is the footer, the one before it the exit
    for payload in before[:-1]:
        kept += data[data.index(payload) - wandb_file.PART_HEADER.size :][: len(payload) + wandb_file.PART_HEADER.size]
    path.write_bytes(wandb_file.FILE_HEADER + kept)
    assert difference(folder, DONE) == "it was not closed"


# --- a wandb that fails ------------------------------------------------------------------------


class Stubborn:
    """A mirror whose wandb never answers."""

    state = "offline"

    def __init__(self) -> None:
        self.released = threading.Event()

    def log(self, row: Any) -> None:
        self.released.wait(30)

    def finish(self, record: Record, samples: object = None) -> Wandb:
        return Wandb(id=None, state=self.state)


@pytest.fixture
def stubborn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubborn]:
    mirror = Stubborn()
    monkeypatch.setattr(background, "open_mirror", lambda *arguments, **labels: mirror)
    monkeypatch.setattr(background, "PATIENCE", {"offline": 0.3, "online": 0.3})
    monkeypatch.setattr(background, "LAST_PATIENCE", 0.1)
    yield mirror
    mirror.released.set()


def test_rows_for_a_frozen_wandb_never_wait_and_the_file_is_made_without_it(
    folder: RunFolder, stubborn: Stubborn
) -> None:
    rows = journal_of(folder, 3)
    mirror = start_mirror("offline", folder, record())
    began = time.monotonic()
    for _ in range(background.WAITING_ROWS):
        for one in rows:
            mirror.log(one)
    assert time.monotonic() - began < 1
    told = mirror.finish(DONE)
    assert told == Wandb(id="0123456789", state="offline, rebuilt from the journal: wandb did not answer for 0 s")
    assert read_mirror(folder).rows == rows
    assert read_mirror(folder).told["state"] == "finished"


def test_what_is_rebuilt_has_the_labels(folder: RunFolder, stubborn: Stubborn) -> None:
    labels: dict[str, Any] = {"project": "p", "group": "g", "job_type": "a", "tags": ["t"], "notes": "why?"}
    mirror = start_mirror("offline", folder, record(), journal_of(folder, 2), **labels)
    mirror.log(row(3))
    mirror.finish(DONE)
    run = read_mirror(folder).run
    assert (run["project"], run["run_group"], run["job_type"], run["tags"], run["notes"]) == (
        "p",
        "g",
        "a",
        ["t"],
        "why?",
    )


def test_where_it_cannot_be_rebuilt_either_the_state_says_both(
    folder: RunFolder, stubborn: Stubborn, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.path / "blocked").write_text("")
    monkeypatch.setattr(RunFolder, "wandb_dir", property(lambda self: self.path / "blocked" / "wandb"))
    monkeypatch.setattr(background, "REBUILD_SECONDS", 30)
    shutil.rmtree(folder.path / "wandb", ignore_errors=True)
    (folder.path / "wandb").write_text("")  # where the process that rebuilds it would write
    mirror = start_mirror("offline", folder, record(), journal_of(folder, 1))
    mirror.log(row(2))
    told = mirror.finish(DONE)
    assert told.id is None
    assert told.state.startswith("failed: wandb did not answer for 0 s; ")
    assert "wandb" in told.state.partition(";")[2]


def test_an_online_mirror_that_is_incomplete_says_so(folder: RunFolder, stubborn: Stubborn) -> None:
    stubborn.released.set()
    stubborn.state = "online"
    mirror = start_mirror("online", folder, record(), journal_of(folder, 1))
    assert mirror.finish(DONE).state == "online, incomplete: there is no file"


def test_trouble_shows_in_the_state_while_the_run_goes_on(folder: RunFolder, stubborn: Stubborn) -> None:
    stubborn.state = "failed: ConnectionResetError"
    mirror = start_mirror("offline", folder, record(), journal_of(folder, 1))
    assert mirror.state == "failed: ConnectionResetError"
    assert isinstance(mirror, BackgroundMirror)


# --- the real service, killed and stopped ------------------------------------------------------

SCRIPT = """
import os, signal, subprocess, sys, time
from pathlib import Path
from harness.tracking import background
from harness.tracking.journal import Journal
from harness.tracking.store import RunFolder
from tests.tracking.examples import record, row
from tests.tracking.test_background import DONE

background.PATIENCE = {"offline": 3.0, "online": 3.0}
folder = RunFolder(Path(sys.argv[1]))
folder.create()
journal = Journal(folder.journal_path)
mirror = background.start_mirror("offline", folder, record())
listed = subprocess.run(["ps", "-eo", "pid,ppid,comm"], capture_output=True, text=True).stdout
fields = [line.split(None, 2) for line in listed.splitlines()[1:]]
(service,) = [int(f[0]) for f in fields if f[1] == str(os.getpid()) and "wandb" in f[2]]
began = time.monotonic()
for epoch in (1, 2, 3):
    journal.append(row(epoch))
    mirror.log(row(epoch))
    if epoch == 1:
        os.kill(service, getattr(signal, sys.argv[2]))
for again in range(1500):
    mirror.log(row(3))  # more than a frozen one takes before it blocks its caller
print(time.monotonic() - began)
print(mirror.finish(DONE).state)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", ["SIGKILL", "SIGSTOP", "SIGTERM"])
def test_a_service_that_is_killed_or_stopped_costs_nothing(folder: RunFolder, sent: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder.path), sent],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    seconds, state = done.stdout.splitlines()
    assert float(seconds) < 2.0
    assert state.startswith("offline, rebuilt from the journal: ")
    assert read_mirror(folder).rows == Journal(folder.journal_path).rows()
    assert len(read_mirror(folder).rows) == 3
    assert read_mirror(folder).told["exit_code"] == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with half a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.slow
def test_on_a_full_disk_what_wandb_lost_without_a_word_is_told(small_disk: Path) -> None:
    folder = RunFolder(small_disk / "base-0123456789")
    folder.create()
    rows = journal_of(folder, 200)
    mirror = start_mirror("offline", folder, record(), rows[:1])
    with contextlib.suppress(OSError), open(small_disk / "ballast", "wb", buffering=0) as ballast:
        while ballast.write(b"\0" * 1024):
            pass
    for one in rows[1:]:
        mirror.log(one)
    told = mirror.finish(DONE)
    assert told.id is None
    assert told.state.startswith("failed: ")
    assert Journal(folder.journal_path).rows() == rows
    (small_disk / "ballast").unlink()
    background.rebuild(folder, DONE, {})  # once there is space
    assert difference(folder, DONE) is None
