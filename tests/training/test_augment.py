"""Augmentation against torchvision and plain per-image references, at the draws that were made."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torchvision.transforms import functional as reference

from harness.spec.experiment import Augment, CutMix
from harness.training import augment
from harness.training.augment import MixedBatch, Normaliser, draw_cutmix, draw_epoch
from harness.training.loop import mixed_cross_entropy
from tests.training.build import make_images, make_spec

CPU = torch.device("cpu")
FULL = {"crop": {"padding": 2}, "flip": True, "cutmix": {"probability": 0.5, "alpha": 1.0}}


def test_crop_and_flip_equal_torchvision_image_by_image() -> None:
    spec = make_spec(augment={"crop": {"padding": 2}, "flip": True})
    images = make_images(50, (8, 8, 3))
    drawn = draw_epoch(spec, 0, 1, 50, CPU)
    batch = augment.gather(augment.pad(images.pixels, spec.augment), drawn.order, drawn, 8, 8)
    assert drawn.offsets is not None
    assert drawn.mirrored is not None
    for place, index in enumerate(drawn.order.tolist()):
        image = images.pixels[index].permute(2, 0, 1)
        top, left = drawn.offsets[index].tolist()
        expected = reference.crop(reference.pad(image, [2, 2, 2, 2]), top, left, 8, 8)
        if drawn.mirrored[index]:
            expected = reference.hflip(expected)
        assert torch.equal(batch[place].permute(2, 0, 1), expected)


def test_each_image_has_its_own_draw() -> None:
    drawn = draw_epoch(make_spec(augment=FULL), 0, 1, 1000, CPU)
    assert drawn.offsets is not None
    assert drawn.mirrored is not None
    assert len({tuple(pair) for pair in drawn.offsets.tolist()}) == 25  # every offset of 5 x 5 occurs
    assert 400 < drawn.mirrored.sum() < 600


def test_nothing_switched_on_leaves_the_pixels_alone() -> None:
    images = make_images(20)
    drawn = draw_epoch(make_spec(), 0, 1, 20, CPU)
    batch = augment.gather(augment.pad(images.pixels, Augment()), drawn.order, drawn, 8, 8)
    assert torch.equal(batch, images.pixels[drawn.order])
    assert list(drawn.mixes) == [None]


def test_normaliser_equals_torchvision() -> None:
    images = make_images(7, (8, 8, 3))
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    ours = Normaliser.of(mean, std, CPU)(images.pixels)
    expected = reference.normalize(images.pixels.permute(0, 3, 1, 2).float() / 255, list(mean), list(std))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_cutmix_equals_a_per_image_reference() -> None:
    images = torch.randn(6, 3, 8, 10)
    partner = torch.tensor([3, 0, 5, 1, 4, 2])
    mix = MixedBatch(partner, (2, 5, 1, 9), 1 - 3 * 8 / 80)
    expected = images.clone()
    for i in range(6):
        for row in range(2, 5):
            for column in range(1, 9):
                expected[i, :, row, column] = images[partner[i], :, row, column]
    assert torch.equal(augment.paste(images.clone(), mix), expected)


def test_cutmix_label_weight_is_the_area_really_pasted() -> None:
    mixes = draw_cutmix(CutMix(probability=1.0, alpha=1.0), 0, 1, [16] * 300, 8, 8, CPU)
    pixels = torch.zeros(16, 1, 8, 8)
    for mix in mixes:
        assert mix is not None
        marked = pixels.clone()
        marked[1:] = 1  # an image pasted from another shows it where exactly one of the two is image 0
        pasted = augment.paste(marked.clone(), mix)
        for i in range(16):
            if (i == 0) != (int(mix.partner[i]) == 0):
                share = (pasted[i] != marked[i]).float().mean().item()
                assert share == pytest.approx(1 - mix.kept)


def test_cutmix_draws_follow_their_distributions() -> None:
    mixes = draw_cutmix(CutMix(probability=0.3, alpha=1.0), 0, 1, [4] * 4000, 32, 32, CPU)
    share = sum(mix is not None for mix in mixes) / len(mixes)
    assert share == pytest.approx(0.3, abs=0.03)
    partners = torch.stack([mix.partner for mix in mixes if mix])
    assert all(sorted(row) == [0, 1, 2, 3] for row in partners.tolist())
    assert partners[:, 0].double().mean().item() == pytest.approx(1.5, abs=0.15)
    # an unclipped box keeps about its ratio, which is Beta(alpha, alpha): compare alpha 1 and 0.2 by their spread
    spread = {}
    for alpha in (0.2, 1.0):
        drawn = draw_cutmix(CutMix(probability=1.0, alpha=alpha), 0, 1, [4] * 4000, 32, 32, CPU)
        inside = [m.kept for m in drawn if m and m.box[0] > 0 and m.box[2] > 0 and m.box[1] < 32 and m.box[3] < 32]
        spread[alpha] = sum(inside) / len(inside)
    assert spread[0.2] > spread[1.0]  # small boxes (ratio near 1) are likelier inside, the more so with alpha small


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_cutmix_ratio_is_beta(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ratios: list[float] = []
    original = augment.cutmix_box

    def spy(ratio: float, *rest: int) -> tuple[int, int, int, int]:
        ratios.append(ratio)
        return original(ratio, *rest)

    monkeypatch.setattr(augment, "cutmix_box", spy)
    draw_cutmix(CutMix(probability=1.0, alpha=alpha), 1, 1, [4] * 3000, 32, 32, CPU)
    assert stats.kstest(ratios, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_mixed_loss_is_the_weighted_sum_of_both_labels() -> None:
    logits, labels = torch.randn(6, 10), torch.tensor([0, 1, 2, 3, 4, 5])
    mix = MixedBatch(torch.tensor([5, 4, 3, 2, 1, 0]), (0, 4, 0, 8), 0.5)
    log_p = logits.log_softmax(1)
    expected = sum(-0.5 * log_p[i, i] - 0.5 * log_p[i, 5 - i] for i in range(6)) / 6
    torch.testing.assert_close(mixed_cross_entropy(logits, labels, mix), expected)
    plain = -log_p[torch.arange(6), labels].mean()
    torch.testing.assert_close(mixed_cross_entropy(logits, labels, None), plain)


@pytest.mark.parametrize("off", ["crop", "flip", "cutmix"])
def test_switching_one_off_leaves_the_other_draws_alone(off: str) -> None:
    full = draw_epoch(make_spec(augment=FULL), 5, 3, 100, CPU)
    less = draw_epoch(make_spec(augment={**FULL, off: False}), 5, 3, 100, CPU)
    assert torch.equal(full.order, less.order)
    if off != "crop":
        assert full.offsets is not None
        assert less.offsets is not None
        assert torch.equal(full.offsets, less.offsets)
    if off != "flip":
        assert full.mirrored is not None
        assert less.mirrored is not None
        assert torch.equal(full.mirrored, less.mirrored)
    if off != "cutmix":
        for one, other in zip(full.mixes, less.mixes, strict=True):
            assert (one is None) == (other is None)
            if one and other:
                assert one.box == other.box
                assert torch.equal(one.partner, other.partner)


def test_draws_depend_on_seed_and_epoch() -> None:
    spec = make_spec(augment=FULL)
    orders = [draw_epoch(spec, seed, epoch, 100, CPU).order for seed, epoch in ((0, 1), (0, 1), (0, 2), (1, 1))]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[3])
    assert sorted(orders[3].tolist()) == list(range(100))


def test_no_two_purposes_share_a_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or what one draws would depend on, or repeat, what the other does."""
    used: list[tuple[object, ...]] = []
    original = augment.draws.generator

    def spy(*key: object) -> torch.Generator:
        used.append(key)
        return original(*key)

    monkeypatch.setattr(augment.draws, "generator", spy)
    draw_epoch(make_spec(augment=FULL), 0, 1, 100, CPU)
    assert len(used) == len(set(used)) == 5
