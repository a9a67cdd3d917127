"""Memory that really runs out: a process that the system gives no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.tracking.journal import Journal
from harness.tracking.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")]

CRAMPED = """
import resource
from pathlib import Path
import torch._dynamo  # what training imports is to be there before the limit
from harness import runner
from harness.errors import HarnessError
from harness.options import RunOptions
from harness.spec.documents import load_experiment
from harness.training.data import load_split

spec = load_experiment(Path("tiny.yaml"), ["model.width=64", "train.batch_size=1438"])
load_split(spec, Path("data"))
options = RunOptions(device="cpu", wandb="disabled")
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (100 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
try:
    runner.run(spec, options=options)
except HarnessError as error:
    print(error.status, error)
"""


def test_a_cpu_without_memory_is_told_as_such(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CRAMPED], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("out_of_memory tiny ran out of memory: batch size 1438 does not fit"), done.stderr
    [(found, record)] = Store(folder / "runs").entries()
    assert record.status == "out_of_memory"
    assert record.error  # torch's words or oneDNN's, whoever asked for the memory that was not there
    assert record.error["type"] == "RuntimeError"
    assert Journal(found.journal_path).rows() == []
    assert not list((folder / "runs/.claims").iterdir())
