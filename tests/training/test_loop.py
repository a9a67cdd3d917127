"""The loop against a plain one written out, its continuation, and what ends it."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.spec.documents import load_experiment
from harness.spec.experiment import ExperimentSpec
from harness.training import checkpoint, draws, loop
from harness.training.device import Hardware
from harness.training.loop import Diverged, Training, compiles
from harness.training.model import build_model, initialise
from harness.training.pace import probe_images_per_second
from tests.training.build import CPU, EVERYTHING, IMPATIENT, Recorder, make_spec, make_split, timeless

ROOT = Path(__file__).parent.parent.parent


def make_teacher(spec: ExperimentSpec) -> torch.nn.Module | None:
    if spec.loss.distill is None:
        return None
    teacher = build_model(spec, "cpu")
    initialise(teacher, 99)
    return teacher.eval()


def make_training(spec: ExperimentSpec, seed: int) -> Training:
    return Training(spec, seed, make_split(), CPU, make_teacher(spec))


def weights_of(training: Training) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in training.model.state_dict().items()}


def test_everything_off_equals_a_plain_loop_bit_for_bit() -> None:
    spec, split = make_spec(), make_split()
    training = Training(spec, 7, split, CPU)
    listener = Recorder()
    assert training.fit(listener) == "completed"

    model = build_model(spec, "cpu")
    initialise(model, 7)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    mean, std = torch.tensor(spec.dataset.mean), torch.tensor(spec.dataset.std)
    losses = []
    for epoch in (1, 2):
        order = torch.randperm(80, generator=draws.generator(7, "order", epoch))
        total = 0.0
        for indices in order.split(32):
            pixels = split.train.pixels[indices].float()
            images = torch.addcmul(-mean / std, pixels, 1 / (255 * std)).permute(0, 3, 1, 2)
            loss = F.cross_entropy(model(images), split.train.labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(indices)
        losses.append(total / 80)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, training.model.state_dict()[name]), name
    assert [row["train_loss"] for row in listener.rows] == pytest.approx(losses, rel=1e-12)


def test_row_is_what_it_says() -> None:
    """Accuracies and validation values recomputed from the weights; learning rate of the epoch."""
    spec = make_spec(**EVERYTHING)
    training = make_training(spec, 0)
    listener = Recorder()
    training.fit(listener)
    training.evaluated.eval()
    with torch.no_grad():
        logits = training.evaluated(training.normalise(training.split.validation.pixels))
    labels = training.split.validation.labels
    last = listener.rows[-1]
    assert last["val_accuracy"] == (logits.argmax(1) == labels).double().mean().item()
    assert last["val_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
    last_of_warmup = 0.05 * (0.01 + 0.99 * 2 / 3)
    expected = [last_of_warmup, *(0.05 * (1 + math.cos(math.pi * epoch / 3)) / 2 for epoch in range(3))]
    assert [row["lr"] for row in listener.rows] == pytest.approx(expected)
    assert [row["epoch"] for row in listener.rows] == [1, 2, 3, 4]


def test_it_learns() -> None:
    training = Training(make_spec(train={"epochs": 12, "batch_size": 16, "precision": "fp32"}), 0, make_split(800), CPU)
    listener = Recorder()
    training.fit(listener)
    assert listener.rows[-1]["val_accuracy"] > 0.7  # exactly 0.8 on a processor without AVX-512; guessing is 0.1


@pytest.mark.parametrize(("sections", "ends"), [(EVERYTHING, "completed"), (IMPATIENT, "stopped_early")])
def test_continuing_is_exact(sections: dict, ends: str, tmp_path: Path) -> None:
    """Stopped after every single step and continued from the state's file by a training of its own: the same bits."""
    spec, path = make_spec(**sections), tmp_path / "last.pt"
    whole, undisturbed = make_training(spec, 1), Recorder()
    assert whole.fit(undisturbed) == ends
    rows, outcome, stops = [], "interrupted", 0
    while outcome == "interrupted":
        training, listener = make_training(spec, 1), Recorder(stop_after=1)
        if stops:
            training.load_state_dict(checkpoint.read(path)["state"])
        outcome = training.fit(listener)
        rows += listener.rows
        if listener.saved is not None:
            path.write_bytes(checkpoint.serialise({"state": listener.saved}))
        stops += 1
    assert outcome == ends
    assert stops >= 3 * len(rows)  # steps of an epoch, and it may take one more to see that the patience is over
    assert timeless(rows) == timeless(undisturbed.rows)
    for name, tensor in weights_of(whole).items():
        assert torch.equal(tensor, training.model.state_dict()[name]), name
    for name, tensor in whole.evaluated.state_dict().items():
        assert torch.equal(tensor, training.evaluated.state_dict()[name]), name
    assert training.best_weights is not None
    assert whole.best_weights is not None
    for name, tensor in whole.best_weights.items():
        assert torch.equal(tensor, training.best_weights[name]), name
    assert training.progress.best_row is not None
    assert whole.progress.best_row is not None
    assert timeless([training.progress.best_row]) == timeless([whole.progress.best_row])


