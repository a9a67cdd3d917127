"""Claims: one holder whatever processes do, the dead succeeded, the suspended told; nothing left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.errors import RunLost, StorageError
from harness.tracking import claim
from harness.tracking.claim import Claim, Held, Holder, Watch, acquire, evict, look, machine, silence, sweep

FOREIGN = Holder.parse("far~0123456789ab~1~77~00000000~5")  # process 1 is there on every machine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs/.claims/0123456789"


def put(path: Path, holder: Holder | str) -> Holder:
    """A claim as `holder` would have it, without a process behind it."""
    path.mkdir(parents=True, exist_ok=True)
    name = holder if isinstance(holder, str) else holder.name
    (path / name).touch()
    return Holder.parse(name)


def beaten(path: Path) -> Holder:
    """The foreign holder's next heartbeat."""
    holder = look(path)
    assert holder
    head, _, count = holder.name.rpartition("~")
    (path / holder.name).rename(path / f"{head}~{int(count) + 1}")
    return Holder.parse(f"{head}~{int(count) + 1}")


HOLD = """
import sys, time
from pathlib import Path
from harness.errors import RunLost
from harness.tracking.claim import acquire

with acquire(Path(sys.argv[1]), interval=0.05) as claim:
    print("held", flush=True)
    try:
        while not claim.lost:
            time.sleep(0.01)
        claim.check()
    except RunLost as error:
        print("lost:", error, flush=True)
"""


@contextmanager
def holding(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the claim until it is killed or loses it."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def left(path: Path) -> list[str]:
    """All that lies among the claims."""
    return [str(found.relative_to(path.parent)) for found in path.parent.rglob("*")]


# --- one process -------------------------------------------------------------------------------


def test_a_claim_names_its_process_and_leaves_nothing(path: Path) -> None:
    threads = threading.active_count()
    with acquire(path) as held:
        holder = look(path)
        assert holder
        assert (holder.pid, holder.is_here, holder.is_gone) == (os.getpid(), True, False)
        assert str(holder) == f"process {os.getpid()} on {os.uname().nodename}"
        assert left(path) == [path.name, f"{path.name}/{held.name}"]
        assert threading.active_count() == threads + 1
        with pytest.raises(Held):
            acquire(path)
    assert left(path) == []
    assert look(path) is None
    assert threading.active_count() == threads


def test_a_claim_ends_with_its_block_however_that_ends(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), acquire(path):
        _ = 1 / 0
    assert left(path) == []


def test_it_beats_by_itself(path: Path) -> None:
    with acquire(path, interval=0.01):
        before = look(path)
        deadline = time.monotonic() + 10
        while look(path) == before:
            assert time.monotonic() < deadline, "no heartbeat"
            time.sleep(0.01)


def test_looking_changes_nothing(path: Path) -> None:
    put(path, FOREIGN)
    before = [(entry.name, entry.stat().st_mtime_ns) for entry in path.parent.rglob("*")]
    look(path)
    Watch(0.0).is_stale(FOREIGN)
    with pytest.raises(Held):
        acquire(path)
    assert [(entry.name, entry.stat().st_mtime_ns) for entry in path.parent.rglob("*")] == before


def test_a_long_silence_is_told_until_the_next_heartbeat(path: Path) -> None:
    assert silence(path) is None
    claim = Claim(path)
    assert claim.put_up()
    assert silence(path) is None
    for minutes, told in ((9, False), (11, True), (-60, False)):  # the last: of a clock that is ahead
        beaten_at = time.time() - 60 * minutes
        os.utime(path, (beaten_at, beaten_at))
        found = silence(path)
        assert (found is not None) is told
        assert found is None or found == pytest.approx(60 * minutes, abs=30)
    os.utime(path, (0, 0))
    claim.check()
    assert silence(path) is None


def test_a_host_with_an_odd_name_is_told_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim.platform, "node", lambda: "a~b/c ü")
    with acquire(path):
        holder = look(path)
    assert holder
    assert holder.host == "a~b/c ü"
    monkeypatch.setattr(claim.platform, "node", lambda: "x" * 300)
    with acquire(path) as held:
        assert len(held.name) < 255


def test_a_child_does_not_release_what_its_parent_holds(path: Path) -> None:
    with acquire(path) as held:
        child = os.fork()
        if child == 0:
            held.release()
            os._exit(0)
        os.waitpid(child, 0)
        held.check()


# --- the dead ----------------------------------------------------------------------------------


def test_the_dead_of_this_machine_are_succeeded_at_once(path: Path) -> None:
    with holding(path) as process:
        with pytest.raises(Held):
            acquire(path)
        process.kill()  # a zombie until it is waited for
        deadline = time.monotonic() + 5
        while (holder := look(path)) and not holder.is_gone:
            assert time.monotonic() < deadline
        with acquire(path):
            pass
    assert left(path) == []


