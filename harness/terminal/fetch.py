"""`harness data fetch`: which data set is meant, its download while it runs, and what there is then."""

from __future__ import annotations

import difflib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from os.path import isfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from harness.errors import InputError
from harness.spec.data import Data
from harness.spec.datasets import DATASETS
from harness.spec.documents import load_experiment
from harness.training.cifar import OFFICIAL, Download
from harness.training.data import Fetched, fetch_data

LOOKED_EVERY = 0.2  # seconds between two looks at how far a download is


def data_of(name: str) -> Data:
    """The data set that `name` means: a named one, or that of an experiment file.

    Raises:
        InputError: it means none.
    """
    if name in DATASETS:
        return Data.model_validate({"dataset": name})
    if name.endswith((".yaml", ".yml")) or isfile(name):
        return load_experiment(Path(name)).data
    if name == "folder":
        fix = "name the experiment file that says where they are"
        raise InputError("your own images are where you put them", where="folder", fix=fix)
    near = difflib.get_close_matches(name, DATASETS, 1)
    fix = f"did you mean {near[0]}?" if near else f"there are {', '.join(DATASETS)}, and experiment files"
    raise InputError(f"there is no data set {name!r}", fix=fix)


def fetch(name: str, data_dir: Path) -> Fetched:
    """Make the data set that `name` means whole, showing a download on stderr.

    Raises:
        InputError: there is no such data set, or it can't be fetched.
    """
    # This very stream, which is hidden from torchvision's display.
    console = Console(file=sys.stderr, highlight=False, emoji=False)

    @contextmanager
    def watch(download: Download) -> Iterator[None]:
        with show_download(download, console):
            yield

    return fetch_data(data_of(name), data_dir, watch)


def as_json(found: Fetched) -> dict[str, Any]:
    """`path` is null where the data set comes with a library; `images` counts training and test images."""
    facts = found.data.facts
    return {
        "name": found.data.dataset,
        "path": str(found.path) if found.path else None,
        "verified": True,
        "images": facts.train_images + facts.test_images,
        "downloaded": found.downloaded,
    }


@contextmanager
def show_download(download: Download, console: Console) -> Iterator[None]:
    """A bar with bytes, speed and time left, as the archive grows; one line where nobody looks on."""
    text = f"downloading {download.title}"
    if not console.is_terminal:
        told = f"{text} ({download.size / 1e6:.0f} MB) to {download.archive.parent}"
        console.print(told, markup=False, soft_wrap=True)
        yield
        return
    columns = (TextColumn(text), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    ended = threading.Event()
    with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as progress:
        task = progress.add_task("", total=download.size)

        def look() -> None:
            size = download.archive.stat().st_size if download.archive.is_file() else 0
            progress.update(task, completed=size)

        def look_on() -> None:
            while not ended.wait(LOOKED_EVERY):
                look()

        looking = threading.Thread(target=look_on, daemon=True)
        looking.start()
        try:
            yield
        finally:
            ended.set()
            looking.join()
            look()


def sentence(found: Fetched) -> str:
    """What is there, where, and that it is whole."""
    facts = found.data.facts
    channels, height, width = facts.image_shape
    holds = (
        f"{facts.train_images:,} + {facts.test_images:,} images of {facts.classes} classes, "
        f"{width} x {height}, {'grey' if channels == 1 else 'RGB'}"
    )
    if found.data.dataset in OFFICIAL:
        came = "downloaded to" if found.downloaded else "already in"
        return f"{facts.title} is whole (every file has its official MD5), {came} {found.path}: {holds}"
    if found.path is None:
        return f"{facts.title} come with scikit-learn and are whole: {holds}"
    return f"{facts.title} in {found.path} are whole: {holds}"
