"""TrivialAugment against torchvision's TrivialAugmentWide, image by image."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torchvision.transforms import InterpolationMode
from torchvision.transforms.autoaugment import TrivialAugmentWide, _apply_op

from harness.training import trivial_augment
from harness.training.trivial_augment import BINS, SPACE
from tests.training.build import make_images

CPU = torch.device("cpu")
REFERENCE = TrivialAugmentWide()
WIDE = REFERENCE._augmentation_space(REFERENCE.num_magnitude_bins)


def torchvision_strength(name: str, bin_: int, negative: bool) -> float:
    """As in `TrivialAugmentWide.forward`, with the draws given."""
    strengths, signed = WIDE[name]
    strength = float(strengths[bin_].item()) if strengths.ndim > 0 else 0.0
    return -strength if signed and negative else strength


def test_the_space_is_torchvisions() -> None:
    assert list(SPACE) == list(WIDE)
    assert REFERENCE.num_magnitude_bins == BINS == 31
    for name, (strengths, signed) in SPACE.items():
        assert len(strengths) == BINS
        assert signed == WIDE[name][1]
        assert strengths == [torchvision_strength(name, bin_, False) for bin_ in range(BINS)]


@pytest.mark.parametrize("shape", [(32, 32, 3), (8, 8, 1), (18, 11, 3), (20, 26, 1)])
@pytest.mark.parametrize("name", SPACE)
def test_every_operation_equals_torchvision_at_every_strength(name: str, shape: tuple[int, int, int]) -> None:
    # an image of few values too, which is what contrast and histogram operations are about
    pixels = torch.cat([make_images(2, shape).pixels, make_images(1, shape, seed=1).pixels // 8 + 90])
    images = pixels.permute(0, 3, 1, 2)
    for strength in {torchvision_strength(name, bin_, negative) for bin_ in range(BINS) for negative in (False, True)}:
        ours = trivial_augment.apply(name, images, strength)
        assert ours.dtype == torch.uint8
        for image, result in zip(images, ours, strict=True):
            assert torch.equal(result, _apply_op(image, name, strength, InterpolationMode.NEAREST, None)), strength


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="no operation of TrivialAugment"):
        trivial_augment.apply("Invert", make_images(1).pixels, 0.0)


def test_draws_are_uniform_and_cover_the_space() -> None:
    drawn = trivial_augment.draw(60_000, torch.Generator().manual_seed(0))
    operations, bins, signs = drawn.unbind(1)
    cells = (operations * BINS + bins) * 2 + signs  # each a joint draw, so independence is tested too
    assert stats.chisquare(cells.bincount(minlength=len(SPACE) * BINS * 2)).pvalue > 0.01


def test_every_image_is_in_the_group_of_its_own_draws() -> None:
    drawn = trivial_augment.draw(5_000, torch.Generator().manual_seed(1))
    names, seen = list(SPACE), []
    for name, strength, indices in trivial_augment.groups(drawn, CPU):
        for operation, bin_, negative in drawn[indices].tolist():
            assert (name, strength) == (names[operation], torchvision_strength(name, bin_, bool(negative)))
        seen += indices.tolist()
    assert sorted(seen) == list(range(5_000))
