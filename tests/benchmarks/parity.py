"""Do bf16 and fp32, the engine and a plain loop reach the same accuracy? Three ways, three seeds, whole trainings.

    python -m tests.benchmarks.parity --results parity.jsonl

Trains the small network on real CIFAR-10 (`HARNESS_DATA_DIR`) as the engine does at bf16 and at fp32, and as the plain
loop of `tests.benchmarks.loops` does, with the same draws for the same seed. One line a training is added to the
file, and what is there is not trained again. About 75 minutes of one thread, two trainings at a time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch.optim.lr_scheduler import CosineAnnealingLR

from harness.spec.documents import load_experiment
from harness.training import device
from harness.training.data import Split, load_split
from harness.training.evaluate import evaluate
from harness.training.loop import Training
from tests.benchmarks.loops import Listening, PlainLoop

ROOT = Path(__file__).parent.parent.parent
EXPERIMENT = ROOT / "experiments/small.yaml"
SEEDS = (0, 1, 2)
WAYS = {
    "engine bf16": "the engine, bf16",
    "engine fp32": "the engine, fp32",
    "plain fp32": "the plain loop, fp32",
}


def data_dir() -> Path:
    return Path(os.environ.get("HARNESS_DATA_DIR", "data"))


def train(job: tuple[str, int]) -> dict[str, Any]:
    """One whole training; its test accuracy after the last epoch, a fraction."""
    way, seed = job
    torch.set_num_threads(1)
    began = time.perf_counter()
    spec = load_experiment(EXPERIMENT)
    split = load_split(spec, data_dir())
    loop, precision = way.split()
    hardware = device.resolve("cpu", precision)
    if loop == "engine":
        training = Training(spec, seed, split, hardware)
        training.fit(Listening())
        accuracy = evaluate(training.model, split.test, training.normalise, hardware).accuracy
    else:
        accuracy = train_plainly(PlainLoop(spec, split, hardware, seed), spec.train.epochs, split)
    return {"way": way, "seed": seed, "accuracy": accuracy, "seconds": time.perf_counter() - began}


def train_plainly(loop: PlainLoop, epochs: int, split: Split) -> float:
    schedule = CosineAnnealingLR(loop.optimizer, epochs)
    for epoch in range(1, epochs + 1):
        loop.model.train()
        for _ in loop.epoch(epoch):
            pass
        schedule.step()
    loop.model.eval()
    correct = 0
    mean, std = (torch.tensor(values)[:, None, None] for values in (loop.spec.dataset.mean, loop.spec.dataset.std))
    with torch.no_grad():
        for pixels, labels in zip(split.test.pixels.split(100), split.test.labels.split(100), strict=True):
            images = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
            correct += int((loop.model(images).argmax(1) == labels).sum().item())
    return correct / len(split.test)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation of each way, and the differences to the plain loop and of the precisions, paired by seed."""
    accuracy = {(row["way"], row["seed"]): row["accuracy"] for row in rows}
    seeds = [seed for seed in SEEDS if all((way, seed) in accuracy for way in WAYS)]
    values = {way: np.array([accuracy[way, seed] for seed in seeds]) for way in WAYS}
    pairs = [("engine bf16", "plain fp32"), ("engine fp32", "plain fp32"), ("engine bf16", "engine fp32")]
    return {
        "seeds": seeds,
        "ways": {way: {"mean": v.mean(), "sd": v.std(ddof=1), "values": v.tolist()} for way, v in values.items()},
        "differences": [
            {"of": one, "to": other, **difference(values[one] - values[other])} for one, other in pairs
        ],
    }  # fmt: skip


def difference(differences: np.ndarray) -> dict[str, Any]:
    """The mean with its 95 % t-interval over the seeds."""
    mean, error = differences.mean(), stats.sem(differences)
    half = stats.t.ppf(0.975, len(differences) - 1) * error
    return {"mean": mean, "interval": [mean - half, mean + half]}


def read(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--results", type=Path, default=Path("parity.jsonl"), help="one line a training; added to")
    parser.add_argument("--json", type=Path, help="put the summary into this file of `python -m tests.benchmarks`")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, one thread each")
    options = parser.parse_args()
    done = {(row["way"], row["seed"]) for row in read(options.results)}
    jobs = [(way, seed) for seed in SEEDS for way in reversed(WAYS) if (way, seed) not in done]
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for row in pool.imap_unordered(train, jobs):
            with options.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(
                f"{row['way']}, seed {row['seed']}: {100 * row['accuracy']:.2f} % in {row['seconds']:.0f} s", flush=True
            )
    found = summary(read(options.results))
    print(json.dumps(found, indent=2))
    if options.json:
        others = json.loads(options.json.read_text()) if options.json.exists() else {}
        options.json.write_text(json.dumps(others | {"parity": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
