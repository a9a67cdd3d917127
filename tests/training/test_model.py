"""The network: every toggle against a plain forward pass and torchvision, any image size, initial weights by name."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.spec.model import Model
from harness.training.model import (
    BasicBlock,
    ResNet,
    SqueezeExcitation,
    build_model,
    convolve,
    draw_kept,
    initialise,
)
from tests.training.build import make_spec

TOGGLES: dict[str, dict[str, Any]] = {
    "kernel_size": {"kernel_size": [5, 1]},
    "preactivation": {"block": "preactivation"},
    "no norm": {"norm": "none"},
    "no shortcut": {"shortcut": "none"},
    "SE at the stem": {"se": {"placement": "stem", "reduction": 4}},
    "SE in blocks": {"se": {"placement": "block", "reduction": 4}},
    "dropout": {"dropout": 0.3},
    "stochastic depth": {"stochastic_depth": 0.5},
    "preactivation, no norm": {"block": "preactivation", "norm": "none"},
    "preactivation, no shortcut": {"block": "preactivation", "shortcut": "none"},
    "no norm, no shortcut": {"norm": "none", "shortcut": "none"},
    "most": {
        "kernel_size": [3, 5],
        "block": "preactivation",
        "norm": "none",
        "se": {"placement": "block", "reduction": 4},
        "dropout": 0.3,
        "stochastic_depth": 0.5,
    },
}  # fmt: skip


def make_model(**toggles: object) -> Model:
    return make_spec(model={"depths": [2, 2], "width": 8, **toggles}).model


def make_network(seed: int = 0, **toggles: object) -> ResNet:
    """For one-channel images and ten classes, weights drawn."""
    network = ResNet(make_model(**toggles), 1, 10)
    initialise(network, seed)
    return network


def make_images(count: int = 6, size: int = 8) -> Tensor:
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(1))


def scramble_norms(network: nn.Module) -> None:
    """Weights, biases and running statistics of all norms as after a training, none at a value that hides its use."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)


