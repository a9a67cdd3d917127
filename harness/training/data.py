"""Data sets as resident uint8 tensors, checked against their pinned digest, and their split by protocol."""

from __future__ import annotations

import hashlib
import pickle
import socket
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.errors import InputError, Problem
from harness.spec.datasets import DATASETS
from harness.spec.experiment import ExperimentSpec

DOWNLOAD_TIMEOUT = 20.0  # seconds without a byte after which the network counts as absent
HOLDOUT_SHARE = 0.1
DIGITS_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Images:
    """Images and labels of one set: uint8 [N, H, W, C] (channels last, as the network wants them) and int64 [N]."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Images:
        return Images(self.pixels[indices], self.labels[indices])

    def to(self, device: torch.device) -> Images:
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Split:
    """What the protocol trains on, validates on and tests on; `validation` is None under `full`."""

    train: Images
    validation: Images | None
    test: Images
    validation_is_test: bool
    digest: str

    def to(self, device: torch.device) -> Split:
        test = self.test.to(device)
        validation = test if self.validation_is_test else self.validation and self.validation.to(device)
        return replace(self, train=self.train.to(device), validation=validation, test=test)


def load_split(spec: ExperimentSpec, data_dir: Path) -> Split:
    """Read the data set of `spec` and divide it as its protocol says, on the CPU.

    Raises:
        InputError: the data is missing, damaged, or not what its pinned digest says.
    """
    name = spec.data.dataset
    train, test = LOADERS[name](data_dir)
    digest = content_digest(train, test)
    if digest != DATASETS[name].digest:
        raise InputError(f"the content of data set {name} is not the published one (digest {digest[:16]})", where=name)
    if spec.data.protocol == "paper":
        return Split(train, test, test, True, digest)
    if spec.data.protocol == "full":
        return Split(train, None, test, False, digest)
    held_out = torch.from_numpy(stratified_share(train.labels.numpy(), f"holdout:{name}", HOLDOUT_SHARE))
    return Split(train.take(~held_out), train.take(held_out), test, False, digest)


def ensure_data(name: str, data_dir: Path) -> None:
    """Check that data set `name` is there and whole, fetching it where that is possible; reads no images.

    Raises:
        InputError: it is missing or damaged and can't be fetched.
    """
    if name == "cifar10":
        _cifar10_files(data_dir)


def stratified_share(labels: np.ndarray[Any, Any], purpose: str, share: float) -> np.ndarray[Any, Any]:
    """Mask of a fixed share of each class, chosen by hashing each image's index.

    The same images on every machine and for every seed; bool [N].
    """
    rank = np.array([hashlib.sha256(f"{purpose}:{i}".encode()).digest()[:8] for i in range(len(labels))], dtype="S8")
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen = members[np.argsort(rank[members], kind="stable")][: round(share * len(members))]
        mask[chosen] = True
    return mask


def content_digest(train: Images, test: Images) -> str:
    """SHA-256 over train pixels, train labels, test pixels, test labels, each as uint8 in order."""
    sha = hashlib.sha256()
    for images in (train, test):
        sha.update(images.pixels.numpy().tobytes())
        sha.update(images.labels.to(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _digits(data_dir: Path) -> tuple[Images, Images]:
    """scikit-learn's scanned digits (it ships them); a stratified fifth, chosen by hash, is the test set."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(-1)
    images = Images(pixels, torch.from_numpy(bunch.target.astype(np.int64)))
    test = torch.from_numpy(stratified_share(bunch.target, "test:digits", DIGITS_TEST_SHARE))
    return images.take(~test), images.take(test)


def _cifar10(data_dir: Path) -> tuple[Images, Images]:
    """The official batches in torchvision's layout, fetched by torchvision where they are missing."""
    from torchvision.datasets import CIFAR10

    _cifar10_files(data_dir)
    sets = []
    for train in (True, False):
        try:
            loaded = CIFAR10(str(data_dir), train=train, download=False)
        except (RuntimeError, OSError, pickle.UnpicklingError, KeyError, ValueError) as error:
            raise InputError(f"CIFAR-10 can't be read: {error}", where=str(data_dir / CIFAR10.base_folder)) from error
        sets.append(Images(torch.from_numpy(loaded.data), torch.tensor(loaded.targets)))
    return sets[0], sets[1]


def _cifar10_files(data_dir: Path) -> None:
    from torchvision.datasets import CIFAR10

    if (data_dir / CIFAR10.base_folder).is_dir():
        check_cifar10(data_dir)
    else:
        fetch_cifar10(data_dir)


def check_cifar10(data_dir: Path) -> None:
    """Check every batch file against its official MD5, before anything unpickles it.

    Raises:
        InputError: naming each file that is missing or damaged.
    """
    from torchvision.datasets import CIFAR10

    folder = data_dir / CIFAR10.base_folder
    problems = []
    for name, md5 in [*CIFAR10.train_list, *CIFAR10.test_list, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]]:
        path = folder / name
        if not path.is_file():
            problems.append(Problem("this CIFAR-10 file is missing", str(path), _how_to_get(data_dir)))
        elif not _has_md5(path, md5):
            what = f"this CIFAR-10 file is damaged (its MD5 is not {md5})"
            problems.append(Problem(what, str(path), "delete the folder and get it anew"))
    if problems:
        raise InputError(problems)


def _has_md5(path: Path, md5: str) -> bool:
    from torchvision.datasets.utils import check_integrity

    try:
        return bool(check_integrity(str(path), md5))
    except OSError:
        return False


def fetch_cifar10(data_dir: Path) -> None:
    """Download and unpack CIFAR-10 with torchvision.

    Raises:
        InputError: there is no network, or the folder can't be written; says what must lie where.
    """
    from torchvision.datasets import CIFAR10

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    created = not data_dir.exists()
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            CIFAR10(str(data_dir), download=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; torchvision raises RuntimeError on a bad MD5
        if created and data_dir.is_dir() and not any(data_dir.iterdir()):
            data_dir.rmdir()
        raise InputError(
            f"CIFAR-10 is not in {data_dir} and can't be downloaded ({error})",
            where=f"data folder {data_dir.resolve()}",
            fix=_how_to_get(data_dir),
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _how_to_get(data_dir: Path) -> str:
    return (
        "it must hold cifar-10-batches-py/ with data_batch_1 to data_batch_5, test_batch and batches.meta, as unpacked "
        f"from cifar-10-python.tar.gz; run this once where there is a network and copy {data_dir}/ here, "
        "or name another folder with --data-dir or HARNESS_DATA_DIR"
    )


LOADERS: dict[str, Callable[[Path], tuple[Images, Images]]] = {"cifar10": _cifar10, "digits": _digits}
