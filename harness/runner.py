"""One run, from its spec to its record: guard, data, train, track, evaluate. Knows nothing of arms."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout

from harness.errors import HarnessError, InputError, Interrupted, RunBusy, RunFailed, StorageError, TimeLimitReached
from harness.events import Ended, EpochDone, Note, Observer, Started, Stepped, silent
from harness.spec import identity
from harness.spec.documents import experiment_from_dict
from harness.spec.experiment import ExperimentSpec
from harness.stop import Stop
from harness.tracking import provenance
from harness.tracking.journal import Journal
from harness.tracking.mirror import Mirror, open_mirror
from harness.tracking.record import Record, Results, Scores, Status, Wandb
from harness.tracking.store import RunFolder, Store, atomic_write_bytes
from harness.training import checkpoint, device, guard
from harness.training.data import Split, load_split
from harness.training.evaluate import Evaluation, evaluate
from harness.training.loop import Diverged, State, Training
from harness.training.pace import Pace, duration, probe_images_per_second

SLOW = 30 * 60  # seconds of expected training above which the user is told before it begins
TOLD_EVERY = 0.25  # seconds between step events


@dataclass(frozen=True)
class RunOptions:
    """Where and how to run; nothing here is part of a run's identity.

    `time_limit` and `checkpoint_every` are seconds (0: after each epoch only); `threads` None leaves
    torch's choice; `planned_seeds` are those of the study at the time; `continue_with` is the command
    that goes on after an interruption, for messages.
    """

    device: str = "auto"
    data_dir: Path = Path("data")
    runs_dir: Path = Path("runs")
    wandb: Literal["offline", "online", "disabled"] = "offline"
    wandb_project: str | None = None
    wandb_entity: str | None = None
    time_limit: float | None = None
    checkpoint_every: float = 60.0
    fresh: bool = False
    any_device: bool = False
    threads: int | None = None
    study: str | None = None
    arm: str | None = None
    notes: str | None = None
    planned_seeds: tuple[int, ...] = ()
    continue_with: str = "run the same command again"
    command: tuple[str, ...] = field(default_factory=lambda: tuple(sys.argv))


def run(
    spec: ExperimentSpec,
    seed: int | None = None,
    options: RunOptions | None = None,
    observer: Observer = silent,
    stop: Stop | None = None,
) -> Record:
    """Train one experiment to its end, or go on with it; a finished run is returned as it is.

    Args:
        spec: what to train.
        seed: in place of the spec's own.
        options: where and how; defaults are the command line's.
        observer: told of progress.
        stop: asked after each step; by default one that honours `options.time_limit`.

    Raises:
        InputError: over budget, data missing or damaged, runs folder not writable.
        RunBusy: another process is training this run.
        RunFailed: diverged, out of memory or crashed; the record says so.
        Interrupted, TimeLimitReached: stopped on purpose, state saved.
    """
    options = options or RunOptions()
    seed = spec.seed if seed is None else seed
    cost = guard.check_budget([spec])[0]
    if options.threads:
        torch.set_num_threads(options.threads)
    hardware = device.resolve(options.device, spec.train.precision)
    store = Store(options.runs_dir)
    run_id = identity.run_id(spec, seed)
    folder = store.find(run_id) or store.folder(spec.name, run_id)
    # Data that is missing or damaged is told before anything is written, even the runs folder.
    split = None if _is_finished(folder) and not options.fresh else load_split(spec, options.data_dir)
    store.ensure_writable()
    with _claim(folder, options):
        folder = store.find(run_id) or folder
        if options.fresh:
            _set_aside(store, run_id, observer)
            folder = store.folder(spec.name, run_id)
        earlier = folder.read_record() if folder.record_path.exists() else None
        if earlier:
            _check_same_hardware(earlier, folder, hardware, options)
            if earlier.finished:
                observer(Note(run_id, f"already done: {folder.path} ({earlier.status}); --fresh runs it again"))
                return earlier
        split = split or load_split(spec, options.data_dir)
        record = _new_record(spec, seed, run_id, cost, split, hardware, options, earlier)
        session = _Session(spec, record, folder, options, observer, stop or Stop(options.time_limit))
        with device.arithmetic(hardware, spec.train.deterministic):
            return session.train(split, hardware)


def _is_finished(folder: RunFolder) -> bool:
    return folder.record_path.exists() and folder.read_record().finished


@contextmanager
def _claim(folder: RunFolder, options: RunOptions) -> Iterator[None]:
    """Hold the run's lock; RunBusy where another process has it."""
    lock = FileLock(folder.lock_path, timeout=0)
    try:
        folder.lock_path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunBusy(
            f"another process is training run {folder.run_id} at this moment",
            where=str(folder.path),
            fix="wait for it, or stop it; `harness runs` shows its state",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _set_aside(store: Store, run_id: str, observer: Observer) -> None:
    aside = store.set_aside(run_id)
    if aside:
        observer(Note(run_id, f"what was there is kept in {aside}"))


def _check_same_hardware(earlier: Record, folder: RunFolder, hardware: device.Hardware, options: RunOptions) -> None:
    """A result of another type of device, or in another precision, is not silently taken for this one."""
    then = earlier.provenance.get("device_type"), earlier.provenance.get("precision")
    now = hardware.kind, hardware.precision
    if options.any_device or None in then or then == now:
        return
    if not earlier.finished and not (folder.last.exists() or folder.previous.exists()):
        return
    verb = "finished" if earlier.finished else "began"
    raise InputError(
        f"this run {verb} on {then[0]} in {then[1]}, and here it would be {now[0]} in {now[1]}",
        where=str(folder.path),
        fix="--any-device accepts that, --fresh runs it again here",
    )


def _new_record(
    spec: ExperimentSpec,
    seed: int,
    run_id: str,
    cost: guard.Cost,
    split: Split,
    hardware: device.Hardware,
    options: RunOptions,
    earlier: Record | None,
) -> Record:
    conditions = {
        "device": str(hardware.device),
        "device_type": hardware.kind,
        "device_name": hardware.name,
        "precision": hardware.precision,
        "threads": hardware.threads,
        "data_digest": split.digest,
        "planned_seeds": list(options.planned_seeds),
    }
    record = Record(
        run_id=run_id,
        name=spec.name,
        status="running",
        seed=seed,
        spec=spec.model_dump(mode="json"),
        spec_digest=identity.spec_digest(spec),
        numerics=identity.NUMERICS,
        study=options.study,
        arm=options.arm,
        trainable_parameters=cost.trainable_parameters,
        macs=cost.macs,
        provenance=provenance.collect(list(options.command)) | conditions,
    )
    if earlier:
        record.timings = earlier.timings
        record.provenance["continued"] = [*earlier.provenance.get("continued", []), earlier.provenance.get("started")]
    return record


class _Session:
    """One process's work on one run: the training's listener, and the keeper of its files."""

    def __init__(
        self,
        spec: ExperimentSpec,
        record: Record,
        folder: RunFolder,
        options: RunOptions,
        observer: Observer,
        stop: Stop,
    ):
        self.spec, self.record, self.folder, self.options = spec, record, folder, options
        self.observer, self.stop_asked = observer, stop
        self.journal = Journal(folder.journal_path)
        self.mirror: Mirror
        self.pace: Pace
        self.saved_at = time.monotonic()
        self.told_at = 0.0
        self.began = time.monotonic()
        self.before = record.timings.get("total", 0.0)  # seconds that earlier processes spent on this run

    # --- the run ---

    def train(self, split: Split, hardware: device.Hardware) -> Record:
        """Train, evaluate and record; every way out leaves a record that says how it ended."""
        try:
            with self.stop_asked.on_signals():
                training = self._prepare(split, hardware)
                outcome = training.fit(self)
                if outcome == "interrupted":
                    raise self._stopped()
                self._complete(training, outcome)
        except (Interrupted, TimeLimitReached, KeyboardInterrupt) as error:
            self._end("interrupted")
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(
                    f"stopped at once; the last saved state is kept: {self.options.continue_with}"
                ) from None
            raise
        except Diverged as error:
            self._end("diverged", error)
            raise RunFailed(f"{self.spec.name} (seed {self.record.seed}) diverged: {error}", "diverged") from error
        except torch.OutOfMemoryError as error:
            self._end("out_of_memory", error)
            advice = f"batch size {self.spec.train.batch_size} does not fit: a smaller train.batch_size needs less"
            raise RunFailed(f"{self.spec.name} ran out of memory: {advice}", "out_of_memory") from error
        except StorageError as error:
            self._end("crashed", error)
            raise StorageError(f"{error}; after making space: {self.options.continue_with}") from error
        except HarnessError as error:
            self._end("crashed", error)
            raise
        except Exception as error:
            self._end("crashed", error)
            raise RunFailed(f"{self.spec.name} (seed {self.record.seed}) crashed: {error!r}") from error
        return self.record

    def _prepare(self, split: Split, hardware: device.Hardware) -> Training:
        self.folder.create()
        training = Training(self.spec, self.record.seed, split.to(hardware.device), hardware)
        self._continue(training)
        at = training.progress
        self.pace = Pace(self.spec, len(split.train), len(split.validation or ()), training.steps)
        self.folder.write_record(self.record)
        self.mirror = self._open_mirror()
        self.observer(
            Started(
                self.record.run_id,
                self.spec.name,
                self.record.seed,
                self.spec.train.epochs,
                at.epoch,
                at.step,
                self.record.trainable_parameters,
                hardware.name if hardware.kind != "cpu" else f"CPU ({hardware.name})",
                hardware.precision,
                hardware.threads,
            )
        )
        if hardware.kind == "cpu":
            self._tell_expected_time(training)
        self.saved_at = time.monotonic()
        self.pace.begin()
        return training

    def _tell_expected_time(self, training: Training) -> None:
        at = training.progress
        seconds = self.pace.expected_seconds(probe_images_per_second(training), at.epoch, at.step)
        if seconds > SLOW:
            small = "; experiments/small.yaml is made for a CPU" if self.spec.dataset.title == "CIFAR-10" else ""
            text = f"{self.spec.train.epochs} epochs of this network on this CPU: about {duration(seconds)}{small}"
            self.observer(Note(self.record.run_id, text, warning=True))

    def _open_mirror(self) -> Mirror:
        spec, options = self.spec, self.options
        mirror = open_mirror(
            options.wandb,
            self.folder,
            self.record,
            self.journal.rows(),
            project=options.wandb_project,
            entity=options.wandb_entity,
            group=options.study,
            job_type=options.arm,
            tags=[tag for tag in (options.study, options.arm, spec.data.dataset, spec.data.protocol) if tag],
            notes=options.notes or spec.notes,
        )
        if mirror.state not in ("offline", "online", "disabled"):
            self.observer(Note(self.record.run_id, f"Weights & Biases: {mirror.state}", warning=True))
        self.record.wandb = Wandb(id=self.record.run_id if options.wandb != "disabled" else None, state=mirror.state)
        return mirror

    # --- continuing ---

    def _continue(self, training: Training) -> None:
        """Stand where the last readable state was saved, journal included; at the beginning where there is none."""
        state = self._saved_state(training.hardware.device)
        if state:
            training.load_state_dict(state)
        self.record.epochs_done = training.progress.epoch - 1
        self.journal.truncate(self.record.epochs_done)

    def _saved_state(self, device: torch.device) -> State | None:
        for path in (self.folder.last, self.folder.previous):
            if not path.exists():
                continue
            try:
                content = checkpoint.read(path, device)
            except checkpoint.DamagedCheckpoint as error:
                self.observer(Note(self.record.run_id, f"a damaged checkpoint is passed over: {error}", warning=True))
                continue
            if content["run_id"] == self.record.run_id:
                state: State = content["state"]
                return state
        return None

    # --- what the loop tells and asks ---

    def step_done(self, epoch: int, step: int, steps: int) -> None:
        self.pace.step_done(epoch, step)
        now = time.monotonic()
        if now - self.told_at >= TOLD_EVERY or step == 1:
            self.told_at = now
            epochs, seconds = self.spec.train.epochs, self.pace.seconds_left()
            self.observer(Stepped(self.record.run_id, epoch, epochs, step, steps, self.pace.images_per_second, seconds))

    def epoch_done(self, row: dict[str, Any], state: State) -> None:
        self.pace.epoch_done(row["epoch"])
        self.journal.append(row)
        self.record.epochs_done = row["epoch"]
        self.mirror.log(row)
        if self.options.checkpoint_every == 0 or self.wants_save():
            self.save(state)
        self.observer(EpochDone(self.record.run_id, row, self.spec.train.epochs, self.pace.seconds_left()))

    def wants_save(self) -> bool:
        every = self.options.checkpoint_every
        return every > 0 and time.monotonic() - self.saved_at >= every

    def save(self, state: State) -> None:
        """The previous state is kept until the new one is whole."""
        content = {"run_id": self.record.run_id, "state": state}
        if self.folder.last.exists():
            os.replace(self.folder.last, self.folder.previous)
        atomic_write_bytes(self.folder.last, checkpoint.serialise(content))
        self.saved_at = time.monotonic()

    # --- endings ---

    def _stopped(self) -> HarnessError:
        done, of = self.record.epochs_done, self.spec.train.epochs
        text = f"stopped after {done} of {of} epochs; the state is saved: {self.options.continue_with} to go on"
        return TimeLimitReached(f"time limit: {text}") if self.stop_asked.reason == "time_limit" else Interrupted(text)

    def _complete(self, training: Training, outcome: Literal["completed", "stopped_early"]) -> None:
        """Judge the final and the best weights, keep them and the predictions, and close the record."""
        began = time.monotonic()
        final, evaluation = _judge(training, training.progress.epoch - 1, self.spec.data.protocol)
        self._write_weights(self.folder.final, training.model.state_dict(), final)
        self._write_predictions(training.split, evaluation)
        best = final
        best_row, best_weights = training.progress.best_row, training.best_weights
        if best_row and best_weights and best_row["epoch"] != final.epoch:
            training.model.load_state_dict(best_weights)
            best, _ = _judge(training, best_row["epoch"], self.spec.data.protocol)
        if best_row:
            self._write_weights(self.folder.best, training.model.state_dict(), best)
        self.record.results = Results(final=final, best=best if best_row else None)
        reads = {"paper": self.record.epochs_done, "holdout": 0, "full": 1}
        self.record.test_reads = reads[self.spec.data.protocol]
        self.record.timings["evaluate"] = time.monotonic() - began
        self._end(outcome)
        for path in (self.folder.last, self.folder.previous):
            path.unlink(missing_ok=True)

    def _write_weights(self, path: Path, weights: State, scores: Scores) -> None:
        content = {"run_id": self.record.run_id, "spec": self.record.spec, "epoch": scores.epoch, "weights": weights}
        atomic_write_bytes(path, checkpoint.serialise(content))

    def _write_predictions(self, split: Split, evaluation: Evaluation) -> None:
        judged, images = _judged_set(split)
        predicted = evaluation.logits.argmax(1)
        self.folder.write_predictions(evaluation.logits.numpy(), predicted.numpy(), judged.labels.cpu().numpy(), images)

    def _end(self, status: Status, error: BaseException | None = None) -> None:
        """Write the last word of record and mirror; on a full disk as much of it as goes."""
        record = self.record
        record.status = status
        record.provenance["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
        if error is not None:
            text = "".join(traceback.format_exception(error))
            record.error = {"type": type(error).__name__, "message": str(error), "traceback": text}
        try:
            rows = self.journal.rows()
            record.timings |= {
                "train": sum(row["seconds"] for row in rows),
                "total": self.before + time.monotonic() - self.began,
            }
            if rows:
                record.timings["images_per_second"] = sum(row["images_per_second"] for row in rows) / len(rows)
            self.folder.write_record(record)  # before wandb has its turn: should it hang, the record is true
            if hasattr(self, "mirror"):
                record.wandb = self.mirror.finish(record)
            self.folder.write_record(record)
        except HarnessError:
            if error is None:
                raise
        self.observer(Ended(record.run_id, status, str(error) if error else ""))


def _judged_set(split: Split) -> tuple[Any, Literal["test", "validation"]]:
    """What a run is judged on: the validation set, which under `paper` is the test set; under `full` the test set."""
    if split.validation is None or split.validation_is_test:
        return split.test, "test"
    return split.validation, "validation"


def _judge(training: Training, epoch: int, protocol: str) -> tuple[Scores, Evaluation]:
    """Scores of the weights the model holds: one clean pass over the training images and one over the judged set."""
    judged, _ = _judged_set(training.split)
    train = evaluate(training.model, training.split.train, training.normalise, training.hardware)
    result = evaluate(training.model, judged, training.normalise, training.hardware)
    if not torch.isfinite(result.logits).all():
        raise Diverged(f"the logits are not finite after epoch {epoch}")
    scores = Scores(epoch=epoch, train_loss=train.loss, train_accuracy=train.accuracy)
    if protocol != "full":
        scores = scores.model_copy(update={"val_loss": result.loss, "val_accuracy": result.accuracy})
    if protocol != "holdout":
        scores = scores.model_copy(update={"test_loss": result.loss, "test_accuracy": result.accuracy})
    return scores, result


def read_test_set(run_id: str, options: RunOptions) -> Record:
    """Evaluate a finished `holdout` run on the test set, once more counted in its record.

    Raises:
        InputError: there is no such finished run, or its weights are gone or damaged.
    """
    folder = Store(options.runs_dir).find(run_id)
    record = folder.read_record() if folder else None
    if folder is None or record is None or not record.finished or record.results.final is None:
        raise InputError(f"run {run_id} has not finished: the test set is read afterwards")
    if record.spec["data"]["protocol"] != "holdout":
        raise InputError("--test is for protocol holdout; under the others the record already holds the test values")
    with _claim(folder, options):
        spec = experiment_from_dict(record.spec)
        hardware = device.resolve(options.device, record.provenance.get("precision", spec.train.precision))
        split = load_split(spec, options.data_dir)
        training = Training(spec, record.seed, replace(split, validation=None).to(hardware.device), hardware)
        results = {}
        for which, path in (("final", folder.final), ("best", folder.best)):
            scores: Scores | None = getattr(record.results, which)
            results[which] = scores and _with_test_values(scores, path, training)
        record.results = Results(**results)
        record.test_reads += 1
        folder.write_record(record)
    return record


def _with_test_values(scores: Scores, weights: Path, training: Training) -> Scores:
    try:
        content = checkpoint.read(weights, training.hardware.device)
    except checkpoint.DamagedCheckpoint as error:
        raise InputError(f"the weights can't be read: {error}", fix="--fresh trains them again") from error
    training.model.load_state_dict(content["weights"])
    result = evaluate(training.model, training.split.test, training.normalise, training.hardware)
    return scores.model_copy(update={"test_loss": result.loss, "test_accuracy": result.accuracy})
