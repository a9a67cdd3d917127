"""The space on the disk that runs need, told before they start: a full disk would be found after hours.

From the spec alone. An estimate, of sizes that were measured (`tests/test_space.py` holds it against real runs); a
file takes whole blocks of the disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError
from harness.spec.cost import Cost
from harness.spec.experiment import ExperimentSpec

BLOCK = 4096  # bytes, of the file systems in use
PER_TENSOR = 300  # bytes that a checkpoint has for each tensor beside its values
RECORD = 8000  # bytes; the spec in full, versions, command
JOURNAL_ROW = 260  # bytes
MIRROR_ROW = 800  # bytes of an epoch in the W&B file
MIRROR = 12 * BLOCK  # the W&B file's first part, tables, logs
MIRROR_IMAGES = 20  # a file each


@dataclass(frozen=True)
class Space:
    """Bytes of one run: `kept` of it when it has finished, `working` more while it trains."""

    kept: int
    working: int


def space_of(spec: ExperimentSpec, cost: Cost, *, mirrored: bool = True) -> Space:
    """What one run of `spec` takes; `cost` as counted for it, `mirrored`: it has a Weights & Biases mirror.

    While a run trains there are two states, the previous one and the one being written; at its end both of them
    beside all that is kept.
    """
    epochs, has_validation = spec.train.epochs, spec.data.protocol != "full"
    weights = _on_disk(_network(spec, cost))
    kept = weights * (1 + has_validation) + _predictions(spec) + _on_disk(RECORD) + _on_disk(JOURNAL_ROW * epochs)
    if mirrored:
        image = _on_disk(_pixels(spec))
        kept += MIRROR + _on_disk(MIRROR_ROW * epochs) + MIRROR_IMAGES * image
    return Space(kept, 2 * _on_disk(_state(spec, cost)))


def _network(spec: ExperimentSpec, cost: Cost) -> int:
    """All parameters and batch statistics, float32, once."""
    return 4 * cost.trainable_parameters + PER_TENSOR * 2 * _parameter_tensors(spec)


def _state(spec: ExperimentSpec, cost: Cost) -> int:
    """The network, the optimiser's means, Lookahead's slow weights, the average, the best weights."""
    optim = spec.optim
    networks = 1 + (optim.ema is not None) + (spec.data.protocol != "full")
    means = 2 if optim.optimizer.kind == "adamw" else int(optim.optimizer.momentum > 0)
    copies = means + (optim.lookahead is not None)
    values = 4 * cost.trainable_parameters + PER_TENSOR * _parameter_tensors(spec)
    steps = -(-spec.train_images // spec.train.batch_size)
    return networks * _network(spec, cost) + copies * values + 4 * steps


def _parameter_tensors(spec: ExperimentSpec) -> int:
    """About: three for each convolution with its norm, which has three more of statistics and counts."""
    depths = spec.model.depths
    return 3 * (1 + 2 * sum(depths) + len(depths))


def _predictions(spec: ExperimentSpec) -> int:
    """A logit in two bytes for each class, label and prediction in one or two, hardly compressible."""
    facts = spec.dataset
    judged = facts.train_images - spec.train_images if spec.data.protocol == "holdout" else facts.test_images
    return _on_disk(judged * (2 * facts.classes + 1))


def _pixels(spec: ExperimentSpec) -> int:
    channels, height, width = spec.dataset.image_shape
    return channels * height * width


def _on_disk(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def needed(spaces: Sequence[Space], at_once: int) -> int:
    """Bytes that these runs need, `at_once` of them at the same time."""
    working = sorted((space.working for space in spaces), reverse=True)
    return sum(space.kept for space in spaces) + sum(working[:at_once])


def check_space(root: Path, need: int, runs: str) -> None:
    """InputError where the disk of `root`, there or not, has less than `need` bytes; `runs` says whose ("12 runs")."""
    root = root.absolute()
    free = shutil.disk_usage(next(folder for folder in (root, *root.parents) if folder.exists())).free
    if need > free:
        raise InputError(
            f"{runs} would take about {size(need)}, and {size(free)} are free",
            where=str(root),
            fix="make room (`harness runs --prune` tells what may go) or name another folder with --runs-dir",
        )


def size(number: int) -> str:
    """Bytes as people say them: "512 B", "3.2 MB"."""
    value, unit = float(number), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
