"""Runs on Ray: a node that goes away in mid-study, a command that is stopped, and what is told where Ray is missing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from harness.events import Note
from harness.options import AblateOptions, RunOptions
from harness.spec.ablation import load_study
from harness.study.ablate import ablate
from harness.study.on_ray import Desk, share_of_gpu, why_waiting
from harness.tracking.journal import Journal
from harness.tracking.store import Store
from tests.conftest import Harness
from tests.training.build import timeless

ROOT = Path(__file__).parent.parent
SECONDS = 300
EPOCHS = "train.epochs=25"


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start Python, in `folder`, with no network but a loopback of its own, on which Ray can't meet another one."""
    if find_spec("ray") is None:
        pytest.skip('Ray is not installed: pip install -e ".[ray]"')
    unshare = shutil.which("unshare")
    alone = [unshare or "", "--user", "--map-root-user", "--net"]
    if unshare is None or subprocess.run([*alone, "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        pytest.skip("no network namespace of its own can be made here (unshare --net)")
    started: list[subprocess.Popen[str]] = []
    with TemporaryDirectory(prefix="r", dir="/tmp") as scratch:  # short: Ray's sockets lie in it
        environment = os.environ | {
            "HOME": str(folder),
            "RAY_TMPDIR": scratch,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "disabled",
            "COLUMNS": "80",
        }
        environment.pop("RAY_ADDRESS", None)

        def call(*arguments: str) -> subprocess.Popen[str]:
            up = ["bash", "-c", 'ip link set lo up && exec "$@"', "bash", sys.executable, *arguments]
            pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            process = subprocess.Popen([*alone, *up], cwd=folder, env=environment, start_new_session=True, **pipes)
            started.append(process)
            return process

        yield call
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


def assert_results_of_an_undisturbed_study(folder: Path) -> None:
    """Bit for bit, with equal threads."""
    alone = Path("alone")
    study = load_study(folder / "study.yaml", [EPOCHS])
    ablate(study, AblateOptions(RunOptions(wandb="disabled", device="cpu", threads=1, runs_dir=alone)))
    for record in Store(alone).records():
        disturbed, undisturbed = Store(folder / "runs").find(record.run_id), Store(alone).find(record.run_id)
        assert disturbed
        assert undisturbed
        assert timeless(Journal(disturbed.journal_path).rows()) == timeless(Journal(undisturbed.journal_path).rows())


@pytest.mark.slow
@pytest.mark.ray
def test_a_study_survives_the_loss_of_a_node(folder: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("-m", "tests.ray_cluster", "found.json", EPOCHS)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, out + err
    found = json.loads((folder / "found.json").read_text())
    assert found == {"removed": True, "statuses": ["completed"] * 4, "done": 4, "ended": 4, "started_again": 1}
    records = Store(folder / "runs").records()
    assert sum("continued" in record.provenance for record in records) == 1
    assert_results_of_an_undisturbed_study(folder)


@pytest.mark.slow
@pytest.mark.ray
def test_ctrl_c_saves_on_ray_and_the_study_goes_on_without_it(
    folder: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    arguments = ("study.yaml", "-o", EPOCHS, "--jobs", "2", "--executor", "ray", "--device", "cpu")
    process = start("-m", "harness.cli", "ablate", *arguments)
    deadline = time.monotonic() + SECONDS
    while len(list(folder.glob("runs/*/journal.jsonl"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches the whole group
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, out + err
    assert f"`harness ablate {' '.join(arguments)}` to go on" in err
    assert "Traceback" not in out + err
    records = Store(folder / "runs").records()
    assert [record.status for record in records] == ["interrupted"] * 2
    assert len(list(folder.glob("runs/*/checkpoints/last.pt"))) == 2
    options = RunOptions(wandb="disabled", device="cpu", threads=1)
    assert ablate(load_study(folder / "study.yaml", [EPOCHS]), AblateOptions(options)).plan.count("done") == 4
    assert_results_of_an_undisturbed_study(folder)


@pytest.mark.parametrize(
    ("jobs", "gpus", "share"), [(4, 4, 1.0), (2, 4, 1.0), (8, 4, 0.5), (6, 4, 0.5), (3, 1, 1 / 3), (9, 4, 1 / 3)]
)
def test_share_of_a_gpu(jobs: int, gpus: int, share: float) -> None:
    assert share_of_gpu(jobs, gpus) == share


def test_runs_that_no_node_can_take_are_told() -> None:
    """Ray lets them wait without a word."""
    small, large, gone = (
        {"Alive": alive, "Resources": resources}
        for alive, resources in [(True, {"CPU": 2.0}), (True, {"CPU": 8.0, "GPU": 1.0}), (False, {"CPU": 64.0})]
    )
    assert why_waiting(8, [small, large, gone]) is None
    told = why_waiting(16, [small, large, gone])
    assert told
    assert "takes 16 CPUs (--threads), and the largest node of this Ray has 8" in told
    assert why_waiting(1, [{"Alive": True, "Resources": {}}])  # a head without a CPU, before there are workers


def test_the_desk_answers_whether_to_stop() -> None:
    desk = Desk()
    assert desk.tell(Note("a", "first")) is False
    desk.ask_to_stop()
    assert desk.tell(Note("a", "second")) is True
    assert [event.text for event in desk.take()] == ["first", "second"]
    assert desk.take() == []


def test_without_ray_the_extra_is_named_and_nothing_runs(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = harness("ablate", "study.yaml", "--executor", "ray")
    assert result.code == 2
    assert 'pip install "budget-ablation-harness[ray]"' in result.err
    assert not Path("runs").exists()


def test_devices_are_not_for_ray(harness: Harness) -> None:
    result = harness("ablate", "study.yaml", "--executor", "ray", "--devices", "0")
    assert result.code == 2
    assert "--devices is for the local executor" in result.err
