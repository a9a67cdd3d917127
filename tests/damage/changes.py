"""Ways to damage a file: each takes a `random.Random` and what the file holds, and gives what it is to hold.

All of it follows from the generator's seed, so that a case can be made again.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.data_files import Trap

Change = Callable[[Random, bytes], bytes]

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A billion values in nine lines."""
SCALARS = (
    "", "~", "true", "yes", "0", "-1", "1e999", "-1e400", ".nan", ".inf", "-.inf", "9" * 60, "9" * 5000, "1_000",
    "0x10", "1e-400", "2.0", "[]", "{}", "[[1]]", "{a: {b: c}}", "'\\0'", '"\\0"', '"\\ud800"', '"\\e[31m"', "é",
    "日本", "\U0001f600", "\u202e", "../../x", "/etc/passwd", "C:\\x", "*a", "&a 1", "&a [*a]",
    "!!python/object:os.system x", "!!binary aGk=", "!!python/object/apply:os.system [touch sprung]", "<<: *a",
    "{<<: {a: 1}}", "- 1", "? 1", "|\n  x", "'", '"', "[", "}", "%x", "@x", "`x`", "x" * 100_000,
    "<script>alert(1)</script>", "[/red]", "[bold", "$(touch sprung)", "2024-01-01", "1:30:00",
)  # fmt: skip
LINES = (
    "<<: {width: 8}", "base: tiny.yaml", "base: .", "base: /", "base: [1]", "base: ''", "---", "...", "%YAML 9.9",
    "!!python/object/apply:os.system [touch sprung]", "? [a, b]", "\t", "\0", "x: &x {x: *x}", "name: ''",
    "name: a/../b", "guard: {max_parameters: 1}", "seeds: 1000000000", "seeds: [0, 0]", "seeds: [-1]",
    "match: {parameters: model.width}", "grid: {model.width: []}", "zip: {model.width: [1], model.dropout: []}",
    "ladder: [[]]", "arms: {a: {}}", "exclude: [{}]", "loss: {distill: {teacher: runs}}",
    "loss: {distill: {teacher: /dev/null}}", "loss: {distill: {teacher: tiny.yaml}}",
    "loss: {distill: {teacher: bad.yaml}}", "data: {dataset: folder, folder: {path: runs}}",
    "data: {dataset: folder, folder: {path: loop}}", "data: {dataset: digits, protocol: [paper]}",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, 1e308, -1e308, 10**30, 2**63, -(2**63), 10**400, "", "x", "\0", "\x1b[31mred",
    "é\u202e日本", "<script>alert(1)</script>", "[/red] [bold", "../../x", "/etc/passwd", "x" * 10_000, "cpu", [], {},
    [[]], [None], [1, "a", None], {"": 0}, {"a": {"b": None}}, {"\0": 1}, ["../x"], float("nan"), float("inf"),
    float("-inf"),
)  # fmt: skip


# --- bytes -------------------------------------------------------------------------------------


