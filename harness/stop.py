"""Stopping a run on purpose: signals and a time limit ask, the loop ends after its current step."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


class Stop:
    """Whether, and why at first, to stop. A second SIGINT raises KeyboardInterrupt at once."""

    def __init__(self, time_limit: float | None = None):
        self.reason: Literal["signal", "time_limit"] | None = None
        self._interrupted = False
        self._held = self._due = False
        self.deadline = None if time_limit is None else time.monotonic() + time_limit

    def __call__(self) -> bool:
        if self.reason is None and self.deadline is not None and time.monotonic() >= self.deadline:
            self.reason = "time_limit"
        return self.reason is not None

    @property
    def seconds_left(self) -> float | None:
        """Until the time limit; None without one."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)

    def _ask(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            if self._interrupted and not self._held:
                raise KeyboardInterrupt
            self._due = self._interrupted
            self._interrupted = True
        self.reason = self.reason or "signal"

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Listen to the signals inside the block (in a main thread; elsewhere they can't be caught).

        One that is ignored stays ignored: `nohup` and a shell's background jobs mean it.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._ask) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def last_word(self) -> Iterator[None]:
        """Inside the block, which is to be short, a second SIGINT waits for its end (where signals are listened to)."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._due:
            self._due = False
            raise KeyboardInterrupt
