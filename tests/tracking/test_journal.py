"""The journal: what is written is there, and what was torn does not spread."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from harness.errors import InputError, StorageError
from harness.tracking.journal import Journal
from tests.tracking.examples import row


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "base-0123456789" / "journal.jsonl")


def test_rows_come_back_as_written(journal: Journal) -> None:
    assert journal.rows() == []
    rows = [row(epoch, train_loss=0.1 + 0.2 / epoch) for epoch in range(1, 6)]
    for one in rows:
        journal.append(one)
    assert journal.rows() == rows
    assert len(journal.path.read_text().splitlines()) == 5


def test_each_row_is_on_the_disk_before_append_returns(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.append(row(1))
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(journal.path.read_bytes()))
    journal.append(row(2))
    assert [json.loads(line)["epoch"] for line in synced[0].splitlines()] == [1, 2]


@pytest.mark.parametrize("torn", [b'{"epoch": 3, "train_lo', b"{", b"\0\0\0\0", b'{"epoch": 3, "train_l\n', b"\xff\n"])
def test_a_torn_last_line_is_ignored_and_does_not_spoil_the_next_row(journal: Journal, torn: bytes) -> None:
    for epoch in (1, 2):
        journal.append(row(epoch))
    with open(journal.path, "ab") as file:
        file.write(torn)
    assert journal.rows() == [row(1), row(2)]
    journal.append(row(3))
    assert journal.rows() == [row(1), row(2), row(3)]


def test_a_torn_only_line_leaves_an_empty_journal(journal: Journal) -> None:
    journal.path.parent.mkdir()
    journal.path.write_bytes(b'{"epo')
    assert journal.rows() == []
    journal.append(row(1))
    assert journal.rows() == [row(1)]


def test_a_whole_last_line_counts_without_its_newline(journal: Journal) -> None:
    journal.append(row(1))
    journal.path.write_bytes(journal.path.read_bytes().rstrip(b"\n"))
    assert journal.rows() == [row(1)]
    journal.append(row(2))
    assert journal.rows() == [row(1), row(2)]


@pytest.mark.parametrize("damage", [b"garbage", b"[1]", b'{"loss": 1}', b""])
def test_a_damaged_line_in_the_middle_is_told_with_its_number(journal: Journal, damage: bytes) -> None:
    for epoch in (1, 2, 3):
        journal.append(row(epoch))
    lines = journal.path.read_bytes().splitlines()
    journal.path.write_bytes(b"\n".join([lines[0], damage, lines[2], b""]))
    with pytest.raises(InputError, match=r"journal\.jsonl:2"):
        journal.rows()


def test_truncating_drops_later_epochs_and_a_torn_line(journal: Journal) -> None:
    for epoch in range(1, 6):
        journal.append(row(epoch))
    with open(journal.path, "ab") as file:
        file.write(b'{"epoch": 6')
    journal.truncate(after_epoch=3)
    assert journal.path.read_bytes().endswith(b"}\n")
    assert [one["epoch"] for one in journal.rows()] == [1, 2, 3]
    journal.truncate(after_epoch=0)
    assert journal.rows() == []


def test_truncating_nothing_writes_nothing(journal: Journal) -> None:
    journal.truncate(after_epoch=3)
    assert not journal.path.exists()
    journal.append(row(1))
    before = journal.path.stat()
    journal.truncate(after_epoch=1)
    assert (journal.path.stat().st_ino, journal.path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_failed_truncation_keeps_every_row(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    for epoch in (1, 2):
        journal.append(row(epoch))

    def refuse(source: object, target: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match=r"journal\.jsonl.*Input/output"):
        journal.truncate(after_epoch=1)
    assert journal.rows() == [row(1), row(2)]


def test_a_full_disk_is_told_and_half_a_row_taken_back(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.append(row(1))
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 60:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:50])

    with monkeypatch.context() as full:
        full.setattr(os, "write", half)
        with pytest.raises(StorageError, match=r"journal\.jsonl.*No space left"):
            journal.append(row(2))
    assert journal.path.read_bytes().endswith(b"}\n")
    assert journal.rows() == [row(1)]


def test_a_number_that_is_not_finite_is_refused_and_not_written(journal: Journal) -> None:
    with pytest.raises(ValueError, match="JSON"):
        journal.append(row(1, train_loss=float("nan")))
    assert not journal.path.exists()
