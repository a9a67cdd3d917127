"""Labels for images that no data set holds: one run's weights on files, an array or a pickled batch."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import nn

from harness.errors import InputError, StorageError
from harness.spec.documents import experiment_from_dict
from harness.spec.experiment import ExperimentSpec
from harness.spec.folders import EXTENSIONS, find_images, is_image_name
from harness.spec.yaml_tree import shown
from harness.tracking.atomic import atomic_write_text
from harness.tracking.record import Record
from harness.tracking.select import find_run
from harness.tracking.store import RunFolder, Store
from harness.training import checkpoint
from harness.training.augment import Normaliser
from harness.training.cifar_pickle import read_batch
from harness.training.data import Images
from harness.training.device import Hardware, arithmetic, resolve
from harness.training.evaluate import evaluate
from harness.training.folder import decode, fit, to_channels
from harness.training.model import build_model

Array = np.ndarray[Any, Any]
Shape = tuple[int, int, int]
Weights = Literal["final", "best"]

RESIZE = "--resize scales images of another size and cuts out their middle"
KINDS = f"it must be a folder of images, one image ({', '.join(EXTENSIONS)}), a .npy array or a pickled CIFAR batch"
CIFAR_ROW = 3 * 32 * 32


@dataclass(frozen=True)
class Prediction:
    """What the network says of one image: the class's number, its name, and its probability (of the softmax)."""

    id: str | int
    label: int
    name: str
    probability: float


@dataclass(frozen=True)
class NamedImages:
    """Images as the network takes them, uint8 [N, H, W, C], and what each is called."""

    ids: Sequence[str | int]
    pixels: Array


def predict(
    run: str,
    images: Path,
    runs_dir: Path,
    *,
    weights: Weights = "final",
    device: str = "auto",
    flip_tta: bool = False,
    resize: bool = False,
) -> list[Prediction]:
    """Label images by a run's weights, in the precision in which it was trained.

    Args:
        run: a run id, the beginning of one, or a run's folder.
        images: see `read_images`.
        runs_dir: where runs are kept.
        weights: those after the last epoch, or those with the lowest validation loss.
        device: where to compute.
        flip_tta: take the mean of the logits of each image and of its mirror image.
        resize: scale images of another size and cut out their middle; a run on a folder with a `size` always does.

    Raises:
        InputError: there is no such run, it holds no weights, or the images can't be used.
    """
    folder, record = find_run(Store(runs_dir), run)
    spec = experiment_from_dict(record.spec)
    hardware = resolve(device, record.provenance.get("precision", spec.train.precision))
    network = _load_network(folder, record, spec, weights, hardware)
    scale = resize or (spec.data.folder is not None and spec.data.folder.size is not None)
    named = read_images(images, spec.dataset.image_shape, scale=scale)
    labels = torch.zeros(len(named.pixels), dtype=torch.int64)  # not known, and of the loss alone
    unlabelled = Images(torch.from_numpy(named.pixels), labels).to(hardware.device)
    normalise = Normaliser.of(spec.dataset.mean, spec.dataset.std, hardware.device)
    with arithmetic(hardware, spec.train.deterministic):
        logits = evaluate(network, unlabelled, normalise, hardware, flip=flip_tta).logits
    probabilities = logits.softmax(1).amax(1).tolist()
    names = spec.dataset.class_names
    return [
        Prediction(id, label, names[label], probability)
        for id, label, probability in zip(named.ids, logits.argmax(1).tolist(), probabilities, strict=True)
    ]


def _load_network(
    folder: RunFolder, record: Record, spec: ExperimentSpec, weights: Weights, hardware: Hardware
) -> nn.Module:
    path = folder.final if weights == "final" else folder.best
    if not path.is_file():
        raise _no_weights(path, record, weights)
    network = build_model(spec, hardware.device)
    try:
        content = checkpoint.read(path, hardware.device)
        checkpoint.load_weights(network, checkpoint.weights_of(content, path), path)
    except checkpoint.DamagedCheckpoint as error:
        raise InputError(
            f"the weights can't be read: {error}", fix="`harness run --fresh` trains them again"
        ) from error
    return network.to(memory_format=checkpoint.MEMORY_FORMAT)


def _no_weights(path: Path, record: Record, weights: Weights) -> InputError:
    if not record.finished:
        return InputError(f"run {record.run_id} has not finished: it is {record.status}", where=str(path.parent.parent))
    if weights == "best" and record.results.best is None:
        what = f"run {record.run_id} has no best weights: without a validation set none are selected"
        return InputError(what, where=str(path), fix="--weights final takes those after the last epoch")
    fix = "--runs-dir names the folder where it was trained; `harness run --fresh` trains it again"
    what = f"run {record.run_id} has no {weights} weights here; a copy for evidence holds none"
    return InputError(what, where=str(path), fix=fix)


# --- images ------------------------------------------------------------------------------------


