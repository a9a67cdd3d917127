"""The learning rate over a training: linear warm-up by the batch, then one of torch's schedulers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CyclicLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
)

from harness.errors import InputError
from harness.spec import optim as spec

# What changes in a scheduler while it is stepped, beside the learning rate of its optimizer.
VARYING = ("last_epoch", "best", "num_bad_epochs")


class LearningRate:
    """The learning rate over a training: warm-up by the batch, then torch's scheduler.

    Warm-up and schedule each move the learning rate of an optimizer of their own that has nothing to optimise, and
    the value in force is copied to all groups of the real one. So the two never work on one number, and nothing but
    the learning rate is touched: neither momentum nor betas.

    Args:
        optim: learning rate, schedule and warm-up.
        optimizer: the real one; its groups get the first learning rate at once.
        epochs: length of the training, warm-up included.
        steps: optimiser steps per epoch.

    Raises:
        InputError: one cycle has fewer than two steps to reach its peak.
    """

    used: float
    """Learning rate of the latest step; before the first step, the one it will use."""

    def __init__(self, optim: spec.Optim, optimizer: torch.optim.Optimizer, epochs: int, steps: int):
        warmup_epochs = optim.warmup.epochs if optim.warmup else 0
        self.optimizer = optimizer
        self.steps_done = 0
        self.warmup_steps, self.total_steps = warmup_epochs * steps, epochs * steps
        self.by_batch = isinstance(optim.schedule, spec.OneCycle | spec.Cyclic)
        self.plateau = optim.schedule if isinstance(optim.schedule, spec.Plateau) else None
        self.schedule = build_schedule(optim.schedule, optim.optimizer.lr, epochs - warmup_epochs, steps, warmup_epochs)
        self.warmup = build_warmup(optim.warmup, _lr(self.schedule), self.warmup_steps) if optim.warmup else None
        self._apply()
        self.used = self._current()

    def step_done(self) -> None:
        """To be called after every optimiser step."""
        self.used = self._current()
        self.steps_done += 1
        if self.warmup and self.steps_done < self.warmup_steps:
            _step(self.warmup)
        elif self.by_batch and self.warmup_steps < self.steps_done < self.total_steps:
            _step(self.schedule)
        self._apply()

    def epoch_done(self, row: Mapping[str, Any]) -> None:
        """To be called after every epoch, with its journal row; an epoch of the warm-up is none of the schedule's."""
        if self.by_batch or self.steps_done <= self.warmup_steps:
            return
        if self.plateau:
            self.schedule.step(row[self.plateau.monitor])
        else:
            _step(self.schedule)
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Where the learning rate stands; plain numbers only."""
        return {
            "steps_done": self.steps_done,
            "used": self.used,
            "schedule": _state(self.schedule),
            "warmup": _state(self.warmup) if self.warmup else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where `state` was saved, the real optimizer's learning rate included."""
        self.steps_done, self.used = state["steps_done"], state["used"]
        _restore(self.schedule, state["schedule"])
        if self.warmup:
            _restore(self.warmup, state["warmup"])
        self._apply()

    def _current(self) -> float:
        return _lr(self.warmup if self.warmup and self.steps_done < self.warmup_steps else self.schedule)

    def _apply(self) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):  # a recorded step reads it from where it is
                group["lr"].fill_(self._current())
            else:
                group["lr"] = self._current()


def build_warmup(warmup: spec.Warmup, end: float, steps: int) -> LinearLR:
    """From `warmup.start * end` in equal increments, so that the step after `steps` would use `end`."""
    return LinearLR(_optimizer(end), start_factor=warmup.start, total_iters=steps)


def build_schedule(schedule: spec.Schedule, lr: float, epochs: int, steps: int, warmup_epochs: int = 0) -> LRScheduler:
    """torch's scheduler on an optimizer of its own, to be stepped after every batch (one_cycle, cyclic) or epoch.

    Args:
        schedule: which one.
        lr: the optimiser's learning rate.
        epochs: the schedule's length.
        steps: batches per epoch.
        warmup_epochs: epochs that lie before it.

    Raises:
        InputError: one cycle has fewer than two steps to reach its peak.
    """
    match schedule:
        case spec.Constant():
            return ConstantLR(_optimizer(lr), factor=1.0, total_iters=0)
        case spec.Cosine():
            return CosineAnnealingLR(_optimizer(lr), T_max=epochs, eta_min=schedule.min_lr)
        case spec.OneCycle():
            return _build_one_cycle(schedule, lr, epochs * steps)
        case spec.Cyclic():
            return CyclicLR(
                _optimizer(lr),
                base_lr=schedule.min_lr,
                max_lr=lr,
                step_size_up=schedule.half_cycle * steps,
                mode=schedule.mode,
                gamma=schedule.gamma,
                cycle_momentum=False,
            )
        case spec.MultiStep():
            milestones = [milestone - warmup_epochs for milestone in schedule.milestones]
            return MultiStepLR(_optimizer(lr), milestones, schedule.gamma)
        case spec.Plateau():
            return ReduceLROnPlateau(
                _optimizer(lr),
                mode="min" if schedule.monitor.endswith("loss") else "max",
                factor=schedule.factor,
                patience=schedule.patience,
                threshold=schedule.threshold,
                threshold_mode="rel",
                min_lr=schedule.min_lr,
                eps=0.0,  # however small the learning rate: torch's default stops it from falling by less than 1e-8
            )


def _build_one_cycle(schedule: spec.OneCycle, lr: float, steps: int) -> OneCycleLR:
    if schedule.peak_at * steps <= 1:  # torch puts the peak at step peak_at * steps - 1, counted from 0
        raise InputError(
            f"a peak at {schedule.peak_at:g} of {steps} steps leaves no step to rise in",
            where="optim.schedule.peak_at",
            fix="Train longer, in smaller batches, or put the peak later.",
        )
    return OneCycleLR(
        _optimizer(lr),
        max_lr=lr,
        total_steps=steps,
        pct_start=schedule.peak_at,
        anneal_strategy="cos" if schedule.anneal == "cosine" else "linear",
        cycle_momentum=False,
        div_factor=schedule.start_divisor,
        final_div_factor=schedule.end_divisor,
    )


def _optimizer(lr: float) -> torch.optim.Optimizer:
    """An optimizer that has nothing to optimise, for a scheduler to set its learning rate."""
    return torch.optim.SGD([torch.zeros(())], lr=lr)


def _lr(scheduler: LRScheduler) -> float:
    return float(scheduler.optimizer.param_groups[0]["lr"])


def _step(scheduler: LRScheduler) -> None:
    scheduler.optimizer.step()  # torch warns of a scheduler that is stepped before its optimizer
    scheduler.step()


def _state(scheduler: LRScheduler) -> dict[str, Any]:
    return {"lr": _lr(scheduler), **{name: value for name, value in vars(scheduler).items() if name in VARYING}}


def _restore(scheduler: LRScheduler, state: dict[str, Any]) -> None:
    scheduler.optimizer.param_groups[0]["lr"] = state["lr"]
    vars(scheduler).update({name: state[name] for name in VARYING if name in state})
