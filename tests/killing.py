"""A run with everything on, killed again and again and continued: for the CPU's tests and for the GPU's."""

from __future__ import annotations

import os
import random
import signal
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness import runner
from harness.options import RunOptions
from harness.spec.experiment import ExperimentSpec
from harness.study import server
from harness.tracking.journal import Journal
from harness.tracking.store import Store
from harness.training import checkpoint
from harness.training.loop import Training
from tests.training.build import make_spec, timeless

NEVER = 10**9  # a step that no run reaches
LONGEST = 0.05  # seconds from a step's beginning to the kill: into later steps, an evaluation, a write


def spec_of(sections: dict[str, Any], folder: Path, **train: Any) -> ExperimentSpec:
    """A small network on the digits with these sections and a trained teacher."""
    options = RunOptions(device="cpu", runs_dir=folder / "teachers", wandb="disabled")
    teacher = runner.run(make_spec(name="teacher", train={"epochs": 1, "batch_size": 256}), options=options)
    found = Store(options.runs_dir).find(teacher.run_id)
    assert found
    distill = sections["loss"]["distill"] | {"teacher": str(found.final)}
    changes = {
        "loss": {**sections["loss"], "distill": distill},
        "train": {**sections["train"], "batch_size": 128, **train},
    }
    return make_spec(**{**sections, **changes})


def results(runs: Path) -> dict[str, Any]:
    """All that the outcome of every run there consists of, by run id; the weights as they lie in their files."""
    found = {}
    for folder, record in Store(runs).entries():
        predictions = folder.read_predictions()
        weights = [checkpoint.read(path)["weights"] for path in (folder.final, folder.best)]
        found[record.run_id] = {
            "status": record.status,
            "results": record.results,
            "recorded": record.weights,
            "weights": [checkpoint.weights_digest(of_file) for of_file in weights],
            "rows": timeless(Journal(folder.journal_path).rows()),
            "predictions": {name: np.asarray(array).tobytes() for name, array in predictions.items()},
        }
    return found


@dataclass(frozen=True)
class Killed:
    """What became of a run that was to be killed at drawn moments."""

    kills: int
    began: list[int]  # the step of the whole run that each process began with
    steps: int  # of an epoch
    status: str


def run_killed(spec: ExperimentSpec, options: RunOptions, folder: Path, kills: int, seed: int) -> Killed:
    """Do the run undisturbed, and again with kills at drawn shares of its steps; both must give the same."""
    calm, killed = (replace(options, runs_dir=folder / name) for name in ("calm", "killed"))
    assert _process(spec, calm) == 0
    [(_, record)] = Store(calm.runs_dir).entries()
    steps = -(-spec.train_images // spec.train.batch_size)
    draw = random.Random(seed)
    shares = sorted(draw.random() for _ in range(kills))
    moments = [(int(share * record.epochs_done * steps), draw.uniform(0, LONGEST)) for share in shares]
    codes = [_process(spec, killed, *moment) for moment in moments]
    assert set(codes) <= {0, -signal.SIGKILL}
    assert _process(spec, killed) == 0
    assert results(killed.runs_dir) == results(calm.runs_dir)
    [(place, _)] = Store(killed.runs_dir).entries()
    assert {path.name for path in place.checkpoints.iterdir()} == {"final.pt", "best.pt"}
    began = [int(line) for line in _log(killed).read_text().split()]
    return Killed(codes.count(-signal.SIGKILL), began, steps, record.status)


def _process(spec: ExperimentSpec, options: RunOptions, step: int = NEVER, seconds: float = 0.0) -> int | None:
    """The exit code of a process that trains the run until it gets SIGKILL, so long after it began the step."""
    process = server.start().Process(target=_train, args=(spec, options, step, seconds))
    process.start()
    process.join(timeout=300)
    return process.exitcode


def _train(spec: ExperimentSpec, options: RunOptions, kill_at: int, seconds: float) -> None:
    server.heed_interrupts()
    server.follow_parent()
    original, began, due = Training._step, list[int](), list[threading.Timer]()

    def step(training: Training, *batch: Any) -> Any:
        here = (training.progress.epoch - 1) * training.steps + training.progress.step
        if not began:
            began.append(here)
            with open(_log(options), "a") as log:
                log.write(f"{here}\n")
        if here >= kill_at and not due:
            due.append(threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)))
            due[0].daemon = True
            due[0].start()
        return original(training, *batch)

    Training._step = step  # type: ignore[method-assign]
    runner.run(spec, options=options)


def _log(options: RunOptions) -> Path:
    return options.runs_dir.with_suffix(".began")
