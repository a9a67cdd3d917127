"""Studies and runs that are stopped: saved, told how to go on, and gone on with."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from harness.events import Ended, Event, Stepped
from harness.spec.ablation import Study, load_study
from harness.stop import Stop
from harness.study import local, server
from harness.study.ablate import AblateOptions, ablate
from harness.study.executor import Job
from harness.study.local import LocalExecutor
from harness.study.plan import make_plan
from harness.tracking.store import Store
from tests.study.commands import spawn, wait_for
from tests.study.conftest import RUN


class StopSoon(Stop):
    """Says so when it is asked for the second time: after the first runs were started."""

    asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        if self.asked > 1:
            self.reason = "signal"
        return super().__call__()


def test_a_run_that_is_stopped_before_it_listens_is_interrupted_not_killed(study: Study) -> None:
    jobs = [Job(run.run_id or "", run.arm.spec, run.seed, RUN) for run in make_plan(study, Store(Path("runs"))).runs]
    statuses = LocalExecutor(AblateOptions(RUN, jobs=2)).execute(jobs, lambda event: None, StopSoon())
    assert list(statuses.values()) == ["interrupted"] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_in_a_study_saves_and_the_same_command_goes_on(folder: Path, number: int) -> None:
    arguments = ("ablate", "study.yaml", "--jobs", "2", "-o", "train.epochs=25")
    process = spawn(folder, *arguments)
    wait_for("runs/*/journal.jsonl", folder)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # a terminal's Ctrl-C reaches the whole group
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "harness ablate study.yaml --jobs 2 -o train.epochs=25" in err
    assert "Traceback" not in out + err
    assert not list(folder.glob("reports/*"))
    again = spawn(folder, *arguments)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, out + err
    assert Store(folder / "runs").frame()["status"].eq("completed").all()


def test_a_second_ctrl_c_says_how_to_go_on_too(folder: Path) -> None:
    process = spawn(folder, "ablate", "study.yaml", "--jobs", "2", "-o", "train.epochs=200")
    wait_for("runs/*/journal.jsonl", folder)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.1)
    out, err = process.communicate(timeout=60)
    # The second may find all said and Python about to end, where the signal itself ends it: a shell's 130, too.
    assert process.returncode in (130, -signal.SIGINT), out + err
    assert "`harness ablate study.yaml --jobs 2 -o train.epochs=200`" in err
    assert "to go on" in err
    assert "Traceback" not in out + err


def test_ctrl_c_in_a_run_says_how_to_go_on(folder: Path) -> None:
    process = spawn(folder, "run", "tiny.yaml", "-o", "train.epochs=200")
    wait_for("runs/*/journal.jsonl", folder)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "`harness run tiny.yaml -o train.epochs=200` to go on" in err
    assert "Traceback" not in out + err
    [record] = Store(folder / "runs").records()
    assert record.status == "interrupted"


def test_a_worker_heeds_an_interrupt_of_its_own(folder: Path) -> None:
    """Although the server that it was forked from is deaf to it: a second Ctrl-C is to end it at once."""
    long_study = load_study(folder / "study.yaml", ["train.epochs=3000"])

    def interrupt(event: Event) -> None:
        if isinstance(event, Stepped):
            for child in multiprocessing.active_children():
                os.kill(int(child.pid or 0), signal.SIGINT)

    outcome = ablate(long_study, AblateOptions(RUN), interrupt)
    assert set(outcome.statuses.values()) == {"interrupted"}


def interrupted_while_forked(job: Job, sender: Connection) -> None:
    os.kill(os.getpid(), signal.SIGINT)  # held back until the worker heeds it
    local._work(job, sender, None)


def interrupted_at_its_end(job: Job, sender: Connection) -> None:
    local._work(job, sender, None)
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("target", "status"), [(interrupted_while_forked, "interrupted"), (interrupted_at_its_end, "completed")]
)
def test_ctrl_c_just_before_or_after_a_worker_s_work_is_no_crash(study: Study, target: Any, status: str) -> None:
    """It would be told as one, and print a traceback."""
    job = Job(make_plan(study, Store(Path("runs"))).runs[0].run_id or "", study.base.spec, 0, RUN)
    context = server.start()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(job, sender))
    process.start()
    sender.close()
    events: list[Event] = []
    with suppress(EOFError):
        while True:
            events.append(receiver.recv())
    process.join()
    assert process.exitcode == 0
    assert isinstance(events[-1], Ended)
    assert events[-1].status == status


INTERRUPTED = """
import signal, sys, time
from harness.study import server

def look(connection):
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    server.heed_interrupts()
    connection.send([blocked, signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])])

if __name__ == "__main__":
    context = server.start()
    print("importing", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        receiver, sender = context.Pipe(duplex=False)
        context.Process(target=look, args=(sender,)).start()
        print(receiver.recv())
"""


def test_ctrl_c_while_the_server_imports_is_no_traceback(folder: Path) -> None:
    """It reaches every process of the terminal; the server goes on, and its children heed it again."""
    (folder / "interrupted.py").write_text(INTERRUPTED)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "interrupted.py"], start_new_session=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (out, err) == ("[True, False]\n", "")
