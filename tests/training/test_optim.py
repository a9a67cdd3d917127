"""Optimisers, clipping, Lookahead and the moving average against torch, and against their formulas written out."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from harness.spec import optim as spec
from harness.training import optim
from harness.training.model import build_model, initialise
from tests.training.build import make_spec

SGD = spec.SGD(lr=0.05, momentum=0.9, weight_decay=0.01)
NESTEROV = spec.SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01)
ADAMW = spec.AdamW(kind="adamw", lr=0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1)
OPTIMIZERS = pytest.mark.parametrize("settings", [SGD, NESTEROV, ADAMW], ids=["sgd", "nesterov", "adamw"])
SETTINGS = spec.SGD | spec.AdamW
STEPS = 20


def make_network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Convolutions with and without a bias, batch normalisation, a linear layer; channels_last, the same each time."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )
    initialise(network, 0)
    return network.to(dtype).to(memory_format=torch.channels_last)


def compute_gradients(network: nn.Module, step: int) -> None:
    """Of a batch that is a function of the step."""
    generator = torch.Generator().manual_seed(step)
    weight = next(network.parameters())
    images = torch.randn(8, 3, 8, 8, generator=generator).to(weight)
    labels = torch.randint(5, (8,), generator=generator)
    network.zero_grad()
    nn.functional.cross_entropy(network(images), labels).backward()


def saved_and_read(state: Any) -> Any:
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def assert_same_bits(one: nn.Module, other: nn.Module) -> None:
    expected = other.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


# --- optimisers --------------------------------------------------------------------------------


def plain_optimizer(settings: SETTINGS, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """torch's loop over the parameters, one operation after the other."""
    if isinstance(settings, spec.AdamW):
        return torch.optim.AdamW(
            parameters,
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            foreach=False,
            fused=False,
        )
    return torch.optim.SGD(
        parameters,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        foreach=False,
        fused=False,
    )


@OPTIMIZERS
def test_equals_torchs_plain_implementation(settings: SETTINGS) -> None:
    ours, theirs = make_network(torch.float64), make_network(torch.float64)
    optimizer, plain = optim.build_optimizer(settings, ours), plain_optimizer(settings, list(theirs.parameters()))
    for step in range(STEPS):
        for network, mover in ((ours, optimizer), (theirs, plain)):
            compute_gradients(network, step)
            mover.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


