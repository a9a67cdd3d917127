"""Augmentation on the device, a batch at a time: an epoch's draws made at once, then pure functions of them.

Images are uint8 [N, H, W, C] until `normalise`; after it [N, C, H, W] in channels_last memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.special import betaincinv
from torch import Tensor

from harness.spec.experiment import Augment, CutMix, ExperimentSpec
from harness.training import draws


@dataclass(frozen=True)
class MixedBatch:
    """CutMix of one batch: pixels in `box` (top, bottom, left, right) come from image `partner[i]`.

    `kept` is the share of the area that stays the image's own, hence the weight of its own label.
    """

    partner: Tensor
    box: tuple[int, int, int, int]
    kept: float


@dataclass(frozen=True)
class EpochDraws:
    """Everything random about one epoch's batches, drawn at its beginning.

    Attributes:
        order: int64 [N], the images' order.
        offsets: int64 [N, 2], row and column of each *image's* crop in its padded version, or None.
        mirrored: bool [N], per image, or None.
        mixes: one entry a step: how the batch is mixed, or None where it is left alone.
    """

    order: Tensor
    offsets: Tensor | None
    mirrored: Tensor | None
    mixes: Sequence[MixedBatch | None]


def draw_epoch(spec: ExperimentSpec, seed: int, epoch: int, images: int, device: torch.device) -> EpochDraws:
    """Draw epoch `epoch` (from 1) over `images` training images; each purpose from its own generator."""
    augment = spec.augment
    order = torch.randperm(images, generator=draws.generator(seed, "order", epoch))
    offsets = mirrored = None
    if augment.crop:
        high = 2 * augment.crop.padding + 1
        offsets = torch.randint(high, (images, 2), generator=draws.generator(seed, "crop", epoch)).to(device)
    if augment.flip:
        mirrored = (torch.rand(images, generator=draws.generator(seed, "flip", epoch)) < 0.5).to(device)
    steps = -(-images // spec.train.batch_size)
    mixes: list[MixedBatch | None] = [None] * steps
    if augment.cutmix:
        sizes = [min(spec.train.batch_size, images - step * spec.train.batch_size) for step in range(steps)]
        height, width = spec.dataset.image_shape[1:]
        mixes = draw_cutmix(augment.cutmix, seed, epoch, sizes, height, width, device)
    return EpochDraws(order.to(device), offsets, mirrored, mixes)


def draw_cutmix(
    cutmix: CutMix, seed: int, epoch: int, sizes: Sequence[int], height: int, width: int, device: torch.device
) -> list[MixedBatch | None]:
    """One draw per batch, as the paper's code does: whether it is mixed, the ratio, the box's centre, the partners.

    The box has sides sqrt(1 - ratio) of the image's and is cut off at its edges; the label weight is
    the area really kept. The ratio is the Beta quantile of a uniform draw, so it needs no rejection.
    """
    uniform = torch.rand(len(sizes), 4, generator=draws.generator(seed, "cutmix", epoch), dtype=torch.float64).tolist()
    partners = torch.rand(len(sizes), max(sizes), generator=draws.generator(seed, "cutmix-partner", epoch))
    mixes: list[MixedBatch | None] = []
    for (applied, quantile, row, column), ranks, size in zip(uniform, partners, sizes, strict=True):
        if applied >= cutmix.probability:
            mixes.append(None)
            continue
        ratio = float(betaincinv(cutmix.alpha, cutmix.alpha, quantile))
        box = cutmix_box(ratio, int(row * height), int(column * width), height, width)
        top, bottom, left, right = box
        kept = 1 - (bottom - top) * (right - left) / (height * width)
        mixes.append(MixedBatch(ranks[:size].argsort().to(device), box, kept))
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


def pad(pixels: Tensor, augment: Augment) -> Tensor:
    """uint8 [N, H, W, C] with the crop's black border added, once for the whole training."""
    if not augment.crop:
        return pixels
    p = augment.crop.padding
    return torch.nn.functional.pad(pixels, (0, 0, p, p, p, p))


def gather(padded: Tensor, indices: Tensor, drawn: EpochDraws, height: int, width: int) -> Tensor:
    """Images `indices`, cropped and mirrored as drawn: uint8 [B, height, width, C] by one indexing operation."""
    if drawn.offsets is None and drawn.mirrored is None:
        return padded[indices]
    rows = torch.arange(height, device=padded.device).expand(len(indices), height)
    columns = torch.arange(width, device=padded.device).expand(len(indices), width)
    if drawn.mirrored is not None:
        columns = torch.where(drawn.mirrored[indices, None], width - 1 - columns, columns)
    if drawn.offsets is not None:
        offsets = drawn.offsets[indices]
        rows, columns = rows + offsets[:, :1], columns + offsets[:, 1:]
    return padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


@dataclass(frozen=True)
class Normaliser:
    """(x / 255 - mean) / std per channel, as one multiplication and one addition."""

    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float], device: torch.device) -> Normaliser:
        mean_, std_ = torch.tensor(mean, device=device), torch.tensor(std, device=device)
        return cls(1 / (255 * std_), -mean_ / std_)

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 [B, H, W, C] -> float32 [B, C, H, W] in channels_last memory, without a copy for the layout."""
        return torch.addcmul(self.shift, pixels.float(), self.scale).permute(0, 3, 1, 2)


def paste(images: Tensor, mix: MixedBatch) -> Tensor:
    """CutMix on [B, C, H, W]: the box of each image is overwritten, in place, with its partner's."""
    top, bottom, left, right = mix.box
    images[:, :, top:bottom, left:right] = images[mix.partner, :, top:bottom, left:right]
    return images
