"""A disk that is full at any write: a clear error, nothing corrupt, and what goes on afterwards is undisturbed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import runner
from harness.errors import HarnessError, StorageError
from harness.options import RunOptions
from harness.reporting.copying import evidence
from harness.reporting.output import write
from harness.reporting.study import build
from harness.spec.documents import load_experiment
from harness.tracking.journal import Journal
from harness.tracking.store import Store
from harness.training import cifar, decoded
from harness.training.data import Split, load_split
from tests.conftest import Harness
from tests.data_files import write_cifar
from tests.full_disk import Disk
from tests.reporting.synthetic import add, make_record, make_rows, make_study
from tests.study.commands import spawn, wait_until
from tests.training.build import timeless

# --- a run -------------------------------------------------------------------------------------


class Runs:
    """Two epochs of the tiny network on few images, with a state saved after each."""

    def __init__(self, folder: Path):
        self.spec = load_experiment(folder / "tiny.yaml", ["train.epochs=2"])

    def run(self, runs: str = "runs") -> None:
        options = RunOptions(device="cpu", wandb="disabled", checkpoint_every=0, runs_dir=Path(runs))
        runner.run(self.spec, options=options)

    def results(self, runs: str = "runs") -> dict[str, Any]:
        """All that a run's outcome consists of."""
        store = Store(Path(runs))
        [(folder, record)] = store.entries()
        assert store.problems == []
        return {
            "status": record.status,
            "results": record.results,
            "weights": record.weights,
            "rows": timeless(Journal(folder.journal_path).rows()),
            "predictions": {name: np.asarray(array).tobytes() for name, array in folder.read_predictions().items()},
        }


@pytest.fixture
def runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    runs = Runs(folder)
    whole = load_split(runs.spec, Path("data"))
    train, test = (images.take(torch.arange(100)) for images in (whole.train, whole.test))
    monkeypatch.setattr(runner, "load_split", lambda *given: Split(train, test, test, True, whole.digest))
    return runs


def check_full_at(number: int, runs: Runs, expected: dict[str, Any], *, once: bool) -> None:
    shutil.rmtree("runs", ignore_errors=True)
    disk = Disk(Path("runs"), number, once=once)
    with disk.plugged_in(), pytest.raises(HarnessError, match="No space left on device") as caught:
        runs.run()
    at = f"{number}: {disk.writes[number - 1]}"
    assert caught.value.exit_code == (1 if isinstance(caught.value, StorageError) else 2), at
    store = Store(Path("runs"))
    records = store.records()  # each is whole, or not there
    assert caught.value.exit_code == 1 or not records, at
    assert all("holds no record" in problem.what for problem in store.problems), at
    assert {record.status for record in records} <= {"running", "interrupted", "completed"}, at
    runs.run()
    assert runs.results() == expected, at
    assert not [path for path in Path("runs").rglob("*.tmp") if path.parent != Path("runs")], at
    assert not list(Path("runs/.claims").iterdir()), at


def writes_of_a_run(runs: Runs) -> tuple[list[str], dict[str, Any]]:
    with Disk(Path("whole")).plugged_in() as disk:
        runs.run("whole")
    return disk.writes, runs.results("whole")


@pytest.mark.parametrize("write", ["write journal.jsonl", "replace previous.pt", "write predictions.npz"])
def test_a_full_disk_is_told_and_going_on_gives_the_undisturbed_run(runs: Runs, write: str) -> None:
    writes, expected = writes_of_a_run(runs)
    check_full_at(writes.index(write) + 1, runs, expected, once=False)


@pytest.mark.slow
@pytest.mark.parametrize("once", [False, True], ids=["from then on", "once"])
def test_the_disk_is_full_at_each_write_of_a_run(runs: Runs, once: bool) -> None:
    """Claim, record, journal, states, weights, predictions: every new file, byte, name and fsync of them."""
    writes, expected = writes_of_a_run(runs)
    assert len(writes) > 80
    files = {"record.json", "journal.jsonl", "last.pt", "previous.pt", "final.pt", "best.pt", "predictions.npz"}
    assert files <= {write.split()[1] for write in writes}
    for number in range(1, len(writes) + 1):
        check_full_at(number, runs, expected, once=once)


# --- what is written of runs -------------------------------------------------------------------


