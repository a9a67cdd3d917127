"""`optim:` of an experiment file: how the weights are moved."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, Tag, field_validator, model_validator

from harness.spec.base import (
    MAX_INT,
    SWITCH,
    ConflictError,
    Metric,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Spec,
    by_kind,
)

# --- optimisers --------------------------------------------------------------------------------


class SGD(Spec):
    """Stochastic gradient descent as torch.optim.SGD computes it."""

    kind: Literal["sgd"] = "sgd"
    """The algorithm: sgd or adamw."""
    lr: PositiveFloat
    """Learning rate at its highest; the schedule scales it."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Momentum. Off: 0."""
    nesterov: bool = False
    """Nesterov's form of momentum; needs momentum > 0. Off: false."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay: for sgd an L2 penalty added to the gradient. Off: 0."""
    exempt_norm_and_bias: bool = False
    """No weight decay on normalisation's parameters and on biases. Off: false, decay on every parameter."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and self.momentum == 0.0:
            raise ConflictError(("nesterov", "Nesterov's form needs momentum above 0"))
        return self


class AdamW(Spec):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101) as torch.optim.AdamW does it."""

    kind: Literal["adamw"]
    """The algorithm: sgd or adamw."""
    lr: PositiveFloat
    """Learning rate at its highest; the schedule scales it."""
    betas: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]] = (0.9, 0.999)
    """Decay rates of the running means of the gradient and of its square."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay: for adamw the weights shrink by lr * weight_decay each step. Off: 0."""
    exempt_norm_and_bias: bool = False
    """No weight decay on normalisation's parameters and on biases. Off: false, decay on every parameter."""


Optimizer = Annotated[Annotated[SGD, Tag("sgd")] | Annotated[AdamW, Tag("adamw")], by_kind("sgd")]

# --- schedules ---------------------------------------------------------------------------------


class Constant(Spec):
    """The same learning rate throughout."""

    kind: Literal["constant"] = "constant"
    """constant, cosine, one_cycle, cyclic, multi_step or plateau."""


class Cosine(Spec):
    """Cosine annealing over the training (arXiv 1608.03983, one cycle), stepped once an epoch."""

    kind: Literal["cosine"]
    """constant, cosine, one_cycle, cyclic, multi_step or plateau."""
    min_lr: NonNegativeFloat = 0.0
    """Learning rate at the end."""


class OneCycle(Spec):
    """One cycle (Smith and Topin 2018, arXiv 1708.07120) over the training, stepped after every batch: up from
    lr / start_divisor to lr, then down to lr / start_divisor / end_divisor. The momentum stays."""

    kind: Literal["one_cycle"]
    """constant, cosine, one_cycle, cyclic, multi_step or plateau."""
    peak_at: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3
    """Where the peak is, as a share of the training."""
    start_divisor: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 25.0
    """The first learning rate is lr divided by this."""
    end_divisor: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 10_000.0
    """The last learning rate is the first divided by this."""
    anneal: Literal["cosine", "linear"] = "cosine"
    """Shape of both halves."""


class Cyclic(Spec):
    """Cyclical learning rates (Smith 2017, arXiv 1506.01186), stepped after every batch: between min_lr and lr."""

    kind: Literal["cyclic"]
    """constant, cosine, one_cycle, cyclic, multi_step or plateau."""
    min_lr: NonNegativeFloat
    """Learning rate at the lower turning points; below the optimiser's lr."""
    half_cycle: PositiveInt = 4
    """Epochs from one turning point to the next."""
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    """`triangular`: always up to lr; `triangular2`: half as far in each cycle; `exp_range`: gamma ** batches as far."""
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Of mode exp_range: the factor per batch."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.mode == "exp_range") == (self.gamma == 1.0):
            what = "exp_range needs a gamma below 1" if self.gamma == 1.0 else "only mode exp_range has a gamma"
            raise ConflictError(("gamma", what))
        return self


