"""SIGKILL at any moment: no run is lost, none is done twice, and nothing of it shows in the results."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.options import RunOptions
from harness.tracking.claim import look
from harness.tracking.store import Store
from tests.killing import results, run_killed, spec_of
from tests.study.commands import processes_of, spawn, wait_for, wait_until
from tests.training.build import EVERYTHING, IMPATIENT

SEED = 4
VICTIMS = ["parent"] * 4 + ["worker"] * 3 + ["both"] * 3
STUDY = """\
name: study
base: tiny.yaml
seeds: 4
overrides: {train.epochs: 9}
arms:
  no_cutmix: {augment.cutmix: null}
"""
COMMAND = ("ablate", "study.yaml", "--jobs", "2", "--threads", "1", "--checkpoint-every", "0.1")


def start(folder: Path, runs: str) -> subprocess.Popen[str]:
    log = folder / f"{runs}.completions"
    return spawn(folder, *COMMAND, "--runs-dir", runs, hooked=True, TEST_COMPLETIONS=str(log))


def workers(folder: Path) -> list[int]:
    """The living processes that have a run."""
    holders = [look(path) for path in (folder / "killed/.claims").glob("[!.]*")]
    return [holder.pid for holder in holders if holder and not holder.is_gone]


def rows(folder: Path) -> int:
    return sum(len(journal.read_bytes().splitlines()) for journal in (folder / "killed").glob("*/journal.jsonl"))


def kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


@pytest.mark.slow
def test_a_study_killed_ten_times_ends_as_one_that_was_left_alone(folder: Path) -> None:
    (folder / "study.yaml").write_text(STUDY)
    draw = random.Random(SEED)
    started: list[subprocess.Popen[str]] = []
    process = None
    for number, victim in enumerate(draw.sample(VICTIMS, len(VICTIMS))):
        if process is None or process.poll() is not None:
            process = start(folder, "killed")
            started.append(process)
        before, epochs, seconds = rows(folder), draw.randint(0, 8), draw.uniform(0.0, 0.05)
        if victim == "parent" and draw.random() < 0.5:  # while it starts
            epochs, seconds = 0, draw.uniform(0.0, 3.0)
            moment = time.monotonic() + seconds
            wait_until(lambda: time.monotonic() >= moment or rows(folder) > before, "")  # noqa: B023
        else:
            # a run that goes on from an earlier epoch may have fewer rows at first
            wait_until(lambda: workers(folder) and rows(folder) - before not in range(epochs), "no progress", 180)  # noqa: B023
            time.sleep(seconds)
        alive = workers(folder)
        print(f"kill {number}: {victim}, {epochs} epochs and {seconds:.2f} s later; at {rows(folder)}, {alive} working")
        assert process.poll() is None, process.communicate()
        if victim != "worker":
            kill(process.pid)
            process.wait()
        for worker in alive[:1] if victim == "worker" else alive if victim == "both" else []:
            kill(worker)
    for _ in range(2):  # a worker that was killed last leaves its study to be run once more
        if process is None or process.poll() is not None:
            process = start(folder, "killed")
            started.append(process)
        last = process.communicate(timeout=300)
    assert process
    assert process.returncode == 0, last
    for one in started:
        if one.stdout and not one.stdout.closed:
            one.communicate()
        wait_until(lambda: not processes_of(one.pid), "processes are left", 60)  # noqa: B023
    assert not list((folder / "killed/.claims").iterdir())

    records = Store(folder / "killed").records()
    assert [record.status for record in records] == ["completed"] * 8
    assert (
        sum(len(record.provenance.get("continued", [])) for record in records) >= len(VICTIMS) // 2
    )  # they were disturbed
    completions = {tuple(line.split()) for line in (folder / "killed.completions").read_text().splitlines()}
    assert sorted(run_id for run_id, _ in completions) == sorted(record.run_id for record in records)

    calm = start(folder, "calm")
    out, err = calm.communicate(timeout=300)
    assert calm.returncode == 0, out + err
    assert results(folder / "killed") == results(folder / "calm")


@pytest.mark.slow
def test_a_run_killed_with_its_study_after_its_last_word_leaves_no_claim(folder: Path) -> None:
    """Nobody runs it again, so nobody would succeed its holder."""
    (folder / "study.yaml").write_text(STUDY)
    command = ("ablate", "study.yaml", "--seeds", "2", "-o", "train.epochs=1", "--threads", "1")
    process = spawn(folder, *command, hooked=True, TEST_LAST_WORD=str(folder / "said"))
    process.communicate(timeout=180)
    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: not processes_of(process.pid), "processes are left", 60)
    store = Store(folder / "runs")
    done = store.find((folder / "said").read_text())  # a run beside it may have ended by itself
    assert done
    assert done.read_record().finished
    assert look(done.claim_path)
    process = spawn(folder, *command)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, out + err
    assert [record.status for record in store.records()] == ["completed"] * 4
    assert not list((folder / "runs/.claims").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("sections", "every"), [(EVERYTHING, 0.05), (IMPATIENT, 0.0)], ids=["everything", "impatient"])
def test_a_run_killed_ten_times_gives_what_it_gives_undisturbed(
    tmp_path: Path, sections: dict[str, Any], every: float
) -> None:
    """Journal, predictions and weights bit for bit, whatever is on and wherever in an epoch the states were saved."""
    options = RunOptions(device="cpu", threads=1, wandb="disabled", checkpoint_every=every)
    killed = run_killed(spec_of(sections, tmp_path), options, tmp_path, kills=10, seed=SEED)
    print(killed)
    assert killed.status == ("completed" if sections is EVERYTHING else "stopped_early")
    assert killed.kills >= 8  # the last may come too late
    assert sum(step > 0 for step in killed.began) >= 4  # it went on from a state
    inside = sum(step % killed.steps > 0 for step in killed.began)
    assert inside >= 3 if every else inside == 0


SILENT = """
import signal, time
from harness.study import server

def work():
    server.follow_parent()
    time.sleep(600)

if __name__ == "__main__":
    process = server.start().Process(target=work)
    process.start()
    print(process.pid, flush=True)
    time.sleep(600)
"""


def test_a_worker_that_is_silent_ends_with_its_study_too(folder: Path) -> None:
    """While it loads data, compiles, or waits for a mirror: it need not try to tell something first."""
    (folder / "silent.py").write_text(SILENT)
    command = [sys.executable, "silent.py"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout
    assert process.stdout.readline()
    process.kill()
    process.communicate()
    wait_until(lambda: not processes_of(process.pid), "processes are left", 60)


def test_a_worker_whose_study_was_killed_saves_its_state_and_ends_at_once(folder: Path) -> None:
    """Whether or not it has something to say meanwhile; the server that it was forked from ends with it."""
    command = ("ablate", "study.yaml", "--threads", "1", "-o", "train.epochs=3000", "--checkpoint-every", "1000")
    process = spawn(folder, *command)
    wait_for("runs/*/journal.jsonl", folder)
    process.kill()
    process.communicate()
    wait_until(lambda: not processes_of(process.pid), "processes are left", 60)
    [record] = Store(folder / "runs").records()
    assert record.status == "interrupted"
    assert len(list(folder.glob("runs/*/checkpoints/last.pt"))) == 1
    assert not list((folder / "runs/.claims").iterdir())
