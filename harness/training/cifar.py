"""The official CIFAR-10 and CIFAR-100 files in torchvision's layout: checked, fetched, read.

Every file is held against its official MD5 before anything unpickles it.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import InputError, Problem
from harness.spec.datasets import DATASETS

DOWNLOAD_TIMEOUT = 20.0  # seconds without a byte after which the network counts as absent
SOURCES = {"cifar10": 170_498_071, "cifar100": 169_001_437}
"""The data sets, and how many bytes their archives have."""

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
    return data_dir / str(_torchvision(name).base_folder)


def ensure(name: str, data_dir: Path) -> None:
    """Check the files of data set `name`, or fetch them where their folder is missing.

    Raises:
        InputError: they are damaged, or missing and can't be fetched.
    """
    if folder_of(name, data_dir).is_dir():
        check(name, data_dir)
    else:
        fetch(name, data_dir)


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
    folder, title = folder_of(name, data_dir), DATASETS[name].title
    problems = []
    for file, md5 in _files(name):
        path = folder / file
        if not path.is_file():
            problems.append(Problem(f"this {title} file is missing", str(path), _how_to_get(name, data_dir)))
        elif not _has_md5(path, md5):
            what = f"this {title} file is damaged (its MD5 is not {md5})"
            problems.append(Problem(what, str(path), "delete the folder and get it anew"))
    if problems:
        raise InputError(problems)


def fetch(name: str, data_dir: Path, watch: Watch = unwatched) -> None:
    """Download and unpack data set `name` with torchvision, over what is there of it.

    Raises:
        InputError: there is no network, or the folder can't be written; says what must lie where.
    """
    source, title = _torchvision(name), DATASETS[name].title
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    created = not data_dir.exists()
    try:
        with (
            watch(Download(title, data_dir / source.filename, SOURCES[name])),
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

    CIFAR-100's labels are the fine ones. Raises InputError as `ensure` does, and where a file can't be read.
    """
    ensure(name, data_dir)
    sets = []
    for train in (True, False):
        try:
            loaded = _torchvision(name)(str(data_dir), train=train, download=False)
        except (RuntimeError, OSError, pickle.UnpicklingError, KeyError, ValueError) as error:
            where = str(folder_of(name, data_dir))
            raise InputError(f"{DATASETS[name].title} can't be read: {error}", where=where) from error
        sets.append((loaded.data, np.array(loaded.targets, dtype=np.int64)))
    return sets


def files_digest(name: str) -> str:
    """SHA-256 over the official MD5s of the files of data set `name`, in the order of torchvision's lists."""
    return sha256(" ".join(md5 for _, md5 in _files(name)).encode()).hexdigest()


def _files(name: str) -> list[tuple[str, str]]:
    """(name, MD5) of every official file: training, test, class names."""
    source = _torchvision(name)
    return [
        *map(tuple, source.train_list),
        *map(tuple, source.test_list),
        (source.meta["filename"], source.meta["md5"]),
    ]


def _torchvision(name: str) -> Any:
    from torchvision.datasets import CIFAR10, CIFAR100

    return {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]


def _has_md5(path: Path, md5: str) -> bool:
    from torchvision.datasets.utils import check_integrity

    try:
        return bool(check_integrity(str(path), md5))
    except OSError:
        return False


def _how_to_get(name: str, data_dir: Path) -> str:
    source = _torchvision(name)
    *files, last = (file for file, _ in _files(name))
    return (
        f"it must hold {source.base_folder}/ with {', '.join(files)} and {last}, as unpacked from {source.filename}; "
        f"run `harness data fetch {name}` where there is a network and copy {data_dir}/ here, "
        "or name another folder with --data-dir or HARNESS_DATA_DIR"
    )
