"""One process's work on one run: the training's listener, and the keeper of its files."""

from __future__ import annotations

import contextlib
import time
import traceback
from typing import Any, Literal

from torch import nn

from harness.duration import duration
from harness.errors import (
    HarnessError,
    InputError,
    Interrupted,
    RunFailed,
    RunLost,
    StorageError,
    TimeLimitReached,
    printable,
)
from harness.events import Ended, EpochDone, Note, Observer, Started, Stepped
from harness.judge import judge, judged_set, samples
from harness.options import RunOptions
from harness.saved import pack_state
from harness.spec.experiment import ExperimentSpec
from harness.stop import Stop
from harness.tracking import provenance
from harness.tracking.background import start_mirror
from harness.tracking.claim import Claim
from harness.tracking.journal import Journal
from harness.tracking.media import Samples
from harness.tracking.mirror import Mirror, labels
from harness.tracking.record import Record, Results, Scores, Status, Wandb
from harness.tracking.store import RunFolder, atomic_write_bytes
from harness.training import checkpoint, device
from harness.training.data import Split
from harness.training.evaluate import Evaluation
from harness.training.loop import Diverged, State, Training
from harness.training.pace import Pace, probe_images_per_second

SLOW = 30 * 60  # seconds of expected training above which the user is told before it begins
TOLD_EVERY = 0.25  # seconds between step events


