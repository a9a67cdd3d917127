"""A folder of the user's own images, told without decoding one: its files, classes, shape and digest.

Images are told by their names' endings (`EXTENSIONS`, in any case); other files, and whatever begins with a dot,
are left alone. Files are in the order of their paths' parts, class by class: the order of the data set.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from itertools import chain
from pathlib import Path, PurePath
from stat import S_ISREG
from typing import TYPE_CHECKING, NoReturn

from harness.errors import InputError, Problem
from harness.spec.data import HOLDOUT_SHARE, FolderContent

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp")
TEST_SHARE = 0.2
"""Of each class, where there are no folders train and test."""
FEWEST_TRAIN = 2
"""Training images of a class: under protocol `holdout` one is held out and one is left."""
MOST_CLASSES = 10_000
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"})
"""Pillow's modes of one channel (with or without alpha)."""
TOLD = 10
"""Problems of one kind that are told; of the others how many there are."""
THREADS = min(8, os.cpu_count() or 1)

_ORIENTATION = 0x0112  # the EXIF tag; from 5 on, rows are columns
_PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # the chunks in which Pillow looks for the tag
_LAYOUT = "one folder a class: <class>/*.png, or train/<class>/... and test/<class>/..."


@dataclass(frozen=True)
class ImageFile:
    """One image: where it lies, its name (relative to the data set's folder, with "/"), and its class's number."""

    path: Path
    name: str
    label: int


@dataclass(frozen=True)
class Listing:
    """The files of a data set in order; `test` is None where a share of `train` is to be held out for it."""

    class_names: tuple[str, ...]
    train: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...] | None

    @property
    def files(self) -> tuple[ImageFile, ...]:
        """Training images, then test images."""
        return (*self.train, *(self.test or ()))


def share_of(images: int, share: float) -> int:
    """How many of a class's images a share of it takes: rounded (half to even), at least one."""
    return max(1, round(share * images))


def read_content(path: Path, size: int | None) -> FolderContent:
    """What the folder holds: every file is read, no pixel decoded.

    Args:
        path: `path/<class>/...`, or `path/train/<class>/...` and `path/test/<class>/...`; with these two, anything
            beside them is left alone. A class's images may lie in folders of its own folder.
        size: the images will be scaled to size x size; None: all must be of one size already.

    The digest is SHA-256 over, for each file in the order of its name, the name, a zero byte and the SHA-256 of
    its bytes. Channels: 1 where every image is grey, else 3.

    Raises:
        InputError: the folder is missing, its layout is another, a class has too few images, an image can't be
            read, or sizes differ and `size` is None; all of it at once.
    """
    if size is not None and size < 1:
        raise InputError(f"images can't be {size} pixels wide", where=str(path), fix="data.folder.size: 1 to 1024")
    listing, problems = _survey(path)
    headers, unreadable = _read_headers(listing.files)
    problems += unreadable
    shapes = {name: header.shape for name, header in headers.items()}
    if size is None and len(set(shapes.values())) > 1:
        problems.append(_sizes_differ(path, shapes))
    if problems:
        raise InputError(problems)
    height, width = next(iter(shapes.values())) if size is None else (size, size)
    per_class = Counter(file.label for file in listing.train)
    tested = {label: 0 if listing.test else share_of(images, TEST_SHARE) for label, images in per_class.items()}
    digest = sha256()
    for name in sorted(headers):
        digest.update(name.encode() + b"\0" + headers[name].digest)
    return FolderContent(
        image_shape=(1 if all(header.grey for header in headers.values()) else 3, height, width),
        class_names=listing.class_names,
        train_images=len(listing.train) - sum(tested.values()),
        held_out=sum(share_of(images - tested[label], HOLDOUT_SHARE) for label, images in per_class.items()),
        test_images=len(listing.test) if listing.test else sum(tested.values()),
        digest=digest.hexdigest(),
    )


