"""An epoch's draws, and the batches made of them, against torchvision and plain per-image references."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from itertools import combinations
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference
from torchvision.transforms.autoaugment import _apply_op

from harness.spec.augment import Augment
from harness.spec.experiment import ExperimentSpec
from harness.training import augment
from harness.training.augment import Batch, Batches, EpochDraws, Normaliser, draw_epoch
from harness.training.data import Images
from harness.training.trivial_augment import SPACE
from tests.training.build import make_images, make_spec

CPU = torch.device("cpu")
FULL: dict[str, Any] = {
    "crop": {"padding": 2},
    "flip": True,
    "rotation": {"degrees": 30.0},
    "scaling": {"low": 0.7, "high": 1.4},
    "trivial_augment": True,
    "cutout": {"size": 3},
    "cutmix": {"probability": 0.5, "alpha": 1.0},
    "mixup": {"probability": 0.5, "alpha": 1.0},
}
INTERPOLATED = {"rotation", "scaling"}


def switched_on(*names: str, dataset: str = "cifar10") -> ExperimentSpec:
    return make_spec(data={"dataset": dataset}, augment={name: FULL[name] for name in names})


def normaliser(spec: ExperimentSpec) -> Normaliser:
    return Normaliser.of(spec.dataset.mean, spec.dataset.std, CPU)


def epoch_of(spec: ExperimentSpec, images: Images, drawn: EpochDraws) -> list[Batch]:
    batch = Batches(spec, images, normaliser(spec)).epoch(drawn)
    return [batch(step) for step in range(-(-len(images) // spec.train.batch_size))]


def same(one: Any, other: Any) -> bool:
    """Bit for bit, whatever a field of the draws is made of."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    return bool(one == other)


def changed(one: EpochDraws, other: EpochDraws) -> list[str]:
    names = [field.name for field in fields(EpochDraws)]
    return [name for name in names if not same(getattr(one, name), getattr(other, name))]


