"""How fast a training goes and how long it will take: measured as soon as there is something to measure."""

from __future__ import annotations

import copy
import time

import torch
import torch.nn.functional as F

from harness.spec.experiment import ExperimentSpec
from harness.training.device import autocast
from harness.training.loop import Training

EVALUATION_COST = 0.3  # seconds of evaluating an image over training on it, until it is measured
PROBE_BATCH = 32  # images
MEMORY = 0.02  # weight of the newest step in the moving mean
ONCE = 4  # a step or first evaluation of so many times what was expected compiled something, which is not done again


class Pace:
    """Seconds per step (a moving mean) and per evaluation, and what they make of the rest of the run.

    Args:
        spec: the experiment.
        train_images: images per epoch.
        val_images: images evaluated after each epoch.
        steps: steps per epoch.
    """

    def __init__(self, spec: ExperimentSpec, train_images: int, val_images: int, steps: int):
        self.epochs, self.steps = spec.train.epochs, steps
        self.train_images, self.val_images = train_images, val_images
        self.step_seconds: float | None = None
        self.evaluate_seconds: float | None = None
        self.epoch, self.step = 1, 0
        self._counted = 0
        self._clock = time.perf_counter()

    def begin(self) -> None:
        """The next thing to happen is a step."""
        self._clock = time.perf_counter()

    def step_done(self, epoch: int, step: int) -> None:
        now = time.perf_counter()
        took, self._clock = now - self._clock, now
        self.epoch, self.step = epoch, step
        if self._counted <= 1 or self.step_seconds is None:  # one of the first two warms up
            self.step_seconds = min(took, self.step_seconds or took)
        else:
            took = min(took, ONCE * self.step_seconds)
            self.step_seconds += max(1 / self._counted, MEMORY) * (took - self.step_seconds)
        self._counted += 1

    def epoch_done(self, epoch: int) -> None:
        now = time.perf_counter()
        took, self._clock = now - self._clock, now
        first = self.evaluate_seconds is None
        self.evaluate_seconds = min(took, ONCE * self._expected_evaluation()) if first else took
        self.epoch, self.step = epoch + 1, 0

    @property
    def images_per_second(self) -> float:
        return self.train_images / self.steps / self.step_seconds if self.step_seconds else 0.0

    def seconds_left(self) -> float:
        """To the end of the last epoch; early stopping may end it before."""
        step = self.step_seconds or 0.0
        evaluation = self._expected_evaluation() if self.evaluate_seconds is None else self.evaluate_seconds
        epochs = self.epochs - self.epoch + 1
        return max(epochs * (self.steps * step + evaluation) - self.step * step, 0.0)

    def _expected_evaluation(self) -> float:
        return EVALUATION_COST * self.val_images * (self.step_seconds or 0.0) * self.steps / self.train_images

    def expected_seconds(self, images_per_second: float, epoch: int, step: int) -> float:
        """From `epoch`, `step` to the end at a given pace, before anything was measured here."""
        epochs = self.epochs - epoch + 1 - step / self.steps
        return epochs * (self.train_images + EVALUATION_COST * self.val_images) / images_per_second


def probe_images_per_second(training: Training) -> float:
    """Time two passes of a small batch on a copy of the model; the second counts. `training` does not change."""
    model = copy.deepcopy(training.model).train()
    batch = min(PROBE_BATCH, len(training.split.train))
    images = training.normalise(training.split.train.pixels[:batch])
    seconds = 1.0
    for _ in range(2):
        began = time.perf_counter()
        with autocast(training.hardware):
            logits = model(images).float()
        training.soft_targets(images)
        F.cross_entropy(logits, training.split.train.labels[:batch]).backward()
        if training.hardware.kind == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return batch / seconds
