"""Data sets from their files to tensors: which image goes where, what pixels it has, and what is refused."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR100, ImageFolder
from torchvision.transforms.functional import InterpolationMode, center_crop, resize

from harness.errors import InputError
from harness.spec.data import Data
from harness.spec.datasets import DATASETS
from harness.spec.experiment import ExperimentSpec
from harness.spec.folders import read_content
from harness.training import cifar, data
from harness.training.data import ensure_data, load_split, read_images, stratified_share
from harness.training.folder import decode
from tests.data_files import Trap, class_folders, picture, save, write_cifar
from tests.training.build import make_spec


def of_folder(path: Path, size: int | None = None, protocol: str = "paper") -> ExperimentSpec:
    content = read_content(path, size).model_dump()
    data = {"dataset": "folder", "protocol": protocol, "folder": {"path": str(path), "size": size, "content": content}}
    return make_spec(data=data, train={"batch_size": 2})


def share(labels: list[int], purpose: str, part: float) -> list[bool]:
    """The rule written out: of each class the images whose hashed index is lowest."""

    def rank(index: int) -> bytes:
        return hashlib.sha256(f"{purpose}:{index}".encode()).digest()

    chosen: set[int] = set()
    for label in set(labels):
        members = sorted((index for index in range(len(labels)) if labels[index] == label), key=rank)
        chosen |= set(members[: max(1, round(part * len(members)))])
    return [index in chosen for index in range(len(labels))]


# --- shares ------------------------------------------------------------------------------------


def test_a_share_is_chosen_by_hash_class_by_class() -> None:
    labels = np.random.default_rng(0).integers(0, 7, 500)
    for purpose, part in (("holdout:x", 0.1), ("test:y", 0.2)):
        assert stratified_share(labels, purpose, part).tolist() == share(labels.tolist(), purpose, part)


@pytest.mark.parametrize("per_class", [3, 9, 17])
def test_the_held_out_images_are_counted_before_they_are_chosen(tmp_path: Path, per_class: int) -> None:
    """So that what a run says of its steps and its time, and what it refuses, is of the images that it has."""
    class_folders(tmp_path, {"cat": per_class, "dog": per_class, "eel": per_class + 4})
    for spec in (of_folder(tmp_path, protocol="holdout"), make_spec(data={"protocol": "holdout"})):
        split = load_split(spec, tmp_path)
        assert split.validation
        assert (len(split.train), len(split.validation)) == (spec.train_images, spec.dataset.held_out)


def test_digits_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from its file without importing it, and from itself where the file is not where it was."""
    own = data._digits_table()
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    assert np.array_equal(own, data._digits_table())


def test_digits_are_divided_as_they_always_were() -> None:
    split = load_split(make_spec(data={"protocol": "holdout"}), Path("nowhere"))
    assert split.digest == DATASETS["digits"].digest  # over the training and the test images as they are divided
    assert split.validation is not None
    whole = load_split(make_spec(data={"protocol": "full"}), Path("nowhere"))
    held_out = torch.tensor(share(whole.train.labels.tolist(), "holdout:digits", 0.1))
    assert torch.equal(split.validation.pixels, whole.train.pixels[held_out])
    assert torch.equal(split.train.pixels, whole.train.pixels[~held_out])
    golden = hashlib.sha256(np.packbits(held_out.numpy()).tobytes()).hexdigest()
    assert (held_out.sum().item(), golden[:16]) == (143, "9c52f899fd5a26db")


# --- folders -----------------------------------------------------------------------------------


