"""One run from spec to record: files, identity, protocols, continuation, and each way it can end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import runner, session
from harness.errors import InputError, Interrupted, RunFailed, StorageError
from harness.events import Event, Note, Stepped
from harness.options import RunOptions
from harness.runner import read_test_set
from harness.spec.documents import load_experiment
from harness.spec.experiment import ExperimentSpec
from harness.tracking.claim import acquire
from harness.tracking.journal import Journal
from harness.tracking.media import found_samples
from harness.tracking.mirror import NullMirror
from harness.tracking.record import Record, Wandb
from harness.tracking.store import RunFolder, Store
from harness.training import checkpoint
from harness.training.data import load_split
from harness.training.device import Hardware
from harness.training.evaluate import evaluate
from tests.conftest import Harness
from tests.tracking.reading import read_mirror
from tests.training.build import StopAfter, timeless


@pytest.fixture
def spec(folder: Path) -> ExperimentSpec:
    return load_experiment(folder / "tiny.yaml")


def options(**given: Any) -> RunOptions:
    return RunOptions(**{"wandb": "disabled", "device": "cpu", **given})


def folder_of(run_id: str, runs: str = "runs") -> RunFolder:
    found = Store(Path(runs)).find(run_id)
    assert found
    return found


def rows_of(run_id: str, runs: str = "runs") -> list[dict[str, Any]]:
    return timeless(Journal(folder_of(run_id, runs).journal_path).rows())


def test_a_runs_folder_whose_name_is_no_text(
    spec: ExperimentSpec, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As names of another encoding are; where the disk refuses, that can be told too."""
    there = Path(os.fsdecode(b"caf\xe9"))
    given = options(runs_dir=there, command=("harness", "run", "tiny.yaml", "--runs-dir", str(there)))

    def refuse(path: Path, content: bytes) -> None:
        raise StorageError(f"{path}: can't be written: no space left")

    with monkeypatch.context() as patch:
        patch.setattr(session, "atomic_write_bytes", refuse)
        with pytest.raises(StorageError, match="no space left"):
            runner.run(spec, options=given)
    [(_, record)] = Store(there).entries()
    assert record.error
    assert r"caf\udce9" in record.error["message"]
    assert runner.run(spec, options=given).status == "completed"


def test_a_run_leaves_what_it_promises(spec: ExperimentSpec) -> None:
    record = runner.run(spec, options=options())
    folder = folder_of(record.run_id)
    assert folder.path.name == f"tiny-{record.run_id}"
    stored = json.loads(folder.record_path.read_text())
    assert stored["status"] == "completed"
    assert stored["spec"]["model"]["width"] == 4
    started, ended = stored["provenance"]["started"], stored["provenance"]["ended"]
    assert started < ended
    assert len(started) == len(ended)  # to the millisecond, or a run within a second would end before it started
    final = stored["results"]["final"]
    assert set(final) >= {
        "epoch",
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
        "test_loss",
        "test_accuracy",
    }
    assert final["val_accuracy"] == final["test_accuracy"]  # protocol paper: the same images
    rows = Journal(folder.journal_path).rows()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["val_accuracy"] == final["val_accuracy"]
    best = min(rows, key=lambda row: row["val_loss"])
    assert stored["results"]["best"]["epoch"] == best["epoch"]
    assert stored["results"]["best"]["val_loss"] == pytest.approx(best["val_loss"], rel=1e-9)
    predictions = folder.read_predictions()
    assert float(np.mean(predictions["predicted"] == predictions["labels"])) == final["test_accuracy"]
    assert predictions["images"] == "test"
    assert predictions["logits"].dtype == np.float16
    assert folder.final.exists()
    assert folder.best.exists()
    assert not folder.last.exists()
    told = ("git_commit", "packages", "device", "precision", "threads", "compiled", "data_digest", "host", "started")
    for key in (*told, "ended"):
        assert key in stored["provenance"], key


def test_final_weights_give_the_recorded_loss(spec: ExperimentSpec) -> None:
    record = runner.run(spec, options=options())
    content = checkpoint.read(folder_of(record.run_id).final)
    from harness.training.device import resolve
    from harness.training.evaluate import evaluate
    from harness.training.loop import Training

    hardware = resolve("cpu", "fp32")
    training = Training(spec, 0, load_split(spec, Path("data")), hardware)
    training.model.load_state_dict(content["weights"])
    result = evaluate(training.model, training.split.test, training.normalise, hardware)
    assert record.results.final
    assert result.loss == record.results.final.test_loss