def test_best_is_the_lowest_validation_loss() -> None:
    training = Training(make_spec(train={"epochs": 6, "batch_size": 32, "precision": "fp32"}), 0, make_split(), CPU)
    listener = Recorder()
    training.fit(listener)
    assert training.progress.best_row == min(listener.rows, key=lambda row: row["val_loss"])


def test_early_stopping_waits_for_its_patience() -> None:
    spec = make_spec(train={"epochs": 60, "batch_size": 32, "early_stopping": {"patience": 3}, "precision": "fp32"})
    training = Training(spec, 0, make_split(), CPU)
    listener = Recorder()
    assert training.fit(listener) == "stopped_early"
    losses = [row["val_loss"] for row in listener.rows]
    assert losses.index(min(losses)) == len(losses) - 1 - 3


def test_divergence_names_epoch_and_step() -> None:
    spec = make_spec(optim={"optimizer": {"lr": 1e30}})
    with pytest.raises(Diverged, match=r"epoch 1, step [23] of 3|val_loss is nan after epoch 1"):
        Training(spec, 0, make_split(), CPU).fit(Recorder())


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("clip", [None, {"kind": "norm", "value": 0.1}, {"kind": "value", "value": 0.1}])
@pytest.mark.parametrize(("precision", "step"), [("fp32", 2), ("bf16", 2), ("fp32", 3)])
def test_a_gradient_that_is_not_finite_names_epoch_and_step(
    value: float, clip: dict[str, Any] | None, precision: str, step: int
) -> None:
    """With a loss that is finite, also in the last step of an epoch, which no other loss follows."""
    spec = make_spec(
        model={"norm": "none"},
        optim={"optimizer": {"lr": 0.01}, "clip": clip},
        data={"protocol": "full"},
        train={"precision": precision},
    )
    split = replace(make_split(), validation=None, validation_is_test=False)
    training = Training(spec, 0, split, replace(CPU, precision=precision))

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        if (training.progress.epoch, training.progress.step) == (2, step - 1):
            gradient = gradient.index_fill(0, torch.tensor([1]), value)
        return gradient

    training.model.classifier.bias.register_hook(spoil)
    listener = Recorder()
    with pytest.raises(Diverged, match=rf"^gradient_norm is {value} in epoch 2, step {step} of 3$"):
        training.fit(listener)
    assert [row["epoch"] for row in listener.rows] == [1]


def test_nothing_that_is_not_finite_is_saved() -> None:
    """A state saved in mid-epoch is looked at first."""
    training, listener = Training(make_spec(), 0, make_split(), CPU), Recorder(stop_after=2)
    training.model.classifier.bias.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(Diverged, match="gradient_norm is nan in epoch 1, step 1 of 3"):
        training.fit(listener)
    assert listener.saved is None


def batches_seen(spec: ExperimentSpec) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Every training batch as the network gets it, and the initial weights."""
    training = make_training(spec, 5)
    initial = weights_of(training)
    seen: list[torch.Tensor] = []
    training.model.register_forward_pre_hook(
        lambda model, inputs: seen.append(inputs[0].clone()) if model.training else None
    )
    training.fit(Recorder())
    return seen, initial


@pytest.mark.parametrize(
    "difference",
    [
        {"model": {"se": None, "dropout": 0.1}},
        {"model": {"se": {"reduction": 4}}},
        {"optim": {"optimizer": {"lr": 0.2}}},
        {"loss": {}},
        {"model": {"se": {"reduction": 4}, "dropout": 0.1}},
    ],
    ids=["se", "dropout", "lr", "loss", "depth"],
)
def test_arms_of_one_seed_see_the_same_batches_from_the_same_start(difference: dict) -> None:
    """Order, crop, flip and CutMix of every step, and all shared initial weights, whatever else differs."""
    one, other = make_spec(**EVERYTHING), make_spec(**{**EVERYTHING, **difference})
    (seen, weights), (seen_too, weights_too) = batches_seen(one), batches_seen(other)
    assert len(seen) == len(seen_too) == 4 * 3
    assert all(torch.equal(a, b) for a, b in zip(seen, seen_too, strict=True))
    assert not torch.equal(seen[0], seen[3])  # another epoch, other draws
    for name in weights.keys() & weights_too.keys():
        assert torch.equal(weights[name], weights_too[name]), name


@pytest.mark.parametrize("after", [2, 5, 9])
def test_continuing_is_exact_with_early_stopping(after: int) -> None:
    """From the state told at an epoch's end, also when that epoch was the one that ended the run."""
    spec = make_spec(train={"epochs": 60, "batch_size": 32, "early_stopping": {"patience": 3}, "precision": "fp32"})
    whole, told = Training(spec, 0, make_split(), CPU), Recorder()
    states: dict[int, dict] = {}
    told.epoch_done = lambda row, state: (told.rows.append(row), states.update({row["epoch"]: copy.deepcopy(state)}))  # type: ignore[method-assign]
    assert whole.fit(told) == "stopped_early"
    last = len(told.rows)
    for epoch in (min(after, last), last):
        again, listener = Training(spec, 0, make_split(), CPU), Recorder()
        again.load_state_dict(states[epoch])
        assert again.fit(listener) == "stopped_early"
        assert timeless(listener.rows) == timeless(told.rows[epoch:])


