"""The journal of a run (`journal.jsonl`): one row an epoch, on the disk before the next one begins.

It is the truth; the Weights & Biases mirror is rebuilt from it. A row counts once its line parses:
a process that dies in mid-write leaves a torn last line, which is ignored and cut off by the next row.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Required, TypedDict

from pydantic_core import from_json

from harness.errors import InputError
from harness.tracking.atomic import atomic_write_bytes, storage_error, sync_folder


class Row(TypedDict, total=False):
    """One epoch. Losses are means in nats, accuracies fractions, `lr` that of the epoch's last step.

    `train_accuracy` is the running one, against the unmixed labels. More keys may stand beside these.
    """

    epoch: Required[int]
    train_loss: Required[float]
    train_accuracy: Required[float]
    val_loss: Required[float | None]
    val_accuracy: Required[float | None]
    lr: Required[float]
    seconds: float
    images_per_second: float
    memory_bytes: int
    utilisation: float


NUMBERS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds", "images_per_second",
           "memory_bytes", "utilisation")  # fmt: skip
LARGEST = sys.float_info.max


class Journal:
    """The rows of one run. One process writes (under the run's claim); any number may read meanwhile."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, row: Row | Mapping[str, Any]) -> None:
        """Write one row and wait until the disk has it.

        ValueError for a number that is not finite (JSON has none); StorageError when the disk refuses,
        with the rows written before left as they were.
        """
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self.path.exists()
            with open(self.path, "ab", buffering=0) as file:
                self._cut_torn_line(file.fileno())
                end = os.fstat(file.fileno()).st_size
                try:
                    _write_all(file.fileno(), line)
                    os.fsync(file.fileno())
                except OSError:
                    with contextlib.suppress(OSError):
                        os.ftruncate(file.fileno(), end)
                    raise
            if is_new:
                sync_folder(self.path.parent)
        except OSError as error:
            raise storage_error(self.path, error) from error

    def rows(self) -> list[dict[str, Any]]:
        """All rows in order; [] when there is no journal. InputError (file:line) for a damaged line in the middle."""
        return [row for _, row in self._parsed()]

    def truncate(self, after_epoch: int) -> None:
        """Drop the rows of later epochs (a run that goes on from an earlier checkpoint); atomic."""
        kept = [line for line, row in self._parsed() if row["epoch"] <= after_epoch]
        data = b"".join(line + b"\n" for line in kept)
        if data != self._read():
            atomic_write_bytes(self.path, data)

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise InputError(f"can't be read: {error.strerror}", where=str(self.path)) from error

    def _parsed(self) -> list[tuple[bytes, dict[str, Any]]]:
        lines = self._read().removesuffix(b"\n").split(b"\n")
        parsed: list[tuple[bytes, dict[str, Any]]] = []
        for number, line in enumerate(lines, start=1):
            row = _parse(line)
            if row is not None:
                parsed.append((line, row))
            elif number < len(lines):  # the last may be torn
                raise InputError(
                    "damaged row: not a JSON object with an epoch and numbers", where=f"{self.path}:{number}"
                )
        return parsed

    def _cut_torn_line(self, descriptor: int) -> None:
        """Leave the file ending in whole lines, so that the next row does not grow onto half of another."""
        data = self._read()
        body, _, last = data.removesuffix(b"\n").rpartition(b"\n")
        if not data or (data.endswith(b"\n") and _parse(last) is not None):
            return
        if _parse(last) is not None:
            os.write(descriptor, b"\n")
        else:
            os.ftruncate(descriptor, len(body) + 1 if body else 0)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = from_json(
            line, allow_inf_nan=False
        )  # a fifth of the time of `json.loads`: a report reads hundreds of thousands of lines
    except ValueError:
        return None
    return row if isinstance(row, dict) and _is_whole(row) else None


def _is_whole(row: dict[str, Any]) -> bool:
    """Whoever reads it may count on its types: a report is not to end in the middle for one of them."""
    return (
        type(row.get("epoch")) is int
        and 0 <= row["epoch"] < 2**63
        and all(value is None or _is_number(value) for value in map(row.get, NUMBERS))
    )


def _is_number(value: Any) -> bool:
    return type(value) in (float, int) and -LARGEST <= value <= LARGEST


def _write_all(descriptor: int, data: bytes) -> None:
    """A full disk may take half a line and say so only by the count."""
    while data:
        data = data[os.write(descriptor, data) :]
