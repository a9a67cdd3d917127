"""Where a training image's pixels come from: crop and flip by indexing, rotation and scaling by interpolation.

Pure functions on [N, H, W, C]; what is random about them is in `harness.training.augment.EpochDraws`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pad(pixels: Tensor, padding: int) -> Tensor:
    """uint8 [N, H, W, C] with a black border of `padding` pixels, which random crops are cut from."""
    return F.pad(pixels, (0, 0, padding, padding, padding, padding))


def gather(
    pixels: Tensor, indices: Tensor, offsets: Tensor | None, mirrored: Tensor | None, height: int, width: int
) -> Tensor:
    """Images `indices` [B], cropped and mirrored, by one indexing operation: [B, height, width, C].

    Args:
        pixels: [N, H, W, C], with their border where they are cropped.
        indices: int64 [B].
        offsets: int64 [N, 2], row and column at which each of the N images is cut, or None.
        mirrored: bool [N], or None.
        height: rows of the crop; the images' own without `offsets`.
        width: columns of the crop.
    """
    if offsets is None and mirrored is None:
        return pixels[indices]
    rows = torch.arange(height, device=pixels.device).expand(len(indices), height)
    columns = torch.arange(width, device=pixels.device).expand(len(indices), width)
    if mirrored is not None:
        columns = torch.where(mirrored[indices, None], width - 1 - columns, columns)
    if offsets is not None:
        at = offsets[indices]
        rows, columns = rows + at[:, :1], columns + at[:, 1:]
    return pixels[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def rotate_and_scale(pixels: Tensor, degrees: Tensor | None, factors: Tensor | None) -> Tensor:
    """Each image turned and scaled about its centre in one bilinear interpolation, black outside.

    As torchvision's `rotate` and `affine` do it for one image, but each image by its own angle and factor.

    Args:
        pixels: [B, H, W, C], 0 to 255.
        degrees: float32 [B], positive is counter-clockwise; None: 0.
        factors: float32 [B], over 1 enlarges; None: 1.

    Returns:
        float32 [B, H, W, C], 0 to 255, not rounded.
    """
    images = pixels.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(_sources(images, degrees, factors), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.permute(0, 2, 3, 1).contiguous()


def _sources(images: Tensor, degrees: Tensor | None, factors: Tensor | None) -> Tensor:
    """Matrices [B, 2, 3] for `affine_grid`: from where in [B, C, H, W] each place takes its pixel, sides -1 to 1."""
    count, _, height, width = images.shape
    angle = torch.zeros(count, device=images.device) if degrees is None else degrees.deg2rad()
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # the two axes have different units where the image is not square
    x = torch.stack((cosine, -sine * (height / width), zero), dim=1)
    y = torch.stack((sine * (width / height), cosine, zero), dim=1)
    matrices = torch.stack((x, y), dim=1)
    return matrices if factors is None else matrices / factors[:, None, None]