def test_a_divided_folder_is_what_torchvision_makes_of_it(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"dog": 3, "cat": 4}, height=30, width=41)
    class_folders(tmp_path / "test", {"dog": 2, "cat": 1}, height=23, width=50)
    save(tmp_path / "train/cat/deep/tall.png", picture(5, 57, 20))
    save(tmp_path / "train/cat/small.png", picture(6, 9, 7))
    save(tmp_path / "train/dog/exact.png", picture(6, 12, 12))
    split = load_split(of_folder(tmp_path, 12), Path("nowhere"))
    assert split.validation is split.test
    for images, name in ((split.train, "train"), (split.test, "test")):
        found = ImageFolder(str(tmp_path / name))
        by_path = sorted(range(len(found)), key=lambda index: Path(found.imgs[index][0]).parts)
        reference = [found[index] for index in by_path]
        expected = [np.asarray(center_crop(resize(i, 12, InterpolationMode.BILINEAR), 12)) for i, _ in reference]
        assert images.pixels.dtype == torch.uint8
        assert np.array_equal(images.pixels.numpy(), np.stack(expected))
        assert images.labels.tolist() == [label for _, label in reference]
        assert images.labels.dtype == torch.int64


def test_a_share_of_an_undivided_folder_is_the_test_set(tmp_path: Path) -> None:
    counts = {name: count for count, name in enumerate("abcdefghijkl", start=3)}
    class_folders(tmp_path, counts, channels=1, width=5)
    spec = of_folder(tmp_path)
    split = load_split(spec, Path("nowhere"))
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted(tmp_path.rglob("*.png"))])
    labels = [label for label, count in enumerate(counts.values()) for _ in range(count)]
    is_test = np.array(share(labels, "test:folder", 0.2))
    assert np.array_equal(split.test.pixels.squeeze(3).numpy(), pixels[is_test])
    assert np.array_equal(split.train.pixels.squeeze(3).numpy(), pixels[~is_test])
    assert split.test.labels.tolist() == [label for label, test in zip(labels, is_test, strict=True) if test]
    assert (len(split.train), len(split.test)) == (spec.dataset.train_images, spec.dataset.test_images)
    assert split.train.pixels.shape[1:] == (8, 5, 1)
    assert split.digest == spec.dataset.digest


@pytest.mark.parametrize("divided", [True, False])
def test_the_smallest_folder_serves_every_protocol(tmp_path: Path, divided: bool) -> None:
    if divided:
        class_folders(tmp_path / "train", {"cat": 2, "dog": 2})
        class_folders(tmp_path / "test", {"cat": 1, "dog": 1})
    else:
        class_folders(tmp_path, {"cat": 3, "dog": 3})
    split = load_split(of_folder(tmp_path, protocol="holdout"), Path("nowhere"))
    assert split.validation is not None
    for images in (split.train, split.validation, split.test):
        assert images.labels.tolist() == [0, 1]
    assert load_split(of_folder(tmp_path, protocol="full"), Path("nowhere")).train.labels.tolist() == [0, 0, 1, 1]


def change_a_pixel(path: Path) -> None:
    save(path / "cat/000.png", picture(77))


def rename(path: Path) -> None:
    (path / "cat/000.png").rename(path / "cat/0.png")


def add(path: Path) -> None:
    save(path / "dog/more.png", picture(77))


@pytest.mark.parametrize("change", [change_a_pixel, rename, add], ids=lambda change: change.__name__)
def test_a_folder_that_has_changed_is_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    spec = of_folder(class_folders(tmp_path, {"cat": 3, "dog": 3}))
    load_split(spec, Path("nowhere"))
    change(tmp_path)
    with pytest.raises(InputError, match="the images have changed since") as caught:
        load_split(spec, Path("nowhere"))
    assert caught.value.problems[0].where == str(tmp_path)


def test_images_that_cannot_be_decoded_are_named(tmp_path: Path) -> None:
    class_folders(tmp_path, {"cat": 3, "dog": 3}, height=64, width=64)
    for name in ("cat/000.png", "dog/001.png"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError) as caught:
        load_split(of_folder(tmp_path), Path("nowhere"))
    places = [problem.where for problem in caught.value.problems]
    assert places == [str(tmp_path / "cat/000.png"), str(tmp_path / "dog/001.png")]
    assert all("can't be read" in problem.what for problem in caught.value.problems)


