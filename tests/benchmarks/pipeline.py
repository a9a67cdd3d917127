"""(b) The input pipeline alone: the engine's batches, CutMix included, against one process of Pillow transforms.

    python -m tests.benchmarks input

The engine's figure holds an epoch's draws; the loader's, to its advantage, neither draws nor CutMix.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

import torch

from harness.spec.documents import load_experiment
from harness.training import augment
from harness.training.augment import Batches, Normaliser
from harness.training.data import Split
from tests.benchmarks.loops import pillow_loader
from tests.benchmarks.measuring import ROOT, ROUNDS, in_turn
from tests.benchmarks.step import NETWORKS, small_step

LOADED = 20  # batches of the loader in each round
BATCH = 128


def measure(rounds: int = ROUNDS) -> dict[str, Any]:
    """Images a second of both, their ratio, and the share that a batch has of the small network's step."""
    step, split = small_step()
    spec = load_experiment(ROOT / NETWORKS["small"][0])
    assert spec.train.batch_size == BATCH
    pipeline, loader = EnginePipeline(spec, split), Loader(spec, split)
    measured = in_turn({"engine": pipeline, "loader": loader, "step": step}, rounds)
    return {
        "ratio": measured.ratio("loader", "engine"),
        "share_of_step": 1 / measured.ratio("step", "engine"),
        "engine_images_per_second": BATCH / measured.median("engine"),
        "loader_images_per_second": BATCH / measured.median("loader"),
        "batch_seconds": {"median": measured.median("engine"), "minimum": measured.minimum("engine")},
        "step_seconds": {"median": measured.median("step"), "minimum": measured.minimum("step")},
    }


class EnginePipeline:
    """All batches of an epoch, from its draws on; seconds a batch."""

    def __init__(self, spec: Any, split: Split):
        self.spec, self.split, self.number = spec, split, 0
        normalise = Normaliser.of(spec.dataset.mean, spec.dataset.std, torch.device("cpu"))
        self.batches = Batches(spec, split.train, normalise)

    def __call__(self) -> float:
        self.number += 1
        steps = -(-len(self.split.train) // BATCH)
        began = time.perf_counter()
        drawn = augment.draw_epoch(self.spec, 0, self.number, len(self.split.train), torch.device("cpu"))
        batch = self.batches.epoch(drawn)
        for step in range(steps):
            batch(step)
        return (time.perf_counter() - began) / steps


class Loader:
    """Some batches of the plain loop's loader; seconds a batch."""

    def __init__(self, spec: Any, split: Split):
        drawn = augment.draw_epoch(spec, 0, 1, len(split.train), torch.device("cpu"))
        self.loader = pillow_loader(split.train, drawn, spec)

    def __call__(self) -> float:
        batches = iter(self.loader)
        next(batches)
        began = time.perf_counter()
        count = sum(1 for _ in islice(batches, LOADED))
        return (time.perf_counter() - began) / count
