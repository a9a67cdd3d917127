"""The budget: parameters and MACs of a spec, counted on the meta device before any data is read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.errors import InputError, Problem
from harness.spec.cost import Cost
from harness.spec.experiment import ExperimentSpec
from harness.spec.model import Model
from harness.training.model import ResNet

Network = tuple[Model, tuple[int, int, int], int]
"""All that the count depends on: the model, the shape of an image, the number of classes."""

_remembered: dict[Network, Cost] = {}


@cache
def _count(model: Model, image_shape: tuple[int, int, int], classes: int, with_macs: bool) -> Cost:
    with torch.device("meta"):
        network = ResNet(model, image_shape[0], classes).eval()
        image = torch.empty(1, *image_shape)
    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    if not with_macs:
        return Cost(parameters, 0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return Cost(parameters, counter.get_total_flops() // 2)  # torch counts a multiply-accumulate as two


def cost(spec: ExperimentSpec) -> Cost:
    """Parameters and MACs; kept per model spec, so planning thousands of arms counts each network once."""
    return _remembered.get(_network(spec)) or _count(*_network(spec), True)


def remember(spec: ExperimentSpec, counted: Cost) -> None:
    """Take over what another process counted for `spec`; its budget is checked here all the same."""
    _remembered[_network(spec)] = counted


def _network(spec: ExperimentSpec) -> Network:
    return spec.model, spec.dataset.image_shape, spec.dataset.classes


def parameters_of(spec: ExperimentSpec, model: Model) -> int:
    """Trainable parameters of `model` on the data of `spec`."""
    return _count(model, spec.dataset.image_shape, spec.dataset.classes, False).trainable_parameters


def largest_width(spec: ExperimentSpec) -> int | None:
    """The largest `model.width` (one number, doubled per group) within the budget; None where no width fits."""
    limit = spec.guard.max_parameters
    if limit is None:
        return None

    def fits(width: int) -> bool:
        return parameters_of(spec, spec.model.model_copy(update={"width": width})) <= limit

    smallest = spec.model.se.reduction if spec.model.se else 1
    if not fits(smallest):
        return None
    low, high = smallest, smallest * 2  # low fits; high does not, once the first loop has ended
    while fits(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def check_budget(specs: Sequence[ExperimentSpec], places: Sequence[str] = ()) -> list[Cost]:
    """The cost of every spec, in order. `places` says where each stands, for messages; by default its name.

    Raises:
        InputError: at least one is over its budget; all of them are named, each with its count, the
            limit and the largest width that fits.
    """
    costs = [cost(spec) for spec in specs]
    problems = []
    for spec, counted, place in zip(specs, costs, places or [spec.name for spec in specs], strict=True):
        limit = spec.guard.max_parameters
        if limit is not None and counted.trainable_parameters > limit:
            problems.append(_over_budget(spec, counted.trainable_parameters, limit, place))
    if problems:
        raise InputError(problems)
    return costs


def _over_budget(spec: ExperimentSpec, count: int, limit: int, place: str) -> Problem:
    width = largest_width(spec)
    depths = list(spec.model.depths)
    if width is None:
        advice = f"no model.width fits with depths {depths}"
    else:
        fitting = parameters_of(spec, spec.model.model_copy(update={"width": width}))
        advice = f"the largest model.width that fits with depths {depths} is {width} ({fitting:,} parameters)"
    return Problem(
        f"{count:,} trainable parameters are {count - limit:,} over the limit of {limit:,} (guard.max_parameters)",
        place,
        advice,
    )
