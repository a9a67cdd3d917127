"""Specs and data for the training tests: small, made in memory, no files."""

from __future__ import annotations

from typing import Any

import torch

from harness.spec.experiment import ExperimentSpec
from harness.stop import Stop
from harness.training.data import Images, Split
from harness.training.device import Hardware

CPU = Hardware(torch.device("cpu"), "test", "fp32", 1)

EVERYTHING: dict[str, Any] = {
    "model": {"se": {"reduction": 4}, "dropout": 0.1, "stochastic_depth": 0.2},
    "augment": {
        "crop": {"padding": 1},
        "flip": True,
        "rotation": {"degrees": 10.0},
        "scaling": {"low": 0.9, "high": 1.1},
        "trivial_augment": True,
        "cutout": {"size": 2},
        "cutmix": True,
        "mixup": {"probability": 0.5},
    },
    "optim": {
        "optimizer": {
            "lr": 0.05,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 5e-4,
            "exempt_norm_and_bias": True,
        },
        "schedule": {"kind": "cosine"},
        "warmup": {"epochs": 1},
        "lookahead": {"k": 2, "alpha": 0.5},
        "ema": {"decay": 0.9},
        "clip": {"value": 0.5},
    },
    "loss": {"label_smoothing": 0.1, "distill": {"teacher": "t.pt", "temperature": 2.0, "weight": 0.3}},
    "train": {"epochs": 4, "batch_size": 32, "precision": "fp32"},
}
"""Sections for `make_spec`: all toggles that go together."""

IMPATIENT: dict[str, Any] = {
    **EVERYTHING,
    "optim": {
        **EVERYTHING["optim"],
        "optimizer": {"kind": "adamw", "lr": 0.3},  # too much, so that it soon gets worse
        "schedule": {"kind": "plateau", "patience": 0, "threshold": 0.2},
    },
    "train": {"epochs": 9, "batch_size": 32, "early_stopping": {"patience": 2}, "precision": "fp32"},
}
"""The same with an optimiser, a schedule and early stopping that count what has become worse."""


def make_spec(**sections: Any) -> ExperimentSpec:
    """A plain network on digits, every toggle off; sections are merged over it one level deep."""
    plain: dict[str, Any] = {
        "name": "test",
        "model": {"depths": [1, 1], "width": 8},
        "data": {"dataset": "digits"},
        "augment": {},
        "optim": {"optimizer": {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}},
        "train": {"epochs": 2, "batch_size": 32, "precision": "fp32"},
    }
    for section, content in sections.items():
        plain[section] = {**plain.get(section, {}), **content} if isinstance(content, dict) else content
    return ExperimentSpec.model_validate(plain)


def make_images(count: int = 80, shape: tuple[int, int, int] = (8, 8, 1), classes: int = 10, seed: int = 0) -> Images:
    """Random pixels with learnable labels: the label is written into the first pixels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    pixels = torch.randint(256, (count, *shape), generator=generator, dtype=torch.uint8)
    pixels[:, :2] = (labels * (255 // classes)).to(torch.uint8)[:, None, None, None]
    return Images(pixels, labels)


def make_split(count: int = 80, **shape: Any) -> Split:
    validation = make_images(40, seed=1, **shape)
    return Split(make_images(count, **shape), validation, validation, True, "test")


class Recorder:
    """A listener that keeps rows and states and stops after a given number of steps."""

    def __init__(self, stop_after: int | None = None):
        self.rows: list[dict[str, Any]] = []
        self.saved: dict[str, Any] | None = None
        self.steps = 0
        self.stop_after = stop_after

    def step_done(self, epoch: int, step: int, steps: int) -> None:
        self.steps += 1

    def epoch_done(self, row: dict[str, Any], state: dict[str, Any]) -> None:
        self.rows.append(row)

    def wants_save(self) -> bool:
        return False

    def save(self, state: dict[str, Any]) -> None:
        self.saved = state

    def stop_asked(self) -> bool:
        return self.stop_after is not None and self.steps >= self.stop_after


class StopAfter(Stop):
    """Asks to stop once it was asked so many times."""

    def __init__(self, steps: int):
        super().__init__()
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        if self.left < 0:
            self.reason = "signal"
        return self.reason is not None


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Journal rows without the two columns of time."""
    measured = ("seconds", "images_per_second", "memory_bytes", "utilisation")
    return [{key: value for key, value in row.items() if key not in measured} for row in rows]
