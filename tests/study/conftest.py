"""A study of two arms and two seeds, and how its runs are done."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.options import RunOptions
from harness.spec.ablation import Study, load_study

RUN = RunOptions(wandb="disabled", device="cpu", threads=1)


@pytest.fixture
def study(folder: Path) -> Study:
    return load_study(folder / "study.yaml")
