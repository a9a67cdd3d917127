"""The training loop: one step readable on one screen, everything around it in small functions.

The loop knows nothing of files, trackers or terminals. Who calls it passes a `Listener`, which is
told of steps, epochs and states worth saving and may ask the loop to stop after the current step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from harness.errors import HarnessError
from harness.spec.experiment import EarlyStopping, ExperimentSpec
from harness.training import augment, draws, optim
from harness.training.augment import Batch, Batches, Normaliser
from harness.training.checkpoint import MEMORY_FORMAT
from harness.training.data import Split
from harness.training.device import Hardware, autocast, can_compile, usage
from harness.training.evaluate import evaluate
from harness.training.graph import (
    CudaRecorder,
    GraphedCall,
    GraphedStep,
    Lead,
    Recorder,
    Step,
    StepResult,
    work_stream,
    working_on,
)
from harness.training.guard import cost
from harness.training.loss import objective
from harness.training.model import ResNet, build_model, draw_kept, initialise
from harness.training.schedule import LearningRate

Row = dict[str, Any]
State = dict[str, Any]

COMPILE_PAYS = 4e15
"""Multiply-accumulates of all forward passes of a training: a hundred epochs of the published network."""


class Diverged(HarnessError):
    """A loss or a gradient is not finite; the message names metric, epoch and step."""


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
        hardware: device and resolved precision; whether steps are recorded as CUDA graphs (never where the spec asks
            for determinism).
        teacher: the network whose soft targets `loss.distill` learns from, in evaluation mode.
    """

    def __init__(
        self, spec: ExperimentSpec, seed: int, split: Split, hardware: Hardware, teacher: nn.Module | None = None
    ):
        self.spec, self.seed, self.split, self.hardware, self.teacher = spec, seed, split, hardware, teacher
        device = hardware.device
        self.steps = -(-len(split.train) // spec.train.batch_size)
        self.full_size = min(spec.train.batch_size, len(split.train))
        self.model: ResNet = build_model(spec, device)
        initialise(self.model, seed)
        self.model.to(memory_format=MEMORY_FORMAT)
        self.parameters = list(self.model.parameters())
        self.optimizer = optim.build_optimizer(spec.optim.optimizer, self.model)
        self.learning_rate = LearningRate(spec.optim, self.optimizer, spec.train.epochs, self.steps)
        self.lookahead = optim.Lookahead(spec.optim.lookahead, self.parameters) if spec.optim.lookahead else None
        self.average = optim.Average(spec.optim.ema, self.model) if spec.optim.ema else None
        # What batches of the full size go through; all others, and evaluation, through the model.
        self.forward: Callable[..., Tensor] = self.model
        if compiles(spec, hardware):
            torch.compiler.reset()  # or what is compiled would depend on the networks before it in this process
            self.forward = torch.compile(self.model, dynamic=False)  # for any size it would be slower for this one
        self.normalise = Normaliser.of(spec.dataset.mean, spec.dataset.std, device)
        self.lead, self.stream = Lead(device), work_stream(device)
        self.step: Step = self._step
        if hardware.graphs and not spec.train.deterministic:
            self.record_with(CudaRecorder())
        self.progress = Progress(losses=torch.zeros(self.steps, device=device), correct=torch.zeros((), device=device))
        # This epoch's, [steps], on the device. In no state: they are looked at before one is saved.
        self.gradient_norms = torch.zeros(self.steps, device=device)
        self.best_weights: dict[str, Tensor] | None = None

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated, selected and kept: the moving average where there is one."""
        return self.average.module if self.average else self.model

    def record_with(self, record: Recorder) -> None:
        """Record steps, once they are warm, and replay them from then on; what was recorded before is dropped."""
        record.forget()
        optim.hold_settings(self.optimizer, self.hardware.device)
        self.step = GraphedStep(self._step, record)
        if self.lookahead:
            self.lookahead.synchronise = GraphedCall(self.lookahead.synchronise_now, record)

    def fit(self, listener: Listener) -> Literal["completed", "stopped_early", "interrupted"]:
        """Train from where `progress` stands to the end; on "interrupted" the listener holds the state.

        Raises:
            Diverged: a loss or a gradient is not finite.
        """
        if self.spec.loss.distill and self.teacher is None:
            raise ValueError(f"{self.spec.name} learns from a teacher, and none was given")
        with working_on(self.stream):
            return self._fit(listener)

    def _fit(self, listener: Listener) -> Literal["completed", "stopped_early", "interrupted"]:
        batches = Batches(self.spec, self.split.train, self.normalise)
        while self.progress.epoch <= self.spec.train.epochs:
            if self._out_of_patience():  # asked here, so that a state saved after the last epoch knows it too
                return "stopped_early"
            if not self._train_epoch(batches, listener):
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

    def _train_epoch(self, all_batches: Batches, listener: Listener) -> bool:
        """The rest of the epoch in progress; False where the listener asked to stop in the middle of it."""
        at, train, device = self.progress, self.split.train, self.hardware.device
        clock = time.perf_counter() - at.seconds
        drawn = augment.draw_epoch(self.spec, self.seed, at.epoch, len(train), device)
        batches = all_batches.epoch(drawn)
        kept = draw_kept(self.spec.model, self.seed, at.epoch, len(train), device)
        self.model.train()
        while at.step < self.steps:
            batch = batches(at.step)
            draws.seed_step(self.seed, at.epoch, at.step, device)
            loss, correct, gradient_norm = self.step(batch, None if kept is None else kept[batch.indices])
            at.losses[at.step], self.gradient_norms[at.step] = loss, gradient_norm
            at.correct += correct
            self.learning_rate.step_done()
            if self.lookahead:
                self.lookahead.step()
            if self.average:
                self.average.update()
            at.step += 1
            self.lead.step_launched()
            at.seconds = time.perf_counter() - clock
            listener.step_done(at.epoch, at.step, self.steps)
            if at.step < self.steps and (listener.wants_save() or listener.stop_asked()):
                self.lead.wait()
                at.seconds = time.perf_counter() - clock
                self._check_finite()
                listener.save(self.state_dict())
                if listener.stop_asked():
                    return False
        self.lead.wait()
        at.seconds = time.perf_counter() - clock
        return True

    def _step(self, batch: Batch, kept: Tensor | None) -> StepResult:
        """Move the weights by the gradients of one batch."""
        forward = self.forward if len(batch.images) == self.full_size else self.model
        with autocast(self.hardware):
            logits = forward(batch.images, kept).float()
        loss = objective(self.spec.loss, logits, batch.labels, batch.mix, self.soft_targets(batch.images))
        self.optimizer.zero_grad()
        loss.backward()
        if self.spec.optim.clip:
            gradient_norm = optim.clip_gradients(self.spec.optim.clip, self.parameters)
        else:
            gradient_norm = optim.gradient_norm(self.parameters)
        self.optimizer.step()
        return loss.detach(), (logits.detach().argmax(1) == batch.labels).sum(), gradient_norm

    def soft_targets(self, images: Tensor) -> Tensor | None:
        """The teacher's logits of the images as the student sees them, mixed ones too."""
        if self.teacher is None:
            return None
        with torch.no_grad(), autocast(self.hardware):
            logits: Tensor = self.teacher(images).float()
        return logits

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
            "lr": self.learning_rate.used,
            "seconds": seconds,
            "images_per_second": count / seconds,
            **usage(self.hardware),
        }
        self.learning_rate.epoch_done(row)
        self._note_best(row)
        at.epoch, at.step, at.seconds = at.epoch + 1, 0, 0.0
        at.losses.zero_()
        at.correct.zero_()
        return row

    def _validate(self) -> Row:
        if self.split.validation is None:
            return {"val_loss": None, "val_accuracy": None}
        result = evaluate(self.evaluated, self.split.validation, self.normalise, self.hardware)
        if not math.isfinite(result.loss):
            raise Diverged(f"val_loss is {result.loss} after epoch {self.progress.epoch}")
        return {"val_loss": result.loss, "val_accuracy": result.accuracy}

    def _check_finite(self) -> None:
        """Losses and gradients of the epoch so far; a loss comes before the gradients of the same step."""
        found = torch.stack([self.progress.losses, self.gradient_norms], dim=1)
        wrong = (~found.isfinite()).nonzero()
        if len(wrong):
            step, which = wrong[0].tolist()
            value, metric = found[step, which].item(), ("train_loss", "gradient_norm")[which]
            raise Diverged(f"{metric} is {value} in epoch {self.progress.epoch}, step {step + 1} of {self.steps}")

    def _note_best(self, row: Row) -> None:
        at = self.progress
        if row["val_loss"] is not None and row["val_loss"] < at.best_loss:
            at.best_loss, at.best_row = row["val_loss"], row
            self.best_weights = {name: tensor.clone() for name, tensor in self.evaluated.state_dict().items()}
        stopping = self.spec.train.early_stopping
        if stopping and (value := monitored(stopping, row)) < at.monitored:
            at.monitored, at.monitored_epoch = value, row["epoch"]

    def state_dict(self) -> State:
        """All that continuing needs, tensors and plain values only."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "learning_rate": self.learning_rate.state_dict(),
            "lookahead": self.lookahead.state_dict() if self.lookahead else None,
            "average": self.average.state_dict() if self.average else None,
            "progress": vars(self.progress).copy(),
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: State) -> None:
        """Stand where `state` was saved."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        optim.free_settings(self.optimizer)  # the state may be of a recorded training, and this one be eager
        self.learning_rate.load_state_dict(state["learning_rate"])
        if self.lookahead:
            self.lookahead.load_state_dict(state["lookahead"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.best_weights = state["best_weights"]
        self.progress = Progress(**state["progress"])
        if isinstance(self.step, GraphedStep):  # what it recorded works on the optimiser's tensors of before
            self.record_with(self.step.record)


def compiles(spec: ExperimentSpec, hardware: Hardware) -> bool:
    """Whether steps on full batches are compiled: as the spec says, `auto` where training is long enough for it to pay.

    The last batch of an epoch and evaluation are not: to compile the network for their sizes takes longer than all of
    them together.

    On a CPU it never is: 2 % faster, after a minute's compilation. On a GPU by the work that there is: on an H200 the
    published network's epochs took 1.36 s instead of 1.67 (reports/bench_gpu.md), its compilation for three sizes of
    batch, one of which remains, 71 s the first time and about 10 s with the compiler's cache, which a study's runs
    share. So at `COMPILE_PAYS`, 100 epochs of it, it pays for three seeds or more. And only where there is a compiler:
    `true` without one ends the run with torch's own words for what is missing.
    """
    if spec.train.compile != "auto":
        return spec.train.compile
    work = cost(spec).macs * spec.train_images * spec.train.epochs
    return hardware.kind == "cuda" and not spec.train.deterministic and work >= COMPILE_PAYS and can_compile()


def monitored(stopping: EarlyStopping, row: Row) -> float:
    """The monitored value, signed so that lower is better."""
    value = float(row[stopping.monitor])
    return value if stopping.monitor.endswith("loss") else -value
