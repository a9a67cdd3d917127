"""What the training makes small: cross-entropy, mixed and smoothed labels, a teacher's soft targets."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from harness.spec.loss import Distill, Loss
from harness.training.mixing import MixedBatch


def objective(loss: Loss, logits: Tensor, labels: Tensor, mix: MixedBatch | None, soft: Tensor | None) -> Tensor:
    """The loss of one batch, a scalar.

    Args:
        loss: smoothing and distillation.
        logits: [B, classes], float32.
        labels: the images' own, int64 [B].
        mix: how the batch was mixed, or None.
        soft: the teacher's logits of the same images, [B, classes]; None without a teacher.
    """
    distill = loss.distill
    if distill is None:
        return mixed_cross_entropy(logits, labels, mix, loss.label_smoothing)
    assert soft is not None, "a loss with distillation needs the teacher's logits"
    taught = distillation(distill, logits, soft)
    if not distill.uses_labels:
        return taught
    return (1 - distill.weight) * mixed_cross_entropy(logits, labels, mix, loss.label_smoothing) + taught


def mixed_cross_entropy(logits: Tensor, labels: Tensor, mix: MixedBatch | None, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy (NLL of log-softmax) of logits [B, classes], labels of mixed images weighing as their share.

    With smoothing s the target is (1 - s) * label + s / classes.
    """
    own = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    if mix is None:
        return own
    partner = F.cross_entropy(logits, labels[mix.partner], label_smoothing=smoothing)
    kept, given = (mix.kept, 1 - mix.kept) if mix.shares is None else mix.shares
    return kept * own + given * partner


def distillation(distill: Distill, logits: Tensor, soft: Tensor) -> Tensor:
    """weight * T^2 * KL(teacher || student), both softened by the temperature T, the mean over the batch.

    T^2 keeps the gradient's size whatever the temperature (Hinton et al. 2015, section 2).
    """
    temperature = distill.temperature
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(soft / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return distill.weight * temperature**2 * divergence
