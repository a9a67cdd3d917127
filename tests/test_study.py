"""Studies: what is planned, what is run, what a failure of one run does to the others."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import reporting
from harness.errors import InputError, Interrupted
from harness.events import Ended, Event, Started, Stepped
from harness.options import RunOptions
from harness.spec.ablation import Study, load_study
from harness.stop import Stop
from harness.study.ablate import AblateOptions, Outcome, ablate
from harness.study.executor import Job
from harness.study.local import LocalExecutor, Worker
from harness.study.plan import make_plan, to_json
from harness.study.server import preloaded
from harness.tracking.journal import Journal
from harness.tracking.store import Store
from harness.training import data
from tests.conftest import Harness
from tests.study.commands import spawn, wait_for
from tests.training.build import timeless

RUN = RunOptions(wandb="disabled", device="cpu", threads=1)


@pytest.fixture
def study(folder: Path) -> Study:
    return load_study(folder / "study.yaml")


def states(study: Study) -> dict[tuple[str, int], str]:
    return {(run.arm.name, run.seed): run.state for run in make_plan(study, Store(Path("runs"))).runs}


def test_study_from_nothing_to_done_and_again(study: Study) -> None:
    assert set(states(study).values()) == {"to_do"}
    events: list[Event] = []
    outcome = ablate(study, AblateOptions(RUN, jobs=2), events.append)
    assert set(outcome.statuses.values()) == {"completed"}
    assert outcome.plan.count("done") == 4
    assert not outcome.failures
    assert sum(isinstance(event, Ended) for event in events) == 4
    assert {type(event) for event in events} >= {Started, Stepped}
    records = Store(Path("runs")).records()
    assert {(record.study, record.arm, record.seed) for record in records} == {
        ("study", arm, seed) for arm in ("tiny", "no_cutmix") for seed in (0, 1)
    }
    again = ablate(study, AblateOptions(RUN), events.append)
    assert again.statuses == {}


def test_runs_in_processes_equal_a_run_in_this_one(study: Study) -> None:
    from harness import runner

    ablate(study, AblateOptions(RUN, jobs=2))
    alone = runner.run(study.base.spec, 1, RunOptions(wandb="disabled", device="cpu", runs_dir=Path("alone")))
    folder, other = Store(Path("runs")).find(alone.run_id), Store(Path("alone")).find(alone.run_id)
    assert folder
    assert other
    assert timeless(Journal(folder.journal_path).rows()) == timeless(Journal(other.journal_path).rows())


def add_arms(folder: Path, *lines: str) -> Study:
    text = (folder / "study.yaml").read_text() + "".join(f"  {line}\n" for line in lines)
    (folder / "study.yaml").write_text(text)
    return load_study(folder / "study.yaml")


def test_one_failing_arm_does_not_stop_the_others(folder: Path) -> None:
    study = add_arms(folder, "wild: {optim.optimizer.lr: 1.0e+30}")
    outcome = ablate(study, AblateOptions(RUN, jobs=2))
    assert sorted(outcome.statuses.values()) == ["completed"] * 4 + ["diverged"] * 2
    assert {run.arm.name for run in outcome.failures} == {"wild"}
    assert ablate(study, AblateOptions(RUN)).statuses == {}  # a failure is not tried again by itself
    retried = ablate(study, AblateOptions(RUN, retry_failed=True))
    assert list(retried.statuses.values()) == ["diverged"] * 2


def test_fail_fast_starts_nothing_more(folder: Path) -> None:
    wild = "name: study\nbase: tiny.yaml\nseeds: [0, 1, 2, 3]\noverrides: {optim.optimizer.lr: 1.0e+30}\n"
    (folder / "study.yaml").write_text(wild)
    outcome = ablate(load_study(folder / "study.yaml"), AblateOptions(RUN, fail_fast=True))
    assert list(outcome.statuses.values()) == ["diverged"]


def test_one_arm_over_budget_means_nothing_runs(folder: Path) -> None:
    study = add_arms(folder, "wide: {model.width: 2000}")
    with pytest.raises(InputError, match="wide"):
        ablate(study, AblateOptions(RUN))
    assert not Path("runs").exists()


def test_missing_data_means_nothing_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "study.yaml").write_text("name: study\nbase: tiny.yaml\noverrides: {data.dataset: cifar10}\n")
    (folder / "data/cifar-10-batches-py").mkdir(parents=True)
    with pytest.raises(InputError, match="data_batch_1"):
        ablate(load_study(folder / "study.yaml"), AblateOptions(RUN))
    assert not Path("runs").exists()


def test_an_unknown_device_means_nothing_runs(study: Study) -> None:
    with pytest.raises(InputError, match="gpu"):
        ablate(study, AblateOptions(replace(RUN, device="gpu")))
    assert not Path("runs").exists()


def test_results_of_other_hardware_are_not_taken_in_silence(study: Study) -> None:
    ablate(study, AblateOptions(RUN, jobs=2))
    store = Store(Path("runs"))
    folder, record = store.entries()[0]
    folder.write_record(record.model_copy(update={"provenance": record.provenance | {"device_type": "cuda"}}))
    with pytest.raises(InputError, match="cuda") as caught:
        ablate(study, AblateOptions(RUN))
    assert str(folder.path) in str(caught.value)
    assert ablate(study, AblateOptions(replace(RUN, any_device=True))).plan.count("done") == 4


def test_fresh_puts_everything_aside_before_it_begins(study: Study) -> None:
    ablate(study, AblateOptions(RUN, jobs=2))
    stop = Stop()

    def stop_at_once(event: Event) -> None:
        if isinstance(event, Started):
            stop.reason = "signal"

    with pytest.raises(Interrupted):
        ablate(study, AblateOptions(replace(RUN, fresh=True)), stop_at_once, stop)
    assert len(list(Path("runs/aside").iterdir())) == 4
    assert make_plan(study, Store(Path("runs"))).count("done") <= 1
    assert ablate(study, AblateOptions(RUN, jobs=2)).plan.count("done") == 4


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


def test_a_display_that_breaks_does_not_stop_a_study(study: Study) -> None:
    def broken(event: Event) -> None:
        raise SystemExit(1)  # what rich makes of a broken pipe

    assert ablate(study, AblateOptions(RUN, jobs=2), broken).plan.count("done") == 4


def test_plan_tells_states_and_power(study: Study) -> None:
    before = to_json(make_plan(study, Store(Path("runs"))))
    assert before["smallest_sign_flip_p"] == 0.5
    assert before["detectable_difference"] > 0
    assert before["expected_seconds"] is None
    ablate(study, AblateOptions(RUN, jobs=2))
    Path("study.yaml").write_text(Path("study.yaml").read_text().replace("[0, 1]", "[0, 1, 2]"))
    after = make_plan(load_study(Path("study.yaml")), Store(Path("runs")))
    assert [run.state for run in after.arms[0].runs] == ["done", "done", "to_do"]
    seconds = after.expected_seconds()
    assert seconds is not None
    assert 0 < seconds < 60
    assert after.spread.df == 2
    assert after.spread.is_guess


def killed_worker(folder: Path) -> Outcome:
    """Kill a worker with SIGKILL as soon as it trains."""
    study = load_study(folder / "study.yaml", ["train.epochs=30"])
    killed: list[int] = []

    def kill_first(event: Event) -> None:
        if isinstance(event, Stepped) and not killed:
            import multiprocessing

            for child in multiprocessing.active_children():
                if child.pid and child.name.startswith("harness"):
                    killed.append(child.pid)
                    os.kill(child.pid, signal.SIGKILL)
                    return

    return ablate(study, AblateOptions(RUN, jobs=1), kill_first)


def test_a_killed_worker_is_told_and_the_next_ablate_goes_on(folder: Path) -> None:
    outcome = killed_worker(folder)
    assert sorted(outcome.statuses.values()) == ["completed"] * 3 + ["killed"]
    [record] = [record for record in Store(Path("runs")).records() if record.status == "killed"]
    study = load_study(folder / "study.yaml", ["train.epochs=30"])
    again = ablate(study, AblateOptions(RUN))
    assert again.statuses == {record.run_id: "completed"}


def test_seeds_extend_a_study(study: Study, folder: Path) -> None:
    ablate(study, AblateOptions(RUN, jobs=2))
    extended = load_study(folder / "study.yaml", seeds=3)
    outcome = ablate(extended, AblateOptions(RUN, jobs=2))
    assert len(outcome.statuses) == 2
    assert outcome.plan.count("done") == 6
    extended_report = reporting.render(reporting.build(extended, Store(Path("runs"))), "md")
    assert "Extended after a look**: planned with seeds 0, 1, then 0, 1, 2." in extended_report
    assert "harness ablate" in extended_report
    assert "study.yaml --seeds 3 " in extended_report
    assert "Extended" not in reporting.render(reporting.build(study, Store(Path("runs"))), "md")


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
    assert process.returncode == 130, out + err
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


def test_exit_codes_of_a_study(harness: Harness, folder: Path) -> None:
    add_arms(folder, "wild: {optim.optimizer.lr: 1.0e+30}")
    result = harness("ablate", "study.yaml", "--jobs", "2", "--json")
    assert result.code == 1
    assert "wild seed 0" in result.err
    document = json.loads(result.out)
    assert [run["state"] for run in document["arms"][-1]["runs"]] == ["failed", "failed"]
    assert Path("reports/study.md").exists()
    assert "diverged" in Path("reports/study.md").read_text()


def test_the_display_tells_every_kind_of_ending(study: Study) -> None:
    """In plain lines, as where the output is no terminal."""
    from io import StringIO

    from rich.console import Console

    from harness.events import EpochDone, Note
    from harness.terminal.live import StudyDisplay

    out = StringIO()
    plan = make_plan(study, Store(Path("runs")))
    arms = [(arm.arm.name, arm.runs) for arm in plan.arms]
    ids = [run.run_id for run in plan.runs]
    with StudyDisplay(Console(file=out, width=80), arms, {}, 2, set(ids)) as display:
        display(Started(ids[0], "tiny", 0, 3, 1, 0, 10, "cpu", "fp32", 1))
        display(EpochDone(ids[0], {"epoch": 1, "val_accuracy": 0.5}, 3, 9.0))
        display(Ended(ids[0], "completed"))
        display(Note("", "1 of 2 GPUs is used"))
        display(Note(ids[1], "already done: somewhere"))
        display(Ended(ids[1], "completed"))
        display(Ended(ids[2], "busy"))
        display(Ended(ids[3], "diverged", "loss is nan"))
        display(Ended(ids[3], "interrupted"))
        display(Ended(ids[3], "interrupted", "the disk is full"))
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("tiny seed 0: completed, 50.00 % in")
    assert lines[1:] == [
        "1 of 2 GPUs is used",
        "tiny seed 1: already done: somewhere",
        "no_cutmix seed 0: another process is training it",
        "no_cutmix seed 1: diverged: loss is nan",
        "no_cutmix seed 1: interrupted, its state is saved",
        "no_cutmix seed 1: interrupted: the disk is full",
    ]


def test_workers_are_forked_with_what_their_runs_use_and_nothing_else() -> None:
    assert "wandb" in preloaded(tracked=True)
    assert not any(module.startswith("wandb") for module in preloaded(tracked=False))
    assert {"harness.runner", "torch._dynamo"} <= set(preloaded(tracked=False))


def test_the_server_can_be_started_before_torch_is_imported() -> None:
    """So that both import at the same time, each on its own core."""
    code = "import sys, harness.study.server, harness.api; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


PRELOADED = """
import json, sys, threading