def test_a_process_number_given_anew_is_not_its_holder(path: Path) -> None:
    with acquire(path) as held:
        itself = look(path)
    assert itself
    other = held.name.replace(f"~{itself.started}~", f"~{int(itself.started) - 1}~")
    assert put(path, other).is_gone
    with acquire(path):
        pass


def test_the_process_number_of_another_machine_says_nothing(path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    put(path, f"far~0123456789ab~{dead.pid}~77~00000000~5")
    assert not put(path, FOREIGN).is_gone
    with pytest.raises(Held, match="on far"):
        acquire(path)


def test_another_machine_without_a_heartbeat_is_succeeded_in_time(path: Path) -> None:
    put(path, FOREIGN)
    watched: list[Holder] = []
    began = time.monotonic()
    with acquire(path, patient=True, tell=watched.append, stale_after=0.5):
        assert time.monotonic() - began >= 0.5
    assert watched == [FOREIGN]
    assert left(path) == []


def test_another_machine_with_a_heartbeat_keeps_its_run(path: Path) -> None:
    put(path, FOREIGN)
    began = time.monotonic()
    with pytest.raises(Held, match="process 1 on far"):
        acquire(path, patient=True, tell=lambda holder: threading.Timer(0.3, beaten, [path]).start(), stale_after=60)
    assert time.monotonic() - began < 10  # told by its first heartbeat, not after the whole time


def test_what_the_dead_of_this_machine_left_is_swept_and_nothing_else(path: Path) -> None:
    with holding(path) as process:
        process.kill()
    [dead] = path.iterdir()
    prepared = path.with_name(f".{dead.name.rpartition('~')[0]}")  # it died while it claimed another run
    prepared.mkdir()
    (prepared / dead.name).touch()
    put(path.with_name("foreign"), FOREIGN)
    put(path.with_name(f".{FOREIGN.name.rpartition('~')[0]}"), FOREIGN)
    put(path.with_name("notes"), "notes")
    with acquire(path.with_name("alive")):
        others = {one for one in path.parent.rglob("*") if one not in (path, dead, prepared, prepared / dead.name)}
        sweep(path.parent)
        assert set(path.parent.rglob("*")) == others
    sweep(path.parent / "there is none")


def test_a_claim_that_cannot_be_freed_keeps_no_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = f"here~{machine()}~{os.getpid()}~1~00000000~3"  # this process began at another time
    paths = [path.with_name(name) for name in ("one", "two", "three")]
    assert all(put(one, dead).is_gone for one in paths)
    tried: list[Path] = []

    def refuse_the_first(one: Path, holder: Holder) -> bool:
        tried.append(one)
        if len(tried) == 1:
            raise StorageError("another user's")
        return evict(one, holder)

    monkeypatch.setattr(claim, "evict", refuse_the_first)
    sweep(path.parent)
    assert sorted(tried) == sorted(paths)
    assert list(path.parent.iterdir()) == tried[:1]


@pytest.mark.parametrize("name", ["", "notes", "a~b~c~d~e~f", "far~0123456789ab~1~77~00000000~"])
def test_a_damaged_claim_counts_as_one_of_an_unknown_host(path: Path, name: str) -> None:
    """One without any name is a folder that a dying process left empty: nobody's."""
    path.mkdir(parents=True)
    if name:
        put(path, name)
        with pytest.raises(Held, match="unknown"):
            acquire(path)
    with acquire(path, patient=True, stale_after=0.3):
        pass
    assert left(path) == []


def test_what_is_in_the_file_does_not_matter(path: Path) -> None:
    put(path, FOREIGN)
    (path / FOREIGN.name).write_bytes(b"\0garbage")
    assert look(path) == FOREIGN


# --- judging -----------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(claim.time, "monotonic", lambda: now[0])
    return now


def test_a_watch_counts_its_own_time_without_a_heartbeat(clock: list[float]) -> None:
    watch, holder = Watch(60), FOREIGN
    for second in range(0, 200, 10):
        clock[0] = second
        if second == 30:
            holder = Holder.parse(FOREIGN.name[:-1] + "6")
        assert watch.is_stale(holder) is (second >= 90), second
        assert watch.beating is (second >= 30)


def test_a_successor_is_no_heartbeat(clock: list[float]) -> None:
    watch = Watch(60)
    watch.is_stale(FOREIGN)
    watch.is_stale(Holder.parse("near~0123456789ab~1~77~00000001~0"))
    assert not watch.beating


def test_a_watch_that_was_suspended_itself_has_not_been_watching(clock: list[float]) -> None:
    watch = Watch(60)
    assert not watch.is_stale(FOREIGN)
    clock[0] = 10_000.0
    assert not watch.is_stale(FOREIGN)


# --- together ----------------------------------------------------------------------------------

RACE = """
import sys, time
from pathlib import Path
from harness.errors import RunLost
from harness.tracking.claim import Held, Holder, acquire, evict

folder, me, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for number in range(rounds):
    (folder / f"ready-{number}-{me}").touch()
    while not (folder / f"ready-{number}-{'b' if me == 'a' else 'a'}").exists():
        pass  # so that both begin at the same moment
    path = folder / f"claims/{number}"
    try:
        with acquire(path) as claim:
            (folder / f"won-{number}-{me}").touch()
            while not (folder / f"tried-{number}-{'b' if me == 'a' else 'a'}").exists():
                claim.check()  # held until the other has tried, and not lost to it
    except Held:
        (folder / f"tried-{number}-{me}").touch()
print("done")
"""


@pytest.mark.parametrize("stale", [False, True])
def test_of_two_processes_exactly_one_gets_it(tmp_path: Path, stale: bool) -> None:
    """200 times: a run that nobody has, and one whose holder is dead."""
    rounds = 200
    if stale:
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        for number in range(rounds):
            put(tmp_path / f"claims/{number}", f"here~{machine()}~{dead.pid}~77~00000000~5")
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen([*command, "a", str(rounds)], **pipes) as first,
        subprocess.Popen([*command, "b", str(rounds)], **pipes) as second,
    ):
        outs = [racer.communicate(timeout=120)[0] for racer in (first, second)]
    assert outs == ["done\n", "done\n"]
    won = sorted(found.name for found in tmp_path.glob("won-*"))
    assert sorted(int(name.split("-")[1]) for name in won) == list(range(rounds))
    assert {name.split("-")[2] for name in won} <= {"a", "b"}
    assert list((tmp_path / "claims").iterdir()) == []


