"""The experiment file as frozen, strict pydantic models: what is trained, on what, and how.

Each section has its module (`model`, `data`, `augment`, `optim`, `loss`); the rest is here. Every toggle's default
is its neutral value ("off"): a field left out changes nothing, and `harness.spec.identity` leaves neutral fields out
of the hash, so that a field added later keeps the identity of old runs. Fields without a default must be written.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from harness.spec.augment import Augment
from harness.spec.base import ConflictError, Metric, PositiveInt, Spec, check_name
from harness.spec.data import Data
from harness.spec.datasets import Dataset
from harness.spec.loss import Loss
from harness.spec.model import Model
from harness.spec.optim import Cyclic, MultiStep, OneCycle, Optim, Plateau


class EarlyStopping(Spec):
    """Stop when the monitored metric has not improved for `patience` epochs."""

    monitor: Metric = "val_loss"
    """A column of the journal; losses are to fall, accuracies to rise."""
    patience: PositiveInt
    """Epochs without improvement after which the run stops."""


class Train(Spec):
    """Length, batch and arithmetic of the training."""

    epochs: PositiveInt
    """Passes over the training images."""
    batch_size: PositiveInt
    """Images per step; the last batch of an epoch is smaller where it does not divide."""
    early_stopping: EarlyStopping | None = None
    """Early stopping. Off: null."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 autocast where the hardware computes it (GPU, or CPU with avx512_bf16 or AMX), else fp32."""
    deterministic: bool = False
    """On CUDA: deterministic kernels only (slower). On CPU the same thread count already gives the same bits.
    Off: false."""
    compile: bool | Literal["auto"] = False
    """Compile the network with torch.compile: other roundings, a wait at the beginning. `auto`: where it pays, which
    is in a long training on a GPU (`harness.training.loop.compiles`). Off: false."""


class Evaluation(Spec):
    """What is evaluated at the end beside the images as they are; the headline is never replaced."""

    flip_tta: bool = False
    """Flip test-time augmentation: the mean of the logits of each image and of its mirror image, as results of its
    own (`results.final_flip_tta`). Off: false."""


class Guard(Spec):
    """The budget, checked before any data is read."""

    max_parameters: PositiveInt | None = 5_000_000
    """Largest number of trainable parameters; null: no limit."""


class ExperimentSpec(Spec):
    """One experiment: everything that decides its result, and a name."""

    name: str
    """For people and folder names; not part of the run's identity."""
    notes: str | None = None
    """Free text; not part of the run's identity."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Every random draw of the run is a function of it; `--seed` and a study's `seeds` override it."""
    model: Model
    data: Data
    augment: Augment = Augment()
    optim: Optim
    loss: Loss = Loss()
    train: Train
    evaluation: Evaluation = Evaluation()
    guard: Guard = Guard()

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value)

    @property
    def dataset(self) -> Dataset:
        """What is known of the data set without reading it: image shape, classes, sizes, digest."""
        return self.data.facts

    @model_validator(mode="after")
    def _check(self) -> Self:
        mistakes = [*self._monitor_mistakes(), *self._length_mistakes(), *self._size_mistakes()]
        if mistakes:
            raise ConflictError(*mistakes)
        return self

    @property
    def train_images(self) -> int:
        """Images of an epoch: all training images but those that protocol holdout keeps for validation."""
        return self.data.images_of_an_epoch

    def _monitor_mistakes(self) -> list[tuple[str, str]]:
        watched = []
        if stopping := self.train.early_stopping:
            watched.append(("train.early_stopping.monitor", stopping.monitor, ", or switch early_stopping off: null"))
        if isinstance(self.optim.schedule, Plateau):
            watched.append(("optim.schedule.monitor", self.optim.schedule.monitor, ""))
        why = "does not exist: protocol full has no validation set (data.protocol)"
        return [
            (path, f"{metric} {why}; watch train_{metric.removeprefix('val_')}{otherwise}")
            for path, metric, otherwise in watched
            if self.data.protocol == "full" and metric.startswith("val_")
        ]

    def _length_mistakes(self) -> list[tuple[str, str]]:
        mistakes = []
        epochs, warmup, schedule = self.train.epochs, self.optim.warmup, self.optim.schedule
        if warmup and warmup.epochs >= epochs:
            what = f"a warm-up of {warmup.epochs} epochs leaves nothing of a training of {epochs} (train.epochs)"
            mistakes.append(("optim.warmup.epochs", what))
        if isinstance(schedule, MultiStep) and schedule.milestones[-1] >= epochs:
            what = f"the last, {schedule.milestones[-1]}, never acts in a training of {epochs} epochs (train.epochs)"
            mistakes.append(("optim.schedule.milestones", what))
        if isinstance(schedule, Cyclic) and schedule.half_cycle > epochs:
            what = f"half a cycle of {schedule.half_cycle} epochs does not end in a training of {epochs} (train.epochs)"
            mistakes.append(("optim.schedule.half_cycle", what))
        steps = (epochs - (warmup.epochs if warmup else 0)) * -(-self.train_images // self.train.batch_size)
        if isinstance(schedule, OneCycle) and not mistakes and schedule.peak_at * steps <= 1:
            what = f"a peak at {schedule.peak_at:g} of {steps} steps leaves no step to rise in"
            mistakes.append(("optim.schedule.peak_at", what))
        return mistakes

    def _size_mistakes(self) -> list[tuple[str, str]]:
        mistakes = []
        size = min(self.dataset.image_shape[1:])
        if 2 ** (len(self.model.depths) - 1) > size:
            what = f"{len(self.model.depths)} groups halve a {size}-pixel image below one pixel"
            mistakes.append(("model.depths", what))
        if self.augment.crop and self.augment.crop.padding > size:
            what = f"{self.augment.crop.padding} is larger than the {size}-pixel image"
            mistakes.append(("augment.crop.padding", what))
        if self.augment.cutout and self.augment.cutout.size > size:
            what = f"{self.augment.cutout.size} is larger than the {size}-pixel image"
            mistakes.append(("augment.cutout.size", what))
        if self.train.batch_size > self.train_images:
            what = f"{self.train.batch_size} is larger than the {self.train_images} training images"
            mistakes.append(("train.batch_size", what))
        elif self.model.norm == "batch" and self._smallest_map() == 1 and self._last_batch() == 1:
            what = (
                f"{self.train_images} training images in batches of {self.train.batch_size} end with a batch of one, "
                f"of which batch normalisation can't tell a spread: the last group's maps are of one pixel"
            )
            mistakes.append(("train.batch_size", what))
        return mistakes

    def _smallest_map(self) -> int:
        """Pixels of the last group's maps: each group after the first halves rows and columns, rounded up."""
        height, width = self.dataset.image_shape[1:]
        shrink: int = 2 ** (len(self.model.depths) - 1)
        return -(-height // shrink) * -(-width // shrink)

    def _last_batch(self) -> int:
        return (self.train_images - 1) % self.train.batch_size + 1
