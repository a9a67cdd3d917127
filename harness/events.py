"""What a run tells while it goes on. Plain values, so that a worker process can send them to its parent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Started:
    """The run is about to train (or to go on from `epoch`, `step`)."""

    run_id: str
    name: str
    seed: int
    epochs: int
    epoch: int
    step: int
    trainable_parameters: int
    device: str
    precision: str
    threads: int


@dataclass(frozen=True)
class Stepped:
    """Some steps are done; told a few times a second at most. `seconds_left` is for the whole run."""

    run_id: str
    epoch: int
    epochs: int
    step: int
    steps: int
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class EpochDone:
    """A journal row is on disk."""

    run_id: str
    row: dict[str, Any]
    epochs: int
    seconds_left: float


@dataclass(frozen=True)
class Note:
    """One sentence for people. `run_id`: "" where it is not of one run. `warning`: they should act on it."""

    run_id: str
    text: str
    warning: bool = False


@dataclass(frozen=True)
class Ended:
    """The run is over, with the record's status."""

    run_id: str
    status: str
    message: str = ""


@dataclass(frozen=True)
class Elsewhere:
    """Another process trains the run, and this one waits for it; told again with each of its epochs."""

    run_id: str
    holder: str
    epoch: int
    epochs: int


Event = Started | Stepped | EpochDone | Note | Ended | Elsewhere
Observer = Callable[[Event], None]


def silent(event: Event) -> None:
    """The observer that shows nothing."""


def unbreakable(observer: Observer) -> Observer:
    """`observer`, until it fails because nobody reads any more (`| head`, a closed terminal): then silent.

    A run must not die of its display. rich turns a broken pipe into SystemExit.
    """
    listening = [observer]

    def observe(event: Event) -> None:
        try:
            listening[0](event)
        except (OSError, SystemExit):
            listening[0] = silent

    return observe