def read_images(path: Path, shape: Shape, *, scale: bool) -> NamedImages:
    """Read images as a network of input `shape` (channels, height, width) takes them.

    Args:
        path: a folder (image files at any depth, by path; each is called by its path in the folder), one image file,
            a .npy array [N, H, W, C] or [N, H, W], uint8 or floats from 0 to 1 (called by index), or a pickled batch
            in CIFAR's layout (called by its own `ids`, where it has them).
        shape: grey becomes colour and colour grey where the network wants it.
        scale: scale images of another size; otherwise they are an error.

    Raises:
        InputError: naming each file that can't be used, and why.
    """
    channels, height, width = shape
    if os.path.isdir(path):
        files = find_images(path)
        if not files:
            raise InputError("there are no images in this folder", where=str(path), fix=KINDS)
        ids = [os.fsencode(file.as_posix()).decode(errors="backslashreplace") for file in files]
        found = [path / file for file in files]
        return NamedImages(ids, decode(found, channels, height, width, scale=scale, advice=RESIZE))
    if not os.path.isfile(path):
        raise InputError("there is no such file or folder", where=str(path), fix=KINDS)
    if is_image_name(path.name):
        return NamedImages([path.name], decode([path], channels, height, width, scale=scale, advice=RESIZE))
    named = _read_array(path) if path.suffix.lower() == ".npy" else _read_pickle(path)
    return NamedImages(named.ids, _as_network_takes(named.pixels, shape, path, scale=scale))


def _read_array(path: Path) -> NamedImages:
    try:
        with open(path, "rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # bytes that are no array end in whatever they lead to
        raise InputError(f"this array can't be read: {shown(str(error))}", where=str(path)) from error
    return NamedImages(range(len(array) if array.ndim else 0), _as_pixels(array, path))


def _read_pickle(path: Path) -> NamedImages:
    try:
        batch = read_batch(path)
    except InputError as error:
        raise InputError(error.problems[0].what, where=str(path), fix=error.problems[0].fix or KINDS) from error
    data = batch.get("data")
    if not isinstance(data, np.ndarray):
        raise InputError("this pickle has no array `data`", where=str(path), fix="a CIFAR batch has `data` [N, 3072]")
    if data.ndim == 2 and data.shape[1] == CIFAR_ROW:  # rows of red, then green, then blue
        data = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    pixels = _as_pixels(data, path)
    return NamedImages(_ids(batch.get("ids"), len(pixels), path), pixels)


def _ids(given: Any, count: int, path: Path) -> Sequence[str | int]:
    """The batch's own ids as they are written, or each image's index where it has none."""
    if given is None:
        return range(count)
    listed = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(listed, list | tuple) or len(listed) != count:
        raise InputError(f"`ids` of this pickle is no list of {count} ids", where=str(path))
    texts = (id.decode(errors="backslashreplace") if isinstance(id, bytes) else id for id in listed)
    return [id if isinstance(id, int) else str(id) for id in texts]


def _as_pixels(array: Array, path: Path) -> Array:
    """An array of images as uint8 [N, H, W, C] with 1 or 3 channels; InputError where it is none."""
    pixels = array[..., None] if array.ndim == 3 else array
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or 0 in pixels.shape:
        shape = " x ".join(map(str, array.shape)) or "a single number"
        fix = "it must be [N, H, W, C] with 1 or 3 channels, or [N, H, W]; channels first: .transpose(0, 2, 3, 1)"
        raise InputError(f"the array's shape is {shape}", where=str(path), fix=fix)
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if pixels.dtype.kind != "f":
        fix = "it must be uint8, or floats from 0 to 1"
        raise InputError(f"the array's type is {pixels.dtype}", where=str(path), fix=fix)
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # so that NaN, too, is none
        fix = 'floats must lie from 0 to 1; save 0 to 255 with .astype("uint8")'
        raise InputError(f"the array's values go from {low:g} to {high:g}", where=str(path), fix=fix)
    scaled: Array = np.rint(pixels * 255).astype(np.uint8)
    return scaled


def _as_network_takes(pixels: Array, shape: Shape, path: Path, *, scale: bool) -> Array:
    channels, height, width = shape
    count, *found = pixels.shape[:3]
    if pixels.shape[3] < channels:
        pixels = pixels.repeat(channels, axis=3)
    elif pixels.shape[3] > channels:  # all images as one high one
        pixels = np.asarray(to_channels(Image.fromarray(pixels.reshape(-1, *pixels.shape[2:])), channels))
        pixels = pixels.reshape(count, *found, channels)
    if tuple(found) == (height, width):
        return pixels
    if not scale:
        what = f"the images are {found[1]} x {found[0]}, not {width} x {height}"
        raise InputError(what, where=str(path), fix=RESIZE)
    images = (Image.fromarray(image[..., 0] if channels == 1 else image) for image in pixels)
    return np.stack([np.asarray(fit(image, height, width)).reshape(height, width, channels) for image in images])


# --- what comes out ----------------------------------------------------------------------------


def as_csv(predictions: Sequence[Prediction], *, names: bool = False) -> str:
    """One line an image under `ID,Labels`; labels are class numbers from 0, or the classes' names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["ID", "Labels"])
    writer.writerows([prediction.id, prediction.name if names else prediction.label] for prediction in predictions)
    return text.getvalue()


def write(text: str, output: Path) -> None:
    """Write the file whole or not at all; InputError where the disk refuses."""
    try:
        atomic_write_text(output, text)
    except StorageError as error:
        raise InputError(str(error), fix="name another file with -o") from error