def list_images(path: Path) -> Listing:
    """The files of a data set's folder, none of them opened; InputError as `read_content` raises it."""
    listing, problems = _survey(path)
    if problems:
        raise InputError(problems)
    return listing


def find_images(folder: Path) -> list[Path]:
    """Every image under `folder`, relative to it, at any depth, in the order of the paths' parts.

    Raises:
        InputError: a folder can't be listed.
    """
    found = []
    try:
        for parent, folders, files in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [Path(parent, name).relative_to(folder) for name in files if is_image_name(name)]
    except OSError as error:
        raise InputError(f"can't be listed: {error.strerror}", where=str(error.filename)) from error
    return sorted(found, key=lambda path: path.parts)


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return not name.startswith(".") and PurePath(name).suffix.lower() in EXTENSIONS


def first_of(problems: Sequence[Problem], what: str) -> list[Problem]:
    """The first ten problems of one kind; `what` says of the others what they are ("images can't be read")."""
    more = len(problems) - TOLD
    return [*problems[:TOLD], *([Problem(f"{more} more {what}")] if more > 0 else [])]


# --- layout ------------------------------------------------------------------------------------


def _survey(path: Path) -> tuple[Listing, list[Problem]]:
    """The files as far as the layout can be told, and what is wrong with it."""
    if not os.path.isdir(path):
        there = "is a file, not a folder" if os.path.isfile(path) else "is no folder"
        what = there if os.path.exists(path) else "there is no such folder"
        raise InputError(what, where=str(path), fix=f"data.folder.path: {_LAYOUT}")
    folders = _folders(path)
    divided = {"train", "test"} <= set(folders)
    if not divided and "train" in folders and (held := {"val", "valid", "validation"} & set(folders)):
        fix = f"call {min(held)}/ test/: under protocol holdout validation images are taken from train/"
        raise InputError("there is train/ but no test/", where=str(path), fix=fix)
    root = path / "train" if divided else path
    names = _folders(root)
    problems = _class_problems(root, names)
    fewest = FEWEST_TRAIN if divided else FEWEST_TRAIN + 1
    train = _class_files(path, root, names, fewest, problems)
    if not divided:
        return Listing(tuple(names), tuple(train), None), problems
    problems += _strangers(path / "test", names)
    test = _class_files(path, path / "test", names, 1, problems)
    return Listing(tuple(names), tuple(train), tuple(test)), problems


def _folders(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"can't be listed: {error.strerror}", where=str(path)) from error


def _class_problems(root: Path, names: Sequence[str]) -> list[Problem]:
    problems = []
    if not names:
        problems.append(Problem("there are no folders in it, so no classes", str(root), _LAYOUT))
    elif len(names) == 1:
        problems.append(Problem(f"there is only one class, {names[0]}", str(root), "a network needs two to tell apart"))
    elif len(names) > MOST_CLASSES:
        problems.append(Problem(f"{len(names):,} classes are more than {MOST_CLASSES:,}", str(root)))
    return problems


def _strangers(root: Path, names: Sequence[str]) -> list[Problem]:
    problems = []
    for name in _folders(root) if names else ():
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            fix = f"did you mean {near[0]}?" if near else "put training images of it into train/, or take it out"
            problems.append(Problem(f"class {name} has test images and no folder in train/", str(root / name), fix))
    return first_of(problems, "such classes")


def _class_files(path: Path, root: Path, names: Sequence[str], fewest: int, problems: list[Problem]) -> list[ImageFile]:
    """The images of each class's folder in `root`; classes with fewer than `fewest` are added to `problems`."""
    files: list[ImageFile] = []
    few = []
    for label, name in enumerate(names):
        folder = root / name
        found = find_images(folder) if folder.is_dir() else []
        for image in found:
            relative = (folder.relative_to(path) / image).as_posix()
            if _is_text(relative):
                files.append(ImageFile(folder / image, relative, label))
            else:
                few.append(Problem("the file's name is not UTF-8", ascii(relative), "give it another name"))
        if len(found) < fewest:
            few.append(_too_few(folder, name, len(found), fewest))
    problems += first_of(few, "classes with too few images")
    return files