@pytest.mark.slow
def test_a_compiled_network_trains_as_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile for real (it needs a C++ compiler): the same training within rounding, continued exactly."""
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler, and there is no g++")
    spec = make_spec(train={"epochs": 2, "batch_size": 32, "precision": "fp32", "compile": True})
    plain, compiled, begun, continued = (Recorder(), Recorder(), Recorder(4), Recorder())
    Training(make_spec(), 0, make_split(), CPU).fit(plain)
    training = Training(spec, 0, make_split(), CPU)
    assert probe_images_per_second(training) > 0
    training.fit(compiled)
    assert [row["train_loss"] for row in compiled.rows] == pytest.approx(
        [r["train_loss"] for r in plain.rows], rel=1e-3
    )
    Training(spec, 0, make_split(), CPU).fit(begun)
    assert begun.saved is not None
    again = Training(spec, 0, make_split(), CPU)
    again.load_state_dict(begun.saved)
    again.fit(continued)
    assert timeless(begun.rows + continued.rows) == timeless(compiled.rows)


def test_full_batches_alone_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """84 images in batches of 32: the last 20 and the evaluation go through the network as it is."""
    sizes: list[int] = []

    def compile_network(network: nn.Module, dynamic: bool) -> Callable[..., Tensor]:
        assert not dynamic

        def run(images: Tensor, kept: Tensor | None) -> Tensor:
            sizes.append(len(images))
            logits: Tensor = network(images, kept)
            return logits

        return run

    monkeypatch.setattr(torch, "compile", compile_network)
    train = {"epochs": 2, "batch_size": 32}
    compiled, plain = Recorder(), Recorder()
    Training(make_spec(train={**train, "compile": True}), 0, make_split(84), CPU).fit(compiled)
    assert sizes == [32, 32] * 2
    Training(make_spec(train=train), 0, make_split(84), CPU).fit(plain)
    assert timeless(compiled.rows) == timeless(plain.rows)
    sizes.clear()
    one_size = {**train, "batch_size": 1000, "compile": True}
    Training(make_spec(train=one_size), 0, make_split(84), CPU).fit(Recorder())
    assert sizes == [84] * 2


def test_compiling_by_itself_is_for_long_trainings_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published network: not for the 30 epochs of an ablation, but for its 200, where there is a compiler."""
    monkeypatch.setattr(loop, "can_compile", lambda: True)

    def compiled(epochs: int, device: str = "cuda", compile: object = "auto", **train: bool) -> bool:
        spec = load_experiment(ROOT / "experiments/baseline.yaml")
        spec = spec.model_copy(update={"train": spec.train.model_copy(update={"epochs": epochs, **train})})
        spec = spec.model_copy(update={"train": spec.train.model_copy(update={"compile": compile})})
        return compiles(spec, Hardware(torch.device(device), "test", "bf16", 1))

    assert [compiled(epochs) for epochs in (30, 100, 101, 200)] == [False, False, True, True]
    assert not compiled(200, device="cpu")
    assert not compiled(200, deterministic=True)
    assert compiled(1, device="cpu", compile=True)
    assert not compiled(200, compile=False)
    monkeypatch.setattr(loop, "can_compile", lambda: False)
    assert not compiled(200)
    assert compiled(200, compile=True)  # asked for: an error tells more than a slower run
