"""CutMix and Mixup: images of one batch mixed with each other, and the weights their labels get for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.spec.augment import CutMix, Mixup
from harness.training import draws


@dataclass(frozen=True)
class MixedBatch:
    """How one batch is mixed: image i with image `partner[i]`.

    Attributes:
        partner: int64 [B], a permutation of the batch.
        box: CutMix's (top, bottom, left, right), whose pixels are the partner's; None is Mixup of all pixels.
        kept: the share that stays the image's own, of the area or of each pixel's value, hence its own label's weight.
        shares: `kept` and 1 - `kept` once more, float32 [2], where the loss is to find them on the device
            (`harness.training.graph`); else None.
    """

    partner: Tensor
    box: tuple[int, int, int, int] | None
    kept: float
    shares: Tensor | None = None


def mix_images(images: Tensor, mix: MixedBatch) -> Tensor:
    """CutMix (in place) or Mixup of [B, C, H, W].

    The memory's layout stays channels last, but for Mixup of images of one channel, whose strides torch then takes
    for a contiguous tensor's.
    """
    if mix.box is None:
        return mix.kept * images + (1 - mix.kept) * images[mix.partner]
    top, bottom, left, right = mix.box
    box = images.permute(0, 2, 3, 1)[:, top:bottom, left:right]
    box.copy_(box.index_select(0, mix.partner))
    return images


def draw_cutmix(
    cutmix: CutMix, seed: int, epoch: int, sizes: Sequence[int], height: int, width: int, device: torch.device
) -> list[MixedBatch | None]:
    """One draw per batch, as the paper's code does: whether it is mixed, the ratio, the box's centre, the partners.

    The box has sides sqrt(1 - ratio) of the image's and is cut off at its edges; the label weight is
    the area really kept. `sizes` are the batches'.
    """
    uniform = torch.rand(len(sizes), 4, generator=draws.generator(seed, "cutmix", epoch), dtype=torch.float64).tolist()
    partners = _draw_partners(draws.generator(seed, "cutmix-partner", epoch), sizes, device)
    mixes: list[MixedBatch | None] = []
    for (applied, quantile, row, column), partner in zip(uniform, partners, strict=True):
        if applied >= cutmix.probability:
            mixes.append(None)
            continue
        box = cutmix_box(_beta(cutmix.alpha, quantile), int(row * height), int(column * width), height, width)
        top, bottom, left, right = box
        kept = 1 - (bottom - top) * (right - left) / (height * width)
        mixes.append(MixedBatch(partner, box, kept))
    return mixes


def cutmix_box(ratio: float, row: int, column: int, height: int, width: int) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the box that keeps about `ratio` of the area, centred at (row, column), clipped."""
    side = (1 - ratio) ** 0.5
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    return (
        max(row - half_height, 0),
        min(row + half_height, height),
        max(column - half_width, 0),
        min(column + half_width, width),
    )


def draw_mixup(
    mixup: Mixup, seed: int, epoch: int, sizes: Sequence[int], device: torch.device
) -> list[MixedBatch | None]:
    """One draw per batch: whether it is mixed, the ratio, the partners. `sizes` are the batches'."""
    uniform = torch.rand(len(sizes), 2, generator=draws.generator(seed, "mixup", epoch), dtype=torch.float64).tolist()
    partners = _draw_partners(draws.generator(seed, "mixup-partner", epoch), sizes, device)
    return [
        MixedBatch(partner, None, _beta(mixup.alpha, quantile)) if applied < mixup.probability else None
        for (applied, quantile), partner in zip(uniform, partners, strict=True)
    ]


def _beta(alpha: float, quantile: float) -> float:
    """The quantile of Beta(alpha, alpha): of a uniform draw, a draw that needs no rejection."""
    if alpha == 1.0:  # Beta(1, 1) is the uniform distribution itself
        return quantile
    from scipy.special import betaincinv  # a sixth of a second that the published recipe need not wait

    return float(betaincinv(alpha, alpha, quantile))


def _draw_partners(generator: torch.Generator, sizes: Sequence[int], device: torch.device) -> list[Tensor]:
    """One permutation per batch, int64 on `device`, brought there together."""
    ranks = torch.rand(len(sizes), max(sizes), generator=generator)
    partners = torch.zeros(ranks.shape, dtype=torch.int64)
    for partner, rank, size in zip(partners, ranks, sizes, strict=True):
        partner[:size] = rank[:size].argsort()
    return [partner[:size] for partner, size in zip(partners.to(device), sizes, strict=True)]
