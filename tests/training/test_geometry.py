"""Crop, flip, rotation and scaling against torchvision, image by image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from harness.training.geometry import gather, rotate_and_scale
from tests.training.build import make_images

SHAPES = [(8, 8, 1), (32, 32, 3), (10, 17, 3), (17, 10, 1)]
TOLERANCE = 1e-3 * 255


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("cropped", "flipped"), [(True, True), (True, False), (False, True), (False, False)])
def test_crop_and_flip_equal_torchvision(shape: tuple[int, int, int], cropped: bool, flipped: bool) -> None:
    images, (height, width) = make_images(50, shape).pixels, shape[:2]
    generator = torch.Generator().manual_seed(1)
    indices = torch.randperm(50, generator=generator)[:30]
    offsets = torch.randint(5, (50, 2), generator=generator) if cropped else None
    mirrored = torch.rand(50, generator=generator) < 0.5 if flipped else None
    batch = gather(images, indices, offsets, mirrored, 2 if cropped else 0)
    for place, index in enumerate(indices.tolist()):
        expected = images[index].permute(2, 0, 1)
        if offsets is not None:
            top, left = offsets[index].tolist()
            expected = reference.crop(reference.pad(expected, [2, 2, 2, 2]), top, left, height, width)
        if mirrored is not None and mirrored[index]:
            expected = reference.hflip(expected)
        assert torch.equal(batch[place].permute(2, 0, 1), expected)


def draws(low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(40, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("shape", SHAPES)
def test_rotation_equals_torchvision(shape: tuple[int, int, int]) -> None:
    """Both black outside: `fill` stays at its default, since torchvision darkens the edge twice where it is given."""
    images, degrees = make_images(40, shape).pixels, draws(-180.0, 180.0)
    turned = rotate_and_scale(images, degrees, None)
    assert turned.is_contiguous()
    for image, angle, ours in zip(images, degrees.tolist(), turned, strict=True):
        expected = reference.rotate(image.permute(2, 0, 1).float(), angle, InterpolationMode.BILINEAR)
        torch.testing.assert_close(ours.permute(2, 0, 1), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("turned", [True, False])
def test_scaling_and_both_together_equal_torchvision(shape: tuple[int, int, int], turned: bool) -> None:
    """Its `affine` counts angles clockwise, unlike its `rotate`."""
    images, factors = make_images(40, shape).pixels, draws(0.3, 3.0)
    degrees = draws(-180.0, 180.0).flip(0) if turned else None
    scaled = rotate_and_scale(images, degrees, factors)
    for i, image in enumerate(images):
        angle = -degrees[i].item() if degrees is not None else 0.0
        expected = reference.affine(
            image.permute(2, 0, 1).float(), angle, [0, 0], factors[i].item(), [0.0], InterpolationMode.BILINEAR
        )
        torch.testing.assert_close(scaled[i].permute(2, 0, 1), expected, atol=TOLERANCE, rtol=0)


def test_a_quarter_turn_is_counter_clockwise() -> None:
    images = make_images(3, (8, 8, 3)).pixels
    turned = rotate_and_scale(images, torch.full((3,), 90.0), None)
    torch.testing.assert_close(turned, images.rot90(1, (1, 2)).float(), atol=TOLERANCE, rtol=0)


def test_a_factor_of_two_enlarges_and_a_half_leaves_black_around() -> None:
    white = torch.full((2, 8, 8, 1), 255, dtype=torch.uint8)
    large, small = rotate_and_scale(white, None, torch.tensor([2.0, 0.5]))
    assert large.eq(255).all()
    assert small[2:6, 2:6].eq(255).all()
    assert small.sum() == 255 * 16
