"""tests/README.md's table of promises names tests that exist, and run where it says."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
PLACES = ("soak", "gpu", "slow")  # by a mark of that name; else quick


def rows() -> list[list[str]]:
    """The table's, without its head and those that only give a section's name."""
    lines = [line for line in (TESTS / "README.md").read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return [row for row in cells if not (row[0].startswith("**") and not any(row[1:]))]


@cache
def marks_of(file: str) -> dict[str, set[str]]:
    """The tests of a file with their marks, the file's own among them."""
    tree = ast.parse((TESTS / file).read_text())
    shared = [node.value for node in tree.body if isinstance(node, ast.Assign) and _names(node) == ["pytestmark"]]
    return {
        node.name: {mark for expression in [*shared, *node.decorator_list] for mark in _marks(expression)}
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def _names(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


def _marks(expression: ast.expr) -> set[str]:
    """`slow` of `pytest.mark.slow`, called or in a list."""
    return set(re.findall(r"\bmark\.(\w+)", ast.unparse(expression)))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_each_promise_names_a_test_that_runs_where_it_says(row: list[str]) -> None:
    promise, test, place = row
    assert promise
    named = NAMED.fullmatch(test)
    assert named, f"{test} is no `file.py::test`"
    file, name = named.groups()
    assert name in marks_of(file), f"{file} has no {name}"
    marks = marks_of(file)[name]
    assert place == next((mark for mark in PLACES if mark in marks), "quick")
