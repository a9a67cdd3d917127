"""`harness data fetch`: data sets made whole beforehand, and what is told of them."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from torchvision.datasets import CIFAR10, CIFAR100

from harness.terminal.fetch import fetch, show_download
from harness.tracking import login
from harness.training.cifar import Download
from tests.conftest import TINY, Harness
from tests.data_files import class_folders, picture, save, unpack, write_cifar


def comes_from_the_network(monkeypatch: pytest.MonkeyPatch, source: Any) -> list[Path]:
    """Patch torchvision's download of `source` to unpack small files that count as official; where it did so."""
    write_cifar(monkeypatch, "cifar100" if source is CIFAR100 else "cifar10", Path(), write=False)
    places = []

    def download(self: Any) -> None:
        print("torchvision says this")
        print("and shows that", file=sys.stderr)
        places.append(Path(self.root))
        unpack(Path(self.root) / self.base_folder, self.packed)

    monkeypatch.setattr(source, "download", download)
    return places


def has_no_network(monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None) -> None:
    def download(self: Any) -> None:
        Path(self.root).mkdir(parents=True, exist_ok=True)  # torchvision's first act
        raise error or OSError("Name or service not known")

    monkeypatch.setattr(CIFAR10, "download", download)  # CIFAR100 inherits it