def decoded(path: Path, channels: int, height: int = 8, width: int = 8) -> Any:
    [pixels] = decode([path], channels, height, width, scale=False)
    return pixels


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    """The pixels as they lie in the file, for each orientation of EXIF, of one upright image."""
    upright = picture(3, 8, 6)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", np.ascontiguousarray(stored), exif=exif)
    assert np.array_equal(decoded(path, 3, 8, 6), upright)


def test_what_is_transparent_is_black(tmp_path: Path) -> None:
    pixels = picture(4, channels=4)
    pixels[..., 3] = np.arange(64).reshape(8, 8) * 4
    expected = pixels[..., :3] * (pixels[..., 3:] / 255)
    path = save(tmp_path / "a.png", pixels)
    assert np.abs(decoded(path, 3) - expected).max() <= 1
    grey = Image.fromarray(pixels[..., 0]).convert("LA")
    grey.putalpha(Image.fromarray(pixels[..., 3]))
    grey.save(tmp_path / "b.png")
    assert np.abs(decoded(tmp_path / "b.png", 1)[..., 0] - expected[..., 0]).max() <= 1
    palette = Image.fromarray(picture(5)).convert("P")
    palette.save(tmp_path / "c.png", transparency=palette.getpixel((0, 0)))
    assert decoded(tmp_path / "c.png", 3)[0, 0].tolist() == [0, 0, 0]


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for ending in ("png", "pgm"):
        path = save(tmp_path / f"a.{ending}", deep)
        assert np.array_equal(decoded(path, 1)[..., 0], np.rint(deep / 257))
        assert np.array_equal(decoded(path, 3), np.repeat(decoded(path, 1), 3, axis=2))


def test_grey_and_colour_become_what_is_asked(tmp_path: Path) -> None:
    colour, grey = picture(6), picture(7, channels=1)
    luma = colour @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert np.abs(decoded(save(tmp_path / "a.png", colour), 1)[..., 0] - luma).max() <= 0.51
    assert np.array_equal(decoded(save(tmp_path / "b.png", grey), 3), np.stack([grey] * 3, axis=2))


def test_order_does_not_depend_on_which_thread_is_first(tmp_path: Path) -> None:
    files, expected = [], []
    for number in range(60):
        files.append(save(tmp_path / f"{number}.png", picture(number, 8 * (1 + 20 * (number % 3 == 0)), 8)))
        expected.append(picture(number)) if number % 3 else expected.append(None)
    pixels = decode(files, 3, 8, 8, scale=True)
    assert all(found is None or np.array_equal(image, found) for image, found in zip(pixels, expected, strict=True))


# --- CIFAR -------------------------------------------------------------------------------------


