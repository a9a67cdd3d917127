"""Where a training image's pixels come from: crop and flip by indexing, rotation and scaling by interpolation.

Pure functions on [N, H, W, C]; what is random about them is in `harness.training.augment.EpochDraws`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gather(
    pixels: Tensor, indices: Tensor, offsets: Tensor | None, mirrored: Tensor | None, padding: int = 0
) -> Tensor:
    """Images `indices` [B], cropped from a black border of `padding` pixels and then mirrored: [B, H, W, C].

    Copies whole images and whole rows of pixels, which is ten times as fast on a CPU as an index for every pixel.

    Args:
        pixels: uint8 [N, H, W, C].
        indices: int64 [B].
        offsets: int64 [N, 2], row and column at which each of the N images is cut from its bordered version, or None.
        mirrored: bool [N], or None.
        padding: pixels of border on each side; 0 without `offsets`.
    """
    images = pixels.index_select(0, indices)
    if offsets is not None:
        images = crop(images, offsets.index_select(0, indices), padding)
    return images if mirrored is None else mirror(images, mirrored.index_select(0, indices))


def crop(images: Tensor, offsets: Tensor, padding: int) -> Tensor:
    """Each image [B, H, W, C] cut at its own row and column, `offsets` [B, 2], of its version with a black border."""
    count, height, width, channels = images.shape
    rows, columns = height + 2 * padding, width + 2 * padding
    bordered = F.pad(images, (0, 0, padding, padding, padding, padding))
    # Every run of `width` pixels in the batch's memory, by the pixel it begins with: overlapping views, no copies.
    runs = bordered.view(-1).as_strided((count * rows * columns - width + 1, width * channels), (channels, 1))
    image, row = _range(count, images)[:, None], _range(height, images)
    begins = (image * rows + offsets[:, :1] + row) * columns + offsets[:, 1:]
    return runs.index_select(0, begins.flatten()).view(images.shape)


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """The images [B, H, W, C] that `mirrored`, bool [B], names are turned left to right."""
    both = torch.stack((images, images.flip(2)), dim=1).flatten(0, 1)
    return both.index_select(0, 2 * _range(len(images), images) + mirrored)


def _range(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, device=like.device)


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
