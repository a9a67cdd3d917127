"""The training loop: one step readable on one screen, everything around it in small functions.

The loop knows nothing of files, trackers or terminals. Who calls it passes a `Listener`, which is
told of steps, epochs and states worth saving and may ask the loop to stop after the current step.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.errors import HarnessError
from harness.spec.experiment import EarlyStopping, ExperimentSpec
from harness.training import augment, draws, optim
from harness.training.augment import MixedBatch, Normaliser
from harness.training.data import Split
from harness.training.device import Hardware, autocast
from harness.training.evaluate import evaluate
from harness.training.model import ResNet, build_model, initialise

Row = dict[str, Any]
State = dict[str, Any]


class Diverged(HarnessError):
    """A loss is not finite; the message names metric, epoch and step."""


class Listener(Protocol):
    """What the loop tells, and asks, while it trains."""

    def step_done(self, epoch: int, step: int, steps: int) -> None:
        """Step `step` of `steps` (from 1) of `epoch` is done."""

    def epoch_done(self, row: Row, state: State) -> None:
        """A journal row is complete; `state` is what a continuation after this epoch needs."""

    def wants_save(self) -> bool:
        """Whether a state should be saved after this step."""

    def save(self, state: State) -> None:
        """Keep `state`."""

    def stop_asked(self) -> bool:
        """Whether to stop after this step; the state is saved first."""


@dataclass
class Progress:
    """Where a training stands; with the model's, optimiser's and schedule's states, all that continuing needs."""

    epoch: int = 1  # the one in progress
    step: int = 0  # steps of it that are done
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))  # this epoch's, [steps], on the device
    correct: Tensor = field(default_factory=lambda: torch.zeros(()))  # this epoch's running hits, on the device
    seconds: float = 0.0  # this epoch's, up to `step`
    best_loss: float = math.inf  # lowest val_loss and the row it belongs to
    best_row: Row | None = None
    monitored: float = math.inf  # early stopping: best value so far (signed so that lower is better), its epoch
    monitored_epoch: int = 0


