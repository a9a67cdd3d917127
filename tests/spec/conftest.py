"""A small valid experiment to write variants of, and a way to see an InputError's problems."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from harness.errors import InputError, Problem
from harness.spec.ablation import load_study
from harness.spec.documents import experiment_from_dict
from harness.spec.experiment import ExperimentSpec

Writer = Callable[[str, str], Path]

PLAIN = """\
name: plain
model: {depths: [1, 1], width: 16}
data: {dataset: digits}
optim:
  optimizer: {lr: 0.1}
train: {epochs: 3, batch_size: 64}
"""


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Write a dedented text under a name in a fresh folder that already has plain.yaml."""
    (tmp_path / "plain.yaml").write_text(PLAIN)

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
        return path

    return write_file


@pytest.fixture
def plain() -> dict[str, Any]:
    """The same experiment as a tree."""
    return {
        "name": "plain",
        "model": {"depths": [1, 1], "width": 16},
        "data": {"dataset": "digits"},
        "optim": {"optimizer": {"lr": 0.1}},
        "train": {"epochs": 3, "batch_size": 64},
    }


@pytest.fixture
def spec(plain: dict[str, Any]) -> ExperimentSpec:
    return experiment_from_dict(plain)


def problems_of(call: Callable[[], Any]) -> tuple[Problem, ...]:
    """The problems of the InputError that `call` must raise."""
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.exit_code == 2
    return caught.value.problems


def tells_of_a_line(write: Writer, line: str, where: str, words: str) -> None:
    """`line`, the third of a study's file, is its one mistake: told there, at the field `where`, with these `words`."""
    path = write("study.yaml", f"name: study\nbase: plain.yaml\n{line}\n")
    (problem,) = problems_of(lambda: load_study(path))
    assert problem.where == f"{path}:3: {where}"
    assert words in str(problem)


def problem_at(problems: tuple[Problem, ...], where: str) -> Problem:
    """The one problem whose place ends like this."""
    found = [problem for problem in problems if (problem.where or "").endswith(where)]
    assert len(found) == 1, f"{where} not once in {[str(problem) for problem in problems]}"
    return found[0]
