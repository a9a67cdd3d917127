"""What a folder of images is said to hold, and every mistake that it can have."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.errors import InputError, Problem
from harness.spec.folders import find_images, list_images, read_content, share_of
from harness.training.folder import decode
from tests.data_files import class_folders, picture, save


def problems_of(path: Path, size: int | None = None) -> list[Problem]:
    with pytest.raises(InputError) as caught:
        read_content(path, size)
    return list(caught.value.problems)


def test_one_folder_a_class(tmp_path: Path) -> None:
    class_folders(tmp_path, {"dog": 10, "cat": 3}, height=6, width=9)
    save(tmp_path / "cat/kittens/young/one.JPG", picture(7, 6, 9))
    for ignored in ("notes.txt", "cat/notes.txt", "cat/.hidden.png", ".git/a.png", "cat/.thumbs/b.png", "top.png"):
        (tmp_path / ignored).parent.mkdir(exist_ok=True)
        (tmp_path / ignored).write_bytes(b"no image")
    content = read_content(tmp_path, None)
    assert content.class_names == ("cat", "dog")
    assert content.image_shape == (3, 6, 9)
    assert (content.train_images, content.test_images) == (3 + 8, 1 + 2)  # a fifth of 4 and of 10


def test_folders_train_and_test(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"cat": 4, "dog": 2})
    class_folders(tmp_path / "test", {"cat": 1, "dog": 3})
    (tmp_path / "extra/empty").mkdir(parents=True)  # left alone
    content = read_content(tmp_path, None)
    assert content.class_names == ("cat", "dog")
    assert (content.train_images, content.test_images) == (6, 4)


def test_a_class_may_be_a_link(tmp_path: Path) -> None:
    class_folders(tmp_path / "elsewhere", {"cat": 3})
    class_folders(tmp_path / "data", {"dog": 3})
    (tmp_path / "data/cat").symlink_to(tmp_path / "elsewhere/cat", target_is_directory=True)
    assert read_content(tmp_path / "data", None).train_images == 4


def test_order_is_class_by_class_then_by_the_paths_parts(tmp_path: Path) -> None:
    """As strings "a-b/0.png" < "a/0.png" and "a/x-y/0.png" < "a/x/0.png"; by parts it is the other way round."""
    names = ["a/0.png", "a/x/0.png", "a/x-y/0.png", "a-b/0.png", "a-b/1.png", "a-b/2.png"]
    for seed, name in enumerate(reversed(names)):
        save(tmp_path / name, picture(seed))
    listing = list_images(tmp_path)
    assert [file.name for file in listing.files] == names
    assert [file.label for file in listing.files] == [0, 0, 0, 1, 1, 1]
    assert [file.path for file in listing.files] == [tmp_path / name for name in names]
    assert [path.as_posix() for path in find_images(tmp_path)] == names


def test_digest_is_over_names_and_bytes(tmp_path: Path) -> None:
    class_folders(tmp_path / "one", {"cat": 3, "dog": 3})
    expected = hashlib.sha256()
    for name in ("cat/000.png", "cat/001.png", "cat/002.png", "dog/000.png", "dog/001.png", "dog/002.png"):
        expected.update(name.encode() + b"\0" + hashlib.sha256((tmp_path / "one" / name).read_bytes()).digest())
    before = read_content(tmp_path / "one", None)
    assert before.digest == expected.hexdigest()
    assert read_content(class_folders(tmp_path / "two", {"cat": 3, "dog": 3}), None) == before
    (tmp_path / "two/cat/000.png").rename(tmp_path / "two/cat/0.png")
    assert read_content(tmp_path / "two", None).digest != before.digest
    save(tmp_path / "one/dog/000.png", picture(99))
    assert read_content(tmp_path / "one", None).digest != before.digest


def test_digest_tells_training_from_test_images(tmp_path: Path) -> None:
    for first, second in (("train", "test"), ("test", "train")):
        class_folders(tmp_path / first / first, {"cat": 2, "dog": 2})
        class_folders(tmp_path / first / second, {"cat": 3, "dog": 3})
    assert read_content(tmp_path / "train", None).digest != read_content(tmp_path / "test", None).digest


def test_grey_only_where_every_image_is(tmp_path: Path) -> None:
    class_folders(tmp_path, {"cat": 3, "dog": 3}, channels=1)
    Image.fromarray(picture(1, channels=1)).convert("1").save(tmp_path / "cat/bits.png")
    save(tmp_path / "cat/deep.png", np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
    Image.fromarray(picture(1, channels=1)).convert("LA").save(tmp_path / "cat/alpha.png")
    assert read_content(tmp_path, None).image_shape == (1, 8, 8)
    save(tmp_path / "dog/colour.png", picture(1))
    assert read_content(tmp_path, None).image_shape == (3, 8, 8)


def test_size_is_of_what_will_be_scaled(tmp_path: Path) -> None:
    class_folders(tmp_path, {"cat": 3, "dog": 3}, height=20)
    save(tmp_path / "dog/wide.png", picture(1, width=30))
    assert read_content(tmp_path, 12).image_shape == (3, 12, 12)
    with pytest.raises(InputError, match="can't be 0 pixels wide"):
        read_content(tmp_path, 0)


@pytest.mark.parametrize("ending", ["jpg", "webp", "png"])
def test_size_is_of_the_upright_image(tmp_path: Path, ending: str) -> None:
    """EXIF orientation 6: the camera was held on its side."""
    class_folders(tmp_path, {"cat": 3, "dog": 3}, height=9, width=5)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / f"dog/turned.{ending}", picture(1, 5, 9), exif=exif)
    assert read_content(tmp_path, None).image_shape == (3, 9, 5)


@pytest.mark.parametrize("chunk", [b"eXIf", b"zTXt", b"iTXt"])
def test_an_orientation_behind_the_pixels_counts(tmp_path: Path, chunk: bytes) -> None:
    """Where the PNG standard allows it, and where Pillow finds it when it decodes the image."""
    class_folders(tmp_path, {"cat": 3, "dog": 3}, height=9, width=5)
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = exif.tobytes()
    profile = f"\nexif\n{len(raw):8}\n{raw.hex()}\n".encode()
    xmp = b'<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    content = {
        b"eXIf": raw.removeprefix(b"Exif\0\0"),
        b"zTXt": b"Raw profile type exif\0\0" + zlib.compress(profile),
        b"iTXt": b"XML:com.adobe.xmp\0\0\0\0\0" + xmp,
    }[chunk]
    whole = len(content).to_bytes(4) + chunk + content + zlib.crc32(chunk + content).to_bytes(4)
    save(tmp_path / "dog/turned.png", picture(1, 5, 9))
    before, end = (tmp_path / "dog/turned.png").read_bytes().rsplit(b"\0\0\0\0IEND", 1)
    (tmp_path / "dog/turned.png").write_bytes(before + whole + b"\0\0\0\0IEND" + end)
    assert read_content(tmp_path, None).image_shape == (3, 9, 5)
    assert decode([tmp_path / "dog/turned.png"], 3, 9, 5, scale=False).shape == (1, 9, 5, 3)


def test_share_is_rounded_and_never_nothing() -> None:
    assert [share_of(images, 0.1) for images in (1, 4, 5, 6, 14, 15, 16, 25, 5000)] == [1, 1, 1, 1, 1, 2, 2, 2, 500]


def nothing(root: Path) -> None:
    root.rmdir()


def a_file(root: Path) -> None:
    root.rmdir()
    root.write_text("")


def no_class(root: Path) -> None:
    save(root / "0.png", picture(0))


def one_class(root: Path) -> None:
    class_folders(root, {"cat": 3})


def an_empty_class(root: Path) -> None:
    class_folders(root, {"cat": 3, "dog": 3})
    (root / "eel").mkdir()
    (root / "eel/0.tiff").write_bytes(b"")


def two_images(root: Path) -> None:
    class_folders(root, {"cat": 3, "dog": 2})


def one_training_image(root: Path) -> None:
    class_folders(root / "train", {"cat": 2, "dog": 1})
    class_folders(root / "test", {"cat": 1, "dog": 1})


def no_test_image(root: Path) -> None:
    class_folders(root / "train", {"cat": 2, "dog": 2})
    class_folders(root / "test", {"cat": 1})


def a_strange_test_class(root: Path) -> None:
    class_folders(root / "train", {"cat": 2, "dog": 2})
    class_folders(root / "test", {"cat": 1, "dog": 1, "cats": 1})


def validation_for_test(root: Path) -> None:
    class_folders(root / "train", {"cat": 3, "dog": 3})
    class_folders(root / "val", {"cat": 3, "dog": 3})


def several_sizes(root: Path) -> None:
    class_folders(root, {"cat": 3, "dog": 3})
    save(root / "dog/wide.png", picture(1, 8, 10))


def no_image(root: Path) -> None:
    class_folders(root, {"cat": 3, "dog": 3})
    (root / "cat/bad.png").write_bytes(b"not a picture")


def a_device(root: Path) -> None:
    root.rmdir()
    root.symlink_to("/dev/null")


def a_pipe(root: Path) -> None:
    class_folders(root, {"cat": 3, "dog": 3})
    os.mkfifo(root / "cat/bad.png")


def a_link_to_a_device(root: Path) -> None:
    class_folders(root, {"cat": 3, "dog": 3})
    (root / "cat/bad.png").symlink_to("/dev/null")


def a_broken_link(root: Path) -> None:
    class_folders(root, {"cat": 3, "dog": 3})
    (root / "cat/bad.png").symlink_to(root / "gone.png")


def floating_point(root: Path) -> None:
    class_folders(root, {"cat": 3, "dog": 3})
    (root / "cat/bad.pgm").write_bytes(b"Pf\n1 1\n-1.0\n" + np.float32(0.5).tobytes())


BAD: dict[Callable[[Path], None], tuple[str, str, str]] = {
    nothing: ("", "there is no such folder", "one folder a class"),
    a_file: ("", "is a file, not a folder", "one folder a class"),
    a_device: ("", "is no folder", "one folder a class"),
    no_class: ("", "no folders in it, so no classes", "one folder a class"),
    one_class: ("", "only one class, cat", "two"),
    an_empty_class: ("eel", "class eel has no images", ".png"),
    two_images: ("dog", "class dog has 2 images", "at least 3: 2 to train on and 1 to test on"),
    one_training_image: ("train/dog", "class dog has 1 image", "at least 2 to train on"),
    no_test_image: ("test/dog", "class dog has no images", "at least 1 to test on"),
    a_strange_test_class: ("test/cats", "class cats has test images and no folder in train/", "did you mean cat?"),
    validation_for_test: ("", "there is train/ but no test/", "call val/ test/"),
    several_sizes: ("", "8 x 8 (cat/000.png and 5 more), 10 x 8 (dog/wide.png)", "data.folder.size"),
    no_image: ("cat/bad.png", "can't be read: it is no image of a known format", "replace it"),
    a_broken_link: ("cat/bad.png", "can't be read: No such file or directory", "replace it"),
    a_pipe: ("cat/bad.png", "can't be read: it is no file", "replace it"),
    a_link_to_a_device: ("cat/bad.png", "can't be read: it is no file", "replace it"),
    floating_point: ("cat/bad.pgm", "floating-point", "replace it"),
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_each_mistake_is_told_with_its_place_and_its_remedy(tmp_path: Path, make: Callable[[Path], None]) -> None:
    root = tmp_path / "images"
    root.mkdir()
    make(root)
    [problem] = problems_of(root)
    where, what, fix = BAD[make]
    assert problem.where == str(root / where)
    assert what in problem.what
    assert fix in str(problem.fix)


def test_mistakes_are_told_all_at_once(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", {"cat": 2, "dog": 1})
    class_folders(tmp_path / "test", {"cat": 1, "dog": 1, "eel": 1})
    save(tmp_path / "train/cat/large.png", picture(1, 16, 16))
    (tmp_path / "test/cat/bad.png").write_bytes(b"not a picture")
    told = [problem.what for problem in problems_of(tmp_path)]
    assert len(told) == 4
    for part in ("dog has 1 image", "class eel has test images", "can't be read", "not of one size"):
        assert any(part in what for what in told), part


def test_many_mistakes_of_a_kind_are_told_in_short(tmp_path: Path) -> None:
    class_folders(tmp_path, {"cat": 3, "dog": 3})
    for number in range(13):
        (tmp_path / f"cat/bad{number:02}.png").write_bytes(b"not a picture")
    problems = problems_of(tmp_path)
    assert [Path(str(problem.where)).name for problem in problems[:10]] == [f"bad{n:02}.png" for n in range(10)]
    assert [str(problem) for problem in problems[10:]] == ["3 more images can't be read"]


@pytest.mark.skipif(sys.platform == "darwin", reason="file names there are always UTF-8")
def test_a_file_name_that_is_no_text(tmp_path: Path) -> None:
    class_folders(tmp_path, {"cat": 3, "dog": 3})
    os.rename(tmp_path / "cat/000.png", os.fsencode(tmp_path) + b"/cat/\xff.png")
    [problem] = problems_of(tmp_path)
    assert "not UTF-8" in problem.what


def test_a_pipe_is_not_waited_at_when_pixels_are_decoded(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="it is no file"):
        decode([tmp_path / "pipe.png"], 3, 8, 8, scale=False)


def test_pixels_are_not_decoded(tmp_path: Path) -> None:
    class_folders(tmp_path, {"cat": 3, "dog": 3}, height=64, width=64)
    whole = (tmp_path / "cat/000.png").read_bytes()
    (tmp_path / "cat/000.png").write_bytes(whole[: len(whole) // 2])
    assert read_content(tmp_path, None).image_shape == (3, 64, 64)


def test_the_specs_need_neither_pillow_nor_numpy() -> None:
    program = (
        "import sys, pkgutil, importlib, harness.spec\n"
        "for module in pkgutil.iter_modules(harness.spec.__path__):\n"
        "    importlib.import_module(f'harness.spec.{module.name}')\n"
        "bad = {'PIL', 'numpy', 'torch'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
