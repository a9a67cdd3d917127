"""Data sets as resident uint8 tensors, checked against their pinned digest, and their split by protocol."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.errors import InputError
from harness.spec.data import HOLDOUT_SHARE, Data, Folder
from harness.spec.experiment import ExperimentSpec
from harness.spec.folders import TEST_SHARE, share_of
from harness.training import cifar
from harness.training.folder import read_folder


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
    train, test, digest = read_images(spec.data, data_dir)
    if spec.data.protocol == "paper":
        return Split(train, test, test, True, digest)
    if spec.data.protocol == "full":
        return Split(train, None, test, False, digest)
    held_out = torch.from_numpy(stratified_share(train.labels.numpy(), f"holdout:{name}", HOLDOUT_SHARE))
    return Split(train.take(~held_out), train.take(held_out), test, False, digest)


def read_images(data: Data, data_dir: Path) -> tuple[Images, Images, str]:
    """Training images, test images and the digest of a data set, whatever the protocol makes of them.

    Raises:
        InputError: the data is missing, damaged, or not what its pinned digest says.
    """
    name = data.dataset
    if name == "folder":
        train, test = _folder(data.folder)
        digest = data.facts.digest  # held against the files before they were decoded
    elif name == "digits":
        train, test = _digits()
        digest = content_digest(train, test)
    else:
        train, test = (Images(torch.from_numpy(p), torch.from_numpy(y)) for p, y in cifar.read(name, data_dir))
        digest = content_digest(train, test) if name == "cifar10" else cifar.files_digest(name)
    if digest != data.facts.digest:
        raise InputError(f"the content of data set {name} is not the published one (digest {digest[:16]})", where=name)
    return train, test, digest


def ensure_data(data: Data, data_dir: Path) -> None:
    """Check that a data set is there and whole, fetching it where that is possible; a named one is left decoded.

    Of a folder only the images' headers were read with its experiment: here each is decoded once.

    Raises:
        InputError: it is missing or damaged and can't be fetched.
    """
    if data.dataset in cifar.OFFICIAL:
        cifar.read(data.dataset, data_dir)
    elif data.folder:
        read_folder(data.folder)


@dataclass(frozen=True)
class Fetched:
    """A data set that was found whole: where (None: it comes with a library), and whether it had to be downloaded."""

    data: Data
    path: Path | None
    downloaded: bool = False


def fetch_data(data: Data, data_dir: Path, watch: cifar.Watch = cifar.unwatched) -> Fetched:
    """Make sure, before anything is trained, that a data set is there and whole; what is damaged is fetched anew.

    Raises:
        InputError: it is not whole and can't be fetched.
    """
    name = data.dataset
    if name in cifar.OFFICIAL:
        downloaded = cifar.make_whole(name, data_dir, watch)
        return Fetched(data, cifar.folder_of(name, data_dir).resolve(), downloaded)
    read_images(data, data_dir)
    return Fetched(data, Path(data.folder.path).resolve() if data.folder else None)


def stratified_share(labels: np.ndarray[Any, Any], purpose: str, share: float) -> np.ndarray[Any, Any]:
    """Mask of a fixed share of each class, chosen by hashing each image's index.

    The same images on every machine and for every seed; bool [N].
    """
    rank = np.array([hashlib.sha256(f"{purpose}:{i}".encode()).digest()[:8] for i in range(len(labels))], dtype="S8")
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen = members[np.argsort(rank[members], kind="stable")][: share_of(len(members), share)]
        mask[chosen] = True
    return mask


def content_digest(train: Images, test: Images) -> str:
    """SHA-256 over train pixels, train labels, test pixels, test labels, each as uint8 in order."""
    sha = hashlib.sha256()
    for images in (train, test):
        sha.update(images.pixels.numpy().tobytes())
        sha.update(images.labels.to(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _digits() -> tuple[Images, Images]:
    """scikit-learn's scanned digits (it ships them); a stratified fifth, chosen by hash, is the test set."""
    table = _digits_table()
    scanned, target = table[:, :64].reshape(-1, 8, 8), table[:, 64].astype(np.int64)
    pixels = torch.from_numpy(np.rint(scanned * (255 / 16)).astype(np.uint8)).unsqueeze(-1)
    images = Images(pixels, torch.from_numpy(target))
    test = torch.from_numpy(stratified_share(target, "test:digits", TEST_SHARE))
    return images.take(~test), images.take(test)


def _digits_table() -> np.ndarray[Any, Any]:
    """float64 [1797, 65]: 64 pixels from 0 to 16 and the digit, from scikit-learn's own file.

    Without importing scikit-learn, which takes nearly as long as torch; only where the file has moved it is asked.
    """
    found = find_spec("sklearn")
    file = Path(found.origin).parent / "datasets/data/digits.csv.gz" if found and found.origin else None
    if file and file.is_file():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])


def _folder(folder: Folder | None) -> tuple[Images, Images]:
    """The user's own images; without folders train and test a stratified fifth, chosen by hash, is the test set."""
    assert folder is not None
    pixels, labels, is_test = read_folder(folder)
    if is_test is None:
        is_test = stratified_share(labels, "test:folder", TEST_SHARE)
    images, test = Images(torch.from_numpy(pixels), torch.from_numpy(labels)), torch.from_numpy(is_test)
    return images.take(~test), images.take(test)
