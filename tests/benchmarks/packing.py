"""Several runs at once on one CUDA device, a process each as `harness ablate --jobs` has them: their throughput.

    python -m tests.benchmarks packing

The published network at batch 128, its steps recorded as CUDA graphs, not compiled.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import torch

from tests.benchmarks.measuring import ROOT, Unavailable, data_dir

AT_ONCE = (1, 2, 4)
ONE_RUN = """
import json, sys, time
import torch
from harness.training import device
from harness.training.loop import Training
from tests.benchmarks.gpu import subject
from tests.benchmarks.loops import Listening
spec, split = subject()
hardware = device.resolve("cuda", "bf16")
with device.arithmetic(hardware, deterministic=False):
    training = Training(spec, 0, split.to(hardware.device), hardware)
    training.fit(Listening(training.steps))
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    training.fit(Listening(2 * training.steps))
print(json.dumps({"images_per_second": 2 * 50_000 / (time.perf_counter() - began)}))
"""


def measure() -> dict[str, Any]:
    """Images a second of 1, 2 and 4 runs at once."""
    if not torch.cuda.is_available():
        raise Unavailable("there is no CUDA device")
    return {"card": torch.cuda.get_device_name(), "runs": {str(count): at_once(count) for count in AT_ONCE}}


def at_once(count: int) -> dict[str, float]:
    """Images a second of `count` trainings, evaluation included, all together and of the slowest."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "HARNESS_DATA_DIR": str(data_dir().resolve())}
    command = [sys.executable, "-c", ONE_RUN]
    processes: list[Any] = [subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) for _ in range(count)]
    for process in processes:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"one of {count} runs at once ended with {process.wait()}")
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    rates = [json.loads(process.communicate()[0])["images_per_second"] for process in processes]
    return {"images_per_second": sum(rates), "slowest": min(rates)}