def plain_forward(
    model: Model, weights: dict[str, Tensor], x: Tensor, training: bool, kept: Tensor | None = None
) -> Tensor:
    """The forward pass written out, of the state dict `weights`, whose running statistics move where `training`."""

    def conv(x: Tensor, name: str, kernel: int = 3, stride: int = 1) -> Tensor:
        bias = weights[f"{name}.bias"] if model.norm == "none" else None
        assert weights[f"{name}.weight"].shape[2:] == (kernel, kernel)
        return F.conv2d(x, weights[f"{name}.weight"], bias, stride, (kernel - 1) // 2)

    def norm(x: Tensor, name: str) -> Tensor:
        if model.norm == "none":
            return x
        mean, var, weight, bias = (weights[f"{name}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, training, 0.1, 1e-5)

    def gate(x: Tensor, name: str) -> Tensor:
        hidden = (x.mean((2, 3)) @ weights[f"{name}.fc1.weight"].flatten(1).T + weights[f"{name}.fc1.bias"]).clamp(0)
        logits = hidden @ weights[f"{name}.fc2.weight"].flatten(1).T + weights[f"{name}.fc2.bias"]
        return x * logits.sigmoid()[:, :, None, None]

    def drop(x: Tensor) -> Tensor:
        return F.dropout(x, model.dropout, training)

    preactivation = model.block == "preactivation"
    place = 0
    x = conv(x, "stem")
    if not preactivation:
        x = norm(x, "stem_norm").clamp(0)
    if model.se and model.se.placement == "stem":
        x = gate(x, "se")
    for group, depth in enumerate(model.depths):
        kernel = model.kernel_sizes[group]
        for block in range(depth):
            name = f"groups.{group}.{block}"
            changes = group > 0 and block == 0
            stride = 2 if changes else 1
            if preactivation:
                entry = norm(x, f"{name}.norm1").clamp(0)
                inner = conv(entry, f"{name}.conv1", kernel, stride)
                inner = drop(norm(inner, f"{name}.norm2").clamp(0))
                residual = conv(inner, f"{name}.conv2", kernel)
                shortcut = conv(entry, f"{name}.project", 1, stride) if changes and model.shortcut != "none" else x
            else:
                inner = norm(conv(x, f"{name}.conv1", kernel, stride), f"{name}.norm1").clamp(0)
                residual = norm(conv(inner, f"{name}.conv2", kernel), f"{name}.norm2")
                shortcut = x
                if changes and model.shortcut != "none":
                    shortcut = norm(conv(x, f"{name}.project", 1, stride), f"{name}.project_norm")
            if model.se and model.se.placement == "block":
                residual = gate(residual, f"{name}.se")
            if kept is not None:
                residual = residual * kept[:, place].reshape(-1, 1, 1, 1)
            x = residual if model.shortcut == "none" else residual + shortcut
            if not preactivation:
                x = drop(x.clamp(0))
            place += 1
    if preactivation:
        x = norm(x, "head_norm").clamp(0)
    return drop(x.mean((2, 3))) @ weights["classifier.weight"].T + weights["classifier.bias"]


def check_against_plain_forward(model: Model, training: bool, kept: Tensor | None = None) -> None:
    """Logits and running statistics, in float64."""
    network = ResNet(model, 1, 10)
    initialise(network, 0)
    scramble_norms(network)
    network.double().train(training)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x = make_images().double()
    torch.manual_seed(0)
    expected = plain_forward(model, weights, x, training, kept)
    torch.manual_seed(0)
    torch.testing.assert_close(network(x, kept), expected, rtol=1e-10, atol=1e-12)
    for name, tensor in network.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(tensor, weights[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("kernel_size", [3, [5, 1], [1, 7]], ids=str)
@pytest.mark.parametrize("se", [None, "stem", "block"])
@pytest.mark.parametrize("shortcut", ["projection", "none"])
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("block", ["basic", "preactivation"])
def test_forward_equals_plain_forward(
    block: str, norm: str, shortcut: str, se: str | None, kernel_size: object, training: bool
) -> None:
    gates = se and {"placement": se, "reduction": 4}
    model = make_model(block=block, norm=norm, shortcut=shortcut, se=gates, kernel_size=kernel_size)
    check_against_plain_forward(model, training)


@pytest.mark.parametrize("toggle", ["dropout", "stochastic depth", "most"])
@pytest.mark.parametrize("block", ["basic", "preactivation"])
def test_random_toggles_act_where_the_plain_forward_has_them(block: str, toggle: str) -> None:
    """At the same draws: dropout by torch's global seed, stochastic depth by its mask."""
    model = make_model(**{**TOGGLES[toggle], "block": block})
    kept = draw_kept(model, 0, 1, 6, torch.device("cpu"))
    check_against_plain_forward(model, True, None if kept is None else kept.double())


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("channels", "stride"), [(8, 1), (8, 2), (12, 1), (12, 2)])
def test_basic_block_equals_torchvision(channels: int, stride: int, training: bool) -> None:
    from torchvision.models.resnet import BasicBlock as Reference

    ours = BasicBlock(8, channels, 3, stride, make_model())
    initialise(ours, 0)
    scramble_norms(ours)
    downsample = None
    if ours.project:
        downsample = nn.Sequential(nn.Conv2d(8, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
    reference = Reference(8, channels, stride, downsample)
    theirs = {"norm1": "bn1", "norm2": "bn2", "project": "downsample.0", "project_norm": "downsample.1"}
    named = [(*name.split("."), tensor) for name, tensor in ours.state_dict().items()]
    reference.load_state_dict({f"{theirs.get(module, module)}.{kind}": tensor for module, kind, tensor in named})
    x = torch.randn(4, 8, 7, 9)
    assert torch.equal(ours.train(training)(x), reference.train(training)(x))


def test_se_equals_torchvision() -> None:
    from torchvision.ops import SqueezeExcitation as Reference

    ours, reference = SqueezeExcitation(16, 4), Reference(16, 4)
    reference.load_state_dict(ours.state_dict())
    x = torch.randn(3, 16, 5, 7)
    torch.testing.assert_close(ours(x), reference(x), rtol=0, atol=0)


def test_input_is_left_alone() -> None:
    """ReLUs in place must not reach what others still read: a pre-activation block without norms reads x itself."""
    for toggles in TOGGLES.values():
        network = make_network(**toggles)
        x = make_images()
        before = x.clone()
        network(x)
        assert torch.equal(x, before)
        for block in network.blocks:
            features = torch.randn(4, block.conv1.in_channels, 8, 8)
            before = features.clone()
            block(features)
            assert torch.equal(features, before), toggles


@pytest.mark.parametrize("toggles", TOGGLES.values(), ids=TOGGLES.keys())
@pytest.mark.parametrize(
    ("size", "channels", "classes"), [((8, 8), 1, 10), ((32, 32), 3, 10), ((33, 33), 3, 7), ((5, 12), 2, 100)], ids=str
)
def test_any_image_size_and_classes(toggles: dict, size: tuple[int, int], channels: int, classes: int) -> None:
    network = ResNet(make_model(**toggles), channels, classes)
    logits = network(torch.randn(2, channels, *size))
    assert logits.shape == (2, classes)
    assert logits.isfinite().all()


@pytest.mark.parametrize("toggles", TOGGLES.values(), ids=TOGGLES.keys())
def test_gradient_reaches_every_parameter(toggles: dict) -> None:
    network = make_network(1, **toggles)  # a seed at which no SE's hidden units are all dead
    x = make_images(64)
    kept = draw_kept(make_model(**toggles), 0, 1, 64, x.device)
    F.cross_entropy(network(x, kept), torch.arange(64) % 10).backward()
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("toggles", TOGGLES.values(), ids=TOGGLES.keys())
def test_no_control_flow_depends_on_data(toggles: dict) -> None:
    """What torch.compile and CUDA graphs need: the forward pass can be traced with symbols for its tensors."""
    network = make_network(**toggles).eval()
    x, kept = make_images(), torch.rand(6, 4)
    traced = torch.fx.symbolic_trace(network)
    assert torch.equal(traced(x, kept), network(x, kept))


@pytest.mark.parametrize("block", ["basic", "preactivation"])
def test_dropout_drops_in_training_only(block: str) -> None:
    network, without = make_network(block=block, dropout=0.5), make_network(block=block)
    x = make_images()
    assert torch.equal(network.eval()(x), without.eval()(x))
    assert not torch.equal(network.train()(x), network(x))


def test_names_of_the_plain_network() -> None:
    """Initial weights hang on them, and states saved by older versions."""
    block = ["conv1.weight", "norm1.weight", "norm1.bias", "conv2.weight", "norm2.weight", "norm2.bias"]
    expected = [
        *["stem.weight", "stem_norm.weight", "stem_norm.bias"],
        *[f"groups.0.0.{name}" for name in block],
        *[f"groups.1.0.{name}" for name in [*block, "project.weight", "project_norm.weight", "project_norm.bias"]],
        *["classifier.weight", "classifier.bias"],
    ]
    assert [name for name, _ in make_network(depths=[1, 1]).named_parameters()] == expected


EXTRA_NAMES = {
    "preactivation": {"head_norm.weight", "head_norm.bias"},
    "no norm": {"stem.bias", "groups.1.0.project.bias"}
    | {f"groups.{group}.{block}.conv{conv}.bias" for group in (0, 1) for block in (0, 1) for conv in (1, 2)},
    "SE at the stem": {f"se.{layer}.{kind}" for layer in ("fc1", "fc2") for kind in ("weight", "bias")},
}


@pytest.mark.parametrize("toggles", TOGGLES.values(), ids=TOGGLES.keys())
@pytest.mark.parametrize("base", [{}, {"block": "preactivation"}, {"norm": "none"}], ids=str)
def test_initial_weights_are_shared_by_name(base: dict, toggles: dict) -> None:
    """Arms that differ in the architecture begin with the same weights wherever both have a layer of the same shape."""
    without = dict(make_network(3, **base).named_parameters())
    with_toggle = dict(make_network(3, **{**base, **toggles}).named_parameters())
    same = {name for name in without.keys() & with_toggle.keys() if without[name].shape == with_toggle[name].shape}
    assert {"stem.weight", "classifier.weight", "classifier.bias"} <= same
    if "kernel_size" not in toggles:
        assert {name for name in without if "conv" in name and "weight" in name} <= same
    for name in same:
        if f"{name.rpartition('.')[0]}.weight" in same:
            assert torch.equal(without[name], with_toggle[name]), name
        else:  # the bias of a convolution with another kernel size: another bound, the same draws
            ratio = with_toggle[name] / without[name]
            torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-4, atol=0)


@pytest.mark.parametrize("toggle", EXTRA_NAMES)
def test_names_that_a_toggle_adds(toggle: str) -> None:
    plain = {name for name, _ in make_network().named_parameters()}
    assert {name for name, _ in make_network(**TOGGLES[toggle]).named_parameters()} - plain == EXTRA_NAMES[toggle]


@pytest.mark.parametrize("toggles", TOGGLES.values(), ids=TOGGLES.keys())
def test_initial_weights_equal_their_formula(toggles: dict) -> None:
    """Uniform in +-1/sqrt(fan_in), each from its own generator (SHA-256 of seed and name); norms 1 and 0."""
    network = ResNet(make_model(**toggles), 1, 10)
    for tensor in [*network.parameters(), *network.buffers()]:
        tensor.data.fill_(7)  # no value that is left over can pass
    initialise(network, 11)
    state = network.state_dict()
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if "norm" in name:
            assert torch.equal(tensor, torch.full_like(tensor, float(kind in ("weight", "running_var")))), name
        else:
            bound = state[f"{module}.weight"][0].numel() ** -0.5
            key = hashlib.sha256(f"11\x1finit\x1f{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") // 2)
            expected = torch.rand(tensor.shape, generator=generator) * 2 * bound - bound
            torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-6, msg=name)


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


def test_zero_init_makes_every_block_its_shortcut() -> None:
    """As torchvision's `zero_init_residual`: relu(shortcut) is all that a block passes on, until it has learnt."""
    network = build_model(make_spec(model={"depths": [2, 2], "zero_init": True}), "cpu")
    initialise(network, 0)
    x = torch.randn(3, 8, 8, 8)
    assert torch.equal(network.groups[0][1](x), F.relu(x))
    first_of_group = network.groups[1][0]
    assert torch.equal(first_of_group(x), F.relu(first_of_group.project_norm(first_of_group.project(x))))


@pytest.mark.parametrize("channels", [3, 15, 16])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_projection_is_its_convolution_however_few_channels_it_has(channels: int, stride: int) -> None:
    """Images of 64 x 64: with few channels a strided 1x1 convolution's own backward pass may end the process."""
    projection = nn.Conv2d(channels, 8, 1, stride).to(memory_format=torch.channels_last)
    x = torch.randn(2, channels, 64, 64).to(memory_format=torch.channels_last)
    result = convolve(projection, x)
    with torch.no_grad():
        assert torch.allclose(result, projection(x), atol=1e-6)
    result.square().sum().backward()
    picked = x[:, :, ::stride, ::stride]
    expected = 2 * torch.einsum("nohw,nchw->oc", result.detach(), picked)
    assert projection.weight.grad is not None
    assert torch.allclose(projection.weight.grad[:, :, 0, 0], expected, rtol=1e-3, atol=1e-2)
    assert projection.bias is not None
    assert projection.bias.grad is not None


class Convolutions(TorchDispatchMode):
    """Notes the weight's shape and the stride of each convolution that torch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.seen.append((tuple(args[1].shape), tuple(args[3])))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("block", ["basic", "preactivation"])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_no_network_asks_for_a_strided_1x1_convolution_of_few_channels(block: str, kernel_size: int) -> None:
    """In its backward pass oneDNN writes over others' memory, and the run ends: "munmap_chunk(): invalid pointer"."""
    spec = make_spec(model={"depths": [1, 1, 1], "width": 4, "block": block, "kernel_size": kernel_size})
    network = build_model(spec, "cpu")
    with Convolutions() as convolutions:
        network(torch.randn(2, 1, 8, 8))
    assert len(convolutions.seen) == 1 + 3 * 2 + 2  # the stem, two a block, two projections
    few = [(shape, stride) for shape, stride in convolutions.seen if shape[1] < 16 and shape[2:] == (1, 1)]
    assert few
    assert all(stride == (1, 1) for _, stride in few)
