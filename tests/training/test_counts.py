"""Parameters and MACs: published counts, a formula without torch, torch's own counter; and the guard's verdicts."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.errors import InputError
from harness.spec.experiment import ExperimentSpec
from harness.spec.model import Model
from harness.training import guard
from harness.training.model import ResNet
from tests.training.build import make_spec

BASELINE = {"depths": [4, 4, 3], "width": 64, "se": {"placement": "stem", "reduction": 16}}


def cifar(**model: object) -> ExperimentSpec:
    return make_spec(model=model, data={"dataset": "cifar10"})


def test_published_counts() -> None:
    counted = guard.cost(cifar(**BASELINE))
    assert counted.trainable_parameters == 4_697_742
    assert counted.macs == 798_690_304
    assert guard.cost(cifar(**{**BASELINE, "se": False})).trainable_parameters == 4_697_162


@dataclass(frozen=True)
class Layer:
    """A convolution over an output of so many pixels (a linear layer: kernel 1, one pixel)."""

    channels_in: int
    channels: int
    kernel: int
    pixels: int
    bias: bool


def architecture(model: Model, image: tuple[int, int, int], classes: int) -> tuple[list[Layer], list[int]]:
    """Every layer, and the channels of every norm, from the architecture's description."""
    channels, height, width = image
    bias = model.norm == "none"
    preactivation = model.block == "preactivation"
    before = model.widths[0]
    layers, norms = [Layer(channels, before, 3, height * width, bias)], []

    def gate(channels: int) -> None:
        hidden = channels // model.se.reduction if model.se else 0
        layers.extend([Layer(channels, hidden, 1, 1, True), Layer(hidden, channels, 1, 1, True)])

    if not preactivation:
        norms.append(before)
    if model.se and model.se.placement == "stem":
        gate(before)
    for group, (depth, after) in enumerate(zip(model.depths, model.widths, strict=True)):
        kernel = model.kernel_size if isinstance(model.kernel_size, int) else model.kernel_size[group]
        if group:
            height, width = (height + 1) // 2, (width + 1) // 2
        for block in range(depth):
            layers.append(Layer(before, after, kernel, height * width, bias))
            layers.append(Layer(after, after, kernel, height * width, bias))
            norms.extend([before, after] if preactivation else [after, after])
            changes = before != after or (group > 0 and block == 0)
            if changes and model.shortcut == "projection":
                layers.append(Layer(before, after, 1, height * width, bias))
                if not preactivation:
                    norms.append(after)
            if model.se and model.se.placement == "block":
                gate(after)
            before = after
    if preactivation:
        norms.append(before)
    layers.append(Layer(before, classes, 1, 1, True))
    return layers, [] if model.norm == "none" else norms


def parameters_by_formula(model: Model, image: tuple[int, int, int], classes: int) -> int:
    layers, norms = architecture(model, image, classes)
    weights = sum(layer.kernel**2 * layer.channels_in * layer.channels for layer in layers)
    return weights + sum(layer.channels for layer in layers if layer.bias) + 2 * sum(norms)


def macs_by_formula(model: Model, image: tuple[int, int, int], classes: int) -> int:
    """Convolutions and linear layers alone: norms, biases, activations, pooling and the gates' product are not MACs."""
    layers, _ = architecture(model, image, classes)
    return sum(layer.kernel**2 * layer.channels_in * layer.channels * layer.pixels for layer in layers)


