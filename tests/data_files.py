"""Data as files, small: images of any mode, folders of them, and CIFAR batches in the official layout."""

from __future__ import annotations

import pickle
from dataclasses import replace
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.training import cifar

Array = np.ndarray[Any, Any]


def picture(seed: int, height: int = 8, width: int = 8, channels: int = 3) -> Array:
    """Random pixels uint8 [height, width, channels], without the last axis where `channels` is 1."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: Array, **options: Any) -> Path:
    """Write pixels (uint8: grey, RGB or RGBA; uint16: grey) as the image that the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def class_folders(root: Path, counts: dict[str, int], **shape: int) -> Path:
    """`root/<class>/<number>.png`, so many of each class, every image another."""
    for label, (name, count) in enumerate(counts.items()):
        for number in range(count):
            save(root / name / f"{number:03}.png", picture(1000 * label + number, **shape))
    return root


def write_cifar(
    monkeypatch: pytest.MonkeyPatch, name: str, data_dir: Path, per_file: int = 4, write: bool = True
) -> dict[str, dict[str, Any]]:
    """Small files in the official layout of `name`, made official by patching the MD5s, ours and torchvision's.

    With `write` false only the MD5s are patched. Returns what the files hold.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    source = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    generator = np.random.default_rng(len(name))
    contents: dict[str, dict[str, Any]] = {}
    for file, _ in [*source.train_list, *source.test_list]:
        data = generator.integers(0, 256, (per_file, 3072), dtype=np.uint8)
        fine = generator.integers(0, 10 if name == "cifar10" else 100, per_file).tolist()
        labels = {"labels": fine} if name == "cifar10" else {"fine_labels": fine, "coarse_labels": [0] * per_file}
        contents[file] = {"data": data, **labels}
    contents[source.meta["filename"]] = {source.meta["key"]: ["a", "b"]}
    packed = {file: pickle.dumps(content, protocol=2) for file, content in contents.items()}
    digests = {file: md5(content).hexdigest() for file, content in packed.items()}
    monkeypatch.setitem(cifar.OFFICIAL, name, replace(cifar.OFFICIAL[name], md5s=digests))
    monkeypatch.setattr(source, "train_list", [[file, digests[file]] for file, _ in source.train_list])
    monkeypatch.setattr(source, "test_list", [[file, digests[file]] for file, _ in source.test_list])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": digests[source.meta["filename"]]})
    if write:
        unpack(data_dir / source.base_folder, packed)
    monkeypatch.setattr(source, "packed", packed, raising=False)
    return contents


def unpack(folder: Path, packed: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in packed.items():
        (folder / file).write_bytes(content)


class Trap:
    """Pickled, it writes a file called `sprung` when it is unpickled by anybody who is not careful."""

    def __init__(self, sprung: Path):
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.sprung, "sprung")