class Training:
    """One network in training: model, optimiser and all that moves them, and `fit` to move them to the end.

    Args:
        spec: what to train.
        seed: every draw is a function of it.
        split: the data, already on the hardware's device.
        hardware: device and resolved precision.
    """

    def __init__(self, spec: ExperimentSpec, seed: int, split: Split, hardware: Hardware):
        self.spec, self.seed, self.split, self.hardware = spec, seed, split, hardware
        device = hardware.device
        self.model: ResNet = build_model(spec, device)
        initialise(self.model, seed)
        self.model.to(memory_format=torch.channels_last)
        self.parameters = list(self.model.parameters())
        self.optimizer = optim.build_optimizer(spec.optim.optimizer, self.parameters)
        self.schedule = optim.build_schedule(spec.optim.schedule, self.optimizer, spec.train.epochs)
        self.lookahead = optim.Lookahead(spec.optim.lookahead, self.parameters) if spec.optim.lookahead else None
        self.normalise = Normaliser.of(spec.dataset.mean, spec.dataset.std, device)
        self.steps = -(-len(split.train) // spec.train.batch_size)
        self.progress = Progress(losses=torch.zeros(self.steps, device=device), correct=torch.zeros((), device=device))
        self.best_weights: dict[str, Tensor] | None = None

    def fit(self, listener: Listener) -> Literal["completed", "stopped_early", "interrupted"]:
        """Train from where `progress` stands to the end; on "interrupted" the listener holds the state.

        Raises:
            Diverged: a loss is not finite.
        """
        padded = augment.pad(self.split.train.pixels, self.spec.augment)
        while self.progress.epoch <= self.spec.train.epochs:
            if self._out_of_patience():  # asked here, so that a state saved after the last epoch knows it too
                return "stopped_early"
            if not self._train_epoch(padded, listener):
                return "interrupted"
            row = self._finish_epoch()
            listener.epoch_done(row, self.state_dict())
            if listener.stop_asked() and self.progress.epoch <= self.spec.train.epochs:
                listener.save(self.state_dict())
                return "interrupted"
        return "completed"

    def _out_of_patience(self) -> bool:
        stopping = self.spec.train.early_stopping
        return bool(stopping and self.progress.epoch - 1 - self.progress.monitored_epoch >= stopping.patience)

    def _train_epoch(self, padded: Tensor, listener: Listener) -> bool:
        """The rest of the epoch in progress; False where the listener asked to stop in the middle of it."""
        at, size = self.progress, self.spec.train.batch_size
        train, device = self.split.train, self.hardware.device
        height, width = self.spec.dataset.image_shape[1:]
        drawn = augment.draw_epoch(self.spec, self.seed, at.epoch, len(train), device)
        self.model.train()
        clock = time.perf_counter() - at.seconds
        while at.step < self.steps:
            indices = drawn.order[at.step * size : (at.step + 1) * size]
            images = self.normalise(augment.gather(padded, indices, drawn, height, width))
            labels, mix = train.labels[indices], drawn.mixes[at.step]
            if mix:
                images = augment.paste(images, mix)
            draws.seed_step(self.seed, at.epoch, at.step)
            with autocast(self.hardware):
                logits = self.model(images).float()
            loss = mixed_cross_entropy(logits, labels, mix)
            self.optimizer.zero_grad()
            loss.backward()
            if self.spec.optim.clip:
                optim.clip_gradients(self.spec.optim.clip, self.parameters)
            self.optimizer.step()
            if self.lookahead:
                self.lookahead.step()
            at.losses[at.step] = loss.detach()
            at.correct += (logits.detach().argmax(1) == labels).sum()
            at.step += 1
            at.seconds = time.perf_counter() - clock
            listener.step_done(at.epoch, at.step, self.steps)
            if at.step < self.steps and (listener.wants_save() or listener.stop_asked()):
                self._check_finite()
                listener.save(self.state_dict())
                if listener.stop_asked():
                    return False
        return True

    def _finish_epoch(self) -> Row:
        """Evaluate, advance the schedule, note best and monitored values; returns the journal row."""
        at, count = self.progress, len(self.split.train)
        self._check_finite()
        sizes = torch.full((self.steps,), float(self.spec.train.batch_size))
        sizes[-1] = count - (self.steps - 1) * self.spec.train.batch_size
        seconds = at.seconds
        row: Row = {
            "epoch": at.epoch,
            "train_loss": (at.losses.cpu().double() @ sizes.double()).item() / count,
            "train_accuracy": at.correct.item() / count,
            **self._validate(),
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "seconds": seconds,
            "images_per_second": count / seconds,
        }
        self.schedule.step()
        self._note_best(row)
        at.epoch, at.step, at.seconds = at.epoch + 1, 0, 0.0
        at.losses.zero_()
        at.correct.zero_()
        return row

    def _validate(self) -> Row:
        if self.split.validation is None:
            return {"val_loss": None, "val_accuracy": None}
        result = evaluate(self.model, self.split.validation, self.normalise, self.hardware)
        if not math.isfinite(result.loss):
            raise Diverged(f"val_loss is {result.loss} after epoch {self.progress.epoch}")
        return {"val_loss": result.loss, "val_accuracy": result.accuracy}

    def _check_finite(self) -> None:
        finite = self.progress.losses.isfinite()
        if not finite.all():
            step = int((~finite).nonzero()[0]) + 1
            value = self.progress.losses[step - 1].item()
            raise Diverged(f"train_loss is {value} in epoch {self.progress.epoch}, step {step} of {self.steps}")

    def _note_best(self, row: Row) -> None:
        at = self.progress
        if row["val_loss"] is not None and row["val_loss"] < at.best_loss:
            at.best_loss, at.best_row = row["val_loss"], row
            self.best_weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        stopping = self.spec.train.early_stopping
        if stopping and (value := monitored(stopping, row)) < at.monitored:
            at.monitored, at.monitored_epoch = value, row["epoch"]

    def state_dict(self) -> State:
        """All that continuing needs, tensors and plain values only."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "lookahead": self.lookahead.state_dict() if self.lookahead else None,
            "progress": vars(self.progress).copy(),
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: State) -> None:
        """Stand where `state` was saved."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.lookahead:
            self.lookahead.load_state_dict(state["lookahead"])
        self.best_weights = state["best_weights"]
        self.progress = Progress(**state["progress"])


def mixed_cross_entropy(logits: Tensor, labels: Tensor, mix: MixedBatch | None) -> Tensor:
    """Mean cross-entropy (NLL of log-softmax) of logits [B, classes]; under CutMix labels weigh as their area."""
    if mix is None:
        return F.cross_entropy(logits, labels)
    partner = F.cross_entropy(logits, labels[mix.partner])
    return mix.kept * F.cross_entropy(logits, labels) + (1 - mix.kept) * partner


def monitored(stopping: EarlyStopping, row: Row) -> float:
    """The monitored value, signed so that lower is better."""
    value = float(row[stopping.monitor])
    return value if stopping.monitor.endswith("loss") else -value
