"""The decoded copy of a data set: the same images, mapped, and never in place of files that have changed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from harness.errors import InputError
from harness.spec.data import Data
from harness.training import cifar, decoded
from harness.training.data import ensure_data
from tests.data_files import Array, write_cifar

PIXELS = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
LABELS = np.array([7, 300], dtype=np.int64)


def is_mapped(array: Array) -> bool:
    base: object = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return False


def read(data_dir: Path) -> list[tuple[Array, Array]]:
    return cifar.read("cifar10", data_dir)


def equal(one: list[tuple[Array, Array]], other: list[tuple[Array, Array]]) -> bool:
    return all(np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_arrays_come_back_as_they_were_and_mapped(tmp_path: Path) -> None:
    path = decoded.place("some", tmp_path)
    assert decoded.load(path, "this") is None
    decoded.store(path, "this", [PIXELS, LABELS])
    loaded = decoded.load(path, "this")
    assert loaded is not None
    for array, expected in zip(loaded, (PIXELS, LABELS), strict=True):
        assert array.dtype == expected.dtype
        assert np.array_equal(array, expected)
        assert is_mapped(array)
    assert decoded.load(path, "that") is None


def test_what_a_process_writes_stays_in_it(tmp_path: Path) -> None:
    path = decoded.place("some", tmp_path)
    decoded.store(path, "this", [PIXELS])
    for _ in range(2):
        loaded = decoded.load(path, "this")
        assert loaded is not None
        assert np.array_equal(loaded[0], PIXELS)
        loaded[0][:] = 0


@pytest.mark.parametrize("damage", ["flip", "cut", "header", "empty"])
def test_a_damaged_copy_is_none(tmp_path: Path, damage: str) -> None:
    path = decoded.place("some", tmp_path)
    decoded.store(path, "this", [PIXELS])
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
    elif damage == "header":
        content[:4] = b"oops"
    path.write_bytes(content[: {"cut": decoded.HEADER + 5, "empty": 0}.get(damage, len(content))])
    assert decoded.load(path, "this") is None


def test_the_first_reading_leaves_the_copy_that_later_ones_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(monkeypatch, "cifar10", tmp_path)
    ensure_data(Data(dataset="cifar10"), tmp_path)
    monkeypatch.setattr(cifar, "parse_batch", None)  # nothing is unpickled again
    mapped = read(tmp_path)
    assert all(is_mapped(array) for arrays in mapped for array in arrays)
    monkeypatch.undo()


def test_mapped_images_are_those_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(monkeypatch, "cifar10", tmp_path)
    for images in (read(tmp_path), read(tmp_path)):
        for (pixels, labels), train in zip(images, (True, False), strict=True):
            reference = CIFAR10(str(tmp_path), train=train)
            assert np.array_equal(pixels, reference.data)
            assert pixels.flags.c_contiguous
            assert labels.tolist() == reference.targets


def test_a_source_that_changes_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where size and content would pass for the old ones: the copy never hides a damaged file."""
    write_cifar(monkeypatch, "cifar10", tmp_path)
    read(tmp_path)
    batch = cifar.folder_of("cifar10", tmp_path) / "data_batch_3"
    good = batch.read_bytes()
    batch.write_bytes(good[:-1] + b"!")
    with pytest.raises(InputError, match="this CIFAR-10 file is damaged"):
        read(tmp_path)
    batch.unlink()
    with pytest.raises(InputError, match="this CIFAR-10 file is missing"):
        read(tmp_path)
    batch.write_bytes(good)
    assert read(tmp_path)


def test_a_folder_that_cannot_be_written_costs_only_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(monkeypatch, "cifar10", tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(decoded.os, "replace", refuse)
    images = read(tmp_path)
    assert not any(is_mapped(array) for arrays in images for array in arrays)
    assert all(array.flags.c_contiguous for arrays in images for array in arrays)
    assert list((tmp_path / decoded.FOLDER).iterdir()) == []  # nothing half-written is left
    monkeypatch.setattr(decoded.os, "replace", os.rename)
    assert equal(images, read(tmp_path))
    assert decoded.place("cifar10", tmp_path).exists()


@pytest.mark.parametrize(("name", "source"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_the_official_files_are_those_of_torchvision(name: str, source: type[CIFAR10]) -> None:
    official, files = cifar.OFFICIAL[name], [*source.train_list, *source.test_list]
    md5s = dict(files) | {source.meta["filename"]: source.meta["md5"]}
    assert list(official.md5s.items()) == list(md5s.items())
    assert [*official.train, *official.test] == [file for file, _ in files]
    assert list(official.test) == [file for file, _ in source.test_list]
    assert (official.folder, official.archive) == (source.base_folder, source.filename)
