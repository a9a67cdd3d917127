"""On a CUDA device: the same training as on the CPU, up to rounding, and an exact continuation when asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness import runner
from harness.errors import Interrupted
from harness.options import RunOptions
from harness.spec.documents import load_experiment
from harness.tracking.journal import Journal
from harness.tracking.store import Store
from tests.training.build import StopAfter, timeless

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def options(device: str, runs: str) -> RunOptions:
    return RunOptions(device=device, runs_dir=Path(runs), wandb="disabled")


def test_the_gpu_trains_what_the_cpu_trains(folder: Path) -> None:
    spec = load_experiment(folder / "tiny.yaml")
    losses = []
    for device in ("cpu", "cuda"):
        record = runner.run(spec, options=options(device, device))
        assert record.provenance["device_type"] == device
        found = Store(Path(device)).find(record.run_id)
        assert found
        losses.append([row["train_loss"] for row in Journal(found.journal_path).rows()])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_continuing_is_exact_in_deterministic_mode(folder: Path) -> None:
    spec = load_experiment(folder / "tiny.yaml", ["train.deterministic=true"])
    whole = runner.run(spec, options=options("cuda", "whole"))
    with pytest.raises(Interrupted):
        runner.run(spec, options=options("cuda", "runs"), stop=StopAfter(5))
    continued = runner.run(spec, options=options("cuda", "runs"))
    assert continued.results == whole.results
    folders = [Store(Path(name)).find(whole.run_id) for name in ("whole", "runs")]
    rows = [timeless(Journal(found.journal_path).rows()) for found in folders if found]
    assert rows[0] == rows[1]
