"""Evaluation: loss, accuracy and logits over a whole set of resident images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.training.augment import Normaliser
from harness.training.data import Images
from harness.training.device import Hardware, autocast

BATCH = {"cuda": 2_000, "mps": 1_000, "cpu": 500}  # images; larger gains nothing on that kind of device


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
    parts = []
    for pixels in images.pixels.split(BATCH[hardware.kind]):
        normalised = normalise(pixels)
        with autocast(hardware):
            logits = model(normalised).float()
            if flip:
                logits = (logits + model(normalised.flip(3)).float()) / 2
        parts.append(logits)
    model.train(was_training)
    logits = torch.cat(parts)
    loss = F.cross_entropy(logits, images.labels).item()
    correct = (logits.argmax(1) == images.labels).sum().item()
    return Evaluation(loss, correct / len(images), logits.cpu())
