"""The processes of a study: what they are forked with, and how many there are at once."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from harness.options import RunOptions
from harness.spec.ablation import Study
from harness.study.ablate import AblateOptions, ablate
from harness.study.executor import Job
from harness.study.local import Worker
from tests.study.conftest import RUN


def test_the_server_can_be_started_before_torch_is_imported() -> None:
    """So that both import at the same time, each on its own core."""
    code = "import sys, harness.study.server, harness.api; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


PRELOADED = """
import json, sys, threading

def look(connection):
    before = set(sys.modules)
    from harness import runner
    runner.run(load_experiment(Path("tiny.yaml")), options=RunOptions(wandb="offline"))
    connection.send([sorted(set(sys.modules) - before), threads, torch_is_there])

from pathlib import Path
from harness.options import RunOptions
from harness.spec.documents import load_experiment
from harness.study import server

threads, torch_is_there = threading.active_count(), "torch" in sys.modules

if __name__ == "__main__":
    context = server.start()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=look, args=(sender,))
    process.start()
    print(json.dumps(receiver.recv()))
    process.join()
"""


@pytest.mark.slow
def test_a_worker_imports_hardly_anything_itself(folder: Path) -> None:
    """The server has torch, its compiler and wandb already, and no thread beside the main one."""
    (folder / "look.py").write_text(PRELOADED)
    done = subprocess.run([sys.executable, "look.py"], capture_output=True, text=True, check=True)
    imported, threads, torch_is_there = json.loads(done.stdout)
    assert (threads, torch_is_there) == (1, True)
    heavy = ("torch._dynamo", "sympy", "sklearn", "wandb", "scipy", "pandas", "requests", "torchvision")
    assert [name for name in heavy if name in imported] == []
    assert len(imported) < 60, imported


@pytest.mark.parametrize(
    ("device", "threads", "left", "holds"),
    [("cpu", 1, 0.4, False), ("cpu", 1, 0.6, True), ("cpu", 2, 0.4, True), ("cuda:0", 1, 0.4, True)],
)
def test_only_a_run_of_one_cpu_thread_makes_room_before_its_end(
    study: Study, device: str, threads: int, left: float, holds: bool
) -> None:
    receiver, _ = multiprocessing.Pipe(duplex=False)
    job = Job("0" * 10, study.base.spec, 0, RunOptions(device=device, threads=threads))
    worker = Worker(job, multiprocessing.Process(), receiver)
    assert worker.holds_its_slot  # nothing is known of its time yet
    worker.seconds_left = left
    assert worker.holds_its_slot is holds


def test_there_is_never_more_at_once_than_a_next_run_for_each_slot(study: Study) -> None:
    counts: list[int] = []
    ablate(study, AblateOptions(RUN, jobs=1), lambda event: counts.append(len(multiprocessing.active_children())))
    assert max(counts) <= 2