class Quadratic(nn.Module):
    """A weight whose gradient, of curvature @ weight ** 2 / 2, is curvature * weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64))
        self.curvature = torch.tensor([1.0, 0.3, 4.0], dtype=torch.float64)

    def compute_gradient(self) -> None:
        self.weight.grad = self.curvature * self.weight.detach()


@pytest.mark.parametrize("settings", [SGD, NESTEROV, spec.SGD(lr=0.05)], ids=["sgd", "nesterov", "plain"])
def test_sgd_written_out(settings: spec.SGD) -> None:
    model = Quadratic()
    optimizer = optim.build_optimizer(settings, model)
    x, velocity = model.weight.detach().clone(), torch.zeros(3, dtype=torch.float64)
    for _ in range(STEPS):
        model.compute_gradient()
        optimizer.step()
        gradient = model.curvature * x + settings.weight_decay * x
        velocity = settings.momentum * velocity + gradient
        x = x - settings.lr * (gradient + settings.momentum * velocity if settings.nesterov else velocity)
        torch.testing.assert_close(model.weight.detach(), x, rtol=1e-12, atol=1e-12)


def test_adamw_written_out() -> None:
    """Algorithm 2 of arXiv 1711.05101."""
    model = Quadratic()
    optimizer = optim.build_optimizer(ADAMW, model)
    (beta1, beta2), x = ADAMW.betas, model.weight.detach().clone()
    mean, square = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for step in range(1, STEPS + 1):
        model.compute_gradient()
        optimizer.step()
        gradient = model.curvature * x
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        update = (mean / (1 - beta1**step)) / ((square / (1 - beta2**step)).sqrt() + ADAMW.eps)
        x = x - ADAMW.lr * update - ADAMW.lr * ADAMW.weight_decay * x
        torch.testing.assert_close(model.weight.detach(), x, rtol=1e-12, atol=1e-12)


@OPTIMIZERS
def test_without_exemption_there_is_one_group_in_the_models_order(settings: SETTINGS) -> None:
    network = make_network()
    (group,) = optim.build_optimizer(settings, network).param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in network.parameters()]
    assert group["weight_decay"] == settings.weight_decay
    assert group["fused"]


@pytest.mark.parametrize("exempt", [False, True])
@pytest.mark.parametrize("settings", [spec.SGD(lr=0.5, momentum=0.9, weight_decay=0.1), ADAMW], ids=["sgd", "adamw"])
def test_decay_acts_on_what_it_should(settings: SETTINGS, exempt: bool) -> None:
    """With gradients of zero decay alone acts: a factor 1 - lr * weight_decay in the first step."""
    network = make_network()
    for parameter in network.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    optim.build_optimizer(settings.model_copy(update={"exempt_norm_and_bias": exempt}), network).step()
    shrunk = 1 - settings.lr * settings.weight_decay
    weights_of_layers = {"0.weight", "3.weight", "8.weight"}
    for name, parameter in network.named_parameters():
        expected = shrunk if name in weights_of_layers or not exempt else 1.0
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, expected), msg=name)


@pytest.mark.parametrize("model", [{}, {"norm": "none"}, {"se": {"reduction": 4, "placement": "block"}}], ids=str)
def test_every_parameter_is_in_one_group_once(model: dict[str, Any]) -> None:
    network = build_model(make_spec(model=model), "cpu")
    optimizer = optim.build_optimizer(SGD.model_copy(update={"exempt_norm_and_bias": True}), network)
    decayed, exempt = (group["params"] for group in optimizer.param_groups)
    assert sorted(map(id, [*decayed, *exempt])) == sorted(map(id, network.parameters()))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    for parameters, dimensions in ((decayed, {2, 4}), (exempt, {1})):
        assert {parameter.ndim for parameter in parameters} == dimensions
        in_order = [name for name in names.values() if name in {names[id(parameter)] for parameter in parameters}]
        assert [names[id(parameter)] for parameter in parameters] == in_order


@OPTIMIZERS
def test_an_optimizers_state_continues_exactly(settings: SETTINGS) -> None:
    settings = settings.model_copy(update={"exempt_norm_and_bias": True})
    whole = make_network()
    optimizer = optim.build_optimizer(settings, whole)
    for step in range(STEPS):
        if step == 7:
            continued = copy.deepcopy(whole)
            second = optim.build_optimizer(settings, continued)
            second.load_state_dict(saved_and_read(optimizer.state_dict()))
        compute_gradients(whole, step)
        optimizer.step()
        if step >= 7:
            compute_gradients(continued, step)
            second.step()
    assert_same_bits(continued, whole)


# --- clipping ----------------------------------------------------------------------------------


def make_gradients() -> tuple[list[nn.Parameter], Tensor]:
    """Parameters with gradients, and these as one vector."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(1))]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return parameters, flat_gradients(parameters)


def flat_gradients(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])


@pytest.mark.parametrize("bound", [0.1, 1.0])
def test_clipping_the_norm_scales_all_gradients_together(bound: float) -> None:
    parameters, before = make_gradients()
    assert before.norm() > 1.0
    optim.clip_gradients(spec.Clip(kind="norm", value=bound), parameters)
    after = flat_gradients(parameters)
    torch.testing.assert_close(after, before * bound / before.norm())
    assert after.norm() == pytest.approx(bound, rel=1e-5)


@pytest.mark.parametrize("bound", [0.01, 0.5])
def test_clipping_the_value_clamps_each_element(bound: float) -> None:
    parameters, before = make_gradients()
    assert (before.abs() > bound).any()
    optim.clip_gradients(spec.Clip(kind="value", value=bound), parameters)
    assert torch.equal(flat_gradients(parameters), before.clamp(-bound, bound))


@pytest.mark.parametrize("kind", ["norm", "value"])
def test_gradients_within_the_bound_are_left_alone(kind: Any) -> None:
    parameters, before = make_gradients()
    optim.clip_gradients(spec.Clip(kind=kind, value=1.01 * before.norm().item()), parameters)
    assert torch.equal(flat_gradients(parameters), before)


# --- Lookahead ---------------------------------------------------------------------------------