def flip_bytes(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def cut_off(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def cut_out(rng: Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(1, 200) :]


def insert(rng: Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    what = rng.choice(
        (b"\0", b"\xff\xfe", b"\x1b[31m", b"\r", b"\n", "\u2028".encode(), "\ufeff".encode(), b"\x85", b"\x7f", b"\t")
    )
    return data[:start] + what + data[start:]


def replace_all(rng: Random, data: bytes) -> bytes:
    whole = (b"", b"\n", b"\0" * 100, b"null", b"[]", b"{}", b'"x"', b"1", b"\x80\x04N.", b"PK\x03\x04", b"\xff" * 50)
    return rng.choice((*whole, data * 3, rng.randbytes(200)))


def other_encoding(rng: Random, data: bytes) -> bytes:
    text = data.decode("utf-8", errors="replace") + "# é"
    return text.encode(rng.choice(("utf-16", "utf-32", "latin-1", "utf-7", "cp500")), errors="replace")


BYTES: tuple[Change, ...] = (flip_bytes, cut_off, cut_out, insert, replace_all, other_encoding)


# --- lines and YAML ----------------------------------------------------------------------------


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8", errors="replace").split("\n")


def without_a_line(rng: Random, data: bytes) -> bytes:
    lines = _lines(data)
    del lines[rng.randrange(len(lines))]
    return "\n".join(lines).encode()


def a_line_twice(rng: Random, data: bytes) -> bytes:
    lines = _lines(data)
    at = rng.randrange(len(lines))
    return "\n".join([*lines[:at], lines[at], *lines[at:]]).encode()


def lines_in_another_order(rng: Random, data: bytes) -> bytes:
    lines = _lines(data)
    rng.shuffle(lines)
    return "\n".join(lines).encode()


def another_value(rng: Random, data: bytes) -> bytes:
    """Of the key of a line, or of one in a flow mapping."""
    lines = _lines(data)
    with_key = [at for at, line in enumerate(lines) if ":" in line]
    if not with_key:
        return data
    at = rng.choice(with_key)
    colons = [place for place, letter in enumerate(lines[at]) if letter == ":"]
    start = rng.choice(colons)
    ends = [place for place in range(start, len(lines[at])) if lines[at][place] in ",}"]
    end = ends[0] if ends and rng.random() < 0.7 else len(lines[at])
    lines[at] = f"{lines[at][: start + 1]} {rng.choice(SCALARS)}{lines[at][end:]}"
    return "\n".join(lines).encode(errors="surrogatepass")


def another_level(rng: Random, data: bytes) -> bytes:
    lines = _lines(data)
    at = rng.randrange(len(lines))
    lines[at] = "  " * rng.randrange(1, 4) + lines[at] if rng.random() < 0.5 else lines[at].lstrip()
    return "\n".join(lines).encode()


def another_line(rng: Random, data: bytes) -> bytes:
    lines = _lines(data)
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(LINES))
    return "\n".join(lines).encode()


def deep(rng: Random, data: bytes) -> bytes:
    depth = rng.choice((30, 50, 2_000, 50_000))
    nested = "[" * depth + "]" * depth if rng.random() < 0.5 else "{a: " * depth + "1" + "}" * depth
    return data + f"\nnotes: {nested}\n".encode()


def laughs(rng: Random, data: bytes) -> bytes:
    return rng.choice((LAUGHS.encode(), LAUGHS.encode() + data, data + b"\n" + LAUGHS.encode()))


YAML: tuple[Change, ...] = (
    without_a_line, a_line_twice, lines_in_another_order, another_value, another_value, another_value, another_level,
    another_line, another_line, deep, laughs,
)  # fmt: skip


# --- JSON --------------------------------------------------------------------------------------


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON tree, the tree's own, (), among them."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def with_value(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of the tree with another value at a path."""
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = with_value(copy[path[0]], path[1:], value)
    return copy


def without(tree: Any, path: tuple[Any, ...]) -> Any:
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = without(copy[path[0]], path[1:])
    return copy


def to_json(tree: Any) -> bytes:
    """JSON with NaN in it where there is one, and numbers of any length."""
    return json.dumps(tree).encode(errors="surrogatepass")


def json_value(rng: Random, data: bytes) -> bytes:
    """Another value at one place, anywhere in the document."""
    tree = json.loads(data)
    return to_json(with_value(tree, rng.choice(places(tree)), rng.choice(VALUES)))


def json_without(rng: Random, data: bytes) -> bytes:
    tree = json.loads(data)
    return to_json(without(tree, rng.choice(places(tree)[1:])))


def json_moved(rng: Random, data: bytes) -> bytes:
    """What stands at one place at another too."""
    tree = json.loads(data)
    there, here = (rng.choice(places(tree)) for _ in range(2))
    value = tree
    for key in there:
        value = value[key]
    return to_json(with_value(tree, here, value))


def json_deep(rng: Random, data: bytes) -> bytes:
    tree = json.loads(data)
    text = json.dumps(with_value(tree, rng.choice(places(tree)[1:]), "HERE"))
    depth = rng.choice((50, 300, 5_000))
    return text.replace('"HERE"', "[" * depth + "]" * depth).encode()


JSON: tuple[Change, ...] = (
    json_value,
    json_value,
    json_value,
    json_value,
    json_without,
    json_without,
    json_moved,
    json_deep,
)


def journal_rows(rng: Random, data: bytes) -> bytes:
    """One row's values, keys or line."""
    lines = data.splitlines()
    if not lines:
        return data
    at = rng.randrange(len(lines))
    kinds: tuple[Change, ...] = (
        *JSON,
        lambda rng, line: rng.choice((b"", b"[]", b"1", b"null", b'"x"', b"{", b'{"epoch": 1')),
        cut_off,
    )
    lines[at] = rng.choice(kinds)(rng, lines[at])
    if rng.random() < 0.2:
        lines.insert(at, lines[rng.randrange(len(lines))])
    return b"\n".join(lines) + rng.choice((b"\n", b"", b"\n\n"))


# --- arrays and weights ------------------------------------------------------------------------


def predictions(rng: Random, data: bytes) -> bytes:
    """One array of another shape, type or length, left out, or of objects."""
    with np.load(io.BytesIO(data)) as stored:
        arrays: dict[str, Any] = {name: stored[name] for name in stored.files}
    name = rng.choice(sorted(arrays))
    array = arrays[name]
    others: tuple[Any, ...] = (
        None, array[:0] if array.ndim else array, array[:3] if array.ndim else array, np.array(3), np.array("x"),
        np.array(["a", "b"]), np.array(array)[None], array.astype(str), np.full(array.shape, 255, np.uint8),
        np.full(array.shape, -7, np.int64), np.full(array.shape, np.nan), np.full(array.shape, 2**40),
        np.array([Trap(Path("sprung"))], dtype=object), np.zeros((3, 3, 3)), np.zeros(array.shape, complex),
        np.zeros(array.shape, "datetime64[s]"), np.array(b"\xff\0"), np.array("<b>"),
    )  # fmt: skip
    other = rng.choice(others)
    arrays.pop(name)
    if other is not None:
        arrays[name] = other
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=True, **arrays)
    return stream.getvalue()


def header_of_an_array(rng: Random, data: bytes) -> bytes:
    """An array's header that promises more than there is, or is a program."""
    headers = (
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "__import__('os').mkdir('sprung')", "{" * 500,
        "{'descr': '<f8'}", "{'descr': [('a', '<f8')], 'fortran_order': 0, 'shape': ()}",
    )  # fmt: skip
    text = rng.choice(headers).encode() + b"\n"
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(stream, "w") as changed:
        victim = rng.choice(archive.namelist())
        for name in archive.namelist():
            body = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 64
            changed.writestr(name, body if name == victim else archive.read(name))
    return stream.getvalue()


PREDICTIONS: tuple[Change, ...] = (predictions, predictions, predictions, header_of_an_array)


def checkpoint(rng: Random, data: bytes) -> bytes:
    """A whole archive with a wrong value somewhere: other shapes and types, missing and foreign keys, a pickle."""
    import torch

    from harness.training.checkpoint import serialise

    content = torch.load(io.BytesIO(data), weights_only=True)
    where = [path for path in _tree_places(content) if path]
    path = rng.choice(where)
    old = content
    for key in path:
        old = old[key]
    values: tuple[Any, ...] = (
        None, 0, -1, 1e30, float("nan"), "x", "", [], {}, [1], {"a": 1}, {0: 1}, torch.zeros(()), torch.zeros(0),
        torch.zeros(2, 2), torch.zeros(3, dtype=torch.int64), torch.full((1,), float("nan")), Trap(Path("sprung")),
    )  # fmt: skip
    if isinstance(old, torch.Tensor):
        values += (
            old.double(),
            old[:0] if old.ndim else old,
            old.flatten(),
            old.to(torch.complex64),
            old.bool(),
            old.unsqueeze(0),
        )
    changed = without(content, path) if rng.random() < 0.3 else with_value(content, path, rng.choice(values))
    return serialise(changed)  # so that its checksum holds


def _tree_places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    return [place for place in places(tree, path) if len(place) < 7]


CHECKPOINT: tuple[Change, ...] = (checkpoint, checkpoint, checkpoint, flip_bytes, cut_off, cut_out, replace_all)


# --- instead of a file -------------------------------------------------------------------------


def folder_instead(path: Path) -> None:
    path.mkdir()


def loop_instead(path: Path) -> None:
    path.symlink_to(path.name)


def dangling_instead(path: Path) -> None:
    path.symlink_to("nowhere/at/all")


def nothing_instead(path: Path) -> None:
    """The file is gone."""


def unreadable_instead(path: Path) -> None:
    path.symlink_to("/proc/self/mem")  # even for root: the first read fails


INSTEAD = (folder_instead, loop_instead, dangling_instead, nothing_instead, unreadable_instead)
