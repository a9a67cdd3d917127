"""Going on with a run: exactly, from the last state that is good, and never from one that is not its own."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import runner, session
from harness.errors import InputError, Interrupted, RunFailed
from harness.events import EpochDone, Event, Note, Started
from harness.options import RunOptions
from harness.spec import identity
from harness.spec.documents import load_experiment
from harness.spec.experiment import ExperimentSpec
from harness.tracking.journal import Journal
from harness.tracking.prune import prunable
from harness.tracking.store import RunFolder, Store
from harness.training import checkpoint
from harness.training.model import build_model
from tests.conftest import TINY, Harness
from tests.killing import results
from tests.training.build import StopAfter

STEPS = 6  # of an epoch


def options(**given: Any) -> RunOptions:
    return RunOptions(**{"wandb": "disabled", "device": "cpu", **given})


def interrupt(spec: ExperimentSpec, steps: int, **given: Any) -> None:
    """Train for so many steps more."""
    with pytest.raises(Interrupted, match="the state is saved"):
        runner.run(spec, options=options(**given), stop=StopAfter(steps - 1))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run undisturbed in whole/, and the same in runs/, interrupted in its third epoch: two states are kept."""
    path = tmp_path_factory.mktemp("before")
    (path / "tiny.yaml").write_text(TINY)
    spec = load_experiment(path / "tiny.yaml")
    runner.run(spec, options=options(runs_dir=path / "whole"))
    interrupt(spec, 2 * STEPS + 2, runs_dir=path / "runs", checkpoint_every=0)
    return path


@pytest.fixture
def spec(before: Path, folder: Path) -> ExperimentSpec:
    """Its spec, in a working folder with a copy of both."""
    shutil.copytree(before, folder, dirs_exist_ok=True)
    return load_experiment(folder / "tiny.yaml")


def begun() -> RunFolder:
    [(folder, _)] = Store(Path("runs")).entries()
    return folder


def go_on(spec: ExperimentSpec) -> tuple[tuple[int, int], list[str]]:
    """Train to the end: the same as undisturbed, from this epoch and these done steps, and what was warned of."""
    events: list[Event] = []
    runner.run(spec, options=options(), observer=events.append)
    assert results(Path("runs")) == results(Path("whole"))
    [at] = [(event.epoch, event.step) for event in events if isinstance(event, Started)]
    return at, [event.text for event in events if isinstance(event, Note) and event.warning]


def test_stopped_again_and_again_is_the_undisturbed_run(spec: ExperimentSpec) -> None:
    """In mid-epoch and at its end; journal, predictions, weights and results from the disk's states alone."""
    shutil.rmtree("runs")
    for steps in (1, STEPS - 1, 1, STEPS + 1):
        interrupt(spec, steps)
    stopped = begun().read_record()
    assert stopped.status == "interrupted"
    assert go_on(spec) == ((3, 2), [])
    record = begun().read_record()
    assert len(record.provenance["continued"]) == 4
    assert record.timings["total"] > stopped.timings["total"]


def test_a_run_of_a_study_that_is_brought_to_its_end_by_itself_stays_the_study_s(spec: ExperimentSpec) -> None:
    shutil.rmtree("runs")
    interrupt(spec, 2, study="study", arm="tiny", planned_seeds=(0, 1))
    runner.run(spec, options=options())
    record = begun().read_record()
    assert record.finished
    assert (record.study, record.arm, record.provenance["planned_seeds"]) == ("study", "tiny", [0, 1])


# --- damage ---


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one bit": flip,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a state\n" * 1000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_told_and_the_one_before_is_gone_on_from(spec: ExperimentSpec, damage: str) -> None:
    DAMAGES[damage](begun().last)
    at, [warning] = go_on(spec)
    assert at == (3, 0)
    assert "damaged checkpoint is passed over" in warning
    assert "last.pt" in warning


