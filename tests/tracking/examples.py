"""A record and journal rows to build on."""

from __future__ import annotations

from typing import Any

from harness.tracking.record import Record


def record(**changes: Any) -> Record:
    """A record of a run in progress, with `changes`."""
    spec = {
        "model": {"depths": [4, 4, 3], "width": 64, "se": None},
        "data": {"dataset": "elsewhere", "protocol": "paper"},
        "optim": {"lr": 0.1},
        "train": {"epochs": 200},
        "guard": {"max_parameters": None},
    }
    fields: dict[str, Any] = {"run_id": "0123456789", "name": "base", "status": "running", "seed": 3, "spec": spec}
    fields |= {"spec_digest": "feedfacefeedface", "numerics": 1, "trainable_parameters": 4697742, "macs": 798690304}
    return Record(**(fields | changes))


def row(epoch: int, **changes: Any) -> dict[str, Any]:
    """A journal row whose floats do not fit in few digits."""
    scores = {"train_loss": 1 / (3 * epoch), "train_accuracy": 0.1, "val_loss": None, "val_accuracy": None}
    return {"epoch": epoch, **scores, "lr": 0.1 / 7, "seconds": 1.5, "images_per_second": 1e4 / 3} | changes
