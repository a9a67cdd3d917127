"""Image files as resident uint8 arrays: decoded, turned upright, brought to the network's channels and size."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from harness.errors import InputError, Problem
from harness.spec.data import Folder
from harness.spec.folders import THREADS, check_is_file, first_of, list_images, read_content, unreadable_image

Array = np.ndarray[Any, Any]


def read_folder(folder: Folder) -> tuple[Array, Array, Array | None]:
    """The images that `folder.content` describes, in its order: class by class, by path, test images last.

    Returns:
        pixels uint8 [N, H, W, C], labels int64 [N], and which of them are test images, bool [N]; None where
        a share of them is still to be held out.

    Raises:
        InputError: the folder does not hold what it held when the experiment was read, or an image can't be decoded.
    """
    path, content = Path(folder.path), folder.content
    if content is None:
        raise ValueError("the folder's content is not filled in")
    if read_content(path, folder.size).digest != content.digest:
        fix = "put back what was there; a run with other images is another run, so load its file anew"
        raise InputError("the images have changed since the experiment was read", where=str(path), fix=fix)
    listing = list_images(path)
    channels, height, width = content.image_shape
    files = [file.path for file in listing.files]
    pixels = decode(files, channels, height, width, scale=folder.size is not None)
    labels = np.array([file.label for file in listing.files], dtype=np.int64)
    is_test = None if listing.test is None else np.arange(len(files)) >= len(listing.train)
    return pixels, labels, is_test


def decode(
    files: Sequence[Path], channels: int, height: int, width: int, *, scale: bool, advice: str | None = None
) -> Array:
    """Decode image files in order: uint8 [N, height, width, channels], `channels` 1 (grey) or 3 (RGB).

    Args:
        scale: fit images of another size (see `fit`); otherwise they are an error.
        advice: what to say to the user of an image of another size.

    Raises:
        InputError: naming each file that can't be decoded or has another size.
    """
    pixels = np.empty((len(files), height, width, channels), dtype=np.uint8)

    def decode_into(index: int) -> Problem | None:
        try:
            check_is_file(files[index])
            with Image.open(files[index]) as opened:
                image = to_channels(ImageOps.exif_transpose(opened), channels)
        except Exception as error:  # damage surfaces in Pillow as whatever it leads to
            return unreadable_image(files[index], error)
        if scale:
            image = fit(image, height, width)
        if image.size != (width, height):
            what = f"this image is {image.width} x {image.height}, not {width} x {height}"
            return Problem(what, str(files[index]), advice)
        pixels[index] = np.asarray(image).reshape(height, width, channels)
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        problems = [problem for problem in pool.map(decode_into, range(len(files))) if problem]
    if problems:
        raise InputError(first_of(problems, "images can't be used"))
    return pixels


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """8 bits a channel, 1 channel (ITU-R 601 luma) or 3 (RGB); what is transparent is laid over black.

    Sixteen bits become eight by rounding, so that white stays white.
    """
    if image.mode.startswith("I"):
        image = Image.fromarray(np.rint(np.asarray(image).clip(0, 65535) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("L" if channels == 1 else "RGB")


def fit(image: Image.Image, height: int, width: int) -> Image.Image:
    """Scale the image until it just covers height x width (bilinear, antialiased) and cut out its middle.

    For a square this is torchvision's `Resize(size)` and `CenterCrop(size)`.
    """
    if image.size == (width, height):
        return image
    if image.width * height >= image.height * width:
        scaled = image.width * height // image.height, height
    else:
        scaled = width, image.height * width // image.width
    image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
