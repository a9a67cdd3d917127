"""Cutout against the authors' box rule and torchvision's erase."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as reference

from harness.training.cutout import cutout


@pytest.mark.parametrize("size", [2, 6, 8])
def test_an_even_square_is_that_of_the_authors_code(size: int) -> None:
    """Theirs, github.com/uoguelph-mlrg/Cutout, util/cutout.py: a mask of ones with one clipped square of zeros."""
    height, width = 8, 12
    every_pixel = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    images = torch.randn(len(every_pixel), 3, height, width)
    blanked = cutout(images.clone(), every_pixel, size)
    for (y, x), image, ours in zip(every_pixel.tolist(), images, blanked, strict=True):
        mask = torch.ones(height, width)
        y1, y2 = np.clip(y - size // 2, 0, height), np.clip(y + size // 2, 0, height)
        x1, x2 = np.clip(x - size // 2, 0, width), np.clip(x + size // 2, 0, width)
        mask[y1:y2, x1:x2] = 0
        assert torch.equal(ours, image * mask)


@pytest.mark.parametrize("size", [1, 5, 6])
def test_cutout_equals_erasing_the_clipped_square(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(60, 3, 9, 11, generator=generator)
    centres = torch.stack([torch.randint(length, (60,), generator=generator) for length in (9, 11)], dim=1)
    blanked = cutout(images.clone(), centres, size)
    for image, (row, column), ours in zip(images, centres.tolist(), blanked, strict=True):
        top, left = max(row - size // 2, 0), max(column - size // 2, 0)
        bottom, right = row - size // 2 + size, column - size // 2 + size
        expected = reference.erase(image, top, left, bottom - top, right - left, torch.zeros(()))
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("size", [1, 4, 5])
def test_a_square_inside_the_image_is_just_its_size(size: int) -> None:
    blanked = cutout(torch.ones(1, 2, 10, 10), torch.tensor([[5, 5]]), size)
    assert blanked.eq(0).sum() == 2 * size * size