def _is_text(name: str) -> bool:
    """Whether the name is Unicode; Python carries other bytes of a file name as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_few(folder: Path, name: str, count: int, fewest: int) -> Problem:
    needed = {
        1: "at least 1 to test on",
        FEWEST_TRAIN: f"at least {FEWEST_TRAIN} to train on",
        FEWEST_TRAIN + 1: f"at least {FEWEST_TRAIN + 1}: {FEWEST_TRAIN} to train on and 1 to test on",
    }[fewest]
    what = f"class {name} has {count or 'no'} image{'' if count == 1 else 's'}"
    return Problem(what, str(folder), f"it needs {needed} ({', '.join(EXTENSIONS)})")


# --- headers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Header:
    """What a file says of itself: SHA-256 of its bytes, whether it is grey, (height, width) as it is shown."""

    digest: bytes
    grey: bool
    shape: tuple[int, int]


def _read_headers(files: Sequence[ImageFile]) -> tuple[dict[str, _Header], list[Problem]]:
    """Headers by name; and the files that have none."""
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(_read_header, files))
    headers = {file.name: found for file, found in zip(files, results, strict=True) if isinstance(found, _Header)}
    unreadable = [found for found in results if isinstance(found, Problem)]
    return headers, first_of(unreadable, "images can't be read")


def _read_header(file: ImageFile) -> _Header | Problem:
    from PIL import Image

    try:
        check_is_file(file.path)
        content = file.path.read_bytes()
        with Image.open(BytesIO(content)) as image:
            if image.mode == "F":
                raise ValueError("its pixels are floating-point numbers")
            width, height = image.size
            shape = (width, height) if _is_turned(image, content) else (height, width)
            return _Header(sha256(content).digest(), image.mode in GREY_MODES, shape)
    except Exception as error:  # damage surfaces in Pillow as whatever it leads to
        return unreadable_image(file.path, error)


def _is_turned(image: Image.Image, content: bytes) -> bool:
    """Whether EXIF says that rows are to be shown as columns."""
    if image.format == "PNG" and not any(mark in content for mark in _PNG_EXIF):
        return False  # to look for it behind the pixels, Pillow would decode them
    return bool(image.getexif().get(_ORIENTATION, 1) >= 5)


def check_is_file(path: Path) -> None:
    """Before it is opened: a pipe would be waited at for ever.

    Raises:
        ValueError: something else is there, links followed.
        OSError: there is nothing to see.
    """
    if not S_ISREG(path.stat().st_mode):
        raise ValueError("it is no file")


def unreadable_image(path: Path, error: Exception) -> Problem:
    """An image file that can't be opened or decoded, and why."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        reason = "it is no image of a known format"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        reason = str(error) or type(error).__name__
    return Problem(f"this image can't be read: {reason}", str(path), "replace it or take it out")


def _sizes_differ(path: Path, shapes: dict[str, tuple[int, int]]) -> Problem:
    counts = Counter(shapes.values()).most_common()
    examples = {shape: name for name, shape in reversed(shapes.items())}
    told = [_size_of(shape, count, examples[shape]) for shape, count in counts[:3]]
    more = [f"{len(counts) - 3} other sizes"] if len(counts) > 3 else []
    return Problem(
        f"the images are not of one size: {', '.join(chain(told, more))}",
        str(path),
        "data.folder.size scales them, e.g. size: 32",
    )


def _size_of(shape: tuple[int, int], count: int, example: str) -> str:
    return f"{shape[1]} x {shape[0]} ({example}{f' and {count - 1:,} more' if count > 1 else ''})"


def _raise(error: OSError) -> NoReturn:
    raise error
