"""The learning rate step by step: against torch's schedulers on a real optimizer, against formulas, over a kill."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from harness.errors import InputError
from harness.spec.optim import Optim
from harness.training.schedule import LearningRate

LR, EPOCHS, STEPS = 0.1, 12, 3
WARMUP = {"epochs": 2, "start": 0.04}
WARM_EPOCHS = 2
Row = Mapping[str, Any]

# Improving, stagnating, slightly improving, worse, improving again. A threshold of 0.1 decides of 1.38 after 1.5 and
# of 0.57 after 0.5 one way if it is a share of the best value, the other way if it is a difference.
LOSSES = [2.3, 2.0, 2.0, 1.9999, 2.1, 1.5, 1.38, 1.6, 1.6, 1.6, 1.6, 1.6]
ACCURACIES = [0.1, 0.3, 0.3, 0.30001, 0.2, 0.5, 0.57, 0.4, 0.4, 0.4, 0.4, 0.4]
ROWS = [
    {"train_loss": 7.0, "val_loss": loss, "train_accuracy": 0.5, "val_accuracy": accuracy}
    for loss, accuracy in zip(LOSSES, ACCURACIES, strict=True)
]

# Name: (the schedule's spec, torch's scheduler of so many epochs, begun after so many others, stepped by the batch).
BuildReference = Callable[[torch.optim.Optimizer, int, int], Any]
CASES: dict[str, tuple[dict[str, Any], BuildReference, bool]] = {
    "constant": (
        {"kind": "constant"},
        lambda optimizer, epochs, before: lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0),
        False,
    ),
    "cosine": (
        {"kind": "cosine"},
        lambda optimizer, epochs, before: lr_scheduler.CosineAnnealingLR(optimizer, epochs),
        False,
    ),
    "cosine to 0.01": (
        {"kind": "cosine", "min_lr": 0.01},
        lambda optimizer, epochs, before: lr_scheduler.CosineAnnealingLR(optimizer, epochs, 0.01),
        False,
    ),
    "one_cycle": (
        {"kind": "one_cycle"},
        lambda optimizer, epochs, before: lr_scheduler.OneCycleLR(
            optimizer, LR, epochs=epochs, steps_per_epoch=STEPS, cycle_momentum=False
        ),
        True,
    ),
    "one_cycle linear": (
        {"kind": "one_cycle", "anneal": "linear", "peak_at": 0.6, "start_divisor": 10.0, "end_divisor": 50.0},
        lambda optimizer, epochs, before: lr_scheduler.OneCycleLR(
            optimizer,
            LR,
            total_steps=epochs * STEPS,
            pct_start=0.6,
            anneal_strategy="linear",
            cycle_momentum=False,
            div_factor=10.0,
            final_div_factor=50.0,
        ),
        True,
    ),
    "cyclic triangular": (
        {"kind": "cyclic", "min_lr": 0.02, "half_cycle": 2},
        lambda optimizer, epochs, before: lr_scheduler.CyclicLR(optimizer, 0.02, LR, 2 * STEPS, cycle_momentum=False),
        True,
    ),
    "cyclic triangular2": (
        {"kind": "cyclic", "min_lr": 0.02, "half_cycle": 1, "mode": "triangular2"},
        lambda optimizer, epochs, before: lr_scheduler.CyclicLR(
            optimizer, 0.02, LR, STEPS, mode="triangular2", cycle_momentum=False
        ),
        True,
    ),
    "cyclic exp_range": (
        {"kind": "cyclic", "min_lr": 0.02, "half_cycle": 1, "mode": "exp_range", "gamma": 0.9},
        lambda optimizer, epochs, before: lr_scheduler.CyclicLR(
            optimizer, 0.02, LR, STEPS, mode="exp_range", gamma=0.9, cycle_momentum=False
        ),
        True,
    ),
    "multi_step": (
        {"kind": "multi_step", "milestones": [3, 4, 9], "gamma": 0.3},
        lambda optimizer, epochs, before: lr_scheduler.MultiStepLR(
            optimizer, [3 - before, 4 - before, 9 - before], gamma=0.3
        ),
        False,
    ),
    "plateau of val_loss": (
        {"kind": "plateau", "factor": 0.2, "patience": 1},
        lambda optimizer, epochs, before: lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.2, patience=1),
        False,
    ),
    "plateau of val_accuracy": (
        {"kind": "plateau", "monitor": "val_accuracy", "factor": 0.5, "patience": 0, "threshold": 0.01, "min_lr": 0.01},
        lambda optimizer, epochs, before: lr_scheduler.ReduceLROnPlateau(
            optimizer, "max", factor=0.5, patience=0, threshold=0.01, min_lr=0.01
        ),
        False,
    ),
    "plateau of train_loss": (
        {"kind": "plateau", "monitor": "train_loss", "factor": 0.5, "patience": 2},
        lambda optimizer, epochs, before: lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2),
        False,
    ),
}
every_case = pytest.mark.parametrize("case", CASES)
with_and_without_warmup = pytest.mark.parametrize("warmup", [None, WARMUP], ids=["from the start", "after warm-up"])


def make_optim(schedule: dict[str, Any], warmup: dict[str, Any] | None = None, lr: float = LR) -> Optim:
    return Optim.model_validate({"optimizer": {"lr": lr}, "schedule": schedule, "warmup": warmup})


def make_optimizer(
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.SGD, **settings: Any
) -> torch.optim.Optimizer:
    """Two groups; the learning rate is to be set by who is tested."""
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    return kind([{"params": weights[:1]}, {"params": weights[1:], "weight_decay": 0.5}], lr=77.0, **settings)


def in_force(optimizer: torch.optim.Optimizer) -> float:
    """The one learning rate of all groups."""
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == rates[:1] * len(rates)
    return float(rates[0])


def saved_and_read(state: dict[str, Any]) -> dict[str, Any]:
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    read: dict[str, Any] = torch.load(stream, weights_only=True)
    return read


class Walk:
    """A training of EPOCHS epochs as the loop steps it: the learning rate of every step, and `used` of every epoch."""

    def __init__(self, optim: Optim, kill_at: int | None = None, epochs: int = EPOCHS, rows: Sequence[Row] = ROWS):
        """`kill_at`: steps after which all is thrown away and rebuilt from the saved state."""
        self.optim, self.epochs, self.kill_at = optim, epochs, kill_at
        self.build()
        self.rates: list[float] = []
        self.used: list[float] = []
        for row in rows[:epochs]:
            for _ in range(STEPS):
                if len(self.rates) == self.kill_at:
                    self.kill()
                self.rates.append(in_force(self.optimizer))
                self.optimizer.step()
                self.learning_rate.step_done()
            self.used.append(self.learning_rate.used)
            self.learning_rate.epoch_done(row)

    def build(self) -> None:
        self.optimizer = make_optimizer()
        self.learning_rate = LearningRate(self.optim, self.optimizer, self.epochs, STEPS)

    def kill(self) -> None:
        state, rate, used = self.learning_rate.state_dict(), in_force(self.optimizer), self.learning_rate.used
        state = saved_and_read(state)
        self.build()
        self.learning_rate.load_state_dict(state)
        assert (in_force(self.optimizer), self.learning_rate.used) == (rate, used)


def reference(case: str, epochs: int, before: int = 0) -> list[float]:
    """What torch's scheduler makes of a plain optimizer it is attached to, step by step."""
    schedule, build, by_batch = CASES[case]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=LR)
    scheduler = build(optimizer, epochs, before)
    rates = []
    for epoch in range(epochs):
        for step in range(STEPS):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            if by_batch and (epoch, step) != (epochs - 1, STEPS - 1):
                scheduler.step()
        if schedule["kind"] == "plateau":
            scheduler.step(ROWS[before + epoch][schedule.get("monitor", "val_loss")])
        elif not by_batch:
            scheduler.step()
    return rates


