"""Timing that can be trusted on a machine that others use too: arms in turn, several rounds, medians and minima."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent.parent
ROUNDS = 5


class Unavailable(Exception):
    """What a benchmark needs is not on this machine; the message says what."""


def data_dir() -> Path:
    """The folder with the official CIFAR-10 batches: HARNESS_DATA_DIR, else data/."""
    folder = Path(os.environ.get("HARNESS_DATA_DIR", "data"))
    if not (folder / "cifar-10-batches-py").is_dir():
        raise Unavailable(f"{folder} holds no cifar-10-batches-py: name its folder with HARNESS_DATA_DIR")
    return folder


@dataclass(frozen=True)
class Rounds:
    """Seconds of each arm in each round; all arms have as many."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, arm: str) -> float:
        return statistics.median(self.seconds[arm])

    def minimum(self, arm: str) -> float:
        return min(self.seconds[arm])

    def ratio(self, slow: str, fast: str) -> float:
        """How many times as long `slow` takes as `fast`: the median over the rounds, each paired with itself."""
        pairs = zip(self.seconds[slow], self.seconds[fast], strict=True)
        return statistics.median(one / other for one, other in pairs)


def in_turn(arms: Mapping[str, Callable[[], float]], rounds: int = ROUNDS, warm_up: bool = True) -> Rounds:
    """Every arm once a round, in the opposite order every other round, so that a drift of the machine hits all alike.

    An arm returns the seconds that it took. With `warm_up` there is one round more, which is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds + warm_up):
        for name in arms if number % 2 else reversed(arms):
            took = arms[name]()
            if number or not warm_up:
                seconds[name].append(took)
    return Rounds(seconds)


def timed(function: Callable[[], object]) -> Callable[[], float]:
    """An arm that times the whole of `function`."""

    def arm() -> float:
        began = time.perf_counter()
        function()
        return time.perf_counter() - began

    return arm


def peak_memory(process: int | str = "self") -> int:
    """Largest resident memory of a process so far, bytes; 0 once it has ended.

    As /proc has it: what `wait4` and `getrusage` tell of a child is at least what its parent had when it was started.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


@dataclass(frozen=True)
class Process:
    """What a process took: seconds from start to end, seconds of CPU, largest resident memory in bytes."""

    wall: float
    cpu: float
    memory: int


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Process:
    """Run a command to its end, its children counted in the CPU time; RuntimeError with what it said if it failed."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        cwd=ROOT,
    )
    said = _collect(process)
    memory = 0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        memory = max(memory, peak_memory(process.pid))
        time.sleep(0.005)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said()}")
    return Process(wall, usage.ru_utime + usage.ru_stime, memory)


def _collect(process: subprocess.Popen[bytes]) -> Callable[[], str]:
    """Reads what the process says on stderr while it runs; all of it, once it has ended."""
    parts: list[bytes] = []
    assert process.stderr
    stream = process.stderr
    thread = threading.Thread(target=lambda: parts.append(stream.read()))
    thread.start()

    def said() -> str:
        thread.join()
        return b"".join(parts).decode(errors="replace")

    return said


def harness(*arguments: str) -> list[str]:
    """The command `harness` with these arguments."""
    return [sys.executable, "-m", "harness.cli", *arguments]


def machine() -> dict[str, object]:
    """What the numbers were measured on, and how busy it was."""
    from harness.training.device import computes_bf16, device_name

    cpu = torch.device("cpu")
    return {
        "cpu": device_name(cpu),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_computes_bf16": computes_bf16(cpu),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "load_average": os.getloadavg()[0],
    }