SE = [None, {"reduction": 4}, {"placement": "block", "reduction": 8}]
KINDS = list(itertools.product(["basic", "preactivation"], ["batch", "none"], ["projection", "none"], SE))
SHAPES: list[dict[str, object]] = [
    {"depths": [1], "width": 8, "kernel_size": 5},
    {"depths": [1, 1], "width": 16},
    {"depths": [2, 1, 3], "width": 8, "kernel_size": [7, 3, 1]},
    {"depths": [4, 4, 3], "width": 64},
    {"depths": [3, 3, 3], "width": [8, 24, 24], "kernel_size": [3, 5, 3]},
    {"depths": [1, 1, 1, 1], "width": 12, "kernel_size": 1},
    {"depths": [2, 2], "width": [32, 16], "kernel_size": [3, 31], "dropout": 0.3},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_counts_equal_formula(shape: dict[str, object]) -> None:
    for place, (block, norm, shortcut, se) in enumerate(KINDS):
        kind = {"block": block, "norm": norm, "shortcut": shortcut, "se": se}
        dataset = ["digits", "cifar10"][place % 2]
        spec = make_spec(model={**shape, **kind}, data={"dataset": dataset})
        counted = guard.cost(spec)
        facts = spec.model, spec.dataset.image_shape, spec.dataset.classes
        assert counted.trainable_parameters == parameters_by_formula(*facts), (kind, dataset)
        assert counted.macs == macs_by_formula(*facts), (kind, dataset)


@pytest.mark.parametrize("image", [(3, 33, 33), (1, 5, 9)], ids=str)
@pytest.mark.parametrize("block", ["basic", "preactivation"])
def test_macs_equal_torchs_counter_at_odd_sizes(block: str, image: tuple[int, int, int]) -> None:
    """The network itself, with data and in training mode, as torch counts it: two operations to each MAC."""
    model = Model.model_validate(
        {"depths": [1, 2, 1], "width": 8, "kernel_size": [3, 5, 1], "block": block, "se": SE[2], "norm": "none"}
    )
    network = ResNet(model, image[0], 7).train()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *image))
    assert counter.get_total_flops() == 2 * macs_by_formula(model, image, 7)


@pytest.mark.parametrize("toggle", [{"dropout": 0.5}, {"stochastic_depth": 0.5}], ids=str)
def test_random_toggles_cost_nothing(toggle: dict[str, float]) -> None:
    assert guard.cost(make_spec(model=toggle)) == guard.cost(make_spec())


def test_guard_names_count_limit_and_largest_width() -> None:
    with pytest.raises(InputError) as caught:
        guard.check_budget([cifar(**BASELINE), cifar(**{**BASELINE, "width": 72})], ["good.yaml", "wide.yaml"])
    assert len(caught.value.problems) == 1
    message = str(caught.value)
    for part in ("wide.yaml", "5,943,902", "5,000,000", "66", "4,995,554"):
        assert part in message


@pytest.mark.parametrize(
    "toggle",
    [
        {},
        {"se": {"placement": "block", "reduction": 8}},
        {"se": {"placement": "block", "reduction": 8}, "block": "preactivation", "kernel_size": [3, 5]},
        {"kernel_size": [5, 1], "norm": "none"},
        {"block": "preactivation", "norm": "none", "shortcut": "none", "kernel_size": 7},
        {"width": [8, 8], "stochastic_depth": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("limit", [13_000, 50_000])
def test_largest_width_equals_a_search_by_formula(toggle: dict[str, object], limit: int) -> None:
    spec = make_spec(model={"depths": [2, 1], **toggle}, guard={"max_parameters": limit})

    def count(width: int) -> int:
        model = spec.model.model_copy(update={"width": width})
        return parameters_by_formula(model, spec.dataset.image_shape, spec.dataset.classes)

    smallest = spec.model.se.reduction if spec.model.se else 1
    fitting = [width for width in range(smallest, 100) if count(width) <= limit]
    assert guard.largest_width(spec) == (max(fitting) if fitting else None)


def test_guard_at_its_limit() -> None:
    count = guard.cost(make_spec()).trainable_parameters
    guard.check_budget([make_spec(guard={"max_parameters": count})])
    with pytest.raises(InputError):
        guard.check_budget([make_spec(guard={"max_parameters": count - 1})])
    guard.check_budget([make_spec(guard={"max_parameters": None})])


@pytest.mark.parametrize(
    ("limit", "se"), [(3, None), (200, {"placement": "block", "reduction": 8})], ids=["parameters", "gates"]
)
def test_guard_where_nothing_fits(limit: int, se: dict[str, object] | None) -> None:
    with pytest.raises(InputError, match=r"no model\.width fits"):
        guard.check_budget([make_spec(model={"se": se}, guard={"max_parameters": limit})])
