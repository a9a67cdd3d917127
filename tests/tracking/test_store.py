"""The store: whole writes, names that stay inside, reading that no bad run stops."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from harness.errors import InputError, StorageError
from harness.tracking.claim import acquire
from harness.tracking.record import Results, Scores
from harness.tracking.select import find_run, standing
from harness.tracking.store import RunFolder, Store, atomic_write_text, atomic_writer, by_run_id
from tests.tracking.examples import record


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def put(store: Store, name: str, run_id: str, **changes: object) -> RunFolder:
    folder = store.folder(name, run_id)
    folder.write_record(record(name=name, run_id=run_id, **changes))
    return folder


# --- atomic writes -----------------------------------------------------------------------------


def _refuse(code: int) -> object:
    def refuse(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize(("call", "code"), [("replace", errno.EROFS), ("fsync", errno.ENOSPC)])
def test_a_refused_write_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = tmp_path / "record.json"
    atomic_write_text(path, "old")
    with monkeypatch.context() as broken:
        broken.setattr(os, call, _refuse(code))
        with pytest.raises(StorageError) as caught:
            atomic_write_text(path, "new")
    assert str(path) in str(caught.value)
    assert os.strerror(code) in str(caught.value)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_an_interrupted_write_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    atomic_write_text(path, "old")

    def interrupted_write() -> None:
        with atomic_writer(path) as file:
            file.write(b"half of the new o")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_write()
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("last.pt", "old")]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    atomic_write_text(path, "old")
    with atomic_writer(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_files_are_as_readable_as_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic_write_text(tmp_path / "record.json", "{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "record.json").stat().st_mode) == 0o640


def test_a_folder_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"record\.json"):
        atomic_write_text(tmp_path / "file" / "record.json", "{}")


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../escape", "a/b", "..", "", ".hidden", "a..b", "/etc", "a\0b", "x" * 81])
def test_names_that_would_leave_the_store_are_refused(store: Store, name: str) -> None:
    with pytest.raises(InputError):
        store.folder(name, "0123456789")


@pytest.mark.parametrize("run_id", ["../0123", "", "ab", "a-b-c-d", "ABCDEF", "0123456789/.."])
def test_run_ids_that_would_leave_the_store_are_refused(store: Store, run_id: str) -> None:
    with pytest.raises(InputError):
        store.folder("base", run_id)
    assert store.find(run_id) is None


def test_the_files_of_a_run_lie_in_its_folder(store: Store) -> None:
    folder = store.folder("base", "0123456789")
    assert folder.path == store.root / "base-0123456789"
    assert folder.run_id == "0123456789"
    inside = (folder.record_path, folder.journal_path, folder.predictions_path, folder.last, folder.wandb_dir)
    assert all(path.is_relative_to(folder.path) for path in inside)
    assert not store.root.exists()


def test_one_run_under_two_names_has_one_claim_and_setting_it_aside_does_not_move_it(store: Store) -> None:
    claims = {store.folder(name, "0123456789").claim_path for name in ("base", "renamed")}
    assert len(claims) == 1
    assert not claims.pop().is_relative_to(store.folder("base", "0123456789").path)


# --- reading -----------------------------------------------------------------------------------


def test_an_absent_store_is_an_empty_one(store: Store) -> None:
    assert store.records() == []
    assert store.problems == []
    assert store.find("0123456789") is None
    assert list(store.frame()["run_id"]) == []


def test_records_are_sorted_and_bad_folders_are_told_not_raised(store: Store) -> None:
    put(store, "b", "0000000001", seed=0)
    put(store, "a", "0000000002", seed=1)
    put(store, "a", "0000000003", seed=0)
    (store.root / "torn-0000000004").mkdir()
    (store.root / "torn-0000000004" / "record.json").write_text('{"run_id": "000')
    (store.root / "empty-0000000005").mkdir()
    (store.root / "odd-0000000006" / "record.json").mkdir(parents=True)
    (store.root / ".claims").mkdir()
    (store.root / "notes.txt").write_text("mine")
    assert [(one.name, one.seed) for one in store.records()] == [("a", 0), ("a", 1), ("b", 0)]
    told = "\n".join(map(str, store.problems))
    assert len(store.problems) == 3
    assert all(name in told for name in ("torn-0000000004", "empty-0000000005", "odd-0000000006"))
    shutil.rmtree(store.root / "empty-0000000005")
    store.records()
    assert len(store.problems) == 2


def test_a_run_that_is_just_beginning_is_no_bad_folder(store: Store) -> None:
    folder = store.folder("base", "0123456789")
    with acquire(folder.claim_path):
        folder.create()
        assert (store.records(), store.problems) == ([], [])
    store.records()
    (problem,) = store.problems
    assert "no record.json" in str(problem)


def test_a_name_is_not_taken_for_the_beginning_of_another_run_s_id(store: Store) -> None:
    put(store, "b2", "0123456789")
    put(store, "base", "b234567890")
    assert find_run(store, "b2")[1].name == "b2"
    assert find_run(store, "b23")[1].name == "base"
    put(store, "b2", "9876543210", seed=4)
    with pytest.raises(InputError, match="'b2' means 2 runs"):
        find_run(store, "b2")


def test_a_run_that_is_named_from_inside_its_folder_has_the_same_claim(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(store, "base", "0123456789")
    folder.create()
    for place, text in ((folder.path, "."), (folder.checkpoints, ".."), (store.root, "base-0123456789/")):
        monkeypatch.chdir(place)
        found, _ = find_run(store, text)
        assert (found.run_id, found.claim_path.resolve()) == ("0123456789", folder.claim_path.resolve())


def test_a_link_that_leads_nowhere_hides_no_other_run(store: Store) -> None:
    put(store, "base", "0123456789")
    (store.root / "circle").symlink_to("circle")
    (store.root / "gone").symlink_to("elsewhere")
    assert len(store.records()) == 1
    [problem] = store.problems
    assert problem.where == str(store.root / "circle" / "record.json")


def test_a_run_is_found_whatever_its_name_and_its_folders(store: Store) -> None:
    folder = put(store, "se_vs-nose", "0123456789")
    assert store.find("0123456789") == folder
    moved = folder.path.rename(store.root / "my favourite")
    assert store.find("0123456789") == RunFolder(moved)
    assert store.find("9876543210") is None


def test_of_two_runs_with_one_id_the_finished_one_is_found(store: Store) -> None:
    put(store, "a", "0123456789", status="crashed")
    put(store, "b", "0123456789", status="completed")
    found = store.find("0123456789")
    assert found is not None
    assert found.path.name == "b-0123456789"


def test_of_several_folders_with_one_run_the_same_is_taken_everywhere(store: Store) -> None:
    """The one found by id is the one that a list of all runs comes down to."""
    for others in (("a", "crashed"), ("b", "completed")), (("a", "completed"), ("b", "crashed")):
        for name, status in others:
            put(store, name, "0123456789", status=status)
        put(store, "c", "0123456789", status="completed").path.rename(store.root / "another name")
        found = store.find("0123456789")
        assert found is not None
        assert found.read_record().finished
        assert by_run_id(store.entries())["0123456789"][0] == found
        assert by_run_id(reversed(store.entries()))["0123456789"][0] == found
        assert find_run(store, "0123456789")[0] == find_run(store, "012345")[0] == found
        shutil.rmtree(store.root)


def test_a_copied_folder_stays_readable(store: Store, tmp_path: Path) -> None:
    put(store, "base", "0123456789")
    shutil.copytree(store.root, tmp_path / "elsewhere" / "evidence")
    assert Store(tmp_path / "elsewhere" / "evidence").records() == store.records()


def test_a_run_that_ended_since_its_record_was_read_is_not_told_as_killed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(store, "base", "0123456789", status="running")
    assert [one.status for one in standing(store)] == ["killed"]
    read = store.entries()
    folder.write_record(record(status="completed"))
    monkeypatch.setattr(store, "entries", lambda: read)
    assert [one.status for one in standing(store)] == ["completed"]


def test_a_run_set_aside_is_kept_but_not_listed(store: Store) -> None:
    assert store.set_aside("0123456789") is None
    for _ in range(2):
        put(store, "base", "0123456789").journal_path.write_text("rows")
        aside = store.set_aside("0123456789")
        assert aside is not None
        assert (aside / "journal.jsonl").read_text() == "rows"
        assert (store.records(), store.problems) == ([], [])
        assert store.find("0123456789") is None
    assert len(list((store.root / "aside").iterdir())) == 2


def test_the_frame_has_one_flat_row_a_run(store: Store) -> None:
    put(store, "a", "0000000001", results=Results(final=Scores(epoch=3, val_accuracy=1 / 3)), arm="no_se")
    put(store, "b", "0000000002")
    frame = store.frame()
    assert list(frame["run_id"]) == ["0000000001", "0000000002"]
    assert frame["final_val_accuracy"][0] == 1 / 3
    assert frame["final_val_accuracy"].isna()[1]
    assert frame["arm"][0] == "no_se"


def test_a_thousand_records_are_read_in_a_moment(store: Store) -> None:
    text = record(provenance={"packages": {f"p{i}": "1.2.3" for i in range(30)}}).model_dump_json(indent=2)
    for number in range(1000):
        folder = store.root / f"base-{number:010x}"
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(text)
    start = time.process_time()  # whatever else the machine has to do
    assert len(store.records()) == 1000
    assert time.process_time() - start < 1.5


# --- writability -------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "deeper/runs"])
def test_a_runs_folder_that_cannot_be_is_told_before_anything_starts(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="runs folder can't be written") as caught:
        Store(tmp_path / "file" / below).ensure_writable()
    assert str(tmp_path / "file") in str(caught.value)


def test_trying_the_runs_folder_leaves_nothing_in_it(store: Store) -> None:
    store.ensure_writable()
    assert list(store.root.iterdir()) == []


def test_creating_a_run_clears_what_a_killed_process_left(store: Store) -> None:
    folder = store.folder("base", "0123456789")
    folder.create()
    left = [folder.path / ".record.json.abc.tmp", folder.checkpoints / ".last.pt.abc.tmp"]
    for path in left:
        path.write_bytes(b"half")
    folder.last.write_bytes(b"whole")
    folder.create()
    assert not any(path.exists() for path in left)
    assert folder.last.exists()


# --- predictions -------------------------------------------------------------------------------


def test_predictions_come_back(store: Store) -> None:
    folder = store.folder("base", "0123456789")
    logits = np.random.default_rng(0).normal(size=(7, 10)).astype(np.float32)
    labels = np.arange(7)
    folder.write_predictions(logits, logits.argmax(1), labels, "test")
    read = folder.read_predictions()
    np.testing.assert_array_equal(read["logits"], logits.astype(np.float16))
    np.testing.assert_array_equal(read["predicted"], logits.argmax(1))
    np.testing.assert_array_equal(read["labels"], labels)
    assert read["predicted"].dtype == np.uint8
    assert read["images"] == "test"


def test_predictions_without_logits_and_with_many_classes(store: Store) -> None:
    folder = store.folder("base", "0123456789")
    folder.write_predictions(None, np.array([0, 999]), np.array([1, 2]), "validation")
    read = folder.read_predictions()
    assert "logits" not in read
    assert read["predicted"].tolist() == [0, 999]


def test_predictions_of_other_images_than_the_labels_are_refused(store: Store) -> None:
    folder = store.folder("base", "0123456789")
    with pytest.raises(ValueError, match="same images"):
        folder.write_predictions(None, np.zeros(3, int), np.zeros(4, int), "test")
    assert not folder.predictions_path.exists()


@pytest.mark.parametrize("damage", ["cut", "pickle", "missing", "other"])
def test_damaged_predictions_name_the_file(store: Store, damage: str) -> None:
    folder = store.folder("base", "0123456789")
    folder.write_predictions(None, np.zeros(300, int), np.zeros(300, int), "test")
    path = folder.predictions_path
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "pickle":
        np.savez(path, predicted=np.array([{"a": 1}], dtype=object), labels=np.zeros(1), images=np.array("test"))
    elif damage == "other":
        np.savez(path, something=np.zeros(3))
    else:
        path.unlink()
    with pytest.raises(InputError, match=r"predictions\.npz"):
        folder.read_predictions()


# --- many at once ------------------------------------------------------------------------------


def _write_many(root: Path, worker: int) -> None:
    store = Store(root)
    for number in range(30):
        for run_id in ("00000000ff", f"{worker:010x}"):
            text = "x" * (1 + 2000 * ((worker + number) % 3))
            store.folder("base", run_id).write_record(record(run_id=run_id, provenance={"padding": text}))


def test_readers_never_meet_a_half_written_record(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    store.ensure_writable()
    writers = [context.Process(target=_write_many, args=(store.root, worker)) for worker in range(5)]
    for writer in writers:
        writer.start()
    torn: list[str] = []
    while any(writer.is_alive() for writer in writers):
        store.records()
        # A folder whose first record is not there yet is half there; a record, once there, is whole.
        torn += [str(problem) for problem in store.problems if "holds no record.json" not in str(problem)]
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 5
    assert torn == []
    assert len(store.records()) == 6
    assert not list(store.root.glob("*/.*.tmp"))
    assert json.loads(store.folder("base", "00000000ff").record_path.read_text())["run_id"] == "00000000ff"
