"""Decoded images in one file beside the data set, mapped into memory by every process that trains on them.

Reading the official files means hashing and unpickling 180 MB, and every process would hold them once more; the pages
of a mapped file are there once, however many runs of a study look at them. The file is made when the images are first
read, and made anew when the files they came from have changed. It is a copy: deleting it costs a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = "decoded"
HEADER = 4096  # bytes, so that the arrays begin with a page
FORMAT = 1

Array = np.ndarray[Any, Any]


def place(name: str, data_dir: Path) -> Path:
    """Where the decoded images of data set `name` lie, there or not."""
    return data_dir / FOLDER / f"{name}.bin"


def signature(files: Sequence[Path], content: str) -> str:
    """Changes when one of `files` is changed, replaced or touched, or when they are to hold another `content`.

    OSError where one of them is missing.
    """
    stats = [(file.name, stat.st_size, stat.st_mtime_ns) for file in files for stat in (file.stat(),)]
    return hashlib.sha256(json.dumps([FORMAT, content, stats]).encode()).hexdigest()


def load(path: Path, made_from: str) -> list[Array] | None:
    """The arrays in the file, mapped; None where there is no such file, it was made from something else, or damaged.

    They can be written to, as torch wants it, but what is written stays in this process.
    """
    try:
        with open(path, "rb") as file:
            header = json.loads(file.read(HEADER))
        if header["made_from"] != made_from:
            return None
        content = np.memmap(path, np.uint8, mode="c", offset=HEADER)
        if hashlib.sha256(content.data).hexdigest() != header["sha256"]:
            return None
        return _divide(content, header["arrays"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _divide(content: Array, layout: list[tuple[str, list[int]]]) -> list[Array]:
    arrays, begin = [], 0
    for dtype, shape in layout:
        end = begin + np.dtype(dtype).itemsize * int(np.prod(shape))
        arrays.append(content[begin:end].view(dtype).reshape(shape))
        begin = end
    return arrays


def store(path: Path, made_from: str, arrays: Sequence[Array]) -> None:
    """Keep the arrays (C-contiguous); a folder that can't be written or a full disk is no mistake, only a copy less."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(array.data)
    layout = [(array.dtype.str, list(array.shape)) for array in arrays]
    header = json.dumps({"made_from": made_from, "sha256": sha.hexdigest(), "arrays": layout}).encode()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(header.ljust(HEADER))
                for array in arrays:
                    file.write(array.data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
