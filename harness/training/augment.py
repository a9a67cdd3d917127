"""Augmentation on the device, a batch at a time: an epoch's draws made at once, then pure functions of them.

Images are uint8 [N, H, W, C] until `Normaliser`; after it [N, C, H, W] in channels_last memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.spec.experiment import ExperimentSpec
from harness.training import draws, geometry, trivial_augment
from harness.training.cutout import cutout
from harness.training.data import Images
from harness.training.mixing import MixedBatch, draw_cutmix, draw_mixup, mix_images


@dataclass(frozen=True)
class EpochDraws:
    """Everything random about one epoch's batches, drawn at its beginning; None where nothing is drawn.

    Attributes:
        order: int64 [N], the images' order.
        offsets: int64 [N, 2], row and column of each *image's* crop in its padded version.
        mirrored: bool [N], per image.
        degrees: float32 [N], each image's rotation.
        factors: float32 [N], each image's scaling.
        operations: int64 [N, 3], TrivialAugment's operation, bin and sign of each image; on the CPU, where it is read.
        centres: int64 [N, 2], row and column of the centre of each image's Cutout square.
        cutmixes: one entry a step: how CutMix mixes the batch, or None where it leaves it alone.
        mixups: likewise for Mixup, drawn for every batch and used for those that CutMix leaves alone.
    """

    order: Tensor
    offsets: Tensor | None
    mirrored: Tensor | None
    degrees: Tensor | None
    factors: Tensor | None
    operations: Tensor | None
    centres: Tensor | None
    cutmixes: Sequence[MixedBatch | None]
    mixups: Sequence[MixedBatch | None]

    def mix(self, step: int) -> MixedBatch | None:
        """How batch `step` (from 0) is mixed, or None."""
        return self.cutmixes[step] or self.mixups[step]


def draw_epoch(spec: ExperimentSpec, seed: int, epoch: int, images: int, device: torch.device) -> EpochDraws:
    """Draw epoch `epoch` (from 1) over `images` training images; each purpose from its own generator."""
    augment = spec.augment
    height, width = spec.dataset.image_shape[1:]
    size = spec.train.batch_size
    sizes = [min(size, images - first) for first in range(0, images, size)]

    def generator(purpose: str) -> torch.Generator:
        return draws.generator(seed, purpose, epoch)

    def uniform(purpose: str, low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(images, generator=generator(purpose))).to(device)

    order = torch.randperm(images, generator=generator("order")).to(device)
    offsets = mirrored = degrees = factors = operations = centres = None
    if augment.crop:
        high = 2 * augment.crop.padding + 1
        offsets = torch.randint(high, (images, 2), generator=generator("crop")).to(device)
    if augment.flip:
        mirrored = uniform("flip", 0.0, 1.0) < 0.5
    if augment.rotation:
        degrees = uniform("rotation", -augment.rotation.degrees, augment.rotation.degrees)
    if augment.scaling:
        factors = uniform("scaling", augment.scaling.low, augment.scaling.high)
    if augment.trivial_augment:
        operations = trivial_augment.draw(images, generator("trivial-augment"))
    if augment.cutout:
        places = torch.randint(height * width, (images,), generator=generator("cutout")).to(device)
        centres = torch.stack((places // width, places % width), dim=1)
    cutmixes: Sequence[MixedBatch | None] = [None] * len(sizes)
    if augment.cutmix:
        cutmixes = draw_cutmix(augment.cutmix, seed, epoch, sizes, height, width, device)
    mixups: Sequence[MixedBatch | None] = [None] * len(sizes)
    if augment.mixup:
        mixups = draw_mixup(augment.mixup, seed, epoch, sizes, device)
    return EpochDraws(order, offsets, mirrored, degrees, factors, operations, centres, cutmixes, mixups)


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
        """uint8 or float32 [B, H, W, C], 0 to 255 -> float32 [B, C, H, W] in channels_last memory, without a copy."""
        width = pixels.shape[2]  # whole rows at once: the vectors that a CPU calculates with are longer than C values
        rows = torch.addcmul(self.shift.repeat(width), pixels.flatten(2).float(), self.scale.repeat(width))
        return rows.view(pixels.shape).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Batch:
    """What one step trains on.

    Attributes:
        images: float32 [B, C, H, W] in channels_last memory, normalised and mixed.
        labels: int64 [B], the images' own.
        mix: how the images were mixed, which the loss does to the labels; None where they were not.
        indices: int64 [B], which of the training images they are.
    """

    images: Tensor
    labels: Tensor
    mix: MixedBatch | None
    indices: Tensor


TOGETHER = {"cuda": 2**26, "mps": 2**26, "cpu": 0}
"""Bytes of images that are cropped, mirrored, rotated and scaled together: a GPU takes as long for one batch as for
fifty, a CPU has the batch at hand in its cache. The batches are the same whatever this is."""


class Batches:
    """All batches of one training, epoch by epoch.

    While an epoch with TrivialAugment lasts it holds the training images once more, as they are in that epoch.
    """

    def __init__(self, spec: ExperimentSpec, train: Images, normalise: Normaliser):
        self.spec, self.train, self.normalise = spec, train, normalise
        self.padding = spec.augment.crop.padding if spec.augment.crop else 0
        batch_bytes = spec.train.batch_size * train.pixels[0].numel()
        self.steps_together = max(TOGETHER[train.pixels.device.type] // batch_bytes, 1)

    def epoch(self, drawn: EpochDraws) -> Callable[[int], Batch]:
        """The batches of one epoch by their step (from 0); what is done once an epoch is done here."""
        size = self.spec.train.batch_size
        augmented = None if drawn.operations is None else self._trivially_augmented(drawn, drawn.operations)
        moved, begin = torch.empty(0), -1  # the pixels of some steps, and the first of these steps

        def batch(step: int) -> Batch:
            nonlocal moved, begin
            if begin != step - step % self.steps_together:
                begin = step - step % self.steps_together
                some = drawn.order[begin * size : (begin + self.steps_together) * size]
                moved = self._moved(some, drawn) if augmented is None else augmented.index_select(0, some)
            indices = drawn.order[step * size : (step + 1) * size]
            pixels = moved[(step - begin) * size : (step - begin + 1) * size]
            images, mix = self.normalise(pixels), drawn.mix(step)
            if self.spec.augment.cutout and drawn.centres is not None:
                images = cutout(images, drawn.centres[indices], self.spec.augment.cutout.size)
            if mix:
                images = mix_images(images, mix)
            return Batch(images, self.train.labels.index_select(0, indices), mix, indices)

        return batch

    def _moved(self, indices: Tensor, drawn: EpochDraws) -> Tensor:
        """Images `indices` cropped, mirrored, rotated and scaled: [B, H, W, C], uint8, or float32 if interpolated."""
        pixels = geometry.gather(self.train.pixels, indices, drawn.offsets, drawn.mirrored, self.padding)
        if drawn.degrees is None and drawn.factors is None:
            return pixels
        degrees, factors = (None if each is None else each[indices] for each in (drawn.degrees, drawn.factors))
        return geometry.rotate_and_scale(pixels, degrees, factors)

    def _trivially_augmented(self, drawn: EpochDraws, operations: Tensor) -> Tensor:
        """All training images after TrivialAugment, uint8 [N, H, W, C]."""
        augmented = torch.empty_like(self.train.pixels)
        for name, strength, indices in trivial_augment.groups(operations, augmented.device):
            pixels = self._moved(indices, drawn)
            if pixels.is_floating_point():
                pixels = pixels.round().to(torch.uint8)
            augmented[indices] = trivial_augment.apply(name, pixels.permute(0, 3, 1, 2), strength).permute(0, 2, 3, 1)
        return augmented
