"""The quick parser reads what it takes as the thorough one does, places too; the rest it leaves alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.errors import InputError
from harness.spec import yaml_tree
from harness.spec.yaml_events import events
from harness.spec.yaml_tree import LARGE, parse, parse_quickly, read_document

ROOT = Path(__file__).parents[2]
SHIPPED = sorted([*ROOT.glob("experiments/*.yaml"), *ROOT.glob("ablations/*.yaml")])
ATOMS = [
    "a", "b:", "c:", "key", "name:", "[", "]", "{", "}", ",", ":", "-", "'", '"', "''", "'x'", '"q"', "1.0", "-1",
    "0x1", "null", "~", ".inf", "true", "yes", "=", "_", "(", "/", "$", "+", "#", "#x", "?", "x?", "<<", "&", "*", "!",
    "|", ">", "%", "é", "漢", "–",
]  # fmt: skip
TEXTS = st.lists(
    st.sampled_from(
        [*ATOMS, " ", "  ", "\n", "\n  ", "\n- ", "- ", ": ", ", ", " #x\n", "{a: 1}", "[1, 2]", "\t", "é"]
    ),
    max_size=14,
).map("".join)


def thorough(text: str) -> tuple[object, object]:
    try:
        return parse(text, "f")
    except InputError as error:
        return error.problems, None


@settings(deadline=None, max_examples=1500)
@given(TEXTS)
@example("a: {b: [1, 2.0, -3e4], 'c': \"d\"} # e\nf:\n  - g: h\n    i: j\n")
def test_both_parsers_read_alike(text: str) -> None:
    root = parse_quickly(text, "f")
    if root is not None:
        assert thorough(text) == (root, [])


@pytest.mark.parametrize(
    "text",
    ["a: &b 1", "a: *b", "a: !t 1", "a: |\n  b", "a: >\n  b", "? a", "---\na: 1", "a: 1\n...\n", "%YAML 1.1\n---\na: 1",
     'a: "\\/"', "a:\t1", "a: \x85", "a: \u2028", "a: 1\na: 2", "a: [1", "[a]: b"],
)  # fmt: skip
def test_unusual_text_is_left_to_the_thorough_parser(text: str) -> None:
    assert parse_quickly(text, "f") is None


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_are_plain(path: Path) -> None:
    text = re.sub("#.*", "", path.read_text())  # what stands in a comment may be anything
    assert parse_quickly(text, "f") == parse(text, "f")[0]


def large(line: str = "") -> str:
    rows = [f"  a{number}: {{model.width: {number}, optim.optimizer.lr: 0.5}}" for number in range(2000)]
    return "\n".join(["name: x", "arms:", *rows, line]) + "\n"


def test_a_large_file_is_read_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the thorough parser was asked")

    (tmp_path / "x.yaml").write_text(large())
    assert len(large()) > LARGE
    expected = yaml_tree._Builder(str(tmp_path / "x.yaml"))
    for event in events(large(), expected.name, []):
        expected.take(event)
    monkeypatch.setattr(yaml_tree, "events", refuse)
    assert read_document(tmp_path / "x.yaml").root == expected.root


def test_mistakes_of_a_large_file_are_told_as_those_of_a_small_one(tmp_path: Path) -> None:
    for wrong in ("  b: [1", "  a7: {}", "\tb: 1", "  b: *c", "[a]: b"):
        (tmp_path / "x.yaml").write_text(large(wrong))
        (tmp_path / "y.yaml").write_text("\n".join(["name: x", "arms:", "  a7: {}", wrong]) + "\n")
        told = [_told(tmp_path / name) for name in ("x.yaml", "y.yaml")]
        assert told[0] == told[1] != []


def _told(path: Path) -> list[str]:
    try:
        return [problem.what for problem in read_document(path).problems]
    except InputError as error:
        return [problem.what for problem in error.problems]
