"""The time left, on a clock that the test moves."""

from __future__ import annotations

import pytest

from harness.training import pace
from harness.training.pace import Pace
from tests.training.build import make_spec

EPOCHS, STEPS, IMAGES = 10, 100, 12_800


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def measured(clock: Clock, steps: list[float], evaluation: float | None = None) -> Pace:
    """The pace after these steps' seconds, and the evaluation where the epoch is over."""
    found = Pace(make_spec(train={"epochs": EPOCHS}), IMAGES, IMAGES // 4, STEPS)
    found.begin()
    for number, seconds in enumerate(steps):
        clock.now += seconds
        found.step_done(1, number + 1)
    if evaluation is not None:
        clock.now += evaluation
        found.epoch_done(1)
    return found


def test_steady_steps_tell_the_rest(clock: Clock) -> None:
    """900 steps of 0.1 s and 9 evaluations of 1 s; before one was seen, 10 of the 0.75 s that images cost by rule."""
    assert measured(clock, [0.1] * STEPS, 1.0).seconds_left() == pytest.approx(900 * 0.1 + 9)
    assert measured(clock, [0.1] * 50).seconds_left() == pytest.approx(950 * 0.1 + 10 * 0.75)


@pytest.mark.parametrize("slow", [0, 1, 50, 99])
def test_what_is_compiled_once_is_not_expected_again(clock: Clock, slow: int) -> None:
    """A step of 30 s, for the first batch or for the last one's other size, and a first evaluation of 20 s."""
    steps = [0.1] * STEPS
    steps[slow] = 30.0
    assert measured(clock, steps, 20.0).seconds_left() < 1.5 * (900 * 0.1 + 9 * 0.75)


def test_a_machine_that_becomes_slower_is_believed(clock: Clock) -> None:
    left = measured(clock, [0.1] * 20 + [1.0] * 80).seconds_left()
    assert left == pytest.approx(900 + 10 * 7.5, rel=0.25)


def test_a_second_evaluation_is_believed(clock: Clock) -> None:
    found = measured(clock, [0.1] * STEPS, 1.0)
    for number in range(STEPS):
        clock.now += 0.1
        found.step_done(2, number + 1)
    clock.now += 20.0
    found.epoch_done(2)
    assert found.seconds_left() == pytest.approx(800 * 0.1 + 8 * 20)
