"""Several runs at once on one CUDA device, a process each as `harness ablate --jobs` has them: their throughput.

    python -m tests.benchmarks packing

The published network at batch 128, its steps recorded as CUDA graphs, not compiled. All processes are started once and
train when told to; one that waits launches nothing. By themselves processes take turns on a card; NVIDIA's MPS, where
its control program is installed, lets them compute side by side.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from tests.benchmarks.measuring import ROOT, Unavailable, data_dir

AT_ONCE = (1, 2, 4)
EPOCHS = 2
MPS = "nvidia-cuda-mps-control"
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
    for line in sys.stdin:
        began = time.perf_counter()
        training.fit(Listening(int(line) * training.steps))
        print(json.dumps(int(line) * len(split.train) / (time.perf_counter() - began)), flush=True)
"""
"""A process that trains as many epochs as each line of its input says, and answers with its images a second."""

Run = subprocess.Popen[str]


def measure() -> dict[str, Any]:
    """Images a second of 1, 2 and 4 runs at once, by themselves and under MPS."""
    if not torch.cuda.is_available():
        raise Unavailable("there is no CUDA device")
    found: dict[str, Any] = {"card": torch.cuda.get_device_name(), "runs": throughputs({})}
    try:
        with mps() as environment:
            found["runs_under_mps"] = throughputs(environment)
    except Unavailable as error:
        print(f"without MPS: {error}", file=sys.stderr)
    return found


def throughputs(environment: Mapping[str, str], command: str = ONE_RUN) -> dict[str, dict[str, float]]:
    """Images a second of the first 1, 2, ... of as many processes as there are ever at once, told as each is known."""
    with runs(max(AT_ONCE), environment, command) as processes:
        found = {}
        for count in AT_ONCE:
            found[str(count)] = at_once(processes[:count])
            print(f"{count} at once: {found[str(count)]['images_per_second']:,.0f} images/s", file=sys.stderr)
        return found


@contextmanager
def runs(count: int, environment: Mapping[str, str], command: str) -> Iterator[list[Run]]:
    """Processes that are ready to train; ended with the block. Unavailable where one does not get ready."""
    variables = {**os.environ, "HARNESS_DATA_DIR": str(data_dir().resolve()), **environment}
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen([sys.executable, "-c", command], cwd=ROOT, env=variables, stdin=pipe, stdout=pipe, text=True)
        for _ in range(count)
    ]
    try:
        for process in processes:
            _line(process)
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def at_once(processes: list[Run]) -> dict[str, float]:
    """Images a second of trainings that run together, evaluation included: of all, and of the slowest.

    Unavailable where one of them ends.
    """
    for process in processes:
        assert process.stdin
        process.stdin.write(f"{EPOCHS}\n")
        process.stdin.flush()
    rates = [json.loads(_line(process)) for process in processes]
    return {"images_per_second": sum(rates), "slowest": min(rates)}


def _line(process: Run) -> str:
    assert process.stdout
    if line := process.stdout.readline():
        return line
    raise Unavailable(f"one of the runs ended with {process.wait()}")


@contextmanager
def mps() -> Iterator[dict[str, str]]:
    """An MPS of our own, and the variables by which processes find it. Unavailable where there is none."""
    if not shutil.which(MPS):
        raise Unavailable(f"there is no {MPS}")
    with tempfile.TemporaryDirectory() as folder:
        where = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        environment = {**os.environ, **where}
        if code := subprocess.run([MPS, "-d"], env=environment, stdin=subprocess.DEVNULL, check=False).returncode:
            raise Unavailable(f"{MPS} -d ended with {code}")
        try:
            yield where
        finally:
            subprocess.run([MPS], env=environment, input="quit\n", text=True, check=False)
