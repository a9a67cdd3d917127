"""Stochastic depth: torchvision's at the same mask, the draws' probabilities and independence, evaluation as before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import stochastic_depth

from harness.spec.model import Model
from harness.training.model import BasicBlock, PreactivationBlock, ResNet, draw_kept, initialise
from tests.training.build import make_spec

CPU = torch.device("cpu")
BLOCKS = [BasicBlock, PreactivationBlock]


def make_model(**toggles: Any) -> Model:
    return make_spec(model={"depths": [2, 2], "width": 8, **toggles}).model


def draw(images: int = 10_000, *, seed: int = 0, epoch: int = 1, **toggles: Any) -> Tensor:
    kept = draw_kept(make_model(**{"stochastic_depth": 0.8, **toggles}), seed, epoch, images, CPU)
    assert kept is not None
    return kept


@pytest.mark.parametrize("block", BLOCKS)
def test_equals_torchvision_at_the_same_mask(block: type) -> None:
    ours = block(8, 8, 3, 1, make_model()).eval()
    x = torch.randn(40, 8, 6, 6)
    torch.manual_seed(0)
    kept = stochastic_depth(torch.ones(40, 1), 0.4, "row").flatten()
    assert sorted(set(kept.tolist())) == [0, pytest.approx(1 / 0.6)]

    residuals = []
    last = ours.norm2 if block is BasicBlock else ours.conv2
    last.register_forward_hook(lambda module, inputs, output: residuals.append(output.clone()))
    result = ours(x, kept)
    torch.manual_seed(0)
    expected = stochastic_depth(residuals[0], 0.4, "row") + x
    assert torch.equal(result, expected.relu() if block is BasicBlock else expected)


def test_values_equal_torchvisions() -> None:
    """0 or 1 / survival probability, the same float."""
    kept = draw()
    for place, probability in enumerate([0.2, 0.4, 0.6, 0.8]):
        theirs = stochastic_depth(torch.ones(1000, 1), probability, "row")
        torch.testing.assert_close(kept[:, place].unique(), theirs.unique(), rtol=1e-7, atol=0)


def test_each_block_survives_with_its_probability() -> None:
    """l / L * 0.8 are left out: 0.2, 0.4, 0.6, 0.8; and the mean of the factors is 1."""
    kept = draw(40_000)
    left_out = (kept == 0).double().mean(0)
    torch.testing.assert_close(left_out, torch.tensor([0.2, 0.4, 0.6, 0.8]).double(), rtol=0, atol=0.01)
    torch.testing.assert_close(kept.double().mean(0), torch.ones(4).double(), rtol=0, atol=0.05)


def test_images_blocks_epochs_and_seeds_draw_independently() -> None:
    """All pairs of columns and of shifted rows: no correlation beyond chance."""
    columns = torch.cat([draw(), draw(epoch=2), draw(seed=1), draw().roll(1, 0)], dim=1)
    correlations = columns.T.corrcoef() - torch.eye(16)
    assert correlations.abs().max() < 0.05


def test_draws_repeat_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first = draw()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(draw(), first)
    assert first.dtype == torch.float32
    assert first.shape == (10_000, 4)


def test_a_block_more_changes_no_others_draws() -> None:
    three = draw(depths=[2, 1], stochastic_depth=0.6)  # 0.2, 0.4, 0.6
    four = draw(depths=[2, 2], stochastic_depth=0.8)  # 0.2, 0.4, 0.6, 0.8
    assert torch.equal(four[:, :3] == 0, three == 0)
    inserted = draw(depths=[3, 1], stochastic_depth=0.8)  # groups.1.0 moves from the third place to the fourth
    assert torch.equal(inserted[:, :2], four[:, :2])
    assert not inserted[four[:, 2] == 0, 3].any()  # the same draws: what 0.6 leaves out, 0.8 leaves out too


def test_off_draws_nothing() -> None:
    assert draw_kept(make_model(), 0, 1, 10, CPU) is None


@pytest.mark.parametrize("toggles", [{}, {"dropout": 0.5}, {"norm": "none"}], ids=str)
@pytest.mark.parametrize("block", ["basic", "preactivation"])
def test_all_kept_equals_off(block: str, toggles: dict[str, Any]) -> None:
    """Logits and gradients, bit for bit, dropout's masks among them."""
    results = []
    for kept in (None, torch.ones(16, 4)):
        network = ResNet(make_model(block=block, **toggles), 1, 10)
        initialise(network, 0)
        torch.manual_seed(5)
        logits = network(torch.linspace(-2, 2, 16 * 64).reshape(16, 1, 8, 8), kept)
        F.cross_entropy(logits, torch.arange(16) % 10).backward()
        results.append([logits, *(parameter.grad for parameter in network.parameters())])
    for off, all_kept in zip(*results, strict=True):
        assert torch.equal(off, all_kept)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_left_out_block_is_its_shortcut(training: bool) -> None:
    x, none = torch.randn(4, 8, 6, 6), torch.zeros(4)
    basic, preactivation = (block(8, 8, 3, 1, make_model()).train(training) for block in BLOCKS)
    assert torch.equal(basic(x, none), x.relu())
    assert torch.equal(preactivation(x, none), x)
    basic, preactivation = (block(8, 12, 3, 2, make_model()).train(training) for block in BLOCKS)
    # to rounding: the same products, which a strided convolution may add in another order
    torch.testing.assert_close(basic(x, none), basic.project_norm(basic.project(x)).relu())
    torch.testing.assert_close(preactivation(x, none), preactivation.project(preactivation.norm1(x).relu()))


def test_each_image_and_block_has_its_own_factor() -> None:
    """A factor of one image acts on this image alone; each column reaches its block."""
    network = ResNet(make_model(depths=[1, 2]), 1, 10).eval()
    initialise(network, 0)
    x = torch.randn(3, 1, 8, 8)
    inside = []
    for block in network.blocks:
        block.register_forward_hook(lambda module, inputs, output: inside.append(inputs[1]))
    kept = torch.rand(3, 3)
    logits = network(x, kept)
    assert torch.equal(torch.stack(inside, 1), kept)
    changed = kept.clone()
    changed[1] = 0
    different = (network(x, changed) != logits).any(1)
    assert different.tolist() == [False, True, False]


@pytest.mark.parametrize("block", ["basic", "preactivation"])
def test_evaluation_is_unaffected(block: str) -> None:
    with_toggle, without = (ResNet(make_model(block=block, stochastic_depth=p), 1, 10).eval() for p in (0.8, 0.0))
    initialise(with_toggle, 0)
    initialise(without, 0)
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(with_toggle(x), without(x))


def test_bf16_residuals_stay_bf16() -> None:
    block = PreactivationBlock(8, 8, 3, 1, make_model())
    with torch.autocast("cpu", torch.bfloat16):
        assert block(torch.randn(4, 8, 6, 6).bfloat16(), torch.ones(4)).dtype == torch.bfloat16
