"""The official CIFAR-10 and CIFAR-100 files in torchvision's layout: checked, fetched, read.

Every file is held against its official MD5 before anything looks into it. torchvision fetches them; it is not needed
to read them, and importing it takes as long as torch itself.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from hashlib import md5, sha256
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import InputError, Problem
from harness.spec.datasets import DATASETS
from harness.training import decoded
from harness.training.cifar_pickle import parse_batch

ROW = 3 * 32 * 32  # bytes of an image
DOWNLOAD_TIMEOUT = 20.0  # seconds without a byte after which the network counts as absent


@dataclass(frozen=True)
class Official:
    """A data set as it is published: `md5s` of its files (training, test, class names), as torchvision has them."""

    title: str
    folder: str
    archive: str
    size: int
    """Bytes of the archive."""
    md5s: Mapping[str, str]
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_key: str


OFFICIAL = {
    "cifar10": Official(
        title=DATASETS["cifar10"].title,
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        size=170_498_071,
        md5s={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test=("test_batch",),
        label_key="labels",
    ),
    "cifar100": Official(
        title=DATASETS["cifar100"].title,
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        size=169_001_437,
        md5s={
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
        },
        train=("train",),
        test=("test",),
        label_key="fine_labels",
    ),
}

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Download:
    """A download that is about to begin: of what, into which file, how many bytes it will have."""

    title: str
    archive: Path
    size: int


Watch = Callable[[Download], AbstractContextManager[None]]
"""Shows a download while it runs: entered before it begins, left when it has ended."""


def unwatched(download: Download) -> AbstractContextManager[None]:
    return nullcontext()


def folder_of(name: str, data_dir: Path) -> Path:
    """Where the unpacked files of data set `name` lie, there or not."""
    return data_dir / OFFICIAL[name].folder


def make_whole(name: str, data_dir: Path, watch: Watch = unwatched) -> bool:
    """Fetch data set `name` unless it is there and whole; whether it had to be.

    Raises:
        InputError: it can't be fetched; also what is wrong with the files that are there.
    """
    damage: tuple[Problem, ...] = ()
    if folder_of(name, data_dir).is_dir():
        try:
            check(name, data_dir)
            return False
        except InputError as error:
            damage = error.problems
    try:
        fetch(name, data_dir, watch)
        check(name, data_dir)
    except InputError as error:
        raise InputError([*damage, *error.problems]) from error
    return True


def check(name: str, data_dir: Path) -> None:
    """Check every file of data set `name` against its official MD5.

    Raises:
        InputError: naming each file that is missing or damaged.
    """
    _checked(name, data_dir)


def _checked(name: str, data_dir: Path) -> dict[str, bytes]:
    """The content of every file of data set `name`, once all of them have their official MD5."""
    source, folder = OFFICIAL[name], folder_of(name, data_dir)
    contents: dict[str, bytes] = {}
    problems = []
    for file, expected in source.md5s.items():
        path = folder / file
        if not path.is_file():
            what = f"this {source.title} file is missing"
            problems.append(Problem(what, str(path), _how_to_get(name, data_dir)))
            continue
        content = _content(path)
        if content is None or md5(content, usedforsecurity=False).hexdigest() != expected:
            what = f"this {source.title} file is damaged (its MD5 is not {expected})"
            problems.append(Problem(what, str(path), "delete the folder and get it anew"))
        else:
            contents[file] = content
    if problems:
        raise InputError(problems)
    return contents


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def fetch(name: str, data_dir: Path, watch: Watch = unwatched) -> None:
    """Download and unpack data set `name` with torchvision, over what is there of it.

    Raises:
        InputError: there is no network, or the folder can't be written; says what must lie where.
    """
    source, title = _torchvision(name), OFFICIAL[name].title
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    created = not data_dir.exists()
    try:
        with (
            watch(Download(title, data_dir / OFFICIAL[name].archive, OFFICIAL[name].size)),
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
        ):
            source(str(data_dir), download=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; torchvision raises RuntimeError on a bad MD5
        if created and data_dir.is_dir() and not any(data_dir.iterdir()):
            data_dir.rmdir()
        raise InputError(
            f"{title} is not in {data_dir} and can't be downloaded ({error})",
            where=f"data folder {data_dir.resolve()}",
            fix=_how_to_get(name, data_dir),
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def read(name: str, data_dir: Path) -> list[tuple[Array, Array]]:
    """Training and test set of data set `name`, each pixels uint8 [N, 32, 32, 3] and labels int64 [N] in file order.

    CIFAR-100's labels are the fine ones. The arrays are mapped from `harness.training.decoded`'s file where that can
    be.

    Raises:
        InputError: files are damaged, or missing and can't be fetched.
    """
    source, folder = OFFICIAL[name], folder_of(name, data_dir)
    if not folder.is_dir():
        fetch(name, data_dir)
    place = decoded.place(name, data_dir)
    try:
        made_from = decoded.signature([folder / file for file in source.md5s], " ".join(source.md5s.values()))
    except OSError:
        made_from = None
    arrays = decoded.load(place, made_from) if made_from else None
    if arrays is None:
        contents = _checked(name, data_dir)
        arrays = [array for files in (source.train, source.test) for array in _decode(name, files, contents, folder)]
        if made_from:
            decoded.store(place, made_from, arrays)
            arrays = decoded.load(place, made_from) or arrays  # mapped, so that what was decoded can be let go
    return [(arrays[0], arrays[1]), (arrays[2], arrays[3])]


def _decode(name: str, files: Sequence[str], contents: dict[str, bytes], folder: Path) -> tuple[Array, Array]:
    """Pixels and labels of some files, one after another; their contents are let go on the way."""
    batches = [_batch(name, folder / file, contents.pop(file)) for file in files]
    pixels = np.concatenate([_upright(batch["data"]) for batch in batches])
    labels = np.concatenate([np.array(batch[OFFICIAL[name].label_key], dtype=np.int64) for batch in batches])
    return pixels, labels


def _batch(name: str, path: Path, content: bytes) -> dict[str, Any]:
    """One file's dictionary, once its images and labels are what they are to be."""
    title, key = OFFICIAL[name].title, OFFICIAL[name].label_key
    try:
        batch = parse_batch(content, path)
        data, labels = np.asarray(batch["data"]), np.asarray(batch[key], dtype=np.int64)
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{title} can't be read: {error}", where=str(path)) from error
    if data.dtype != np.uint8 or data.shape[1:] != (ROW,):
        shape = " x ".join(map(str, data.shape))
        raise InputError(f"{title} can't be read: images are {shape} of {data.dtype}, not N x {ROW}", where=str(path))
    if labels.shape != data.shape[:1]:
        raise InputError(f"{title} can't be read: images without labels", where=str(path))
    classes = DATASETS[name].classes
    if wrong := [label for label in labels.tolist() if not 0 <= label < classes]:
        what = f"{title} can't be read: label {wrong[0]} is none of 0 to {classes - 1}"
        raise InputError(what, where=str(path))
    return {"data": data, key: labels}


def _upright(rows: Array) -> Array:
    """uint8 [N, 3072], a plane a colour, to [N, 32, 32, 3]."""
    return np.ascontiguousarray(np.asarray(rows).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def files_digest(name: str) -> str:
    """SHA-256 over the official MD5s of the files of data set `name`, in the order of `OFFICIAL`."""
    return sha256(" ".join(OFFICIAL[name].md5s.values()).encode()).hexdigest()


def _torchvision(name: str) -> Any:
    """For its download alone: importing it takes as long as torch."""
    from torchvision.datasets import CIFAR10, CIFAR100

    return {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]


def _how_to_get(name: str, data_dir: Path) -> str:
    source = OFFICIAL[name]
    *files, last = source.md5s
    return (
        f"it must hold {source.folder}/ with {', '.join(files)} and {last}, as unpacked from {source.archive}; "
        f"run `harness data fetch {name}` where there is a network and copy {data_dir}/ here, "
        "or name another folder with --data-dir or HARNESS_DATA_DIR"
    )
