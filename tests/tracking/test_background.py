"""The mirror in its process: never in training's way, held against the journal at the end and mended."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.tracking import background, mirror_process, wandb_file
from harness.tracking.background import BackgroundMirror, RebuildFailed, start_mirror
from harness.tracking.journal import Journal
from harness.tracking.media import Samples
from harness.tracking.mirror import open_mirror
from harness.tracking.mirror_process import Finished, Finishing
from harness.tracking.readback import difference
from harness.tracking.record import Results, Scores, Wandb
from harness.tracking.store import RunFolder, Store
from tests.study.commands import wait_until
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
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("wandb mirror")]


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


Played = Callable[[Callable[[Connection], None]], None]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    """Plays the next mirror's process: what it is given does with the connection what that process would."""
    really, held = mirror_process.connect, list[Connection]()

    def play(part: Callable[[Connection], None]) -> None:
        def connect() -> Connection:
            monkeypatch.setattr(mirror_process, "connect", really)  # what is made anew is made by a real one
            ours, theirs = Pipe()
            held.append(theirs)
            threading.Thread(target=part, args=(theirs,), daemon=True).start()
            return ours

        monkeypatch.setattr(mirror_process, "connect", connect)

    monkeypatch.setattr(background, "PATIENCE", {"offline": 0.3, "online": 0.3})
    yield play
    for connection in held:
        connection.close()


def frozen(connection: Connection) -> None:
    """Takes nothing and says nothing."""


def test_rows_for_a_frozen_wandb_never_wait_and_the_file_is_made_without_it(folder: RunFolder, played: Played) -> None:
    played(frozen)
    rows = journal_of(folder, 3)
    mirror = start_mirror("offline", folder, record())
    began = time.monotonic()
    for _ in range(5 * background.WAITING_ROWS):  # more than fit into the queue and the socket
        for one in rows:
            mirror.log(one)
    assert time.monotonic() - began < 2
    told = mirror.finish(DONE)
    assert told == Wandb(id="0123456789", state="offline, rebuilt from the journal: wandb did not answer for 0 s")
    assert read_mirror(folder).rows == rows
    assert read_mirror(folder).told["state"] == "finished"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("wandb mirror")]


def test_what_is_rebuilt_has_the_labels(folder: RunFolder, played: Played) -> None:
    played(frozen)
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


def test_where_it_cannot_be_rebuilt_either_the_state_says_both(folder: RunFolder, played: Played) -> None:
    played(frozen)
    (folder.path / "wandb").write_text("")  # where the process that rebuilds it would write
    mirror = start_mirror("offline", folder, record(), journal_of(folder, 1))
    mirror.log(row(2))
    told = mirror.finish(DONE)
    assert told.id is None
    assert told.state.startswith("failed: wandb did not answer for 0 s; ")
    assert "wandb" in told.state.partition(";")[2]


def test_a_process_that_takes_nothing_can_t_hold_up_the_rebuilding(folder: RunFolder, played: Played) -> None:
    played(frozen)
    journal_of(folder, 1)
    samples = Samples(np.arange(20), np.zeros((20, 128, 128, 3), np.uint8))  # more than the socket takes
    began = time.monotonic()
    with pytest.raises(RebuildFailed, match="writing it anew took more than 1 s"):
        background.rebuild(folder, DONE, {}, samples, seconds=1)
    assert time.monotonic() - began < 5


def test_an_online_mirror_that_is_incomplete_says_so(folder: RunFolder, played: Played) -> None:
    def lose_it_all(connection: Connection) -> None:
        while not isinstance(connection.recv(), Finishing):
            pass
        connection.send(Finished(Wandb(id=DONE.run_id, state="online"), "there is no file"))

    played(lose_it_all)
    mirror = start_mirror("online", folder, record(), journal_of(folder, 1))
    assert mirror.finish(DONE).state == "online, incomplete: there is no file"


