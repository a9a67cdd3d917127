"""Asking a process that the study's server forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe

import pytest

from harness.errors import InputError, Problem, RunFailed
from harness.study import server

PROBLEMS = [Problem("one", "file:1"), Problem("two", "file:2", "mend it")]


class Unpicklable(Exception):
    def __init__(self, one: int, two: int):
        super().__init__("both")


def pid_and_sum(*numbers: int, extra: int = 0) -> tuple[int, int]:
    return os.getpid(), sum(numbers) + extra


def has_torch() -> bool:
    return "torch" in sys.modules


def refuse() -> None:
    raise InputError(PROBLEMS)


def fail() -> None:
    raise RunFailed("it blew up", "diverged")


def fail_oddly() -> None:
    raise Unpicklable(1, 2)


def die() -> None:
    os._exit(7)


def test_the_answer_comes_from_another_process_that_has_torch() -> None:
    pid, total = server.ask(pid_and_sum, 1, 2, extra=3)
    assert (pid != os.getpid(), total) == (True, 6)
    assert server.ask(has_torch)


def test_whoever_asks_first_starts_the_server_that_runs_are_forked_from() -> None:
    """One that had not imported what they use would cost each run two seconds more, and could not be had otherwise."""
    script = "from harness.study.server import ask; from tests.test_server import has_torch; assert ask(has_torch)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_errors_arrive_whole() -> None:
    with pytest.raises(InputError) as refused:
        server.ask(refuse)
    assert refused.value.problems == tuple(PROBLEMS)
    with pytest.raises(RunFailed, match="it blew up") as failed:
        server.ask(fail)
    assert failed.value.status == "diverged"
    assert "in fail" in "".join(failed.value.__notes__)


def test_an_error_that_can_t_travel_is_told_by_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="Unpicklable: both"):
        server.ask(fail_oddly)


def test_a_process_that_dies_is_no_answer() -> None:
    with pytest.raises(RuntimeError, match="die ended with 7"):
        server.ask(die)


def test_an_answer_that_nobody_waits_for_is_dropped() -> None:
    """Ctrl-C while the server still imports: the asking command is gone when the answer comes."""
    receiver, sender = Pipe(duplex=False)
    receiver.close()
    server._answer(sender, pid_and_sum, (1, 2), {"extra": 3})
    server._answer(sender, refuse, (), {})


def test_ctrl_c_ends_the_asking_and_the_asked(capfd: pytest.CaptureFixture[str]) -> None:
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        server.ask(time.sleep, 60)
    assert time.monotonic() - began < 30
    assert "Traceback" not in capfd.readouterr().err