def augmented_alone(spec: ExperimentSpec, images: Images, drawn: EpochDraws, index: int) -> Tensor:
    """One image, [C, H, W], normalised, as torchvision makes it at the epoch's draws, before it is mixed."""
    image, (height, width) = images.pixels[index].permute(2, 0, 1), images.pixels.shape[1:3]
    if drawn.offsets is not None:
        top, left = drawn.offsets[index].tolist()
        image = reference.crop(reference.pad(image, [2, 2, 2, 2]), top, left, height, width)
    if drawn.mirrored is not None and drawn.mirrored[index]:
        image = reference.hflip(image)
    if drawn.degrees is not None or drawn.factors is not None:
        angle = -drawn.degrees[index].item() if drawn.degrees is not None else 0.0
        factor = drawn.factors[index].item() if drawn.factors is not None else 1.0
        image = reference.affine(image.float(), angle, [0, 0], factor, [0.0], InterpolationMode.BILINEAR)
    if drawn.operations is not None:
        operation, bin_, sign = drawn.operations[index].tolist()
        name = list(SPACE)[operation]
        strengths, signed = SPACE[name]
        strength = -strengths[bin_] if signed and sign else strengths[bin_]
        image = _apply_op(image.round().to(torch.uint8), name, strength, InterpolationMode.NEAREST, None)
    image = reference.normalize(image.float() / 255, list(spec.dataset.mean), list(spec.dataset.std))
    if drawn.centres is not None:
        row, column = drawn.centres[index].tolist()
        image[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0
    return image


def mixed(images: Tensor, drawn: EpochDraws, step: int) -> Tensor:
    """A batch, [B, C, H, W], mixed image by image; Mixup has what CutMix leaves."""
    mix = drawn.cutmixes[step] if drawn.cutmixes[step] is not None else drawn.mixups[step]
    result = images.clone()
    for i in range(len(images)) if mix else ():
        partner = images[int(mix.partner[i])]
        if mix.box is None:
            result[i] = mix.kept * images[i] + (1 - mix.kept) * partner
        else:
            top, bottom, left, right = mix.box
            result[i, :, top:bottom, left:right] = partner[:, top:bottom, left:right]
    return result


EXACT = tuple(name for name in FULL if name not in INTERPOLATED)
CHAINS = [(), *((name,) for name in FULL), *combinations(FULL, 2), EXACT, tuple(FULL)]


@pytest.mark.parametrize("names", CHAINS, ids="+".join)
def test_batches_equal_the_reference_in_the_documented_order(names: tuple[str, ...]) -> None:
    check_against_the_reference(names, switched_on(*names), make_images(70, (32, 32, 3)))


@pytest.mark.parametrize("names", [EXACT, tuple(FULL)], ids="+".join)
def test_batches_of_grey_images_equal_the_reference(names: tuple[str, ...]) -> None:
    check_against_the_reference(names, switched_on(*names, dataset="digits"), make_images(70, (8, 8, 1)))


def check_against_the_reference(names: tuple[str, ...], spec: ExperimentSpec, images: Images) -> None:
    drawn = draw_epoch(spec, 3, 1, len(images), CPU)
    # an interpolated value that lies between two integers may be rounded to either, before TrivialAugment
    ambiguous = 0.01 if "trivial_augment" in names and INTERPOLATED & set(names) else 0.0
    for step, batch in enumerate(epoch_of(spec, images, drawn)):
        expected = torch.stack([augmented_alone(spec, images, drawn, index) for index in batch.indices.tolist()])
        different = (batch.images - mixed(expected, drawn, step)).abs() > 2e-3
        assert different.float().mean() <= ambiguous
        assert batch.mix is drawn.mix(step)


@pytest.mark.parametrize("names", [(), ("rotation",), ("trivial_augment",), tuple(FULL)], ids="+".join)
@pytest.mark.parametrize("steps", [2, 3, 99])
def test_batches_are_the_same_however_many_are_made_together(
    names: tuple[str, ...], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any step on, too, as a continued epoch asks for them."""
    spec, images = switched_on(*names), make_images(200, (32, 32, 3))
    drawn = draw_epoch(spec, 3, 1, len(images), CPU)
    expected = epoch_of(spec, images, drawn)
    monkeypatch.setitem(augment.TOGETHER, "cpu", steps * spec.train.batch_size * 32 * 32 * 3)
    together = Batches(spec, images, normaliser(spec))
    assert together.steps_together == steps
    for first in (0, 1, 4):
        batch = together.epoch(drawn)
        for step in range(first, len(expected)):
            assert torch.equal(batch(step).images, expected[step].images)
            assert torch.equal(batch(step).labels, expected[step].labels)


def test_full_and_the_spec_know_the_same_toggles() -> None:
    assert list(FULL) == list(Augment.model_fields)


def test_nothing_switched_on_is_exactly_the_normalised_pixels() -> None:
    spec, images = make_spec(), make_images(80)
    drawn = draw_epoch(spec, 0, 1, 80, CPU)
    for batch in epoch_of(spec, images, drawn):
        assert torch.equal(batch.images, normaliser(spec)(images.pixels[batch.indices]))
        assert batch.mix is None


@pytest.mark.parametrize("names", [(), ("rotation",), ("trivial_augment",), ("mixup",), tuple(FULL)], ids="+".join)
def test_an_epoch_is_every_image_once_with_its_label(names: tuple[str, ...]) -> None:
    spec, images = switched_on(*names), make_images(70, (32, 32, 3))
    drawn = draw_epoch(spec, 0, 1, 70, CPU)
    batches = epoch_of(spec, images, drawn)
    assert [len(batch.labels) for batch in batches] == [32, 32, 6]
    assert torch.equal(torch.cat([batch.indices for batch in batches]), drawn.order)
    assert sorted(drawn.order.tolist()) == list(range(70))
    for batch in batches:
        assert torch.equal(batch.labels, images.labels[batch.indices])
        assert batch.images.dtype == torch.float32
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_batches_leave_the_training_images_as_they_are() -> None:
    images = make_images(70, (32, 32, 3))
    for names in ((), *((name,) for name in FULL), tuple(FULL)):
        spec = switched_on(*names)
        epoch_of(spec, images, draw_epoch(spec, 0, 1, 70, CPU))
    assert same(images, make_images(70, (32, 32, 3)))


def test_any_step_of_an_epoch_can_be_the_first() -> None:
    """As after an interruption: no batch depends on those before it."""
    spec, images = switched_on(*FULL), make_images(70, (32, 32, 3))
    drawn = draw_epoch(spec, 0, 2, 70, CPU)
    again = Batches(spec, images, normaliser(spec)).epoch(drawn)
    assert same(epoch_of(spec, images, drawn)[2], again(2))


def test_normaliser_equals_torchvision() -> None:
    images = make_images(7, (8, 8, 3))
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    ours = Normaliser.of(mean, std, CPU)(images.pixels)
    expected = reference.normalize(images.pixels.permute(0, 3, 1, 2).float() / 255, list(mean), list(std))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_each_image_has_its_own_draw_of_the_right_distribution() -> None:
    drawn = draw_epoch(make_spec(augment=FULL), 0, 1, 4000, CPU)
    assert drawn.offsets is not None
    assert drawn.mirrored is not None
    assert drawn.degrees is not None
    assert drawn.factors is not None
    assert drawn.operations is not None
    assert drawn.centres is not None
    offsets, centres = drawn.offsets @ torch.tensor([5, 1]), drawn.centres @ torch.tensor([8, 1])
    assert stats.chisquare(offsets.bincount(minlength=25)).pvalue > 0.01
    assert stats.chisquare(drawn.mirrored.long().bincount(minlength=2)).pvalue > 0.01
    assert stats.kstest(drawn.degrees, stats.uniform(-30.0, 60.0).cdf).pvalue > 0.01
    assert stats.kstest(drawn.factors, stats.uniform(0.7, 0.7).cdf).pvalue > 0.01
    assert len(drawn.operations.unique(dim=0)) > 800  # of 14 x 31 x 2; uniform: see test_trivial_augment
    assert stats.chisquare(centres.bincount(minlength=64)).pvalue > 0.01


def test_cutout_may_be_centred_on_any_pixel_of_an_oblong_image(monkeypatch: pytest.MonkeyPatch) -> None:
    oblong = replace(make_spec().dataset, image_shape=(1, 6, 10))
    monkeypatch.setattr(ExperimentSpec, "dataset", property(lambda spec: oblong))
    drawn = draw_epoch(make_spec(augment={"cutout": {"size": 3}}), 0, 1, 2000, CPU)
    assert drawn.centres is not None
    assert drawn.centres.amin(0).tolist() == [0, 0]
    assert drawn.centres.amax(0).tolist() == [5, 9]
    assert len(drawn.centres.unique(dim=0)) == 60


def test_mixup_takes_its_share_of_the_batches_that_cutmix_leaves() -> None:
    both = {"cutmix": {"probability": 0.3}, "mixup": {"probability": 0.4}}
    drawn = draw_epoch(make_spec(augment=both, train={"batch_size": 2}), 0, 1, 8000, CPU)
    mixes = [drawn.mix(step) for step in range(4000)]
    assert [mix for mix in mixes if mix and mix.box] == [mix for mix in drawn.cutmixes if mix]
    left = [mix for mix, cutmix in zip(mixes, drawn.cutmixes, strict=True) if cutmix is None]
    assert len(left) / 4000 == pytest.approx(0.7, abs=0.03)
    assert sum(mix is not None for mix in left) / len(left) == pytest.approx(0.4, abs=0.03)
    assert stats.kstest([mix.kept for mix in left if mix], stats.uniform().cdf).pvalue > 0.01


@pytest.mark.parametrize("toggle", FULL)
def test_a_switch_changes_its_own_draws_and_no_other(toggle: str) -> None:
    """With all others on, and with all others off."""
    full = draw_epoch(make_spec(augment=FULL), 5, 3, 1000, CPU)
    less = draw_epoch(make_spec(augment={name: FULL[name] for name in FULL if name != toggle}), 5, 3, 1000, CPU)
    plain = draw_epoch(make_spec(), 5, 3, 1000, CPU)
    alone = draw_epoch(make_spec(augment={toggle: FULL[toggle]}), 5, 3, 1000, CPU)
    own = changed(full, less)
    assert len(own) == 1
    assert own != ["order"]
    assert changed(plain, alone) == own
    assert same(getattr(full, own[0]), getattr(alone, own[0]))


def test_each_switch_has_draws_of_its_own() -> None:
    plain = draw_epoch(make_spec(), 5, 3, 1000, CPU)
    own = [changed(plain, draw_epoch(make_spec(augment={name: FULL[name]}), 5, 3, 1000, CPU))[0] for name in FULL]
    assert {"order", *own} == {field.name for field in fields(EpochDraws)}
    assert len(set(own)) == len(FULL)


def test_draws_depend_on_seed_and_epoch() -> None:
    spec = make_spec(augment=FULL)
    one, again, next_epoch, next_seed = (
        draw_epoch(spec, seed, epoch, 200, CPU) for seed, epoch in ((0, 1), (0, 1), (0, 2), (1, 1))
    )
    assert changed(one, again) == []
    everything = [field.name for field in fields(EpochDraws)]
    assert changed(one, next_epoch) == everything
    assert changed(one, next_seed) == everything
    assert changed(next_epoch, next_seed) == everything


def test_torchs_global_generator_is_left_alone() -> None:
    spec, images = switched_on(*FULL), make_images(70, (32, 32, 3))
    before = torch.get_rng_state()
    epoch_of(spec, images, draw_epoch(spec, 0, 1, 70, CPU))
    assert torch.equal(torch.get_rng_state(), before)


def test_no_two_purposes_share_a_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or what one draws would depend on, or repeat, what the other does."""
    used: list[tuple[object, ...]] = []
    original = augment.draws.generator

    def spy(*key: object) -> torch.Generator:
        used.append(key)
        return original(*key)

    monkeypatch.setattr(augment.draws, "generator", spy)
    draw_epoch(make_spec(augment=FULL), 5, 7, 100, CPU)
    assert {(seed, epoch) for seed, _, epoch in used} == {(5, 7)}
    partners = 2  # CutMix and Mixup draw their permutations apart from the rest
    assert len(used) == len(set(used)) == 1 + len(FULL) + partners