def test_trouble_shows_in_the_state_while_the_run_goes_on(folder: RunFolder, played: Played) -> None:
    played(lambda connection: connection.send("offline: no key"))
    mirror = start_mirror("online", folder, record(), journal_of(folder, 1))
    assert isinstance(mirror, BackgroundMirror)
    wait_until(lambda: mirror.state == "offline: no key", "what the process tells does not show")
    mirror.abandon()


def test_what_another_process_has_now_is_left_alone(folder: RunFolder) -> None:
    rows = journal_of(folder, 1)
    mirror = start_mirror("offline", folder, record(), rows)
    wait_until(lambda: wandb_file.find(folder.wandb_dir), "no mirror")
    mirror.abandon()
    wait_until(lambda: not wandb_services(), "wandb's process outlives the mirror")
    mirror.log(row(2))
    assert difference(folder, DONE)


def test_no_process_to_be_had_is_a_state(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    mirror_process.stop()
    monkeypatch.setattr(subprocess, "Popen", refuse)
    mirror = start_mirror("offline", folder, record(), journal_of(folder, 1))
    assert mirror.state.startswith("failed: OSError: ")
    assert mirror.finish(DONE).state == mirror.state


# --- its processes, killed and stopped ---------------------------------------------------------


def wandb_services() -> dict[int, int]:
    """wandb's own processes, started by mirrors of this one: their ids, and those of the mirrors' processes."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,stat,comm"], capture_output=True, text=True, check=True).stdout
    fields = [line.split(None, 3) for line in listed.splitlines()[1:]]
    parents = {int(pid): int(parent) for pid, parent, _, _ in fields}
    named = [int(pid) for pid, _, state, name in fields if "wandb" in name and state[0] != "Z"]
    return {pid: parents[pid] for pid in named if parents.get(parents.get(parents[pid], 0)) == os.getpid()}


def test_a_server_that_was_killed_is_started_again(folder: RunFolder) -> None:
    mirror_process.start()
    assert mirror_process._server
    mirror_process._server._process.kill()
    mirror_process._server._process.wait()
    rows = journal_of(folder, 3)
    assert start_mirror("offline", folder, record(), rows).finish(DONE).state == "offline"
    assert read_mirror(folder).rows == rows


def test_the_user_s_keyboard_interrupt_is_not_for_the_mirror(folder: RunFolder) -> None:
    mirror_process.start()
    assert mirror_process._server
    group = os.getpgid(mirror_process._server._process.pid)
    assert group != os.getpgrp()
    assert os.getsid(group) == os.getsid(0)


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from harness.tracking import background, mirror_process, wandb_file
from harness.tracking.journal import Journal
from harness.tracking.media import Samples
from harness.tracking.store import RunFolder
from tests.study.commands import wait_until
from tests.tracking.examples import record, row
from tests.tracking.test_background import DONE, wandb_services

background.PATIENCE = {"offline": 3.0, "online": 3.0}
folder = RunFolder(Path(sys.argv[1]))
folder.create()
journal = Journal(folder.journal_path)
mirror = background.start_mirror("offline", folder, record())
wait_until(lambda: wandb_file.find(folder.wandb_dir), "wandb does not start")
((service, keeper),) = wandb_services().items()
victim = {"service": service, "mirror": keeper}[sys.argv[3]]
began = time.monotonic()
for epoch in (1, 2, 3):
    journal.append(row(epoch))
    mirror.log(row(epoch))
    if epoch == 1:
        os.kill(victim, getattr(signal, sys.argv[2]))
for again in range(1500):
    mirror.log(row(3))  # more than a frozen one takes before it blocks its caller
print(time.monotonic() - began)
print(mirror.finish(DONE).state)
mirror_process.stop()
wait_until(lambda: not Path(f"/proc/{service}").exists(), "wandb's process outlives the mirror")
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["service", "mirror"])
@pytest.mark.parametrize("sent", ["SIGKILL", "SIGSTOP", "SIGTERM"])
def test_a_process_of_its_own_or_wandb_s_that_is_killed_or_stopped_costs_nothing(
    folder: RunFolder, sent: str, victim: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder.path), sent, victim],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
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
