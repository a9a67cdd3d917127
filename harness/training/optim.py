"""Optimiser, gradient clipping, Lookahead and the moving average of the weights, each built from its spec."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from harness.spec import optim as spec


def build_optimizer(optimizer: spec.Optimizer, model: nn.Module) -> torch.optim.SGD | torch.optim.AdamW:
    """torch's SGD or AdamW in its fused form: one kernel for all parameters of a group.

    One group with the parameters as `model.parameters()` gives them. With `exempt_norm_and_bias` two: the weights of
    convolutions and linear layers, then everything else, without decay; each in the order of `model.parameters()`.
    """
    groups = _decay_groups(model) if optimizer.exempt_norm_and_bias else [{"params": list(model.parameters())}]
    if isinstance(optimizer, spec.AdamW):
        return torch.optim.AdamW(
            groups,
            lr=optimizer.lr,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
    return torch.optim.SGD(
        groups,
        lr=optimizer.lr,
        momentum=optimizer.momentum,
        nesterov=optimizer.nesterov,
        weight_decay=optimizer.weight_decay,
        fused=True,
    )


def _decay_groups(model: nn.Module) -> list[dict[str, Any]]:
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    parameters = list(model.parameters())
    return [
        {"params": [parameter for parameter in parameters if id(parameter) in decayed]},
        {"params": [parameter for parameter in parameters if id(parameter) not in decayed], "weight_decay": 0.0},
    ]


def hold_settings(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Put what changes from step to step, the learning rate, where a recorded step finds it: on the device."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
        if "capturable" in group:
            group["capturable"] = True


def free_settings(optimizer: torch.optim.Optimizer) -> None:
    """What `hold_settings` did undone: plain numbers, of a float's full precision once they are next set."""
    for group in optimizer.param_groups:
        group["lr"] = float(group["lr"])
        if "capturable" in group:
            group["capturable"] = False


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """The L2 norm of all gradients together, on their device: not finite where one of them is not."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def clip_gradients(clip: spec.Clip, parameters: list[nn.Parameter]) -> Tensor:
    """Clip in place, the global L2 norm of all gradients or each element; the norm as it was before."""
    if clip.kind == "norm":
        return nn.utils.clip_grad_norm_(parameters, clip.value)
    norm = gradient_norm(parameters)  # first: an infinite element is clipped too, and would not be seen any more
    nn.utils.clip_grad_value_(parameters, clip.value)
    return norm


class Lookahead:
    """Slow weights that move towards the fast ones every k steps (arXiv 1907.08610, algorithm 1).

    At a synchronisation slow += alpha * (fast - slow) and fast = slow; the inner optimiser's state (momentum, Adam's
    means) is kept as it is, which the paper calls maintaining it. Between synchronisations the model holds the fast
    weights, and those are what is evaluated and saved; the slow ones are seen right after a synchronisation alone.
    """

    def __init__(self, lookahead: spec.Lookahead, parameters: list[nn.Parameter]):
        self.k, self.alpha = lookahead.k, lookahead.alpha
        self.fast: list[Tensor] = list(parameters)
        self.slow = [p.detach().clone(memory_format=torch.preserve_format) for p in parameters]
        self.steps = 0
        self.synchronise: Callable[[], None] = self.synchronise_now

    def step(self) -> None:
        """To be called after each step of the inner optimiser."""
        self.steps += 1
        if self.steps % self.k == 0:
            self.synchronise()

    @torch.no_grad()
    def synchronise_now(self) -> None:
        """What `synchronise` does, as it is or recorded."""
        torch._foreach_lerp_(self.slow, self.fast, self.alpha)
        torch._foreach_copy_(self.fast, self.slow)

    def state_dict(self) -> dict[str, Any]:
        return {"slow": self.slow, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        slow: list[Tensor] = state["slow"]
        with torch.no_grad():
            torch._foreach_copy_(self.slow, slow)
        self.steps = state["steps"]


class Average:
    """Exponential moving average of a model's parameters and batch statistics, as a model of its own.

    The first update copies the model; each later one makes every floating-point tensor
    average = decay * average + (1 - decay) * current, and copies what counts in integers. That is what torch's
    AveragedModel with `use_buffers` computes, but for two things: it averages the counters too, which rounding then
    holds still, and it makes the host wait for the device at every step.

    `module` is the average, in evaluation mode; it has the model's memory format and takes no gradients.
    """

    def __init__(self, ema: spec.Ema, model: nn.Module):
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.updates = 0
        self._follow = get_ema_multi_avg_fn(ema.decay)
        self._own, self._followed = _tensors(self.module), _tensors(model)  # both are only ever changed in place

    @torch.no_grad()
    def update(self) -> None:
        """To be called after each step, once the model holds the weights that are to be averaged."""
        averages, copies = self._own
        currents, counters = self._followed
        if self.updates:
            self._follow(averages, currents, None)
        else:
            torch._foreach_copy_(averages, currents)
        if copies:
            torch._foreach_copy_(copies, counters)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.updates = state["updates"]


def _tensors(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """A model's parameters and buffers: those in floating point, and the others (BatchNorm's counters)."""
    floating: list[Tensor] = []
    others: list[Tensor] = []
    for tensor in (*model.parameters(), *model.buffers()):
        (floating if tensor.is_floating_point() else others).append(tensor)
    return floating, others