def look(connection):
    before = set(sys.modules)
    from harness import runner
    runner.run(load_experiment(Path("tiny.yaml")), options=RunOptions(wandb="offline"))
    connection.send([sorted(set(sys.modules) - before), threads, torch_is_there])

from pathlib import Path
from harness.options import RunOptions
from harness.spec.documents import load_experiment
from harness.study import server

threads, torch_is_there = threading.active_count(), "torch" in sys.modules

if __name__ == "__main__":
    context = server.start(tracked=True)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=look, args=(sender,))
    process.start()
    print(json.dumps(receiver.recv()))
    process.join()
"""


def test_a_worker_heeds_an_interrupt_of_its_own(study: Study) -> None:
    """Although the server that it was forked from is deaf to it: a second Ctrl-C is to end it at once."""

    def interrupt(event: Event) -> None:
        if isinstance(event, Stepped):
            for child in multiprocessing.active_children():
                os.kill(int(child.pid or 0), signal.SIGINT)

    outcome = ablate(study, AblateOptions(RUN), interrupt)
    assert set(outcome.statuses.values()) == {"interrupted"}


INTERRUPTED = """
import signal, sys, time
from harness.study import server

def look(connection):
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    server.heed_interrupts()
    connection.send([blocked, signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])])

if __name__ == "__main__":
    context = server.start(tracked=False)
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