class Trained:
    """A network with its optimiser and Lookahead, as the loop steps them."""

    def __init__(self, settings: SETTINGS, lookahead: spec.Lookahead | None):
        self.settings = settings
        self.network = make_network(torch.float64)
        self.optimizer = optim.build_optimizer(settings, self.network)
        self.lookahead = optim.Lookahead(lookahead, list(self.network.parameters())) if lookahead else None

    def step(self, step: int) -> None:
        compute_gradients(self.network, step)
        self.optimizer.step()
        if self.lookahead:
            self.lookahead.step()

    def state(self) -> list[Any]:
        parts: list[Any] = [self.network, self.optimizer, self.lookahead]
        return [saved_and_read(part.state_dict()) for part in parts]

    def restore(self, states: list[Any]) -> None:
        parts: list[Any] = [self.network, self.optimizer, self.lookahead]
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)


def papers_lookahead(settings: SETTINGS, k: int, alpha: float) -> list[list[Tensor]]:
    """Algorithm 1 of arXiv 1907.08610 around torch's plain optimiser: the fast weights after each inner step.

    phi are the slow weights, theta the fast ones, theta_{t,0} = phi_{t-1} at the beginning of each outer step t.
    """
    network = make_network(torch.float64)
    theta = list(network.parameters())
    inner = plain_optimizer(settings, theta)
    phi = [parameter.detach().clone() for parameter in theta]
    seen: list[list[Tensor]] = []
    while len(seen) < STEPS:
        for parameter, slow in zip(theta, phi, strict=True):
            parameter.data = slow.clone()
        for _ in range(k):
            compute_gradients(network, len(seen))
            inner.step()
            seen.append([parameter.detach().clone() for parameter in theta])
        phi = [slow + alpha * (parameter.detach() - slow) for slow, parameter in zip(phi, theta, strict=True)]
        seen[-1] = phi  # what the next outer step begins with
    return seen[:STEPS]