class MultiStep(Spec):
    """The learning rate times gamma after each milestone."""

    kind: Literal["multi_step"]
    """constant, cosine, one_cycle, cyclic, multi_step or plateau."""
    milestones: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Epochs, counted from the training's beginning, after which the learning rate falls."""
    gamma: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Factor at each milestone."""

    @field_validator("milestones")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError(f"{list(value)}: each milestone must be later than the one before")
        return value


class Plateau(Spec):
    """The learning rate times factor when the monitored metric has stopped improving, looked at once an epoch."""

    kind: Literal["plateau"]
    """constant, cosine, one_cycle, cyclic, multi_step or plateau."""
    monitor: Metric = "val_loss"
    """A column of the journal; losses are to fall, accuracies to rise."""
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """What the learning rate is multiplied by."""
    patience: Annotated[int, Field(ge=0, le=MAX_INT)] = 10
    """Epochs without improvement that are let pass."""
    threshold: Annotated[float, Field(ge=0.0, lt=1.0)] = 1e-4
    """An improvement must be larger than this share of the best value."""
    min_lr: NonNegativeFloat = 0.0
    """Learning rate below which it does not fall."""


Schedule = Annotated[
    Annotated[Constant, Tag("constant")]
    | Annotated[Cosine, Tag("cosine")]
    | Annotated[OneCycle, Tag("one_cycle")]
    | Annotated[Cyclic, Tag("cyclic")]
    | Annotated[MultiStep, Tag("multi_step")]
    | Annotated[Plateau, Tag("plateau")],
    by_kind("constant"),
]


class Warmup(Spec):
    """Linear warm-up (Goyal et al. 2017, arXiv 1706.02677), stepped after every batch; then the schedule begins.

    The schedule has the epochs that remain; milestones are counted from the training's beginning all the same,
    and a plateau is looked for only after the warm-up.
    """

    epochs: PositiveInt = 5
    """Length; shorter than the training."""
    start: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01
    """The first learning rate, as a share of the schedule's first one."""


# --- around the optimiser ----------------------------------------------------------------------


class Lookahead(Spec):
    """Lookahead (Zhang et al. 2019, arXiv 1907.08610): slow weights follow the fast ones every k steps.

    Evaluated and saved are the weights the model holds (the fast ones, equal to the slow ones right
    after a synchronisation); the inner optimiser's momentum is kept over a synchronisation.
    """

    k: PositiveInt = 5
    """Optimiser steps between synchronisations."""
    alpha: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Step of the slow weights towards the fast ones; 1 means that it does nothing."""


class Ema(Spec):
    """Exponential moving average of the weights and of the batch statistics, taken after every step.

    Evaluated, selected and saved is the average, with its own batch statistics. With Lookahead on it follows the
    weights the model holds after Lookahead has had its turn. It begins with the weights after the first step and is
    not corrected for them, as torch does it: what is evaluated in the first 1 / (1 - decay) steps, a plateau and early
    stopping included, is nearly untrained.
    """

    decay: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.999
    """Weight of the past: the average reaches back about 1 / (1 - decay) steps."""


class Clip(Spec):
    """Gradient clipping before each optimiser step."""

    kind: Literal["norm", "value"] = "norm"
    """`norm`: scale all gradients so that their global L2 norm is at most `value`; `value`: clamp each element."""
    value: PositiveFloat
    """The bound."""


class Optim(Spec):
    """How the weights are moved."""

    optimizer: Optimizer
    """`kind: sgd` (the default) or `kind: adamw`, with its settings."""
    schedule: Schedule = Constant()
    """Learning rate over the training. Neutral: constant."""
    warmup: Annotated[Warmup | None, SWITCH] = None
    """Linear warm-up before the schedule. Off: null or false."""
    lookahead: Annotated[Lookahead | None, SWITCH] = None
    """Lookahead around the optimiser. Off: null or false."""
    ema: Annotated[Ema | None, SWITCH] = None
    """Moving average of the weights, which is then what is evaluated. Off: null or false."""
    clip: Clip | None = None
    """Gradient clipping. Off: null."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        schedule, lr = self.schedule, self.optimizer.lr
        mistakes = []
        if isinstance(schedule, Cosine | Cyclic | Plateau) and schedule.min_lr >= lr:
            what = f"{schedule.min_lr:g} is not below the learning rate, {lr:g} (optim.optimizer.lr)"
            mistakes.append(("schedule.min_lr", what))
        if isinstance(schedule, MultiStep) and self.warmup and schedule.milestones[0] <= self.warmup.epochs:
            what = f"the first, {schedule.milestones[0]}, is not later than the warm-up of {self.warmup.epochs} epochs"
            mistakes.append(("schedule.milestones", what))
        if isinstance(schedule, Cyclic) and self.warmup and schedule.min_lr == 0:
            what = "leads from 0 to 0: the cycle begins at its `min_lr`; leave it out, or give the cycle a `min_lr`"
            mistakes.append(("warmup", what))
        if mistakes:
            raise ConflictError(*mistakes)
        return self
