"""Evaluation: loss, accuracy and logits over a whole set of resident images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.training.augment import Normaliser
from harness.training.data import Images
from harness.training.device import Hardware, autocast, is_out_of_memory

BATCH = {"cuda": 2_000, "mps": 1_000, "cpu": 250}  # images; larger gains nothing on that kind of device


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy, accuracy as a fraction, and the logits float32 [N, classes] on the CPU."""

    loss: float
    accuracy: float
    logits: Tensor


@torch.inference_mode()
def evaluate(
    model: nn.Module, images: Images, normalise: Normaliser, hardware: Hardware, *, flip: bool = False
) -> Evaluation:
    """Evaluate with running batch statistics and without dropout; the model's mode is put back.

    With `flip` the logits are the mean of those of each image and of its mirror image (test-time augmentation).
    """
    was_training = model.training
    model.eval()
    logits = logits_of(model, images.pixels, normalise, hardware, flip=flip)
    model.train(was_training)
    loss = F.cross_entropy(logits, images.labels).item()
    correct = (logits.argmax(1) == images.labels).sum().item()
    return Evaluation(loss, correct / len(images), logits.cpu())


def logits_of(model: nn.Module, pixels: Tensor, normalise: Normaliser, hardware: Hardware, *, flip: bool) -> Tensor:
    """Logits float32 [N, classes] of uint8 [N, H, W, C], in batches of a size that the device's memory holds."""
    size = min(BATCH[hardware.kind], len(pixels))
    parts: list[Tensor] = []
    done = 0
    while done < len(pixels):
        try:
            parts.append(_batch_logits(model, normalise(pixels[done : done + size]), hardware, flip))
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            size //= 2
        else:
            done += len(parts[-1])
    return torch.cat(parts)


def _batch_logits(model: nn.Module, images: Tensor, hardware: Hardware, flip: bool) -> Tensor:
    with autocast(hardware):
        logits: Tensor = model(images).float()
        if flip:
            logits = (logits + model(images.flip(3)).float()) / 2
    return logits
