"""What may be deleted of a runs folder, and what never."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.terminal.words import size
from harness.tracking import prune as module
from harness.tracking.claim import acquire
from harness.tracking.prune import Prunable, prunable, prune
from harness.tracking.store import RunFolder, Store
from tests.conftest import Harness
from tests.tracking.examples import record


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def put(store: Store, number: int, status: str) -> RunFolder:
    folder = store.folder("base", f"{number:010}")
    folder.create()
    folder.write_record(record(run_id=f"{number:010}", status=status))
    for path in (folder.journal_path, folder.predictions_path, folder.final, folder.best):
        path.write_bytes(b"kept")
    return folder


def old(path: Path) -> Path:
    path.write_bytes(b"12345")
    os.utime(path, (0, time.time() - 2 * module.IN_USE))
    return path


def told(items: list[Prunable]) -> dict[str, str]:
    return {item.path.name: item.what for item in items}


def files(store: Store) -> set[Path]:
    return {path for path in store.root.rglob("*") if path.is_file()}


def test_nothing_of_runs_as_they_should_be(store: Store) -> None:
    assert prunable(store) == []
    for number, status in enumerate(("completed", "stopped_early", "running", "interrupted", "killed", "diverged")):
        folder = put(store, number, status)
        if status not in ("completed", "stopped_early"):
            folder.last.write_bytes(b"a state to go on from")
            folder.previous.write_bytes(b"a state to go on from")
    assert prunable(store) == []


def test_what_goes_and_what_stays(store: Store) -> None:
    finished, interrupted = put(store, 1, "completed"), put(store, 2, "interrupted")
    interrupted.last.write_bytes(b"a state")
    kept = files(store)
    put(store, 3, "completed")
    store.set_aside("0000000003")
    finished.last.write_bytes(b"123")
    finished.previous.write_bytes(b"1234")
    (interrupted.checkpoints / "last.pt.damaged").write_bytes(b"12")
    (interrupted.path / ".record.json.abc.tmp").write_bytes(b"1")
    old(store.root / ".probe.abc.tmp")
    items = prunable(store)
    [aside] = [item for item in items if item.what == "run set aside"]
    assert aside.bytes == sum(path.stat().st_size for path in aside.path.rglob("*") if path.is_file())
    assert told(items) == {
        aside.path.name: "run set aside",
        "last.pt": "state of a finished run",
        "previous.pt": "state of a finished run",
        "last.pt.damaged": "damaged checkpoint",
        ".record.json.abc.tmp": "temporary file",
        ".probe.abc.tmp": "temporary file",
    }
    assert {item.path.name: item.bytes for item in items}["previous.pt"] == 4
    assert prune(store, items) == items
    assert files(store) == kept
    assert prunable(store) == []


def test_a_temporary_file_that_may_be_in_use_is_left(store: Store) -> None:
    old(store.root.parent / "x")
    store.root.mkdir()
    (store.root / ".probe.abc.tmp").write_bytes(b"")
    assert prunable(store) == []


def test_failed_runs_go_only_when_asked(store: Store) -> None:
    put(store, 1, "completed")
    failed = [put(store, number, status) for number, status in enumerate(("diverged", "crashed", "killed"), start=2)]
    assert prunable(store) == []
    assert [item.path for item in prunable(store, "status=diverged")] == [failed[0].path]
    items = prunable(store, "status=failed")
    assert [item.path for item in items] == [folder.path for folder in failed]
    prune(store, items)
    assert [entry.path.name for entry, _ in store.entries()] == ["base-0000000001"]
    assert not list(store.root.glob(".*.tmp"))


def test_of_two_runs_with_one_id_the_finished_one_stays(store: Store) -> None:
    """As two runs folders copied into one may leave them."""
    finished = put(store, 1, "completed")
    failed = store.folder("another", "0000000001")
    failed.create()
    failed.write_record(record(run_id="0000000001", name="another", status="crashed"))
    assert [item.path for item in prunable(store, "status=failed")] == [failed.path]
    prune(store, prunable(store, "status=failed"))
    assert [entry.path for entry, _ in store.entries()] == [finished.path]


@pytest.mark.parametrize("condition", ["status=completed", "name=base", "seed=3"])
def test_a_condition_that_means_a_run_that_did_not_fail_is_refused(store: Store, condition: str) -> None:
    put(store, 1, "completed")
    put(store, 2, "diverged")
    with pytest.raises(InputError, match=r"failed runs only.*0000000001 \(completed\)"):
        prunable(store, condition)
    with pytest.raises(InputError, match="no condition"):
        prunable(store, "statsu=failed")


def test_nothing_of_a_run_that_is_being_trained(store: Store) -> None:
    finished, failed = put(store, 1, "completed"), put(store, 2, "crashed")
    finished.last.write_bytes(b"123")
    items = prunable(store, "status=failed")
    assert len(items) == 2
    with acquire(finished.claim_path), acquire(failed.claim_path):
        assert prunable(store, "status=failed") == []
        assert prune(store, items) == []  # somebody began to train them after they were listed
    assert finished.last.exists()
    assert failed.record_path.exists()
    assert prune(store, items) == items


def test_nothing_of_a_run_that_was_trained_since_it_was_listed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    again, ended = put(store, 1, "crashed"), put(store, 2, "running")
    finished = put(store, 3, "completed")
    finished.last.write_bytes(b"of a finished run")
    items = prunable(store, "status=failed")
    assert len(items) == 3
    again.write_record(record(run_id="0000000001", status="completed"))
    finished.write_record(record(run_id="0000000003", status="interrupted"))  # --fresh, and stopped
    put(store, 2, "completed")
    assert prune(store, items) == []
    assert finished.last.exists()
    ended.write_record(record(run_id="0000000002", status="running"))
    read = store.entries()
    ended.write_record(record(run_id="0000000002", status="completed"))
    monkeypatch.setattr(store, "entries", lambda: read)  # it ends just after its record was read
    assert prune(store, prunable(store, "status=failed")) == []
    assert ended.record_path.exists()


def test_another_process_that_prunes_at_the_same_time_is_no_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 1, "completed")
    aside = store.set_aside("0000000001")
    assert aside
    walk = os.walk

    def faster(top: Path) -> list[tuple[str, list[str], list[str]]]:
        found = list(walk(top))
        shutil.rmtree(top)
        return found

    monkeypatch.setattr(module.os, "walk", faster)
    [item] = prunable(store)
    assert (item.path, item.bytes) == (aside, 0)
    assert prune(store, [item]) == [item]


def test_a_removal_that_was_cut_off_is_finished_by_the_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, 1, "crashed")

    def cut_off(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", cut_off)
        with pytest.raises(KeyboardInterrupt):
            prune(store, prunable(store, "status=failed"))
    assert store.entries() == []
    assert store.problems == []
    monkeypatch.setattr(module, "IN_USE", -1.0)
    [left] = prunable(store)
    assert left.what == "temporary file"
    prune(store, [left])
    assert list(store.root.glob(".pruned*")) == []


def test_the_command_removes_nothing_without_yes(harness: Harness) -> None:
    assert "nothing to prune in runs" in harness("runs", "--prune").out
    store = Store(Path("runs"))
    put(store, 1, "completed").last.write_bytes(b"123" * 1000)
    put(store, 2, "diverged")
    before = files(store)
    result = harness("runs", "--prune")
    assert result.code == 0
    assert "state of a finished run" in result.out
    assert "3.0 kB can be freed; nothing is removed yet: --yes removes it" in result.out
    document = json.loads(harness("runs", "--prune", "--json", "--where", "status=failed").out)
    assert (document["removed"], len(document["prunable"])) == (False, 2)
    assert files(store) == before
    assert "removed: 3.0 kB" in harness("runs", "--prune", "--yes").out
    assert len(files(store)) == len(before) - 1
    document = json.loads(harness("runs", "--prune", "--yes", "--json", "--where", "status=failed").out)
    assert [(item["what"], item["gone"]) for item in document["prunable"]] == [("failed run", True)]
    assert [entry.path.name for entry, _ in store.entries()] == ["base-0000000001"]


@pytest.mark.parametrize("arguments", [("--yes",), ("--prune", "base"), ("--prune", "--where", "status=completed")])
def test_usage_mistakes(harness: Harness, arguments: tuple[str, ...]) -> None:
    put(Store(Path("runs")), 1, "completed")
    assert harness("runs", *arguments).code == 2


def test_sizes_in_words() -> None:
    assert [size(number) for number in (0, 999, 1000, 3_150_000, 999_600, 123_456_789, 2 * 10**15)] == [
        "0 B", "999 B", "1.0 kB", "3.1 MB", "1.0 MB", "123 MB", "2000 TB",
    ]  # fmt: skip