@pytest.mark.slow
def test_a_worker_imports_hardly_anything_itself(folder: Path) -> None:
    """The server has torch, its compiler and wandb already, and no thread beside the main one."""
    (folder / "look.py").write_text(PRELOADED)
    done = subprocess.run([sys.executable, "look.py"], capture_output=True, text=True, check=True)
    imported, threads, torch_is_there = json.loads(done.stdout)
    assert (threads, torch_is_there) == (1, True)
    heavy = ("torch._dynamo", "sympy", "sklearn", "wandb", "scipy", "pandas", "requests", "torchvision")
    assert [name for name in heavy if name in imported] == []
    assert len(imported) < 60, imported


@pytest.mark.parametrize(
    ("device", "threads", "left", "holds"),
    [("cpu", 1, 0.4, False), ("cpu", 1, 0.6, True), ("cpu", 2, 0.4, True), ("cuda:0", 1, 0.4, True)],
)
def test_only_a_run_of_one_cpu_thread_makes_room_before_its_end(
    study: Study, device: str, threads: int, left: float, holds: bool
) -> None:
    receiver, _ = multiprocessing.Pipe(duplex=False)
    job = Job("0" * 10, study.base.spec, 0, RunOptions(device=device, threads=threads))
    worker = Worker(job, multiprocessing.Process(), receiver)
    assert worker.holds_its_slot  # nothing is known of its time yet
    worker.seconds_left = left
    assert worker.holds_its_slot is holds


def test_there_is_never_more_at_once_than_a_next_run_for_each_slot(study: Study) -> None:
    counts: list[int] = []
    ablate(study, AblateOptions(RUN, jobs=1), lambda event: counts.append(len(multiprocessing.active_children())))
    assert max(counts) <= 2


def test_digits_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from its file without importing it, and from itself where the file is not where it was."""
    own = data._digits_table()
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    assert np.array_equal(own, data._digits_table())
