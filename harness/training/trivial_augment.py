"""TrivialAugment (Mueller and Hutter 2021, arXiv 2103.10158): one operation per image, at a random strength.

The operations are torchvision's, and their space that of its `TrivialAugmentWide`. Each call of them takes all images
that drew the same operation and strength, so an epoch's images are some hundred calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Generator, Tensor

BINS = 31


def _evenly(first: float, last: float) -> list[float]:
    values: list[float] = torch.linspace(first, last, BINS).tolist()
    return values


_NO_STRENGTH = [0.0] * BINS
_BITS: list[float] = (8 - (torch.arange(BINS) / ((BINS - 1) / 6)).round()).tolist()

SPACE: dict[str, tuple[list[float], bool]] = {
    "Identity": (_NO_STRENGTH, False),
    "ShearX": (_evenly(0.0, 0.99), True),
    "ShearY": (_evenly(0.0, 0.99), True),
    "TranslateX": (_evenly(0.0, 32.0), True),
    "TranslateY": (_evenly(0.0, 32.0), True),
    "Rotate": (_evenly(0.0, 135.0), True),
    "Brightness": (_evenly(0.0, 0.99), True),
    "Color": (_evenly(0.0, 0.99), True),
    "Contrast": (_evenly(0.0, 0.99), True),
    "Sharpness": (_evenly(0.0, 0.99), True),
    "Posterize": (_BITS, False),
    "Solarize": (_evenly(255.0, 0.0), False),
    "AutoContrast": (_NO_STRENGTH, False),
    "Equalize": (_NO_STRENGTH, False),
}
"""Operation -> its strength in each of the bins, and whether a sign is drawn too. Strengths are slopes of the shears,
pixels of the translations, degrees, changes of the factor 1 of brightness to sharpness, bits kept, and thresholds."""

_NAMES = list(SPACE)


def draw(images: int, generator: Generator) -> Tensor:
    """int64 [images, 3]: number of the operation in `SPACE`, bin of the strength, and 1 for a negative sign."""
    return torch.stack([torch.randint(high, (images,), generator=generator) for high in (len(SPACE), BINS, 2)], dim=1)


def groups(drawn: Tensor, device: torch.device) -> Iterator[tuple[str, float, Tensor]]:
    """(operation, signed strength, int64 indices on `device`) of the images that drew the same row of `drawn`."""
    codes, order = ((drawn[:, 0] * BINS + drawn[:, 1]) * 2 + drawn[:, 2]).sort(stable=True)
    present, counts = codes.unique_consecutive(return_counts=True)
    for code, indices in zip(present.tolist(), order.to(device).split(counts.tolist()), strict=True):
        name = _NAMES[code // (2 * BINS)]
        strengths, signed = SPACE[name]
        sign = -1.0 if signed and code % 2 else 1.0
        yield name, sign * strengths[code // 2 % BINS], indices


def apply(name: str, images: Tensor, strength: float) -> Tensor:
    """One operation at one strength on uint8 [N, C, H, W] with 1 or 3 channels: nearest pixels, black outside.

    On grey images `Color` is the identity.
    """
    from torchvision.transforms import functional as F
    from torchvision.transforms.v2 import functional as v2

    result: Tensor
    match name:
        case "Identity":
            result = images
        case "ShearX":
            result = F.affine(images, 0.0, [0, 0], 1.0, [_slope(strength), 0.0], center=[0, 0])
        case "ShearY":
            result = F.affine(images, 0.0, [0, 0], 1.0, [0.0, _slope(strength)], center=[0, 0])
        case "TranslateX":
            result = F.affine(images, 0.0, [int(strength), 0], 1.0, [0.0, 0.0])
        case "TranslateY":
            result = F.affine(images, 0.0, [0, int(strength)], 1.0, [0.0, 0.0])
        case "Rotate":
            result = F.rotate(images, strength)
        case "Brightness":
            result = F.adjust_brightness(images, 1.0 + strength)
        case "Color":
            result = F.adjust_saturation(images, 1.0 + strength)
        case "Contrast":
            result = F.adjust_contrast(images, 1.0 + strength)
        case "Sharpness":
            result = F.adjust_sharpness(images, 1.0 + strength)
        case "Posterize":
            result = F.posterize(images, int(strength))
        case "Solarize":
            result = F.solarize(images, strength)
        case "AutoContrast":
            result = F.autocontrast(images)
        case "Equalize":
            result = v2.equalize(images)  # the same pixels; the older one goes image by image, channel by channel
        case _:
            raise ValueError(f"{name!r} is no operation of TrivialAugment")
    return result


def _slope(strength: float) -> float:
    """The shear's angle, degrees."""
    return math.degrees(math.atan(strength))
