"""The network: published counts, an independent formula, any image size, initial weights by name."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from harness.errors import InputError
from harness.spec.experiment import ExperimentSpec
from harness.training import guard
from harness.training.model import build_model, initialise
from tests.training.build import make_spec

BASELINE = {"depths": [4, 4, 3], "width": 64, "se": {"placement": "stem", "reduction": 16}}


def cifar(**model: object) -> ExperimentSpec:
    return make_spec(model=model, data={"dataset": "cifar10"})


def test_published_counts() -> None:
    counted = guard.cost(cifar(**BASELINE))
    assert counted.trainable_parameters == 4_697_742
    assert counted.macs == 798_690_304
    assert guard.cost(cifar(**{**BASELINE, "se": False})).trainable_parameters == 4_697_162


def parameters_by_formula(spec: ExperimentSpec) -> int:
    """Written from the architecture's description, without torch."""
    model, channels = spec.model, spec.dataset.image_shape[0]

    def gates(width: int) -> int:
        hidden = width // model.se.reduction if model.se else 0
        return width * hidden + hidden + hidden * width + width

    total = 9 * channels * model.widths[0] + 2 * model.widths[0]
    if model.se and model.se.placement == "stem":
        total += gates(model.widths[0])
    before = model.widths[0]
    for group, (depth, width) in enumerate(zip(model.depths, model.widths, strict=True)):
        for block in range(depth):
            total += 9 * before * width + 9 * width * width + 4 * width
            if before != width or (group > 0 and block == 0):
                total += before * width + 2 * width
            if model.se and model.se.placement == "block":
                total += gates(width)
            before = width
    return total + before * spec.dataset.classes + spec.dataset.classes


SE = [None, {"reduction": 4}, {"placement": "block", "reduction": 8}]
SHAPES = [([1], 8), ([1, 1], 16), ([2, 1, 3], 8), ([4, 4, 3], 64), ([3, 3, 3], [8, 24, 24]), ([1, 1, 1, 1], 12)]


@pytest.mark.parametrize(("shape", "se"), list(itertools.product(SHAPES, SE)))
@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_count_equals_formula(shape: tuple[list[int], int], se: dict | None, dataset: str) -> None:
    spec = make_spec(model={"depths": shape[0], "width": shape[1], "se": se}, data={"dataset": dataset})
    assert guard.cost(spec).trainable_parameters == parameters_by_formula(spec)


@pytest.mark.parametrize(("size", "channels", "classes"), [(8, 1, 10), (32, 3, 10), (33, 3, 7), (64, 3, 100)])
def test_any_image_size_and_classes(size: int, channels: int, classes: int) -> None:
    from harness.training.model import ResNet

    spec = make_spec(model={"depths": [1, 1, 1], "width": 8, "dropout": 0.1})
    network = ResNet(spec.model, channels, classes)
    assert network(torch.zeros(2, channels, size, size)).shape == (2, classes)


def test_se_equals_torchvision() -> None:
    from torchvision.ops import SqueezeExcitation as Reference

    from harness.training.model import SqueezeExcitation

    ours, reference = SqueezeExcitation(16, 4), Reference(16, 4)
    reference.load_state_dict(ours.state_dict())
    x = torch.randn(3, 16, 5, 7)
    torch.testing.assert_close(ours(x), reference(x), rtol=0, atol=0)


def test_se_in_every_block_acts() -> None:
    spec = make_spec(model={"se": {"placement": "block", "reduction": 4}})
    network = build_model(spec, "cpu")
    assert [name for name, module in network.named_modules() if name.endswith("se")] == [
        "groups.0.0.se",
        "groups.1.0.se",
    ]
    initialise(network, 0)
    x = torch.randn(4, 1, 8, 8)
    before = network.eval()(x)
    nn.init.constant_(network.groups[0][0].se.fc2.bias, -100.0)  # gates shut: the residual is gone
    assert not torch.equal(network(x), before)


def test_dropout_drops_in_training_only() -> None:
    network = build_model(make_spec(model={"dropout": 0.5}), "cpu")
    initialise(network, 0)
    x = torch.randn(4, 1, 8, 8)
    network.eval()
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))


def test_initial_weights_are_shared_by_name() -> None:
    """Arms that differ in SE alone begin with the same weights wherever both have the parameter."""
    with_se, without = (build_model(make_spec(model={"se": se}), "cpu") for se in ({"reduction": 4}, None))
    initialise(with_se, 3)
    initialise(without, 3)
    shared = dict(without.named_parameters())
    extra = {name for name, _ in with_se.named_parameters()} - shared.keys()
    assert extra == {"se.fc1.weight", "se.fc1.bias", "se.fc2.weight", "se.fc2.bias"}
    for name, parameter in with_se.named_parameters():
        if name in shared:
            assert torch.equal(parameter, shared[name]), name


def test_initial_weights_follow_seed_and_distribution() -> None:
    first, again, other = (build_model(make_spec(model={"width": 64}), "cpu") for _ in range(3))
    for network, seed in ((first, 0), (again, 0), (other, 1)):
        initialise(network, seed)
    weight = first.groups[1][0].conv2.weight
    assert torch.equal(weight, again.groups[1][0].conv2.weight)
    assert not torch.equal(weight, other.groups[1][0].conv2.weight)
    bound = 1 / math.sqrt(9 * 128)
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)


def test_guard_names_count_limit_and_largest_width() -> None:
    with pytest.raises(InputError) as caught:
        guard.check_budget([cifar(**BASELINE), cifar(**{**BASELINE, "width": 72})], ["good.yaml", "wide.yaml"])
    assert len(caught.value.problems) == 1
    message = str(caught.value)
    for part in ("wide.yaml", "5,943,902", "5,000,000", "66", "4,995,554"):
        assert part in message


def test_guard_at_its_limit() -> None:
    count = guard.cost(make_spec()).trainable_parameters
    guard.check_budget([make_spec(guard={"max_parameters": count})])
    with pytest.raises(InputError):
        guard.check_budget([make_spec(guard={"max_parameters": count - 1})])
    guard.check_budget([make_spec(guard={"max_parameters": None})])


def test_guard_where_nothing_fits() -> None:
    with pytest.raises(InputError, match=r"no model\.width fits"):
        guard.check_budget([make_spec(guard={"max_parameters": 3})])
