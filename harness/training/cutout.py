"""Cutout (DeVries and Taylor 2017, arXiv 1708.04552)."""

from __future__ import annotations

import torch
from torch import Tensor


def cutout(images: Tensor, centres: Tensor, size: int) -> Tensor:
    """Blank one square of each image, in place, with 0: after normalisation that is the mean colour.

    The square reaches from centre - size // 2 over `size` pixels and is cut off at the image's edges: as in the
    authors' code, where an odd size covers a pixel less.

    Args:
        images: [B, C, H, W], normalised.
        centres: int64 [B, 2], row and column.
        size: side of the square, pixels.
    """
    rows = _covered(centres[:, 0], size, images.shape[2])
    columns = _covered(centres[:, 1], size, images.shape[3])
    return images.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _covered(centres: Tensor, size: int, length: int) -> Tensor:
    """bool [B, length]: which places of an axis the square covers."""
    distance = torch.arange(length, device=centres.device) - (centres[:, None] - size // 2)
    return (distance >= 0) & (distance < size)