@pytest.mark.parametrize(("name", "source"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_what_is_missing_is_downloaded_once(
    harness: Harness, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: Any
) -> None:
    places = comes_from_the_network(monkeypatch, source)
    title, size = {"cifar10": ("CIFAR-10", 170), "cifar100": ("CIFAR-100", 169)}[name]
    first = harness("data", "fetch", name)
    assert first.code == 0
    assert first.err == f"downloading {title} ({size} MB) to data\n"
    whole = f"{title} is whole (every file has its official MD5)"
    classes = name.removeprefix("cifar")
    holds = f"50,000 + 10,000 images of {classes} classes, 32 x 32, RGB"
    path = folder / "data" / source.base_folder
    assert first.out == f"{whole}, downloaded to {path}: {holds}\n"
    again = harness("data", "fetch", name)
    assert (again.code, again.err) == (0, "")
    assert again.out == f"{whole}, already in {path}: {holds}\n"
    assert places == [Path("data")]
    document = json.loads(harness("data", "fetch", name, "--json").out)
    assert document == {"name": name, "path": str(path), "verified": True, "images": 60_000, "downloaded": False}


def test_cifar10_is_the_default_and_goes_where_it_is_wanted(
    harness: Harness, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = comes_from_the_network(monkeypatch, CIFAR10)
    assert harness("data", "fetch", "--data-dir", "there").code == 0
    monkeypatch.setenv("HARNESS_DATA_DIR", str(folder / "elsewhere"))
    document = json.loads(harness("data", "fetch", "--json").out)
    assert (document["name"], document["downloaded"]) == ("cifar10", True)
    assert places == [Path("there"), folder / "elsewhere"]


def test_what_is_damaged_is_fetched_anew(harness: Harness, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comes_from_the_network(monkeypatch, CIFAR100)
    harness("data", "fetch", "cifar100")
    test = folder / "data/cifar-100-python/test"
    good = test.read_bytes()
    test.write_bytes(b"damaged")
    result = harness("data", "fetch", "cifar100", "--json")
    assert json.loads(result.out)["downloaded"] is True
    assert test.read_bytes() == good


def test_without_a_network(harness: Harness, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has_no_network(monkeypatch)
    result = harness("data", "fetch")
    assert (result.code, result.out) == (2, "")
    assert "CIFAR-10 is not in data and can't be downloaded (Name or service not known)" in result.err
    for part in (str(folder / "data"), "data_batch_1", "cifar-10-python.tar.gz", "harness data fetch cifar10"):
        assert part in result.err
    assert not (folder / "data").exists()


def test_without_a_network_the_damage_is_told_too(
    harness: Harness, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(monkeypatch, "cifar10", folder / "data")
    (folder / "data/cifar-10-batches-py/data_batch_3").write_bytes(b"damaged")
    has_no_network(monkeypatch)
    result = harness("data", "fetch")
    assert result.code == 2
    assert "data_batch_3: this CIFAR-10 file is damaged" in result.err
    assert "can't be downloaded" in result.err


def test_a_download_that_is_damaged(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision says so in a RuntimeError, and its "not found or corrupted" when the unpacked files are not right."""
    comes_from_the_network(monkeypatch, CIFAR100)
    monkeypatch.setattr(CIFAR100, "packed", {**CIFAR100.packed, "test": b"damaged"})
    result = harness("data", "fetch", "cifar100")
    assert result.code == 2
    assert "can't be downloaded (Dataset not found or corrupted" in result.err


def test_ctrl_c_while_it_downloads(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    has_no_network(monkeypatch, KeyboardInterrupt())
    result = harness("data", "fetch")
    assert result.code == 130
    assert "stopped: interrupted" in result.err


def test_digits_come_along(harness: Harness, folder: Path) -> None:
    before = sorted(folder.iterdir())
    result = harness("data", "fetch", "digits")
    assert result.code == 0
    assert "scikit-learn" in result.out
    assert "1,438 + 359 images of 10 classes, 8 x 8, grey" in result.out
    document = json.loads(harness("data", "fetch", "digits", "--json").out)
    assert document == {"name": "digits", "path": None, "verified": True, "images": 1797, "downloaded": False}
    assert sorted(folder.iterdir()) == before


def test_an_experiment_file_means_its_data_set(harness: Harness, folder: Path) -> None:
    assert json.loads(harness("data", "fetch", "tiny.yaml", "--json").out)["name"] == "digits"
    class_folders(folder / "pets", {"cat": 3, "dog": 5}, height=9)
    data = "data: {dataset: folder, folder: {path: pets}}"
    small = TINY.replace("data: {dataset: digits}", data).replace("batch_size: 256", "batch_size: 2")
    (folder / "pets.yaml").write_text(small)
    result = harness("data", "fetch", "pets.yaml")
    assert result.code == 0, result.err
    assert f"own images in {folder / 'pets'} are whole: 6 + 2 images of 2 classes, 8 x 9, RGB" in result.out
    whole = save(folder / "pets/cat/002.png", picture(5, 9, 8)).read_bytes()
    (folder / "pets/cat/002.png").write_bytes(whole[: len(whole) // 2])
    result = harness("data", "fetch", "pets.yaml")
    assert result.code == 2
    assert "pets/cat/002.png: this image can't be read" in result.err


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cifra100", "did you mean cifar100?"),
        ("imagenet", "cifar10, cifar100, digits"),
        ("folder", "experiment file"),
        ("nosuch.yaml", "nosuch.yaml"),
        ("study.yaml", "harness ablate"),
    ],
)
def test_what_is_no_data_set(harness: Harness, folder: Path, name: str, told: str) -> None:
    result = harness("data", "fetch", name)
    assert (result.code, result.out) == (2, "")
    assert told in result.err
    assert "Traceback" not in result.err


def test_a_download_is_shown_as_it_grows(tmp_path: Path) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    download = Download("CIFAR-10", tmp_path / "archive", 3_000_000)
    with show_download(download, console):
        download.archive.write_bytes(bytes(1_500_000))
    assert "downloading CIFAR-10" in screen.getvalue()
    assert "1.5/3.0 MB" in screen.getvalue()


class Screen(io.StringIO):
    """What a terminal shows."""

    def isatty(self) -> bool:
        return True


def test_the_bar_is_seen_while_torchvisions_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(monkeypatch, "cifar10", Path(), write=False)
    screen = Screen()
    seen = []

    def download(self: Any) -> None:
        print("torchvision's bar", file=sys.stderr)
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(bytes(2_000_000))
        deadline = time.monotonic() + 20
        while "2.0/170.5 MB" not in screen.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
        seen.append(screen.getvalue())
        unpack(tmp_path / self.base_folder, self.packed)

    monkeypatch.setattr(CIFAR10, "download", download)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    assert fetch("cifar10", tmp_path).downloaded
    assert "2.0/170.5 MB" in seen[0]
    assert "torchvision" not in screen.getvalue()


def test_doctor_tells_of_every_data_set(harness: Harness, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(monkeypatch, "cifar100", folder / "data")
    write_cifar(monkeypatch, "cifar10", folder / "data")
    (folder / "data/cifar-10-batches-py/data_batch_3").unlink()
    monkeypatch.setattr(login, "look", lambda: "not asked here")
    found = json.loads(harness("doctor", "--json").out)["data"]
    assert found["cifar100"] == f"whole, in {folder / 'data/cifar-100-python'}"
    assert found["cifar10"] == "this CIFAR-10 file is missing"
    found = json.loads(harness("doctor", "--json", "--data-dir", "nowhere").out)["data"]
    assert found["cifar100"] == f"not in {folder / 'nowhere'}; it is downloaded when it is first needed"