def test_a_finished_run_is_not_run_again(spec: ExperimentSpec) -> None:
    first = runner.run(spec, options=options())
    events: list[Event] = []
    renamed = spec.model_copy(update={"name": "other"})
    second = runner.run(renamed, options=options(), observer=events.append)
    assert second == first
    assert [type(event) for event in events] == [Note]
    assert "already done" in events[0].text
    assert str(folder_of(first.run_id).path) in events[0].text


def test_fresh_runs_again_and_keeps_what_was_there(spec: ExperimentSpec) -> None:
    first = runner.run(spec, options=options())
    second = runner.run(spec, options=options(fresh=True))
    assert second.provenance["started"] >= first.provenance["started"]
    assert len(list(Path("runs/aside").iterdir())) == 1
    assert rows_of(second.run_id)


@pytest.mark.parametrize("more", [[], ["train.precision=bf16", "model.dropout=0.1", "model.se={reduction: 4}"]])
def test_same_seed_same_journal_other_seed_another(folder: Path, more: list[str]) -> None:
    spec = load_experiment(folder / "tiny.yaml", more)
    record = runner.run(spec, options=options(runs_dir=Path("a")))
    runner.run(spec, options=options(runs_dir=Path("b")))
    other = runner.run(spec, seed=1, options=options(runs_dir=Path("b")))
    assert rows_of(record.run_id, "a") == rows_of(record.run_id, "b")
    assert rows_of(record.run_id, "a") != rows_of(other.run_id, "b")


def test_a_damaged_checkpoint_never_replaces_the_good_one(spec: ExperimentSpec) -> None:
    with pytest.raises(Interrupted):
        runner.run(spec, options=options(checkpoint_every=0), stop=StopAfter(14))
    [record] = Store(Path("runs")).records()
    folder = folder_of(record.run_id)
    good = folder.previous.read_bytes()
    folder.last.write_bytes(b"torn")
    with pytest.raises(Interrupted):
        runner.run(spec, options=options(checkpoint_every=0), stop=StopAfter(0))
    kept = [path.read_bytes() for path in (folder.previous, folder.last) if path.exists()]
    assert b"torn" not in kept
    assert good in kept


def test_a_display_that_breaks_does_not_stop_the_run(spec: ExperimentSpec) -> None:
    seen: list[Event] = []

    def broken(event: Event) -> None:
        seen.append(event)
        raise SystemExit(1)  # what rich makes of a broken pipe

    assert runner.run(spec, options=options(), observer=broken).status == "completed"
    assert len(seen) == 1


def test_an_interrupt_after_the_end_leaves_the_run_complete(
    spec: ExperimentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging(NullMirror):
        def finish(self, record: Record, samples: object = None) -> Wandb:
            raise KeyboardInterrupt

    monkeypatch.setattr(session, "start_mirror", lambda *arguments, **given: Hanging())
    with pytest.raises(Interrupted, match="complete"):
        runner.run(spec, options=options())
    [record] = Store(Path("runs")).records()
    assert record.status == "completed"


def test_a_damaged_record_can_be_put_aside(spec: ExperimentSpec) -> None:
    record = runner.run(spec, options=options())
    folder_of(record.run_id).record_path.write_text("{")
    with pytest.raises(InputError, match="--fresh"):
        runner.run(spec, options=options())
    assert runner.run(spec, options=options(fresh=True)).status == "completed"


def test_test_readings_are_counted(spec: ExperimentSpec) -> None:
    """Under `paper` each epoch validates on the test set, and so does the judging of the final and best weights."""
    record = runner.run(spec, options=options())
    assert record.results.final
    assert record.results.best
    assert record.test_reads == 3 + (1 if record.results.best.epoch == 3 else 2)


def test_protocol_holdout_leaves_the_test_set_alone_until_asked(spec: ExperimentSpec) -> None:
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"protocol": "holdout"})})
    record = runner.run(spec, options=options())
    assert record.results.final
    assert record.results.final.test_accuracy is None
    assert record.results.final.val_accuracy is not None
    assert record.test_reads == 0
    predictions = folder_of(record.run_id).read_predictions()
    assert predictions["images"] == "validation"
    assert len(predictions["labels"]) == 143  # a tenth of 1,438, class by class
    folder_of(record.run_id).write_record(record.model_copy(update={"wandb": Wandb(id="a", state="synced")}))
    read = read_test_set(record.run_id, options())
    assert read.wandb.state.startswith("unverified: the test set was read since")
    assert read.test_reads == 1
    assert read.results.final
    assert read.results.final.test_accuracy is not None
    assert read.results.final.val_accuracy == record.results.final.val_accuracy
    assert read_test_set(record.run_id, options()).test_reads == 2


