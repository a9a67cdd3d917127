"""(c) What tracking costs an epoch of the small network: the journal with its fsync, the record, W&B offline.

Counted are the seconds that training waits, and the CPU time of the processes in which the mirror is made.

python -m tests.benchmarks tracking
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from harness.spec.documents import load_experiment
from harness.tracking import mirror_process
from harness.tracking.background import start_mirror
from harness.tracking.journal import Journal
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
BETWEEN = 0.05  # seconds between two epochs, in which the mirror can do its part
STEPS = 8


def measure(rounds: int = ROUNDS) -> dict[str, Any]:
    """The share of an epoch that tracking takes; the seconds of both, and of opening and closing the mirror once."""
    tracked = track_epochs()
    epoch = epoch_seconds(rounds)
    waited = statistics.median(tracked["epochs"])
    return {
        "share_of_epoch": (waited + tracked["elsewhere"]) / epoch,
        "tracking_seconds": {"median": waited, "maximum": max(tracked["epochs"])},
        "mirror_cpu_seconds": tracked["elsewhere"],
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
        mirror_process.start()
        mirror = start_mirror("offline", folder, record)
        opened = time.perf_counter() - began
        wait_for_file(folder)
        epochs, elsewhere = [], cpu_seconds_of_children()
        for row in map(examples.row, range(1, EPOCHS + 1)):
            began = time.perf_counter()
            journal.append(row)
            folder.write_record(record)
            mirror.log(row)
            epochs.append(time.perf_counter() - began)
            time.sleep(BETWEEN)
        elsewhere = cpu_seconds_of_children() - elsewhere
        began = time.perf_counter()
        told = mirror.finish(record)
        if told.state != "offline":
            raise RuntimeError(f"Weights & Biases: {told.state}")
        finished = time.perf_counter() - began
        return {"epochs": epochs, "elsewhere": elsewhere / EPOCHS, "open": opened, "finish": finished}


def wait_for_file(folder: RunFolder) -> None:
    """Until wandb has opened its own: importing and beginning are no part of an epoch."""
    deadline = time.monotonic() + 60
    while not list(folder.wandb_dir.rglob("*.wandb")):
        if time.monotonic() > deadline:
            raise RuntimeError("Weights & Biases has opened no file")
        time.sleep(0.05)
    time.sleep(1)


def cpu_seconds_of_children() -> float:
    """Of every process below this one that is alive."""
    ticks, waiting = 0, [os.getpid()]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").iterdir():
            waiting += (children := list(map(int, (task / "children").read_text().split())))
            for child in children:
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])  # utime, stime
    return ticks / os.sysconf("SC_CLK_TCK")


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