def test_of_two_takers_exactly_one_wins(path: Path) -> None:
    put(path, FOREIGN)
    first, second = Claim(path), Claim(path)
    assert first.take_over(FOREIGN)
    assert not second.take_over(FOREIGN)
    assert not evict(path, FOREIGN)
    first.check()
    first.release()


def test_a_heartbeat_since_the_look_saves_the_holder(path: Path) -> None:
    put(path, FOREIGN)
    alive = beaten(path)
    assert not Claim(path).take_over(FOREIGN)
    assert not evict(path, FOREIGN)
    assert look(path) == alive
    assert evict(path, alive)
    assert left(path) == []


def test_a_suspended_holder_loses_the_run_and_notices(path: Path) -> None:
    watch = Watch(1.0)
    with holding(path) as process:
        holder = look(path)
        assert holder
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(0.2)
        while not watch.is_stale(holder):
            holder = look(path)
            assert holder
            time.sleep(0.02)
        claimed = Claim(path)
        assert claimed.take_over(holder)
        os.kill(process.pid, signal.SIGCONT)
        out, _ = process.communicate(timeout=30)
    assert out.startswith("lost:")
    assert f"process {os.getpid()} on" in out
    claimed.check()  # its successor has the run still
    claimed.release()
    assert left(path) == []


def test_a_holder_whose_claim_is_removed_notices(path: Path) -> None:
    with acquire(path) as held:
        (path / held.name).unlink()
        with pytest.raises(RunLost, match="its claim is gone"):
            held.check()
        assert held.lost


# --- the file system ---------------------------------------------------------------------------


def test_a_server_that_was_asked_twice_is_not_believed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system repeats a request whose answer was lost, and hears that the old name is not there."""
    rename = os.rename

    def twice(old: Any, new: Any) -> None:
        rename(old, new)
        rename(old, new)

    monkeypatch.setattr(claim.os, "rename", twice)
    with acquire(path) as held:
        held.check()
        dead = look(path)
        assert dead
        assert Claim(path).take_over(dead)
        with pytest.raises(RunLost):
            held.check()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_refuses_is_told_as_such(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*given: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    held = acquire(path)
    monkeypatch.setattr(claim.os, "rename", refuse)
    for attempt in (held.check, lambda: acquire(path.with_name("other")), lambda: evict(path, FOREIGN)):
        with pytest.raises(StorageError, match=os.strerror(number)):
            attempt()
    assert not held.lost
    monkeypatch.undo()
    held.check()
    held.release()
    assert left(path) == []


def test_a_file_in_place_of_the_folder_is_told(path: Path) -> None:
    path.parent.parent.mkdir(parents=True)
    path.parent.touch()
    with pytest.raises(StorageError, match="Not a directory"):
        acquire(path)