@pytest.fixture
def cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Small files that count as the official ones, in tmp_path."""
    contents = write_cifar(monkeypatch, "cifar100", tmp_path)
    facts = replace(DATASETS["cifar100"], digest=cifar.files_digest("cifar100"))
    monkeypatch.setitem(DATASETS, "cifar100", facts)
    return contents


def test_the_pinned_digest_stands_for_torchvisions_md5s() -> None:
    assert cifar.files_digest("cifar100") == DATASETS["cifar100"].digest
    assert len(set(DATASETS["cifar100"].class_names)) == 100


def test_cifar100_images_and_fine_labels(tmp_path: Path, cifar100: dict[str, dict[str, Any]]) -> None:
    split = load_split(make_spec(data={"dataset": "cifar100"}, train={"batch_size": 2}), tmp_path)
    for images, file in ((split.train, "train"), (split.test, "test")):
        red_green_blue = cifar100[file]["data"].reshape(4, 3, 32, 32)
        assert np.array_equal(images.pixels.numpy(), red_green_blue.transpose(0, 2, 3, 1))
        assert images.labels.tolist() == cifar100[file]["fine_labels"]
    assert split.digest == DATASETS["cifar100"].digest


def test_other_md5s_than_the_pinned_ones_are_another_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(monkeypatch, "cifar100", tmp_path)
    with pytest.raises(InputError, match="the content of data set cifar100 is not the published one"):
        read_images(Data(dataset="cifar100"), tmp_path)


def test_other_images_than_the_published_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(monkeypatch, "cifar10", tmp_path)
    with pytest.raises(InputError, match="the content of data set cifar10 is not the published one"):
        read_images(Data(dataset="cifar10"), tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_damaged_and_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_cifar(monkeypatch, name, tmp_path)
    folder = cifar.folder_of(name, tmp_path)
    training, test = ("data_batch_1", "test_batch") if name == "cifar10" else ("train", "test")
    (folder / training).unlink()
    (folder / test).write_bytes(b"damaged")
    title = DATASETS[name].title
    for call in (lambda: cifar.check(name, tmp_path), lambda: ensure_data(Data(dataset=name), tmp_path)):
        with pytest.raises(InputError) as caught:
            call()
        missing, damaged = caught.value.problems
        assert (missing.where, missing.what) == (str(folder / training), f"this {title} file is missing")
        assert damaged.where == str(folder / test)
        assert f"this {title} file is damaged (its MD5 is not" in damaged.what
        assert f"{folder.name}/ with {training}, " in str(missing.fix)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"labels": [0, 1, 2, 100]}, "label 100 is none of 0 to"),
        ({"labels": [0, -1, 2, 3]}, "label -1 is none of 0 to"),
        ({"labels": [0, 1, 2]}, "images without labels"),
        ({"data": np.zeros((4, 3071), np.uint8)}, "images are 4 x 3071 of uint8, not N x 3072"),
        ({"data": np.zeros((4, 3072), np.float32)}, "images are 4 x 3072 of float32"),
        ({"data": np.zeros((4, 3, 32, 32), np.uint8)}, "images are 4 x 3 x 32 x 32"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_images_and_labels_that_cannot_be_are_refused_with_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: dict[str, Any], told: str
) -> None:
    """Whatever an MD5 has said of the file."""
    file, key = ("test_batch", "labels") if name == "cifar10" else ("test", "fine_labels")
    content = write_cifar(monkeypatch, name, tmp_path)[file]
    content |= {key if field == "labels" else field: value for field, value in change.items()}
    packed = pickle.dumps(content, protocol=2)
    path = cifar.folder_of(name, tmp_path) / file
    path.write_bytes(packed)
    md5s = {**cifar.OFFICIAL[name].md5s, file: hashlib.md5(packed).hexdigest()}
    monkeypatch.setitem(cifar.OFFICIAL, name, replace(cifar.OFFICIAL[name], md5s=md5s))
    with pytest.raises(InputError) as caught:
        cifar.read(name, tmp_path)
    [problem] = caught.value.problems
    assert problem.where == str(path)
    assert told in problem.what


def test_nothing_is_unpickled_before_its_md5_is_known(tmp_path: Path, cifar100: dict[str, dict[str, Any]]) -> None:
    sprung = tmp_path / "sprung"
    (tmp_path / "cifar-100-python/train").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(InputError, match="this CIFAR-100 file is damaged"):
        load_split(make_spec(data={"dataset": "cifar100"}), tmp_path)
    assert not sprung.exists()


def test_cifar100_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(self: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(CIFAR100, "download", no_network)
    with pytest.raises(InputError) as caught:
        ensure_data(Data(dataset="cifar100"), tmp_path / "data")
    [problem] = caught.value.problems
    assert problem.what.startswith(f"CIFAR-100 is not in {tmp_path / 'data'} and can't be downloaded (Name or service")
    for part in ("cifar-100-python/ with train, test and meta", "cifar-100-python.tar.gz", "HARNESS_DATA_DIR"):
        assert part in str(problem.fix)
    assert not (tmp_path / "data").exists()


def test_named_sets_that_come_along_need_no_folder(tmp_path: Path) -> None:
    ensure_data(Data(dataset="digits"), tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
