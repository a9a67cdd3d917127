"""How the cost grows: seconds and memory of one network size, batch size or number of images, in a fresh process.

    python -m tests.benchmarks.cost --width 16 --batch-size 128 --images 10000

Trains `--steps` steps of experiments/small.yaml at that size (without the first, which warms up), or with
`--steps 0` a whole epoch with its evaluation, and prints seconds and the largest resident memory as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import torch

from harness.spec.documents import load_experiment
from harness.training import device
from harness.training.data import load_split
from harness.training.loop import Training
from tests.benchmarks.loops import Listening
from tests.benchmarks.measuring import ROOT, data_dir, peak_memory

WIDTHS = [{"width": width, "steps": 8} for width in (8, 16, 32, 64)]
BATCHES = [{"batch-size": size, "steps": 8} for size in (32, 64, 128, 256, 512)]
IMAGES = [{"images": count, "steps": 0} for count in (5_000, 10_000, 20_000, 40_000)]
TABLES = {"width": WIDTHS, "batch-size": BATCHES, "images": IMAGES}


def command_of(settings: dict[str, int]) -> list[str]:
    return [
        "-m",
        "tests.benchmarks.cost",
        *(word for key, value in settings.items() for word in (f"--{key}", f"{value}")),
    ]


def measure() -> dict[str, Any]:
    """One table each over width, batch size and images; every row from the command that it names."""
    return {name: [_row(settings) for settings in rows] for name, rows in TABLES.items()}


def _row(settings: dict[str, int]) -> dict[str, Any]:
    command = command_of(settings)
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=True)
    return {"command": "python " + " ".join(command), **json.loads(done.stdout)}


def train(width: int, batch_size: int, images: int, steps: int) -> dict[str, Any]:
    """Seconds per step and per image (with `steps` 0 evaluation counts too), and the largest resident memory."""
    spec = load_experiment(
        ROOT / "experiments/small.yaml",
        [f"model.width={width}", f"train.batch_size={batch_size}", "train.epochs=1", "guard.max_parameters=null"],
    )
    split = load_split(spec, data_dir())
    some = replace(split, train=split.train.take(torch.arange(images)))
    training = Training(spec, 0, some, device.resolve("auto", "auto"))
    listener = Listening(steps + 1 if steps else None)
    began = time.perf_counter()
    training.fit(listener)
    seconds = time.perf_counter() - began
    if steps:
        seconds, done = listener.times[-1] - listener.times[0], steps
    else:
        done = training.steps
    return {
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "seconds_per_step": seconds / done,
        "seconds": seconds,
        "images_per_second": (done * batch_size if steps else images) / seconds,
        "max_rss_bytes": peak_memory(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=8, help="0: a whole epoch, with its evaluation")
    given = parser.parse_args()
    print(json.dumps(train(given.width, given.batch_size, given.images, given.steps)))


if __name__ == "__main__":
    main()
