"""Reading a run's `.wandb` file: what Weights & Biases will have of it, to be compared with the journal.

The file is a LevelDB log (blocks of 32 KiB, records with a checksum, cut where they cross a block) of protocol
buffers `wandb.proto.wandb_internal_pb2.Record`, after a header of seven bytes.
"""

from __future__ import annotations

import importlib
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32 * 1024
FILE_HEADER = b":W&B\xe1\xbe\x00"
PART_HEADER = struct.Struct("<IHB")  # checksum of the kind and the data, length of the data, kind
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


class DamagedFile(Exception):
    """The file is not a `.wandb` file, or ends or is broken in mid-record."""


@dataclass
class WandbFile:
    """What such a file says. Keys that wandb adds for itself (they begin with `_`) are left out."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """The history, in order."""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    """As told last, nested keys with dots."""
    run: dict[str, Any] = field(default_factory=dict)
    """`run_id`, `project`, `entity`, `run_group`, `job_type`, `display_name`, `notes`, `tags`."""
    exit_code: int | None = None
    """None where the file was not closed."""


def find(folder: Path) -> Path | None:
    """The one `.wandb` file below a run's `wandb/` folder; None where there is none, or more than one."""
    found = sorted(folder.glob("*run-*/*.wandb"))
    return found[0] if len(found) == 1 else None


def read(path: Path) -> WandbFile:
    """Everything in the file.

    Raises:
        DamagedFile: not such a file, or not whole.
        OSError: it can't be read.
        ImportError: wandb, whose protocol buffers these are, is not installed.
    """
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    told = WandbFile()
    for data in records(path.read_bytes()):
        record = messages.Record()
        record.ParseFromString(data)
        _take(told, record)
    return told


def _take(told: WandbFile, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "history":
        told.rows.append(_public(record.history.item))
    elif kind == "summary":
        told.summary |= _public(record.summary.update)
    elif kind == "config":
        told.config |= _public(record.config.update)
    elif kind == "run":
        told.config |= _public(record.run.config.update)
        names = ("run_id", "project", "entity", "run_group", "job_type", "display_name", "notes")
        told.run = {name: getattr(record.run, name) for name in names} | {"tags": list(record.run.tags)}
    elif kind == "exit":
        told.exit_code = record.exit.exit_code


def _public(items: Any) -> dict[str, Any]:
    pairs = ((".".join(item.nested_key) or item.key, item.value_json) for item in items)
    return {key: json.loads(value) for key, value in pairs if not key.startswith("_")}


def records(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log, put together; DamagedFile where one is broken or the last is not whole."""
    if not data.startswith(FILE_HEADER):
        raise DamagedFile("it does not begin as a .wandb file does")
    position, parts = len(FILE_HEADER), list[bytes]()
    while position < len(data):
        left = BLOCK - position % BLOCK
        if left < PART_HEADER.size:  # the end of a block is filled with zeros
            position += left
            continue
        kind, part, position = _part(data, position)
        if kind in (WHOLE, FIRST) and parts:
            raise DamagedFile(f"a record is not finished before byte {position}")
        parts.append(part)
        if kind in (WHOLE, LAST):
            yield b"".join(parts)
            parts = []
    if parts:
        raise DamagedFile("it ends in mid-record")


def _part(data: bytes, position: int) -> tuple[int, bytes, int]:
    """Kind and data of the part at `position`, and where the next one begins."""
    begin = position + PART_HEADER.size
    if begin > len(data):
        raise DamagedFile("it ends in mid-record")
    checksum, length, kind = PART_HEADER.unpack_from(data, position)
    part = data[begin : begin + length]
    if len(part) < length:
        raise DamagedFile("it ends in mid-record")
    if not WHOLE <= kind <= LAST or zlib.crc32(part, zlib.crc32(bytes([kind]))) != checksum:
        raise DamagedFile(f"the checksum at byte {position} is wrong")
    return kind, part, begin + length
