from __future__ import annotations

import math
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError
from harness.spec.yaml_tree import MAX_BYTES, MAX_DEPTH, parse, parse_value, read_document
from tests.spec.conftest import problems_of


def tree_of(text: str) -> Any:
    root, problems = parse(text, "f.yaml")
    assert problems == []
    assert root is not None
    return root.plain()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5.0e-4", 5e-4),
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-0.25", -0.25),
        ("5_000_000", 5_000_000),
        ("+3", 3),
        ("017", 17),
        ("0x10", 16),
        ("0o17", 15),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'5'", "5"),
        ("'null'", "null"),
    ],
)
def test_scalars_of_yaml_1_2(text: str, value: Any) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize(
    "text", ["yes", "no", "on", "off", "y", "None", "1__0", "_1", "1:30", "2024-01-01", "1e", "9" * 5000]
)
def test_what_only_looks_like_a_boolean_or_number_is_text(text: str) -> None:
    assert parse_value(text) == text


@given(st.floats(allow_nan=False))
def test_every_float_python_writes_is_read_back(value: float) -> None:
    text = repr(value).replace("inf", ".inf")
    assert parse_value(text) == value
    assert isinstance(parse_value(text), float)


def test_a_directive_does_not_bring_yaml_1_1_back() -> None:
    assert tree_of("%YAML 1.1\n---\na: on\nb: 017\n") == {"a": "on", "b": 17}


def test_keys_are_text() -> None:
    assert tree_of("1: a\ntrue: b\nnull: c\n") == {"1": "a", "true": "b", "null": "c"}


def test_places_are_the_lines_of_the_keys() -> None:
    root, _ = parse("a:\n  b: 1\n  c:\n    - x\n    - y\n", "f.yaml")
    assert root is not None
    assert root.place_of(("a",)) == "f.yaml:1"
    assert root.place_of(("a", "b")) == "f.yaml:2"
    assert root.place_of(("a", "c", 1)) == "f.yaml:5"
    assert root.place_of(("a", "missing")) == "f.yaml:1"


def test_a_duplicate_key_is_told_with_both_lines_and_does_not_hide_the_next() -> None:
    _, problems = parse("a: 1\nb: 2\na: 3\nc: {d: 1, d: 2}\n", "f.yaml")
    assert [problem.where for problem in problems] == ["f.yaml:3", "f.yaml:4"]
    assert "`a` is written twice" in problems[0].what
    assert "f.yaml:1" in str(problems[0].fix)


@pytest.mark.parametrize("text", ["model:\n\tdepths: [1]\n", "a: 1\nb:\t2\n", "a:\n  \tb: 1\n"])
def test_tabs_are_named(text: str) -> None:
    (problem,) = problems_of(lambda: parse(text, "f.yaml"))
    assert "tab" in problem.what
    assert "spaces" in str(problem.fix)
    assert str(problem.where).startswith("f.yaml:")


def test_a_tab_in_quotes_is_text() -> None:
    assert tree_of('a: "x\ty"') == {"a": "x\ty"}


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system [ls]", "!!python/name:os.system x", "!env HOME", "!!str 5"]
)
def test_tags_are_refused_and_run_nothing(tag: str) -> None:
    _, problems = parse(f"a: {tag}\n", "f.yaml")
    assert len(problems) == 1
    assert "tag" in problems[0].what


def test_half_a_character_is_refused() -> None:
    _, problems = parse('a: "\\ud800"\n', "f.yaml")
    assert [problem.where for problem in problems] == ["f.yaml:1"]
    assert str(problems[0]).isprintable() or str(problems[0]).isascii()


