"""CutMix and Mixup against plain per-image references, and their draws against their distributions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from scipy import stats
from scipy.special import betaincinv

from harness.spec.augment import CutMix, Mixup
from harness.training import mixing
from harness.training.loss import mixed_cross_entropy
from harness.training.mixing import MixedBatch, _beta, draw_cutmix, draw_mixup, mix_images

CPU = torch.device("cpu")
PARTNER = torch.tensor([3, 0, 5, 1, 4, 2])


def cutmixes(probability: float, alpha: float, sizes: Sequence[int], side: int = 32) -> list[MixedBatch | None]:
    return draw_cutmix(CutMix(probability=probability, alpha=alpha), 0, 1, sizes, side, side, CPU)


def mixups(probability: float, alpha: float, sizes: Sequence[int]) -> list[MixedBatch | None]:
    return draw_mixup(Mixup(probability=probability, alpha=alpha), 0, 1, sizes, CPU)


def test_cutmix_equals_a_per_image_reference() -> None:
    images = torch.randn(6, 3, 8, 10)
    mix = MixedBatch(PARTNER, (2, 5, 1, 9), 1 - 3 * 8 / 80)
    expected = images.clone()
    for i in range(6):
        for row in range(2, 5):
            for column in range(1, 9):
                expected[i, :, row, column] = images[PARTNER[i], :, row, column]
    assert torch.equal(mix_images(images.clone(), mix), expected)


def test_mixup_equals_a_per_image_reference() -> None:
    images = torch.randn(6, 3, 8, 10)
    mixed = mix_images(images.clone(), MixedBatch(PARTNER, None, 0.3))
    for i in range(6):
        torch.testing.assert_close(mixed[i], 0.3 * images[i] + 0.7 * images[PARTNER[i]])


@pytest.mark.parametrize("box", [(2, 5, 1, 9), None])
def test_mixing_keeps_the_layout_of_the_memory(box: tuple[int, int, int, int] | None) -> None:
    images = torch.randn(6, 3, 8, 10).to(memory_format=torch.channels_last)
    assert mix_images(images, MixedBatch(PARTNER, box, 0.7)).is_contiguous(memory_format=torch.channels_last)


def test_cutmix_label_weight_is_the_area_really_pasted() -> None:
    pixels = torch.zeros(16, 1, 8, 8)
    for mix in cutmixes(1.0, 1.0, [16] * 300, side=8):
        assert mix is not None
        marked = pixels.clone()
        marked[1:] = 1  # an image pasted from another shows it where exactly one of the two is image 0
        pasted = mix_images(marked.clone(), mix)
        for i in range(16):
            if (i == 0) != (int(mix.partner[i]) == 0):
                share = (pasted[i] != marked[i]).float().mean().item()
                assert share == pytest.approx(1 - mix.kept)


def test_mixup_label_weight_is_the_share_of_each_value() -> None:
    for mix in mixups(1.0, 1.0, [16] * 100):
        assert mix is not None
        assert mix.box is None
        one_hot = torch.eye(16)[:, :, None, None]
        weights = mix.kept * torch.eye(16) + (1 - mix.kept) * torch.eye(16)[mix.partner]
        torch.testing.assert_close(mix_images(one_hot, mix)[:, :, 0, 0], weights)


def test_cutmix_draws_follow_their_distributions() -> None:
    mixes = cutmixes(0.3, 1.0, [4] * 4000)
    share = sum(mix is not None for mix in mixes) / len(mixes)
    assert share == pytest.approx(0.3, abs=0.03)
    # an unclipped box keeps about its ratio, which is Beta(alpha, alpha): compare alpha 1 and 0.2 by their spread
    spread = {}
    for alpha in (0.2, 1.0):
        drawn = cutmixes(1.0, alpha, [4] * 4000)
        boxes = [(m, m.box) for m in drawn if m and m.box]
        inside = [m.kept for m, box in boxes if box[0] > 0 and box[2] > 0 and box[1] < 32 and box[3] < 32]
        spread[alpha] = sum(inside) / len(inside)
    assert spread[0.2] > spread[1.0]  # small boxes (ratio near 1) are likelier inside, the more so with alpha small


def test_cutmix_boxes_are_centred_on_any_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    centres: list[int] = []
    original = mixing.cutmix_box

    def spy(ratio: float, row: int, column: int, height: int, width: int) -> tuple[int, int, int, int]:
        centres.append(row * width + column)
        return original(ratio, row, column, height, width)

    monkeypatch.setattr(mixing, "cutmix_box", spy)
    draw_cutmix(CutMix(probability=1.0), 0, 1, [4] * 3000, 4, 6, CPU)
    assert stats.chisquare(torch.tensor(centres).bincount(minlength=24)).pvalue > 0.01


@pytest.mark.parametrize("probability", [0.3, 1.0])
def test_mixup_takes_its_share_of_the_batches(probability: float) -> None:
    mixes = mixups(probability, 1.0, [4] * 4000)
    share = sum(mix is not None for mix in mixes) / len(mixes)
    assert share == pytest.approx(probability, abs=0.03 * (1 - probability))


@pytest.mark.parametrize("draw", [cutmixes, mixups])
def test_partners_are_uniform_permutations_one_a_batch(draw: Callable[..., list[MixedBatch | None]]) -> None:
    mixes = draw(1.0, 1.0, [3] * 3000 + [2])
    orders = [tuple(mix.partner.tolist()) for mix in mixes if mix]
    assert sorted(orders.pop()) == [0, 1]  # the last batch, a smaller one
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    counts = [orders.count(order) for order in sorted(set(orders))]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_cutmix_ratio_is_beta(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ratios: list[float] = []
    original = mixing.cutmix_box

    def spy(ratio: float, *rest: int) -> tuple[int, int, int, int]:
        ratios.append(ratio)
        return original(ratio, *rest)

    monkeypatch.setattr(mixing, "cutmix_box", spy)
    draw_cutmix(CutMix(probability=1.0, alpha=alpha), 1, 1, [4] * 3000, 32, 32, CPU)
    assert stats.kstest(ratios, stats.beta(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_mixup_ratio_is_beta(alpha: float, probability: float) -> None:
    """Of the batches that are mixed, too: whether one is mixed tells nothing of its ratio."""
    ratios = [mix.kept for mix in mixups(probability, alpha, [4] * 3000) if mix]
    assert stats.kstest(ratios, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_mixed_loss_is_the_weighted_sum_of_both_labels() -> None:
    logits, labels = torch.randn(6, 10), torch.tensor([0, 1, 2, 3, 4, 5])
    mix = MixedBatch(torch.tensor([5, 4, 3, 2, 1, 0]), (0, 4, 0, 8), 0.5)
    log_p = logits.log_softmax(1)
    expected = sum(-0.5 * log_p[i, i] - 0.5 * log_p[i, 5 - i] for i in range(6)) / 6
    torch.testing.assert_close(mixed_cross_entropy(logits, labels, mix), expected)
    plain = -log_p[torch.arange(6), labels].mean()
    torch.testing.assert_close(mixed_cross_entropy(logits, labels, None), plain)


def test_the_uniform_distribution_is_its_own_quantile() -> None:
    """The published recipe's Beta(1, 1) needs no SciPy, and draws what SciPy would."""
    for quantile in torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tolist():
        assert _beta(1.0, quantile) == quantile == betaincinv(1.0, 1.0, quantile)
        assert _beta(0.4, quantile) == betaincinv(0.4, 0.4, quantile) != quantile
