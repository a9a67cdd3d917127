"""On a CUDA device: the same training as on the CPU, up to rounding, and an exact continuation when asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import runner
from harness.options import RunOptions
from harness.spec.documents import load_experiment
from harness.tracking.journal import Journal
from harness.tracking.store import Store
from harness.training.device import arithmetic, resolve
from harness.training.graph import GraphedStep
from harness.training.loop import Training
from tests.killing import run_killed, spec_of
from tests.training.build import EVERYTHING, Recorder, make_spec, make_split

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


def test_continuing_is_exact_in_deterministic_mode(tmp_path: Path) -> None:
    """Killed in mid-epoch and continued, as tests/study/test_kills.py does it on the CPU; no graphs, no compiling."""
    spec = spec_of(EVERYTHING, tmp_path, deterministic=True)
    options = RunOptions(device="cuda", wandb="disabled", checkpoint_every=0.05)
    killed = run_killed(spec, options, tmp_path, kills=4, seed=0)
    assert killed.kills >= 3
    assert any(step % killed.steps > 0 for step in killed.began)


RECORDED = {
    "model": {"dropout": 0.1, "stochastic_depth": 0.1},
    "augment": {"crop": {"padding": 1}, "flip": True, "cutmix": {"probability": 0.5}},
    "optim": {"schedule": {"kind": "cosine"}, "lookahead": {"k": 2, "alpha": 0.5}, "clip": {"value": 0.5}},
    "train": {"epochs": 6, "batch_size": 8, "precision": "fp32"},
}


def trained(graphs: bool, sections: dict[str, Any]) -> tuple[Training, list[dict[str, Any]]]:
    """84 images in batches of 8, the last of them smaller, with steps recorded or not."""
    hardware = replace(resolve("cuda", "fp32"), graphs=graphs)
    training = Training(make_spec(**sections), 2, make_split(84).to(hardware.device), hardware)
    listener = Recorder()
    with arithmetic(hardware, deterministic=False):
        assert training.fit(listener) == "completed"
    return training, listener.rows


@pytest.mark.parametrize("optimizer", [{"kind": "sgd", "lr": 0.05, "momentum": 0.9}, {"kind": "adamw", "lr": 0.01}])
def test_graphs_train_what_eager_steps_train(optimizer: dict[str, Any]) -> None:
    """Dropout's masks, the learning rate of each step, Lookahead and the mix of each batch included."""
    sections = {**RECORDED, "optim": {**RECORDED["optim"], "optimizer": optimizer}}
    (graphed, rows), (eager, expected) = trained(True, sections), trained(False, sections)
    assert isinstance(graphed.step, GraphedStep)
    assert {(8, True), (8, False)} <= {(shape[0], mixed) for shape, _, mixed in graphed.step.recordings}
    assert not isinstance(eager.step, GraphedStep)
    for name in ("train_loss", "val_loss", "lr"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in expected], rel=0.02)


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # torch before 2.13 thinks that fp32 is an oversight
def test_a_compiled_network_is_recorded_too() -> None:
    plain = {"optim": {"schedule": {"kind": "cosine"}}, "train": {**RECORDED["train"], "compile": True}}
    (graphed, rows), (_, expected) = trained(True, plain), trained(False, plain)
    assert isinstance(graphed.step, GraphedStep)
    assert graphed.step.recordings
    assert [row["val_loss"] for row in rows] == pytest.approx([row["val_loss"] for row in expected], rel=0.02)
