"""`augment:` of an experiment file: what is done to training images; evaluation sees them as they are."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from harness.spec.base import SWITCH, ConflictError, PositiveFloat, PositiveInt, Probability, Spec, refuse_zero


class Crop(Spec):
    """Random crop of the original size from the image padded with black (zeros before normalisation)."""

    padding: PositiveInt = 4
    """Pixels added on each side."""


class Rotation(Spec):
    """Rotation about the centre by an angle drawn uniformly, bilinear, black outside."""

    degrees: Annotated[float, Field(gt=0.0, le=180.0)] = 15.0
    """Largest angle to either side, degrees."""


class Scaling(Spec):
    """Scaling about the centre by a factor drawn uniformly, bilinear; the image's size stays, black outside."""

    low: Annotated[float, Field(gt=0.0, le=10.0)] = 0.8
    """Smallest factor; under 1 the content shrinks."""
    high: Annotated[float, Field(gt=0.0, le=10.0)] = 1.2
    """Largest factor."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low > self.high:
            raise ConflictError(("low", f"{self.low:g} is larger than `high`, {self.high:g}"))
        if self.low == self.high == 1.0:
            raise ConflictError(("low", "a factor of 1 never acts: to switch it off write `scaling: null`"))
        return self


class Cutout(Spec):
    """Cutout (DeVries and Taylor 2017, arXiv 1708.04552): one square of each image is blanked with the mean colour.

    Its centre is any pixel, so squares at the edge are cut off.
    """

    size: PositiveInt = 16
    """Side of the square, pixels; at most the image's."""


class Mixup(Spec):
    """Mixup (Zhang et al. 2018, arXiv 1710.09412): one ratio and one permutation per batch, labels mixed alike.

    With CutMix on too, it takes a share of the batches that CutMix leaves alone.
    """

    probability: Probability = 1.0
    """Share of the batches (of those that CutMix leaves alone) that are mixed."""
    alpha: PositiveFloat = 1.0
    """The mixing ratio is drawn from Beta(alpha, alpha)."""

    @field_validator("probability")
    @classmethod
    def _acts(cls, value: float) -> float:
        return refuse_zero(value, "mixup")


class CutMix(Spec):
    """CutMix (Yun et al. 2019, arXiv 1905.04899): one box and one permutation per batch, labels mixed by area."""

    probability: Probability = 0.5
    """Share of the batches that are mixed."""
    alpha: PositiveFloat = 1.0
    """The mixing ratio is drawn from Beta(alpha, alpha)."""

    @field_validator("probability")
    @classmethod
    def _acts(cls, value: float) -> float:
        return refuse_zero(value, "cutmix")


class Augment(Spec):
    """Augmentation of training images, in this order; evaluation sees the images as they are."""

    crop: Annotated[Crop | None, SWITCH] = None
    """Random crop, each image its own offset. Off: null or false."""
    flip: bool = False
    """Mirror left to right with probability 0.5, each image its own draw. Off: false."""
    rotation: Annotated[Rotation | None, SWITCH] = None
    """Random rotation, each image its own angle. Off: null or false."""
    scaling: Annotated[Scaling | None, SWITCH] = None
    """Random scaling, each image its own factor; in one interpolation with the rotation. Off: null or false."""
    trivial_augment: bool = False
    """TrivialAugment (Mueller and Hutter 2021, arXiv 2103.10158), the wide space of 14 operations: each image its
    own operation and strength. It moves images by up to 32 pixels, whatever their size. Off: false."""
    cutout: Annotated[Cutout | None, SWITCH] = None
    """Cutout, each image its own place. Off: null or false."""
    cutmix: Annotated[CutMix | None, SWITCH] = None
    """CutMix. Off: null or false."""
    mixup: Annotated[Mixup | None, SWITCH] = None
    """Mixup. Off: null or false."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mixup and self.cutmix and self.cutmix.probability == 1.0:
            what = "never acts: `augment.cutmix.probability` is 1, and mixup takes the batches that CutMix leaves alone"
            raise ConflictError(("mixup", what))
        return self