@every_case
def test_equals_torchs_scheduler_bit_for_bit(case: str) -> None:
    rates = Walk(make_optim(CASES[case][0])).rates
    assert rates == reference(case, EPOCHS)
    assert case in ("constant",) or len(set(rates)) > 1


@every_case
def test_warm_up_rises_linearly_to_the_schedule_which_then_has_the_epochs_that_remain(case: str) -> None:
    expected = reference(case, EPOCHS - WARM_EPOCHS, before=WARM_EPOCHS)
    first, length = expected[0], WARM_EPOCHS * STEPS
    warm = [first * (0.04 + 0.96 * step / length) for step in range(length)]
    rates = Walk(make_optim(CASES[case][0], WARMUP)).rates
    assert rates[:length] == pytest.approx(warm, rel=1e-12)
    assert rates[length:] == expected


def test_warm_up_equals_torchs_sequence_of_schedulers() -> None:
    """LinearLR, then OneCycleLR, both stepped by the batch, as SequentialLR joins them."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=LR / 25)
    length = WARM_EPOCHS * STEPS
    cycle = lr_scheduler.OneCycleLR(optimizer, LR, total_steps=EPOCHS * STEPS - length, cycle_momentum=False)
    rise = lr_scheduler.LinearLR(optimizer, start_factor=0.04, total_iters=length)
    sequence = lr_scheduler.SequentialLR(optimizer, [rise, cycle], milestones=[length])
    expected = []
    for _ in range(EPOCHS * STEPS):
        expected.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        sequence.step()
    assert Walk(make_optim({"kind": "one_cycle"}, WARMUP)).rates == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("minimum", [0.0, 0.03])
def test_cosine_closed_formula(minimum: float) -> None:
    """arXiv 1608.03983, equation 5, one value per epoch; after the last epoch the minimum."""
    walk = Walk(make_optim({"kind": "cosine", "min_lr": minimum}))
    expected = [minimum + (LR - minimum) * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2 for epoch in range(EPOCHS)]
    assert walk.rates == pytest.approx([rate for rate in expected for _ in range(STEPS)], rel=1e-12)
    assert in_force(walk.optimizer) == pytest.approx(minimum, abs=1e-12)


@pytest.mark.parametrize("warmup", [None, {"epochs": 3, "start": 0.5}])
def test_multi_step_milestones_count_from_the_trainings_beginning(warmup: dict[str, Any] | None) -> None:
    walk = Walk(make_optim({"kind": "multi_step", "milestones": [4, 6], "gamma": 0.1}, warmup))
    warm = 3 * STEPS if warmup else 0
    falls = [4 * STEPS, 6 * STEPS]
    expected = [LR * 0.1 ** sum(step >= fall for fall in falls) for step in range(warm, EPOCHS * STEPS)]
    assert walk.rates[warm:] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_cyclic_closed_formula(mode: str) -> None:
    """The code of arXiv 1506.01186, section 3.1; half a cycle is 2 epochs."""
    gamma = 0.95 if mode == "exp_range" else 1.0
    walk = Walk(make_optim({"kind": "cyclic", "min_lr": 0.0, "half_cycle": 2, "mode": mode, "gamma": gamma}))
    half = 2 * STEPS
    expected = []
    for step in range(EPOCHS * STEPS):
        cycle = math.floor(1 + step / (2 * half))
        height = max(0.0, 1 - abs(step / half - 2 * cycle + 1))
        scale = {"triangular": 1.0, "triangular2": 0.5 ** (cycle - 1), "exp_range": gamma**step}[mode]
        expected.append(LR * height * scale)
    assert walk.rates == pytest.approx(expected, rel=1e-12, abs=1e-15)


@with_and_without_warmup
@pytest.mark.parametrize("anneal", ["cosine", "linear"])
def test_one_cycle_begins_peaks_and_ends_where_it_says(warmup: dict[str, Any] | None, anneal: str) -> None:
    schedule = {
        "kind": "one_cycle",
        "peak_at": 0.5,
        "start_divisor": 4.0,
        "end_divisor": 100.0,
        "anneal": anneal,
    }
    walk = Walk(make_optim(schedule, warmup))
    begin = WARM_EPOCHS * STEPS if warmup else 0
    cycle = walk.rates[begin:]
    assert cycle[0] == pytest.approx(LR / 4)
    peak = len(cycle) // 2 - 1  # the last step of the first half
    assert cycle[peak] == pytest.approx(LR)
    assert cycle[-1] == pytest.approx(LR / 400)
    assert cycle[: peak + 1] == sorted(cycle[: peak + 1])
    assert cycle[peak:] == sorted(cycle[peak:], reverse=True)
    assert in_force(walk.optimizer) == cycle[-1]  # no step is made beyond the training's end


def test_one_cycle_without_room_to_rise_is_refused() -> None:
    optim = make_optim({"kind": "one_cycle", "peak_at": 0.25})
    LearningRate(optim, make_optimizer(), epochs=1, steps=5)
    for steps in (1, 3, 4):
        with pytest.raises(InputError, match="no step to rise in"):
            LearningRate(optim, make_optimizer(), epochs=1, steps=steps)


@pytest.mark.parametrize(
    ("monitor", "values"), [("val_loss", LOSSES), ("train_loss", LOSSES), ("train_accuracy", ACCURACIES)]
)
@pytest.mark.parametrize("patience", [0, 2])
@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_plateau_written_out(monitor: str, values: list[float], patience: int, threshold: float) -> None:
    schedule = {"kind": "plateau", "monitor": monitor, "factor": 0.5, "patience": patience, "threshold": threshold}
    rows = [{"train_loss": 3.0, "val_loss": 3.0, "train_accuracy": 0.1, monitor: value} for value in values]
    walk = Walk(make_optim(schedule), rows=rows)
    rate, best, waited, expected = LR, values[0], 0, [LR]
    for value in values[1:]:
        better = value < best * (1 - threshold) if monitor.endswith("loss") else value > best * (1 + threshold)
        best, waited = (value, 0) if better else (best, waited + 1)
        if waited > patience:
            rate, waited = rate * 0.5, 0
        expected.append(rate)
    assert [*walk.used[1:], in_force(walk.optimizer)] == expected
    assert rate < LR


def test_plateau_falls_to_its_minimum_however_small() -> None:
    schedule = {"kind": "plateau", "factor": 0.1, "patience": 0, "min_lr": 3e-11}
    walk = Walk(make_optim(schedule, lr=1e-9), rows=[{"val_loss": 1.0}] * EPOCHS)
    assert walk.used[:5] == pytest.approx([1e-9, 1e-9, 1e-10, 3e-11, 3e-11])


def test_plateau_does_not_look_at_the_warm_ups_epochs() -> None:
    """A best value within the warm-up would count as never reached again."""
    rows = [{"val_loss": loss} for loss in (0.1, 0.1, 3.0, 2.0, 1.0)]
    walk = Walk(make_optim({"kind": "plateau", "patience": 0}, WARMUP), epochs=5, rows=rows)
    assert walk.used[2:] == [LR] * 3
    assert in_force(walk.optimizer) == LR


@every_case
@with_and_without_warmup
def test_continuing_is_exact_at_every_step(case: str, warmup: dict[str, Any] | None) -> None:
    """Saved as a file is, read without executing anything; before the first step and at epochs' ends too."""
    optim = make_optim(CASES[case][0], warmup)
    whole = Walk(optim)
    for steps in range(EPOCHS * STEPS):
        continued = Walk(optim, kill_at=steps)
        assert (continued.rates, continued.used) == (whole.rates, whole.used), steps
        assert in_force(continued.optimizer) == in_force(whole.optimizer)


