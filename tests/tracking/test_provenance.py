"""Provenance: the code's own commit, no secrets, quickly, and never an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.tracking import provenance

KEY = "0123456789abcdef0123456789abcdef01234567"


def git(root: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(root), *settings, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A committed checkout that holds a package."""
    package = tmp_path / "checkout" / "harness"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("x = 1\n")
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "first")
    return package


def test_a_clean_checkout_is_its_commit(package: Path) -> None:
    commit = git(package.parent, "rev-parse", "HEAD")
    assert provenance.checkout(package) == {"git_commit": commit, "git_dirty": False, "git_diff_digest": None}


def test_each_change_of_the_package_has_its_own_digest(package: Path) -> None:
    digests = set()
    for step in range(3):
        (package / "__init__.py").write_text(f"x = {step + 2}\n")
        found = provenance.checkout(package)
        assert found["git_dirty"] is True
        assert provenance.checkout(package) == found
        digests.add(found["git_diff_digest"])
    for content in ("y = 1\n", "y = 2\n"):
        (package / "untracked.py").write_text(content)
        digests.add(provenance.checkout(package)["git_diff_digest"])
    git(package.parent, "add", ".")
    assert provenance.checkout(package)["git_dirty"] is True
    assert len(digests) == 5


def test_reports_and_runs_beside_the_package_change_nothing(package: Path) -> None:
    (package.parent / "reports").mkdir()
    (package.parent / "reports" / "small.md").write_text("written by a study")
    assert provenance.checkout(package)["git_dirty"] is False


def test_an_environment_inside_another_repository_does_not_pass_for_the_checkout(package: Path) -> None:
    installed = package.parent / "venv" / "site-packages" / "harness"
    installed.mkdir(parents=True)
    assert provenance.checkout(installed)["git_commit"] is None


def test_no_git_and_no_checkout_are_no_error(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = {"git_commit": None, "git_dirty": None, "git_diff_digest": None}
    assert provenance.checkout(tmp_path / "gone" / "harness") == unknown
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.checkout(package) == unknown


def test_a_hooks_git_dir_does_not_mislead(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert provenance.checkout(package)["git_commit"] is not None


def test_a_git_that_hangs_is_given_up(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "GIT_SECONDS", 0.2)
    start = time.perf_counter()
    assert provenance.checkout(package)["git_commit"] is None
    assert time.perf_counter() - start < 2


def test_everything_is_there_and_quick() -> None:
    start = time.perf_counter()
    found = provenance.collect(["harness", "run", "experiments/baseline.yaml"])
    assert time.perf_counter() - start < 0.3
    assert found["command"] == ["harness", "run", "experiments/baseline.yaml"]
    assert found["python"] == sys.version.split()[0]
    assert {"torch", "numpy", "wandb", "budget-ablation-harness"} <= found["packages"].keys()
    assert {"git_commit", "git_dirty", "git_diff_digest", "platform", "host", "started"} <= found.keys()
    assert found["started"].endswith("+00:00")
    json.dumps(found)


@pytest.mark.parametrize(
    "command",
    [
        ["--wandb-api-key", KEY],
        [f"--wandb-api-key={KEY}"],
        ["--Password", KEY, "file.yaml"],
        ["-o", f"data.token={KEY}"],
        ["plain", KEY],
        [f"https://user:{KEY}@host/path"],
        ["--note", f"my key is {KEY}!"],
    ],
)
def test_no_secret_is_told(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    told = json.dumps(provenance.collect(["harness", "run", *command]))
    assert KEY not in told
    assert "***" in told


def test_a_secret_the_environment_does_not_know_is_hidden_by_its_options_name() -> None:
    assert provenance.redact(["--api-key", KEY, "x.yaml"], {}) == ["--api-key", "***", "x.yaml"]
    assert provenance.redact([f"https://me:{KEY}@host/"], {}) == ["https://***@host/"]


def test_what_is_no_secret_stays() -> None:
    command = ["harness", "run", "a.yaml", "-o", "optim.lr=0.1", "--seed", "3", "--wandb", "offline"]
    assert provenance.redact(command, {"MY_TOKEN": "offline", "EMPTY_KEY": ""}) == command


def test_a_name_that_is_no_text_is_told_by_its_bytes() -> None:
    command = ["harness", "run", os.fsdecode(b"caf\xe9.yaml"), "café.yaml"]
    assert provenance.redact(command, {}) == ["harness", "run", "caf\\udce9.yaml", "café.yaml"]
