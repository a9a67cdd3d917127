"""What Weights & Biases shows of a finished run's predictions: accuracy by class, confusion matrix, sample images.

Made from the record, predictions.npz and a few images where they are at hand, so that it can be made again. Tables
and images are files of the run that its summary names, in the format in which wandb's own `Table` and `Image` put
them there. Not through those classes: they also make an artifact of each table, which names absolute paths (a runs
folder that was moved could not be sent any more), and stage in the system's temporary folder, where a killed process
leaves them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import InputError
from harness.spec.data import Data
from harness.tracking.record import Record
from harness.tracking.store import RunFolder

if TYPE_CHECKING:
    import numpy as np

CONFUSION, SAMPLES = "confusion_matrix", "samples"
CLASS_ACCURACY = "class_accuracy/"
SHOWN_IMAGES = 20
MOST_CLASSES = 100  # with more, a matrix of their pairs is a large file and no picture
IMAGES, TABLES = "media/images", "media/table"


@dataclass(frozen=True)
class Samples:
    """Some images of the set that a run is judged on."""

    indices: np.ndarray = field(repr=False)
    """[n], their places in data set order."""
    pixels: np.ndarray = field(repr=False)
    """uint8 [n, H, W, C] with 1 or 3 channels."""

    def to_json(self) -> dict[str, Any]:
        pixels = base64.b64encode(self.pixels.tobytes()).decode()
        return {"indices": self.indices.tolist(), "shape": list(self.pixels.shape), "pixels": pixels}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Samples:
        import numpy as np

        pixels = np.frombuffer(base64.b64decode(told["pixels"]), np.uint8).reshape(told["shape"])
        return cls(np.array(told["indices"], dtype=np.int64), pixels)


def chosen(labels: np.ndarray) -> np.ndarray:
    """The images to show, by their labels [N] alone: the first of each class, then the second of each, and so on.

    So every run that is judged on the same images shows the same ones.
    """
    import numpy as np

    by_class = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.lexsort((labels, rank))[:SHOWN_IMAGES]


# --- what is told ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """As wandb's: named columns, one list a row."""

    columns: Sequence[str]
    rows: list[list[Any]]


@dataclass(frozen=True)
class Shown:
    """What a run's predictions make: scalars of the summary, and tables (name -> table, images left out)."""

    scalars: dict[str, float]
    tables: dict[str, Table]
    samples: Sequence[int] = ()
    """Which image each row of the table of samples is of."""


NOTHING = Shown({}, {})


def shown(folder: RunFolder, record: Record) -> Shown:
    """`NOTHING` where the run has not finished, or has no readable predictions."""
    if not record.finished:
        return NOTHING
    try:
        predictions = folder.read_predictions()
    except InputError:
        return NOTHING
    labels, predicted = predictions["labels"], predictions["predicted"]
    names = _class_names(record, int(max(labels.max(initial=0), predicted.max(initial=0))) + 1)
    indices = chosen(labels)
    tables = {SAMPLES: _samples(indices, labels, predicted, predictions.get("logits"), names)}
    if len(names) > MOST_CLASSES:
        return Shown({}, tables, indices.tolist())
    counts = _confusion(labels, predicted, len(names))
    accuracies = {
        f"{CLASS_ACCURACY}{name}": int(row[number]) / int(row.sum())
        for number, (name, row) in enumerate(zip(names, counts, strict=True))
        if row.sum()
    }
    cells = [[a, p, int(counts[i, j])] for i, a in enumerate(names) for j, p in enumerate(names)]
    tables |= {CONFUSION: Table(("Actual", "Predicted", "nPredictions"), cells)}  # as wandb's own chart names them
    return Shown(accuracies, tables, indices.tolist())


def _class_names(record: Record, classes: int) -> list[str]:
    """The data set's, or the numbers where a record names a set that is not known here."""
    try:
        return list(Data.model_validate(record.spec["data"]).facts.class_names)
    except (KeyError, ValueError):
        return [str(number) for number in range(classes)]