@every_case
@with_and_without_warmup
def test_used_is_the_rate_of_the_latest_step(case: str, warmup: dict[str, Any] | None) -> None:
    optim = make_optim(CASES[case][0], warmup)
    walk = Walk(optim)
    assert walk.used == walk.rates[STEPS - 1 :: STEPS]
    optimizer = make_optimizer()
    learning_rate = LearningRate(optim, optimizer, EPOCHS, STEPS)
    assert learning_rate.used == in_force(optimizer) == walk.rates[0]
    for rate in walk.rates[:STEPS]:
        learning_rate.step_done()
        assert learning_rate.used == rate


@every_case
@with_and_without_warmup
@pytest.mark.parametrize(
    ("kind", "settings"),
    [(torch.optim.SGD, {"momentum": 0.9, "nesterov": True}), (torch.optim.AdamW, {"betas": (0.8, 0.99)})],
)
def test_nothing_but_the_learning_rate_is_touched(
    case: str, warmup: dict[str, Any] | None, kind: Callable[..., torch.optim.Optimizer], settings: dict[str, Any]
) -> None:
    """Momentum and betas above all, which torch's OneCycleLR and CyclicLR would move."""
    optimizer = make_optimizer(kind, **settings)
    before = [{key: value for key, value in group.items() if key != "lr"} for group in optimizer.param_groups]
    learning_rate = LearningRate(make_optim(CASES[case][0], warmup), optimizer, EPOCHS, STEPS)
    for row in ROWS:
        for _ in range(STEPS):
            learning_rate.step_done()
            after = [{key: value for key, value in group.items() if key != "lr"} for group in optimizer.param_groups]
            assert after == before
        learning_rate.epoch_done(row)
