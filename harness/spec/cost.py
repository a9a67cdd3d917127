"""What a network costs, as the guard counts it (`harness.training.guard`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Trainable parameters, and multiply-accumulates of one image's forward pass."""

    trainable_parameters: int
    macs: int
