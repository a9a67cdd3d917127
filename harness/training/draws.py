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
    """A 63-bit seed for one purpose: SHA-256 over the key, which no two purposes share by accident.

    Of its bits torch's CPU generator (a Mersenne Twister) takes the lower 32: two of a run's n draws begin alike with
    probability n^2 / 2^33.
    """
    text = "\x1f".join(str(part) for part in (seed, purpose, *keys))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *keys: int | str) -> Generator:
    """A CPU generator for one purpose, e.g. `generator(seed, "crop", epoch)`."""
    return Generator().manual_seed(derive_seed(seed, purpose, *keys))


def seed_step(seed: int, epoch: int, step: int, device: torch.device) -> None:
    """Seed the global generator of `device` for the draws inside one step's forward pass: dropout.

    Not `torch.manual_seed`: that one seeds every kind of device there might be, a hundred times as slow, and where
    CUDA is installed but not in use it keeps a note of each call for ever.
    """
    derived = derive_seed(seed, "dropout", epoch, step)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(derived)
    elif device.type == "mps":
        torch.mps.manual_seed(derived)
    else:
        torch.default_generator.manual_seed(derived)