class Session:
    """One process's work on one run: the training's listener, and the keeper of its files."""

    def __init__(
        self,
        spec: ExperimentSpec,
        record: Record,
        folder: RunFolder,
        options: RunOptions,
        observer: Observer,
        stop: Stop,
        claim: Claim,
        teacher: nn.Module | None = None,
        state: State | None = None,
    ):
        self.claim, self.teacher, self.state = claim, teacher, state
        self.spec, self.record, self.folder, self.options = spec, record, folder, options
        self.observer, self.stop_asked = observer, stop
        self.journal = Journal(folder.journal_path)
        self.mirror: Mirror
        self.samples: Samples | None = None
        self.pace: Pace
        self.saved_at = time.monotonic()
        self.told_at = 0.0
        self.began = time.monotonic()
        self.before = record.timings.get("total", 0.0)  # seconds that earlier processes spent on this run

    # --- the run ---

    def train(self, split: Split, hardware: device.Hardware) -> Record:
        """Train, evaluate and record; every way out leaves a record that says how it ended.

        But for one: a run that another process has taken over (RunLost) is that one's to write.
        """
        try:
            training = self._prepare(split, hardware)
            outcome = training.fit(self)
            if outcome == "interrupted":
                raise self._stopped()
            if self.options.checkpoint_every:  # else it is saved: judging may take minutes, and be broken off
                self.save(training.state_dict())
            self._complete(training, outcome)
        except RunLost:
            if hasattr(self, "mirror"):
                self.mirror.abandon()
            raise
        except (Interrupted, TimeLimitReached, KeyboardInterrupt) as error:
            if self.record.finished:
                raise Interrupted("the run is complete; only its Weights & Biases mirror may not be") from None
            at_once = isinstance(error, KeyboardInterrupt)
            try:
                self._end("interrupted")
            except KeyboardInterrupt:
                at_once = True
            if at_once:
                raise self._stopped_at_once() from None
            raise
        except Diverged as error:
            self._end("diverged", error)
            raise RunFailed(f"{self.spec.name} (seed {self.record.seed}) diverged: {error}", "diverged") from error
        except StorageError as error:
            self._end("interrupted", error)  # not the run's fault: what was saved is good, and it can go on
            raise StorageError(f"{error}; after making space {self.options.continue_with} goes on") from error
        except HarnessError as error:
            self._end("crashed", error)
            raise
        except Exception as error:
            if device.is_out_of_memory(error):
                self._end("out_of_memory", error)
                advice = f"batch size {self.spec.train.batch_size} does not fit: a smaller train.batch_size needs less"
                raise RunFailed(f"{self.spec.name} ran out of memory: {advice}", "out_of_memory") from error
            self._end("crashed", error)
            raise RunFailed(f"{self.spec.name} (seed {self.record.seed}) crashed: {error!r}") from error
        return self.record

    def _prepare(self, split: Split, hardware: device.Hardware) -> Training:
        self.claim.check()
        self.folder.create()
        training = Training(self.spec, self.record.seed, split.to(hardware.device), hardware, self.teacher)
        self.claim.check()
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
            small = "; experiments/small.yaml takes a few minutes" if self.spec.dataset.title == "CIFAR-10" else ""
            text = f"{self.spec.train.epochs} epochs of this network on this CPU: about {duration(seconds)}{small}"
            self.observer(Note(self.record.run_id, text, warning=True))

    def _open_mirror(self) -> Mirror:
        options = self.options
        self.record.wandb = Wandb(
            id=self.record.run_id if options.wandb != "disabled" else None,
            project=options.wandb_project,
            entity=options.wandb_entity,
            notes=options.notes or self.spec.notes,
        )
        mirror = start_mirror(options.wandb, self.folder, self.record, self.journal.rows(), **labels(self.record))
        self._look_after_mirror(self.record.wandb.id, mirror.state)
        return mirror

    def _look_after_mirror(self, id: str | None, state: str) -> None:
        """What became of it stands in the record, and trouble is told when it comes."""
        known, self.record.wandb = self.record.wandb, self.record.wandb.model_copy(update={"id": id, "state": state})
        if state in (known.state, "offline", "online", "disabled"):
            return
        text = f"Weights & Biases: {state}"
        if self.options.wandb == "online":
            text += f"; `harness sync {self.record.run_id}` brings it there later"
        self.observer(Note(self.record.run_id, text, warning=True))

    # --- continuing ---

    def _continue(self, training: Training) -> None:
        """Stand where the given state was saved, journal included; at the beginning where there is none."""
        if self.state:
            training.load_state_dict(self.state)
            self.state = None  # or it would keep its memory
        done = self.record.epochs_done = training.progress.epoch - 1
        try:
            self.journal.truncate(done)
            lost = done - len(self.journal.rows())
        except InputError as error:
            raise error.with_fix("mend the line, or --fresh puts the run aside and runs again") from error
        if lost > 0:  # as of a folder that was copied while the run went on
            text = (
                f"{self.journal.path} has lost {lost} of {done} epochs: no result depends on them, curves and times do"
            )
            self.observer(Note(self.record.run_id, f"{text}; --fresh runs it again", warning=True))

    # --- what the loop tells and asks ---

    def step_done(self, epoch: int, step: int, steps: int) -> None:
        if self.claim.lost:
            raise self.claim.loss()
        self.pace.step_done(epoch, step)
        now = time.monotonic()
        if now - self.told_at >= TOLD_EVERY or step == 1:
            self.told_at = now
            epochs, seconds = self.spec.train.epochs, self.pace.seconds_left()
            self.observer(Stepped(self.record.run_id, epoch, epochs, step, steps, self.pace.images_per_second, seconds))

    def epoch_done(self, row: dict[str, Any], state: State) -> None:
        self.pace.epoch_done(row["epoch"])
        self.claim.check()
        self.journal.append(row)
        self.record.epochs_done = row["epoch"]
        self.record.test_reads += self.spec.data.protocol == "paper"  # its validation set is the test set
        self.mirror.log(row)
        self._look_after_mirror(self.record.wandb.id, self.mirror.state)
        self.record.timings["total"] = self._spent()  # what is killed has had its time
        self.folder.write_record(self.record)
        if self.options.checkpoint_every == 0 or self.wants_save():
            self.save(state)
        self.observer(EpochDone(self.record.run_id, row, self.spec.train.epochs, self.pace.seconds_left()))

    def _spent(self) -> float:
        """Seconds, those of earlier processes too."""
        return self.before + time.monotonic() - self.began

    def wants_save(self) -> bool:
        every = self.options.checkpoint_every
        return every > 0 and time.monotonic() - self.saved_at >= every

    def save(self, state: State) -> None:
        """The previous state is kept until the new one is whole."""
        content = pack_state(self.record, state)
        self.claim.check()
        self.folder.keep_last()
        atomic_write_bytes(self.folder.last, content)
        self.saved_at = time.monotonic()

    # --- endings ---

    def _stopped(self) -> HarnessError:
        done, of = self.record.epochs_done, self.spec.train.epochs
        text = f"{done} of {of} epochs are done, the state is saved; {self.options.continue_with} to go on"
        return TimeLimitReached(f"time limit: {text}") if self.stop_asked.reason == "time_limit" else Interrupted(text)

    def _stopped_at_once(self) -> Interrupted:
        again = f"{self.options.continue_with} to go on"
        if self.folder.last.exists() or self.folder.previous.exists():
            return Interrupted(f"at once; the last saved state is kept: {again}")
        return Interrupted(f"at once, before a state was saved: {again} from the beginning")

    def _complete(self, training: Training, outcome: Literal["completed", "stopped_early"]) -> None:
        """Judge the final and the best weights, keep them and the predictions, and close the record."""
        began = time.monotonic()
        final, evaluation = self._judge(training, training.progress.epoch - 1)
        self.claim.check()
        self._write_weights("final", training.evaluated.state_dict(), final)
        self._write_predictions(training.split, evaluation)
        self.samples = samples(training.split)
        flipped = None
        if self.spec.evaluation.flip_tta:
            flipped, _ = self._judge(training, final.epoch, flip=True)
        best = final
        best_row, best_weights = training.progress.best_row, training.best_weights
        if best_row and best_weights and best_row["epoch"] != final.epoch:
            training.evaluated.load_state_dict(best_weights)
            best, _ = self._judge(training, best_row["epoch"])
        if best_row:
            self._write_weights("best", training.evaluated.state_dict(), best)
        self.record.results = Results(final=final, best=best if best_row else None, final_flip_tta=flipped)
        self.record.timings["evaluate"] = time.monotonic() - began
        self._end(outcome)
        for path in self.folder.states():
            with contextlib.suppress(OSError):  # no reason to call the run crashed: `harness runs --prune` removes it
                path.unlink()

    def _judge(self, training: Training, epoch: int, *, flip: bool = False) -> tuple[Scores, Evaluation]:
        self.record.test_reads += self.spec.data.protocol != "holdout"
        return judge(training, epoch, self.spec.data.protocol, flip=flip)

    def _write_weights(self, which: Literal["final", "best"], weights: State, scores: Scores) -> None:
        content = {"run_id": self.record.run_id, "spec": self.record.spec, "epoch": scores.epoch, "weights": weights}
        atomic_write_bytes(getattr(self.folder, which), checkpoint.serialise(content))
        self.record.weights[which] = checkpoint.weights_digest(weights)

    def _write_predictions(self, split: Split, evaluation: Evaluation) -> None:
        judged, images = judged_set(split)
        predicted = evaluation.logits.argmax(1)
        self.folder.write_predictions(evaluation.logits.numpy(), predicted.numpy(), judged.labels.cpu().numpy(), images)

    def _end(self, status: Status, error: BaseException | None = None) -> None:
        """Write the last word of record and mirror; on a full disk as much of it as goes."""
        record = self.record
        try:
            with self.stop_asked.last_word():
                self._close_record(status, error)  # before wandb has its turn: should it hang, the record is true
            if hasattr(self, "mirror"):
                told = self.mirror.finish(record, self.samples)
                self._look_after_mirror(told.id, told.state)
            self.folder.write_record(record)
        except RunLost:
            raise
        except HarnessError:
            if error is None:
                raise
        self.observer(Ended(record.run_id, status, str(error) if error else ""))

    def _close_record(self, status: Status, error: BaseException | None) -> None:
        record = self.record
        record.status = status
        record.provenance["ended"] = provenance.now()
        if error is not None:
            text = "".join(traceback.format_exception(error))
            message = printable(str(error))
            record.error = {"type": type(error).__name__, "message": message, "traceback": printable(text)}
        self.claim.check()
        rows = self.journal.rows()
        record.timings |= {"train": sum(row.get("seconds") or 0.0 for row in rows), "total": self._spent()}
        if rows:
            record.timings["images_per_second"] = sum(row.get("images_per_second") or 0.0 for row in rows) / len(rows)
        self.folder.write_record(record)
