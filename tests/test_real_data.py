"""The official CIFAR-10 images: read, divided, trained on. Skipped where they are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harness import runner
from harness.errors import Interrupted
from harness.events import Event, Note, Started, Stepped
from harness.options import RunOptions
from harness.spec.documents import load_experiment
from harness.spec.experiment import ExperimentSpec
from harness.training.data import load_split
from tests.conftest import Harness
from tests.training.build import StopAfter

pytestmark = pytest.mark.real_data
ROOT = Path(__file__).parent.parent


def small(*overrides: str) -> ExperimentSpec:
    return load_experiment(ROOT / "experiments/small.yaml", overrides)


def test_images_and_labels(cifar10_dir: Path) -> None:
    split = load_split(small(), cifar10_dir)
    assert split.train.pixels.shape == (50_000, 32, 32, 3)
    assert split.test.pixels.dtype == torch.uint8
    assert split.validation is split.test
    assert split.train.labels.bincount().tolist() == [5_000] * 10
    assert split.test.labels.bincount().tolist() == [1_000] * 10
    assert split.test.labels[:8].tolist() == [3, 8, 8, 0, 6, 6, 1, 6]  # as published: cat, ship, ship, airplane, ...


def test_holdout_is_stratified_fixed_and_apart(cifar10_dir: Path) -> None:
    first, again = (load_split(small("data.protocol=holdout"), cifar10_dir) for _ in range(2))
    assert first.validation is not None
    assert again.validation is not None
    assert len(first.train) == 45_000
    assert first.validation.labels.bincount().tolist() == [500] * 10
    assert torch.equal(first.validation.pixels, again.validation.pixels)
    whole = load_split(small("data.protocol=full"), cifar10_dir)
    assert whole.validation is None
    together = torch.cat([first.train.pixels, first.validation.pixels]).sum(dtype=torch.int64)
    assert together == whole.train.pixels.sum(dtype=torch.int64)


def test_one_epoch_of_the_small_network_learns(harness: Harness, cifar10_dir: Path) -> None:
    """Without the clip at 0.1, which slows it much; a network that learns nothing is right one time in ten."""
    command = ("run", str(ROOT / "experiments/small.yaml"), "--data-dir", str(cifar10_dir), "--json")
    result = harness(*command, "-o", "train.epochs=1", "-o", "optim.clip=null", "-o", "augment.cutmix=null")
    assert result.code == 0, result.err
    final = json.loads(result.out)["results"]["final"]
    assert final["test_accuracy"] > 0.4
    assert final["train_accuracy"] > 0.4


def test_the_baseline_starts_tells_the_time_and_goes_on(folder: Path, cifar10_dir: Path) -> None:
    spec = load_experiment(ROOT / "experiments/baseline.yaml")
    options = RunOptions(wandb="disabled", device="cpu", data_dir=cifar10_dir)
    events: list[Event] = []
    with pytest.raises(Interrupted, match="0 of 200 epochs are done, the state is saved"):
        runner.run(spec, options=options, observer=events.append, stop=StopAfter(3))
    [note] = [event for event in events if isinstance(event, Note)]
    assert "200 epochs of this network on this CPU: about" in note.text
    left = [event.seconds_left for event in events if isinstance(event, Stepped)]
    assert left[-1] > 3600

    events.clear()
    with pytest.raises(Interrupted):
        runner.run(spec, options=options, observer=events.append, stop=StopAfter(1))
    [started] = [event for event in events if isinstance(event, Started)]
    assert (started.epoch, started.step) == (1, 4)
