"""Asking a run to stop: signals, the second Ctrl-C, the time limit, and signals that are meant to be ignored."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from harness.stop import SIGNALS, Stop


@pytest.fixture(autouse=True)
def _handlers_put_back() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_to_stop(number: int) -> None:
    stop = Stop()
    with stop.on_signals():
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
    assert stop.reason == "signal"
    assert signal.getsignal(number) is signal.default_int_handler


def test_a_second_ctrl_c_ends_at_once_but_a_second_term_does_not() -> None:
    stop = Stop()
    with stop.on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = Stop()
    with stop.on_signals():
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop()


def test_time_limit() -> None:
    assert not Stop(3600.0)()
    assert Stop()() is False
    over = Stop(0.0)
    assert over()
    assert over.reason == "time_limit"
    assert over.seconds_left == 0.0