def test_a_state_for_which_there_is_no_memory_is_kept(spec: ExperimentSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU that another process has filled: that is no damage."""

    def no_memory(*given: Any, **named: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", no_memory)
        with pytest.raises(RunFailed, match=r"last\.pt: no memory is left to read it; it is kept") as failed:
            runner.run(spec, options=options())
    assert failed.value.status == "out_of_memory"
    assert go_on(spec) == ((3, 2), [])


def test_a_state_that_the_disk_does_not_give_is_kept(spec: ExperimentSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a file server that is away for a while: that is no damage."""
    read = Path.read_bytes

    def away(path: Path) -> bytes:
        if path.suffix == ".pt":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", away)
        with pytest.raises(InputError, match=r"last\.pt: can't be read: Stale file handle\n.*try again"):
            runner.run(spec, options=options())
    assert go_on(spec) == ((3, 2), [])


def test_with_both_damaged_it_begins_again(spec: ExperimentSpec) -> None:
    for path in (begun().last, begun().previous):
        flip(path)
    at, warnings = go_on(spec)
    assert at == (1, 0)
    assert ["last.pt" in warnings[0], "previous.pt" in warnings[1], len(warnings)] == [True, True, 2]


def test_weights_are_no_state(spec: ExperimentSpec) -> None:
    [(whole, _)] = Store(Path("whole")).entries()
    shutil.copy(whole.final, begun().last)
    at, [warning] = go_on(spec)
    assert at == (3, 0)
    assert "last.pt: it holds no state" in warning


def test_rows_after_the_state_are_dropped_and_made_again(spec: ExperimentSpec) -> None:
    """A row on the disk is the run's only once it can be gone on from; the file of this one is changed to see it."""
    folder = begun()
    shutil.copy(folder.previous, folder.last)  # at the end of epoch 2
    rows = Journal(folder.journal_path).rows()
    folder.journal_path.unlink()
    for row in [*rows, rows[-1] | {"epoch": 3, "train_loss": 99.0}, rows[-1] | {"epoch": 4, "train_loss": 99.0}]:
        Journal(folder.journal_path).append(row)
    assert go_on(spec) == ((3, 0), [])


def test_a_journal_that_has_lost_rows_of_the_state_is_told(spec: ExperimentSpec) -> None:
    """As in a folder that was copied while the run went on: the journal first, the state after its next epoch."""
    Journal(begun().journal_path).truncate(1)
    events: list[Event] = []
    record = runner.run(spec, options=options(), observer=events.append)
    assert record.status == "completed"
    [warning] = [event.text for event in events if isinstance(event, Note) and event.warning]
    assert warning.startswith(f"{begun().journal_path} has lost 1 of 2 epochs: ")


def test_a_damaged_journal_says_how_to_go_on(spec: ExperimentSpec) -> None:
    path = begun().journal_path
    path.write_text("{" + path.read_text())
    with pytest.raises(InputError, match=r"journal.jsonl:1: damaged row(.|\n)*--fresh") as refused:
        runner.run(spec, options=options())
    assert refused.value.exit_code == 2
    assert begun().read_record().status == "interrupted"


def test_a_write_that_is_broken_off_leaves_the_state_before(
    spec: ExperimentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a second Ctrl-C: it is said how to go on, and that goes on from the good state."""

    def broken_off(path: Path, data: bytes) -> None:
        path.with_name(".last.pt.0.tmp").write_bytes(data[:100])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session, "atomic_write_bytes", broken_off)
        with pytest.raises(Interrupted, match=r"the last saved state is kept: .* to go on"):
            runner.run(spec, options=options(checkpoint_every=1e-9))
    assert go_on(spec) == ((3, 2), [])


def test_a_state_that_cannot_be_removed_does_not_undo_the_result(
    spec: ExperimentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = Path.unlink

    def busy(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".pt":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        remove(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", busy)
    assert go_on(spec) == ((3, 2), [])
    assert begun().read_record().status == "completed"
    assert {item.path for item in prunable(Store(Path("runs")))} == set(begun().states())


@pytest.mark.parametrize("every", [60, 0])
def test_what_is_broken_off_after_the_last_epoch_is_not_trained_again(
    spec: ExperimentSpec, monkeypatch: pytest.MonkeyPatch, every: float
) -> None:
    def broken_off(*arguments: Any, **given: Any) -> None:
        raise KeyboardInterrupt

    shutil.rmtree("runs")
    with monkeypatch.context() as patch:
        patch.setattr(session, "judge", broken_off)
        with pytest.raises(Interrupted, match="the last saved state is kept"):
            runner.run(spec, options=options(checkpoint_every=every))
    assert go_on(spec) == ((4, 0), [])  # of three epochs


# --- states of something else ---


def state_of_another_seed(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    spec = load_experiment(Path("tiny.yaml"))
    interrupt(spec.model_copy(update={"name": "other", "seed": 7}), 1, runs_dir=Path("others"))
    [(other, record)] = Store(Path("others")).entries()
    shutil.copy(other.last, folder.last)
    return f"{record.run_id} (other, seed 7, numerics {identity.NUMERICS})", f"{folder.run_id} (tiny, seed 0, numerics"


def state_of_another_torch(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.setattr(torch, "__version__", "1.2.3")
    return torch.torch_version.__version__, "1.2.3"


def state_of_another_format(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    now = checkpoint.FORMAT
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", now + 1)
        folder.last.write_bytes(checkpoint.serialise({"state": {}}))
    return f"format {now + 1}", f"format {now}"


@pytest.mark.parametrize("state", [state_of_another_seed, state_of_another_torch, state_of_another_format])
def test_a_state_that_is_not_this_runs_is_refused(
    spec: ExperimentSpec,
    harness: Harness,
    monkeypatch: pytest.MonkeyPatch,
    state: Callable[[RunFolder, pytest.MonkeyPatch], tuple[str, str]],
) -> None:
    """With both named, and nothing changed: neither the state nor the record nor the journal."""
    folder = begun()
    made_by, expected = state(folder, monkeypatch)
    found = {path: path.read_bytes() for path in folder.path.rglob("*.*") if path.is_file()}
    refused = harness("run", "tiny.yaml")
    assert refused.code == 2
    told = " ".join(refused.err.split())
    for said in (made_by, expected, "last.pt", "--fresh"):
        assert said in told, told
    assert {path: path.read_bytes() for path in folder.path.rglob("*.*") if path.is_file()} == found
    assert harness("run", "tiny.yaml", "--fresh").code == 0
    assert results(Path("runs")) == results(Path("whole"))


# --- what is kept ---


def test_a_finished_run_keeps_weights_and_no_state(spec: ExperimentSpec) -> None:
    go_on(spec)
    folder = begun()
    assert {path.name for path in folder.checkpoints.iterdir()} == {"final.pt", "best.pt"}
    network = build_model(spec, "cpu").state_dict()
    for path in (folder.final, folder.best):
        content = checkpoint.read(path)
        assert content.keys() == {"format", "run_id", "spec", "epoch", "weights"}
        assert content["weights"].keys() == network.keys()
        assert json.dumps(content["spec"])
        assert path.stat().st_size < 2 * sum(tensor.nbytes for tensor in network.values()) + 50_000


def test_the_time_limit_saves_the_state_in_mid_epoch(harness: Harness, spec: ExperimentSpec) -> None:
    shutil.rmtree("runs")
    stopped = harness("run", "tiny.yaml", "--time-limit", "0")
    assert stopped.code == 75
    assert "the state is saved; `harness run tiny.yaml --time-limit 0` to go on" in " ".join(stopped.err.split())
    assert go_on(spec) == ((1, 1), [])


def test_the_time_of_a_process_that_is_killed_counts(folder: Path) -> None:
    """It writes no last word: the record has the time of every epoch as it ends."""
    spec = load_experiment(folder / "tiny.yaml")
    totals: list[float] = []

    def look(event: Event) -> None:
        if isinstance(event, EpochDone):
            [(place, record)] = Store(Path("runs")).entries()
            assert record.timings["total"] >= sum(row["seconds"] for row in Journal(place.journal_path).rows())
            totals.append(record.timings["total"])

    runner.run(spec, options=options(), observer=look)
    assert len(totals) == 3
    assert totals == sorted(totals)