def _confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """[classes, classes], how many images of each class (row) were told to be of each (column)."""
    import numpy as np

    pairs = labels.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def _samples(
    indices: np.ndarray, labels: np.ndarray, predicted: np.ndarray, logits: np.ndarray | None, names: Sequence[str]
) -> Table:
    import numpy as np

    rows: list[list[Any]] = []
    for index in indices.tolist():
        said, true = int(predicted[index]), int(labels[index])
        share = None if logits is None or not np.isfinite(logits[index]).all() else _softmax(logits[index])[said]
        rows.append([index, names[true], names[said], share, said == true])
    return Table(("index", "label", "predicted", "confidence", "right"), rows)


def _softmax(logits: np.ndarray) -> list[float]:
    import numpy as np

    powers = np.exp(logits.astype(np.float64) - float(logits.max()))
    shares: list[float] = (powers / powers.sum()).tolist()
    return shares


# --- as files of wandb's run -------------------------------------------------------------------


def write(files: Path, told: Shown, samples: Samples | None) -> dict[str, Any]:
    """Write the tables and images below `files` (a run's `files/`); what the summary is to say."""
    summary: dict[str, Any] = dict(told.scalars)
    for name, table in told.tables.items():
        if name == SAMPLES and samples is not None:
            table = _with_images(files, table, told.samples, samples)
        text = json.dumps({"columns": table.columns, "data": table.rows}, separators=(",", ":"))
        size = {"ncols": len(table.columns), "nrows": len(table.rows), "log_mode": "IMMUTABLE"}
        summary[name] = {"_type": "table-file", **_put(files, f"{TABLES}/{name}.table.json", text.encode()), **size}
    return summary


def _with_images(files: Path, table: Table, indices: Sequence[int], samples: Samples) -> Table:
    at = {int(index): number for number, index in enumerate(samples.indices)}
    images = [_image(files, index, samples.pixels[at[index]]) if index in at else None for index in indices]
    return Table(("image", *table.columns), [[image, *row] for image, row in zip(images, table.rows, strict=True)])


def _image(files: Path, index: int, pixels: np.ndarray) -> dict[str, Any]:
    """[H, W, C] as a PNG file."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(data, format="png")
    size = {"format": "png", "width": pixels.shape[1], "height": pixels.shape[0]}
    return {"_type": "image-file", **_put(files, f"{IMAGES}/{SAMPLES}_{index}.png", data.getvalue()), **size}


def _put(files: Path, path: str, data: bytes) -> dict[str, Any]:
    target = files / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "path": path}


# --- read back ---------------------------------------------------------------------------------


def difference(files: Path, told: Shown, summary: Mapping[str, Any]) -> str | None:
    """What `summary` and the files that it names do not say as `told` does; None where they agree.

    The table of samples may be with images or without, since they are not always at hand.
    """
    if {name: summary.get(name) for name in told.scalars} != told.scalars:
        return "its summary is another"
    for name, table in told.tables.items():
        found = _whole(files, summary.get(name))
        if found is None:
            return f"its table {name} is not whole"
        content = json.loads(found)
        images = [row[0] for row in content["data"] if row[0]] if content["columns"][0] == "image" else []
        if any(_whole(files, image) is None for image in images):
            return "an image is not whole"
        first = len(content["columns"]) - len(table.columns)
        if [row[first:] for row in content["data"]] != table.rows:
            return f"its table {name} is another"
    return None


def _whole(files: Path, named: Any) -> bytes | None:
    try:
        data = (files / named["path"]).read_bytes()
    except (OSError, TypeError, KeyError):
        return None
    return data if hashlib.sha256(data).hexdigest() == named["sha256"] else None


def found_samples(wandb_dir: Path) -> Samples | None:
    """The images that a mirror below `wandb_dir` holds, for the one that replaces it; None where there are none."""
    import numpy as np
    from PIL import Image

    indices, pixels = list[int](), list[np.ndarray]()
    for path in sorted(wandb_dir.glob(f"*run-*/files/{IMAGES}/{SAMPLES}_*.png")):
        try:
            with Image.open(path) as image:
                array = np.asarray(image)
            indices.append(int(path.stem.removeprefix(f"{SAMPLES}_")))
        except (OSError, ValueError):  # damaged, or not ours
            continue
        pixels.append(array[..., None] if array.ndim == 2 else array)
    if len({one.shape for one in pixels}) != 1:
        return None
    return Samples(np.array(indices), np.stack(pixels))
