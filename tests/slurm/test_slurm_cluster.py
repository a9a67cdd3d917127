"""Studies on a real Slurm of two nodes: `make test-slurm`, as root, with Debian's packages (see cluster.py)."""

from __future__ import annotations

import functools
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from harness.options import AblateOptions, RunOptions
from harness.runner import run
from harness.spec.ablation import load_study
from harness.spec.documents import load_experiment
from harness.study.ablate import ablate
from harness.tracking.journal import Journal
from harness.tracking.store import Store
from tests.conftest import TINY
from tests.slurm.cluster import Cluster, missing
from tests.training.build import timeless

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

Start = Callable[..., "subprocess.Popen[str]"]
ROOT = Path(__file__).parent.parent.parent
SECONDS = 600
STUDY = """\
name: study
base: tiny.yaml
arms:
  long: {train.epochs: EPOCHS}
  wide: {model.width: 8}
  no_cutmix: {augment.cutmix: null}
"""
OPTIONS = ("--executor", "slurm", "--device", "cpu", "--checkpoint-every", "1000")
SITTING = 90  # seconds from a job's start until it is told, at the latest, that its time is nearly over
SLURM = ("--slurm", "time=2", "--slurm", "grace=30", "--slurm", "gpus=1", "--slurm", "partition=main")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("submitit", reason='submitit is not installed: pip install -e ".[slurm]"')
    if reason := missing():
        pytest.skip(reason)
    folder = Path(mkdtemp(prefix="slurm"))  # short: sockets lie in it
    try:
        with Cluster(folder) as running:
            running.environment |= {"PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def study(folder: Path) -> Path:
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "study.yaml").write_text(STUDY.replace("EPOCHS", str(epochs_that_take(SITTING + 10))))
    return folder


@functools.cache
def epochs_that_take(seconds: float) -> int:
    """Of tiny.yaml, on this machine as busy as it is."""
    options = RunOptions(wandb="disabled", device="cpu", threads=1, runs_dir=Path("timed"))
    record = run(load_experiment(Path("tiny.yaml"), ["train.epochs=30"]), options=options)
    return round(30 * seconds / record.timings["train"])


@pytest.fixture
def start(cluster: Cluster, study: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `harness ablate study.yaml` with these options, as a client of the cluster."""
    started: list[subprocess.Popen[str]] = []

    def call(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "harness.cli", "ablate", "study.yaml", *OPTIONS, *options]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=cluster.environment, start_new_session=True, **pipes))
        return started[-1]

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_an_array_of_runs_of_which_one_is_requeued_at_its_time_limit(study: Path, start: Start) -> None:
    out, err = start(*SLURM).communicate(timeout=SECONDS)
    records = {record.arm: record for record in Store(Path("runs")).records()}
    assert "4 runs submitted as Slurm job 1; logs: " in out, out + err
    assert [record.status for record in records.values()] == ["completed"] * 4, out + err
    assert {arm for arm, record in records.items() if "continued" in record.provenance} == {"long"}
    logs = "".join(path.read_text() for path in Path("runs/.slurm").glob("1_*_log.out"))
    assert "Requeued job 1_" in logs
    alone = load_study(study / "study.yaml")
    ablate(alone, AblateOptions(RunOptions(wandb="disabled", device="cpu", threads=1, runs_dir=Path("alone")), jobs=2))
    for record in records.values():
        here, there = (Store(root).find(record.run_id) for root in (Path("runs"), Path("alone")))
        assert here
        assert there
        assert timeless(Journal(here.journal_path).rows()) == timeless(Journal(there.journal_path).rows())


def test_jobs_go_on_without_the_command_and_a_cancelled_one_keeps_its_state(
    cluster: Cluster, study: Path, start: Start
) -> None:
    (study / "study.yaml").write_text("name: study\nbase: tiny.yaml\n")
    first = start("-o", "train.epochs=30000", "--slurm", "time=30")
    wait_for("runs/*/journal.jsonl", study)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 130, out + err
    [job] = Path("runs/.slurm").glob("*.job")
    job_id = job.read_text()
    assert f"squeue -j {job_id} " in err
    assert f"scancel {job_id}" in err
    assert cluster.command("squeue", "-h", "-j", job_id, "-o", "%T").strip() == "RUNNING"
    cluster.command("scancel", job_id)
    deadline = time.monotonic() + 60
    while (record := Store(Path("runs")).records()[0]).status == "running":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert record.status == "interrupted"
    assert list(Path("runs").glob("*/checkpoints/last.pt"))
    time.sleep(10)
    assert "CANCELLED" in cluster.command("squeue", "-h", "-t", "all", "-j", job_id, "-o", "%T")


def test_a_second_command_watches_what_the_first_has_submitted(cluster: Cluster, study: Path, start: Start) -> None:
    """Also a job that still waits: no run is submitted twice."""
    (study / "study.yaml").write_text("name: study\nbase: tiny.yaml\nseeds: 2\n")
    for node in ("n1", "n2"):
        cluster.command("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    first = start()
    wait_for("runs/.slurm/*.job", study, count=2)
    first.send_signal(signal.SIGINT)
    assert first.communicate(timeout=60)
    assert first.returncode == 130
    second = start()
    time.sleep(5)
    for node in ("n1", "n2"):
        cluster.command("scontrol", "update", f"nodename={node}", "state=resume")
    out, err = second.communicate(timeout=SECONDS)
    assert second.returncode == 0, out + err
    assert "submitted before, as Slurm job" in out
    assert len(list(Path("runs/.slurm").glob("*_log.out"))) == 2


def test_the_script_without_an_extra_that_the_readme_shows(cluster: Cluster, study: Path) -> None:
    """Two jobs share the runs; each ends at its own time limit with exit code 75 and is requeued until all are done."""
    script = re.search(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert script
    text = script[1]
    for written, meant in {
        "--array=0-7": "--array=0-1",
        "--cpus-per-task=4": "--cpus-per-task=1",
        "--time=4:00:00": "--time=5",
        "--threads 4": "--threads 1",
        "3:50:00": "60 --device cpu",
        ".venv/bin/harness": f"{sys.executable} -m harness.cli",
        "ablations/x.yaml": "study.yaml",
    }.items():
        assert written in text
        text = text.replace(written, meant)
    (study / "job.sh").write_text(text)
    subprocess.run(["sbatch", "--wait", "job.sh"], env=cluster.environment, check=True, timeout=SECONDS)
    records = {record.arm: record for record in Store(Path("runs")).records()}
    assert [record.status for record in records.values()] == ["completed"] * 4
    assert "continued" in records["long"].provenance
    assert Path("reports/study.md").exists()
    log = "".join(path.read_text() for path in study.glob("slurm-*.out"))
    assert "stopped: time limit" in log


def wait_for(pattern: str, folder: Path, count: int = 1, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while len(list(folder.glob(pattern))) < count:
        assert time.monotonic() < deadline, f"no {pattern}"
        time.sleep(0.1)