def test_anchors_and_aliases_stand_for_their_value() -> None:
    assert tree_of("a: &x {lr: 0.1}\nb: *x\nc: [*x]\n") == {"a": {"lr": 0.1}, "b": {"lr": 0.1}, "c": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [1, *a]\n", "refers to no value"),
        ("a: *nowhere\n", "refers to no value"),
        ("a: &a foo\n*a : 3\n", "key must be text"),
        ("a: 1\n---\nb: 2\n", "second document"),
        ("? [1, 2]\n: b\n", "key must be text"),
        ("a: [1, 2\nb: 3\n", "can't be read as YAML"),
        ("a: b: c\n", "can't be read as YAML"),
        ("a: 'open\n", "can't be read as YAML"),
        ("a: \x07\n", "can't be read as YAML"),
        ("- 1\nb: 2\n", "can't be read as YAML"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_line(text: str, words: str) -> None:
    (problem,) = problems_of(lambda: parse(text, "f.yaml"))
    assert words in problem.what
    assert str(problem.where).startswith("f.yaml:")


def test_bombs_are_refused_quickly() -> None:
    laughs = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
    )
    started = time.process_time()
    assert "aliases expanded" in problems_of(lambda: parse(laughs, "f.yaml"))[0].what
    for deep in ["a: " + "[" * 5000, "a: " + "{a: " * 5000, "\n".join(" " * i + "a:" for i in range(500))]:
        assert f"more than {MAX_DEPTH} levels" in problems_of(partial(parse, deep, "f.yaml"))[0].what
    assert time.process_time() - started < 5


def test_levels_are_counted_through_aliases() -> None:
    def nested(levels: int, alias: str) -> str:
        return f"{'[' * levels}{alias}{']' * levels}"

    chain = f"a0: &a0 {nested(38, '1')}\n" + "".join(f"a{i}: &a{i} {nested(38, f'*a{i - 1}')}\n" for i in range(1, 40))
    (problem,) = problems_of(lambda: parse(chain, "f.yaml"))
    assert (problem.where, problem.what) == ("f.yaml:2", f"more than {MAX_DEPTH} levels of nesting, aliases expanded")
    most = f"a: &a {nested(20, '1')}\nb: &b {nested(18, '*a')}\nc: {{d: *b}}\n"
    assert len(str(tree_of(most)["c"]["d"])) == 38 * 2 + 1
    assert "aliases expanded" in problems_of(lambda: parse(f"{most}e: [[*b]]\n", "f.yaml"))[0].what


@given(st.text(alphabet="ab:-[]{}&*!#|>'\"%@,? \n\t01.~", max_size=40))
def test_any_text_gives_a_tree_or_an_input_error(text: str) -> None:
    with suppress(InputError):
        parse(text, "f.yaml")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"# only a comment\n\n", "empty"),
        (b"- a\n- b\n", "is a list"),
        (b"just text\n", "a single value"),
        (b"name: \xff\xfe\n", "not UTF-8"),
        ("name: x\n".encode("utf-16"), "not UTF-8"),
        (b"\x80\x04\x95", "not UTF-8"),
        (b"a: " + b"1" * MAX_BYTES, "larger than"),
    ],
)
def test_what_is_no_spec_file_is_said_plainly(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(data)
    (problem,) = problems_of(lambda: read_document(path))
    assert words in problem.what
    assert str(path) in str(problem.where)


def test_the_line_of_a_byte_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"name: x\nnotes: caf\xe9\n")
    assert problems_of(lambda: read_document(path))[0].where == f"{path}:2"


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x\n")
    assert read_document(path).root.plain() == {"name": "x"}


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "baseline.yaml").write_text("name: x\n")
    assert "folder" in problems_of(lambda: read_document(tmp_path))[0].what
    missing = problems_of(lambda: read_document(tmp_path / "basline.yaml"))[0]
    assert missing.what == "there is no such file"
    assert "baseline.yaml" in str(missing.fix)
    assert "no folder" in str(problems_of(lambda: read_document(tmp_path / "nowhere" / "x.yaml"))[0].fix)
    assert "can't be read" in problems_of(lambda: read_document(tmp_path / "a\0b.yaml"))[0].what
