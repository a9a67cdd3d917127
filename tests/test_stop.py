"""Asking a run to stop: signals, the second Ctrl-C, the time limit, and signals that are meant to be ignored."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import runner, session
from harness.errors import Interrupted
from harness.events import Event, Stepped
from harness.options import RunOptions
from harness.spec.documents import load_experiment
from harness.spec.experiment import ExperimentSpec
from harness.stop import Stop
from harness.tracking.claim import Claim
from harness.tracking.record import Record
from harness.tracking.store import RunFolder, Store
from harness.training import checkpoint

HEEDED = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@pytest.fixture(autouse=True)
def _handlers_put_back() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in HEEDED}
    for number in HEEDED:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", HEEDED)
def test_a_signal_asks_to_stop(number: int) -> None:
    stop = Stop()
    with stop.on_signals():
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
    assert stop.reason == "signal"
    assert signal.getsignal(number) is signal.default_int_handler


@pytest.mark.parametrize("first", [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_a_second_ctrl_c_ends_at_once_but_no_term_and_no_first_one_does(first: tuple[int, int]) -> None:
    """SIGTERM is what a study at its time limit sends its workers; Ctrl-C, which reaches all, lets them save."""
    stop = Stop()
    with stop.on_signals():
        for number in first:
            os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_second_ctrl_c_waits_for_the_last_word() -> None:
    stop, said = Stop(), list[str]()

    def interrupted_twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        with stop.last_word():
            os.kill(os.getpid(), signal.SIGINT)
            said.append("the last word")

    with stop.on_signals():
        with pytest.raises(KeyboardInterrupt):
            interrupted_twice()
        assert said
        with stop.last_word():  # one that nothing disturbs
            pass


def test_a_signal_after_the_time_limit_does_not_change_why() -> None:
    stop = Stop(0.0)
    with stop.on_signals():
        assert stop()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.reason == "time_limit"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def signalled(spec: ExperimentSpec, number: int, times: int) -> tuple[Interrupted, tuple[int, int]]:
    """Train until the second step of epoch 2, in which this process gets the signal: how it ended, and where."""
    last = (0, 0)

    def tell(event: Event) -> None:
        nonlocal last
        if isinstance(event, Stepped):
            last = (event.epoch, event.step)
            if last == (2, 2):
                for _ in range(times):
                    os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as caught:
        runner.run(spec, options=RunOptions(device="cpu", wandb="disabled", checkpoint_every=0), observer=tell)
    return caught.value, last


def saved_at() -> tuple[int, int]:
    [(folder, record)] = Store(Path("runs")).entries()
    assert record.status == "interrupted"
    progress = checkpoint.read(folder.last)["state"]["progress"]
    return progress["epoch"], progress["step"]


@pytest.mark.parametrize("number", HEEDED)
def test_each_signal_ends_a_run_after_its_step_with_the_state_saved(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(session, "TOLD_EVERY", 0.0)
    error, last = signalled(load_experiment(folder / "tiny.yaml"), number, times=1)
    assert (error.exit_code, str(error)) == (
        130,
        "1 of 3 epochs are done, the state is saved; run the same command again to go on",
    )
    assert saved_at() == last == (2, 2)


def test_two_ctrl_c_end_a_run_at_once_with_the_last_state_good(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "TOLD_EVERY", 0.0)
    error, _ = signalled(load_experiment(folder / "tiny.yaml"), signal.SIGINT, times=2)
    assert (error.exit_code, str(error)) == (
        130,
        "at once; the last saved state is kept: run the same command again to go on",
    )
    assert saved_at() == (2, 0)  # of the end of epoch 1: no time for one more


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (signal.SIGINT, signal.SIGINT, "at once; the last saved state is kept: run the same command again to go on"),
        (signal.SIGINT, signal.SIGTERM, "1 of 3 epochs are done, the state is saved; run the same command again"),
        (signal.SIGTERM, signal.SIGTERM, "1 of 3 epochs are done, the state is saved; run the same command again"),
    ],
)
def test_a_second_signal_does_not_cut_the_last_word_short(
    folder: Path, monkeypatch: pytest.MonkeyPatch, first: int, second: int, message: str
) -> None:
    """The record would say that the run is under way."""
    monkeypatch.setattr(session, "TOLD_EVERY", 0.0)
    write_record = RunFolder.write_record

    def disturbed(self: RunFolder, record: Record) -> None:
        if record.status == "interrupted":
            os.kill(os.getpid(), second)
        write_record(self, record)

    monkeypatch.setattr(RunFolder, "write_record", disturbed)
    error, last = signalled(load_experiment(folder / "tiny.yaml"), first, times=1)
    assert str(error).startswith(message)
    assert saved_at() == last == (2, 2)
    assert not list(Path("runs/.claims").iterdir())


def test_a_second_sigterm_does_not_leave_the_claim_of_a_dead_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the one that a study sends at its second Ctrl-C."""
    monkeypatch.setattr(session, "TOLD_EVERY", 0.0)
    release = Claim.release

    def disturbed(self: Claim) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        release(self)

    monkeypatch.setattr(Claim, "release", disturbed)
    signalled(load_experiment(folder / "tiny.yaml"), signal.SIGTERM, times=1)
    assert not list(Path("runs/.claims").iterdir())


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


def test_a_ctrl_c_after_the_last_word_prints_nothing(tmp_path: Path) -> None:
    """Python takes its time to end; what libraries put away meanwhile must not be what a user sees."""
    code = (
        "import os, signal, sys\nfrom harness import cli\nsys.argv = ['harness', 'run', 'nope.yaml']\n"
        "try: cli.main()\nfinally: os.kill(os.getpid(), signal.SIGINT)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGINT
    assert "nope.yaml: there is no such file" in ended.stderr
    assert "Traceback" not in ended.stderr
