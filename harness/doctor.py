"""What this machine has for the harness: versions, devices, data, runs, Weights & Biases."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.tracking import login
from harness.tracking.store import Store

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "pydantic", "wandb", "ray", "submitit")


def examine(data_dir: Path, runs_dir: Path) -> dict[str, Any]:
    """Findings by section; writes nothing, shows no key."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("budget-ablation-harness", *PACKAGES)},
        "devices": _devices(),
        "data": _data(data_dir),
        "runs": _runs(runs_dir),
        "wandb": _wandb(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, str]:
    import torch

    from harness.training.device import computes_bf16, device_name

    found = [torch.device("cpu")]
    found += [
        torch.device("cuda", index) for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    ]
    if torch.backends.mps.is_available():
        found.append(torch.device("mps"))
    return {
        str(device): f"{device_name(device)}, {_precision(computes_bf16(device))}{_memory(device)}" for device in found
    }


def _precision(bf16: bool) -> str:
    return "fp32 and bf16 (auto: bf16)" if bf16 else "fp32 (auto: fp32)"


def _memory(device: Any) -> str:
    import torch

    if device.type == "cpu":
        return f", {torch.get_num_threads()} threads"
    if device.type == "cuda":
        return f", {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB"
    return ""


def _data(data_dir: Path) -> dict[str, str]:
    from harness.training import cifar

    found = {name: _cifar(name, cifar.folder_of(name, data_dir)) for name in cifar.OFFICIAL}
    return found | {"digits": "comes with scikit-learn"}


def _cifar(name: str, folder: Path) -> str:
    from harness.training import cifar

    if not os.path.isdir(folder):
        return f"not in {folder.parent.resolve()}; it is downloaded when it is first needed"
    try:
        cifar.check(name, folder.parent)
    except InputError as error:
        return "; ".join(problem.what for problem in error.problems)
    return f"whole, in {folder.resolve()}"


def _runs(runs_dir: Path) -> str:
    if not os.path.exists(runs_dir):
        return f"none yet ({runs_dir.resolve()})"
    store = Store(runs_dir)
    writable = "writable" if os.access(runs_dir, os.W_OK) else "NOT writable"
    return f"{len(store.records())} in {runs_dir.resolve()}, {writable}"


def _wandb() -> dict[str, str]:
    found = login.look()
    if isinstance(found, str):
        server, key = "not known", f"not known: {found}"
    else:
        server = found.server
        key = "found" if found.key else "none (only needed for --wandb online and harness sync)"
    return {
        "mode": os.environ.get("WANDB_MODE", "offline"),
        "project": os.environ.get("WANDB_PROJECT", "not set"),
        "server": server,
        "key": key,
    }
