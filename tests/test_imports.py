"""What a command imports: torch takes two seconds and 600 MB, and who only looks at files need not wait for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.spec.ablation import load_study
from harness.tracking.store import Store
from tests.conftest import STUDY, TINY
from tests.reporting.synthetic import fill

TRAINING = {"torch", "torchvision"}
DISPLAY = {"wandb"}
TABLES = {"pandas", "statsmodels", "matplotlib", "sklearn"}
NUMBERS = {"numpy", "scipy"}
PROBE = """\
import json, sys
from harness.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
finally:
    loaded = sorted({name for name in sys.modules if name.count(".") <= 1})
    open("loaded.json", "w").write(json.dumps(loaded))
"""


@pytest.fixture
def studied(tmp_path: Path) -> Path:
    """A folder with an experiment, a study and that study's runs."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "study.yaml").write_text(STUDY)
    study = load_study(tmp_path / "study.yaml")
    fill(Store(tmp_path / "runs"), study, {arm.name: [0.91, 0.92] for arm in study.arms})
    return tmp_path


def loaded_by(folder: Path, *arguments: str) -> set[str]:
    """The modules, down to the second level, that a fresh process has after `harness` with these arguments."""
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads((folder / "loaded.json").read_text()))


@pytest.mark.parametrize(
    ("command", "unwanted"),
    [
        ("--help", TRAINING | DISPLAY | TABLES | NUMBERS | {"pydantic", "rich", "ruamel"}),
        ("report --help", TRAINING | DISPLAY | TABLES | NUMBERS),
        ("check --schema", TRAINING | DISPLAY | TABLES | NUMBERS),
        ("check tiny.yaml", {"torchvision", "sklearn"} | DISPLAY | TABLES | {"scipy"}),
        ("plan study.yaml --seeds 1", {"torchvision", "sklearn", "scipy.stats"} | DISPLAY | TABLES),
        ("plan study.yaml --json", {"torchvision", "sklearn"} | DISPLAY | TABLES),
        ("runs --prune", TRAINING | DISPLAY | TABLES | NUMBERS),
        ("runs", TRAINING | DISPLAY | TABLES | NUMBERS),
        ("runs --json", TRAINING | DISPLAY | TABLES | NUMBERS),
        ("report", TRAINING | DISPLAY | TABLES | {"scipy.stats"}),
        ("report study.yaml", TRAINING | DISPLAY | {"sklearn"}),
        pytest.param(
            "ablate study.yaml --seeds 3", TRAINING | DISPLAY | {"sklearn"}, marks=pytest.mark.slow
        ),  # which trains two runs
    ],
)
def test_command_imports_only_what_it_needs(studied: Path, command: str, unwanted: set[str]) -> None:
    assert loaded_by(studied, *command.split()) & unwanted == set()


def test_two_runs_are_compared_without_what_trains_them(studied: Path) -> None:
    first, second, *_ = (record.run_id for record in Store(studied / "runs").records())
    assert loaded_by(studied, "diff", first, second) & (TRAINING | DISPLAY | TABLES | NUMBERS) == set()


def test_the_probe_sees_what_is_loaded(studied: Path) -> None:
    """So that the tests above can fail: what counts parameters does load torch, and a report SciPy."""
    assert "torch" in loaded_by(studied, "check", "tiny.yaml")
    assert {"scipy.stats", "matplotlib"} <= loaded_by(studied, "report", "study.yaml")
