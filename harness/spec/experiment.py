"""The experiment file as frozen, strict pydantic models: what is trained, on what, and how.

Every toggle's default is its neutral value ("off"): a field left out changes nothing, and
`harness.spec.identity` leaves neutral fields out of the hash, so that a field added later keeps
the identity of old runs. Fields without a default must be written.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from harness.spec.datasets import DATASETS, Dataset

PositiveInt = Annotated[int, Field(gt=0)]
# Bounds far beyond any budget, so that counting a mistyped network can neither overflow nor take minutes.
Depth = Annotated[int, Field(gt=0, le=256)]
Width = Annotated[int, Field(gt=0, le=65_536)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Protocol = Literal["paper", "holdout", "full"]

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
NAME_RULE = "letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 80 characters"


def check_name(name: str) -> str:
    """A name that is safe as part of a folder name; ValueError says the rule."""
    if not NAME_PATTERN.fullmatch(name) or ".." in name:
        raise ValueError(f"{name!r} can't be a name: use {NAME_RULE}")
    return name


def _expand_switch(value: Any) -> Any:
    if value is True:
        return {}
    return None if value is False else value


# Lets a toggle be written `true` (its defaults) or `false` (off) as well as in full.
SWITCH = BeforeValidator(_expand_switch)


class ConflictError(ValueError):
    """Values that are right each by itself and do not go together.

    Each mistake is (field path from the model that raises, what is wrong), so that a message can
    point at the line of the field.
    """

    def __init__(self, *mistakes: tuple[str, str]):
        super().__init__("; ".join(what for _, what in mistakes))
        self.mistakes = mistakes


class Spec(BaseModel):
    """Frozen; unknown keys refused; an integer is not a boolean, a string is not a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _lists_become_tuples(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        return data


class SqueezeExcitation(Spec):
    """Squeeze-and-excitation (Hu et al. 2018, arXiv 1709.01507): channel gates from pooled features.

    Two 1x1 convolutions with biases and a ReLU between them; channels // reduction hidden units.
    """

    placement: Literal["stem", "block"] = "stem"
    """`stem`: one after the stem, as in the reference system; `block`: one in every residual block."""
    reduction: PositiveInt = 16
    """Channels per hidden unit; at most the channel count it is applied to."""


class Model(Spec):
    """The modified ResNet: stem, groups of basic blocks, average pool, linear classifier."""

    depths: Annotated[tuple[Depth, ...], Field(min_length=1, max_length=8)]
    """Residual blocks per group, e.g. [4, 4, 3]; every group after the first halves the resolution."""
    width: Width | tuple[Width, ...]
    """Channels of the first group, doubled in each later one; or one number per group."""
    se: Annotated[SqueezeExcitation | None, SWITCH] = None
    """Squeeze-and-excitation; `true` means placement stem, reduction 16. Off: null or false."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability of zeroing a feature, after every block and before the classifier. Off: 0."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels per group, written out."""
        if isinstance(self.width, tuple):
            return self.width
        return tuple(self.width * 2**group for group in range(len(self.depths)))

    @model_validator(mode="after")
    def _check(self) -> Self:
        mistakes = []
        if len(self.widths) != len(self.depths):
            what = f"{list(self.widths)} for {len(self.depths)} groups: give one width per group, or one number"
            mistakes.append(("width", what))
        if self.se is not None:
            channels = self.widths[0] if self.se.placement == "stem" else min(self.widths)
            if self.se.reduction > channels:
                what = f"{self.se.reduction} is larger than the {channels} channels it acts on"
                mistakes.append(("se.reduction", what))
        if mistakes:
            raise ConflictError(*mistakes)
        return self


class Data(Spec):
    """Which images, and which of them are used for what."""

    dataset: Literal["cifar10", "digits"]
    """`cifar10`: 50,000 + 10,000 colour images 32 x 32; `digits`: scikit-learn's 1,797 scanned digits 8 x 8."""
    protocol: Protocol = "paper"
    """`paper`: train on all training images, validate on the test set (so what is selected is selected on it);
    `holdout`: a fixed stratified tenth of the training images is the validation set, the test set is not read
    until `harness run --test`; `full`: all training images, no validation, the test set read once at the end."""


class Crop(Spec):
    """Random crop of the original size from the image padded with black (zeros before normalisation)."""

    padding: PositiveInt = 4
    """Pixels added on each side."""


class CutMix(Spec):
    """CutMix (Yun et al. 2019, arXiv 1905.04899): one box and one permutation per batch, labels mixed by area."""

    probability: Probability = 0.5
    """Share of the batches that are mixed."""
    alpha: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    """The mixing ratio is drawn from Beta(alpha, alpha)."""

    @field_validator("probability")
    @classmethod
    def _acts(cls, value: float) -> float:
        if value == 0.0:
            raise ValueError("a probability of 0 never acts: to switch it off write `cutmix: null`")
        return value


class Augment(Spec):
    """Augmentation of training images; evaluation sees the images as they are."""

    crop: Annotated[Crop | None, SWITCH] = None
    """Random crop, each image its own offset. Off: null or false."""
    flip: bool = False
    """Mirror left to right with probability 0.5, each image its own draw."""
    cutmix: Annotated[CutMix | None, SWITCH] = None
    """CutMix. Off: null or false."""


class Optimizer(Spec):
    """Stochastic gradient descent as torch.optim.SGD computes it."""

    kind: Literal["sgd"] = "sgd"
    """The algorithm."""
    lr: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
    """Learning rate at its highest; the schedule scales it."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Momentum. Off: 0."""
    nesterov: bool = False
    """Nesterov's form of momentum; needs momentum > 0."""
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    """L2 penalty added to the gradient of every parameter. Off: 0."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and self.momentum == 0.0:
            raise ConflictError(("nesterov", "Nesterov's form needs momentum above 0"))
        return self


class Schedule(Spec):
    """Learning rate over the training, stepped once an epoch."""

    kind: Literal["constant", "cosine"] = "constant"
    """`constant`; `cosine`: annealed to 0 over all epochs (arXiv 1608.03983, one cycle)."""


class Lookahead(Spec):
    """Lookahead (Zhang et al. 2019, arXiv 1907.08610): slow weights follow the fast ones every k steps.

    Evaluated and saved are the weights the model holds (the fast ones, equal to the slow ones right
    after a synchronisation); the inner optimiser's momentum is kept over a synchronisation.
    """

    k: PositiveInt = 5
    """Optimiser steps between synchronisations."""
    alpha: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Step of the slow weights towards the fast ones; 1 means that it does nothing."""


class Clip(Spec):
    """Gradient clipping before each optimiser step."""

    kind: Literal["norm", "value"] = "norm"
    """`norm`: scale all gradients so that their global L2 norm is at most `value`; `value`: clamp each element."""
    value: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
    """The bound."""


class Optim(Spec):
    """How the weights are moved."""

    optimizer: Optimizer
    schedule: Schedule = Schedule()
    lookahead: Annotated[Lookahead | None, SWITCH] = None
    """Lookahead around the optimiser. Off: null or false."""
    clip: Clip | None = None
    """Gradient clipping. Off: null."""


class EarlyStopping(Spec):
    """Stop when the monitored metric has not improved for `patience` epochs."""

    monitor: Literal["val_loss", "val_accuracy", "train_loss", "train_accuracy"] = "val_loss"
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
    """On CUDA: deterministic kernels only (slower). On CPU the same thread count already gives the same bits."""


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
    train: Train
    guard: Guard = Guard()

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_name(value)

    @property
    def dataset(self) -> Dataset:
        """What is known of the data set without reading it: image shape, classes, sizes, digest."""
        return DATASETS[self.data.dataset]

    @model_validator(mode="after")
    def _check(self) -> Self:
        mistakes = []
        size = min(self.dataset.image_shape[1:])
        stopping = self.train.early_stopping
        if self.data.protocol == "full" and stopping and stopping.monitor.startswith("val_"):
            what = f"{stopping.monitor} does not exist: protocol full has no validation set"
            mistakes.append(("train.early_stopping.monitor", what))
        if 2 ** (len(self.model.depths) - 1) > size:
            what = f"{len(self.model.depths)} groups halve a {size}-pixel image below one pixel"
            mistakes.append(("model.depths", what))
        if self.augment.crop and self.augment.crop.padding > size:
            what = f"{self.augment.crop.padding} is larger than the {size}-pixel image"
            mistakes.append(("augment.crop.padding", what))
        if self.train.batch_size > self.dataset.train_images:
            what = f"{self.train.batch_size} is larger than the {self.dataset.train_images} training images"
            mistakes.append(("train.batch_size", what))
        if mistakes:
            raise ConflictError(*mistakes)
        return self
