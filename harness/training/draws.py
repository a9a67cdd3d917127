"""Random draws as functions of (seed, purpose, epoch and step or parameter name).

No draw depends on how many draws came before it, so arms with the same seed share whatever they
have in common (initial weights, image order, augmentation) with any toggle on or off, and a run
continued in mid-epoch draws what the undisturbed run would have drawn. Everything that is drawn
once an epoch is drawn on the CPU, so it does not depend on the device either.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Generator


def derive_seed(seed: int, purpose: str, *keys: int | str) -> int:
    """A 63-bit seed for one purpose: SHA-256 over the key, which no two purposes share by accident."""
    text = "\x1f".join(str(part) for part in (seed, purpose, *keys))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *keys: int | str) -> Generator:
    """A CPU generator for one purpose, e.g. `generator(seed, "crop", epoch)`."""
    return Generator().manual_seed(derive_seed(seed, purpose, *keys))


def seed_step(seed: int, epoch: int, step: int) -> None:
    """Seed torch's global generators (all devices) for the draws inside one step's forward pass: dropout."""
    torch.manual_seed(derive_seed(seed, "dropout", epoch, step))
