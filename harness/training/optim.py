"""Optimiser, learning rate schedule, gradient clipping and Lookahead, each built from its spec."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler

from harness.spec import experiment as spec


def build_optimizer(optimizer: spec.Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.SGD:
    """torch's SGD in its fused form: one kernel for all parameters."""
    return torch.optim.SGD(
        parameters,
        lr=optimizer.lr,
        momentum=optimizer.momentum,
        nesterov=optimizer.nesterov,
        weight_decay=optimizer.weight_decay,
        fused=True,
    )


def build_schedule(schedule: spec.Schedule, optimizer: torch.optim.Optimizer, epochs: int) -> LRScheduler:
    """torch's scheduler, to be stepped once after each epoch."""
    if schedule.kind == "cosine":
        return CosineAnnealingLR(optimizer, T_max=epochs)
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


def clip_gradients(clip: spec.Clip, parameters: list[nn.Parameter]) -> None:
    """Clip in place: the global L2 norm of all gradients, or each element."""
    if clip.kind == "norm":
        nn.utils.clip_grad_norm_(parameters, clip.value)
    else:
        nn.utils.clip_grad_value_(parameters, clip.value)


class Lookahead:
    """Slow weights that move towards the fast ones every k steps (arXiv 1907.08610, algorithm 1).

    At a synchronisation slow += alpha * (fast - slow) and fast = slow; the inner optimiser's momentum is kept.
    Between synchronisations the model holds the fast weights, and those are what is evaluated.
    """

    def __init__(self, lookahead: spec.Lookahead, parameters: list[nn.Parameter]):
        self.k, self.alpha = lookahead.k, lookahead.alpha
        self.fast: list[Tensor] = list(parameters)
        self.slow = [p.detach().clone(memory_format=torch.preserve_format) for p in parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self) -> None:
        """To be called after each step of the inner optimiser."""
        self.steps += 1
        if self.steps % self.k == 0:
            torch._foreach_lerp_(self.slow, self.fast, self.alpha)
            torch._foreach_copy_(self.fast, self.slow)

    def state_dict(self) -> dict[str, Any]:
        return {"slow": self.slow, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        slow: list[Tensor] = state["slow"]
        with torch.no_grad():
            torch._foreach_copy_(self.slow, slow)
        self.steps = state["steps"]
