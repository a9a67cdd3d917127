"""Pickled batches in CIFAR's layout, read without calling anything that they name.

A pickle is a program. Here the few names that an array needs stand for small classes and functions of this module,
which only note what was written; any other name is refused before anything is called.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import InputError

Array = np.ndarray[Any, Any]

_PLAIN = re.compile(r"[biuf][1248]")  # booleans, integers and floats of that many bytes


def read_batch(path: Path) -> dict[str, Any]:
    """The dictionary that a batch file holds, its keys as text, NumPy's arrays as arrays.

    Raises:
        InputError: the file can't be read, is no pickle of a dictionary, or names anything but arrays and containers.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror}", where=str(path)) from error
    return parse_batch(content, path)


def parse_batch(batch: bytes, path: Path) -> dict[str, Any]:
    """As `read_batch`, of a file's content; `path` is for messages."""
    try:
        content = _Unpickler(io.BytesIO(batch), encoding="bytes").load()
    except _Refused as error:
        fix = "it is not a CIFAR batch; nothing in it was run"
        raise InputError(f"this pickle names {error}, which is not read", where=str(path), fix=fix) from error
    except Exception as error:  # bytes that are no pickle end in whatever they lead to
        raise InputError(f"this is no pickle: {error}", where=str(path)) from error
    if not isinstance(content, dict):
        raise InputError(f"this pickle holds a {type(content).__name__}, not a dictionary", where=str(path))
    return {_text(key): _array(value) for key, value in content.items()}


class _Refused(pickle.UnpicklingError):
    """A name that is not on the list."""


class _DType:
    """What stands for `numpy.dtype`: the code it is called with, and the byte order of its state."""

    def __init__(self, code: Any, *_: Any):
        self.code, self.order = _text(code), "|"

    def __setstate__(self, state: Any) -> None:
        self.order = _text(state[1])

    @property
    def plain(self) -> np.dtype[Any]:
        if not _PLAIN.fullmatch(self.code) or self.order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"an array of type {self.code!r}")
        return np.dtype(self.order + self.code)


class _Array:
    """What stands for an array: filled by its state, (version, shape, type, column-major, bytes)."""

    value: Array

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, column_major, content = state
        self.value = _from_bytes(content, dtype, shape, "F" if column_major else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(content: Any, dtype: _DType, shape: Any, order: str) -> _Array:
    array = _Array()
    array.value = _from_bytes(content, dtype, shape, order)
    return array


def _from_bytes(content: Any, dtype: _DType, shape: Any, order: str) -> Array:
    return np.frombuffer(content, dtype.plain).reshape(tuple(shape), order="F" if order == "F" else "C")


def _scalar(dtype: _DType, content: bytes) -> Any:
    return np.frombuffer(content, dtype.plain).item()


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in the old protocols."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes as {encoding!r}")
    return text.encode("latin1")


_NAMES: dict[tuple[str, str], Callable[..., Any] | None] = {
    ("numpy", "ndarray"): None,  # an argument of `_reconstruct`; nothing to call
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")  # NumPy 1 and 2
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


def _array(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
