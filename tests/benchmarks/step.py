"""(a) A training step: the engine against a plain loop, and against the best step written by hand.

    python -m tests.benchmarks step

Same network, images, batches and draws; each arm goes on with its own weights from round to round. The published
network without its dropout, whose masks depend on the memory's layout, so that the losses can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from harness.spec.documents import load_experiment
from harness.training import device
from harness.training.data import Split, load_split
from harness.training.loop import Training
from tests.benchmarks.loops import HandWritten, Listening, PlainLoop
from tests.benchmarks.measuring import ROOT, ROUNDS, Rounds, data_dir, in_turn

NETWORKS = {"baseline": ("experiments/baseline.yaml", 2), "small": ("experiments/small.yaml", 8)}
"""Name, experiment file, steps counted in each round."""
AGREE = {"fp32": 2e-3, "bf16": 3e-2}
"""How far the losses of the first steps may be from those of the plain loop, relative."""


class Arm:
    """One way to train; called, it does one step more than are counted and returns the mean seconds of these."""

    def __init__(self, steps: int):
        self.steps = steps
        self.losses: list[float] = []

    def __call__(self) -> float:
        raise NotImplementedError


class Stepping(Arm):
    """A loop that yields the loss of each step."""

    def __init__(self, epoch: Iterator[Any], steps: int):
        super().__init__(steps)
        self.epoch = epoch

    def __call__(self) -> float:
        losses = [next(self.epoch)]
        began = time.perf_counter()
        losses += [next(self.epoch) for _ in range(self.steps)]
        seconds = time.perf_counter() - began
        self.losses += [float(loss) for loss in losses]
        return seconds / self.steps


class Engine(Arm):
    """The engine as `harness run` drives it, stopped after so many steps and gone on with in the next round."""

    def __init__(self, training: Training, steps: int):
        super().__init__(steps)
        self.training = training

    def __call__(self) -> float:
        listener = Listening(self.steps + 1)
        self.training.fit(listener)
        self.losses = self.training.progress.losses[: self.training.progress.step].tolist()
        return (listener.times[-1] - listener.times[0]) / self.steps


def arms_of(path: str, steps: int) -> dict[str, Arm]:
    """Every way to train the network of an experiment file, at the precisions that this machine has."""
    spec = load_experiment(ROOT / path, ["model.dropout=0.0"])
    split = load_split(spec, data_dir())
    precisions = ["fp32", *(["bf16"] if device.resolve("cpu", "auto").precision == "bf16" else [])]
    arms: dict[str, Arm] = {"plain fp32": Stepping(PlainLoop(spec, split, cpu("fp32")).epoch(), steps)}
    for precision in precisions:
        arms[f"engine {precision}"] = Engine(Training(spec, 0, split, cpu(precision)), steps)
    arms[f"hand {precisions[-1]}"] = Stepping(HandWritten(spec, split, cpu(precisions[-1])).epoch(), steps)
    return arms


def cpu(precision: str) -> device.Hardware:
    return device.resolve("cpu", precision)


def check_agreement(arms: dict[str, Arm], count: int = 6) -> dict[str, float]:
    """The largest relative difference of each arm's first losses to the plain loop's.

    RuntimeError where arms that train the same do not agree: then their times say nothing.
    """
    reference = arms["plain fp32"].losses[:count]
    found = {}
    for name, arm in arms.items():
        worst = max(abs(loss / other - 1) for loss, other in zip(arm.losses[:count], reference, strict=True))
        if worst > AGREE[name.split()[1]]:
            raise RuntimeError(f"{name} does not train what the plain loop trains: {arm.losses[:count]}, {reference}")
        found[name] = worst
    return found


def measure(rounds: int = ROUNDS) -> dict[str, Any]:
    """The ratios of the published network, and under its name those of each."""
    results = {name: measure_network(path, steps, rounds) for name, (path, steps) in NETWORKS.items()}
    headline = {key: results["baseline"][key] for key in ("ratio_default", "ratio_equal_precision", "overhead")}
    return {**headline, "networks": results}


def measure_network(path: str, steps: int, rounds: int) -> dict[str, Any]:
    arms = arms_of(path, steps)
    measured = in_turn(dict[str, Callable[[], float]](arms), rounds)
    default = "bf16" if "engine bf16" in arms else "fp32"
    return {
        "precision": default,
        "ratio_default": measured.ratio("plain fp32", f"engine {default}"),
        "ratio_equal_precision": measured.ratio("plain fp32", "engine fp32"),
        "overhead": measured.ratio(f"engine {default}", f"hand {default}") - 1,
        "loss_differences": check_agreement(arms),
        "arms": {name: _times(measured, name) for name in arms},
    }


def _times(measured: Rounds, arm: str) -> dict[str, Any]:
    median = measured.median(arm)
    return {"median": median, "minimum": measured.minimum(arm), "images_per_second": 128 / median}


def small_step() -> tuple[Arm, Split]:
    """The engine's step of the small network at its default precision, for shares of it, and the data."""
    spec = load_experiment(ROOT / NETWORKS["small"][0])
    split = load_split(spec, data_dir())
    return Engine(Training(spec, 0, split, cpu("auto")), NETWORKS["small"][1]), split
