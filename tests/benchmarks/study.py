"""(e) A small study, 6 arms x 2 seeds of a tiny network, three ways.

    python -m tests.benchmarks study

As two processes with torch's default threads, each doing half of the runs in one go; as two such processes with one
thread each; and as the harness does it, each run in a process of its own. All three do the whole of each run: guard,
data, training, evaluation, journal, checkpoint, W&B offline. Every accuracy is held against that of the one-thread
processes, which compute the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import ROOT, ROUNDS, in_turn

EPOCHS = 6
BASE = f"""
name: tiny
model: {{depths: [1, 1, 1], width: 16, se: {{placement: stem, reduction: 4}}}}
data: {{dataset: digits}}
augment: {{crop: {{padding: 1}}, cutmix: true}}
optim:
  optimizer: {{kind: sgd, lr: 0.1, momentum: 0.9, weight_decay: 5.0e-4}}
  schedule: {{kind: cosine}}
  lookahead: {{k: 5, alpha: 0.5}}
train: {{epochs: {EPOCHS}, batch_size: 64}}
"""
STUDY = """
name: tiny_study
base: tiny.yaml
seeds: 2
leave_one_out:
  se: {model.se: false}
  crop: {augment.crop: null}
  cutmix: {augment.cutmix: null}
  lookahead: {optim.lookahead: null}
  cosine: {optim.schedule: {kind: constant}}
"""
IMAGES = 12 * EPOCHS * 1_438

BY_HAND = """
import json, sys
from pathlib import Path
from harness import load_ablation, run
from harness.options import RunOptions

half, runs_dir = int(sys.argv[1]), Path(sys.argv[2])
study = load_ablation(Path("tiny_study.yaml"))
for number, (arm, seed) in enumerate((arm, seed) for seed in study.seeds for arm in study.arms):
    if number % 2 == half:
        run(arm.spec, seed, RunOptions(runs_dir=runs_dir, wandb="offline"))
"""
OURS = """
import sys
from pathlib import Path
from harness import ablate, load_ablation
from harness.options import AblateOptions, RunOptions

if __name__ == "__main__":
    options = AblateOptions(run=RunOptions(runs_dir=Path(sys.argv[1]), wandb="offline"), jobs=2)
    outcome = ablate(load_ablation(Path("tiny_study.yaml")), options)
    assert outcome.plan.count("done") == 12, outcome
"""


def measure(rounds: int = ROUNDS) -> dict[str, Any]:
    """How many times the throughput of the two by hand ours has; images a second of each."""
    with tempfile.TemporaryDirectory() as temporary:
        ways = Ways(Path(temporary))
        measured = in_turn(ways.arms, rounds, warm_up=False)
        agreed = ways.check_agreement()
    return {
        "ratio_default_threads": measured.ratio("default threads", "ours"),
        "ratio_one_thread": measured.ratio("one thread", "ours"),
        "images_per_second": {name: IMAGES / measured.median(name) for name in ways.arms},
        "seconds": {name: {"median": measured.median(name), "minimum": measured.minimum(name)} for name in ways.arms},
        "runs_that_agree": agreed,
    }


class Ways:
    """The three ways to do the study in `folder`, each time into a new runs folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.latest: dict[str, Path] = {}
        for name, text in (("tiny.yaml", BASE), ("tiny_study.yaml", STUDY), ("by_hand.py", BY_HAND), ("ours.py", OURS)):
            (folder / name).write_text(text)
        self.arms: dict[str, Callable[[], float]] = {
            "default threads": lambda: self._by_hand("default threads", {}),
            "one thread": lambda: self._by_hand("one thread", {"OMP_NUM_THREADS": "1"}),
            "ours": self._ours,
        }

    def _by_hand(self, way: str, environment: dict[str, str]) -> float:
        runs_dir = self._runs_dir(way)
        return self._timed([["by_hand.py", str(half), str(runs_dir)] for half in (0, 1)], environment)

    def _ours(self) -> float:
        return self._timed([["ours.py", str(self._runs_dir("ours"))]], {})

    def _runs_dir(self, way: str) -> Path:
        self.latest[way] = Path(tempfile.mkdtemp(dir=self.folder))
        return self.latest[way]

    def _timed(self, commands: list[list[str]], environment: dict[str, str]) -> float:
        """Seconds until the last of the commands, all started together, has ended."""
        inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        inherited["PYTHONPATH"] = str(ROOT)
        began = time.perf_counter()
        processes = [
            subprocess.Popen([sys.executable, *command], cwd=self.folder, env={**inherited, **environment})
            for command in commands
        ]
        for process in processes:
            if process.wait():
                raise RuntimeError(f"{process.args} ended with {process.returncode}")
        return time.perf_counter() - began

    def check_agreement(self) -> int:
        """How many of the runs that were done with one thread have the same result both ways; RuntimeError if not all.

        Both with one thread, so the same sums in the same order.
        """
        ours, theirs = (_accuracies(self.latest[way]) for way in ("ours", "one thread"))
        if len(ours) != 12 or ours != theirs:
            raise RuntimeError(f"the ways do not train the same: {ours}, {theirs}")
        return len(ours)


def _accuracies(runs_dir: Path) -> dict[str, float]:
    records = [json.loads(path.read_text()) for path in runs_dir.glob("*/record.json")]
    return {record["run_id"]: record["results"]["final"]["test_loss"] for record in records}
