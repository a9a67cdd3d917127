"""The pace on this machine, measured: a few steps of the training itself, on made-up images of the right shape."""

from __future__ import annotations

import time
from typing import Any

import torch

from harness.spec.experiment import ExperimentSpec
from harness.study.expected import Pace, counted
from harness.study.local import threads_per_worker
from harness.training import device, guard
from harness.training.data import Images, Split
from harness.training.device import Hardware
from harness.training.loop import State, Training
from harness.training.pace import Pace as Stepping

WARM_UP = 4  # steps that allocate, choose kernels and record them: not counted
BATCHES = 32  # of an epoch of made-up images
SECONDS = 2.0  # of measuring at least,
STEPS = 3  # and as many steps
PATIENCE = 30.0  # seconds after which the steps that are done have to do


class Watch:
    """The training's listener: times its steps and stops it when enough of them are done."""

    def __init__(self, hardware: Hardware):
        self.hardware = hardware
        self.began = time.perf_counter()
        self.ends: list[float] = []

    def step_done(self, epoch: int, step: int, steps: int) -> None:
        if self.hardware.kind == "cuda":
            torch.cuda.synchronize(self.hardware.device)  # steps are launched ahead of the GPU
        self.ends.append(time.perf_counter())

    @property
    def counted(self) -> list[float]:
        """Ends of the steps that count, and of the one before them; on a slow machine all but the first count."""
        slow = self.ends[-1] - self.began > PATIENCE
        return self.ends[0 if slow else WARM_UP - 1 :]

    @property
    def steps(self) -> int:
        return len(self.counted) - 1

    @property
    def seconds_per_step(self) -> float:
        return (self.counted[-1] - self.counted[0]) / self.steps

    def stop_asked(self) -> bool:
        if self.ends[-1] - self.began > PATIENCE:
            return self.steps >= 1
        return self.steps >= STEPS and self.counted[-1] - self.counted[0] >= SECONDS

    def epoch_done(self, row: dict[str, Any], state: State) -> None:
        """Nothing to keep."""

    def wants_save(self) -> bool:
        return False

    def save(self, state: State) -> None:
        """Nothing to keep."""


def measure(spec: ExperimentSpec, device_option: str = "auto", jobs: int = 1) -> Pace:
    """Train `spec` for a few seconds on `device_option`; no data is needed and nothing is kept. Without its teacher.

    With the threads that each of `jobs` runs at once would have.

    Raises:
        InputError: there is no such device.
    """
    torch.set_num_threads(threads_per_worker(jobs))
    hardware = device.resolve(device_option, spec.train.precision)
    long = spec.train.model_copy(update={"epochs": 1_000_000, "early_stopping": None, "compile": False})
    alone = spec.loss.model_copy(update={"distill": None})
    probed = spec.model_copy(update={"train": long, "loss": alone})
    watch = Watch(hardware)
    try:
        with device.arithmetic(hardware, spec.train.deterministic):
            Training(probed, 0, _made_up(spec).to(hardware.device), hardware).fit(watch)
    finally:
        device.let_go(hardware)
    seconds = _seconds_of_a_run(spec, watch.seconds_per_step)
    work = 3 * guard.cost(spec).macs * spec.train_images * spec.train.epochs
    threads = f" with {counted(hardware.threads, 'thread')}" if hardware.kind == "cpu" else ""
    source = f"measured here: {counted(watch.steps, 'step')} of {spec.name}{threads}"
    return Pace(seconds / work, hardware.kind, hardware.name, source)


def _seconds_of_a_run(spec: ExperimentSpec, seconds_per_step: float) -> float:
    validated = {"paper": spec.dataset.test_images, "holdout": spec.dataset.train_images - spec.train_images, "full": 0}
    steps = -(-spec.train_images // spec.train.batch_size)
    stepping = Stepping(spec, spec.train_images, validated[spec.data.protocol], steps)
    return stepping.expected_seconds(spec.train_images / (steps * seconds_per_step), 1, 0)


def _made_up(spec: ExperimentSpec) -> Split:
    """As many images as a few steps take, and hardly any to evaluate."""
    batch = spec.train.batch_size
    count = min(BATCHES * batch, max(spec.train_images // batch, 1) * batch)
    train = _images(spec, count)
    return Split(train, None if spec.data.protocol == "full" else train.take(torch.arange(1)), train, False, "made up")


def _images(spec: ExperimentSpec, count: int) -> Images:
    channels, height, width = spec.dataset.image_shape
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.randint(0, spec.dataset.classes, (count,), generator=generator))
