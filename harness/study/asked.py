"""What a study needs torch for, asked of a process that its server forks: the study's own process never imports torch.

So it starts while the server imports torch, holds no CUDA context, and leaves the memory to the runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path

from harness.spec.cost import Cost
from harness.spec.data import Data
from harness.spec.experiment import ExperimentSpec
from harness.study.server import ask


def check_budget(specs: Sequence[ExperimentSpec], places: Sequence[str] = ()) -> list[Cost]:
    """As `harness.training.guard.check_budget`."""
    return list(_checked(tuple(specs), tuple(places))) if specs else []


@lru_cache(maxsize=8)
def _checked(specs: tuple[ExperimentSpec, ...], places: tuple[str, ...]) -> list[Cost]:
    return ask(_check_budget, specs, places)


@cache
def conditions(device: str, precision: str) -> tuple[str, str]:
    """Type of device and resolved precision of a run there; InputError where there is no such device."""
    return ask(_conditions, device, precision)


@cache
def resolve_device(device: str) -> str:
    """As `harness.training.device.resolve_device`."""
    return ask(_resolve_device, device)


def count_gpus() -> int:
    """GPUs that torch sees here."""
    return ask(_count_gpus)


def ensure_data(data: Iterable[Data], data_dir: Path) -> None:
    """As `harness.training.data.ensure_data`, for each of these data sets once, whatever their protocols."""
    ask(_ensure_data, list({(one.dataset, one.folder): one for one in data}.values()), data_dir)


# --- in the process that is asked --------------------------------------------------------------


def _check_budget(specs: Sequence[ExperimentSpec], places: Sequence[str]) -> list[Cost]:
    from harness.training import guard

    return guard.check_budget(specs, places)


def _conditions(device: str, precision: str) -> tuple[str, str]:
    from harness.training.device import resolve

    hardware = resolve(device, precision)
    return hardware.kind, hardware.precision


def _resolve_device(device: str) -> str:
    from harness.training import device as devices

    return str(devices.resolve_device(device))


def _count_gpus() -> int:
    from harness.training.device import count_gpus

    return count_gpus()


def _ensure_data(data: Sequence[Data], data_dir: Path) -> None:
    from harness.training.data import ensure_data

    for one in data:
        ensure_data(one, data_dir)