@pytest.mark.parametrize("settings", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("k", [1, 3, 5, 6])
def test_lookahead_equals_the_papers_algorithm(settings: SETTINGS, k: int, alpha: float) -> None:
    """Also over a kill after step 7, which is a synchronisation for k = 1 alone: all is rebuilt from what was saved."""
    expected = papers_lookahead(settings, k, alpha)
    lookahead = spec.Lookahead(k=k, alpha=alpha)
    trained = Trained(settings, lookahead)
    for step in range(STEPS):
        if step == 7:
            states = trained.state()
            trained = Trained(settings, lookahead)
            trained.restore(states)
        trained.step(step)
        for ours, theirs in zip(trained.network.parameters(), expected[step], strict=True):
            torch.testing.assert_close(ours.detach(), theirs, rtol=1e-8, atol=1e-9, msg=f"step {step}")


@pytest.mark.parametrize("settings", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_lookahead_keeps_the_momentum(settings: SETTINGS) -> None:
    """A synchronisation moves the weights and leaves the inner optimiser's state as it was."""
    trained = Trained(settings, spec.Lookahead(k=3, alpha=0.5))
    trained.step(0)
    trained.step(1)
    compute_gradients(trained.network, 2)
    trained.optimizer.step()
    state = copy.deepcopy(trained.optimizer.state_dict()["state"])
    weights = copy.deepcopy(trained.network)
    assert trained.lookahead
    trained.lookahead.step()
    assert not torch.equal(weights[0].weight, trained.network[0].weight)  # type: ignore[arg-type]
    for index, tensors in trained.optimizer.state_dict()["state"].items():
        assert tensors
        for name, tensor in tensors.items():
            assert torch.equal(tensor, state[index][name]), name


def test_lookahead_of_alpha_1_does_nothing() -> None:
    plain, ahead = Trained(SGD, None), Trained(SGD, spec.Lookahead(k=3, alpha=1.0))
    for step in range(STEPS):
        plain.step(step)
        ahead.step(step)
        assert_same_bits(ahead.network, plain.network)


def test_between_synchronisations_the_model_holds_the_fast_weights() -> None:
    plain, ahead = Trained(SGD, None), Trained(SGD, spec.Lookahead(k=4, alpha=0.5))
    start = copy.deepcopy(ahead.network)
    for step in range(3):
        plain.step(step)
        ahead.step(step)
        assert_same_bits(ahead.network, plain.network)
    plain.step(3)
    ahead.step(3)
    for slow, fast, begin in zip(
        ahead.network.parameters(), plain.network.parameters(), start.parameters(), strict=True
    ):
        torch.testing.assert_close(slow, begin + 0.5 * (fast - begin))


# --- moving average ----------------------------------------------------------------------------


def averaged_training(decay: float, told: Callable[[nn.Module, optim.Average], None]) -> optim.Average:
    """Trains for 20 steps with an average, which is killed and rebuilt after step 7; `told` of each step."""
    trained = Trained(SGD, None)
    average = optim.Average(spec.Ema(decay=decay), trained.network)
    for step in range(STEPS):
        if step == 7:
            state = saved_and_read(average.state_dict())
            average = optim.Average(spec.Ema(decay=decay), trained.network)
            average.load_state_dict(state)
        trained.step(step)
        average.update()
        told(trained.network, average)
    return average


@pytest.mark.parametrize("decay", [0.1, 0.5, 0.9, 0.999])
def test_average_written_out(decay: float) -> None:
    """Weights and batch statistics; the first update copies, and what counts in integers is never averaged."""
    expected: dict[str, Tensor] = {}

    def check(network: nn.Module, average: optim.Average) -> None:
        for name, tensor in network.state_dict().items():
            if expected.keys() >= {name} and tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor
            else:
                expected[name] = tensor.clone()
        for name, tensor in average.module.state_dict().items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-10, atol=1e-12, msg=name)

    average = averaged_training(decay, check)
    assert {"1.running_mean", "1.running_var", "1.weight", "0.weight"} <= expected.keys()
    assert average.module.state_dict()["1.num_batches_tracked"] == STEPS


def test_average_equals_torchs_averaged_model_bit_for_bit() -> None:
    """In all but the counters, which AveragedModel averages and rounds down."""
    theirs: list[AveragedModel] = []

    def check(network: nn.Module, average: optim.Average) -> None:
        if not theirs:
            theirs.append(AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True))
        theirs[0].update_parameters(network)
        expected = theirs[0].module.state_dict()
        for name, tensor in average.module.state_dict().items():
            assert torch.equal(tensor, expected[name]) or name.endswith("num_batches_tracked"), name

    averaged_training(0.9, check)


def test_having_an_average_does_not_touch_the_model() -> None:
    plain = Trained(SGD, None)

    def check(network: nn.Module, average: optim.Average) -> None:
        average.module(torch.zeros(2, 3, 8, 8, dtype=torch.float64))
        plain.step(int(network[1].num_batches_tracked) - 1)  # type: ignore[index]
        assert_same_bits(network, plain.network)
        assert network.training

    averaged_training(0.9, check)


def test_average_is_evaluated_with_statistics_of_its_own() -> None:
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    last: list[nn.Module] = []
    average = averaged_training(0.9, lambda network, average: last.append(network))
    network = copy.deepcopy(last[-1]).eval()
    assert not average.module.training
    logits = average.module(images)
    assert not logits.requires_grad

    own = make_network(torch.float64).eval()  # a network that holds the average's tensors, by name
    own.load_state_dict(average.module.state_dict())
    assert torch.equal(logits, own(images))
    own.load_state_dict({**average.module.state_dict(), **dict(network.named_buffers())})
    assert not torch.allclose(logits, own(images))  # with the raw model's statistics
    assert not torch.allclose(logits, network(images))


def test_average_keeps_channels_last() -> None:
    average = averaged_training(0.9, lambda network, average: None)
    for name in ("0.weight", "3.weight"):
        assert average.module.state_dict()[name].is_contiguous(memory_format=torch.channels_last)


def test_decay_near_one_is_slow() -> None:
    """How far the average lies behind the weights after 20 steps."""

    def distance(decay: float) -> float:
        last: list[nn.Module] = []
        average = averaged_training(decay, lambda network, average: last.append(network))
        pairs = zip(average.module.parameters(), last[-1].parameters(), strict=True)
        return sum((one - other).square().sum().item() for one, other in pairs)

    assert 0 < distance(0.01) < distance(0.5) < distance(0.9) < distance(0.999)
