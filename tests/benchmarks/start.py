"""(d) From the command to the first step, as a person at a terminal sees it, and what the run takes in memory.

    python -m tests.benchmarks start

`harness run experiments/small.yaml` with W&B offline, on a terminal, until its bar says that a step is done: with the
data set's official files alone, as on the day of the installation, and again with the decoded copy that the first
start leaves behind.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import ROOT, data_dir, harness, run

STARTS = 3
FIRST_STEP = re.compile(rb"\b[1-9]\d*/391\b")
LONGEST = 120.0  # seconds


def measure(rounds: int = STARTS) -> dict[str, Any]:
    """CPU seconds of `--help`, seconds to the first step, largest resident memory of a whole run in bytes."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        first = [first_step(folder / f"first{number}") for number in range(rounds)]
        again = [first_step(folder / "first0") for _ in range(rounds)]
        whole = run(
            harness("run", str(ROOT / "experiments/small.yaml"), "-o", "train.epochs=1", *_places(folder / "first0"))
        )
    return {
        "help_cpu_seconds": statistics.median(run(harness("--help")).cpu for _ in range(5)),
        "first_step_seconds": statistics.median(first),
        "first_step_again_seconds": statistics.median(again),
        "run_seconds_one_epoch": whole.wall,
        "run_max_rss_bytes": whole.memory,
    }


def first_step(folder: Path) -> float:
    """Seconds from the command to its first step, in a folder that sees the official files; the run is then ended."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    official = folder / "data/cifar-10-batches-py"
    if not official.exists():
        official.symlink_to((data_dir() / official.name).resolve())
    master, slave = pty.openpty()
    began = time.perf_counter()
    command = harness("run", str(ROOT / "experiments/small.yaml"), "--fresh", *_places(folder))
    environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    try:
        return _wait_for_step(master, began)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # wandb's process too
        process.wait()
        os.close(master)


def _wait_for_step(terminal: int, began: float) -> float:
    shown = b""
    while (passed := time.perf_counter() - began) < LONGEST:
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # the process has ended
                break
        if FIRST_STEP.search(shown):
            return passed
    raise RuntimeError(
        f"no step within {LONGEST:.0f} seconds; the terminal said: {shown[-2000:].decode(errors='replace')}"
    )


def _places(folder: Path) -> list[str]:
    return ["--runs-dir", str(folder / "runs"), "--data-dir", str(folder / "data"), "--wandb", "offline"]
