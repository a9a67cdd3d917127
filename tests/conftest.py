"""Shared fixtures: the command line called in this process, small experiment files, the real data where it is."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.wandb_backend.backend import Backend

os.environ.setdefault("OMP_NUM_THREADS", "1")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
DATA_DIR = Path(os.environ.get("HARNESS_DATA_DIR", "data")).resolve()

TINY = """\
name: tiny
model: {depths: [1, 1], width: 4}
data: {dataset: digits}
augment: {crop: {padding: 1}, cutmix: {probability: 0.5}}
optim:
  optimizer: {lr: 0.1, momentum: 0.9}
  schedule: {kind: cosine}
  lookahead: {k: 2, alpha: 0.5}
train: {epochs: 3, batch_size: 256, precision: fp32}
"""
STUDY = """\
name: study
base: tiny.yaml
seeds: [0, 1]
margin: 0.01
arms:
  no_cutmix: {augment.cutmix: null}
"""


@dataclass(frozen=True)
class Result:
    """What a command gave."""

    code: int
    out: str
    err: str


Harness = Callable[..., Result]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HARNESS_DATA_DIR",
        "HARNESS_RUNS_DIR",
        "WANDB_MODE",
        "WANDB_PROJECT",
        "WANDB_ENTITY",
        "WANDB_API_KEY",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with tiny.yaml and study.yaml in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


@pytest.fixture
def harness(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Harness:
    """`harness("run", "tiny.yaml")`, in this process, in `folder`, without W&B unless asked for."""
    from harness import cli

    monkeypatch.setenv("WANDB_MODE", "disabled")

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["harness", *arguments])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        output = capsys.readouterr()
        return Result(code, output.out, output.err)

    return call


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """A Weights & Biases backend on loopback, where wandb looks for one; what fails is soon given up."""
    from harness.tracking import sync
    from tests.wandb_backend.backend import KEY, Backend

    backend = Backend().start()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", backend.url)
    quick = {"RETRY_MAX": 1, "RETRY_WAIT_MIN_SECONDS": 0.05, "RETRY_WAIT_MAX_SECONDS": 0.1}
    monkeypatch.setattr(sync, "PERSISTENCE", quick)
    yield backend
    backend.stop()


@pytest.fixture(scope="session")
def cifar10_dir() -> Path:
    """The folder with the official batches; skips where there are none."""
    if not (DATA_DIR / "cifar-10-batches-py" / "test_batch").is_file():
        pytest.skip("the official CIFAR-10 batches are not there: name their folder with HARNESS_DATA_DIR")
    return DATA_DIR


@pytest.fixture(autouse=True)
def _torch_warnings() -> Iterator[None]:
    """Warnings are errors, but for what libraries say about the machine rather than about us."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*CUDA initialization.*")
        yield
