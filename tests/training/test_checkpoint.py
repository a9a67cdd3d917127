"""Checkpoint files: what is damaged is noticed, nothing in them is executed, another format is told apart."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import InputError
from harness.training import checkpoint
from harness.training.checkpoint import DamagedCheckpoint

CONTENT = {"weights": {"a": torch.arange(12.0).view(3, 4), "b": torch.arange(5)}, "epoch": 3, "best": None}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_what_is_written_is_read_and_torch_reads_it_too(tmp_path: Path) -> None:
    path = tmp_path / "final.pt"
    path.write_bytes(checkpoint.serialise(CONTENT))
    expected = {"format": checkpoint.FORMAT, **CONTENT}
    assert equal(expected, checkpoint.read(path))
    assert equal(expected, torch.load(path, weights_only=True))


def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    """In the archive's directory too, where the members' own checksums do not reach: torch would read zeros."""
    path = tmp_path / "last.pt"
    data = checkpoint.serialise(CONTENT)
    entries = [match.start() for match in re.finditer(b"PK\x01\x02", data)]
    comment = range(len(data) - checkpoint.DIGEST, len(data))
    attributes = [entry + 38 for entry in entries]  # a "folder" by these, and torch reads zeros
    for position in (*range(0, len(data) - checkpoint.DIGEST - 2, 19), *attributes, *comment):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(DamagedCheckpoint):
            checkpoint.read(path)


def test_a_file_cut_anywhere_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    data = checkpoint.serialise(CONTENT)
    for length in range(0, len(data), 37):
        path.write_bytes(data[:length])
        with pytest.raises(DamagedCheckpoint, match=r"last\.pt"):
            checkpoint.read(path)


class Code:
    """Runs a command where it is unpickled without care."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    path, proof = tmp_path / "final.pt", tmp_path / "executed"
    path.write_bytes(checkpoint.serialise({"weights": Code(f"touch {proof}")}))
    with pytest.raises(DamagedCheckpoint):
        checkpoint.read(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists()  # it would have been


def test_another_format_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(checkpoint.serialise(CONTENT))
    now = checkpoint.FORMAT
    monkeypatch.setattr(checkpoint, "FORMAT", now + 1)
    with pytest.raises(InputError, match=rf"last\.pt: .* of format {now}, .* reads format {now + 1}\n.*--fresh"):
        checkpoint.read(path)