def test_the_disk_is_full_at_each_write_of_a_report_and_its_evidence(tmp_path: Path) -> None:
    study, store = make_study({}, seeds=[0, 1]), Store(tmp_path / "runs")
    for seed in study.seeds:
        add(store, make_record(study, study.base, seed, 0.9 + 0.01 * seed), make_rows(study.base, seed, 0.9, 3))
    report = build(study, store)

    def make(where: Path) -> dict[str, bytes]:
        write(report, where / "report", ["csv", "json"])
        evidence(study, store, where / "evidence")
        return {str(path.relative_to(where)): path.read_bytes() for path in where.rglob("*") if path.is_file()}

    where = tmp_path / "reports"
    expected = make(where)
    with Disk(where).plugged_in() as again:
        assert make(where) == expected
    assert len(again.writes) >= 30
    for number in range(1, len(again.writes) + 1):
        with Disk(where, number).plugged_in(), pytest.raises(StorageError, match="No space left on device"):
            make(where)
        left = {str(path.relative_to(where)): path.read_bytes() for path in where.rglob("*") if path.is_file()}
        assert left == expected, number  # the old files, or the new ones


def test_a_report_that_finds_no_room_is_exit_1(harness: Harness, folder: Path) -> None:
    harness("run", "tiny.yaml", "-o", "train.epochs=1")
    with Disk(folder / "reports", 1).plugged_in():
        result = harness("report", "study.yaml")
    assert result.code == 1
    assert "No space left on device" in result.err
    assert "Traceback" not in result.err


def test_a_full_disk_costs_only_the_decoded_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is of no other use than to save a second: the images are those of the files, and nothing is left."""
    write_cifar(monkeypatch, "cifar10", tmp_path)
    with Disk(tmp_path / decoded.FOLDER).plugged_in() as whole:
        expected = cifar.read("cifar10", tmp_path)
    for number in range(1, len(whole.writes) + 1):
        shutil.rmtree(tmp_path / decoded.FOLDER)
        with Disk(tmp_path / decoded.FOLDER, number).plugged_in():
            found = cifar.read("cifar10", tmp_path)
        for (pixels, labels), (pixels_too, labels_too) in zip(found, expected, strict=True):
            assert np.array_equal(pixels, pixels_too)
            assert np.array_equal(labels, labels_too)
        (tmp_path / decoded.FOLDER).mkdir(exist_ok=True)
        assert not list((tmp_path / decoded.FOLDER).iterdir()), number


# --- a disk of its own -------------------------------------------------------------------------

STUDY = (
    "ablate",
    "study.yaml",
    "-o",
    "train.epochs=15",
    "--jobs",
    "2",
    "--threads",
    "1",
    "--device",
    "cpu",
    "--checkpoint-every",
)


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """4 MB of memory that is a disk; skips where it can't be had."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    with open(disk / "filler", "wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return disk / "filler"


def outcome(folder: Path) -> dict[str, Any]:
    entries = Store(folder).entries()
    return {
        record.run_id: (record.status, record.results, timeless(Journal(found.journal_path).rows()))
        for found, record in entries
    }


@pytest.mark.slow
def test_a_study_goes_on_once_its_full_disk_has_room(folder: Path) -> None:
    """A real disk, filled by somebody else while the study trains; then one that can't be written at all."""
    with small_disk(folder / "disk"):
        command = [*STUDY, "0", "--runs-dir", "disk/runs"]
        process = spawn(folder, *command)
        wait_until(lambda: len(Store(folder / "disk/runs").records()) > 1, "no second run")
        filler = fill(folder / "disk")
        out, err = process.communicate(timeout=120)
        assert process.returncode == 1, out + err
        assert "No space left on device" in out + err
        assert "Traceback" not in out + err
        statuses = {record.status for record in Store(folder / "disk/runs").records()}
        assert statuses <= {"completed", "interrupted", "running"}

        process = spawn(folder, *command)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 2, out + err
        assert "and 0 B are free" in err
        filler.unlink()

        subprocess.run(["mount", "-o", "remount,ro", str(folder / "disk")], check=True)
        process = spawn(folder, *command)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 2, out + err
        assert "Read-only file system" in err
        subprocess.run(["mount", "-o", "remount,rw", str(folder / "disk")], check=True)

        process = spawn(folder, *command)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
        process = spawn(folder, *STUDY, "60", "--runs-dir", "undisturbed")
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
        assert outcome(folder / "disk/runs") == outcome(folder / "undisturbed")
        assert len(outcome(folder / "undisturbed")) == 4