def test_the_test_set_is_read_in_the_run_s_own_arithmetic(
    spec: ExperimentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a GPU would evaluate in TF32 what it trained, and validated, in fp32."""
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"protocol": "holdout"})})
    record = runner.run(spec, options=options())
    told: list[str] = []

    @contextmanager
    def arithmetic(hardware: Hardware, deterministic: bool) -> Iterator[None]:
        told.append(f"in {hardware.precision}")
        yield
        told.append("out")

    def evaluating(*args: Any, **more: Any) -> Any:
        told.append("evaluated")
        return evaluate(*args, **more)

    monkeypatch.setattr("harness.training.device.arithmetic", arithmetic)
    monkeypatch.setattr("harness.runner.evaluate", evaluating)
    read_test_set(record.run_id, options())
    assert told == [f"in {record.provenance['precision']}", "evaluated", "evaluated", "out"]  # final and best


def test_protocol_full_has_no_validation(spec: ExperimentSpec) -> None:
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"protocol": "full"})})
    record = runner.run(spec, options=options())
    assert record.results.best is None
    assert record.results.final
    assert record.results.final.val_loss is None
    assert record.results.final.test_loss is not None
    assert record.test_reads == 1
    assert all(row["val_loss"] is None for row in rows_of(record.run_id))


def test_the_test_set_of_other_protocols_is_not_read_again(spec: ExperimentSpec) -> None:
    record = runner.run(spec, options=options())
    with pytest.raises(InputError, match="holdout"):
        read_test_set(record.run_id, options())


def test_divergence_is_recorded(spec: ExperimentSpec) -> None:

    wild = load_experiment(Path("tiny.yaml"), ["optim.optimizer.lr=1e30"])
    with pytest.raises(RunFailed, match="diverged") as caught:
        runner.run(wild, options=options())
    assert caught.value.status == "diverged"
    [record] = Store(Path("runs")).records()
    assert record.status == "diverged"
    assert record.error
    assert "epoch" in record.error["message"]


def raising(error: BaseException) -> Callable[..., Any]:
    def raise_it(*arguments: Any, **options: Any) -> Any:
        raise error

    return raise_it


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (torch.OutOfMemoryError("no room"), "out_of_memory", "batch size 256"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out_of_memory", "batch size 256"),
        (MemoryError(), "out_of_memory", "batch size 256"),
        (RuntimeError("CUDNN_STATUS_ALLOC_FAILED"), "out_of_memory", "batch size 256"),
        (RuntimeError("sizes differ"), "crashed", "sizes differ"),
        (ZeroDivisionError("oops"), "crashed", "ZeroDivisionError"),
    ],
)
def test_failures_are_recorded_with_their_status(
    spec: ExperimentSpec, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str, message: str
) -> None:
    monkeypatch.setattr(runner.Training, "_validate", raising(error))
    with pytest.raises(RunFailed, match=message) as caught:
        runner.run(spec, options=options())
    assert caught.value.status == status
    [record] = Store(Path("runs")).records()
    assert record.status == status
    assert record.error
    assert type(error).__name__ in record.error["traceback"]
    monkeypatch.undo()
    monkeypatch.chdir(Path("runs").resolve().parent)


def test_another_precision_needs_saying(spec: ExperimentSpec) -> None:
    record = runner.run(spec, options=options())
    folder = folder_of(record.run_id)
    folder.write_record(record.model_copy(update={"provenance": record.provenance | {"precision": "bf16"}}))
    with pytest.raises(InputError, match="--any-device"):
        runner.run(spec, options=options())
    assert runner.run(spec, options=options(any_device=True)).finished


def test_the_same_run_twice_at_once_is_refused(spec: ExperimentSpec) -> None:
    record = runner.run(spec, options=options())
    with acquire(folder_of(record.run_id).claim_path), pytest.raises(InputError, match=f"process {os.getpid()} on"):
        runner.run(spec, options=options(fresh=True))


def test_runs_folder_that_cannot_be_written(spec: ExperimentSpec) -> None:
    Path("occupied").write_text("a file")
    with pytest.raises(InputError, match="runs folder"):
        runner.run(spec, options=options(runs_dir=Path("occupied/runs")))


def test_missing_data_leaves_nothing_behind(spec: ExperimentSpec) -> None:
    Path("data/cifar-10-batches-py").mkdir(parents=True)
    with pytest.raises(InputError, match="test_batch"):
        runner.run(load_experiment(Path("tiny.yaml"), ["data.dataset=cifar10"]), options=options())
    assert not Path("runs").exists()


def test_over_budget_comes_before_everything(spec: ExperimentSpec) -> None:
    wide = load_experiment(Path("tiny.yaml"), ["guard.max_parameters=10", "data.dataset=cifar10"])
    with pytest.raises(InputError, match="over the limit"):
        runner.run(wide, options=options())
    assert not Path("runs").exists()


def test_time_left_is_told_and_falls(spec: ExperimentSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "TOLD_EVERY", 0.0)
    events: list[Event] = []
    runner.run(spec, options=options(), observer=events.append)
    left = [event.seconds_left for event in events if isinstance(event, Stepped)]
    assert len(left) == 3 * 6
    assert left[-1] < left[2]


def test_an_unknown_device_is_refused(spec: ExperimentSpec) -> None:
    for device in ("gpu", "cuda:7", "tpu"):
        with pytest.raises(InputError):
            runner.run(spec, options=options(device=device))


@pytest.mark.parametrize("stopped_once", [False, True])
def test_the_mirror_holds_exactly_the_journal(spec: ExperimentSpec, stopped_once: bool) -> None:
    """As `wandb leet inspect` reads the offline file; also of a run that was continued."""
    mirrored = options(wandb="offline", study="study", arm="tiny")
    if stopped_once:
        with pytest.raises(Interrupted):
            runner.run(spec, options=mirrored, stop=StopAfter(9))
    record = runner.run(spec, options=mirrored)
    folder = folder_of(record.run_id)
    mirror = read_mirror(folder)
    assert mirror.rows == Journal(folder.journal_path).rows()
    assert mirror.config["model"]["width"] == 4
    assert record.results.final
    assert mirror.summary["final/val_accuracy"] == record.results.final.val_accuracy
    assert mirror.summary["checkpoint/best"] == f"sha256:{record.weights['best']}"
    assert sum(name.startswith("class_accuracy/") for name in mirror.summary) == 10
    samples = found_samples(folder.wandb_dir)
    assert samples
    assert samples.pixels.shape == (20, 8, 8, 1)
    digits = load_split(spec, Path("data")).test
    assert (digits.pixels[samples.indices].numpy() == samples.pixels).all()
    assert record.wandb.state == "offline"
    assert record.wandb.id == record.run_id


def test_flip_tta_is_an_evaluation_of_its_own(folder: Path, harness: Harness) -> None:
    """Beside the headline, in record, summary and mirror's words; the plain results are those without it."""
    from harness.tracking.mirror import summary

    plain = json.loads(harness("run", "tiny.yaml", "--json").out)
    shown = harness("run", "tiny.yaml", "-o", "evaluation.flip_tta=true")
    assert "flip TTA" in shown.out
    flipped = next(r for r in Store(Path("runs")).records() if r.results.final_flip_tta)
    assert flipped.run_id != plain["run_id"]
    assert flipped.results.final is not None
    assert flipped.results.final_flip_tta is not None
    assert flipped.results.final.model_dump() == plain["results"]["final"]
    assert flipped.results.final_flip_tta.test_loss != flipped.results.final.test_loss
    assert flipped.test_reads == plain["test_reads"] + 1
    assert summary(flipped)["final_flip_tta/test_accuracy"] == flipped.results.final_flip_tta.test_accuracy


def test_flip_tta_and_an_average_under_holdout(folder: Path, harness: Harness) -> None:
    """The test set is left alone until it is asked for, and then read with the kept weights, the average's."""
    given = (
        "run",
        "tiny.yaml",
        "-o",
        "data.protocol=holdout",
        "-o",
        "evaluation.flip_tta=true",
        "-o",
        "optim.ema={decay: 0.5}",
    )
    before = json.loads(harness(*given, "--json").out)
    assert before["results"]["final_flip_tta"]["test_accuracy"] is None
    assert before["test_reads"] == 0
    after = json.loads(harness(*given, "--test", "--json").out)
    assert after["test_reads"] == 1
    results = after["results"]
    assert None not in (results["final"]["test_loss"], results["final_flip_tta"]["test_loss"])
    assert results["final"]["test_loss"] != results["final_flip_tta"]["test_loss"]
    assert results["final"]["val_loss"] == before["results"]["final"]["val_loss"]
