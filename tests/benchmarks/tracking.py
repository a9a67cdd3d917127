"""(c) What tracking costs an epoch of the small network: the journal with its fsync, the record, W&B offline.

python -m tests.benchmarks tracking
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from harness.spec.documents import load_experiment
from harness.tracking.journal import Journal
from harness.tracking.mirror import open_mirror
from harness.tracking.store import RunFolder
from harness.training import device
from harness.training.data import load_split
from harness.training.evaluate import evaluate
from harness.training.loop import Training
from tests.benchmarks.measuring import ROOT, ROUNDS, data_dir
from tests.benchmarks.step import Engine
from tests.tracking import examples

SMALL = "experiments/small.yaml"
EPOCHS = 60
STEPS = 8


def measure(rounds: int = ROUNDS) -> dict[str, Any]:
    """The share of an epoch that tracking takes; the seconds of both, and of opening and closing the mirror once."""
    tracked = track_epochs()
    epoch = epoch_seconds(rounds)
    return {
        "share_of_epoch": statistics.median(tracked["epochs"]) / epoch,
        "tracking_seconds": {"median": statistics.median(tracked["epochs"]), "maximum": max(tracked["epochs"])},
        "epoch_seconds": epoch,
        "open_seconds": tracked["open"],
        "finish_seconds": tracked["finish"],
    }


def track_epochs() -> dict[str, Any]:
    """What a session does after each epoch, without a training beside it."""
    with tempfile.TemporaryDirectory() as temporary:
        spec = load_experiment(ROOT / SMALL)
        record = examples.record(spec=spec.model_dump(mode="json"))
        folder = RunFolder(Path(temporary) / f"small-{record.run_id}")
        folder.create()
        journal = Journal(folder.journal_path)
        began = time.perf_counter()
        mirror = open_mirror("offline", folder, record)
        opened = time.perf_counter() - began
        if mirror.state != "offline":
            raise RuntimeError(f"Weights & Biases: {mirror.state}")
        epochs = []
        for row in map(examples.row, range(1, EPOCHS + 1)):
            began = time.perf_counter()
            journal.append(row)
            folder.write_record(record)
            mirror.log(row)
            epochs.append(time.perf_counter() - began)
        began = time.perf_counter()
        mirror.finish(record)
        return {"epochs": epochs, "open": opened, "finish": time.perf_counter() - began}


def epoch_seconds(rounds: int) -> float:
    """Of the small network: its steps and its evaluation, from some of each."""
    spec = load_experiment(ROOT / SMALL)
    split = load_split(spec, data_dir())
    training = Training(spec, 0, split, device.resolve("cpu", "auto"))
    engine = Engine(training, STEPS)
    step = statistics.median(engine() for _ in range(rounds))
    some = split.test.take(torch.arange(2_000))
    began = time.perf_counter()
    evaluate(training.model, some, training.normalise, training.hardware)
    evaluation = (time.perf_counter() - began) * len(split.test) / len(some)
    return training.steps * step + evaluation
